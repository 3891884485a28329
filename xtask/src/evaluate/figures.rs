//! The kinds of picture: bars with whiskers, bars on top of each other, and cumulative distributions.

use super::stats::Summary;
use super::svg::{Anchor, Scale, Sheet, plain};

const WIDTH: f64 = 860.0;
/// Where the pictures' scales begin, right of the names, and end.
const LEFT: f64 = 222.0;
const RIGHT: f64 = WIDTH - 70.0;
const TOP: f64 = 92.0;

/// One thing's bars.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// One for each series, `None` where there is no figure.
    pub(crate) bars: Vec<Option<Summary>>,
}

/// Bars for each thing, one for each series, with whiskers from the lowest to the highest round.
#[derive(Clone, Debug)]
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    /// What the scale counts, with its unit.
    pub(crate) scale: &'a str,
    pub(crate) series: &'a [&'a str],
    pub(crate) rows: Vec<Row>,
    /// Values to which a dotted line is drawn.
    pub(crate) marks: Vec<f64>,
}

/// Bars of parts that add up, one for each thing.
#[derive(Clone, Debug)]
pub(crate) struct Stacks<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) scale: &'a str,
    pub(crate) parts: &'a [&'a str],
    /// A name, the parts, and the sum's spread.
    pub(crate) rows: Vec<(String, Vec<f64>, Option<Summary>)>,
}

/// What share is at most so large.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) dash: usize,
    /// Ascending in both, shares from 0 to 1.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Cumulative distributions over a logarithmic scale.
#[derive(Clone, Debug)]
pub(crate) struct Distribution<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) scale: &'a str,
    /// What the share is of.
    pub(crate) share: &'a str,
    pub(crate) curves: Vec<Curve>,
}

impl Bars<'_> {
    /// Draws it with a logarithmic scale.
    pub(crate) fn draw(&self) -> String {
        const BAR: f64 = 15.0;
        const GAP: f64 = 13.0;
        let thickness = BAR * self.series.len() as f64;
        let bottom = TOP + (thickness + GAP) * self.rows.len() as f64;
        let mut sheet = Sheet::new(WIDTH, bottom + 52.0, self.title, self.subtitle);
        let all = || self.rows.iter().flat_map(|row| row.bars.iter().flatten());
        let positive = all().map(|bar| bar.min).filter(|&min| min > 0.0);
        let min = positive.fold(f64::INFINITY, f64::min);
        let max = all().map(|bar| bar.max).chain(self.marks.iter().copied());
        // A bar needs some length even for the lowest figure.
        let scale = Scale::logarithmic(min / 1.5, max.fold(0.0, f64::max), (LEFT, RIGHT));
        axis(&mut sheet, &scale, (TOP - 8.0, bottom), self.scale);
        legend(&mut sheet, self.series);
        for &mark in &self.marks {
            let x = scale.at(mark);
            sheet.line("goal", (x, TOP - 8.0), (x, bottom));
        }
        for (at, row) in self.rows.iter().enumerate() {
            let top = TOP + (thickness + GAP) * at as f64;
            let middle = top + thickness / 2.0;
            sheet.text((LEFT - 10.0, middle + 4.5), Anchor::End, "", &row.name);
            for (series, bar) in row.bars.iter().enumerate() {
                let top = top + BAR * series as f64;
                let middle = top + BAR / 2.0;
                let Some(bar) = bar else {
                    sheet.text(
                        (LEFT + 5.0, middle + 4.0),
                        Anchor::Start,
                        "soft",
                        "\u{2013}",
                    );
                    continue;
                };
                let (low, end, high) = (scale.at(bar.min), scale.at(bar.median), scale.at(bar.max));
                sheet.rectangle(
                    series_colour(series),
                    (LEFT, top + 1.0),
                    (end - LEFT, BAR - 2.0),
                );
                if bar.count > 1 {
                    whisker(&mut sheet, (low, high), middle);
                }
                let text = plain_median(bar.median);
                sheet.text(
                    (high.max(end) + 6.0, middle + 4.5),
                    Anchor::Start,
                    "",
                    &text,
                );
            }
        }
        sheet.finish()
    }
}

impl Stacks<'_> {
    /// Draws it with a scale from 0.
    pub(crate) fn draw(&self) -> String {
        const BAR: f64 = 17.0;
        const STEP: f64 = 25.0;
        let bottom = TOP + STEP * self.rows.len() as f64;
        let mut sheet = Sheet::new(WIDTH, bottom + 52.0, self.title, self.subtitle);
        let max = self.rows.iter().map(|(_, parts, spread)| {
            let sum: f64 = parts.iter().sum();
            spread.map_or(sum, |spread| spread.max.max(sum))
        });
        let scale = Scale::linear(max.fold(0.0, f64::max), (LEFT, RIGHT));
        axis(&mut sheet, &scale, (TOP - 8.0, bottom), self.scale);
        legend(&mut sheet, self.parts);
        for (at, (name, parts, spread)) in self.rows.iter().enumerate() {
            let top = TOP + STEP * at as f64;
            let middle = top + BAR / 2.0;
            sheet.text((LEFT - 10.0, middle + 4.5), Anchor::End, "", name);
            let mut sum = 0.0;
            for (part, &value) in parts.iter().enumerate() {
                let (start, end) = (scale.at(sum), scale.at(sum + value));
                sheet.rectangle(series_colour(part), (start, top), (end - start, BAR));
                sum += value;
            }
            let mut end = scale.at(sum);
            if let Some(spread) = spread.filter(|spread| spread.count > 1) {
                whisker(
                    &mut sheet,
                    (scale.at(spread.min), scale.at(spread.max)),
                    middle,
                );
                end = end.max(scale.at(spread.max));
            }
            let text = plain_median(spread.map_or(sum, |spread| spread.median));
            sheet.text((end + 6.0, middle + 4.5), Anchor::Start, "", &text);
        }
        sheet.finish()
    }
}

impl Distribution<'_> {
    /// Draws it.
    pub(crate) fn draw(&self) -> String {
        const LEFT: f64 = 70.0;
        const RIGHT: f64 = WIDTH - 240.0;
        const TOP: f64 = 88.0;
        const BOTTOM: f64 = 418.0;
        let mut sheet = Sheet::new(WIDTH, BOTTOM + 52.0, self.title, self.subtitle);
        let xs = || {
            let points = self.curves.iter().flat_map(|curve| &curve.points);
            points.map(|&(x, _)| x).filter(|&x| x > 0.0)
        };
        let (min, max) = (xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max));
        let across = Scale::logarithmic(min, max, (LEFT, RIGHT));
        let upward = Scale::linear(1.0, (BOTTOM, TOP));
        for share in upward.ticks() {
            let y = upward.at(share);
            sheet.line("grid", (LEFT, y), (RIGHT, y));
            let text = format!("{:.0} %", share * 100.0);
            sheet.text((LEFT - 8.0, y + 4.5), Anchor::End, "soft", &text);
        }
        axis(&mut sheet, &across, (TOP, BOTTOM), self.scale);
        sheet.text((16.0, TOP - 14.0), Anchor::Start, "soft", self.share);
        for (at, curve) in self.curves.iter().enumerate() {
            let mut line = Vec::new();
            let mut last = upward.at(0.0);
            for &(x, share) in &curve.points {
                let x = across.at(x);
                if line.is_empty() {
                    line.push((x, last));
                }
                last = upward.at(share);
                line.push((x, last));
            }
            // What never came back leaves the curve where it is.
            line.push((RIGHT, last));
            sheet.curve(curve.colour, curve.dash, &line);
            let y = TOP + 22.0 + 23.0 * at as f64;
            sheet.curve(
                curve.colour,
                curve.dash,
                &[(RIGHT + 16.0, y), (RIGHT + 46.0, y)],
            );
            sheet.text((RIGHT + 54.0, y + 4.5), Anchor::Start, "", &curve.name);
        }
        sheet.finish()
    }
}

/// Two series get the two colours that differ most.
fn series_colour(series: usize) -> usize {
    [0, 3, 4, 5, 2, 1][series % 6]
}

fn axis(sheet: &mut Sheet, scale: &Scale, (top, bottom): (f64, f64), label: &str) {
    let ticks = scale.ticks();
    let mut last = f64::NEG_INFINITY;
    for &tick in &ticks {
        let x = scale.at(tick);
        sheet.line("grid", (x, top), (x, bottom));
        let text = plain(tick);
        // Numbers need room.
        if x - last > 8.0 * text.len() as f64 {
            sheet.text((x, bottom + 18.0), Anchor::Middle, "soft", &text);
            last = x;
        }
    }
    let ends = ticks.first().zip(ticks.last());
    if let Some((&first, &end)) = ends {
        let (start, end) = (scale.at(first), scale.at(end));
        sheet.line("axis", (start, bottom), (end, bottom));
        let middle = f64::midpoint(start, end);
        sheet.text((middle, bottom + 38.0), Anchor::Middle, "soft", label);
    }
}

fn legend(sheet: &mut Sheet, series: &[&str]) {
    if series.len() < 2 {
        return;
    }
    let mut x = LEFT;
    for (at, name) in series.iter().enumerate() {
        sheet.rectangle(series_colour(at), (x, 62.0), (13.0, 13.0));
        sheet.text((x + 19.0, 73.0), Anchor::Start, "", name);
        x += 46.0 + 7.0 * name.chars().count() as f64;
    }
}

fn whisker(sheet: &mut Sheet, (low, high): (f64, f64), y: f64) {
    sheet.line("whisker", (low, y), (high, y));
    for x in [low, high] {
        sheet.line("whisker", (x, y - 3.5), (x, y + 3.5));
    }
}

/// A median beside its bar: three digits are enough.
fn plain_median(value: f64) -> String {
    format!("{value:.*}", super::stats::digits(value))
}

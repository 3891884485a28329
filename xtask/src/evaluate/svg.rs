//! Pictures for a browser: a few marks on a sheet that is light or dark as the reader's screen.

use std::fmt::Write as _;

/// Colours that people with any eyes tell apart (Okabe and Ito), and that show on white and on black.
pub(crate) const COLOURS: usize = 6;

const STYLE: &str = "
  text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--ink);
    paint-order:stroke;stroke:var(--sheet);stroke-width:3px}
  .title{font-size:16px;font-weight:600} .soft{fill:var(--soft)} .end{text-anchor:end} .middle{text-anchor:middle}
  .sheet{fill:var(--sheet)} .grid{stroke:var(--grid)} .axis{stroke:var(--soft)} .whisker{stroke:var(--ink);stroke-width:1.3}
  .goal{stroke:var(--soft);stroke-dasharray:3 3} .curve{fill:none;stroke-width:2.2;stroke-linejoin:round}
  .f0{fill:var(--c0)} .f1{fill:var(--c1)} .f2{fill:var(--c2)} .f3{fill:var(--c3)} .f4{fill:var(--c4)} .f5{fill:var(--c5)}
  .s0{stroke:var(--c0)} .s1{stroke:var(--c1)} .s2{stroke:var(--c2)} .s3{stroke:var(--c3)} .s4{stroke:var(--c4)} .s5{stroke:var(--c5)}
  svg{--sheet:#fff;--ink:#1f2328;--soft:#59636e;--grid:#dfe3e8;
    --c0:#0072b2;--c1:#56b4e9;--c2:#d55e00;--c3:#e69f00;--c4:#009e73;--c5:#cc79a7}
  @media (prefers-color-scheme:dark){svg{--sheet:#0d1117;--ink:#e6edf3;--soft:#9198a1;--grid:#2a313c;
    --c0:#3b9edb;--c1:#9bd6fa;--c2:#f0813a;--c3:#f2c14e;--c4:#2fc79a;--c5:#e3a3c6}}
";

/// A sheet to draw on; its origin is the upper left corner, its unit a pixel.
#[derive(Debug)]
pub(crate) struct Sheet {
    width: f64,
    height: f64,
    marks: String,
}

/// Where a text stands to its point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Sheet {
    /// An empty one, with a title in its upper left corner.
    pub(crate) fn new(width: f64, height: f64, title: &str, subtitle: &str) -> Self {
        let mut marks = String::new();
        let (title, subtitle) = (escaped(title), escaped(subtitle));
        let _ = write!(
            marks,
            "<title>{title}</title><desc>{subtitle}</desc>\n<rect class=\"sheet\" width=\"{width}\" height=\"{height}\" \
             rx=\"6\"/>\n<text class=\"title\" x=\"16\" y=\"27\">{title}</text>\n<text class=\"soft\" x=\"16\" \
             y=\"46\">{subtitle}</text>\n"
        );
        Self {
            width,
            height,
            marks,
        }
    }

    /// A text. `class` is empty or `soft`.
    pub(crate) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " middle",
            Anchor::End => " end",
        };
        let text = escaped(text);
        let _ = writeln!(
            self.marks,
            "<text class=\"{class}{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    /// A straight line of one of the classes `grid`, `axis`, `whisker`, `goal`.
    pub(crate) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.marks,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A filled rectangle.
    pub(crate) fn rectangle(
        &mut self,
        colour: usize,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
    ) {
        let colour = colour % COLOURS;
        let (width, height) = (width.max(0.0), height.max(0.0));
        let _ = writeln!(
            self.marks,
            "<rect class=\"f{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
    }

    /// A curve through points, dashed in one of a few ways (0 is not).
    pub(crate) fn curve(&mut self, colour: usize, dash: usize, points: &[(f64, f64)]) {
        let dash = match dash {
            0 => "",
            1 => " stroke-dasharray=\"7 3\"",
            _ => " stroke-dasharray=\"2 3\"",
        };
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
        }
        let colour = colour % COLOURS;
        let _ = writeln!(
            self.marks,
            "<path class=\"curve s{colour}\"{dash} d=\"{path}\"/>"
        );
    }

    /// The picture.
    pub(crate) fn finish(self) -> String {
        let Self {
            width,
            height,
            marks,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\">\n<style>{STYLE}</style>\n{marks}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A stretch of numbers on a stretch of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    logarithmic: bool,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// From 0 to a round number above `max`.
    pub(crate) fn linear(max: f64, (start, end): (f64, f64)) -> Self {
        let step = step(max);
        Self {
            logarithmic: false,
            from: 0.0,
            to: (max / step).ceil().max(1.0) * step,
            start,
            end,
        }
    }

    /// Logarithmic, from a one, two or five of a power of ten below `min` to one above `max`.
    pub(crate) fn logarithmic(min: f64, max: f64, (start, end): (f64, f64)) -> Self {
        let (min, max) = if min > 0.0 && max.is_finite() {
            (min, max.max(min))
        } else {
            (1.0, 10.0)
        };
        let (mut from, mut to) = (marks_around(min).0, marks_around(max).1);
        if to / from < 10.0 {
            (from, to) = (from.min(to / 10.0), to.max(from * 10.0));
        }
        Self {
            logarithmic: true,
            from,
            to,
            start,
            end,
        }
    }

    /// Where a number lies; what is beyond the ends lies on them.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        let share = if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + share * (self.end - self.start)
    }

    /// Numbers to write beside it.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let step = step(self.to);
            let count = (self.to / step).round() as usize;
            return (0..=count).map(|n| n as f64 * step).collect();
        }
        let decades = (self.to / self.from).log10();
        let mantissas: &[f64] = if decades > 3.5 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let (first, last) = (
            self.from.log10().floor() as i32,
            self.to.log10().ceil() as i32,
        );
        (first..=last)
            .flat_map(|decade| mantissas.iter().map(move |m| m * 10_f64.powi(decade)))
            .filter(|tick| (self.from * 0.999..=self.to * 1.001).contains(tick))
            .collect()
    }
}

/// The numbers 1, 2, 5 times a power of ten next below and above.
fn marks_around(value: f64) -> (f64, f64) {
    let decade = 10_f64.powf(value.log10().floor());
    let marks = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade);
    let below = marks.iter().rev().find(|&&m| m <= value * 1.000_001);
    let above = marks.iter().find(|&&m| m >= value * 0.999_999);
    (
        below.copied().unwrap_or(decade),
        above.copied().unwrap_or(decade * 10.0),
    )
}

/// A round step that gives four to eight of them.
fn step(max: f64) -> f64 {
    if max.is_nan() || max <= 0.0 || max.is_infinite() {
        return 1.0;
    }
    let raw = max / 5.0;
    let decade = 10_f64.powf(raw.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * decade);
    let found = steps.into_iter().find(|&s| s >= raw * 0.999);
    found.unwrap_or(decade * 10.0)
}

/// A number as people write it beside an axis.
pub(crate) fn plain(value: f64) -> String {
    let text = if value >= 10_000.0 {
        let mut digits = format!("{value:.0}");
        let mut at = digits.len();
        while at > 3 {
            at -= 3;
            digits.insert(at, ' ');
        }
        return digits;
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ends() {
        let scale = Scale::logarithmic(130.0, 1800.0, (0.0, 100.0));
        assert_eq!((scale.from, scale.to), (100.0, 2000.0));
        assert_eq!(scale.at(100.0), 0.0);
        assert_eq!(scale.at(1e9), 100.0);
        assert_eq!(scale.ticks(), [100.0, 200.0, 500.0, 1000.0, 2000.0]);
        let scale = Scale::linear(37.0, (100.0, 0.0));
        assert_eq!(scale.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!((scale.at(0.0), scale.at(40.0)), (100.0, 0.0));
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        for (min, max) in [
            (0.0, 0.0),
            (5.0, 5.0),
            (f64::NAN, 1.0),
            (1e-9, 1e9),
            (1.0, f64::INFINITY),
        ] {
            let scale = Scale::logarithmic(min, max, (0.0, 1.0));
            let ticks = scale.ticks();
            assert!((2..40).contains(&ticks.len()), "{min} to {max}: {ticks:?}");
            assert!((0.0..=1.0).contains(&scale.at(3.0)));
        }
        for max in [0.0, -1.0, f64::NAN, 1e-9, 1e12] {
            let ticks = Scale::linear(max, (0.0, 1.0)).ticks();
            assert!((2..20).contains(&ticks.len()), "{max}: {ticks:?}");
        }
    }

    #[test]
    fn numbers_are_plain() {
        let written = [0.0012, 0.5, 1.0, 2.25, 10.0, 812.4, 40_000.0, 1_234_567.0].map(plain);
        assert_eq!(
            written,
            [
                "0.0012",
                "0.5",
                "1",
                "2.25",
                "10",
                "812",
                "40 000",
                "1 234 567"
            ]
        );
    }

    #[test]
    fn text_is_escaped() {
        let mut sheet = Sheet::new(10.0, 10.0, "a < b & c", "");
        sheet.text((1.0, 2.0), Anchor::End, "soft", "x > y");
        let svg = sheet.finish();
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("x &gt; y"));
    }
}

//! Named steps with progress on the way and a table at the end.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a step that takes long says that it is still at it.
const TICK: Duration = Duration::from_secs(5);

/// Runs steps until one fails.
#[derive(Debug)]
pub(crate) struct Report {
    started: Instant,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    step: String,
    passed: bool,
    said: String,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            rows: Vec::new(),
        }
    }

    /// Runs a step and tells about it. It returns what goes into the table, and whatever later steps need.
    pub(crate) fn step<T>(
        &mut self,
        step: &str,
        work: impl FnOnce() -> Result<(String, T)>,
    ) -> Result<T> {
        self.tell(&format!("{step} ..."));
        let done = ticking(self.started, step, work);
        let (passed, said) = match &done {
            Ok((said, _)) => (true, said.clone()),
            Err(error) => (false, first_line(&format!("{error:#}")).to_owned()),
        };
        self.tell(&format!(
            "{step}: {}{}",
            if passed { "" } else { "FAILED: " },
            first_line(&said)
        ));
        self.rows.push(Row {
            step: step.to_owned(),
            passed,
            said,
        });
        done.map(|(_, value)| value)
            .map_err(|error| anyhow!("failed at step \"{step}\": {error:#}"))
    }

    /// One line of progress.
    pub(crate) fn tell(&self, text: &str) {
        tell(self.started, text);
    }

    /// The table of all steps so far.
    pub(crate) fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| row.step.len())
            .max()
            .unwrap_or_default();
        let row = |Row { step, passed, said }: &Row| {
            let verdict = if *passed { "PASS" } else { "FAIL" };
            let mut lines = said.lines();
            let mut text = format!(
                "  {step:width$}  {verdict}  {}\n",
                lines.next().unwrap_or_default()
            );
            for line in lines {
                text += &format!("  {:width$}        {line}\n", "");
            }
            text
        };
        self.rows.iter().map(row).collect()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn tell(started: Instant, text: &str) {
    // Nobody may be listening any more; that is no reason to panic.
    let _ = writeln!(
        std::io::stderr(),
        "[{:6.1} s] {text}",
        started.elapsed().as_secs_f64()
    );
}

/// Runs `work`, with a line every few seconds.
fn ticking<T>(started: Instant, step: &str, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            while wait.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                tell(started, &format!("{step}: still at it"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_failed_step_is_named() {
        let mut report = Report::new();
        assert_eq!(report.step("one", || Ok(("fine".into(), 5))).unwrap(), 5);
        let error = report
            .step("two", || -> Result<(String, ())> { bail!("no reply") })
            .unwrap_err();
        assert_eq!(error.to_string(), "failed at step \"two\": no reply");
        assert_eq!(report.table(), "  one  PASS  fine\n  two  FAIL  no reply\n");
    }
}

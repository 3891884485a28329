//! What to measure, and for how long.

use std::time::Duration;

use clap::Args;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Timed part of a slice, at the least.
    pub slice: Duration,
    /// Rounds, of one slice each.
    pub rounds: usize,
}

/// Options of the native benchmark.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Rounds of one slice of each contender; at least 25 tell something.
    #[arg(long, value_name = "N", default_value_t = 41, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,

    /// Milliseconds of a slice, without what is made ready for it.
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub slice: u32,

    /// Sizes of frames in bytes, without FCS.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [60, 1514], value_parser = clap::value_parser!(u32).range(60..=1514))]
    pub sizes: Vec<u32>,

    /// Descriptors of each ring.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=896))]
    pub ring: u32,

    /// A few seconds instead of a minute: whether it works, not how fast.
    #[arg(long)]
    pub quick: bool,

    /// Only figures whose name contains one of these, such as `tap.tx`.
    pub only: Vec<String>,
}

impl Options {
    /// How long to measure each figure.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let (slice, rounds) = if self.quick {
            (1, 3)
        } else {
            (self.slice, self.rounds)
        };
        Plan {
            slice: Duration::from_millis(slice.into()),
            rounds: rounds as usize,
        }
    }

    /// Descriptors of a ring, which come in eights.
    #[must_use]
    pub fn ring(&self) -> u32 {
        self.ring / 8 * 8
    }

    /// Whether the figure of this name is to be measured.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// These options as they are written on a command line.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let sizes: Vec<_> = self.sizes.iter().map(u32::to_string).collect();
        let mut arguments = vec![
            format!("--rounds={}", self.rounds),
            format!("--slice={}", self.slice),
            format!("--sizes={}", sizes.join(",")),
            format!("--ring={}", self.ring),
        ];
        arguments.extend(self.quick.then(|| "--quick".to_owned()));
        arguments.extend(self.only.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_written_on_a_command_line_is_read_from_it() {
        let words = [
            "bench",
            "--rounds=7",
            "--slice=2",
            "--sizes=60,128",
            "--ring=64",
            "--quick",
            "tap",
        ];
        let options = Cli::parse_from(words).options;
        assert_eq!(options.arguments(), words[1..]);
        assert!(options.wants("engine.tap.tx.60") && !options.wants("engine.null.tx.60"));
    }
}

//! How many instructions the model spends on a frame, counted by callgrind.
//!
//! What is counted is `crates/bench`'s program `instructions`: the queues of one NIC, called as the daemon calls them,
//! with a network that takes all and guest memory in this process. The same commit, compiler and processor give the same
//! figures, whatever else the machine does.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nic_emu_lab::{Counting, Lab};

/// Rings full of frames in the two runs whose difference counts.
const PIECES: [u64; 2] = [10, 30];

/// Counts what a build of the program does ([`cli::instructions`](crate::cli::instructions)).
pub struct Counter<'a> {
    lab: &'a Lab,
    callgrind: Counting,
    program: &'a Path,
}

impl<'a> Counter<'a> {
    /// Of this program; fetches callgrind if it is not there.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub fn new(lab: &'a Lab, program: &'a Path) -> Result<Self> {
        Ok(Self {
            lab,
            callgrind: lab.counting()?,
            program,
        })
    }

    /// Instructions for one frame of `case` (`tx.60`): the difference of two runs of different length.
    ///
    /// # Errors
    /// The program does not run, or has other functions than those that are counted.
    pub fn per_frame(&self, case: &str) -> Result<f64> {
        let [few, many] = PIECES.map(|pieces| self.count(case, pieces));
        let ((few, few_frames), (many, many_frames)) = (few?, many?);
        Ok((many - few) as f64 / (many_frames - few_frames) as f64)
    }

    /// Instructions of so many pieces, and their frames.
    fn count(&self, case: &str, pieces: u64) -> Result<(u64, u64)> {
        let file = self.lab.dir();
        let file = file.join(format!("callgrind.{}", std::process::id()));
        let out = format!("--callgrind-out-file={}", file.display());
        let options = [
            "--toggle-collect=*counted_transmit*",
            "--toggle-collect=*counted_receive*",
            &out,
        ];
        let mut command = self.callgrind.callgrind(&options, self.program)?;
        let output = command
            .args([case, &pieces.to_string()])
            .output()
            .context("cannot start callgrind")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "callgrind ended with {}: {said}",
            output.status
        );
        let profile = fs::read_to_string(&file).context("callgrind left no profile")?;
        fs::remove_file(&file)?;
        let frames = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .context("the program printed no number")?;
        let instructions = total(&profile).context("callgrind's profile has no total")?;
        ensure!(
            instructions > 0,
            "callgrind has not found what it is to count"
        );
        Ok((instructions, frames))
    }
}

/// The `totals:` line of a profile, or `summary:` if there is none.
fn total(profile: &str) -> Option<u64> {
    let line = |key: &str| {
        profile
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(key))
    };
    line("totals:")
        .or_else(|| line("summary:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_the_last_line() {
        let profile = "events: Ir\nsummary: 1\n\nfn=(1) main\n1 5\n\ntotals: 12345\n";
        assert_eq!(total(profile), Some(12345));
        assert_eq!(total("events: Ir\nsummary: 7\n"), Some(7));
        assert_eq!(total(""), None);
    }
}

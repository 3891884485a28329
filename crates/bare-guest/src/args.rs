//! The command line: words of the form `key=value`.

use core::fmt;

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Job {
    /// Bring the device up and say what it is.
    #[default]
    Probe,
    /// Time register accesses.
    Mmio,
    /// Cause interrupts one by one and wait for each.
    Irq,
    /// Send frames as fast as the device takes them.
    Tx,
    /// Receive frames.
    Rx,
    /// Send each frame back to where it came from.
    Echo,
    /// Have the messages of another device come, the example `msix`.
    Msix,
}

/// The command line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args {
    /// `test=`: what to do.
    pub job: Job,
    /// `count=`: accesses, interrupts or frames.
    pub count: u32,
    /// `size=`: bytes of a frame without FCS.
    pub size: usize,
    /// `ring=`: descriptors of each ring.
    pub ring: u32,
    /// `batch=`: descriptors between two writes of a tail register.
    pub batch: u32,
    /// `idle=`: milliseconds without anything happening after which a job gives up.
    pub idle: u32,
    /// `ask=1`: a byte on the serial port begins the job, and another one the end of the machine after it, so that whoever
    /// counts can look before and after.
    pub ask: bool,
    /// `linger=`: milliseconds from the end of a job to the end of the machine, for QEMU to pass its frames on.
    pub linger: u32,
    /// `halt=1`: the processor sleeps between interrupts, so that a lost one stops it for good, instead of looking out
    /// for them.
    pub halt: bool,
    /// `keep=1`: each interrupt is acknowledged only when it has come a second time.
    pub keep: bool,
    /// `fcs=0`: frames leave without an FCS though the driver asks for none.
    pub fcs: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            job: Job::Probe,
            count: 1000,
            size: 1514,
            ring: 256,
            batch: 32,
            idle: 5000,
            ask: false,
            linger: 0,
            halt: false,
            keep: false,
            fcs: true,
        }
    }
}

/// Why a job was not done or did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A word of the command line that means nothing or is out of range.
    Word(&'static str),
    /// No device for the job on bus 0.
    NoDevice,
    /// The device does not come up.
    Device(guest_driver::Error),
    /// Nothing has happened for as long as the command line allows.
    Idle,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Word(key) => write!(f, "the command line is wrong at {key}="),
            Error::NoDevice => write!(f, "there is no device for this on bus 0"),
            Error::Device(error) => error.fmt(f),
            Error::Idle => write!(f, "nothing happens any more"),
        }
    }
}

impl Args {
    /// Reads a command line. Words with other keys are left to whoever put them there.
    ///
    /// # Errors
    ///
    /// [`Error::Word`] with the key whose value cannot be.
    pub fn parse(line: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let within = |key, least: u32, most: u32| match value.parse() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(Error::Word(key)),
            };
            match key {
                "test" => args.job = job(value)?,
                "count" => args.count = within("count", 1, u32::MAX)?,
                "size" => args.size = within("size", 60, 1514)? as usize,
                "ring" => args.ring = within("ring", 8, 4096)? & !7,
                "batch" => args.batch = within("batch", 1, 4096)?,
                "idle" => args.idle = within("idle", 1, 600_000)?,
                "ask" => args.ask = within("ask", 0, 1)? == 1,
                "linger" => args.linger = within("linger", 0, 600_000)?,
                "halt" => args.halt = within("halt", 0, 1)? == 1,
                "keep" => args.keep = within("keep", 0, 1)? == 1,
                "fcs" => args.fcs = within("fcs", 0, 1)? == 1,
                _ => {}
            }
        }
        Ok(args)
    }
}

fn job(value: &str) -> Result<Job, Error> {
    Ok(match value {
        "probe" => Job::Probe,
        "mmio" => Job::Mmio,
        "irq" => Job::Irq,
        "tx" => Job::Tx,
        "rx" => Job::Rx,
        "echo" => Job::Echo,
        "msix" => Job::Msix,
        _ => return Err(Error::Word("test")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_any_order_set_what_they_name() {
        let args = Args::parse("console=ttyS0 size=60 quiet test=tx  count=7 batch=1").unwrap();
        assert_eq!(
            (args.job, args.size, args.count, args.batch),
            (Job::Tx, 60, 7, 1)
        );
        assert_eq!(args.ring, Args::default().ring);
        assert_eq!(Args::parse(""), Ok(Args::default()));
    }

    #[test]
    fn a_value_that_cannot_be_is_named() {
        for (line, key) in [
            ("test=fly", "test"),
            ("count=0", "count"),
            ("size=1515", "size"),
            ("ring=-1", "ring"),
            ("keep=yes", "keep"),
        ] {
            assert_eq!(Args::parse(line), Err(Error::Word(key)), "{line}");
        }
    }
}

//! What `perf script` prints: for each sample a line about the thread, then its chain of callers, the innermost first.

use anyhow::{Context, Result};

/// One look at a thread that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub name: String,
    /// What it stands for: nanoseconds of processor time.
    pub ns: u64,
    /// Where it was, the innermost function first: in the kernel with all callers there, and one function of the process,
    /// whose own callers are not known.
    pub frames: Vec<Frame>,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its name, `[unknown]` if it has none.
    pub symbol: String,
    /// The file that it is of; in brackets if that is none, such as `[kernel.kallsyms]`.
    pub object: String,
}

impl Frame {
    /// Whether it is of the kernel or one of its modules.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        let name = self.object.strip_prefix('[');
        name.is_some_and(|name| {
            ![
                "unknown]",
                "vdso]",
                "vsyscall]",
                "JIT]",
                "heap]",
                "stack]",
                "anon",
            ]
            .iter()
            .any(|other| name.starts_with(other))
        })
    }

    /// The file's name, without the folder.
    #[must_use]
    pub fn file(&self) -> &str {
        match self.object.starts_with('/') {
            true => self.object.rsplit('/').next().unwrap_or_default(),
            false => &self.object,
        }
    }
}

impl Sample {
    /// The function of the process that it was in, or that had called the kernel.
    #[must_use]
    pub fn user(&self) -> Option<&Frame> {
        self.frames.iter().find(|frame| !frame.is_kernel())
    }

    /// Its functions in the kernel.
    pub fn kernel(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().take_while(|frame| frame.is_kernel())
    }
}

/// The samples of a text with the fields `comm,pid,tid,period,ip,sym,dso`.
///
/// # Errors
/// It is something else.
pub fn parse(text: &str) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let odd = || format!("perf printed {line:?}");
        if !line.starts_with(['\t', ' ']) || thread(line).is_some() {
            samples.push(thread(line).with_context(odd)?);
            continue;
        }
        let sample = samples.last_mut().with_context(odd)?;
        let frame = frame(line).with_context(odd)?;
        // Callers in the process are guesses without frame pointers.
        if sample.frames.last().is_none_or(Frame::is_kernel) {
            sample.frames.push(frame);
        }
    }
    Ok(samples)
}

/// `NAME PID/TID PERIOD`, where a name may have blanks in it.
fn thread(line: &str) -> Option<Sample> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let ns = words.pop()?.parse().ok()?;
    let (pid, tid) = words.pop()?.split_once('/')?;
    Some(Sample {
        pid: pid.parse().ok()?,
        tid: tid.parse().ok()?,
        name: words.join(" "),
        ns,
        frames: Vec::new(),
    })
}

/// `ADDRESS SYMBOL (OBJECT)`, where both may have blanks and parentheses in them.
fn frame(line: &str) -> Option<Frame> {
    let (address, rest) = line.trim().split_once(' ')?;
    u64::from_str_radix(address, 16).ok()?;
    let rest = rest.strip_suffix(')')?;
    let at = rest.rfind(" (/").or_else(|| rest.rfind(" (["))?;
    Some(Frame {
        symbol: rest[..at].to_owned(),
        object: rest[at + 2..].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
nic-emu-cli  338/341     500000 
	ffffffff81d33d85 tun_do_read ([tun])
	ffffffff816b9706 ksys_read ([kernel.kallsyms])
	           f82ad read (/usr/lib/x86_64-linux-gnu/libc.so.6)
	            1234 nobody_knows (/usr/lib/x86_64-linux-gnu/libc.so.6)

CPU 0/TCG  400/402     250000 
	    7f12559e09f2 [unknown] (/tmp/perf-400.map)

 odd (name)  1/1     7 
	           45bd2 <a::B as c::D<(u8, u8)>>::e (/some (old) folder/nic-emu-cli)
	    7f12559e09f2 [unknown] ([unknown])
";

    #[test]
    fn samples_have_their_thread_and_one_function_of_the_process() {
        let samples = parse(TEXT).unwrap();
        let [ours, guest, odd] = samples.as_slice() else {
            panic!("{samples:?}");
        };
        assert_eq!((ours.pid, ours.tid, ours.ns), (338, 341, 500_000));
        assert_eq!(ours.name, "nic-emu-cli");
        let kernel: Vec<_> = ours.kernel().map(|frame| frame.symbol.as_str()).collect();
        assert_eq!(kernel, ["tun_do_read", "ksys_read"]);
        let user = ours.user().unwrap();
        assert_eq!((user.symbol.as_str(), user.file()), ("read", "libc.so.6"));
        assert_eq!(ours.frames.len(), 3);

        assert_eq!((guest.name.as_str(), guest.tid), ("CPU 0/TCG", 402));
        assert!(guest.kernel().next().is_none());
        assert_eq!(guest.user().unwrap().file(), "perf-400.map");

        assert_eq!(odd.name, "odd (name)");
        let user = odd.user().unwrap();
        assert_eq!(user.symbol, "<a::B as c::D<(u8, u8)>>::e");
        assert_eq!(user.file(), "nic-emu-cli");
    }

    #[test]
    fn what_is_no_sample_is_told() {
        for text in [
            "what?",
            "\tffff a (/b)",
            "a 1/2 3\n\tnothing",
            "a 1/2 3\n\txyz a (/b)",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("\n\n").unwrap().is_empty());
    }
}

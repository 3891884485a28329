//! Whether the files that a client sends are the guest's memory.
//!
//! A hypervisor that was told to keep its copy of a memory file private (QEMU: `share=off`, the default) sends the
//! file all the same, and nothing in the protocol says so: the device would read stale bytes, and the guest would
//! never see what the device writes. So when the guest lets the device use the bus, a few pages are read by message
//! too, from clients that answer DMA_READ. If what the client says differs from a mapping that stands still, three
//! times in a row, the file is a private copy, and its memory is reached by messages from then on.
//!
//! Nobody waits for any of this, and it costs nothing once it is settled.

use std::collections::BTreeSet;

use tracing::{debug, warn};

use crate::dma::{FileId, SHARE_IT, Sharing};
use crate::session::State;

/// Bytes that are compared at once.
pub(crate) const PAGE: usize = 4096;

/// Rounds of checks that one client gets.
const MOST_ROUNDS: usize = 16;

/// Times that the client and the mapping have to differ, each with the same bytes as before.
const PROOF: usize = 3;

/// A page that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) file: FileId,
    pub(crate) addr: u64,
}

/// The check of the connected client.
#[derive(Debug, Default)]
pub(crate) struct ShareCheck {
    /// Pages yet to look at in this round.
    samples: Vec<Sample>,
    asked: Option<Asked>,
    /// Files of which a page agreed that was not all zeros.
    agreed: BTreeSet<FileId>,
    rounds: usize,
}

/// A page that the client was asked for.
#[derive(Debug)]
struct Asked {
    id: u16,
    sample: Sample,
    /// Of the memory map, when it was asked.
    generation: u64,
    /// The mapping's bytes then.
    before: Vec<u8>,
    /// What the client said the last time, and how often it said so.
    said: Option<(Vec<u8>, usize)>,
}

/// What a comparison shows.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The guest writes there, or it is all zeros.
    Nothing,
    Agrees,
    Differs,
}

fn compare(before: &[u8], said: &[u8], after: &[u8]) -> Finding {
    match () {
        () if before != after => Finding::Nothing,
        () if said != before => Finding::Differs,
        () if said.iter().all(|byte| *byte == 0) => Finding::Nothing,
        () => Finding::Agrees,
    }
}

impl State {
    /// The guest has let the device use the bus: begins a round, if anything is to be found out.
    pub(crate) fn begin_share_check(&mut self) {
        // Clients that know neither of these do not answer DMA_READ either.
        let answers = self.client.write_multiple || self.twin().is_some();
        if !answers || self.share.rounds >= MOST_ROUNDS || self.client.max_data < PAGE {
            return;
        }
        self.dma.publish();
        self.share.samples = self.dma.samples();
        if self.share.samples.is_empty() {
            return;
        }
        self.share.rounds += 1;
        self.share.agreed.clear();
        if self.share.asked.is_none() {
            self.ask_next_sample();
        }
    }

    /// Forgets what is under way; an answer that comes late is nobody's.
    pub(crate) fn end_share_check(&mut self) {
        self.share.samples.clear();
        self.share.asked = None;
    }

    /// The client answered a question of the check, with data unless it refused.
    pub(crate) fn share_sample(&mut self, id: u16, data: Option<&[u8]>) {
        let Some(asked) = self.share.asked.take_if(|asked| asked.id == id) else {
            return;
        };
        let Some(data) = data else {
            debug!("the client does not let us compare");
            return self.end_share_check();
        };
        let sample = asked.sample;
        let after = match asked.generation == self.dma.generation() {
            true => self.mapped(sample.addr),
            false => None,
        };
        match after.map(|after| compare(&asked.before, data, &after)) {
            Some(Finding::Agrees) => {
                self.share.agreed.insert(sample.file);
            }
            Some(Finding::Differs) => {
                let times = match &asked.said {
                    Some((said, times)) if said == data => times + 1,
                    _ => 1,
                };
                if times < PROOF {
                    return self.ask_sample(sample, Some((data.to_vec(), times)));
                }
                self.found_private(&sample.file);
            }
            Some(Finding::Nothing) | None => {}
        }
        self.ask_next_sample();
    }

    fn found_private(&mut self, file: &FileId) {
        warn!("the guest's memory comes with a file that is not shared with us, {SHARE_IT}");
        self.dma.set_sharing(file, Sharing::Private);
        self.share.samples.retain(|sample| sample.file != *file);
        self.share.agreed.remove(file);
        self.dma.publish();
        self.begin_epoch();
    }

    fn ask_next_sample(&mut self) {
        if let Some(sample) = self.share.samples.pop() {
            return self.ask_sample(sample, None);
        }
        for file in std::mem::take(&mut self.share.agreed) {
            self.dma.set_sharing(&file, Sharing::Shared);
        }
    }

    fn ask_sample(&mut self, sample: Sample, said: Option<(Vec<u8>, usize)>) {
        let asked = self.mapped(sample.addr).and_then(|before| {
            Some(Asked {
                id: self.remote.probe(sample.addr, PAGE)?,
                sample,
                generation: self.dma.generation(),
                before,
                said,
            })
        });
        match asked {
            Some(asked) => {
                self.share.asked = Some(asked);
                self.remote.take_pending(&mut self.commands);
            }
            None => self.end_share_check(),
        }
    }

    /// The page at `addr`, as we have it mapped.
    fn mapped(&self, addr: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        let mem = self.dma.published().load().nonblocking();
        mem.read(addr, &mut page).ok().map(|()| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_stands_still_is_evidence() {
        let (zeros, ones, twos) = ([0; 8], [1; 8], [2; 8]);
        for (before, said, after, finding) in [
            (zeros, zeros, zeros, Finding::Nothing),
            (ones, ones, ones, Finding::Agrees),
            (ones, twos, ones, Finding::Differs),
            (zeros, ones, zeros, Finding::Differs),
            (ones, zeros, ones, Finding::Differs),
            (zeros, ones, ones, Finding::Nothing),
            (ones, ones, twos, Finding::Nothing),
        ] {
            assert_eq!(compare(&before, &said, &after), finding);
        }
    }
}

//! What clients ask for, counted.

use crate::wire::{Header, command};

/// Requests that came, over all clients; answers to requests of the server's own are [`DmaMessages`].
/// Specification, "Commands".
///
/// [`DmaMessages`]: crate::DmaMessages
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Messages {
    /// REGION_READ.
    pub reads: u64,
    /// REGION_WRITE and REGION_WRITE_MULTI whose sender waits for the reply.
    pub writes: u64,
    /// REGION_WRITE and REGION_WRITE_MULTI whose sender goes on at once.
    pub posted_writes: u64,
    /// DEVICE_SET_IRQS; with INTx, mostly that the line may rise again.
    pub set_irqs: u64,
    /// Everything else.
    pub others: u64,
}

impl Messages {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.reads + self.writes + self.posted_writes + self.set_irqs + self.others
    }

    pub(crate) fn count(&mut self, header: &Header) {
        let kind = match header.command {
            command::REGION_READ => &mut self.reads,
            command::REGION_WRITE | command::REGION_WRITE_MULTI if header.wants_reply() => {
                &mut self.writes
            }
            command::REGION_WRITE | command::REGION_WRITE_MULTI => &mut self.posted_writes,
            command::DEVICE_SET_IRQS => &mut self.set_irqs,
            _ => &mut self.others,
        };
        *kind += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header_flags;

    #[test]
    fn each_request_counts_as_one_kind() {
        let mut messages = Messages::default();
        let mut count = |command, flags| {
            messages.count(&Header {
                id: 0,
                command,
                size: 16,
                flags,
                error: 0,
            });
        };
        count(command::REGION_READ, 0);
        count(command::REGION_WRITE, 0);
        count(command::REGION_WRITE, header_flags::NO_REPLY);
        count(command::REGION_WRITE_MULTI, header_flags::NO_REPLY);
        count(command::DEVICE_SET_IRQS, 0);
        count(command::DMA_MAP, 0);
        count(999, 0);
        let expected = Messages {
            reads: 1,
            writes: 1,
            posted_writes: 2,
            set_irqs: 1,
            others: 2,
        };
        assert_eq!(messages, expected);
        assert_eq!(messages.total(), 7);
    }
}

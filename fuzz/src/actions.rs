//! What happens beside messages: interrupts and their end, files that shrink.

use rustix::fs::{OFlags, fcntl_setfl, ftruncate};
use rustix::io::{read, write};
use vfio_user::wire::irq_index;

use crate::fds::FRESH;
use crate::peer::Peer;

impl Peer {
    /// How often each eventfd was signalled.
    pub(crate) fn take_signals(&self) -> Vec<u64> {
        let take = |fd| {
            let mut count = [0; 8];
            fcntl_setfl(fd, OFlags::NONBLOCK).expect("our own eventfd");
            read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
        };
        self.made.events.iter().map(take).collect()
    }

    /// The client shrinks files that it has handed over, and the device looks at all of them.
    pub(crate) fn shrink(&mut self, to: u64) {
        self.settle();
        if !self.is_between_messages() {
            // Nobody can tell how long a file is whose message is not complete.
            return;
        }
        for file in &self.made.fresh {
            ftruncate(file, to).expect("our own file");
        }
        self.shrunk = true;
        let mem = self.session.mem().load().clone();
        let mut bytes = [0; FRESH as usize];
        for entry in self.model.memory.entries.iter().filter(|entry| {
            entry
                .file
                .is_some_and(|(file, _)| file >= self.pool.files.len())
        }) {
            mem.read(entry.iova, &mut bytes[..entry.size as usize])
                .expect("an entry");
        }
    }

    /// The client signals the end of an interrupt.
    pub(crate) fn resample(&mut self) {
        self.settle();
        if let Some(event) = self.model.irqs.resample() {
            fcntl_setfl(&self.made.events[event], OFlags::NONBLOCK).expect("our own eventfd");
            write(&self.made.events[event], &1_u64.to_ne_bytes()).expect("room in an eventfd");
            self.model.irqs.signals[event] = 0;
            self.model.irqs.resampled();
        }
        assert_eq!(
            self.session.resample_fd().is_some(),
            self.model.irqs.resample().is_some()
        );
        self.session.on_resample();
    }

    /// The device raises an interrupt.
    pub(crate) fn raise(&mut self, which: u8) {
        self.settle();
        match which & 7 {
            6 => {
                self.device.irqs.raise_error();
                self.model.irqs.notify(irq_index::ERR);
            }
            7 => {
                self.device.irqs.request_release();
                self.model.irqs.notify(irq_index::REQ);
            }
            vector => {
                self.device.irqs.raise(vector.into());
                self.model.irqs.raise(vector.into());
            }
        }
    }
}

//! What must be true whenever nothing is under way.

use guest_mem::{Access, GuestMem};
use vfio_user::Command;

use crate::fds::{PAGE, mark};
use crate::model::Entry;
use crate::peer::Peer;

impl Peer {
    /// Compares everything that can be seen with what the model says.
    pub(crate) fn check(&mut self) {
        self.settle();
        let (device, model) = (&self.device, &self.model);
        assert_eq!(device.resets, model.resets, "resets");
        assert_eq!(device.runs, model.migration.runs(), "running");
        assert_eq!(device.irqs.level(), model.irqs.level(), "interrupt line");
        let flags = [Command::IO, Command::MEMORY, Command::BUS_MASTER];
        for (flag, bit) in flags.into_iter().zip(model.command()) {
            assert_eq!(device.command.contains(flag), bit, "{flag:?}");
        }
        assert_eq!(
            device.irqs.messages(),
            model.irqs.messages(),
            "vectors in use"
        );
        assert_eq!(
            self.take_signals(),
            self.model.irqs.signals,
            "signals of the eventfds"
        );
        self.model.irqs.signals.fill(0);
        let published = self.session.mem();
        self.check_memory(&published.load());
        self.bus.check(&self.session);
    }

    fn check_memory(&self, mem: &GuestMem) {
        // Memory without a file is reached by asking for it.
        let reach = |addr: u64, len: u64, access| mem.check(addr, len, access).is_ok();
        let entries = &self.model.memory.entries;
        for entry in entries {
            let last = entry.iova + (entry.size - 1);
            assert!(reach(entry.iova, entry.size, Access::Read), "{entry:x?}");
            for addr in [entry.iova, last] {
                assert_eq!(
                    reach(addr, 1, Access::ReadWrite),
                    entry.writable,
                    "{entry:x?}"
                );
            }
            for outside in [entry.iova.checked_sub(1), last.checked_add(1)]
                .into_iter()
                .flatten()
            {
                let inside = |e: &Entry| e.iova <= outside && outside - e.iova < e.size;
                assert_eq!(
                    reach(outside, 1, Access::Read),
                    entries.iter().any(inside),
                    "{outside:#x}"
                );
            }
            if let Some((file, offset)) = entry.file
                && !self.bus.lied
                && file < self.pool.files.len()
                && offset.is_multiple_of(PAGE)
                && entry.size >= 8
                && offset + PAGE <= self.pool.files[file].size
            {
                let mut found = [0; 8];
                mem.read(entry.iova, &mut found)
                    .expect("a file that is mapped");
                assert_eq!(
                    u64::from_ne_bytes(found),
                    mark(file, offset / PAGE),
                    "{entry:x?}"
                );
            }
        }
    }
}

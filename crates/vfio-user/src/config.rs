//! Configuration space in use: what a write to it sets off.

use rustix::io::Errno;

use crate::handler::{Handler, ResetKind};
use crate::pci::{Command, PME_ENABLE, PME_STATUS};
use crate::session::State;
use crate::wire::irq_index;

impl State {
    pub(crate) fn config_write(
        &mut self,
        offset: usize,
        data: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let template = &self.device.config;
        let reset = self.config.write(template, offset, data)?;
        let at = template.pmcsr_high().and_then(|at| at.checked_sub(offset));
        if let Some(byte) = at.and_then(|at| data.get(at)) {
            handler.write_pme(byte & PME_ENABLE != 0, byte & PME_STATUS != 0);
        }
        match reset {
            Some(kind) => self.reset(kind, handler),
            None => {
                let withdrawn = self.config_changed(handler);
                match handler.settles() {
                    true => self.wait_for_queues(),
                    false if withdrawn => self.begin_epoch(),
                    false => {}
                }
            }
        }
        Ok(())
    }

    /// The function starts over.
    pub(crate) fn reset(&mut self, kind: ResetKind, handler: &mut (impl Handler + ?Sized)) {
        self.config.reset(&self.device.config);
        self.msix.reset(&self.irqs);
        handler.reset(kind);
        if matches!(kind, ResetKind::Message | ResetKind::Disconnected) {
            self.restart(handler);
        }
        let _ = self.config_changed(handler);
        match handler.settles() {
            true => self.wait_for_queues(),
            false => self.begin_epoch(),
        }
    }

    /// Tells who needs to know if configuration space amounts to something else than before. True if the device may
    /// no longer do something that it may be doing at this moment: DMA, or sending interrupts.
    pub(crate) fn config_changed(&mut self, handler: &mut (impl Handler + ?Sized)) -> bool {
        let template = &self.device.config;
        let mut withdrawn = self.irqs.set_mode(self.config.interrupts(template));
        if let Some(mask) = self.config.msi_mask(template) {
            for vector in 0..32 {
                let masked = mask >> vector & 1 != 0;
                withdrawn |= self.irqs.set_guest_mask(irq_index::MSI, vector, masked);
            }
        }
        let (before, now) = (self.command, self.config.command(template));
        if before != now {
            self.command = now;
            self.remote
                .set_bus_master(now.contains(Command::BUS_MASTER));
            handler.command(now);
            match now.contains(Command::BUS_MASTER) {
                true if !before.contains(Command::BUS_MASTER) => self.begin_share_check(),
                true => {}
                false => self.end_share_check(),
            }
            withdrawn |= (before - now).contains(Command::BUS_MASTER);
        }
        withdrawn
    }
}

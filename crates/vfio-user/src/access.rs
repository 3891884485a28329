//! Requests that reach the device: reads and writes of its regions.

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::device::BarKind;
use crate::handler::{Handler, Region, ResetKind};
use crate::pci::Command;
use crate::session::{State, parse};
use crate::wire::{Header, MAX_DATA, MultiWrite, RegionAccess, region_index};

impl State {
    /// REGION_READ. What cannot be read reads as ones: some clients hang on an error.
    pub(crate) fn region_read(
        &mut self,
        header: &Header,
        payload: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let access: RegionAccess = parse(payload)?;
        let count = access.count as usize;
        if count > MAX_DATA {
            return Err(Errno::INVAL);
        }
        if !header.wants_reply() {
            return Ok(());
        }
        let target = self.target(&access);
        let intx = self.irqs.level();
        self.outbox
            .push(&header.reply(size_of::<RegionAccess>() + count), &access);
        let data = self.outbox.extend(count);
        match target {
            Some(Target::Config) => self.config.read(access.offset as usize, data, intx),
            Some(Target::Device(region)) => handler.read(region, access.offset, data),
            Some(Target::Nobody) | None => {}
        }
        Ok(())
    }

    /// REGION_WRITE, posted or not.
    pub(crate) fn region_write(
        &mut self,
        header: &Header,
        payload: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let (access, data) = RegionAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        self.write(&access, data, handler)?;
        self.reply(header, &access);
        Ok(())
    }

    /// REGION_WRITE_MULTI: writes that piled up at the client. One that fails does not stop the others, as it would
    /// not have, had they come on their own.
    pub(crate) fn region_write_multi(
        &mut self,
        header: &Header,
        payload: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let (count, writes) = u64::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let bytes = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(size_of::<MultiWrite>()))
            .filter(|bytes| *bytes <= writes.len())
            .ok_or(Errno::INVAL)?;
        let mut result = Ok(());
        for write in writes[..bytes].chunks_exact(size_of::<MultiWrite>()) {
            let MultiWrite { access, data } = parse(write)?;
            let done = match data.get(..access.count as usize) {
                Some(data) => self.write(&access, data, handler),
                None => Err(Errno::INVAL),
            };
            result = result.and(done);
        }
        result?;
        self.reply(header, count.as_bytes());
        Ok(())
    }

    fn write(
        &mut self,
        access: &RegionAccess,
        data: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        if data.len() != access.count as usize || data.len() > MAX_DATA {
            return Err(Errno::INVAL);
        }
        match self.target(access).ok_or(Errno::INVAL)? {
            Target::Config => {
                let offset = access.offset as usize;
                if self.config.write(&self.device.config, offset, data) {
                    self.reset(ResetKind::PowerState, handler);
                } else if self.command_changed(handler) {
                    self.begin_epoch();
                }
            }
            Target::Device(Region::Rom) | Target::Nobody => {}
            Target::Device(region) => handler.write(region, access.offset, data),
        }
        Ok(())
    }

    /// Who answers an access; none if it leaves its region.
    fn target(&self, access: &RegionAccess) -> Option<Target> {
        let end = access.offset.checked_add(access.count.into())?;
        if access.region >= region_index::COUNT || end > self.device.region_size(access.region) {
            return None;
        }
        if access.count == 0 {
            return Some(Target::Nobody);
        }
        Some(match access.region {
            region_index::CONFIG => Target::Config,
            region_index::ROM => Target::Device(Region::Rom),
            bar => {
                let enable = match self.device.bar(bar as usize)?.kind() {
                    BarKind::Io => Command::IO,
                    BarKind::Memory32 | BarKind::Memory64 => Command::MEMORY,
                };
                match self.command.contains(enable) {
                    true => Target::Device(Region::Bar(bar as u8)),
                    false => Target::Nobody,
                }
            }
        })
    }
}

#[derive(Clone, Copy)]
enum Target {
    Config,
    Device(Region),
    /// The function does not decode this now.
    Nobody,
}

//! Requests that reach the device: reads and writes of its regions.

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::device::{BarKind, Owner};
use crate::handler::{Handler, Region};
use crate::msix;
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
        self.outbox
            .push(&header.reply(size_of::<RegionAccess>() + count), &access);
        let data = self.outbox.extend(count);
        match target {
            Some(Target::Config) => {
                let offset = access.offset as usize;
                let pme = handler.pme();
                self.config
                    .read(&self.device.config, &self.irqs, pme, offset, data);
            }
            Some(Target::Rom) => handler.read(Region::Rom, access.offset, data),
            Some(Target::Bar(bar)) => {
                let (mut at, mut rest) = (access.offset, data);
                while !rest.is_empty() {
                    let (owner, len) = self.device.piece(bar, at, rest.len());
                    let (now, later) = rest.split_at_mut(len);
                    match owner {
                        None => handler.read(Region::Bar(bar), at, now),
                        Some((Owner::MsixTable, start)) => self.msix.read(at - start, now),
                        Some((Owner::MsixPba, start)) => {
                            msix::read_pending(&self.irqs, at - start, now);
                        }
                        Some((Owner::File, _)) => {
                            if let Some(mappable) = self.device.mappable(bar.into()) {
                                // Only a file that shrank is out of reach, and reads as ones then.
                                let _ = mappable.mem.read(at, now);
                            }
                        }
                    }
                    at += len as u64;
                    rest = later;
                }
            }
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
            Target::Config => self.config_write(access.offset as usize, data, handler)?,
            Target::Rom | Target::Nobody => {}
            Target::Bar(bar) => self.bar_write(bar, access.offset, data, handler),
        }
        Ok(())
    }

    fn bar_write(
        &mut self,
        bar: u8,
        offset: u64,
        data: &[u8],
        handler: &mut (impl Handler + ?Sized),
    ) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (owner, len) = self.device.piece(bar, at, rest.len());
            let (now, later) = rest.split_at(len);
            match owner {
                None => handler.write(Region::Bar(bar), at, now),
                Some((Owner::MsixTable, start)) => {
                    if self.msix.write(&self.irqs, at - start, now) {
                        self.begin_epoch();
                    }
                }
                // Nobody writes pending bits.
                Some((Owner::MsixPba, _)) => {}
                Some((Owner::File, _)) => {
                    if let Some(mappable) = self.device.mappable(bar.into()) {
                        let _ = mappable.mem.write(at, now);
                    }
                    handler.write(Region::Bar(bar), at, now);
                }
            }
            at += len as u64;
            rest = later;
        }
        if handler.settles() {
            self.wait_for_queues();
        }
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
            region_index::ROM => Target::Rom,
            bar => {
                let enable = match self.device.bar(bar as usize)?.kind() {
                    BarKind::Io => Command::IO,
                    BarKind::Memory32 | BarKind::Memory64 => Command::MEMORY,
                };
                match self.command.contains(enable) {
                    true => Target::Bar(bar as u8),
                    false => Target::Nobody,
                }
            }
        })
    }
}

#[derive(Clone, Copy)]
enum Target {
    Config,
    Rom,
    Bar(u8),
    /// The function does not decode this now.
    Nobody,
}

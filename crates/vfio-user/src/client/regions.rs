//! Accesses to regions, and resets.

use zerocopy::IntoBytes;

use super::exchange::Expected;
use super::{Client, ClientError, Result, Ticket};
use crate::pci::{Command, reg};
use crate::wire::{
    DeviceInfo, MultiWrite, RegionAccess, command, device_flags, header_flags, region_index,
};

/// Writes that QEMU puts into one REGION_WRITE_MULTI at most.
const MOST_MULTI: usize = 200;

impl Client {
    /// Fills `data` from `offset` of a region. Specification, "VFIO_USER_REGION_READ".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        let ticket = self.submit_read(region, offset, data.len())?;
        let payload = self.collect(ticket)?.payload;
        let request = self.access(region, offset, data.len())?;
        match payload.split_at_checked(size_of::<RegionAccess>()) {
            Some((echo, bytes)) if echo == request.as_bytes() && bytes.len() == data.len() => {
                data.copy_from_slice(bytes);
                self.watch_command(region, offset, data);
            }
            _ => {
                let error = ClientError::Protocol("REGION_READ answered out of step");
                return Err(self.fail(error));
            }
        }
        self.accessed_bar(region)
    }

    /// Asks for `len` bytes at `offset` of a region without waiting. In the [`Answer`](super::Answer) they follow a
    /// [`RegionAccess`]. Specification, "VFIO_USER_REGION_READ".
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn submit_read(&mut self, region: u32, offset: u64, len: usize) -> Result<Ticket> {
        let request = self.access(region, offset, len)?;
        let reply = size_of::<RegionAccess>() + len;
        self.submit(command::REGION_READ, request.as_bytes(), &[], reply)
    }

    /// Writes `data` to `offset` of a region and waits until the device has taken it.
    /// Specification, "VFIO_USER_REGION_WRITE".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        let request = self.access(region, offset, data.len())?;
        let ticket = self.submit_write(region, offset, data)?;
        let payload = self.collect(ticket)?.payload;
        if payload != request.as_bytes() {
            let error = ClientError::Protocol("REGION_WRITE answered out of step");
            return Err(self.fail(error));
        }
        self.accessed_bar(region)
    }

    /// [`region_write`](Self::region_write) without waiting. Specification, "VFIO_USER_REGION_WRITE".
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn submit_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<Ticket> {
        let request = self.access(region, offset, data.len())?;
        let expected = Expected {
            payload: size_of::<RegionAccess>(),
            fds: 0,
        };
        self.watch_command(region, offset, data);
        let parts = [request.as_bytes(), data];
        self.submit_parts(command::REGION_WRITE, &parts, &[], expected)
    }

    /// Writes without waiting for the device, as QEMU does to memory BARs; a later read is executed after it. Waits
    /// after all in a dialect that never posts, and in QEMU's once a region has turned out to be mappable, since order
    /// against stores to mapped memory could not be kept. Specification, "VFIO_USER_REGION_WRITE".
    ///
    /// # Errors
    ///
    /// If it cannot be sent; what the device thinks of it is not told.
    pub fn region_write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        if !self.manners.posts_writes || self.mappable {
            return match self.region_write(region, offset, data) {
                Err(ClientError::Refused { .. }) => Ok(()),
                result => result,
            };
        }
        self.check()?;
        let request = self.access(region, offset, data.len())?;
        let parts = [request.as_bytes(), data];
        self.send(command::REGION_WRITE, header_flags::NO_REPLY, &parts, &[])?;
        Ok(())
    }

    /// Writes several values of up to 8 bytes, each a region, an offset and bytes, in few messages and without waiting
    /// for the device. Specification, "VFIO_USER_REGION_WRITE_MULTI"; one by one if the server does not understand it.
    ///
    /// # Errors
    ///
    /// [`TooLong`](ClientError::TooLong) for more than 8 bytes; else as
    /// [`region_write_posted`](Self::region_write_posted).
    pub fn region_write_multi(&mut self, writes: &[(u32, u64, &[u8])]) -> Result<()> {
        self.check()?;
        if !self.server.write_multiple || !self.manners.posts_writes || self.mappable {
            return writes
                .iter()
                .try_for_each(|(region, at, data)| self.region_write_posted(*region, *at, data));
        }
        let entries: Vec<MultiWrite> = writes
            .iter()
            .map(|(region, at, data)| multi(self.access(*region, *at, data.len())?, data))
            .collect::<Result<_>>()?;
        for entries in entries.chunks(MOST_MULTI) {
            let count = (entries.len() as u64).to_ne_bytes();
            let parts = [&count[..], entries.as_bytes()];
            self.send(
                command::REGION_WRITE_MULTI,
                header_flags::NO_REPLY,
                &parts,
                &[],
            )?;
        }
        Ok(())
    }

    /// Reads `N` bytes of configuration space. Specification, "VFIO_USER_REGION_READ".
    ///
    /// # Errors
    ///
    /// As [`region_read`](Self::region_read).
    pub fn config_read<const N: usize>(&mut self, offset: u64) -> Result<[u8; N]> {
        let mut data = [0; N];
        self.region_read(region_index::CONFIG, offset, &mut data)?;
        Ok(data)
    }

    /// Writes configuration space. Specification, "VFIO_USER_REGION_WRITE".
    ///
    /// # Errors
    ///
    /// As [`region_write`](Self::region_write).
    pub fn config_write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.region_write(region_index::CONFIG, offset, data)
    }

    /// Resets the device. Specification, "VFIO_USER_DEVICE_RESET".
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.ask(command::DEVICE_RESET, &[], 0)?;
        self.served.bus_master = false;
        Ok(())
    }

    /// Resets the device if a client of this dialect would, with the machine: when the device says that it can be
    /// reset, or, for cloud-hypervisor, when it does not. Specification, "VFIO_USER_DEVICE_RESET".
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn machine_reset(&mut self, info: &DeviceInfo) -> Result<()> {
        let offered = info.flags & device_flags::RESET != 0;
        match offered != self.manners.inverted_reset {
            true => self.reset(),
            false => Ok(()),
        }
    }

    fn access(&self, region: u32, offset: u64, len: usize) -> Result<RegionAccess> {
        let count = u32::try_from(len).map_err(|_| ClientError::TooLong)?;
        if len > self.manners.max_access {
            return Err(ClientError::TooLong);
        }
        Ok(RegionAccess {
            offset,
            region,
            count,
        })
    }

    /// Notes whether the guest lets the device do DMA, from configuration space as it is written or read.
    fn watch_command(&mut self, region: u32, offset: u64, data: &[u8]) {
        let at = (reg::COMMAND as u64).wrapping_sub(offset);
        if region == region_index::CONFIG
            && let Some(low) = usize::try_from(at).ok().and_then(|at| data.get(at))
        {
            let master = Command::BUS_MASTER.bits() as u8;
            self.served.bus_master = low & master != 0;
        }
    }
}

fn multi(access: RegionAccess, data: &[u8]) -> Result<MultiWrite> {
    let mut write = MultiWrite {
        access,
        ..Default::default()
    };
    let room = write.data.get_mut(..data.len());
    room.ok_or(ClientError::TooLong)?.copy_from_slice(data);
    Ok(write)
}

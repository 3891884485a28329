//! What the device has: answers to the questions that a client asks before it begins.

use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::session::State;
use crate::wire::{self, CapHeader, DeviceInfo, Header, IrqInfo, MmapArea, RegionInfo, SparseMmap};

impl State {
    pub(crate) fn device_info(
        &mut self,
        header: &Header,
        request: DeviceInfo,
    ) -> Result<(), Errno> {
        let argsz = size_of::<DeviceInfo>() as u32;
        if request.argsz < argsz {
            return Err(Errno::INVAL);
        }
        let info = DeviceInfo {
            argsz,
            flags: wire::device_flags::RESET | wire::device_flags::PCI,
            num_regions: wire::region_index::COUNT,
            num_irqs: wire::irq_index::COUNT,
        };
        self.reply(header, &info);
        Ok(())
    }

    pub(crate) fn region_info(
        &mut self,
        header: &Header,
        request: RegionInfo,
    ) -> Result<(), Errno> {
        use wire::region_flags::{CAPS, MMAP, READ, WRITE};
        let argsz = size_of::<RegionInfo>() as u32;
        let index = request.index;
        if request.argsz < argsz || index >= wire::region_index::COUNT {
            return Err(Errno::INVAL);
        }
        let size = self.device.region_size(index);
        let mut info = RegionInfo {
            argsz,
            flags: match index {
                _ if size == 0 => 0,
                wire::region_index::ROM => READ,
                _ => READ | WRITE,
            },
            index,
            cap_offset: 0,
            size,
            // As VFIO lays regions out; unused in those that nobody maps.
            offset: if size == 0 { 0 } else { u64::from(index) << 40 },
        };
        // A client that takes no descriptor sends all its accesses.
        let takes_fds = self.client.max_fds > 0;
        let Some(mappable) = self.device.mappable(index).filter(|_| takes_fds) else {
            self.reply(header, &info);
            return Ok(());
        };
        info.flags |= MMAP;
        info.offset = 0;
        let capability = sparse(&mappable.areas);
        info.argsz += capability.len() as u32;
        if info.argsz > request.argsz {
            // The client asks again, with room for all of it.
            self.reply(header, &info);
            return Ok(());
        }
        if !capability.is_empty() {
            info.flags |= CAPS;
            info.cap_offset = argsz;
        }
        // One descriptor, however many areas: QEMU takes no more.
        let file = vec![mappable.file.clone()];
        let payload = [info.as_bytes(), &capability].concat();
        self.reply_with_fds(header, &payload[..], file);
        Ok(())
    }

    pub(crate) fn irq_info(&mut self, header: &Header, request: IrqInfo) -> Result<(), Errno> {
        let argsz = size_of::<IrqInfo>() as u32;
        let index = request.index;
        if request.argsz < argsz || index >= wire::irq_index::COUNT {
            return Err(Errno::INVAL);
        }
        let (count, flags) = self.device.irqs(index);
        if index == wire::irq_index::ERR && count == 0 {
            // QEMU takes an error for "has none", and a count of 0 as a reason to warn.
            return Err(Errno::INVAL);
        }
        let info = IrqInfo {
            argsz,
            flags,
            index,
            count,
        };
        self.reply(header, &info);
        Ok(())
    }
}

/// The capability that lists `areas`; nothing for none.
fn sparse(areas: &[MmapArea]) -> Vec<u8> {
    if areas.is_empty() {
        return Vec::new();
    }
    let header = CapHeader {
        id: wire::CAP_SPARSE_MMAP,
        version: 1,
        next: 0,
    };
    let list = SparseMmap {
        nr_areas: areas.len() as u32,
        reserved: 0,
    };
    let mut bytes = [header.as_bytes(), list.as_bytes()].concat();
    bytes.extend_from_slice(areas.as_bytes());
    bytes
}

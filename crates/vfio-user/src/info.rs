//! What the device has: answers to the questions that a client asks before it begins.

use rustix::io::Errno;

use crate::session::State;
use crate::wire::{self, DeviceInfo, Header, IrqInfo, RegionInfo};

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
        use wire::region_flags::{READ, WRITE};
        let argsz = size_of::<RegionInfo>() as u32;
        let index = request.index;
        if request.argsz < argsz || index >= wire::region_index::COUNT {
            return Err(Errno::INVAL);
        }
        let size = self.device.region_size(index);
        let info = RegionInfo {
            argsz,
            flags: match index {
                _ if size == 0 => 0,
                wire::region_index::ROM => READ,
                _ => READ | WRITE,
            },
            index,
            cap_offset: 0,
            size,
            // As VFIO lays regions out; unused as long as none can be mapped.
            offset: if size == 0 { 0 } else { u64::from(index) << 40 },
        };
        self.reply(header, &info);
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

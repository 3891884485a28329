//! What the device has.

use vfio_user::wire::{
    self, CapHeader, DeviceInfo, IoFd, IrqInfo, MAX_DATA, MmapArea, RegionInfo, RegionIoFds,
    SparseMmap, irq_flags, irq_index, region_flags, region_index,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Outcome, done, invalid, size_of_region};
use crate::device::{AREA, IO_FDS, MSI_VECTORS, MSIX_VECTORS};

pub(super) fn device(payload: &[u8]) -> Outcome {
    match DeviceInfo::read_from_prefix(payload) {
        Ok((request, _)) if request.argsz >= 16 => done(&DeviceInfo {
            argsz: 16,
            flags: wire::device_flags::RESET | wire::device_flags::PCI,
            num_regions: region_index::COUNT,
            num_irqs: irq_index::COUNT,
        }),
        _ => invalid(),
    }
}

pub(super) fn region(payload: &[u8], max_fds: usize) -> Outcome {
    let Ok((request, _)) = RegionInfo::read_from_prefix(payload) else {
        return invalid();
    };
    let index = request.index;
    if request.argsz < 32 || index >= region_index::COUNT {
        return invalid();
    }
    let size = size_of_region(index);
    let mut info = RegionInfo {
        argsz: 32,
        flags: match index {
            _ if size == 0 => 0,
            region_index::ROM => region_flags::READ,
            _ => region_flags::READ | region_flags::WRITE,
        },
        index,
        cap_offset: 0,
        size,
        offset: if size == 0 { 0 } else { u64::from(index) << 40 },
    };
    if index != 4 || max_fds == 0 {
        return done(&info);
    }
    (info.argsz, info.offset) = (64, 0);
    info.flags |= region_flags::MMAP;
    if request.argsz < 64 {
        return done(&info);
    }
    info.flags |= region_flags::CAPS;
    info.cap_offset = 32;
    let cap = CapHeader {
        id: wire::CAP_SPARSE_MMAP,
        version: 1,
        next: 0,
    };
    let list = SparseMmap {
        nr_areas: 1,
        reserved: 0,
    };
    let area = MmapArea {
        offset: AREA.start as u64,
        size: AREA.len() as u64,
    };
    let parts = [
        info.as_bytes(),
        cap.as_bytes(),
        list.as_bytes(),
        area.as_bytes(),
    ];
    Outcome::WithFds(parts.concat(), 1)
}

pub(super) fn io_fds(payload: &[u8], max_fds: usize) -> Outcome {
    let Ok((request, _)) = RegionIoFds::read_from_prefix(payload) else {
        return invalid();
    };
    let RegionIoFds {
        argsz,
        flags,
        index,
        count,
    } = request;
    let known = index < region_index::COUNT && size_of_region(index) > 0;
    if flags != 0 || count != 0 || argsz < 16 || argsz as usize > MAX_DATA || !known {
        return invalid();
    }
    let all = if index == 0 { &IO_FDS[..] } else { &[] };
    let needed = 16 + 40 * all.len() as u32;
    if argsz < needed {
        return done(&RegionIoFds {
            argsz: needed,
            count: 0,
            ..request
        });
    }
    let mut sent: Vec<usize> = Vec::new();
    let mut list = Vec::new();
    for (offset, size, fd) in all {
        let fd_index = match fd {
            None => u32::MAX,
            Some(fd) => {
                if !sent.contains(fd) {
                    // The client takes no more descriptors, and sends these writes as ever.
                    if sent.len() == max_fds {
                        continue;
                    }
                    sent.push(*fd);
                }
                sent.iter().position(|sent| sent == fd).unwrap_or_default() as u32
            }
        };
        list.push(IoFd {
            offset: *offset,
            size: *size,
            fd_index,
            ..Default::default()
        });
    }
    let reply = RegionIoFds {
        argsz: 16 + 40 * list.len() as u32,
        flags: 0,
        index,
        count: list.len() as u32,
    };
    let parts: Vec<_> = list.iter().flat_map(|fd| fd.as_bytes().to_vec()).collect();
    Outcome::WithFds([reply.as_bytes(), &parts].concat(), sent.len())
}

pub(super) fn irq(payload: &[u8]) -> Outcome {
    use irq_flags::{AUTOMASKED, EVENTFD, MASKABLE, NORESIZE};
    match IrqInfo::read_from_prefix(payload) {
        Ok((request, _)) if request.argsz >= 16 && request.index < irq_index::COUNT => {
            let (count, flags) = match request.index {
                irq_index::INTX => (1, EVENTFD | MASKABLE | AUTOMASKED),
                irq_index::MSI => (MSI_VECTORS, EVENTFD | MASKABLE),
                irq_index::MSIX => (MSIX_VECTORS, EVENTFD | MASKABLE),
                _ => (1, EVENTFD | NORESIZE),
            };
            done(&IrqInfo {
                argsz: 16,
                flags,
                index: request.index,
                count: count as u32,
            })
        }
        _ => invalid(),
    }
}

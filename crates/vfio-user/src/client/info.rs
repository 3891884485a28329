//! What the device has: regions, their mappable areas and eventfds, interrupts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use guest_mem::Mapping;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::exchange::{Answer, Expected};
use super::{Client, ClientError, Result, read};
use crate::wire::{
    CAP_SPARSE_MMAP, CapHeader, DeviceInfo, IoFd, IrqInfo, MAX_FDS, MmapArea, RegionInfo,
    RegionIoFds, SparseMmap, command, region_flags,
};

/// Most bytes of a reply that lists things.
const MOST: usize = 64 << 10;

/// Most capabilities of a region; their list may well lead in a circle.
const MOST_CAPABILITIES: usize = 64;

/// What there is to know of a region. Specification, "VFIO_USER_DEVICE_GET_REGION_INFO".
#[derive(Debug)]
pub struct RegionDetails {
    /// Size and kind.
    pub info: RegionInfo,
    /// Areas that can be mapped, each within the region.
    pub areas: Vec<MmapArea>,
    /// The file to map them from.
    pub file: Option<OwnedFd>,
}

impl RegionDetails {
    /// Maps an area of [`areas`](Self::areas): loads and stores there are the device's memory, no message passes.
    /// Specification, "Sparse Regions".
    ///
    /// # Errors
    ///
    /// If there is no file, or the area is not within it.
    pub fn map(&self, area: &MmapArea) -> io::Result<Mapping> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let offset = self.info.offset.checked_add(area.offset);
        let offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        let writable = self.info.flags & region_flags::WRITE != 0;
        Mapping::of_file(file.as_fd(), offset, area.size, writable)
    }
}

/// Eventfds that are signalled by writes to a region. Specification, "VFIO_USER_DEVICE_GET_REGION_IO_FDS".
#[derive(Debug)]
pub struct IoFds {
    /// Which writes signal which descriptor.
    pub subregions: Vec<IoFd>,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
}

impl IoFds {
    /// The descriptor of one of [`subregions`](Self::subregions), if it has one.
    pub fn fd(&self, subregion: &IoFd) -> Option<&OwnedFd> {
        self.fds.get(usize::try_from(subregion.fd_index).ok()?)
    }
}

impl Client {
    /// Asks what the device has. Specification, "VFIO_USER_DEVICE_GET_INFO".
    ///
    /// # Errors
    ///
    /// If it does not say.
    pub fn device_info(&mut self) -> Result<DeviceInfo> {
        let request = DeviceInfo {
            argsz: self.manners.info_argsz,
            ..Default::default()
        };
        let reply = self.ask(command::DEVICE_GET_INFO, request.as_bytes(), 16)?;
        read(&reply)
    }

    /// Asks about a region, without what can be mapped of it. Specification, "VFIO_USER_DEVICE_GET_REGION_INFO".
    ///
    /// # Errors
    ///
    /// If the device does not say.
    pub fn region_info(&mut self, index: u32) -> Result<RegionInfo> {
        let answer = self.get_region_info(index, size_of::<RegionInfo>())?;
        read(&answer.payload)
    }

    /// Asks about a region and what can be mapped of it. Specification, "VFIO_USER_DEVICE_GET_REGION_INFO".
    ///
    /// # Errors
    ///
    /// If the device does not say, or says of areas that are not within the region.
    pub fn region(&mut self, index: u32) -> Result<RegionDetails> {
        let asked = size_of::<RegionInfo>();
        let mut answer = self.get_region_info(index, asked)?;
        let info: RegionInfo = read(&answer.payload)?;
        let needed = info.argsz as usize;
        if needed > asked.max(answer.payload.len()) {
            if needed > MOST {
                return Err(ClientError::Protocol("a region has too many capabilities"));
            }
            if self.manners.repeats_id {
                self.exchange.repeat_id();
            }
            answer = self.get_region_info(index, needed)?;
        }
        let info: RegionInfo = read(&answer.payload)?;
        if info.index != index {
            return Err(ClientError::Protocol("an answer about another region"));
        }
        let mappable = info.flags & region_flags::MMAP != 0;
        self.mappable |= mappable;
        let areas = match mappable {
            true => areas(&info, &answer.payload)?,
            false => Vec::new(),
        };
        Ok(RegionDetails {
            info,
            areas,
            file: answer.fds.into_iter().next(),
        })
    }

    fn get_region_info(&mut self, index: u32, argsz: usize) -> Result<Answer> {
        let payload = self.manners.region_info_payload.unwrap_or(0).max(argsz);
        let request = RegionInfo {
            argsz: u32::try_from(payload).map_err(|_| ClientError::TooLong)?,
            index,
            ..Default::default()
        };
        // Whoever has a buffer for the reply may send it along.
        let filler = match self.manners.region_info_payload {
            Some(_) => vec![0; payload - size_of::<RegionInfo>()],
            None => Vec::new(),
        };
        let parts = [request.as_bytes(), &filler];
        let expected = Expected { payload, fds: 1 };
        let ticket = self.submit_parts(command::DEVICE_GET_REGION_INFO, &parts, &[], expected)?;
        self.collect(ticket)
    }

    /// Asks which writes to a region are told by eventfds. Specification, "VFIO_USER_DEVICE_GET_REGION_IO_FDS".
    ///
    /// # Errors
    ///
    /// If the device does not say.
    pub fn io_fds(&mut self, region: u32) -> Result<IoFds> {
        let head = size_of::<RegionIoFds>();
        let mut room = head + MAX_FDS * size_of::<IoFd>();
        // Once more if there are more of them, but not for ever.
        for _ in 0..2 {
            let answer = self.get_io_fds(region, room)?;
            let reply: RegionIoFds = read(&answer.payload)?;
            let needed = reply.argsz as usize;
            if needed > room && needed <= MOST {
                room = needed;
                continue;
            }
            let list = answer.payload.get(head..).unwrap_or_default();
            let wanted = (reply.count as usize).checked_mul(size_of::<IoFd>());
            if wanted.is_none_or(|wanted| wanted > list.len()) {
                return Err(ClientError::Protocol("eventfds are announced and missing"));
            }
            let fds: Vec<_> = answer.fds.into_iter().collect();
            let subregions: Vec<IoFd> = items(list, reply.count as usize);
            let known = |io: &IoFd| io.fd_index == u32::MAX || (io.fd_index as usize) < fds.len();
            if !subregions.iter().all(known) {
                return Err(ClientError::Protocol("an eventfd does not come along"));
            }
            return Ok(IoFds { subregions, fds });
        }
        Err(ClientError::Protocol("a region has ever more eventfds"))
    }

    fn get_io_fds(&mut self, region: u32, argsz: usize) -> Result<Answer> {
        let request = RegionIoFds {
            argsz: u32::try_from(argsz).map_err(|_| ClientError::TooLong)?,
            index: region,
            ..Default::default()
        };
        let parts = [request.as_bytes()];
        let expected = Expected {
            payload: argsz,
            fds: MAX_FDS,
        };
        let ticket = self.submit_parts(command::DEVICE_GET_REGION_IO_FDS, &parts, &[], expected)?;
        self.collect(ticket)
    }

    /// Asks about an interrupt index. Specification, "VFIO_USER_DEVICE_GET_IRQ_INFO".
    ///
    /// # Errors
    ///
    /// If the device does not say.
    pub fn irq_info(&mut self, index: u32) -> Result<IrqInfo> {
        let request = IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            index,
            ..Default::default()
        };
        let reply = self.ask(command::DEVICE_GET_IRQ_INFO, request.as_bytes(), 16)?;
        read(&reply)
    }
}

/// The areas that the capabilities behind a region's info list, or all of the region if none does.
fn areas(info: &RegionInfo, payload: &[u8]) -> Result<Vec<MmapArea>> {
    let bad = |why| Err(ClientError::Protocol(why));
    let mut at = match info.flags & region_flags::CAPS {
        0 => 0,
        _ => info.cap_offset as usize,
    };
    for _ in 0..MOST_CAPABILITIES {
        if at == 0 {
            let (offset, size) = (0, info.size);
            return Ok(vec![MmapArea { offset, size }]);
        }
        let Some(bytes) = payload.get(at.max(size_of::<RegionInfo>())..) else {
            return bad("a capability lies outside the reply");
        };
        let header: CapHeader = read(bytes)?;
        if header.id != CAP_SPARSE_MMAP {
            at = header.next as usize;
            continue;
        }
        let list = &bytes[size_of::<CapHeader>()..];
        let sparse: SparseMmap = read(list)?;
        let areas: Vec<MmapArea> =
            items(&list[size_of::<SparseMmap>()..], sparse.nr_areas as usize);
        if areas.len() != sparse.nr_areas as usize {
            return bad("areas are announced and missing");
        }
        let page = rustix::param::page_size() as u64;
        let fits = |area: &MmapArea| {
            let end = area.offset.checked_add(area.size);
            let aligned = (area.offset | area.size).is_multiple_of(page);
            area.size > 0 && aligned && end.is_some_and(|end| end <= info.size)
        };
        return match areas.iter().all(fits) {
            true => Ok(areas),
            false => bad("an area lies outside its region"),
        };
    }
    bad("the capabilities lead in a circle")
}

/// At most `count` structures in a row.
fn items<T: FromBytes + IntoBytes + Immutable>(bytes: &[u8], count: usize) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .take(count)
        .filter_map(|bytes| T::read_from_bytes(bytes).ok())
        .collect()
}

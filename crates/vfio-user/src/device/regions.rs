//! Parts of BARs that are not the handler's: memory that clients map, MSI-X tables, and ioeventfds.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use guest_mem::{Access, GuestMem, Mapping};

use super::{Bar, BarKind, BuildError};
use crate::wire::MmapArea;

/// Bytes of an entry of the MSI-X table.
pub(crate) const MSIX_ENTRY: u64 = 16;

/// Areas of a BAR that clients map.
#[derive(Clone, Debug)]
pub(crate) struct Mappable {
    /// Its byte 0 is the BAR's byte 0.
    pub(crate) file: Arc<OwnedFd>,
    /// Ascending; empty if clients may map all of the BAR.
    pub(crate) areas: Vec<MmapArea>,
    /// The same memory in this process; addresses are offsets in the BAR.
    pub(crate) mem: Arc<GuestMem>,
}

/// What the device's author says of areas that clients map.
#[derive(Clone, Debug)]
pub(super) struct MapRequest {
    pub(super) bar: usize,
    pub(super) file: Arc<OwnedFd>,
    /// Ascending; empty for all of the BAR.
    pub(super) areas: Vec<MmapArea>,
}

impl MapRequest {
    /// Maps the areas, which must make sense; `size` is the BAR's.
    pub(super) fn map(self, size: u64) -> Result<Mappable, BuildError> {
        let Self { bar, file, areas } = self;
        let failed = |why: String| BuildError::File { bar, why };
        let whole = [MmapArea { offset: 0, size }];
        let all = if areas.is_empty() { &whole } else { &areas[..] };
        let first = all[0].offset;
        let end = all[all.len() - 1].offset + all[all.len() - 1].size;
        let mapping = Mapping::of_file(file.as_fd(), first, end - first, true);
        let mapping = Arc::new(mapping.map_err(|error| failed(error.to_string()))?);
        let mem = all.iter().fold(GuestMem::builder(), |mem, area| {
            let (at, mapping) = (area.offset - first, mapping.clone());
            mem.map(area.offset, area.size, mapping, at, Access::ReadWrite)
        });
        let mem = mem.build().map_err(|error| failed(error.to_string()))?;
        Ok(Mappable {
            file,
            areas,
            mem: Arc::new(mem),
        })
    }
}

/// A piece of a BAR whose writes a client may tell through a descriptor.
#[derive(Clone, Debug)]
pub(crate) struct IoEventFd {
    pub(crate) bar: u8,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) fd: Option<Arc<OwnedFd>>,
    pub(crate) flags: u32,
    pub(crate) datamatch: u64,
}

/// Where the MSI-X table and the pending bits are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MsixPlace {
    pub(crate) vectors: u32,
    pub(crate) table: (usize, u64),
    pub(crate) pba: (usize, u64),
}

/// Who answers accesses to a part of a BAR, other than the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The file that clients map.
    File,
    MsixTable,
    MsixPba,
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) range: Range<u64>,
    pub(super) owner: Owner,
}

/// Who keeps what of each BAR. Refuses what is not in its BAR, not aligned, or overlaps.
pub(super) fn claims(
    bars: &[Option<Bar>; 6],
    mappable: &[MapRequest],
    msix: Option<MsixPlace>,
) -> Result<[Vec<Claim>; 6], BuildError> {
    let mut claims: [Vec<Claim>; 6] = Default::default();
    let memory = |index: usize| match bars.get(index) {
        Some(Some(bar)) if bar.kind != BarKind::Io => Some(bar.size),
        _ => None,
    };
    let mut claim = |index: usize, range: Range<u64>, owner, align| -> Option<()> {
        let aligned = range.start.is_multiple_of(align) && range.end.is_multiple_of(align);
        let free = |other: &Claim| other.range.end <= range.start || range.end <= other.range.start;
        let size = memory(index)?;
        let fits = range.start < range.end && range.end <= size && aligned;
        let claims = claims.get_mut(index)?;
        (fits && claims.iter().all(free)).then(|| {
            claims.push(Claim { range, owner });
            claims.sort_by_key(|claim| claim.range.start);
        })
    };
    let page = rustix::param::page_size() as u64;
    for (i, request) in mappable.iter().enumerate() {
        let bar = request.bar;
        let bad = |offset| BuildError::Area { bar, offset };
        if mappable[..i].iter().any(|other| other.bar == bar) {
            return Err(bad(0));
        }
        if request.areas.is_empty() {
            let whole = 0..memory(bar).unwrap_or(0);
            claim(bar, whole, Owner::File, page).ok_or(bad(0))?;
        }
        for area in &request.areas {
            let range = area.offset..area.offset.saturating_add(area.size);
            claim(bar, range, Owner::File, page).ok_or(bad(area.offset))?;
        }
    }
    if let Some(msix) = msix {
        let table = u64::from(msix.vectors) * MSIX_ENTRY;
        let pba = u64::from(msix.vectors.div_ceil(64)) * 8;
        for ((bar, offset), len, owner) in [
            (msix.table, table, Owner::MsixTable),
            (msix.pba, pba, Owner::MsixPba),
        ] {
            let end = offset.saturating_add(len);
            claim(bar, offset..end, owner, 8).ok_or(BuildError::Msix { bar, offset })?;
        }
    }
    Ok(claims)
}

/// Whether an ioeventfd lies in its BAR and watches what KVM can watch.
pub(super) fn io_event_fd_fits(bars: &[Option<Bar>; 6], fd: &IoEventFd) -> bool {
    let Some(Some(bar)) = bars.get(usize::from(fd.bar)) else {
        return false;
    };
    matches!(fd.size, 1 | 2 | 4 | 8)
        && fd.offset.is_multiple_of(fd.size)
        && fd
            .offset
            .checked_add(fd.size)
            .is_some_and(|end| end <= bar.size)
}

//! Memory that the device may use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, IntoBytes};

use super::exchange::Expected;
use super::{Client, ClientError, Result, Ticket};
use crate::wire::{
    DirtyBitmap, DmaMap, DmaUnmap, MAX_MESSAGE, command, dma_map_flags, dma_unmap_flags,
};

/// The file of a map, kept by clients that send it again with DMA_UNMAP.
#[derive(Debug)]
pub(super) struct File {
    iova: u64,
    fd: OwnedFd,
}

impl Client {
    /// Gives the device access to `size` bytes at `iova`: those from `offset` of `file` on, or, without a file, those
    /// that a [`Memory`](super::Memory) answers for. `flags` are [`dma_map_flags`]. Specification, "VFIO_USER_DMA_MAP".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn dma_map(
        &mut self,
        iova: u64,
        size: u64,
        file: Option<(BorrowedFd<'_>, u64)>,
        flags: u32,
    ) -> Result<()> {
        let ticket = self.submit_dma_map(iova, size, file, flags)?;
        self.collect(ticket)?;
        if let Some((fd, _)) = file.filter(|_| self.manners.unmaps_with_fd) {
            let fd = fd.try_clone_to_owned()?;
            self.files.push(File { iova, fd });
        }
        Ok(())
    }

    /// [`dma_map`](Self::dma_map) without waiting: what QEMU does with the maps of one change of its memory.
    /// Specification, "VFIO_USER_DMA_MAP".
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn submit_dma_map(
        &mut self,
        iova: u64,
        size: u64,
        file: Option<(BorrowedFd<'_>, u64)>,
        flags: u32,
    ) -> Result<Ticket> {
        let both = dma_map_flags::READ | dma_map_flags::WRITE;
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: match self.manners.maps_for_writing {
                true => flags | both,
                false => flags,
            },
            offset: file.map_or(0, |(_, offset)| offset),
            iova,
            size,
        };
        let fd = file.map(|(fd, _)| fd);
        // The specification has no payload in the reply; QEMU has room for the request.
        let reply = size_of::<DmaMap>();
        self.submit(command::DMA_MAP, map.as_bytes(), fd.as_slice(), reply)
    }

    /// Takes a range away, with every map that lies in it. Other servers than this crate's want exactly one map to be
    /// named. Specification, "VFIO_USER_DMA_UNMAP".
    ///
    /// # Errors
    ///
    /// If the device refuses: the range cuts through a map.
    pub fn dma_unmap(&mut self, iova: u64, size: u64) -> Result<()> {
        let ticket = self.submit_dma_unmap(iova, size)?;
        let payload = self.collect(ticket)?.payload;
        check_echo(&payload, &unmap(iova, size, 0))
    }

    /// [`dma_unmap`](Self::dma_unmap) without waiting. Specification, "VFIO_USER_DMA_UNMAP".
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn submit_dma_unmap(&mut self, iova: u64, size: u64) -> Result<Ticket> {
        let at = self.files.iter().position(|file| file.iova == iova);
        let file = at.map(|at| self.files.swap_remove(at).fd);
        let fd = file.as_ref().map(AsFd::as_fd);
        let request = unmap(iova, size, 0);
        let reply = size_of::<DmaUnmap>();
        self.submit(command::DMA_UNMAP, request.as_bytes(), fd.as_slice(), reply)
    }

    /// Takes everything away. Specification, "VFIO_USER_DMA_UNMAP".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn dma_unmap_all(&mut self) -> Result<()> {
        let request = unmap(0, 0, dma_unmap_flags::ALL);
        let reply = size_of::<DmaUnmap>();
        let payload = self.ask(command::DMA_UNMAP, request.as_bytes(), reply)?;
        self.files.clear();
        check_echo(&payload, &request)
    }

    /// Takes a range away and returns which of its pages the device wrote since it was asked last: one bit per
    /// `page_size` bytes, from the lowest of the first word on. Specification, "VFIO_USER_DMA_UNMAP".
    ///
    /// # Errors
    ///
    /// As [`dma_unmap`](Self::dma_unmap), or nothing is logged, or the bitmap does not fit into a message.
    pub fn dma_unmap_dirty(&mut self, iova: u64, size: u64, page_size: u64) -> Result<Vec<u64>> {
        let words = bitmap_words(size, page_size)?;
        let head = size_of::<DmaUnmap>() + size_of::<DirtyBitmap>();
        let reply = head + 8 * words;
        let request = DmaUnmap {
            argsz: u32::try_from(reply).map_err(|_| ClientError::TooLong)?,
            ..unmap(iova, size, dma_unmap_flags::GET_DIRTY_BITMAP)
        };
        let bitmap = DirtyBitmap {
            pgsize: page_size,
            size: 8 * words as u64,
        };
        let parts = [request.as_bytes(), bitmap.as_bytes()];
        let expected = Expected {
            payload: reply,
            fds: 0,
        };
        let ticket = self.submit_parts(command::DMA_UNMAP, &parts, &[], expected)?;
        let payload = self.collect(ticket)?.payload;
        match payload.split_at_checked(head) {
            Some((_, bits)) if bits.len() == 8 * words => Ok(words_of(bits)),
            _ => Err(ClientError::Protocol("a bitmap of the wrong size")),
        }
    }
}

fn unmap(iova: u64, size: u64, flags: u32) -> DmaUnmap {
    DmaUnmap {
        argsz: size_of::<DmaUnmap>() as u32,
        flags,
        iova,
        size,
    }
}

fn check_echo(payload: &[u8], request: &DmaUnmap) -> Result<()> {
    match payload == request.as_bytes() {
        true => Ok(()),
        false => Err(ClientError::Protocol("DMA_UNMAP is not echoed")),
    }
}

/// Words of 64 bits with one bit for each page of `len` bytes, as long as they fit a message.
pub(super) fn bitmap_words(len: u64, page_size: u64) -> Result<usize> {
    let pages = match page_size {
        0 => return Err(ClientError::TooLong),
        page => len.div_ceil(page),
    };
    usize::try_from(pages.div_ceil(64))
        .ok()
        .filter(|words| *words <= MAX_MESSAGE / 8 - 16)
        .ok_or(ClientError::TooLong)
}

/// Bytes as words, the last of which must be whole.
pub(super) fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .filter_map(|word| u64::read_from_bytes(word).ok())
        .collect()
}

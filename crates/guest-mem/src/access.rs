//! Reading and writing guest RAM through raw pointers.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Contiguous bytes of guest RAM in this process, lent for as long as the snapshot `'m` lives.
///
/// The bytes may change at any time. A slice can be copied from and to, or handed to the kernel as an iovec; it
/// can not be turned into a `&[u8]`.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'m> {
    ptr: *mut u8,
    len: usize,
    lent: PhantomData<&'m ()>,
}

impl<'m> GuestSlice<'m> {
    /// `ptr` must be valid for reads of `len` bytes for `'m`, and for writes if the slice was asked for writing.
    #[inline]
    pub(crate) fn new(ptr: *mut u8, len: usize) -> Self {
        Self {
            ptr,
            len,
            lent: PhantomData,
        }
    }

    /// Bytes of this process in the place of guest RAM, to be read only: a padding, a copied header.
    pub fn from_bytes(bytes: &'m [u8]) -> Self {
        Self::new(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the bytes are, for an iovec. Not to be dereferenced.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// The first `n` bytes and the rest.
    ///
    /// # Panics
    ///
    /// If the slice is shorter than `n`.
    #[inline]
    pub fn split_at(self, n: usize) -> (Self, Self) {
        assert!(n <= self.len);
        (
            Self::new(self.ptr, n),
            Self::new(self.ptr.wrapping_add(n), self.len - n),
        )
    }

    /// Copies the first bytes into `to`; returns how many, the lesser of both lengths.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let n = self.len.min(to.len());
        // SAFETY: both sides are valid for `n` bytes, and memory of a guest is never also a Rust slice. The guest may
        // write meanwhile: the bytes read are then arbitrary, which every caller has to expect anyway.
        unsafe { ptr::copy_nonoverlapping(self.ptr, to.as_mut_ptr(), n) };
        n
    }
}

/// Copies out of guest RAM. `from` must be valid for reads of `to.len()` bytes.
#[inline]
pub(crate) fn copy_out(from: *const u8, to: &mut [u8]) {
    // SAFETY: the callers in `map` translate and bound every pointer; see `copy_to` for concurrent writers.
    unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
}

/// Copies into guest RAM. `to` must be valid for writes of `from.len()` bytes.
#[inline]
pub(crate) fn copy_in(from: &[u8], to: *mut u8) {
    // SAFETY: as in `copy_out`, and only ranges mapped writable get here.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
}

/// Reads one aligned 64-bit word; everything written before its writer stored it is visible afterwards.
#[inline]
pub(crate) fn load_u64(from: *mut u8) -> u64 {
    debug_assert!(from.cast::<u64>().is_aligned());
    // SAFETY: translated, bounded and aligned by the caller.
    u64::from_le(unsafe { AtomicU64::from_ptr(from.cast()) }.load(Ordering::Acquire))
}

/// Writes one aligned 64-bit word after everything written before.
#[inline]
pub(crate) fn store_u64(to: *mut u8, value: u64) {
    debug_assert!(to.cast::<u64>().is_aligned());
    // SAFETY: translated, bounded and aligned by the caller, in a writable range.
    unsafe { AtomicU64::from_ptr(to.cast()) }.store(value.to_le(), Ordering::Release);
}

/// Writes one aligned 32-bit word after everything written before.
#[inline]
pub(crate) fn store_u32(to: *mut u8, value: u32) {
    debug_assert!(to.cast::<u32>().is_aligned());
    // SAFETY: translated, bounded and aligned by the caller, in a writable range.
    unsafe { AtomicU32::from_ptr(to.cast()) }.store(value.to_le(), Ordering::Release);
}

/// Writes one byte after everything written before.
#[inline]
pub(crate) fn store_u8(to: *mut u8, value: u8) {
    // SAFETY: translated and bounded by the caller, in a writable range.
    unsafe { AtomicU8::from_ptr(to) }.store(value, Ordering::Release);
}

//! Memory that is reached by asking somebody for it.

use std::fmt::Debug;

use thiserror::Error;

/// Why a transfer did not take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// The address range cannot be reached by DMA: nothing is mapped there, it may not be written, nobody can be asked
    /// for it, or it wraps around the end of the address space.
    #[error("guest memory at {addr:#x} cannot be reached")]
    Unreachable {
        /// First address of the access that failed.
        addr: u64,
    },
    /// The memory map is about to change: give up what was begun, let the epoch pass, and begin anew with the new map.
    #[error("interrupted by a change of the memory map")]
    Interrupted,
}

/// The other side of a range of guest memory that this process does not have mapped: a hypervisor that answers
/// messages, or an embedder's callback.
///
/// Only mapped memory can be lent; this is copied. A range of this kind may be read and written from several threads.
pub trait Remote: Send + Sync + Debug {
    /// Fills `to` from `addr`, and sees what was [written](Self::write) before.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError>;

    /// Takes `from` for `addr`. It arrives in the order of these calls and before any later [`read`](Self::read), but
    /// perhaps not before this returns: see [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// See [`DmaError`]: the bytes were not taken, and none of them will arrive. [`DmaError::Interrupted`] is for one who
    /// would have to wait for room to take them. An address that turns out to be wrong later is counted by whoever
    /// implements this.
    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError>;

    /// Waits until all that was written has arrived. A device calls this before it interrupts the guest, which expects
    /// to find in memory what the interrupt is about. Has to cost next to nothing if there is nothing to wait for: it
    /// is called for every burst of frames, wherever those went.
    ///
    /// # Errors
    ///
    /// [`DmaError::Interrupted`]: nothing is lost, but the arrival has to be waited for again.
    fn flush(&self) -> Result<(), DmaError>;

    /// Whether calls wait for somebody: then only a queue on a thread of its own may make them, never the thread that
    /// answers that somebody.
    fn blocks(&self) -> bool;
}

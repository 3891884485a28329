//! What a device does when its client talks to it.

use crate::pci::Command;

/// A region whose contents belong to the device. Configuration space is not among them, the server keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// A base address register's.
    Bar(u8),
    /// The expansion ROM.
    Rom,
}

/// Why a device starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetKind {
    /// The client sent DEVICE_RESET: the machine was reset.
    Message,
    /// The guest took the function from D3hot to D0.
    PowerState,
    /// The client is gone.
    Disconnected,
}

/// The control of a device. Its methods are called between receiving a request and replying to it, while a CPU of
/// the guest waits: they never block, and they cannot fail, since whatever a guest does has a result in hardware.
pub trait Handler {
    /// A read from `offset` of `region`, of any size and alignment, within the region. `data` comes filled with
    /// ones, which is what nobody answering looks like.
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]);

    /// A write to `offset` of `region`, of any size and alignment, within the region.
    fn write(&mut self, region: Region, offset: u64, data: &[u8]);

    /// The function's COMMAND register changed, by a write, a change of power state or (after
    /// [`reset`](Self::reset)) a reset. Outside D0 the device may do nothing, whatever the register says.
    fn command(&mut self, command: Command) {
        let _ = command;
    }

    /// The device is reset and lowers its interrupt line. Queues that use guest memory are to stop before the
    /// epoch that begins with this passes.
    fn reset(&mut self, kind: ResetKind);
}

//! What a device does when its client talks to it.

use thiserror::Error;

use crate::pci::Command;

/// A region whose contents belong to the device. Configuration space is not among them, the server keeps it.
/// Specification, "Region Information".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// A base address register's.
    Bar(u8),
    /// The expansion ROM.
    Rom,
}

/// Why a device starts over. Specification, "VFIO_USER_DEVICE_RESET".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetKind {
    /// The client sent DEVICE_RESET: the machine was reset.
    Message,
    /// The guest took the function from D3hot to D0.
    PowerState,
    /// The guest asked for a function level reset (PCI Express).
    FunctionLevel,
    /// The client is gone.
    Disconnected,
}

/// The two bits of PMCSR by which a function wakes its machine. PM 1.2, section 3.2.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pme {
    /// PME_En.
    pub enabled: bool,
    /// PME_Status.
    pub status: bool,
}

/// The control of a device. Its methods are called between receiving a request and replying to it, while a CPU of
/// the guest waits: they never block, and they cannot fail, since whatever a guest does has a result in hardware.
/// Specification, "Read and Write Operations".
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

    /// PME_En and PME_Status of a device that keeps them itself, over resets as it likes, for it sets them itself; asked
    /// whenever PMCSR is read or saved. Else configuration space keeps PME_En, and PME_Status is never set. There is no
    /// PME# in vfio-user: whatever they are, nobody is woken.
    fn pme(&mut self) -> Option<Pme> {
        None
    }

    /// The guest wrote PMCSR: PME_En is this now, and a 1 for PME_Status clears it. Before what the same write does
    /// to the power state; and when a state has been loaded.
    fn write_pme(&mut self, enabled: bool, clear_status: bool) {
        let _ = (enabled, clear_status);
    }

    /// The device is reset and lowers its interrupt line. Queues that use guest memory are to stop before the
    /// epoch that begins with this passes.
    fn reset(&mut self, kind: ResetKind);

    /// Whether queues have to see what has just been done before anything else is: then an epoch begins, and nothing
    /// further is executed before it has passed. Asked once after each [`write`](Self::write), each
    /// [`reset`](Self::reset) and each write to configuration space.
    fn settles(&mut self) -> bool {
        false
    }

    /// What saves and restores the device; none if it cannot be migrated, which is what the client is told then.
    fn migration(&mut self) -> Option<&mut dyn Migration> {
        None
    }
}

/// A state that a device cannot have, with the reason in words for the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the saved state cannot be restored: {0}")]
pub struct InvalidState(pub String);

/// A device that can be stopped, saved, and continued elsewhere. The server keeps the states of the protocol and saves
/// configuration space; this is about the rest. Specification, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE".
pub trait Migration {
    /// The device stops: queues are to leave guest memory and the outside alone before the epoch that begins with
    /// this passes. What the outside sends meanwhile waits there. Registers go on being answered.
    fn stop(&mut self);

    /// The stopped device goes on, perhaps with a state that was loaded.
    fn run(&mut self);

    /// Appends the state of the device, which is stopped and all of whose queues have passed the epoch of that.
    fn save(&mut self, to: &mut Vec<u8>);

    /// Takes over a state that [`save`](Self::save) has written, here or elsewhere, or anybody else: it is checked
    /// as if a guest had written it to the registers. The device is stopped.
    ///
    /// # Errors
    ///
    /// [`InvalidState`]; the device is as after a reset then.
    fn load(&mut self, state: &[u8]) -> Result<(), InvalidState>;
}

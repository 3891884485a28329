//! Interrupt delivery, through eventfds that the client hands over: the INTx line, MSI and MSI-X vectors, and the two
//! notices that VFIO knows beside them.
//!
//! Whoever completes work raises, on any thread, without a lock and without allocating. The control exchanges
//! eventfds and masks at the same time; no interrupt is lost by that.

mod eventfd;
mod line;
mod trigger;
mod vector;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use bitflags::bitflags;
use rustix::io::read;

use self::line::Line;
use self::vector::{BY_CLIENT, BY_GUEST, Vector};
use crate::wire::irq_index::{COUNT, ERR, INTX, MSI, MSIX, REQ};

bitflags! {
    /// What configuration space says about interrupts.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Mode: u32 {
        /// MSI is enabled, with 2 to the power of [`Mode::msi_order`] vectors.
        const MSI = 1 << 0;
        /// MSI-X is enabled.
        const MSIX = 1 << 1;
        /// MSI-X: all vectors are masked.
        const FUNCTION_MASK = 1 << 2;
        /// Messages may be sent.
        const BUS_MASTER = 1 << 3;
        /// INTx may not be asserted.
        const INTX_DISABLE = 1 << 4;
        const MSI_ORDER = 0b111 << 8;
    }
}

impl Mode {
    /// `order` is MSI's Multiple Message Enable, of three bits.
    pub(crate) fn with_msi_order(self, order: u8) -> Self {
        self | Self::from_bits_truncate(u32::from(order) << 8)
    }

    fn msi_order(self) -> u32 {
        (self & Self::MSI_ORDER).bits() >> 8
    }

    /// The index whose messages are in use. Both together are forbidden.
    fn index(self) -> Option<u32> {
        match self {
            _ if self.contains(Self::MSIX) => Some(MSIX),
            _ if self.contains(Self::MSI) => Some(MSI),
            _ => None,
        }
    }

    /// Whether a message of `index` may leave the function.
    fn sends(self, index: u32) -> bool {
        match index {
            MSIX => {
                self & (Self::MSIX | Self::FUNCTION_MASK | Self::BUS_MASTER)
                    == Self::MSIX | Self::BUS_MASTER
            }
            MSI => {
                self & (Self::MSIX | Self::MSI | Self::BUS_MASTER) == Self::MSI | Self::BUS_MASTER
            }
            _ => true,
        }
    }
}

/// The interrupts of one device, shared by whoever may raise them. Stays the same over connections.
/// Specification, "Interrupts".
///
/// A message that cannot be delivered now, because its vector or all of them are masked, bus mastering is off or the
/// client has given no eventfd for it (yet), stays pending and is delivered when it can be; it shows in the pending
/// bits of the device.
#[derive(Debug)]
pub struct IrqTable {
    mode: AtomicU32,
    line: Line,
    /// Of MSI, MSI-X, ERR and REQ.
    vectors: [Box<[Vector]>; COUNT as usize - 1],
}

impl Default for IrqTable {
    /// Those of a device without messages.
    fn default() -> Self {
        Self::new(|_| 0)
    }
}

impl IrqTable {
    /// As many interrupts as `count` says for each index.
    pub(crate) fn new(count: impl Fn(u32) -> u32) -> Self {
        let of = |index| (0..count(index)).map(|_| Vector::default()).collect();
        Self {
            mode: AtomicU32::new(0),
            line: Line::default(),
            vectors: [of(MSI), of(MSIX), of(ERR), of(REQ)],
        }
    }

    /// The device asserts its INTx line, or no longer does. Writes an eventfd if the client is to know;
    /// never blocks. Nobody hears of the line while MSI or MSI-X is enabled.
    pub fn set_level(&self, level: bool) {
        self.line.set_level(level);
    }

    /// Whether the device asserts its line.
    pub fn level(&self) -> bool {
        self.line.level()
    }

    /// Sends a message: MSI-X or MSI, whichever the guest has enabled. Never blocks. Does nothing if neither is (a
    /// device with an INTx line uses [`set_level`](Self::set_level) then), or if there is no such vector. If the guest
    /// has granted fewer MSI vectors than the device asked for, they share: the number is taken modulo the grant.
    pub fn raise(&self, vector: u32) {
        let mode = self.mode();
        if let Some((index, vector)) = self.find(mode, vector) {
            vector.raise(|| self.mode().sends(index));
        }
    }

    /// How many vectors the guest lets the device use; 0 while it uses neither MSI-X nor MSI.
    pub fn messages(&self) -> u32 {
        let mode = self.mode();
        match mode.index() {
            Some(MSI) => self.count(MSI).min(1 << mode.msi_order()),
            Some(index) => self.count(index),
            None => 0,
        }
    }

    /// Whether a message was raised and could not be delivered yet.
    pub fn is_pending(&self, vector: u32) -> bool {
        self.find(self.mode(), vector)
            .is_some_and(|(_, vector)| vector.is_pending())
    }

    /// Tells the client that the device has failed beyond repair (the ERR interrupt), if the device
    /// [has](crate::DeviceBuilder::err_irq) that notice. What the client does is its own affair; QEMU stops the guest.
    pub fn raise_error(&self) {
        self.notify(ERR);
    }

    /// Asks the client to let go of the device (the REQ interrupt), if the device
    /// [has](crate::DeviceBuilder::req_irq) that notice.
    pub fn request_release(&self) {
        self.notify(REQ);
    }

    /// Interrupts that were sent to clients so far.
    pub fn raised(&self) -> u64 {
        let vectors = self.vectors.iter().flatten().map(Vector::sent);
        self.line.sent() + vectors.sum::<u64>()
    }

    fn notify(&self, index: u32) {
        if let Some(vector) = self.vectors(index).first() {
            vector.raise(|| true);
        }
    }

    fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode.load(Ordering::Acquire))
    }

    fn find(&self, mode: Mode, vector: u32) -> Option<(u32, &Vector)> {
        let index = mode.index()?;
        let vector = match index {
            MSI => vector & ((1 << mode.msi_order()) - 1),
            _ => vector,
        };
        Some((index, self.vectors(index).get(vector as usize)?))
    }

    /// The vectors of an index, none for INTx.
    fn vectors(&self, index: u32) -> &[Vector] {
        match index {
            INTX => &[],
            _ => self
                .vectors
                .get(index as usize - 1)
                .map_or(&[], |vectors| vectors),
        }
    }

    fn count(&self, index: u32) -> u32 {
        self.vectors(index).len() as u32
    }
}

/// What the client and the guest do. All of it on the control's thread.
impl IrqTable {
    /// Configuration space changed. True if interrupts that could be sent before no longer can.
    pub(crate) fn set_mode(&self, mode: Mode) -> bool {
        let before = Mode::from_bits_truncate(self.mode.swap(mode.bits(), Ordering::AcqRel));
        let messages = mode.index().is_some();
        self.line
            .set_disabled(messages || mode.contains(Mode::INTX_DISABLE));
        if before == mode {
            return false;
        }
        let mut withdrawn = false;
        for (index, enabled) in [(MSI, Mode::MSI), (MSIX, Mode::MSIX)] {
            if (before - mode).contains(enabled) {
                self.vectors(index).iter().for_each(Vector::clear);
            }
            withdrawn |= before.sends(index) && !mode.sends(index);
            self.deliver(index);
        }
        withdrawn
    }

    /// The guest masks a vector with its mask bit, or no longer does. True if it could be sent before.
    pub(crate) fn set_guest_mask(&self, index: u32, vector: u32, masked: bool) -> bool {
        let Some(vector) = self.vectors(index).get(vector as usize) else {
            return false;
        };
        if masked {
            return vector.mask(BY_GUEST) && self.mode().sends(index);
        }
        vector.unmask(BY_GUEST);
        vector.deliver(|| self.mode().sends(index));
        false
    }

    /// The pending bits of 64 vectors of an index from number `64 * word` on.
    pub(crate) fn pending(&self, index: u32, word: usize) -> u64 {
        let vectors = self.vectors(index).chunks(64).nth(word).unwrap_or(&[]);
        let bits = vectors.iter().enumerate();
        bits.fold(0, |bits, (i, vector)| {
            bits | u64::from(vector.is_pending()) << i
        })
    }

    /// Appends what a guest would miss on another host: for each 64 vectors of MSI and MSI-X a word with those that it
    /// masks, and one with those that are pending.
    pub(crate) fn save(&self, to: &mut Vec<u8>) {
        for vectors in [MSI, MSIX]
            .iter()
            .flat_map(|&index| self.vectors(index).chunks(64))
        {
            let bits = |of: &dyn Fn(&Vector) -> bool| {
                let bits = vectors.iter().enumerate();
                bits.fold(0, |bits, (i, vector)| bits | u64::from(of(vector)) << i)
            };
            for word in [
                bits(&|vector| vector.is_masked(BY_GUEST)),
                bits(&Vector::is_pending),
            ] {
                to.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Takes over what [`save`](Self::save) of such a device has appended. Configuration space comes first.
    pub(crate) fn restore(&self, saved: &[u8]) {
        let (words, _) = saved.as_chunks();
        let mut words = words.iter().copied().map(u64::from_le_bytes);
        for index in [MSI, MSIX] {
            for vectors in self.vectors(index).chunks(64) {
                let (masked, pending) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
                for (i, vector) in vectors.iter().enumerate() {
                    match masked >> i & 1 {
                        0 => vector.unmask(BY_GUEST),
                        _ => drop(vector.mask(BY_GUEST)),
                    }
                    match pending >> i & 1 {
                        0 => vector.clear(),
                        _ => vector.make_pending(),
                    }
                }
            }
            self.deliver(index);
        }
    }

    /// The INTx line may rise again: the guest signalled end of interrupt.
    pub(crate) fn resampled(&self) {
        self.line.resampled();
    }

    /// SET_IRQS, TRIGGER with an eventfd: interrupts go there from now on. True if they went elsewhere before.
    pub(crate) fn set_trigger(&self, index: u32, number: u32, fd: Option<Arc<OwnedFd>>) -> bool {
        if index == INTX {
            return self.line.set_trigger(fd);
        }
        let Some(vector) = self.vectors(index).get(number as usize) else {
            return false;
        };
        let replaced = vector.set_trigger(fd);
        vector.deliver(|| self.mode().sends(index));
        replaced
    }

    /// SET_IRQS, TRIGGER without an eventfd: sends an interrupt whatever holds it back, the client tests its wiring.
    pub(crate) fn trigger_now(&self, index: u32, number: u32) {
        if index == INTX {
            self.line.trigger_now();
        } else if let Some(vector) = self.vectors(index).get(number as usize) {
            vector.trigger_now();
        }
    }

    /// SET_IRQS, MASK.
    pub(crate) fn mask(&self, index: u32, number: u32) {
        if index == INTX {
            self.line.mask();
        } else if let Some(vector) = self.vectors(index).get(number as usize) {
            vector.mask(BY_CLIENT);
        }
    }

    /// SET_IRQS, UNMASK.
    pub(crate) fn unmask(&self, index: u32, number: u32) {
        if index == INTX {
            self.line.unmask();
        } else if let Some(vector) = self.vectors(index).get(number as usize) {
            vector.unmask(BY_CLIENT);
            vector.deliver(|| self.mode().sends(index));
        }
    }

    /// SET_IRQS, all of an index torn down: no eventfd, no mask of the client's. What is pending stays so.
    pub(crate) fn disable_index(&self, index: u32) {
        if index == INTX {
            self.line.disable_index();
        }
        for vector in self.vectors(index) {
            vector.set_trigger(None);
            vector.unmask(BY_CLIENT);
        }
    }

    /// The client is gone, and with it everything that was its own.
    pub(crate) fn disconnect(&self) {
        for index in 0..COUNT {
            self.disable_index(index);
            self.vectors(index).iter().for_each(Vector::clear);
        }
    }

    fn deliver(&self, index: u32) {
        // One barrier for all: usually none of many vectors is pending.
        fence(Ordering::SeqCst);
        for vector in self.vectors(index) {
            if vector.is_pending() {
                vector.deliver(|| self.mode().sends(index));
            }
        }
    }
}

/// Empties an eventfd.
pub(crate) fn drain(fd: impl AsFd) {
    let mut count = [0; 8];
    // Nothing to read is fine: somebody else may read the same eventfd.
    let _ = read(fd, &mut count);
}

#[cfg(test)]
mod testing {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::read;

    pub(super) fn fd() -> Arc<OwnedFd> {
        Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap())
    }

    /// How often `fd` was written since the last time.
    pub(super) fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        match read(fd, &mut bytes) {
            Ok(8) => u64::from_ne_bytes(bytes),
            _ => 0,
        }
    }
}

// Not inside: the model check has the files by themselves.
#[cfg(test)]
mod line_tests;
#[cfg(test)]
mod vector_tests;

//! The interrupt line of a NIC, brought up to date by whichever thread has completed work.

use nic_emu::Time;

use super::turns::Turns;
use crate::sync::{AtomicU64, SeqCst};

/// What knows how the line is to be.
pub(crate) trait Logic {
    /// The level now. Asked by one thread at a time.
    fn poll(&self, now: Time) -> bool;
    /// How often it has risen.
    fn assertions(&self) -> u64;
}

/// Who is told.
pub(crate) trait Listener {
    /// The level of INTx.
    fn set_level(&self, level: bool);
    /// Messages are used, and not INTx.
    fn takes_messages(&self) -> bool;
    /// Sends one.
    fn message(&self);
}

/// Joins the model's interrupt logic with the hypervisor's eventfds.
///
/// To ask the model for the level and to tell the hypervisor are two steps, and between them another thread could take
/// both: then the older answer would stay. So one thread at a time does it, without anybody waiting.
#[derive(Debug)]
pub(crate) struct Line<M, L> {
    model: M,
    listener: L,
    turns: Turns,
    /// The latest time at which anybody came, in ns.
    now: AtomicU64,
    /// The last rise of the line that was sent as a message.
    sent: AtomicU64,
}

impl<M: Logic, L: Listener> Line<M, L> {
    pub(crate) fn new(model: M, listener: L) -> Self {
        Self {
            model,
            listener,
            turns: Turns::default(),
            now: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Who is told.
    pub(crate) fn listener(&self) -> &L {
        &self.listener
    }

    /// Shows the guest the line as it is now; when this returns, or on another thread soon after.
    pub(crate) fn update(&self, now: Time) {
        self.now.fetch_max(now.0, SeqCst);
        self.turns.have_done(|| {
            let now = Time(self.now.load(SeqCst));
            let level = self.model.poll(now);
            self.listener.set_level(level);
            if level && self.listener.takes_messages() {
                self.send_message();
            }
        });
    }

    /// MSI instead of INTx: one message whenever the line has risen, however short it was down.
    fn send_message(&self) {
        let rises = self.model.assertions();
        if self.sent.swap(rises, SeqCst) != rises {
            self.listener.message();
        }
    }
}

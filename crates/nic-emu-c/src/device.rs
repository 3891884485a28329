//! A NIC whose control and queues work within the calls of one owner.

use std::sync::Arc;

use guest_mem::{Access, GuestMem, Remote};
use nic_emu::Time;
use nic_emu::common::frame::{MAX_SUPER_FRAME, RxFrame, TxBurst, TxFrame};
use nic_emu::common::gso::Segments;
use nic_emu::e1000::rx::RxQueue;
use nic_emu::e1000::state::{InvalidState, State};
use nic_emu::e1000::tx::{Fetch, TxQueue};
use nic_emu::e1000::{self, Config, Control, Kick, ResetKind};

/// Bursts sent within one call; who has more is due at once.
const TX_BURSTS_PER_CALL: usize = 8;

/// Whoever embeds a NIC: its guest's memory, its network and its interrupt line.
pub(crate) trait Host: Remote {
    /// Takes one frame from the NIC; false if it has no room.
    fn transmit(&self, frame: &[u8]) -> bool;

    /// Puts the interrupt line to this level.
    fn interrupt(&self, level: bool);

    /// A frame that was not taken would be now.
    fn receive_ready(&self);

    /// PME# is asserted, or no longer.
    fn pme(&self, asserted: bool);
}

/// An 82540EM, its memory and its wire.
pub(crate) struct Nic {
    control: Control,
    tx: TxQueue,
    rx: RxQueue,
    mem: GuestMem,
    host: Arc<dyn Host>,
    now: Time,
    /// The transmit ring has work that no call has been long enough for.
    tx_ready: bool,
    /// The host takes no more frames.
    tx_blocked: bool,
    /// Segments that the host has of the frame at the front of the ring.
    tx_segments: usize,
    /// A frame of a restored state may wait for the receiver to go on.
    rx_ready: bool,
    /// The host waits for room.
    rx_paused: bool,
    /// The interrupt line as the host knows it.
    line: bool,
    /// PME# as the host knows it.
    pme: bool,
    /// One frame in host memory; empty until there is one.
    scratch: Vec<u8>,
}

impl Nic {
    /// A NIC after power-on, its cable not plugged in.
    pub(crate) fn new(config: &Config, host: Arc<dyn Host>) -> Nic {
        const HALF: u64 = 1 << 63;
        let (control, tx, rx) = e1000::new(config);
        // What is memory and what is not, only the host can tell. All of it is one range too long for a map.
        let mem = GuestMem::builder()
            .remote(0, HALF, Access::ReadWrite, host.clone())
            .remote(HALF, HALF, Access::ReadWrite, host.clone())
            .build()
            .expect("two halves make a whole");
        Nic {
            control,
            tx,
            rx,
            mem,
            host,
            now: Time::ZERO,
            tx_ready: false,
            tx_blocked: false,
            tx_segments: 0,
            rx_ready: false,
            rx_paused: false,
            line: false,
            pme: false,
            scratch: Vec::new(),
        }
    }

    /// The model, for questions that change nothing.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Reads a register; the guest may see it change something.
    pub(crate) fn read(&mut self, bar: u8, offset: u64, data: &mut [u8], now: Time) {
        let kick = self.begin(now);
        self.control.read(bar, offset, data, self.now);
        self.end(kick);
    }

    /// Writes a register, and does what that asks for.
    pub(crate) fn write(&mut self, bar: u8, offset: u64, data: &[u8], now: Time) {
        self.change(now, |control, now| control.write(bar, offset, data, now));
    }

    /// COMMAND.MASTER.
    pub(crate) fn set_bus_master(&mut self, on: bool, now: Time) {
        self.change(now, |control, _| control.set_bus_master(on));
    }

    /// A write of PME_En to PMCSR, with a 1 for PME_Status or not.
    pub(crate) fn write_pme(&mut self, enabled: bool, clear_status: bool, now: Time) {
        self.change(now, |control, _| control.write_pme(enabled, clear_status));
    }

    /// Plugs or pulls the cable.
    pub(crate) fn set_link(&mut self, up: bool, now: Time) {
        self.change(now, |control, now| control.set_link(up, now));
    }

    /// Resets the NIC.
    pub(crate) fn reset(&mut self, kind: ResetKind, now: Time) {
        self.change(now, |control, now| control.reset(kind, now));
    }

    /// Does what is due.
    pub(crate) fn run_timers(&mut self, now: Time) {
        let kick = self.begin(now);
        self.end(kick);
    }

    /// The host takes frames again.
    pub(crate) fn transmit_ready(&mut self, now: Time) {
        let kick = self.begin(now);
        self.tx_blocked = false;
        self.end(kick | Kick::TX);
    }

    /// When something is due by itself.
    pub(crate) fn deadline(&self) -> Option<Time> {
        if (self.tx_ready && !self.tx_blocked) || (self.rx_ready && self.rx.enabled()) {
            return Some(self.now);
        }
        let times = [
            self.control.deadline(),
            self.control.shared().irq.deadline(),
        ];
        times.into_iter().flatten().min()
    }

    /// Whether the next frame would be taken.
    pub(crate) fn can_receive(&self) -> bool {
        // A NIC that is off hears nothing, so nothing has to wait for it.
        !self.rx.enabled() || self.rx.has_room()
    }

    /// Gives the guest one frame, unless it has no room for it. Whether it was taken, which it also is if the guest
    /// does not want it.
    pub(crate) fn receive(&mut self, frame: &[u8], now: Time) -> bool {
        let kick = self.begin(now);
        let taken = self.can_receive();
        if taken {
            self.rx.deliver(&self.mem, RxFrame::new(frame), self.now);
        }
        self.rx_paused = !taken;
        self.end(kick);
        taken
    }

    /// What the NIC is, in bytes. The host hears nothing of it: its guest is stopped, its memory perhaps copied already.
    pub(crate) fn save(&mut self, now: Time) -> Vec<u8> {
        self.now = self.now.max(now);
        let state = State {
            control: self.control.save(self.now),
            tx: self.tx.save(),
            rx: self.rx.save(),
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        bytes
    }

    /// Becomes what has been saved, here or elsewhere. Bytes that are no state change nothing. The queues go on in the
    /// next call: the guest's memory may come later than this.
    pub(crate) fn restore(&mut self, bytes: &[u8], now: Time) -> Result<(), InvalidState> {
        let state = State::decode(bytes)?;
        self.now = self.now.max(now);
        self.control.restore(&state.control, self.now);
        let generation = self.control.shared().generation();
        self.tx.restore(&state.tx, generation);
        self.rx.restore(&state.rx, generation);
        self.tx_segments = 0;
        (self.tx_ready, self.rx_ready) = (true, true);
        self.update_line();
        Ok(())
    }

    fn change(&mut self, now: Time, what: impl FnOnce(&mut Control, Time) -> Kick) {
        let kick = self.begin(now);
        let more = what(&mut self.control, self.now);
        self.end(kick | more);
    }

    /// Lets time pass, which never runs backwards.
    fn begin(&mut self, now: Time) -> Kick {
        self.now = self.now.max(now);
        match self.control.deadline() {
            Some(deadline) if deadline <= self.now => self.control.run_timers(self.now),
            _ => Kick::empty(),
        }
    }

    /// Lets the queues work, then tells the host what has come of it.
    fn end(&mut self, kick: Kick) {
        if kick.contains(Kick::RESET) {
            self.tx_segments = 0;
        }
        self.tx_ready |= kick.intersects(Kick::TX | Kick::RESET);
        if self.tx_ready && !self.tx_blocked {
            self.transmit();
        }
        let restored = self.rx_ready && self.rx.enabled();
        if restored || kick.intersects(Kick::RX | Kick::RESET) {
            self.rx_ready = false;
            self.rx.resume(&self.mem, self.now);
        }
        // Memory that is reached by callbacks knows no epochs, so nothing is ever interrupted.
        let _ = self.rx.finish(&self.mem, self.now);
        if self.rx_paused && self.can_receive() {
            self.rx_paused = false;
            self.host.receive_ready();
        }
        self.update_line();
    }

    /// Tells the host which pins have changed.
    fn update_line(&mut self) {
        let pme = self.control.pme();
        let pme = pme.enabled && pme.status;
        if std::mem::replace(&mut self.pme, pme) != pme {
            self.host.pme(pme);
        }
        let level = self.control.shared().irq.poll(self.now);
        if std::mem::replace(&mut self.line, level) != level {
            self.host.interrupt(level);
        }
    }

    /// Sends what the ring holds, within the budget.
    fn transmit(&mut self) {
        // The burst borrows the map while the queues are at work; a clone costs three counts.
        let mem = self.mem.clone();
        self.tx_ready = false;
        for _ in 0..TX_BURSTS_PER_CALL {
            let mut burst = TxBurst::new();
            let fetch = self.tx.fetch(&mem, &mut burst, self.now);
            let mut taken = 0;
            for frame in burst.frames() {
                if burst.loopback() {
                    self.loop_back(&frame);
                } else if !self.send(frame) {
                    self.tx_blocked = true;
                    break;
                }
                taken += 1;
            }
            // As in `end`.
            let _ = self.tx.complete(&mem, &mut burst, taken, self.now);
            if self.tx_blocked {
                break;
            }
            if fetch != Fetch::More {
                return;
            }
        }
        self.tx_ready = true;
    }

    /// Gives the host what goes on the wire for `frame`; whether it took all of it. What it took, it is not offered again.
    /// Frames come to it without their FCS, so one whose FCS is wrong ends here.
    fn send(&mut self, frame: TxFrame<'_>) -> bool {
        if frame.offload.bad_fcs {
            return true;
        }
        self.scratch.resize(MAX_SUPER_FRAME, 0);
        if let Some(mut segments) = Segments::new(frame) {
            let mut number = 0;
            while let Some(len) = segments.next_into(&mut self.scratch) {
                number += 1;
                if number > self.tx_segments {
                    if !self.host.transmit(&self.scratch[..len]) {
                        return false;
                    }
                    self.tx_segments = number;
                }
            }
        }
        self.tx_segments = 0;
        true
    }

    /// Gives the NIC its own frame. With no buffer for it, it is lost, as in the silicon.
    fn loop_back(&mut self, frame: &TxFrame<'_>) {
        self.scratch.resize(MAX_SUPER_FRAME, 0);
        if self.rx.has_room()
            && let Some(len) = frame.copy_to(&mut self.scratch)
        {
            let data = &self.scratch[..len];
            let meta = frame.offload.into();
            self.rx.deliver(&self.mem, RxFrame { data, meta }, self.now);
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;

//! Memory that has to be asked for, by somebody who keeps count and who can be made to fail.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use guest_mem::{Access, DmaError, GuestMem, Remote};

use super::{RX_RING, TX_RING};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read(u64, usize),
    Write(u64, usize),
    Flush,
}

/// Stands for a hypervisor: what is written arrives as late as it may.
#[derive(Debug)]
pub struct Fake {
    ram: GuestMem,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    under_way: VecDeque<(u64, Vec<u8>)>,
    /// An epoch begins at the call with this number.
    epoch_at: Option<usize>,
    /// So many calls lie between this epoch and the next, which will be farther still.
    period: Option<usize>,
    epoch: bool,
    epochs: usize,
    /// These calls fail.
    refused: Range<usize>,
    /// Descriptors that were reported done although the driver had found them done before.
    reported_twice: usize,
}

impl Fake {
    pub fn new(ram: GuestMem) -> Arc<Self> {
        Arc::new(Self {
            ram,
            state: Mutex::default(),
        })
    }

    /// Memory of `len` bytes that is all reached through this.
    pub fn mem(self: &Arc<Self>, len: u64) -> GuestMem {
        GuestMem::builder()
            .remote(0, len, Access::ReadWrite, self.clone())
            .build()
            .unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An epoch begins at call number `call` from now.
    pub fn interrupt_at(&self, call: usize) {
        let mut state = self.state();
        state.epoch_at = Some(state.calls.len() + call);
    }

    /// Epochs begin every now and then, farther and farther apart so that all work ends.
    pub fn interrupt_often(&self) {
        self.state().period = Some(2);
        self.interrupt_at(2);
    }

    /// No more epochs.
    pub fn calm(&self) {
        let mut state = self.state();
        (state.epoch_at, state.period) = (None, None);
        assert!(!state.epoch);
    }

    /// Call number `call` from now fails, and so do the `count - 1` after it.
    pub fn refuse(&self, call: usize, count: usize) {
        let mut state = self.state();
        let first = state.calls.len() + call;
        state.refused = first..first + count;
    }

    /// The epoch passes. There has to be one: nobody may be told of one in vain.
    pub fn pass_epoch(&self) {
        let mut state = self.state();
        assert!(std::mem::take(&mut state.epoch), "there is no epoch");
        state.epochs += 1;
        if let Some(period) = state.period {
            state.period = Some(period + 3);
            state.epoch_at = Some(state.calls.len() + period);
        }
    }

    pub fn epochs(&self) -> usize {
        self.state().epochs
    }

    pub fn reported_twice(&self) -> usize {
        self.state().reported_twice
    }

    /// What was asked since this was last called.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Notes a call, and says what comes of it.
    fn call(&self, state: &mut State, call: Call, addr: u64) -> Result<(), DmaError> {
        let number = state.calls.len();
        state.calls.push(call);
        if state.epoch_at == Some(number) {
            state.epoch = true;
        }
        if state.epoch {
            return Err(DmaError::Interrupted);
        }
        if state.refused.contains(&number) {
            return Err(DmaError::Unreachable { addr });
        }
        Ok(())
    }

    fn arrive(&self, state: &mut State) {
        for (addr, bytes) in state.under_way.drain(..) {
            if [TX_RING, RX_RING].contains(&(addr & !0xfff)) {
                for (new, at) in bytes.chunks_exact(16).zip((addr..).step_by(16)) {
                    let mut old = [0; 16];
                    self.ram.read(at, &mut old).unwrap();
                    state.reported_twice += usize::from(old[12] & new[12] & 1);
                }
            }
            self.ram.write(addr, &bytes).unwrap();
        }
    }
}

impl Remote for Fake {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        let mut state = self.state();
        self.call(&mut state, Call::Read(addr, to.len()), addr)?;
        self.arrive(&mut state);
        self.ram.read(addr, to)
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        let mut state = self.state();
        self.call(&mut state, Call::Write(addr, from.len()), addr)?;
        state.under_way.push_back((addr, from.to_vec()));
        Ok(())
    }

    fn flush(&self) -> Result<(), DmaError> {
        let mut state = self.state();
        let called = self.call(&mut state, Call::Flush, 0);
        match called {
            Ok(()) => self.arrive(&mut state),
            // Whoever is gone has lost what was on its way.
            Err(DmaError::Unreachable { .. }) => state.under_way.clear(),
            Err(DmaError::Interrupted) => {}
        }
        called
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Memory that is asked for and answered at once, without any bookkeeping.
#[derive(Debug)]
pub struct AtOnce(pub GuestMem);

impl Remote for AtOnce {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.0.read(addr, to)
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        self.0.write(addr, from)
    }

    fn flush(&self) -> Result<(), DmaError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}

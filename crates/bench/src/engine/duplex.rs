//! Sending and receiving at the same time, by one thread or by two.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender as Channel, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_driver::Offload;
use guest_mem::GuestMem;
use net_backend::{Receiver, RxBuf, Sender};
use nic_emu::common::frame::RxFrame;
use nic_emu::e1000::Shared;
use nic_emu::e1000::rx::RxQueue;
use nic_emu_tests::background::wait_for;

use super::contenders::monotonic;
use super::{Engine, receive, transmit};
use crate::processors;
use crate::slices::Contender;
use crate::tap::Feeder;

/// What the receiving thread has.
struct Receiving {
    rx: Box<RxQueue>,
    mem: GuestMem,
    shared: Arc<Shared>,
    /// Without one, the same frame out of host memory.
    from: Option<Box<dyn Receiver>>,
    frame: Vec<u8>,
    buffer: RxBuf,
}

impl Receiving {
    fn run(&mut self) -> u64 {
        let Self {
            rx,
            mem,
            shared,
            from,
            frame,
            buffer,
        } = self;
        receive(rx, mem, shared, monotonic, |deliver, now| match from {
            None => {
                deliver(RxFrame::new(frame));
                true
            }
            Some(from) => from.recv(buffer, now).map(deliver).is_some(),
        })
    }
}

/// A NIC that sends a ring full of frames and receives as many.
pub struct Duplex {
    /// Its receive queue is elsewhere.
    engine: Engine,
    to: Box<dyn Sender>,
    packet: Vec<u8>,
    feeder: Option<Feeder>,
    frames: u64,
    receiving: Arc<Mutex<Receiving>>,
    helper: Helper,
}

impl Duplex {
    /// Sends `packet` to `to`, and receives what the feeder sends out of the TAP behind `from`, or the frame itself again
    /// and again. The second thread is on processor `other`.
    ///
    /// # Errors
    ///
    /// The kernel has no memory left.
    pub fn new(
        ring: u32,
        packet: &[u8],
        frame: &[u8],
        to: Box<dyn Sender>,
        from: Option<(Box<dyn Receiver>, Feeder)>,
        other: usize,
    ) -> io::Result<Self> {
        let mut engine = Engine::new(ring)?;
        let (from, feeder) = from.unzip();
        let receiving = Receiving {
            rx: std::mem::replace(
                &mut engine.rx,
                Box::new(RxQueue::new(engine.shared.clone())),
            ),
            mem: engine.mem.clone(),
            shared: engine.shared.clone(),
            from,
            frame: frame.to_owned(),
            buffer: RxBuf::new(),
        };
        let receiving = Arc::new(Mutex::new(receiving));
        Ok(Self {
            engine,
            to,
            packet: packet.to_owned(),
            feeder,
            frames: u64::from(ring) - 1,
            helper: Helper::new(receiving.clone(), other),
            receiving,
        })
    }

    fn prepare(&mut self) {
        self.engine.reap();
        if let Some(feeder) = &self.feeder {
            feeder.fill(self.frames);
        }
        let posted = self.engine.post(&self.packet, Offload::None);
        assert_eq!(posted, self.frames, "the ring was empty");
    }

    fn send(&mut self) -> u64 {
        let Engine {
            tx, mem, shared, ..
        } = &mut self.engine;
        let to = &mut *self.to;
        transmit(tx, mem, shared, monotonic, |burst, now| to.send(burst, now))
    }
}

/// The second thread. It sleeps while nothing is measured, and waits awake for the moment at which it starts.
struct Helper {
    /// Makes it wait awake for that round.
    wake: Channel<u64>,
    /// The round for which it is awake, that which has begun, that which it has ended.
    ready: Arc<AtomicU64>,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    round: u64,
}

impl Helper {
    fn new(receiving: Arc<Mutex<Receiving>>, cpu: usize) -> Self {
        let (wake, woken) = channel();
        let [ready, begun, ended, received] = [(); 4].map(|()| Arc::new(AtomicU64::new(0)));
        let words = [&ready, &begun, &ended, &received].map(Arc::clone);
        // Ends when the other end of the channel is dropped.
        std::thread::spawn(move || {
            let _ = processors::stay_on(&[cpu]);
            let [ready, begun, ended, received] = words;
            while let Ok(round) = woken.recv() {
                let mut receiving = receiving.lock().unwrap_or_else(PoisonError::into_inner);
                ready.store(round, Ordering::Release);
                wait_for(&begun, round);
                received.store(receiving.run(), Ordering::Relaxed);
                drop(receiving);
                ended.store(round, Ordering::Release);
            }
        });
        Self {
            wake,
            ready,
            begun,
            ended,
            received,
            round: 0,
        }
    }

    fn prepare(&mut self) {
        self.round += 1;
        self.wake.send(self.round).expect("the helper lives");
        wait_for(&self.ready, self.round);
    }

    fn begin(&self) {
        self.begun.store(self.round, Ordering::Release);
    }

    /// Waits for its end; how many frames it has received.
    fn end(&self) -> u64 {
        wait_for(&self.ended, self.round);
        self.received.load(Ordering::Relaxed)
    }
}

/// Both ways on this thread, one after the other.
pub struct OnOne<'d>(pub &'d RefCell<Duplex>);

/// Receiving on the second thread.
pub struct OnTwo<'d>(pub &'d RefCell<Duplex>);

impl Contender for OnOne<'_> {
    fn prepare(&mut self) {
        self.0.borrow_mut().prepare();
    }

    fn run(&mut self) -> u64 {
        let nic = &mut *self.0.borrow_mut();
        let sent = nic.send();
        let mut receiving = nic.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        let received = receiving.run();
        assert_eq!((sent, received), (nic.frames, nic.frames));
        sent + received
    }
}

impl Contender for OnTwo<'_> {
    fn prepare(&mut self) {
        let nic = &mut *self.0.borrow_mut();
        nic.prepare();
        nic.helper.prepare();
    }

    fn run(&mut self) -> u64 {
        let nic = &mut *self.0.borrow_mut();
        nic.helper.begin();
        let sent = nic.send();
        let received = nic.helper.end();
        assert_eq!((sent, received), (nic.frames, nic.frames));
        sent + received
    }
}

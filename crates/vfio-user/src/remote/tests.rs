use std::sync::Arc;
use std::thread;

use super::*;

/// A client that is asked, without a connection.
struct Desk {
    remote: Arc<RemoteMemory>,
    outbox: Outbox,
}

impl Desk {
    fn new(limit: usize) -> Self {
        let remote = Arc::new(RemoteMemory::default());
        remote.prepare().unwrap();
        remote.connect(limit);
        remote.set_bus_master(true);
        let outbox = Outbox::default();
        Self { remote, outbox }
    }

    /// The next command, waited for.
    fn next(&mut self) -> (Header, DmaAccess, Vec<u8>) {
        let start = Instant::now();
        while !self.outbox.is_ready() {
            self.remote.take_pending(&mut self.outbox);
            assert!(start.elapsed() < PATIENCE, "nothing is asked");
            thread::yield_now();
        }
        let (header, rest) = Header::read_from_prefix(self.outbox.next()).unwrap();
        let (access, rest) = DmaAccess::read_from_prefix(rest).unwrap();
        let data = rest[..header.size as usize - 32].to_vec();
        self.outbox.consume(header.size as usize);
        (header, access, data)
    }

    fn reply(&self, header: &Header, access: &DmaAccess, data: &[u8]) -> bool {
        let payload = [access.as_bytes(), data].concat();
        self.remote.answered(&header.reply(payload.len()), &payload) == Answer::Taken
    }
}

fn unreachable(addr: u64) -> DmaError {
    DmaError::Unreachable { addr }
}

#[test]
fn nobody_is_asked_who_cannot_answer() {
    let remote = RemoteMemory::default();
    let mut byte = [0];
    assert_eq!(remote.read(7, &mut byte), Err(unreachable(7)));
    remote.connect(1 << 20);
    assert_eq!(
        remote.read(7, &mut byte),
        Err(unreachable(7)),
        "no bus master"
    );
    remote.set_bus_master(true);
    remote.interrupt();
    assert_eq!(remote.read(7, &mut byte), Err(DmaError::Interrupted));
    assert_eq!(remote.flush(), Ok(()), "nothing was written");
    remote.disconnect();
    remote.resume();
    remote.connect(0);
    remote.set_bus_master(true);
    assert_eq!(remote.write(7, &byte), Err(unreachable(7)), "takes no data");
    let mut outbox = Outbox::default();
    remote.take_pending(&mut outbox);
    assert!(!outbox.is_ready());
}

#[test]
fn answers_go_to_whoever_asked() {
    let mut desk = Desk::new(1 << 20);
    let readers: Vec<_> = (0..8_u64)
        .map(|i| {
            let remote = desk.remote.clone();
            thread::spawn(move || {
                let mut data = [0; 8];
                remote.read(i << 12, &mut data).unwrap();
                assert_eq!(u64::from_le_bytes(data), i << 12);
            })
        })
        .collect();
    let mut asked: Vec<_> = (0..8).map(|_| desk.next()).collect();
    asked.reverse();
    for (header, access, _) in asked {
        assert!(desk.reply(&header, &access, &access.address.to_le_bytes()));
    }
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(desk.remote.counters().reads, 8);
}

#[test]
fn wrong_answers_are_refusals() {
    let mut desk = Desk::new(1 << 20);
    type Spoil = fn(&mut Header, &mut Vec<u8>);
    let answers: [Spoil; 7] = [
        |header, _| header.flags |= header_flags::ERROR,
        |header, _| header.command = command::DMA_WRITE,
        |_, payload| payload.truncate(31),
        |_, payload| payload.truncate(15),
        |_, payload| payload.clear(),
        |_, payload| payload[0] ^= 1,
        |_, payload| payload[8..16].copy_from_slice(&u64::MAX.to_le_bytes()),
    ];
    for (i, spoil) in answers.iter().enumerate() {
        let remote = desk.remote.clone();
        let reader = thread::spawn(move || remote.read(0x1000, &mut [0; 16]));
        let (header, access, _) = desk.next();
        let mut reply = header.reply(32);
        let mut payload = [access.as_bytes(), &[5; 16]].concat();
        spoil(&mut reply, &mut payload);
        assert_eq!(desk.remote.answered(&reply, &payload), Answer::Taken);
        assert_eq!(reader.join().unwrap(), Err(unreachable(0x1000)));
        assert_eq!(desk.remote.counters().refused, i as u64 + 1);
    }
}

#[test]
fn an_interrupted_reader_returns_and_its_answer_comes_late() {
    let mut desk = Desk::new(1 << 20);
    let remote = desk.remote.clone();
    let reader = thread::spawn(move || remote.read(0, &mut [0; 4]));
    let (header, access, _) = desk.next();
    desk.remote.interrupt();
    assert_eq!(reader.join().unwrap(), Err(DmaError::Interrupted));
    assert!(desk.reply(&header, &access, &[1; 4]), "late, and swallowed");
    assert!(desk.reply(&header, &access, &[1; 4]), "and again");
    desk.remote.resume();
    let remote = desk.remote.clone();
    let reader = thread::spawn(move || remote.read(0, &mut [0; 4]));
    let (second, access, _) = desk.next();
    assert_ne!(second.id, header.id);
    assert!(desk.reply(&second, &access, &[2; 4]));
    assert_eq!(reader.join().unwrap(), Ok(()));
}

#[test]
fn writes_do_not_wait_until_too_many_are_under_way() {
    let mut desk = Desk::new(1 << 20);
    for i in 0..WRITES as u64 {
        desk.remote.write(i, &[i as u8]).unwrap();
    }
    let remote = desk.remote.clone();
    let writer = thread::spawn(move || remote.write(0x1000, &[1]).and_then(|()| remote.flush()));
    for i in 0..WRITES as u64 {
        let (header, access, data) = desk.next();
        assert_eq!((access.address, &data[..]), (i, &[i as u8][..]), "in order");
        assert!(!desk.outbox.is_ready() || i + 1 < WRITES as u64);
        assert!(!writer.is_finished());
        assert!(desk.reply(&header, &access, &[]));
    }
    let (header, access, _) = desk.next();
    assert_eq!(access.address, 0x1000);
    assert!(!writer.is_finished(), "flush waits");
    assert!(desk.reply(&header, &access, &[]));
    assert_eq!(writer.join().unwrap(), Ok(()));
    assert_eq!(desk.remote.counters().writes, WRITES as u64 + 1);
}

#[test]
fn writes_are_not_lost_to_an_epoch_and_still_bounded() {
    let desk = Desk::new(1 << 20);
    desk.remote.interrupt();
    let data = vec![0; 60 << 10];
    let mut taken = 0;
    while desk.remote.write(0, &data).is_ok() {
        taken += 1;
        assert!(taken < 1000);
    }
    assert_eq!(taken, MOST_WRITE_BYTES / data.len() + 1);
    assert_eq!(desk.remote.flush(), Err(DmaError::Interrupted));
    // Small ones are bounded by their number.
    let desk = Desk::new(1 << 20);
    desk.remote.interrupt();
    assert_eq!(
        (0..)
            .take_while(|i| desk.remote.write(*i, &[0]).is_ok())
            .count(),
        MOST
    );
}

#[test]
fn a_client_that_leaves_takes_all_questions_along() {
    let mut desk = Desk::new(1 << 20);
    desk.remote.write(0, &[1]).unwrap();
    let remote = desk.remote.clone();
    let flusher = thread::spawn(move || remote.flush());
    let remote = desk.remote.clone();
    let reader = thread::spawn(move || remote.read(0x2000, &mut [0; 4]));
    let mut read = None;
    while read.is_none() {
        let (header, access, _) = desk.next();
        read = (header.command == command::DMA_READ).then_some((header, access));
    }
    let (header, access) = read.unwrap();
    desk.remote.disconnect();
    assert_eq!(reader.join().unwrap(), Err(unreachable(0x2000)));
    assert_eq!(flusher.join().unwrap(), Err(unreachable(0)));
    assert_eq!(desk.remote.counters().lost, 1, "the write");
    desk.remote.connect(1 << 20);
    desk.remote.set_bus_master(true);
    assert!(
        !desk.reply(&header, &access, &[0; 4]),
        "the next client was not asked"
    );
}

#[test]
fn a_silent_client_is_not_asked_again_before_it_answers() {
    let mut desk = Desk::new(1 << 20);
    let start = Instant::now();
    assert_eq!(desk.remote.read(0, &mut [0; 4]), Err(unreachable(0)));
    assert!(start.elapsed() >= PATIENCE);
    let start = Instant::now();
    assert_eq!(desk.remote.read(0, &mut [0; 4]), Err(unreachable(0)));
    assert_eq!(desk.remote.write(0, &[0; 4]), Err(unreachable(0)));
    assert!(start.elapsed() < PATIENCE, "at once");
    assert_eq!(desk.remote.counters().lost, 1);
    let (header, access, _) = desk.next();
    assert!(desk.reply(&header, &access, &[0; 4]));
    desk.remote.write(0, &[0; 4]).unwrap();
}

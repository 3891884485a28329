//! Memory files that are not the guest's memory: found out by reading the same bytes by message.

mod common;

use std::os::fd::{AsFd, OwnedFd};

use common::peer::{Got, Peer};
use common::{Rig, dma_map, memfd};
use guest_mem::DmaError;
use vfio_user::wire::command;

const SIZE: u64 = 0x10_0000;
const MULTIPLE: &str = r#"{"capabilities":{"write_multiple":true}}"#;

/// A client with memory in a file, and the bytes that its guest sees.
struct Guest {
    peer: Peer,
    file: OwnedFd,
    sees: Vec<u8>,
}

impl Guest {
    fn new(rig: &Rig, json: &str, fill: impl Fn(usize) -> u8) -> Self {
        let (mut peer, _) = Peer::connect(&rig.path, json);
        let file = memfd(SIZE);
        let sees: Vec<u8> = (0..SIZE as usize).map(fill).collect();
        let map = dma_map(3, 0, 0, SIZE);
        let reply = peer.ask(command::DMA_MAP, &map, &[file.as_fd()]);
        assert_eq!(reply.header.error, 0);
        Self { peer, file, sees }
    }

    /// As a hypervisor with `share=on`.
    fn shared(self) -> Self {
        rustix::io::pwrite(&self.file, &self.sees, 0).unwrap();
        self
    }

    /// Lets the device use the bus, or not, and answers what it asks for; returns how many questions there were.
    fn enable(&mut self, on: bool) -> usize {
        let value = if on { 7 } else { 3 };
        let write = [&common::access(7, 4, 1)[..], &[value]].concat();
        let id = self.peer.send(command::REGION_WRITE, &write, &[]);
        let (mut asked, mut replied) = (0, false);
        while let Some(got) = self.soon() {
            match got.header.command {
                command::DMA_READ => {
                    self.answer(&got);
                    asked += 1;
                }
                _ => {
                    assert_eq!((got.header.id, got.header.error), (id, 0));
                    replied = true;
                }
            }
        }
        assert!(replied);
        asked
    }

    fn answer(&mut self, got: &Got) {
        let access = got.dma().0;
        let data = &self.sees[access.address as usize..][..access.count as usize];
        self.peer.reply(got, data);
    }

    fn soon(&mut self) -> Option<Got> {
        let limit = |ms| Some(std::time::Duration::from_millis(ms));
        self.peer.stream.set_read_timeout(limit(100)).unwrap();
        let got = self.peer.try_next();
        self.peer.stream.set_read_timeout(limit(10_000)).unwrap();
        got
    }

    /// What a queue reads, by message if need be.
    fn read(&mut self, rig: &Rig, addr: u64) -> Result<[u8; 4], DmaError> {
        let mem = rig.mem.load();
        let queue = std::thread::spawn(move || {
            let mut data = [0; 4];
            mem.read(addr, &mut data).map(|()| data)
        });
        while !queue.is_finished() {
            if let Some(got) = self.soon() {
                self.answer(&got);
            }
        }
        queue.join().unwrap()
    }
}

#[test]
fn shared_memory_is_found_to_be_shared_once() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |i| (i >> 12) as u8 | 1).shared();
    let asked = guest.enable(true);
    assert!((4..=64).contains(&asked), "{asked}");
    guest.enable(false);
    assert_eq!(guest.enable(true), 0, "settled");
    // Still without messages.
    assert!(rig.mem.load().nonblocking().read(0, &mut [0; 4]).is_ok());
}

#[test]
fn a_private_copy_is_found_out_and_memory_reached_by_messages() {
    let rig = Rig::start();
    // The file stays as it was made: all zeros.
    let mut guest = Guest::new(&rig, MULTIPLE, |i| (i >> 12) as u8 | 1);
    let asked = guest.enable(true);
    assert_eq!(asked, 3, "the same page three times");
    let mut byte = [0];
    assert!(rig.mem.load().nonblocking().read(0, &mut byte).is_err());
    assert_eq!(guest.read(&rig, 0x5000).unwrap(), [5; 4]);
    guest.enable(false);
    assert_eq!(guest.enable(true), 0, "settled");
    // The next client is a different matter.
    drop(guest);
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 9).shared();
    assert!(guest.enable(true) > 0);
    assert!(rig.mem.load().nonblocking().read(0, &mut byte).is_ok());
}

/// As with a file that another machine's memory was restored from: most of it is as it was.
#[test]
fn one_page_that_differs_is_enough() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 7).shared();
    guest.sees[0x8000..0x9000].fill(8);
    assert!(guest.enable(true) > 3);
    assert_eq!(guest.read(&rig, 0x8000).unwrap(), [8; 4]);
}

#[test]
fn memory_that_is_all_zeros_says_nothing() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 0);
    let asked = guest.enable(true);
    assert!(asked > 3);
    guest.enable(false);
    assert_eq!(guest.enable(true), asked, "again");
    assert!(rig.mem.load().nonblocking().read(0, &mut [0]).is_ok());
    guest.sees.fill(1);
    guest.enable(false);
    assert_eq!(guest.enable(true), 3);
    assert!(rig.mem.load().nonblocking().read(0, &mut [0]).is_err());
}

#[test]
fn memory_that_changes_meanwhile_says_nothing() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 0);
    let write = [&common::access(7, 4, 1)[..], &[7]].concat();
    guest.peer.send(command::REGION_WRITE, &write, &[]);
    let mut count = 0_u8;
    while let Some(got) = guest.soon() {
        if got.header.command == command::DMA_READ {
            // The guest writes to the page, before and after it is read.
            let addr = got.dma().0.address;
            count += 1;
            guest.sees[addr as usize] = count;
            rustix::io::pwrite(&guest.file, &[count + 1], addr).unwrap();
            guest.answer(&got);
        }
    }
    assert!(count > 3);
    assert!(rig.mem.load().nonblocking().read(0, &mut [0]).is_ok());
}

#[test]
fn who_refuses_is_asked_once_each_time() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 1);
    let write = [&common::access(7, 4, 1)[..], &[7]].concat();
    guest.peer.send(command::REGION_WRITE, &write, &[]);
    let mut asked = 0;
    while let Some(got) = guest.soon() {
        if got.header.command == command::DMA_READ {
            guest.peer.refuse(&got, 19);
            asked += 1;
        }
    }
    assert_eq!(asked, 1);
    assert!(rig.mem.load().nonblocking().read(0, &mut [0]).is_ok());
}

#[test]
fn who_says_nothing_holds_nothing_up() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, MULTIPLE, |_| 1);
    for _ in 0..100 {
        for value in [7, 3] {
            let write = [&common::access(7, 4, 1)[..], &[value]].concat();
            let id = guest.peer.send(command::REGION_WRITE, &write, &[]);
            while guest.peer.next().header.id != id {}
        }
    }
    let mut questions = 0;
    while guest.soon().is_some() {
        questions += 1;
    }
    assert!(questions <= 16, "bounded: {questions}");
}

#[test]
fn clients_that_do_not_answer_are_not_asked() {
    let rig = Rig::start();
    let mut guest = Guest::new(&rig, r#"{"capabilities":{"max_msg_fds":1}}"#, |_| 1);
    assert_eq!(guest.enable(true), 0);
    assert!(rig.mem.load().nonblocking().read(0, &mut [0]).is_ok());
}

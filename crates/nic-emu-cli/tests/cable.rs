//! Two NICs on one switch: whatever the one is asked to cut arrives at the other as if it had been cut there.

mod support;

use std::cell::RefCell;

use guest_driver::e1000::Headers;
use guest_driver::packet::{Packet, fcs};
use guest_driver::regs::{CTRL, ctrl, rctl};
use guest_driver::socket::Socket;
use guest_driver::{Bus, Config, E1000, Offload, desc};
use nic_emu::e1000::regs::Reg;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use support::Served;

const PATIENCE: u64 = 60_000_000_000;
const TAG: [u8; 4] = [0x81, 0x00, 0x60, 0x05];
/// Without FCS; a tag does not raise it.
const LONGEST_WITHOUT_LPE: usize = 1518;

/// What the driver asks for with a packet.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Nothing,
    Checksum,
    Segments(u16),
}

#[derive(Clone, Debug)]
struct Sent {
    ipv6: bool,
    tcp: bool,
    tagged: bool,
    ask: Ask,
    len: usize,
    seed: u32,
}

fn packets() -> impl Strategy<Value = Vec<Sent>> {
    let ask = prop_oneof![
        1 => Just((Ask::Nothing, 1460)),
        1 => Just((Ask::Checksum, 1460)),
        3 => (200u16..3000).prop_map(|mss| (Ask::Segments(mss), 60_000)),
    ];
    let sent = (
        any::<[bool; 3]>(),
        ask,
        any::<prop::sample::Index>(),
        any::<u32>(),
    )
        .prop_map(|([ipv6, udp, tagged], (ask, most), len, seed)| Sent {
            ipv6,
            tcp: matches!(ask, Ask::Segments(_)) || !udp,
            tagged,
            ask,
            len: 1 + len.index(most),
            seed,
        });
    prop::collection::vec(sent, 1..8)
}

impl Sent {
    /// As the driver hands it over, and the frames that it stands for.
    fn build(&self, to: [u8; 6], from: [u8; 6]) -> (Vec<u8>, Offload, Vec<Vec<u8>>) {
        let packet = Packet::new(to, from, self.ipv6, self.tcp, self.len, self.seed);
        let (mut frame, mut offload, mut wire) = match self.ask {
            Ask::Nothing => (packet.finished(), Offload::None, vec![packet.finished()]),
            Ask::Checksum => {
                let (frame, offload) = packet.for_checksum();
                (frame, offload, vec![packet.finished()])
            }
            Ask::Segments(mss) => {
                let (frame, offload) = packet.for_segmentation(mss);
                (frame, offload, packet.segments(mss))
            }
        };
        if self.tagged {
            let tag = |frame: &mut Vec<u8>| drop(frame.splice(12..12, TAG));
            tag(&mut frame);
            wire.iter_mut().for_each(tag);
            if let Offload::Checksum(headers) | Offload::Segment { headers, .. } = &mut offload {
                let Headers {
                    ip, l4, payload, ..
                } = headers;
                for at in [ip, l4, payload] {
                    *at += TAG.len() as u8;
                }
            }
        }
        (frame, offload, wire)
    }
}

/// Two guests, and what the second one's NIC is set to.
struct Pair {
    from: E1000<Socket>,
    to: E1000<Socket>,
    long: bool,
    strips: bool,
    /// Frames that the second one has had to take, and those that it has refused.
    good: u32,
    refused: u32,
}

impl Pair {
    fn new(daemon: &Served, long: bool, strips: bool) -> Self {
        let open = |nic, rctl| {
            let bus = Socket::connect(daemon.socket(nic)).expect("a NIC");
            let config = Config {
                rctl,
                ..Config::default()
            };
            E1000::start(bus, config).expect("it works")
        };
        let from = open(0, rctl::BAM);
        let mut to = open(1, rctl::BAM | if long { rctl::LPE } else { 0 });
        if strips {
            let control = to.bus.read32(CTRL);
            to.bus.write32(CTRL, control | ctrl::VME);
        }
        Self {
            from,
            to,
            long,
            strips,
            good: 0,
            refused: 0,
        }
    }

    /// Sends the packets and takes what arrives, byte for byte.
    fn pass(&mut self, packets: &[Sent]) {
        let built = packets
            .iter()
            .map(|sent| sent.build(self.to.mac, self.from.mac));
        let (frames, wires): (Vec<_>, Vec<_>) = built
            .map(|(frame, offload, wire)| ((frame, offload), wire))
            .unzip();
        let (longest, strips) = (LONGEST_WITHOUT_LPE, self.strips);
        let (fit, refused): (Vec<_>, Vec<_>) = wires
            .concat()
            .into_iter()
            .partition(|frame| self.long || frame.len() <= longest);
        self.good += fit.len() as u32;
        self.refused += refused.len() as u32;

        let mut frames = frames.iter().peekable();
        let mut buffer = vec![0; 16384];
        let deadline = self.to.bus.now() + PATIENCE;
        for mut want in fit {
            want.resize(want.len().max(60), 0);
            let sum = fcs(&want);
            let tagged = want[12..14] == TAG[..2];
            if tagged && strips {
                want.drain(12..16);
            }
            let got = loop {
                if let Some((frame, offload)) = frames.peek()
                    && self.from.send(frame, *offload)
                {
                    frames.next();
                }
                if let Some(got) = self.to.receive(&mut buffer) {
                    break got;
                }
                assert!(self.to.bus.now() < deadline, "a frame is missing");
            };
            assert!(buffer[..got.len] == want, "other bytes have come");
            assert_eq!(got.fcs, Some(sum));
            let vp = got.last.status & desc::RX_VP != 0;
            assert_eq!(vp, tagged && strips);
            assert!(!vp || got.last.special.to_be_bytes() == TAG[2..]);
        }
        while let Some((frame, offload)) = frames.peek() {
            match self.from.send(frame, *offload) {
                true => drop(frames.next()),
                false => assert!(self.to.bus.now() < deadline, "the ring stays full"),
            }
        }
        assert!(self.from.flush(PATIENCE));
    }

    fn register(nic: &mut E1000<Socket>, reg: Reg) -> u32 {
        nic.bus.read32(reg.offset())
    }
}

/// Runs random packets through, and compares what both NICs and the network between them have counted.
fn arrives_as_cut(long: bool, strips: bool) {
    let daemon = Served::with(&["net=switch,switch=a"; 2]);
    let pair = RefCell::new(Pair::new(&daemon, long, strips));
    let (packets_sent, asked) = (RefCell::new(0), packets());
    let runs = Runs {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Runs::with_cases(40)
    };
    let run = TestRunner::new(runs).run(&asked, |packets| {
        *packets_sent.borrow_mut() += packets.len();
        pair.borrow_mut().pass(&packets);
        Ok(())
    });
    run.expect("all of it arrives");
    let Pair {
        mut from,
        mut to,
        good,
        refused,
        ..
    } = pair.into_inner();
    let mut seen = 0;
    let all = guest_driver::bus::until(&mut to.bus, PATIENCE, |bus| {
        seen += bus.read32(Reg::TPR.offset());
        seen == good + refused
    });
    assert!(all, "{seen} of {}", good + refused);
    assert_eq!(Pair::register(&mut from, Reg::GPTC), good + refused);
    assert_eq!(Pair::register(&mut to, Reg::GPRC), good);
    assert_eq!(Pair::register(&mut to, Reg::ROC), refused);
    assert_eq!(Pair::register(&mut to, Reg::MPC), 0);
    assert!(long == (refused == 0), "{refused} refused");
    drop((from, to));
    let log = daemon.terminate();
    // Whole on the way.
    let way = format!("_frames={} ", packets_sent.into_inner());
    let segments = format!("_segments={} ", good + refused);
    for counted in [
        format!("tx{way}tx{segments}"),
        format!("rx{way}rx{segments}"),
    ] {
        assert!(log.contains(&counted), "no {counted}: {log}");
    }
}

#[test]
fn super_frames_arrive_as_if_they_had_been_cut_by_their_sender() {
    arrives_as_cut(true, false);
}

#[test]
fn so_they_do_where_tags_are_stripped_and_long_frames_refused() {
    arrives_as_cut(false, true);
}

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use nic_emu::common::frame::{Offload, RxCsum};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::*;
use crate::IpPrefix;
use crate::netlink::Requests;
use crate::testing::*;

const NOW: Time = Time(1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn named(name: &str) -> TapOptions {
    TapOptions {
        ifname: name.into(),
        ..TapOptions::default()
    }
}

fn bridged(name: &str) -> TapOptions {
    TapOptions {
        bridge: Some("br0".into()),
        ..named(name)
    }
}

fn with_ip(name: &str) -> TapOptions {
    TapOptions {
        ip: Some(IpPrefix {
            addr: HOST.into(),
            len: 24,
        }),
        ..named(name)
    }
}

fn error(options: &TapOptions) -> String {
    Tap::create(options).map(drop).unwrap_err().to_string()
}

fn requests() -> Requests {
    Requests::open().unwrap()
}

/// Waits for a frame that `wanted` recognises; others (of IPv6 autoconfiguration, say) are passed over.
fn expect(tap: &mut Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buf = RxBuf::new();
    loop {
        while let Some(frame) = tap.rx.recv(&mut buf, NOW) {
            if wanted(frame.data) {
                assert!(!matches!(frame.meta.csum, RxCsum::Partial(_)) && frame.meta.gso.is_none());
                return frame.data.to_vec();
            }
        }
        assert!(readable(tap.rx.fd().unwrap()), "no such frame");
    }
}

/// Waits until the link is as wanted, by nothing but its descriptor.
fn expect_link(tap: &mut Tap, up: bool) {
    while tap.rx.link() != up {
        assert!(readable(tap.rx.link_fd().unwrap()), "no news of the link");
    }
}

#[test]
fn a_tap_is_made_brought_up_and_removed() {
    in_netns(|| {
        let options = TapOptions {
            mtu: Some(9000),
            txqueuelen: Some(77),
            ..with_ip("tap%d")
        };
        let mut tap = Tap::create(&options).unwrap();
        assert_eq!(tap.ifname(), "tap0");
        let link = requests().link_by_name("tap0").unwrap();
        assert_eq!(Some(link.index), tap.index());
        assert!(link.is_up());
        assert_eq!((link.mtu, link.txqueuelen), (Some(9000), Some(77)));
        assert!(
            requests()
                .has_address(link.index, options.ip.unwrap())
                .unwrap()
        );
        assert!(tap.rx.link());
        assert!(tap.rx.fd().is_some());
        drop(tap);
        assert!(requests().link_by_name("tap0").is_err());
    });
}

#[test]
fn an_ipv6_address_can_be_used_at_once() {
    in_netns(|| {
        let ip = IpPrefix {
            addr: "fd00::1".parse().unwrap(),
            len: 64,
        };
        let options = TapOptions {
            ip: Some(ip),
            ..named("tap0")
        };
        let _tap = Tap::create(&options).unwrap();
        UdpSocket::bind("[fd00::1]:0").unwrap();
    });
}

#[test]
fn the_link_follows_the_interface() {
    in_netns(|| {
        let mut tap = Tap::create(&named("tap0")).unwrap();
        // One more interface, whose changes are not ours.
        let mut other = Tap::create(&named("tap1")).unwrap();
        let index = tap.index().unwrap();
        expect_link(&mut tap, true);
        requests().set_down(index).unwrap();
        expect_link(&mut tap, false);
        let frame = udp((MAC_A, GUEST), (MAC_B, HOST), [1, 2], b"x");
        send(&mut tap.tx, &[frame], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_dropped, 1);
        assert_eq!(tap.rx.tap.counters.counters().tx_frames, 0);
        drain(&mut tap.rx, NOW);
        assert!(tap.rx.fd().is_some(), "down is not gone");
        requests().set_up(index).unwrap();
        expect_link(&mut tap, true);
        let frame = udp((MAC_A, GUEST), (MAC_B, HOST), [1, 2], b"x");
        send(&mut tap.tx, &[frame], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_frames, 1);
        requests().set_carrier(index, false).unwrap();
        expect_link(&mut tap, false);
        requests().set_carrier(index, true).unwrap();
        expect_link(&mut tap, true);
        // All is taken in: nothing keeps the descriptor readable.
        std::thread::sleep(Duration::from_millis(50));
        tap.rx.link();
        requests().set_down(other.index().unwrap()).unwrap();
        assert!(!readable_within(
            tap.rx.link_fd().unwrap(),
            Duration::from_millis(50)
        ));
        expect_link(&mut other, false);
    });
}

#[test]
fn lost_news_are_asked_for_again() {
    in_netns(|| {
        let mut tap = Tap::create(&named("tap0")).unwrap();
        let index = tap.index().unwrap();
        // More than the socket holds; nobody reads meanwhile.
        for _ in 0..300 {
            requests().set_down(index).unwrap();
            requests().set_up(index).unwrap();
        }
        requests().set_down(index).unwrap();
        expect_link(&mut tap, false);
        while readable_within(tap.rx.link_fd().unwrap(), Duration::ZERO) {
            tap.rx.link();
        }
        assert!(!tap.rx.link());
    });
}

/// There is no FCS on a TAP by which the host could tell.
#[test]
fn a_frame_with_a_wrong_fcs_is_dropped_and_counted() {
    in_netns(|| {
        let mut tap = Tap::create(&named("tap0")).unwrap();
        expect_link(&mut tap, true);
        let frame = udp((MAC_A, GUEST), (MAC_B, HOST), [1, 2], b"x");
        let requests = [true, false].map(|bad_fcs| {
            let offload = Offload {
                bad_fcs,
                ..Offload::default()
            };
            (frame.clone(), offload)
        });
        assert_eq!(tap.tx.send(&burst(&requests), NOW), 2);
        let counters = tap.rx.tap.counters.counters();
        assert_eq!((counters.tx_dropped, counters.tx_frames), (1, 1));
    });
}

#[test]
fn a_deleted_tap_is_noticed_and_silent() {
    in_netns(|| {
        let mut tap = Tap::create(&named("tap0")).unwrap();
        requests().delete_link(tap.index().unwrap()).unwrap();
        expect_link(&mut tap, false);
        assert!(readable(tap.rx.fd().unwrap()));
        assert!(drain(&mut tap.rx, NOW).is_empty());
        assert!(tap.rx.is_gone() && tap.tx.is_gone());
        send(&mut tap.tx, &[pattern(60)], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_dropped, 1);
        assert!(!tap.rx.link());
    });
}

#[test]
fn frames_go_both_ways() {
    in_netns(|| {
        let mut tap = Tap::create(&with_ip("tap0")).unwrap();
        let mac: [u8; 6] = sys::tun_hwaddr(tap.rx.tap.tun.as_fd()).unwrap();
        let socket = UdpSocket::bind((HOST, 7000)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();

        // From the host: complete, and not longer than the MTU.
        let payload = pattern(1472);
        socket
            .send_to(&payload, (Ipv4Addr::BROADCAST, 7001))
            .unwrap();
        let frame = expect(&mut tap, |f| f[12..14] == [8, 0]);
        assert_eq!(frame.len(), 1514);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[42..], payload);
        assert!(checksums_fit(&frame));
        let seen = tap.rx.tap.counters.counters();
        assert!(seen.rx_frames >= 1 && seen.rx_bytes >= 1514);

        // To the host: complete, and with its checksum left to do.
        let complete = udp((MAC_A, GUEST), (mac, HOST), [7001, 7000], &payload);
        let requests = [
            (complete.clone(), Offload::default()),
            leave_udp_checksum(&complete),
        ];
        assert_eq!(tap.tx.send(&burst(&requests), NOW), 2);
        let mut buf = [0; 2000];
        for _ in 0..2 {
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!(buf[..len], payload);
            assert_eq!(from, (GUEST, 7001).into());
        }
        assert_eq!(tap.rx.tap.counters.counters().tx_frames, 2);
        assert_eq!(tap.rx.tap.counters.counters().tx_dropped, 0);
        // Shorter than an Ethernet header: the kernel refuses it.
        send(&mut tap.tx, &[vec![0; 10]], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_dropped, 1);
    });
}

/// Through a bridge and out of another TAP, which takes super-frames as well. The kernel's hint how long the headers are
/// knows nothing of a tag.
#[test]
fn super_frames_pass_a_bridge_whole() {
    in_netns(|| {
        requests().add_bridge("br0").unwrap();
        let mut from = Tap::create(&bridged("tap0")).unwrap();
        let mut to = Tap::create(&bridged("tap1")).unwrap();
        expect_link(&mut from, true);
        expect_link(&mut to, true);
        let (plain, offload) = tcp_super(5000, 1448, &pattern(60_000));
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        let mut shifted = offload;
        shifted.csum.as_mut().unwrap().start += 4;
        shifted.gso.as_mut().unwrap().hdr_len += 4;
        for request in [(plain, offload), (tagged, shifted)] {
            let mut buf = RxBuf::new();
            let mut came = None;
            // A bridge port forwards as soon as the interface's queue is running: send until something comes out.
            for _ in 0..1000 {
                assert_eq!(from.tx.send(&burst(std::slice::from_ref(&request)), NOW), 1);
                std::thread::sleep(Duration::from_millis(20));
                let before = to.rx.tap.counters.counters();
                while let Some(received) = to.rx.recv(&mut buf, NOW) {
                    if received.data == request.0 {
                        came = Some((received.meta, received.segments(), before));
                        break;
                    }
                }
                if came.is_some() {
                    break;
                }
            }
            let (meta, segments, before) = came.expect("it never came");
            assert_eq!((meta, segments), (request.1.into(), 42));
            let after = to.rx.tap.counters.counters();
            let frames = after.rx_frames - before.rx_frames;
            assert_eq!(after.rx_segments - before.rx_segments, frames + 41);
            drain(&mut to.rx, NOW);
        }
    });
}

/// The same where the kernel has to do what the sender left undone.
#[test]
fn super_frames_come_out_of_a_bridge_in_complete_segments() {
    in_netns(|| {
        requests().add_bridge("br0").unwrap();
        let mut from = Tap::create(&bridged("tap0")).unwrap();
        let complete = TapOptions {
            offload: false,
            ..bridged("tap1")
        };
        let mut to = Tap::create(&complete).unwrap();
        let bridge = requests().link_by_name("br0").unwrap().index;
        assert_eq!(
            requests().link_by_name("tap1").unwrap().master,
            Some(bridge)
        );
        expect_link(&mut from, true);
        expect_link(&mut to, true);
        let payload = pattern(60_000);
        let request = tcp_super(5000, 1448, &payload);
        let ours = |f: &[u8]| f[..6] == MAC_B && f[12..14] == [8, 0];
        // A bridge port forwards as soon as the interface's queue is running: send until something comes out, then
        // wait for the rest of it.
        let mut segments = Vec::new();
        for _ in 0..500 {
            if segments.is_empty() {
                assert_eq!(from.tx.send(&burst(std::slice::from_ref(&request)), NOW), 1);
            }
            std::thread::sleep(Duration::from_millis(20));
            segments.extend(drain(&mut to.rx, NOW).into_iter().filter(|f| ours(f)));
            if segments.len() >= 42 {
                break;
            }
        }
        assert_eq!(60_000usize.div_ceil(1448), 42);
        assert!(segments.len() >= 42, "{} came out", segments.len());
        segments.truncate(42);
        assert_eq!(tcp_payload(5000, &segments), payload);
        assert_eq!(from.rx.tap.counters.counters().tx_dropped, 0);
        assert_eq!(
            from.rx.tap.counters.counters().tx_segments,
            42 * from.rx.tap.counters.counters().tx_frames
        );

        let complete = udp((MAC_A, GUEST), (MAC_B, HOST), [1, 2], &pattern(999));
        assert_eq!(
            from.tx.send(&burst(&[leave_udp_checksum(&complete)]), NOW),
            1
        );
        assert_eq!(expect(&mut to, ours), complete);
    });
}

/// UDP segmentation is done in software, whatever the kernel knows.
#[test]
fn udp_super_frames_are_cut_here() {
    in_netns(|| {
        let mut tap = Tap::create(&with_ip("tap0")).unwrap();
        let mac: [u8; 6] = sys::tun_hwaddr(tap.rx.tap.tun.as_fd()).unwrap();
        let socket = UdpSocket::bind((HOST, 7000)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let payload = pattern(2500);
        let complete = udp((MAC_A, GUEST), (mac, HOST), [7001, 7000], &payload);
        let (frame, mut offload) = leave_udp_checksum(&complete);
        offload.gso = Some(nic_emu::common::frame::Gso {
            kind: nic_emu::common::frame::GsoKind::UdpL4,
            hdr_len: 42,
            mss: 1000,
        });
        assert_eq!(tap.tx.send(&burst(&[(frame, offload)]), NOW), 1);
        let mut buf = [0; 3000];
        for want in payload.chunks(1000) {
            let len = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], want);
        }
        assert_eq!(tap.rx.tap.counters.counters().tx_segments, 3);
    });
}

#[test]
fn mistakes_end_in_one_sentence() {
    in_netns(|| {
        let tap = Tap::create(&named("tap0")).unwrap();
        assert_eq!(
            error(&named("tap0")),
            "TAP tap0 is in use by another process or NIC; end that one, or choose another name"
        );
        requests().add_bridge("br0").unwrap();
        assert!(
            error(&named("br0")).starts_with("interface br0 exists but is no TAP with one queue")
        );
        for name in ["", "a-name-too-long!", "a b", "a/b", ".."] {
            assert!(
                error(&named(name)).contains("cannot be the name of a TAP"),
                "{name}"
            );
        }
        let bridge = |name: &str| TapOptions {
            bridge: Some(name.into()),
            ..named("tap9")
        };
        assert_eq!(
            error(&bridge("br7")),
            "bridge br7 does not exist; create it with `ip link add br7 type bridge`"
        );
        assert_eq!(
            error(&bridge("tap0")),
            "interface tap0 is no bridge, so TAP tap9 cannot be put on it; name a bridge"
        );
        let prefix = TapOptions {
            ip: Some(IpPrefix {
                addr: HOST.into(),
                len: 33,
            }),
            ..named("tap9")
        };
        assert!(error(&prefix).starts_with("the prefix length of 10.1.0.1/33 is too large"));
        // None of them has left anything behind.
        assert!(requests().link_by_name("tap9").is_err());
        drop(tap);
    });
}

fn open_tun(name: &str, flags: i32) -> OwnedFd {
    let tun = rustix::fs::open("/dev/net/tun", OFlags::RDWR, Mode::empty()).unwrap();
    sys::tun_set_iff(tun.as_fd(), name, flags).unwrap();
    tun
}

const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

#[test]
fn an_inherited_tap_is_used() {
    in_netns(|| {
        let outer = open_tun("tap0", FLAGS);
        sys::tun_set_vnet_hdr_size(outer.as_fd(), 12).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&outer);
        let fd = sys::inherit_fd(number).unwrap();
        let mut tap = Tap::from_fd(fd, &with_ip("")).unwrap();
        assert_eq!(tap.ifname(), "tap0");
        expect_link(&mut tap, true);
        let socket = UdpSocket::bind((HOST, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket
            .send_to(b"hello", (Ipv4Addr::BROADCAST, 7001))
            .unwrap();
        let frame = expect(&mut tap, |f| f[12..14] == [8, 0]);
        assert_eq!(&frame[42..47], b"hello");
        drop(tap);
        // It is not ours to remove.
        assert!(requests().link_by_name("tap0").is_ok());

        let refused = |fd| {
            Tap::from_fd(fd, &TapOptions::default())
                .map(drop)
                .unwrap_err()
                .to_string()
        };
        let plain = open_tun("tap1", libc::IFF_TAP | libc::IFF_NO_PI);
        assert!(
            refused(plain).starts_with("the inherited TAP tap1 was opened with the wrong flags")
        );
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert!(refused(null).starts_with("the inherited file descriptor is no TAP"));
        assert!(sys::inherit_fd(9999).is_err() && sys::inherit_fd(-1).is_err());
    });
}

#[test]
fn a_tap_of_another_namespace_works_without_its_carrier() {
    in_netns(|| {
        let fd = open_tun("tap0", FLAGS);
        enter_netns().unwrap();
        // One of the same name is not taken for it.
        let _namesake = Tap::create(&named("tap0")).unwrap();
        let refused = Tap::from_fd(fd.try_clone().unwrap(), &with_ip(""));
        let text = refused.map(drop).unwrap_err().to_string();
        assert!(
            text.starts_with("TAP tap0 is in another network namespace"),
            "{text}"
        );
        let mut tap = Tap::from_fd(fd, &TapOptions::default()).unwrap();
        assert!(tap.rx.link() && tap.rx.link_fd().is_none() && tap.index().is_none());
        // It was never brought up there.
        send(&mut tap.tx, &[pattern(60)], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_dropped, 1);
    });
}

fn drop_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).unwrap();
}

#[test]
fn a_tap_made_beforehand_needs_no_privilege() {
    in_netns(|| {
        requests().add_bridge("br0").unwrap();
        for name in ["tap0", "tap1", "tap2"] {
            let tap = Tap::create(&named("tap%d")).unwrap();
            assert_eq!(tap.ifname(), name);
            sys::tun_set_persist(tap.rx.tap.tun.as_fd(), true).unwrap();
        }
        let options = TapOptions {
            bridge: Some("br0".into()),
            mtu: Some(1400),
            ..with_ip("tap0")
        };
        drop(Tap::create(&options).unwrap());
        let tap2 = requests().link_by_name("tap2").unwrap().index;
        requests().set_down(tap2).unwrap();
        let foreign = Tap::create(&named("tap3")).unwrap();
        // In a user namespace there is no second user.
        let owned = sys::tun_set_owner(foreign.rx.tap.tun.as_fd(), 12345).is_ok();
        assert!(owned || std::env::var_os(IN_USER_NAMESPACE).is_some());
        sys::tun_set_persist(foreign.rx.tap.tun.as_fd(), true).unwrap();
        drop(foreign);
        drop_capabilities();

        // All that is asked for is so already.
        let mut tap = Tap::create(&options).unwrap();
        expect_link(&mut tap, true);
        let frame = udp((MAC_A, GUEST), (MAC_B, HOST), [1, 2], b"x");
        send(&mut tap.tx, &[frame], NOW);
        assert_eq!(tap.rx.tap.counters.counters().tx_frames, 1);
        // A TAP that is down stays so until somebody else changes it.
        let mut down = Tap::create(&named("tap2")).unwrap();
        assert!(!down.rx.link());
        // What is new is not allowed, and the sentence says which command helps.
        assert_eq!(
            error(&with_ip("tap1")),
            "no permission to configure TAP tap1; run as root, or run `ip address add 10.1.0.1/24 dev tap1` beforehand"
        );
        assert!(error(&bridged("tap1")).contains("`ip link set tap1 master br0`"));
        let denied = error(&named("tap9"));
        assert_eq!(
            denied,
            "no permission to create or open TAP tap9; run as root, or create it beforehand with \
             `ip tuntap add dev tap9 mode tap user $USER`"
        );
        if owned {
            assert!(error(&named("tap3")).starts_with("no permission to create or open TAP tap3"));
        }
    });
}

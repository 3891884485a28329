use super::*;
use proptest::prelude::*;

fn link_message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
    let mut message = Message::link(kind, index, flags, 0);
    message.attribute(libc::IFLA_IFNAME, b"tap0\0");
    message.attribute(libc::IFLA_MTU, &1500u32.to_ne_bytes());
    message.finish(7).to_vec()
}

#[test]
fn a_link_is_read_back() {
    let bytes = link_message(libc::RTM_NEWLINK, 5, 1);
    let part = Messages(&bytes).next().unwrap();
    let link = parse_link(part.body).unwrap();
    assert_eq!(part.sequence, 7);
    assert_eq!(link.index, 5);
    assert_eq!(link.name, b"tap0");
    assert_eq!(link.mtu, Some(1500));
    assert!(link.is_up() && !link.has_carrier());
}

#[test]
fn the_last_word_on_our_interface_counts() {
    let carrier = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
    let mut bytes = link_message(libc::RTM_NEWLINK, 5, 1);
    bytes.extend(link_message(libc::RTM_NEWLINK, 5, carrier));
    bytes.extend(link_message(libc::RTM_DELLINK, 6, 0));
    assert_eq!(judge(5, &bytes), Some(true));
    assert_eq!(judge(6, &bytes), Some(false));
    assert_eq!(judge(7, &bytes), None);
}

#[test]
fn an_address_is_read_back() {
    let ip = IpPrefix {
        addr: "fd00::1".parse().unwrap(),
        len: 64,
    };
    let mut message = Message::address(libc::RTM_NEWADDR, 3, ip);
    message.attribute(
        libc::IFA_ADDRESS,
        &"fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
    );
    let bytes = message.finish(1);
    assert_eq!(
        parse_address(Messages(bytes).next().unwrap().body),
        Some((3, ip))
    );
}

proptest! {
    #[test]
    fn no_bytes_upset_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        judge(5, &bytes);
        parse_link(&bytes);
        parse_address(&bytes);
    }

    #[test]
    fn a_damaged_message_does_not_upset_the_parser(
        at in 0usize..52,
        value: u8,
        cut in 0usize..=52,
    ) {
        let mut bytes = link_message(libc::RTM_NEWLINK, 5, 1);
        bytes[at] = value;
        let cut = cut.min(bytes.len());
        // However it is damaged, each step consumes something.
        prop_assert!(Messages(&bytes[..cut]).count() <= bytes.len());
        judge(5, &bytes[..cut]);
    }
}

//! Segmentation against an independent reference that builds each segment from scratch.

use proptest::prelude::*;

use super::super::frame::{Csum, Offload, TxBurst};
use super::*;

/// A flow from which both the super-frame and each expected segment are built.
#[derive(Clone, Debug)]
struct Flow {
    tags: usize,
    kind: GsoKind,
    v6: bool,
    options: usize,
    seq: u32,
    id: u16,
    flags: u8,
    payload: Vec<u8>,
    mss: usize,
}

impl Flow {
    fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    fn l4_header(&self) -> usize {
        if self.kind == GsoKind::UdpL4 {
            8
        } else {
            20 + 4 * self.options
        }
    }

    fn headers(&self) -> usize {
        self.l4() + self.l4_header()
    }

    fn csum_offset(&self) -> usize {
        if self.kind == GsoKind::UdpL4 { 6 } else { 16 }
    }

    fn protocol(&self) -> u8 {
        if self.kind == GsoKind::UdpL4 { 17 } else { 6 }
    }

    /// The frame that a sender without any offload would send with these bytes.
    fn packet(&self, seq: u32, id: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![0x52, 0x54, 0, 1, 2, 3, 0x52, 0x54, 0, 4, 5, 6];
        for _ in 0..self.tags {
            f.extend([0x81, 0, 0x20, 0x64]);
        }
        let l4_len = (self.l4_header() + payload.len()) as u16;
        let (src, dst): (Vec<u8>, Vec<u8>);
        if self.v6 {
            (src, dst) = ((1..17).collect(), (21..37).collect());
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(l4_len.to_be_bytes());
            f.extend([self.protocol(), 64]);
        } else {
            (src, dst) = (vec![10, 0, 0, 1], vec![10, 0, 0, 2]);
            f.extend([8, 0, 0x45, 0]);
            f.extend((20 + l4_len).to_be_bytes());
            f.extend(id.to_be_bytes());
            f.extend([0x40, 0, 64, self.protocol(), 0, 0]);
        }
        f.extend(&src);
        f.extend(&dst);
        if !self.v6 {
            let sum = naive(&f[self.l3()..self.l4()]);
            put(&mut f, self.l3() + 10, !sum);
        }
        if self.kind == GsoKind::UdpL4 {
            f.extend([0x10, 0, 0x20, 0]);
            f.extend(l4_len.to_be_bytes());
            f.extend([0, 0]);
        } else {
            f.extend([0x10, 0, 0x20, 0]);
            f.extend(seq.to_be_bytes());
            f.extend([1, 2, 3, 4]);
            f.extend([
                ((5 + self.options) as u8) << 4,
                flags,
                0xff,
                0xff,
                0,
                0,
                0,
                0,
            ]);
            f.extend(std::iter::repeat_n(1, 4 * self.options));
        }
        f.extend(payload);
        let mut pseudo = [src, dst].concat();
        pseudo.extend([0, self.protocol()]);
        pseudo.extend(l4_len.to_be_bytes());
        pseudo.extend(&f[self.l4()..]);
        let value = match (!naive(&pseudo), self.kind) {
            (0, GsoKind::UdpL4) => 0xffff,
            (value, _) => value,
        };
        let at = self.l4() + self.csum_offset();
        put(&mut f, at, value);
        f
    }

    /// The super-frame as Linux hands it to a virtio-net device.
    fn super_frame(&self) -> (Vec<u8>, Offload) {
        let mut f = self.packet(self.seq, self.id, self.flags, &self.payload);
        let field = self.l4() + self.csum_offset();
        // From the full checksum back to the pseudo header's sum.
        let full = !get(&f, field);
        put(&mut f, field, 0);
        let rest = naive(&f[self.l4()..]);
        put(&mut f, field, checksum::add(full, !rest));
        let offload = Offload {
            csum: Some(Csum {
                start: self.l4() as u16,
                offset: self.csum_offset() as u16,
            }),
            gso: Some(Gso {
                kind: self.kind,
                hdr_len: self.headers() as u16,
                mss: self.mss as u16,
            }),
            bad_fcs: false,
        };
        (f, offload)
    }

    fn expected(&self) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(self.mss).collect();
        let mut seq = self.seq;
        let mut out = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut flags = self.flags;
            if i + 1 < chunks.len() {
                flags &= !0x09;
            }
            if i > 0 {
                flags &= !0x80;
            }
            out.push(self.packet(seq, self.id.wrapping_add(i as u16), flags, chunk));
            seq = seq.wrapping_add(chunk.len() as u32);
        }
        out
    }
}

fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum fields may differ as 0 and 0xffff do; nothing else may.
fn same(flow: &Flow, got: &[u8], want: &[u8]) -> bool {
    let field = flow.l4() + flow.csum_offset();
    let (a, b) = (get(got, field), get(want, field));
    got.len() == want.len()
        && got[..field] == want[..field]
        && got[field + 2..] == want[field + 2..]
        && a % 0xffff == b % 0xffff
        && (flow.kind != GsoKind::UdpL4 || a != 0)
}

fn flows() -> impl Strategy<Value = Flow> {
    (
        0usize..3,
        prop::sample::select(vec![
            (GsoKind::TcpV4, false),
            (GsoKind::TcpV6, true),
            (GsoKind::UdpL4, false),
            (GsoKind::UdpL4, true),
        ]),
        0usize..11,
        any::<(u32, u16, u8)>(),
        prop::collection::vec(any::<u8>(), 1..5000),
        // More segments than this makes are refused.
        3usize..3000,
    )
        .prop_map(
            |(tags, (kind, v6), options, (seq, id, flags), payload, mss)| Flow {
                tags,
                kind,
                v6,
                options,
                seq,
                id,
                flags,
                payload,
                mss,
            },
        )
}

fn segments(bytes: &[u8], head: usize, cuts: &[usize], offload: Offload) -> Option<Vec<Vec<u8>>> {
    let mut burst = TxBurst::new();
    let mut body = Vec::new();
    let mut from = head;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let cut = cut.clamp(from, bytes.len());
        body.push(GuestSlice::from_bytes(&bytes[from..cut]));
        from = cut;
    }
    assert!(burst.push_frame(&bytes[..head], &body, offload));
    let mut segments = Segments::new(burst.frame(0))?;
    let mut buffer = vec![0xaa; segments.max_len()];
    let mut out = Vec::new();
    while let Some(len) = segments.next_into(&mut buffer) {
        out.push(buffer[..len].to_vec());
    }
    assert_eq!(out.len(), segments.count());
    Some(out)
}

proptest! {
    #[test]
    fn segments_are_what_a_sender_without_offload_sends(
        flow in flows(),
        extra in 0usize..20,
        mut cuts in prop::collection::vec(0usize..5200, 0..5),
    ) {
        cuts.sort_unstable();
        let (frame, offload) = flow.super_frame();
        let head = (flow.headers() + extra).min(frame.len());
        let got = segments(&frame, head, &cuts, offload).expect("valid");
        let want = flow.expected();
        prop_assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            prop_assert!(same(&flow, got, want), "\n{:02x?}\n{:02x?}", got, want);
        }
    }

    /// The first segments of a super-frame are a super-frame, which becomes just these.
    #[test]
    fn a_shortened_super_frame_has_the_same_first_segments(flow in flows(), count in 1usize..100) {
        let (mut frame, offload) = flow.super_frame();
        let want = flow.expected();
        let layout = Layout::parse(&frame, frame.len(), &offload).expect("valid");
        let len = layout.shorten(&mut frame, count);
        frame.truncate(len);
        let got = segments(&frame, flow.headers(), &[], offload).expect("valid");
        prop_assert_eq!(got.len(), want.len().min(count));
        for (got, want) in got.iter().zip(&want) {
            prop_assert!(same(&flow, got, want), "\n{:02x?}\n{:02x?}", got, want);
        }
    }

    /// Whatever the headers and the request say: no panic, and no more bytes than there are.
    #[test]
    fn any_request_on_any_bytes_ends(
        flow in flows(),
        flips in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
        hdr_len in prop::option::of(0u16..400),
        mss: u16,
        csum in prop::option::of(any::<(u16, u16)>()),
        head in 14usize..300,
    ) {
        let (mut frame, mut offload) = flow.super_frame();
        for (at, value) in flips {
            let at = at % frame.len();
            frame[at] = value;
        }
        if let (Some(hdr_len), Some(gso)) = (hdr_len, &mut offload.gso) {
            gso.hdr_len = hdr_len;
            gso.mss = mss;
        }
        if let Some((start, offset)) = csum {
            offload.csum = Some(Csum { start, offset });
        }
        let head = head.min(frame.len());
        if let Some(got) = segments(&frame, head, &[], offload) {
            let payload: usize = got.iter().map(|s| s.len()).sum::<usize>();
            prop_assert!(payload <= frame.len() * (got.len() + 1));
        }
        offload.gso = None;
        prop_assert_eq!(segments(&frame, head, &[], offload).expect("one frame").len(), 1);
    }
}

#[test]
fn a_plain_frame_gets_its_checksum() {
    let flow = Flow {
        tags: 0,
        kind: GsoKind::TcpV4,
        v6: false,
        options: 0,
        seq: 1,
        id: 1,
        flags: 0x18,
        payload: b"odd".to_vec(),
        mss: 1000,
    };
    let (frame, mut offload) = flow.super_frame();
    offload.gso = None;
    let got = segments(&frame, 54, &[], offload).unwrap();
    assert!(same(&flow, &got[0], &flow.expected()[0]));
}

#[test]
fn a_last_segment_says_its_real_length() {
    let flow = Flow {
        tags: 0,
        kind: GsoKind::TcpV4,
        v6: false,
        options: 3,
        seq: 0xffff_ff00,
        id: 0xffff,
        flags: 0x19,
        payload: vec![7; 1448 * 2 + 5],
        mss: 1448,
    };
    let (frame, offload) = flow.super_frame();
    let got = segments(&frame, flow.headers(), &[], offload).unwrap();
    assert_eq!(get(&got[2], 16), 20 + 32 + 5);
    assert_eq!(
        got.iter().map(|s| s[47] & 0x09).collect::<Vec<_>>(),
        [0, 0, 9]
    );
}

#[test]
fn nobody_is_kept_busy_with_tiny_segments() {
    let super_frame = |mss: usize| {
        let flow = Flow {
            tags: 0,
            kind: GsoKind::TcpV6,
            v6: true,
            options: 0,
            seq: 1,
            id: 1,
            flags: 0x10,
            payload: vec![1; 8 * MAX_SEGMENTS],
            mss,
        };
        let (frame, offload) = flow.super_frame();
        segments(&frame, flow.headers(), &[], offload)
    };
    assert_eq!(
        super_frame(8).map(|segments| segments.len()),
        Some(MAX_SEGMENTS)
    );
    assert_eq!(super_frame(7), None);
}

#[test]
fn a_short_buffer_ends_the_iteration() {
    let frame = [0; 60];
    let mut burst = TxBurst::new();
    assert!(burst.push_frame(&frame, &[], Offload::default()));
    let mut segments = Segments::new(burst.frame(0)).unwrap();
    assert_eq!(segments.next_into(&mut [0; 59]), None);
    assert_eq!(segments.next_into(&mut [0; 60]), Some(60));
    assert_eq!(segments.next_into(&mut [0; 60]), None);
}

//! What nearly every frame is: one to the station address that is received as it came. Told from the rest before
//! [`judge`](super::judge::judge) is asked, which would say the same.

use super::super::regs::{Reg, Regs};
use super::judge::{self, How, MAC_CONTROL, Size};
use crate::common::filter;
use crate::common::frame::{ETH_HEADER, RxFrame};

/// All registers that have a say in that.
const REGISTERS: [Reg; 6] = [
    Reg::RCTL,
    Reg::VET,
    Reg::FCT,
    Reg::RAL,
    Reg::RAH,
    Reg::RXCSUM,
];

/// What these registers say of such a frame, worked out again when one of them has changed.
#[derive(Debug, Default)]
pub(super) struct Plain {
    seen: [u32; REGISTERS.len()],
    /// The station address, if frames to it are received.
    station: Option<[u8; 6]>,
    how: How,
}

impl Plain {
    /// How the frame is written, if it is such a one.
    #[inline]
    pub(super) fn how(&mut self, regs: &Regs, frame: &RxFrame<'_>, size: Size) -> Option<How> {
        let now = REGISTERS.map(|reg| regs.get(reg));
        let changed = now.iter().zip(&self.seen);
        if changed.fold(0, |all, (now, seen)| all | (now ^ seen)) != 0 {
            self.learn(now);
        }
        let [control, vlan, flow, ..] = now;
        let header: &[u8; ETH_HEADER] = frame.data.first_chunk()?;
        let kind = u32::from(u16::from_be_bytes([header[12], header[13]]));
        let special = kind == vlan || kind == flow || kind == u32::from(MAC_CONTROL);
        let plain = header.first_chunk() == self.station.as_ref()
            && !special
            && !frame.meta.bad_fcs
            && size.longest <= judge::limit(control);
        plain.then_some(self.how)
    }

    #[cold]
    fn learn(&mut self, now: [u32; REGISTERS.len()]) {
        let [control, _, _, low, high, checksums] = now;
        self.seen = now;
        self.station = filter::station((low, high));
        self.how = How::plain(control, checksums);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::super::Shared;
    use super::super::super::bits::{rctl, rxcsum};
    use super::super::super::part::Part;
    use super::*;
    use crate::Time;
    use crate::common::frame::RxMeta;

    const STATION: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const LOW: u32 = 0x1200_5452;
    const HIGH: u32 = 1 << 31 | 0x5634;

    fn frame(dst: [u8; 6], kind: u16, len: usize) -> Vec<u8> {
        let mut frame = dst.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        frame.extend(kind.to_be_bytes());
        frame.resize(len, 1);
        frame
    }

    /// What is thought to be plain, and what is made of that: of one frame and then another, for other registers.
    fn agree(plain: &mut Plain, shared: &Shared, frame: &RxFrame<'_>) -> bool {
        let size = Size::of(frame, None);
        let Some(how) = plain.how(&shared.regs, frame, size) else {
            return false;
        };
        assert_eq!(judge::judge(shared, frame, size, Time(0)), Ok(how));
        true
    }

    #[test]
    fn an_ordinary_frame_is_plain_as_soon_as_the_registers_say_so() {
        let (mut plain, shared) = (Plain::default(), Shared::new(Part::I82540Em));
        let data = frame(STATION, 0x0800, 1514);
        let mut plain = |regs: &Regs| {
            assert!(std::ptr::eq(regs, &*shared.regs));
            agree(&mut plain, &shared, &RxFrame::new(&data))
        };
        let regs = &shared.regs;
        assert!(!plain(regs));
        regs.set(Reg::RAL, LOW);
        regs.set(Reg::RAH, HIGH);
        assert!(plain(regs));
        regs.set(Reg::VET, 0x0800);
        assert!(!plain(regs), "it has a tag");
        regs.set(Reg::VET, 0x8100);
        regs.set(Reg::FCT, 0x0800);
        assert!(!plain(regs), "it may be a pause frame");
        regs.set(Reg::FCT, 0);
        assert!(plain(regs));
        regs.set(Reg::RAH, HIGH & !(1 << 31));
        assert!(!plain(regs), "there is no station address");
    }

    proptest! {
        #[test]
        fn the_judge_says_the_same(
            cases in prop::collection::vec(
                (
                    any::<u32>(),
                    any::<u32>(),
                    select(vec![0x8100, 0x0800, 0]),
                    select(vec![0x8808, 0x0800, 0]),
                    select(vec![HIGH, HIGH, HIGH & 0xffff, HIGH | 1 << 16]),
                    select(vec![STATION, STATION, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2; 6], [0; 6]]),
                    select(vec![0x0800, 0x86dd, 0x8100, 0x8808, 0]),
                    select(vec![6, 13, 14, 17, 18, 60, 1514, 1518, 1519, 9000, 17000]),
                    any::<bool>(),
                ),
                1..20,
            )
        ) {
            let (mut plain, shared) = (Plain::default(), Shared::new(Part::I82540Em));
            for (control, checksums, vlan, flow, high, dst, kind, len, bad_fcs) in cases {
                shared.regs.set(Reg::RCTL, control & !rctl::SBP);
                shared.regs.set(Reg::RXCSUM, checksums & (rxcsum::IPOFL | rxcsum::TUOFL | rxcsum::PCSS));
                shared.regs.set(Reg::VET, vlan);
                shared.regs.set(Reg::FCT, flow);
                shared.regs.set(Reg::RAL, LOW);
                shared.regs.set(Reg::RAH, high);
                let data = frame(dst, kind, len);
                let meta = RxMeta { bad_fcs: bad_fcs && len % 2 == 0, ..RxMeta::default() };
                agree(&mut plain, &shared, &RxFrame { data: &data, meta });
            }
        }
    }
}

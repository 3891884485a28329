//! The XDP program, in the kernel's bytecode.
//!
//! Source for the encoding: RFC 9669; for `struct xdp_md` and what a program returns: `linux/bpf.h`.

/// One instruction: opcode, registers, offset, immediate.
#[derive(Clone, Copy, Debug)]
struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl Insn {
    fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[0] = self.code;
        bytes[1] = self.src << 4 | self.dst;
        bytes[2..4].copy_from_slice(&self.off.to_le_bytes());
        bytes[4..].copy_from_slice(&self.imm.to_le_bytes());
        bytes
    }
}

/// Bytes of a load or store.
#[derive(Clone, Copy)]
enum Size {
    Word = 0x00,
    Half = 0x08,
}

/// `dst = *(src + off)`.
fn load(size: Size, dst: u8, src: u8, off: i16) -> Insn {
    insn(0x61 | size as u8, dst, src, off, 0)
}

/// `*(dst + off) = src`.
fn store(size: Size, dst: u8, off: i16, src: u8) -> Insn {
    insn(0x63 | size as u8, dst, src, off, 0)
}

/// `dst = src`.
fn copy(dst: u8, src: u8) -> Insn {
    insn(0xBF, dst, src, 0, 0)
}

/// `dst += imm`.
fn add(dst: u8, imm: i32) -> Insn {
    insn(0x07, dst, 0, 0, imm)
}

/// Skips `over` instructions if `dst > src`.
fn skip_if_above(dst: u8, src: u8, over: i16) -> Insn {
    insn(0x2D, dst, src, over, 0)
}

/// Skips `over` instructions if `dst != imm`.
fn skip_unless(dst: u8, imm: i32, over: i16) -> Insn {
    insn(0x55, dst, 0, over, imm)
}

/// `r0 = imm; exit`.
fn give(imm: i32) -> [Insn; 2] {
    [insn(0xB7, 0, 0, 0, imm), insn(0x95, 0, 0, 0, 0)]
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// Sends frames of this EtherType back, their addresses swapped; everything else passes.
pub(super) fn reflector(ethertype: u16) -> Vec<u8> {
    use Size::{Half, Word};
    // r1 points to a `struct xdp_md`, which begins with `data` and `data_end`.
    const CONTEXT: u8 = 1;
    const FRAME: u8 = 2;
    const END: u8 = 3;
    const HEADER: i32 = 14;
    let [a, b, c, d] = [4, 5, 6, 7];
    let swap = [
        load(Word, a, FRAME, 0),
        load(Half, b, FRAME, 4),
        load(Word, c, FRAME, 6),
        load(Half, d, FRAME, 10),
        store(Word, FRAME, 0, c),
        store(Half, FRAME, 4, d),
        store(Word, FRAME, 6, a),
        store(Half, FRAME, 10, b),
    ];
    let send = give(XDP_TX);
    let over = (swap.len() + send.len()) as i16;
    let judge = [
        load(Word, FRAME, CONTEXT, 0),
        load(Word, END, CONTEXT, 4),
        copy(a, FRAME),
        add(a, HEADER),
        skip_if_above(a, END, over + 2),
        load(Half, a, FRAME, 12),
        // As the halfword of the frame reads here.
        skip_unless(a, u16::from_ne_bytes(ethertype.to_be_bytes()).into(), over),
    ];
    let all = judge
        .into_iter()
        .chain(swap)
        .chain(send)
        .chain(give(XDP_PASS));
    all.flat_map(Insn::bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes a program on a frame; returns what it returns.
    fn run(program: &[u8], frame: &mut [u8]) -> i32 {
        // Addresses: the context's two words stand for themselves, the frame begins here.
        const FRAME: u64 = 0x1000;
        let mut r = [0_u64; 10];
        let mut at = 0_usize;
        loop {
            let insn: [u8; 8] = program[at * 8..][..8].try_into().unwrap();
            let (dst, src) = (usize::from(insn[1] & 15), usize::from(insn[1] >> 4));
            let off = i16::from_le_bytes([insn[2], insn[3]]);
            let imm = i32::from_le_bytes(insn[4..].try_into().unwrap());
            at += 1;
            let place = |base: u64| (base as i64 + i64::from(off) - FRAME as i64) as usize;
            match insn[0] {
                0x61 if src == 1 && off == 0 => r[dst] = FRAME,
                0x61 if src == 1 && off == 4 => r[dst] = FRAME + frame.len() as u64,
                0x61 => {
                    let bytes = frame[place(r[src])..][..4].try_into().unwrap();
                    r[dst] = u32::from_le_bytes(bytes).into();
                }
                0x69 => {
                    let bytes = frame[place(r[src])..][..2].try_into().unwrap();
                    r[dst] = u16::from_le_bytes(bytes).into();
                }
                0x63 => {
                    let bytes = (r[src] as u32).to_le_bytes();
                    frame[place(r[dst])..][..4].copy_from_slice(&bytes);
                }
                0x6B => {
                    let bytes = (r[src] as u16).to_le_bytes();
                    frame[place(r[dst])..][..2].copy_from_slice(&bytes);
                }
                0xBF => r[dst] = r[src],
                0x07 => r[dst] = r[dst].wrapping_add(imm as u64),
                0x2D if r[dst] > r[src] => at += off as usize,
                0x55 if r[dst] != imm as u64 => at += off as usize,
                0x2D | 0x55 => {}
                0xB7 => r[dst] = imm as u64,
                0x95 => return r[0] as i32,
                code => panic!("no instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn our_frames_turn_round_and_nothing_else_changes() {
        let program = reflector(0x88B5);
        let mut frame: Vec<u8> = (0..60).collect();
        frame[12..14].copy_from_slice(&[0x88, 0xB5]);
        let mut expected = frame.clone();
        expected[..6].copy_from_slice(&frame[6..12]);
        expected[6..12].copy_from_slice(&frame[..6]);
        assert_eq!(run(&program, &mut frame), XDP_TX);
        assert_eq!(frame, expected);
    }

    #[test]
    fn other_frames_and_stumps_pass_as_they_are() {
        let program = reflector(0x88B5);
        let mut other: Vec<u8> = (0..60).collect();
        let mut stump = [0x88; 13];
        let before = (other.clone(), stump);
        assert_eq!(run(&program, &mut other), XDP_PASS);
        assert_eq!(run(&program, &mut stump), XDP_PASS);
        assert_eq!((other, stump), before);
    }
}

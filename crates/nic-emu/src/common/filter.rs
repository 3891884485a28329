//! Which frames a receiver takes: exact addresses, hash table, broadcast, promiscuous modes, VLANs.

/// Number of receive address registers.
pub const RARS: usize = 16;

/// The filter tables of a NIC, read one 32-bit word at a time.
pub trait Tables {
    /// Receive address `index` of [`RARS`]: RAL and RAH.
    fn rar(&self, index: usize) -> (u32, u32);
    /// Word `index` of 128 of the multicast hash table.
    fn mta(&self, index: usize) -> u32;
    /// Word `index` of 128 of the VLAN table.
    fn vfta(&self, index: usize) -> u32;
}

/// The modes in force, as RCTL has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// UPE: all unicast.
    pub unicast: bool,
    /// MPE: all multicast (and broadcast).
    pub multicast: bool,
    /// BAM: broadcast.
    pub broadcast: bool,
    /// MO: which 12 bits of the address index the hash table, 0 to 3.
    pub offset: u32,
}

/// Why a frame passes, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By its full address, or as a broadcast.
    Exact,
    /// By the hash table only (the descriptor's PIF bit): the driver has to look itself.
    Inexact,
    /// Not at all.
    Refused,
}

/// Judges a destination address (manual 3.2.3: unicast is never looked up in the hash table).
#[inline]
pub fn address(dst: [u8; 6], modes: Modes, tables: &impl Tables) -> Verdict {
    let multicast = is_multicast(dst);
    let promiscuous = if multicast {
        modes.multicast || (is_broadcast(dst) && modes.broadcast)
    } else {
        modes.unicast
    };
    if promiscuous || matches_rar(dst, tables) {
        return Verdict::Exact;
    }
    if multicast && !is_broadcast(dst) {
        let (word, bit) = hash_slot(dst, modes.offset);
        if tables.mta(word) >> bit & 1 == 1 {
            return Verdict::Inexact;
        }
    }
    Verdict::Refused
}

/// Judges the tag of a tagged frame (RCTL.VFE is set); `cfi` is RCTL.CFI if CFIEN is set.
pub fn vlan(tci: u16, cfi: Option<bool>, tables: &impl Tables) -> bool {
    let vid = u32::from(tci & 0xfff);
    tables.vfta((vid >> 5) as usize) >> (vid & 31) & 1 == 1
        && cfi.is_none_or(|cfi| cfi == (tci & 0x1000 != 0))
}

/// Word and bit of the hash table for a multicast address: 12 bits from bit 36, 35, 34 or 32 of it.
pub fn hash_slot(dst: [u8; 6], offset: u32) -> (usize, u32) {
    let high = u32::from(dst[4]) | u32::from(dst[5]) << 8;
    let shift = [4, 3, 2, 0][offset as usize & 3];
    let hash = high >> shift & 0xfff;
    ((hash >> 5) as usize, hash & 31)
}

/// Whether the group bit is set; true for broadcast too.
#[inline]
pub fn is_multicast(dst: [u8; 6]) -> bool {
    dst[0] & 1 == 1
}

/// Whether all bits are set.
#[inline]
pub fn is_broadcast(dst: [u8; 6]) -> bool {
    dst == [0xff; 6]
}

#[inline]
fn matches_rar(dst: [u8; 6], tables: &impl Tables) -> bool {
    (0..RARS).any(|index| station(tables.rar(index)) == Some(dst))
}

/// The address that frames have to have for a receive address register (RAL and RAH), if it is in use for that.
#[inline]
pub fn station((low, high): (u32, u32)) -> Option<[u8; 6]> {
    const AV: u32 = 1 << 31;
    const ASEL: u32 = 3 << 16;
    let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
    (high & (AV | ASEL) == AV).then_some([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Plain {
        rar: [(u32, u32); RARS],
        mta: [u32; 128],
        vfta: [u32; 128],
    }

    impl Plain {
        fn new() -> Self {
            Self {
                rar: [(0, 0); RARS],
                mta: [0; 128],
                vfta: [0; 128],
            }
        }
    }

    impl Tables for Plain {
        fn rar(&self, index: usize) -> (u32, u32) {
            self.rar[index]
        }
        fn mta(&self, index: usize) -> u32 {
            self.mta[index]
        }
        fn vfta(&self, index: usize) -> u32 {
            self.vfta[index]
        }
    }

    const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
    const GROUP: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];

    #[test]
    fn each_of_the_sixteen_addresses_counts_if_valid_and_for_destinations() {
        for index in 0..RARS {
            let mut tables = Plain::new();
            let modes = Modes::default();
            tables.rar[index] = (0x1200_5452, 0x8000_5634);
            assert_eq!(address(MAC, modes, &tables), Verdict::Exact);
            tables.rar[index].1 = 0x0000_5634;
            assert_eq!(address(MAC, modes, &tables), Verdict::Refused);
            tables.rar[index].1 = 0x8001_5634; // ASEL: source address
            assert_eq!(address(MAC, modes, &tables), Verdict::Refused);
        }
    }

    #[test]
    fn modes_open_what_they_name_and_nothing_else() {
        let tables = Plain::new();
        let none = Modes::default();
        let unicast = Modes {
            unicast: true,
            ..none
        };
        let multicast = Modes {
            multicast: true,
            ..none
        };
        let broadcast = Modes {
            broadcast: true,
            ..none
        };
        for (modes, passes) in [
            (none, [false, false, false]),
            (unicast, [true, false, false]),
            (multicast, [false, true, true]),
            (broadcast, [false, false, true]),
        ] {
            let got = [MAC, GROUP, [0xff; 6]].map(|a| address(a, modes, &tables) == Verdict::Exact);
            assert_eq!(got, passes, "{modes:?}");
        }
    }

    /// The values Linux's `e1000_hash_mc_addr` gives for this address.
    #[test]
    fn the_hash_table_takes_multicast_by_the_bits_that_mo_names() {
        let address_bits = 0xfb00u32;
        for (offset, shift) in [(0, 4), (1, 3), (2, 2), (3, 0)] {
            let hash = address_bits >> shift & 0xfff;
            assert_eq!(hash_slot(GROUP, offset), ((hash >> 5) as usize, hash & 31));
            let mut tables = Plain::new();
            tables.mta[(hash >> 5) as usize] = 1 << (hash & 31);
            let modes = Modes {
                offset,
                ..Modes::default()
            };
            assert_eq!(address(GROUP, modes, &tables), Verdict::Inexact);
        }
    }

    #[test]
    fn a_unicast_address_is_not_tried_against_the_hash_table() {
        let mut tables = Plain::new();
        tables.mta = [!0; 128];
        assert_eq!(address(MAC, Modes::default(), &tables), Verdict::Refused);
        assert_eq!(
            address([0xff; 6], Modes::default(), &tables),
            Verdict::Refused
        );
    }

    #[test]
    fn a_tag_needs_its_bit_and_its_cfi() {
        let mut tables = Plain::new();
        tables.vfta[100 >> 5] = 1 << (100 & 31);
        assert!(vlan(0xe064, None, &tables));
        assert!(!vlan(0xe065, None, &tables));
        assert!(vlan(0x0064, Some(false), &tables));
        assert!(!vlan(0x1064, Some(false), &tables));
        assert!(vlan(0x1064, Some(true), &tables));
    }

    proptest! {
        #[test]
        fn every_slot_is_in_its_table(dst: [u8; 6], offset: u32, tci: u16) {
            let tables = Plain::new();
            let (word, bit) = hash_slot(dst, offset);
            prop_assert!(word < 128 && bit < 32);
            prop_assert!(!vlan(tci, None, &tables));
        }
    }
}

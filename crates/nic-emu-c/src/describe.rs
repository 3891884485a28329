//! The model's descriptions in the types of the header.

use std::ffi::c_char;

use nic_emu::pci::{BarKind, Capability, Function};

use crate::types::{
    NIC_EMU_BARS, NIC_EMU_CAPABILITIES, NIC_EMU_CAPABILITY_LEN, NIC_EMU_NAME_LEN, NicEmuBar,
    NicEmuBarKind, NicEmuCapability, NicEmuCounter, NicEmuPci,
};

impl From<&Function> for NicEmuPci {
    fn from(function: &Function) -> Self {
        let id = &function.identity;
        let mut bars = [NicEmuBar {
            kind: NicEmuBarKind::None,
            size: 0,
        }; NIC_EMU_BARS];
        for bar in &function.bars {
            bars[usize::from(bar.index)] = NicEmuBar {
                kind: match bar.kind {
                    BarKind::Mem32 => NicEmuBarKind::Mem32,
                    BarKind::Io => NicEmuBarKind::Io,
                },
                size: bar.size,
            };
        }
        let mut capabilities = [NicEmuCapability {
            offset: 0,
            id: 0,
            len: 0,
            bytes: [0; NIC_EMU_CAPABILITY_LEN],
            writable: [0; NIC_EMU_CAPABILITY_LEN],
        }; NIC_EMU_CAPABILITIES];
        for (to, from) in capabilities.iter_mut().zip(function.capabilities) {
            *to = from.into();
        }
        NicEmuPci {
            vendor: id.vendor,
            device: id.device,
            subsystem_vendor: id.subsystem_vendor,
            subsystem_id: id.subsystem_id,
            class_code: id.class,
            revision: id.revision,
            interrupt_pin: id.interrupt_pin,
            min_gnt: id.min_gnt,
            max_lat: id.max_lat,
            bars,
            capability_count: function.capabilities.len().min(NIC_EMU_CAPABILITIES) as u32,
            capabilities,
        }
    }
}

impl From<&Capability> for NicEmuCapability {
    fn from(capability: &Capability) -> Self {
        let fixed = |from: &[u8]| {
            let mut to = [0; NIC_EMU_CAPABILITY_LEN];
            to[..from.len()].copy_from_slice(from);
            to
        };
        NicEmuCapability {
            offset: capability.offset,
            id: capability.id,
            len: capability.bytes.len() as u8,
            bytes: fixed(capability.bytes),
            writable: fixed(capability.writable),
        }
    }
}

impl From<(&str, u64)> for NicEmuCounter {
    /// A name that is too long is cut.
    fn from((text, value): (&str, u64)) -> Self {
        let mut name = [0; NIC_EMU_NAME_LEN];
        for (to, from) in name[..NIC_EMU_NAME_LEN - 1].iter_mut().zip(text.bytes()) {
            *to = from as c_char;
        }
        NicEmuCounter { name, value }
    }
}

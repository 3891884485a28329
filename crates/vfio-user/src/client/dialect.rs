//! How the clients in use differ, in one table.
//!
//! The library itself speaks all of the protocol; a dialect decides what is proposed, which liberties are taken, and
//! which of a server's liberties are fatal. So a test that passes with each of them says what the real ones would have
//! said, and a VMM gets the strictness of the client it replaces.

/// Whose habits a [`Client`](super::Client) has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// QEMU 11.1, `-device vfio-user-pci`: posts writes, shares message ids among all its devices, answers the device's
    /// DMA only while it waits for nothing itself, and takes no liberty with the protocol.
    #[default]
    Qemu,
    /// cloud-hypervisor (the crate `vfio_user`): everything waits for its reply, each access to a BAR is followed by
    /// UNMASK while INTx is in use, and a region read that is refused never ends.
    CloudHypervisor,
    /// SPDK's host library: no capabilities, message ids always 0, payloads as long as its buffers, no interrupts.
    Spdk,
    /// libvfio-user's own clients: the newest version, a twin socket if asked for, DMA answered at once.
    LibvfioUser,
}

/// Where the ids of requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// One counter for the connection.
    Counted,
    /// One counter for all connections of the process: each sees gaps.
    Shared,
    /// Always 0: replies are told apart by their order.
    Zero,
}

/// When the device's DMA_READ and DMA_WRITE are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dma {
    /// They are taken for replies: the end of the connection.
    Never,
    /// When no reply of the device is outstanding.
    WhenIdle,
    /// As they come.
    AtOnce,
}

/// What is proposed with VERSION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proposal {
    /// Everything.
    Full,
    /// What the crate `vfio_user` knows.
    Few,
    /// Nothing, not even JSON.
    Nothing,
}

/// The habits of one dialect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// Minor version proposed.
    pub(super) minor: u16,
    /// Capabilities proposed.
    pub(super) proposal: Proposal,
    /// Whether the server's capabilities are looked at, and refused if they make no sense.
    pub(super) reads_capabilities: bool,
    /// The answer to VERSION may not be longer than the request: it is received into the same buffer.
    pub(super) version_in_place: bool,
    /// Descriptors sent with one message if the server does not say how many it takes.
    pub(super) default_fds: usize,
    /// Descriptors sent with SET_IRQS whatever the server says.
    pub(super) irq_fds: Option<usize>,
    /// See [`Ids`].
    pub(super) ids: Ids,
    /// See [`Dma`].
    pub(super) dma: Dma,
    /// The device's DMA is refused while the guest has bus mastering off.
    pub(super) checks_bus_master: bool,
    /// A header that arrives in two pieces is fatal.
    pub(super) whole_headers: bool,
    /// A reply after the time limit is fatal, instead of dropped.
    pub(super) late_reply_is_fatal: bool,
    /// The error bit of a reply is not looked at: where data were expected, they are waited for.
    pub(super) waits_for_data: bool,
    /// Writes to memory BARs do not wait, unless something of the device is mapped.
    pub(super) posts_writes: bool,
    /// `argsz` of DEVICE_GET_INFO.
    pub(super) info_argsz: u32,
    /// Bytes of the payload of DEVICE_GET_REGION_INFO, and its `argsz`; else as many as needed.
    pub(super) region_info_payload: Option<usize>,
    /// Asking again about a region, for its capabilities, has the id of the first time.
    pub(super) repeats_id: bool,
    /// Most bytes of one region access.
    pub(super) max_access: usize,
    /// SET_IRQS UNMASK follows each access to a BAR while INTx is in use.
    pub(super) unmasks_after_access: bool,
    /// A machine reset resets those devices that do *not* offer it.
    pub(super) inverted_reset: bool,
    /// Memory is mapped for reading and writing whatever was asked for.
    pub(super) maps_for_writing: bool,
    /// DMA_UNMAP comes with the descriptor of the map.
    pub(super) unmaps_with_fd: bool,
}

/// What a client does that takes no liberties.
const PLAIN: Manners = Manners {
    minor: 2,
    proposal: Proposal::Full,
    reads_capabilities: true,
    version_in_place: false,
    default_fds: 1,
    irq_fds: None,
    ids: Ids::Counted,
    dma: Dma::AtOnce,
    checks_bus_master: false,
    whole_headers: false,
    late_reply_is_fatal: false,
    waits_for_data: false,
    posts_writes: true,
    info_argsz: 16,
    region_info_payload: None,
    repeats_id: false,
    max_access: crate::wire::MAX_DATA,
    unmasks_after_access: false,
    inverted_reset: false,
    maps_for_writing: false,
    unmaps_with_fd: false,
};

const QEMU: Manners = Manners {
    minor: 0,
    version_in_place: true,
    default_fds: 8,
    ids: Ids::Shared,
    dma: Dma::WhenIdle,
    checks_bus_master: true,
    whole_headers: true,
    late_reply_is_fatal: true,
    ..PLAIN
};

const CLOUD_HYPERVISOR: Manners = Manners {
    minor: 1,
    proposal: Proposal::Few,
    reads_capabilities: false,
    irq_fds: Some(16),
    dma: Dma::Never,
    waits_for_data: true,
    posts_writes: false,
    info_argsz: 32,
    repeats_id: true,
    unmasks_after_access: true,
    inverted_reset: true,
    maps_for_writing: true,
    ..PLAIN
};

const SPDK: Manners = Manners {
    minor: 0,
    proposal: Proposal::Nothing,
    reads_capabilities: false,
    ids: Ids::Zero,
    dma: Dma::Never,
    posts_writes: false,
    region_info_payload: Some(4064),
    max_access: 4096 - 16,
    unmaps_with_fd: true,
    ..PLAIN
};

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Qemu,
        Self::CloudHypervisor,
        Self::Spdk,
        Self::LibvfioUser,
    ];

    pub(super) fn manners(self) -> &'static Manners {
        match self {
            Self::Qemu => &QEMU,
            Self::CloudHypervisor => &CLOUD_HYPERVISOR,
            Self::Spdk => &SPDK,
            Self::LibvfioUser => &PLAIN,
        }
    }
}

impl Manners {
    /// The capabilities as JSON with its NUL, or nothing.
    pub(super) fn proposal(&self, max_fds: usize, max_data: usize, twin: bool) -> String {
        let twin = match twin {
            true => r#", "twin_socket": {"supported": true}"#,
            false => "",
        };
        match self.proposal {
            Proposal::Full => format!(
                concat!(
                    r#"{{"capabilities": {{"pgsizes": 4096, "max_msg_fds": {}, "max_dma_maps": 65535, "#,
                    r#""max_data_xfer_size": {}, "migration": {{"max_bitmap_size": 268435456, "#,
                    r#""pgsize": 4096}}, "#,
                    "\"write_multiple\": true{}}}}}\0"
                ),
                max_fds, max_data, twin
            ),
            Proposal::Few => format!(
                concat!(
                    r#"{{"capabilities":{{"max_msg_fds":1,"max_data_xfer_size":{},"#,
                    "\"migration\":{{\"pgsize\":4096}}{}}}}}\0"
                ),
                max_data, twin
            ),
            Proposal::Nothing => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_proposes_what_it_proposes() {
        let json = QEMU.proposal(16, 1 << 20, false);
        assert_eq!(json.len(), 194, "measured with QEMU 11.1.3");
        assert!(json.ends_with('\0'));
    }

    #[test]
    fn proposals_are_json() {
        for dialect in Dialect::ALL {
            for twin in [false, true] {
                let json = dialect.manners().proposal(8, 4096, twin);
                let Some(text) = json.strip_suffix('\0') else {
                    assert!(json.is_empty() && dialect == Dialect::Spdk);
                    continue;
                };
                let json: serde_json::Value = serde_json::from_str(text).unwrap();
                let capabilities = &json["capabilities"];
                assert_eq!(capabilities["max_data_xfer_size"], 4096);
                assert_eq!(capabilities["twin_socket"]["supported"] == true, twin);
            }
        }
    }
}

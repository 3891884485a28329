//! What a running 82540EM counts for whoever watches it.

crate::counters! {
    /// Events that the guest's own statistics do not show. Each has its cause in the guest, unless it says otherwise.
    pub struct Counters => CountersSnapshot {
        /// Accesses that are not whole aligned dwords.
        odd_accesses,
        /// Accesses to offsets where no register answers.
        unknown_registers,
        /// MDIC commands that no PHY register answers, or with an unknown operation.
        mdio_errors,
        /// Writes to the flash while EECD.FWE does not allow them.
        flash_protected,
        /// Resets by CTRL.RST.
        mac_resets,

        /// Frames handed to the backend.
        tx_frames,
        /// Their bytes, without FCS.
        tx_bytes,
        /// Packets of the guest that were dropped for being malformed.
        tx_malformed,
        /// Frames that left with the wrong FCS that the driver had given them.
        tx_bad_fcs,
        /// Frames received for the guest: placed in its buffers, or waiting for them.
        rx_frames,
        /// Their bytes, without FCS.
        rx_bytes,
        /// Frames that the filters refused.
        rx_filtered,
        /// Frames that came while the receiver was off.
        rx_disabled,
        /// Frames beyond the size limit.
        rx_oversize,
        /// Frames damaged on the wire.
        rx_damaged,
        /// Frames too short to be any, or whose offload request does not fit them.
        rx_malformed,
        /// Frames lost for want of descriptors.
        rx_no_descriptor,
        /// Descriptors or buffers that do not lie in reachable guest memory.
        dma_unreachable,
    }
}

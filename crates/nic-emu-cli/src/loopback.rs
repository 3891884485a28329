//! Frames that a NIC sends to itself: MAC and PHY loopback.

use guest_mem::GuestMem;
use nic_emu::Time;
use nic_emu::common::frame::{MAX_SUPER_FRAME, RxFrame, TxBurst};
use nic_emu::e1000::rx::RxQueue;

/// Delivers the frames of `burst` to the NIC's own receive queue; returns how many were taken, which is all of
/// them: what finds neither a buffer nor room in the FIFO is lost, as in the silicon. `scratch` is kept for the next time.
pub(crate) fn deliver(
    burst: &TxBurst<'_>,
    rx: &mut RxQueue,
    mem: &GuestMem,
    scratch: &mut Vec<u8>,
    now: Time,
) -> usize {
    scratch.resize(MAX_SUPER_FRAME, 0);
    for frame in burst.frames() {
        if let Some(len) = frame.copy_to(scratch) {
            let meta = frame.offload.into();
            rx.loop_back(
                mem,
                RxFrame {
                    data: &scratch[..len],
                    meta,
                },
                now,
            );
        }
    }
    // If an epoch interrupts it, the receive queue's next batch goes on.
    let _ = rx.finish(mem, now);
    burst.len()
}

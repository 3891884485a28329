//! Bugs that are none of the product's, one in the sessions and one in the NIC: with the feature `planted` the fuzzer has
//! to find them.

use nic_emu::common::frame::Offload;
use nic_emu::e1000::Control;
use vfio_user::wire::Header;

use crate::model::Outcome;

#[cfg(feature = "planted")]
std::thread_local! { static STEPS: std::cell::Cell<u8> = const { std::cell::Cell::new(0) }; }

/// An input begins.
pub(crate) fn begin() {
    #[cfg(feature = "planted")]
    STEPS.set(0);
}

#[cfg(not(feature = "planted"))]
pub(crate) fn saw(_: &Header, _: &[u8], _: &Outcome) {}

/// Panics when a map was made, another one that does not exist was taken away, and several writes came as one whose
/// number is wrong.
#[cfg(feature = "planted")]
pub(crate) fn saw(header: &Header, payload: &[u8], outcome: &Outcome) {
    use rustix::io::Errno;
    use vfio_user::wire::command;

    let accepted = matches!(outcome, Outcome::Payload(_));
    let missed = matches!(outcome, Outcome::Errors(errors) if errors.contains(&Errno::NOENT));
    let step = match (header.command, STEPS.get()) {
        (command::DMA_MAP, 0) if accepted => 1,
        (command::DMA_UNMAP, 1) if missed => 2,
        (command::REGION_WRITE_MULTI, 2) if payload.len() > 8 && !accepted => {
            panic!("the planted bug")
        }
        (_, step) => step,
    };
    STEPS.set(step);
}

#[cfg(not(feature = "planted"))]
pub(crate) fn sent(_: &Control, _: &Offload) {}

/// Panics when a frame leaves whose checksum is to be made, the descriptors before it having said where, while the
/// statistics still know of one that came in.
#[cfg(feature = "planted")]
pub(crate) fn sent(control: &Control, offload: &Offload) {
    use nic_emu::e1000::regs::Reg;

    let received = control.shared().regs.get(Reg::GPRC);
    assert!(received == 0 || offload.csum.is_none(), "the planted bug");
}

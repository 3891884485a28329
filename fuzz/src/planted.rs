//! A bug that is none of the product's: with the feature `planted` the fuzzer has to find it.

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

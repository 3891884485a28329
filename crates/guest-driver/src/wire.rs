//! The far end of the network cable.

use std::vec::Vec;

/// Sends frames to the device and collects those it sent.
pub trait Wire {
    /// Sends a frame, without FCS, towards the device. It may take until [`Bus::settle`](crate::Bus::settle) or a
    /// [`Bus::wait`](crate::Bus::wait) for it to arrive.
    fn transmit(&mut self, frame: &[u8]);
    /// The next frame that the device sent, without FCS, if one has arrived.
    fn collect(&mut self) -> Option<Vec<u8>>;
    /// Plugs or pulls the cable.
    fn set_carrier(&mut self, up: bool);
}

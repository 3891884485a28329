//! BAR 4, of which a part is a file that clients may map.

use crate::device::{AREA, BAR4};

#[derive(Debug)]
pub(crate) struct Bar4 {
    pub(crate) bytes: Vec<u8>,
}

impl Bar4 {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; BAR4],
        }
    }

    /// The device starts over. What clients may map is nobody's to clear.
    pub(crate) fn clear_device(&mut self) {
        self.bytes[..AREA.start].fill(0);
        self.bytes[AREA.end..].fill(0);
    }
}

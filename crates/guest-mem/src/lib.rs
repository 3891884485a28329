//! RAM of one VM as seen by an emulated device.

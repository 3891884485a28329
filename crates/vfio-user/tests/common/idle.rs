//! A device without behaviour, driven by hand.

use std::path::PathBuf;

use vfio_user::{Bar, Device, Handler, ListenOptions, Listener, Region, ResetKind, Server};

/// The behaviour.
pub struct Nothing;

impl Handler for Nothing {
    fn read(&mut self, _: Region, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: Region, _: u64, _: &[u8]) {}
    fn reset(&mut self, _: ResetKind) {}
}

/// A server that does only what it is told, and the path of its socket.
pub fn server(name: &str) -> (Server, PathBuf) {
    let path = std::env::temp_dir().join(format!("vfio-user-{name}-{}", std::process::id()));
    let device = Device::builder().ids(1, 2).bar(0, Bar::memory32(0x1000));
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    (Server::new(listener, device.build().unwrap()), path)
}

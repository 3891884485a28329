//! Sends every datagram that comes to a port back to where it came from: `udp-echo PORT`.
//!
//! It runs in guests, built without any library to be found there, and is what latency over UDP is measured with.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1);
    let port = port.and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("usage: udp-echo PORT"))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let mut datagram = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut datagram)?;
        // Whoever cannot be reached any more does not keep the others waiting.
        let _ = socket.send_to(&datagram[..len], from);
    }
}

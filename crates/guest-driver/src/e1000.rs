//! A driver of the 82540EM: probe, open, send, receive, interrupts, close. What it writes and in which order follows
//! manual chapter 14 (initialization) and what Linux's `e1000` does.

use core::fmt;

use crate::bus::{Bus, until};
use crate::desc::{self, Context, Desc, RxStatus};
use crate::regs::{CTRL, CTRL_EXT};
use crate::regs::{
    ICR, IMC, IMS, IOADDR, IODATA, ITR, MTA, RADV, RAH_AV, RAH0, RAL0, RCTL, RDTR, RXCSUM, STATUS,
    TADV, TCTL, TIDV, TIPG, ctrl, pci, rctl, status, tctl,
};
use crate::ring::{Ring, Side};
use crate::{eeprom, phy};

/// Bytes of one transmit buffer; a longer packet takes several descriptors.
pub const TX_BUFFER: usize = 4096;

/// Why a device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not an 82540EM; vendor and device as config space has them.
    NotOurs(u32),
    /// CTRL.RST did not clear itself.
    ResetStuck,
    /// The EEPROM's words do not add up to 0xBABA, or it did not answer.
    Eeprom(Option<u16>),
    /// The PHY did not answer as an M88E1000; its identifier.
    Phy(Option<u32>),
    /// No link within the time allowed.
    NoLink,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotOurs(id) => write!(f, "device {id:#010x} is no 82540EM"),
            Error::ResetStuck => write!(f, "the device does not come out of reset"),
            Error::Eeprom(Some(sum)) => {
                write!(f, "the EEPROM's checksum is {sum:#06x}, not 0xbaba")
            }
            Error::Eeprom(None) => write!(f, "the EEPROM grants no access"),
            Error::Phy(Some(id)) => write!(f, "PHY {id:#010x} is no M88E1000"),
            Error::Phy(None) => write!(f, "the PHY does not answer"),
            Error::NoLink => write!(f, "the link stays down"),
        }
    }
}

impl core::error::Error for Error {}

/// How the device is opened.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Transmit descriptors, a multiple of 8.
    pub tx_count: u32,
    /// Receive descriptors, a multiple of 8.
    pub rx_count: u32,
    /// Bytes of a receive buffer: a power of two, 256 to 16384.
    pub rx_buffer: u32,
    /// Bits of RCTL beside the enable bit and the buffer size.
    pub rctl: u32,
    /// RXCSUM.
    pub rxcsum: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tx_count: 64,
            rx_count: 64,
            rx_buffer: 2048,
            rctl: rctl::BAM,
            rxcsum: 0,
        }
    }
}

/// Where the headers of a packet are, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Start of the IP header.
    pub ip: u8,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Start of the TCP or UDP header.
    pub l4: u8,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// Start of the payload.
    pub payload: u8,
}

impl Headers {
    /// The context for these headers; `paylen` and `mss` of 0 for checksums only.
    pub fn context(&self, paylen: u32, mss: u16) -> Context {
        let flag = |bit, set| if set { bit } else { 0 };
        Context {
            ipcss: self.ip,
            ipcso: self.ip + if self.ipv6 { 0 } else { 10 },
            ipcse: if self.ipv6 { 0 } else { u16::from(self.l4) - 1 },
            tucss: self.l4,
            tucso: self.l4 + if self.tcp { 16 } else { 6 },
            tucse: 0,
            paylen,
            hdrlen: if mss == 0 { 0 } else { self.payload },
            mss,
            tucmd: flag(desc::TUCMD_TCP, self.tcp)
                | flag(desc::TUCMD_IP, !self.ipv6)
                | flag(desc::TSE, mss != 0),
        }
    }

    /// Which checksums a data descriptor has to ask for.
    pub fn popts(&self) -> u8 {
        desc::TXSM | if self.ipv6 { 0 } else { desc::IXSM }
    }
}

/// What the device is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Send as it is.
    None,
    /// Fill in the IPv4 and the TCP or UDP checksum; the latter's field holds the sum of the pseudo-header.
    Checksum(Headers),
    /// Cut into segments of at most `mss` payload bytes. IPv4 length and checksum are 0, the TCP checksum field
    /// holds the sum of the pseudo-header without the length.
    Segment {
        /// Where the headers are.
        headers: Headers,
        /// Payload bytes per segment.
        mss: u16,
    },
}

/// A frame that was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the frame, without FCS.
    pub len: usize,
    /// The FCS in wire order, unless the device strips it.
    pub fcs: Option<[u8; 4]>,
    /// Descriptors it took.
    pub descriptors: u32,
    /// The last descriptor's status.
    pub last: RxStatus,
}

/// An open device.
#[derive(Debug)]
pub struct E1000<B> {
    /// The way to the device, for whatever else is to be done with it.
    pub bus: B,
    /// The station address from the EEPROM.
    pub mac: [u8; 6],
    /// Transmit ring.
    pub tx: Ring,
    /// Receive ring, every descriptor of it with a buffer.
    pub rx: Ring,
    /// DMA address of the first transmit buffer; each descriptor has one of [`TX_BUFFER`] bytes.
    pub tx_buffers: u64,
    /// DMA address of the first receive buffer.
    pub rx_buffers: u64,
    config: Config,
}

impl<B: Bus> E1000<B> {
    /// Probes the device, waits for its link and opens it.
    ///
    /// # Errors
    ///
    /// See [`probe`]; [`Error::NoLink`] after 5 s.
    pub fn start(mut bus: B, config: Config) -> Result<Self, Error> {
        let mac = probe(&mut bus)?;
        wait_link(&mut bus, 5_000_000_000)?;
        Ok(Self::open(bus, mac, config))
    }

    /// Sets up both rings and switches transmitter and receiver on. Interrupts stay masked.
    pub fn open(mut bus: B, mac: [u8; 6], config: Config) -> Self {
        let tx = Ring::new(&mut bus, Side::Tx, config.tx_count);
        let tx_buffers = bus.alloc(config.tx_count as usize * TX_BUFFER, 4096);
        bus.write32(TIPG, 10 | 8 << 10 | 6 << 20);
        bus.write32(TIDV, 0);
        bus.write32(TADV, 0);
        bus.write32(
            TCTL,
            tctl::EN | tctl::PSP | 15 << tctl::CT_SHIFT | 64 << tctl::COLD_SHIFT,
        );

        bus.write32(RDTR, 0);
        bus.write32(RADV, 0);
        bus.write32(ITR, 0);
        bus.write32(RXCSUM, config.rxcsum);
        let rx = Ring::new(&mut bus, Side::Rx, config.rx_count);
        let rx_buffers = bus.alloc(config.rx_count as usize * config.rx_buffer as usize, 4096);
        let mut nic = Self {
            bus,
            mac,
            tx,
            rx,
            tx_buffers,
            rx_buffers,
            config,
        };
        for _ in 1..config.rx_count {
            nic.post(nic.rx.tail);
        }
        nic.write_rctl(config.rctl | rctl::EN);
        nic.rx.kick(&mut nic.bus);
        nic
    }

    /// Writes RCTL, with the buffer size as opened, and waits until frames can come in.
    pub fn write_rctl(&mut self, bits: u32) {
        self.bus
            .write32(RCTL, bits | buffer_size(self.config.rx_buffer));
        self.bus.receiver_started();
    }

    /// DMA address of receive buffer `index`.
    pub fn rx_buffer(&self, index: u32) -> u64 {
        self.rx_buffers + u64::from(index) * u64::from(self.config.rx_buffer)
    }

    /// DMA address of transmit buffer `index`.
    pub fn tx_buffer(&self, index: u32) -> u64 {
        self.tx_buffers + u64::from(index) * TX_BUFFER as u64
    }

    fn post(&mut self, index: u32) {
        debug_assert_eq!(index, self.rx.tail);
        let buffer = self.rx_buffer(index);
        self.rx.push(
            &mut self.bus,
            Desc {
                low: buffer,
                high: 0,
            },
        );
    }

    /// Queues a packet; `false` if the ring has no room for it now. The device learns of it by [`Ring::kick`] on
    /// `tx`, or from [`E1000::send`].
    pub fn queue(&mut self, packet: &[u8], offload: Offload) -> bool {
        let pieces = packet.len().div_ceil(TX_BUFFER) as u32;
        let context = u32::from(offload != Offload::None);
        self.reap();
        if pieces == 0 || self.tx.free() < pieces + context {
            return false;
        }
        match offload {
            Offload::None => {}
            Offload::Checksum(headers) => {
                let mut context = headers.context(0, 0);
                context.tucmd |= desc::RS;
                self.tx.push(&mut self.bus, context.desc());
            }
            Offload::Segment { headers, mss } => {
                let paylen = packet.len() as u32 - u32::from(headers.payload);
                let mut context = headers.context(paylen, mss);
                context.tucmd |= desc::RS;
                self.tx.push(&mut self.bus, context.desc());
            }
        }
        for (piece, bytes) in (1..=pieces).zip(packet.chunks(TX_BUFFER)) {
            let buffer = self.tx_buffer(self.tx.tail);
            self.bus.dma_write(buffer, bytes);
            let end = if piece == pieces { desc::EOP } else { 0 };
            let cmd = desc::IFCS | desc::RS | end;
            let desc = match offload {
                Offload::None => desc::legacy(buffer, bytes.len() as u16, cmd),
                Offload::Checksum(headers) => {
                    desc::data(buffer, bytes.len() as u32, cmd, headers.popts())
                }
                Offload::Segment { headers, .. } => {
                    desc::data(buffer, bytes.len() as u32, cmd | desc::TSE, headers.popts())
                }
            };
            self.tx.push(&mut self.bus, desc);
        }
        true
    }

    /// Queues a packet and tells the device; `false` if the ring has no room for it now.
    pub fn send(&mut self, packet: &[u8], offload: Offload) -> bool {
        let queued = self.queue(packet, offload);
        if queued {
            self.tx.kick(&mut self.bus);
        }
        queued
    }

    /// Takes finished descriptors back; returns how many are still with the device.
    pub fn reap(&mut self) -> u32 {
        while self.tx.clean != self.tx.tail
            && self.tx.read(&mut self.bus, self.tx.clean).high & desc::TX_DD != 0
        {
            self.tx.clean = self.tx.after(self.tx.clean);
        }
        (self.tx.tail + self.tx.count - self.tx.clean) % self.tx.count
    }

    /// Waits until the device has finished all descriptors.
    pub fn flush(&mut self, timeout: u64) -> bool {
        let start = self.bus.now();
        while self.reap() != 0 {
            if self.bus.now() - start >= timeout {
                return false;
            }
            self.bus.wait(20_000);
        }
        true
    }

    /// Takes the next frame out of the ring, if it is there as a whole, and gives its descriptors back. What does
    /// not fit into `to` is cut off.
    pub fn receive(&mut self, to: &mut [u8]) -> Option<Received> {
        let mut last = self.rx.clean;
        let mut descriptors = 1;
        let status = loop {
            let status = RxStatus::from(self.rx.read(&mut self.bus, last));
            if status.status & desc::RX_DD == 0 || descriptors == self.rx.count {
                return None;
            }
            if status.status & desc::RX_EOP != 0 {
                break status;
            }
            last = self.rx.after(last);
            descriptors += 1;
        };

        let mut len = 0;
        let mut tail = [0; 4];
        for _ in 0..descriptors {
            let index = self.rx.clean;
            let piece = usize::from(RxStatus::from(self.rx.read(&mut self.bus, index)).len);
            let buffer = self.rx_buffer(index);
            let room = piece.min(to.len().saturating_sub(len));
            self.bus.dma_read(buffer, &mut to[len..len + room]);
            let new = piece.min(4);
            tail.copy_within(new.., 0);
            self.bus
                .dma_read(buffer + (piece - new) as u64, &mut tail[4 - new..]);
            len += piece;
            self.rx.clean = self.rx.after(index);
            self.post(self.rx.tail);
        }
        if self.rx.tail % 8 < descriptors {
            self.rx.kick(&mut self.bus);
        }
        let strips = self.config.rctl & rctl::SECRC != 0;
        Some(Received {
            len: if strips { len } else { len.saturating_sub(4) },
            fcs: (!strips).then_some(tail),
            descriptors,
            last: status,
        })
    }

    /// Lets `causes` assert the interrupt pin.
    pub fn enable_interrupts(&mut self, causes: u32) {
        self.bus.write32(IMS, causes);
        self.bus.read32(STATUS);
    }

    /// Keeps all causes from the interrupt pin.
    pub fn disable_interrupts(&mut self) {
        self.bus.write32(IMC, !0);
        self.bus.read32(STATUS);
    }

    /// Reads and clears the pending causes.
    pub fn causes(&mut self) -> u32 {
        self.bus.read32(ICR)
    }

    /// Stops both units and resets the device.
    ///
    /// # Errors
    ///
    /// [`Error::ResetStuck`].
    pub fn close(mut self) -> Result<B, Error> {
        self.disable_interrupts();
        self.bus.write32(RCTL, 0);
        self.bus.write32(TCTL, 0);
        reset(&mut self.bus)?;
        Ok(self.bus)
    }
}

/// RCTL bits for receive buffers of `size` bytes.
///
/// # Panics
///
/// If the device has no such size.
pub fn buffer_size(size: u32) -> u32 {
    match size {
        2048 => 0,
        1024 => 1 << rctl::BSIZE_SHIFT,
        512 => 2 << rctl::BSIZE_SHIFT,
        256 => 3 << rctl::BSIZE_SHIFT,
        16384 => rctl::BSEX | 1 << rctl::BSIZE_SHIFT,
        8192 => rctl::BSEX | 2 << rctl::BSIZE_SHIFT,
        4096 => rctl::BSEX | 3 << rctl::BSIZE_SHIFT,
        _ => panic!("no receive buffers of {size} bytes"),
    }
}

/// Finds out whether this is an 82540EM that works; returns its station address, set as receive address 0.
///
/// # Errors
///
/// A device of other ids, one stuck in reset, a bad EEPROM, a foreign PHY.
pub fn probe<B: Bus + ?Sized>(bus: &mut B) -> Result<[u8; 6], Error> {
    let id = bus.config_read(pci::ID, 4);
    if id != 0x100E_8086 {
        return Err(Error::NotOurs(id));
    }
    let command = bus.config_read(pci::COMMAND, 2);
    let enable = pci::COMMAND_IO | pci::COMMAND_MEMORY | pci::COMMAND_MASTER;
    bus.config_write(pci::COMMAND, 2, command | enable);
    reset(bus)?;

    match eeprom::checksum(bus) {
        Some(eeprom::CHECKSUM) => {}
        sum => return Err(Error::Eeprom(sum)),
    }
    let mut mac = [0; 6];
    for (word, bytes) in (0..3).zip(mac.as_chunks_mut().0) {
        *bytes = eeprom::read_word(bus, word)
            .ok_or(Error::Eeprom(None))?
            .to_le_bytes();
    }

    let id = phy::read(bus, phy::ID1)
        .zip(phy::read(bus, phy::ID2))
        .map(|(high, low)| u32::from(high) << 16 | u32::from(low));
    if id.is_none_or(|id| id & !0xF != phy::M88_ID) {
        return Err(Error::Phy(id));
    }

    set_address(bus, 0, Some(mac));
    for entry in 1..16 {
        set_address(bus, entry, None);
    }
    for word in 0..128 {
        bus.write32(MTA + 4 * word, 0);
    }
    let control = bus.read32(CTRL);
    bus.write32(CTRL, control | ctrl::SLU | ctrl::ASDE);
    Ok(mac)
}

/// Resets the device the way Linux does: masks, both units off, then CTRL.RST through the I/O BAR.
///
/// # Errors
///
/// [`Error::ResetStuck`] after 20 ms.
pub fn reset<B: Bus + ?Sized>(bus: &mut B) -> Result<(), Error> {
    bus.write32(IMC, !0);
    bus.write32(RCTL, 0);
    bus.write32(TCTL, tctl::PSP);
    bus.read32(STATUS);
    let control = bus.read32(CTRL);
    bus.io_write32(IOADDR, CTRL);
    bus.io_write32(IODATA, control | ctrl::RST);
    // The manual forbids access for a microsecond; any register may be polled afterwards.
    bus.wait(1_000);
    if !until(bus, 20_000_000, |bus| bus.read32(CTRL) & ctrl::RST == 0) {
        return Err(Error::ResetStuck);
    }
    bus.write32(IMC, !0);
    bus.read32(ICR);
    bus.read32(CTRL_EXT);
    Ok(())
}

/// Waits until STATUS reports the link up.
///
/// # Errors
///
/// [`Error::NoLink`] after `timeout` ns.
pub fn wait_link<B: Bus + ?Sized>(bus: &mut B, timeout: u64) -> Result<(), Error> {
    let up = until(bus, timeout, |bus| bus.read32(STATUS) & status::LU != 0);
    up.then_some(()).ok_or(Error::NoLink)
}

/// Sets or clears receive address `entry` (0 to 15).
pub fn set_address<B: Bus + ?Sized>(bus: &mut B, entry: u32, mac: Option<[u8; 6]>) {
    let [a, b, c, d, e, f] = mac.unwrap_or_default();
    let valid = if mac.is_some() { RAH_AV } else { 0 };
    bus.write32(RAL0 + 8 * entry, u32::from_le_bytes([a, b, c, d]));
    bus.write32(RAH0 + 8 * entry, u32::from_le_bytes([e, f, 0, 0]) | valid);
}

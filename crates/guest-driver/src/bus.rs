//! What a driver needs from the machine around it.

/// Kind and size of a base address register that is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// I/O ports rather than memory.
    pub io: bool,
    /// Size in bytes.
    pub size: u64,
}

/// One PCI function as a driver reaches it: config space, both BARs, DMA memory, the interrupt pin, and time.
///
/// Nothing here can fail: where a real access would end in a bus abort it reads all ones, and an implementation
/// whose transport breaks panics, since it exists for tests and benchmarks.
pub trait Bus {
    /// Reads 1, 2 or 4 bytes of config space at the naturally aligned `offset`.
    fn config_read(&mut self, offset: u8, size: u8) -> u32;
    /// Writes 1, 2 or 4 bytes of config space at the naturally aligned `offset`.
    fn config_write(&mut self, offset: u8, size: u8, value: u32);
    /// What base address register `index` (0 to 5) decodes, if anything.
    fn bar(&mut self, index: u8) -> Option<Bar>;

    /// Reads the register at byte `offset` of the memory BAR.
    fn read32(&mut self, offset: u32) -> u32;
    /// Writes the register at byte `offset` of the memory BAR.
    fn write32(&mut self, offset: u32, value: u32);
    /// Reads 4 bytes of the first I/O BAR at `port`.
    fn io_read32(&mut self, port: u8) -> u32;
    /// Writes 4 bytes of the first I/O BAR at `port`.
    fn io_write32(&mut self, port: u8, value: u32);

    /// Allocates `len` zeroed bytes that the device can reach; returns their DMA address, a multiple of `align`.
    /// Nothing is ever given back.
    fn alloc(&mut self, len: usize, align: u64) -> u64;
    /// Copies out of DMA memory. What the device wrote before an aligned word that is read here is seen afterwards.
    fn dma_read(&mut self, addr: u64, to: &mut [u8]);
    /// Copies into DMA memory, complete before any register access that follows.
    fn dma_write(&mut self, addr: u64, from: &[u8]);

    /// Whether the device holds its interrupt pin asserted.
    fn interrupt(&mut self) -> bool;

    /// Lets `ns` nanoseconds pass.
    fn wait(&mut self, ns: u64);
    /// Nanoseconds since some fixed moment.
    fn now(&mut self) -> u64;
    /// Whether time passes in [`Bus::wait`] only.
    fn owns_time(&self) -> bool;

    /// Lets everything that the device has begun come to its end, as far as it needs no time to pass.
    fn settle(&mut self);
    /// Called after the receiver was switched on: waits until the path from the wire to the device is open. Only a
    /// bus to a device that closes it for a while has something to do here.
    fn receiver_started(&mut self) {}
}

/// The methods of [`Bus`] for something that has a bus, named as `self` sees it: `delegate_bus!(self => self.inner)`.
#[macro_export]
macro_rules! delegate_bus {
    ($self:ident => $bus:expr) => {
        fn config_read(&mut $self, offset: u8, size: u8) -> u32 {
            $bus.config_read(offset, size)
        }
        fn config_write(&mut $self, offset: u8, size: u8, value: u32) {
            $bus.config_write(offset, size, value);
        }
        fn bar(&mut $self, index: u8) -> Option<$crate::Bar> {
            $bus.bar(index)
        }
        fn read32(&mut $self, offset: u32) -> u32 {
            $bus.read32(offset)
        }
        fn write32(&mut $self, offset: u32, value: u32) {
            $bus.write32(offset, value);
        }
        fn io_read32(&mut $self, port: u8) -> u32 {
            $bus.io_read32(port)
        }
        fn io_write32(&mut $self, port: u8, value: u32) {
            $bus.io_write32(port, value);
        }
        fn alloc(&mut $self, len: usize, align: u64) -> u64 {
            $bus.alloc(len, align)
        }
        fn dma_read(&mut $self, addr: u64, to: &mut [u8]) {
            $bus.dma_read(addr, to);
        }
        fn dma_write(&mut $self, addr: u64, from: &[u8]) {
            $bus.dma_write(addr, from);
        }
        fn interrupt(&mut $self) -> bool {
            $bus.interrupt()
        }
        fn wait(&mut $self, ns: u64) {
            $bus.wait(ns);
        }
        fn now(&mut $self) -> u64 {
            $bus.now()
        }
        fn owns_time(&$self) -> bool {
            $bus.owns_time()
        }
        fn settle(&mut $self) {
            $bus.settle();
        }
        fn receiver_started(&mut $self) {
            $bus.receiver_started();
        }
    };
}

impl<B: Bus + ?Sized> Bus for &mut B {
    delegate_bus!(self => (**self));
}

/// Waits until `done`, for at most `timeout` ns; returns whether it came true. Looks every 20 us at first and ever less
/// often, every 10 ms in the end.
pub fn until<B: Bus + ?Sized>(
    bus: &mut B,
    timeout: u64,
    mut done: impl FnMut(&mut B) -> bool,
) -> bool {
    let start = bus.now();
    let mut pause = 20_000;
    loop {
        if done(bus) {
            return true;
        }
        if bus.now() - start >= timeout {
            return false;
        }
        bus.wait(pause);
        pause = (pause * 2).min(10_000_000);
    }
}

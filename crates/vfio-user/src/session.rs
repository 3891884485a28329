//! The protocol without sockets: bytes and descriptors in, replies out.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest_mem::{GuestMem, Published};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;
use tracing::debug;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::Device;
use crate::dirty::Tracking;
use crate::dma::{DmaTable, Memory};
use crate::handler::{Handler, ResetKind};
use crate::inbox::{Inbox, Message, Unframed};
use crate::irq::{self, IrqTable};
use crate::messages::Messages;
use crate::migration::Machine;
use crate::msix::MsixTable;
use crate::outbox::Outbox;
use crate::pci::{Command, ConfigSpace};
use crate::remote::{Answer, DmaMessages, RemoteMemory};
use crate::share::ShareCheck;
use crate::version::Proposal;
use crate::wire::{DmaMap, Header, command, header_flags};

/// The connection is over. Everything that belonged to the client is cleaned up, the next one may come.
/// Specification, "Socket Disconnection Behavior".
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Closed {
    /// The client closed its end, as it does when the guest powers off or the device is unplugged.
    #[error("the client closed the connection")]
    ByClient,
    /// The length in a header cannot be, so the next header cannot be found.
    #[error(
        "the client sent a message of {0} bytes, which cannot be: no way to tell where the next begins"
    )]
    Framing(u32),
    /// The two of us do not speak the same protocol.
    #[error("the client's proposal was refused: {0}")]
    Negotiation(&'static str),
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
}

/// A device and the protocol state of its client, without sockets: bytes and descriptors in, replies out.
/// Specification, "Command Concurrency".
///
/// It lives as long as the device and serves one client after the other. What belongs to a client is negotiation,
/// configuration space, memory map and interrupt eventfds; the published memory map and the interrupt table stay the
/// same objects, so that queues can hold on to them.
///
/// **Epochs.** A reply to DMA_MAP, DMA_UNMAP, DEVICE_RESET, to a SET_IRQS that takes an eventfd away or masks, and to
/// a configuration write that ends bus mastering tells the client that nothing of before is in use any more. Such a
/// request begins a new epoch; its reply and all that follow it wait until the owner of the queues calls
/// [`pass_epoch`](Self::pass_epoch). Requests go on being executed meanwhile, until too many replies wait.
#[derive(Debug)]
pub struct Session {
    inbox: Inbox,
    /// What comes on the second socket.
    twin_inbox: Inbox,
    state: State,
    /// A message was left unprocessed because too many replies wait.
    stalled: bool,
}

/// Everything but the input, so that a message can be lent while it is worked on.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) device: Device,
    pub(crate) config: ConfigSpace,
    /// What the handler was last told.
    pub(crate) command: Command,
    pub(crate) irqs: Arc<IrqTable>,
    pub(crate) msix: MsixTable,
    pub(crate) resample: Option<Arc<OwnedFd>>,
    pub(crate) outbox: Outbox,
    /// Commands of ours. They overtake replies that are held.
    pub(crate) commands: Outbox,
    /// Our end of the second socket, if the client wanted one for our commands.
    twin: Option<Arc<OwnedFd>>,
    pub(crate) remote: Arc<RemoteMemory>,
    pub(crate) share: ShareCheck,
    /// What the client can do, once negotiated.
    pub(crate) client: Proposal,
    pub(crate) dma: DmaTable,
    pub(crate) migration: Machine,
    pub(crate) tracking: Tracking,
    /// No further request is executed before this epoch has passed.
    pub(crate) wait: Option<u64>,
    negotiated: bool,
    epoch: u64,
    messages: Messages,
}

impl Session {
    /// A session without a client.
    pub fn new(device: Device) -> Self {
        let config = ConfigSpace::new(&device.config);
        let command = config.command(&device.config);
        let remote = Arc::new(RemoteMemory::default());
        let irqs = Arc::new(IrqTable::new(|index| device.irqs(index).0));
        let msix = MsixTable::new(&device);
        Self {
            inbox: Inbox::default(),
            twin_inbox: Inbox::default(),
            stalled: false,
            state: State {
                device,
                config,
                command,
                irqs,
                msix,
                resample: None,
                outbox: Outbox::default(),
                commands: Outbox::default(),
                twin: None,
                client: Proposal::default(),
                dma: DmaTable::new(remote.clone()),
                remote,
                migration: Machine::default(),
                tracking: Tracking::default(),
                wait: None,
                share: ShareCheck::default(),
                negotiated: false,
                epoch: 0,
                messages: Messages::default(),
            },
        }
    }

    /// The memory map of whichever client is connected.
    pub fn mem(&self) -> Arc<Published<GuestMem>> {
        self.state.dma.published()
    }

    /// How the guest's memory can be reached, by the largest part of it that the device may write.
    pub fn memory(&self) -> Memory {
        self.state.dma.memory()
    }

    /// What DMA by message came to so far, over all clients.
    pub fn dma_messages(&self) -> DmaMessages {
        self.state.remote.counters()
    }

    /// What clients have asked for so far.
    pub fn messages(&self) -> Messages {
        self.state.messages
    }

    /// The interrupts of whichever client is connected.
    pub fn irqs(&self) -> Arc<IrqTable> {
        self.state.irqs.clone()
    }

    /// The memory that clients map of a BAR, if they can; addresses are offsets in the BAR.
    pub fn region_mem(&self, bar: usize) -> Option<Arc<GuestMem>> {
        self.state.device.region_mem(bar)
    }

    /// The newest epoch.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// All queues have loaded the memory map again, and saw a reset, since epoch `epoch` began: what waited for
    /// that may leave.
    pub fn pass_epoch(&mut self, epoch: u64) {
        // What queues wrote before they passed goes before the reply that takes the memory away.
        self.on_dma_requests();
        self.state.outbox.pass(epoch);
        if self.state.wait.is_some_and(|wait| wait <= epoch) {
            self.state.wait = None;
            self.state.queues_waited_for();
        }
        if epoch >= self.state.epoch {
            self.state.remote.resume();
        }
    }

    /// Readable when queues on other threads ask for memory that only the client can reach. None as long as there is
    /// no such memory.
    pub fn dma_fd(&self) -> Option<BorrowedFd<'_>> {
        self.state.remote.wake_fd()
    }

    /// The descriptor of [`dma_fd`](Self::dma_fd) is readable.
    pub fn on_dma_requests(&mut self) {
        self.state.remote.take_pending(&mut self.state.commands);
    }

    /// Where the next bytes are to be received to. Never empty while [`wants_input`](Self::wants_input).
    pub fn space(&mut self) -> &mut [u8] {
        self.inbox.space()
    }

    /// `n` bytes were received, together with descriptors (of which some were lost if `lost`).
    pub fn received(&mut self, n: usize, fds: impl IntoIterator<Item = OwnedFd>, lost: bool) {
        self.inbox.received(n, fds, lost);
    }

    /// Executes the complete messages received so far, until too many replies wait.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the client is not to be served further: send what is ready, close, and call
    /// [`disconnect`](Self::disconnect).
    pub fn process(&mut self, handler: &mut (impl Handler + ?Sized)) -> Result<(), Closed> {
        self.stalled = false;
        let result = loop {
            if self.state.must_wait() {
                self.stalled = true;
                break Ok(());
            }
            match self.inbox.next() {
                Ok(Some(message)) => {
                    if let Err(closed) = self.state.handle(message, handler) {
                        break Err(closed);
                    }
                }
                Ok(None) => break Ok(()),
                Err(Unframed(header)) => {
                    self.state.fail(&header, Errno::INVAL);
                    break Err(Closed::Framing(header.size));
                }
            }
        };
        self.state.dma.publish();
        result
    }

    /// Whether more input is welcome; not while too many replies wait to leave.
    pub fn wants_input(&self) -> bool {
        !self.stalled
    }

    /// Whether requests wait although there is room for their replies: call [`process`](Self::process).
    pub fn can_continue(&self) -> bool {
        self.stalled && !self.state.must_wait()
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        self.state.outbox.is_ready()
            || (self.state.twin.is_none() && self.state.commands.is_ready())
    }

    /// What to send next, in one piece.
    pub fn output(&self) -> &[u8] {
        match self.commands_are_next() {
            true => self.state.commands.next(),
            false => self.state.outbox.next(),
        }
    }

    /// The descriptors to send with the first byte of [`output`](Self::output), mostly none.
    pub fn output_fds(&self) -> &[Arc<OwnedFd>] {
        match self.commands_are_next() {
            true => &[],
            false => self.state.outbox.fds(),
        }
    }

    /// The first `n` bytes of [`output`](Self::output) are sent.
    pub fn sent(&mut self, n: usize) {
        match self.commands_are_next() {
            true => self.state.commands.consume(n),
            false => self.state.outbox.consume(n),
        }
    }

    /// Whether a command of ours is to be sent on the main socket, or the rest of one.
    fn commands_are_next(&self) -> bool {
        self.state.twin.is_none()
            && self.state.commands.is_ready()
            && !self.state.outbox.has_begun()
    }

    /// The second socket, which the client wanted for our commands and its replies to them.
    pub fn twin_fd(&self) -> Option<&Arc<OwnedFd>> {
        self.state.twin.as_ref()
    }

    /// As [`space`](Self::space), for the second socket.
    pub fn twin_space(&mut self) -> &mut [u8] {
        self.twin_inbox.space()
    }

    /// As [`received`](Self::received), for the second socket.
    pub fn twin_received(&mut self, n: usize, fds: impl IntoIterator<Item = OwnedFd>, lost: bool) {
        self.twin_inbox.received(n, fds, lost);
    }

    /// As [`process`](Self::process), for the second socket, where the client only replies.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn process_twin(&mut self) -> Result<(), Closed> {
        let result = loop {
            match self.twin_inbox.next() {
                Ok(Some(message)) => self.state.handle_twin(&message),
                Ok(None) => break Ok(()),
                Err(Unframed(header)) => break Err(Closed::Framing(header.size)),
            }
        };
        self.state.dma.publish();
        result
    }

    /// As [`output`](Self::output), for the second socket; empty if there is nothing to send.
    pub fn twin_output(&self) -> &[u8] {
        match self.state.twin {
            Some(_) => self.state.commands.next(),
            None => &[],
        }
    }

    /// As [`sent`](Self::sent), for the second socket.
    pub fn twin_sent(&mut self, n: usize) {
        self.state.commands.consume(n);
    }

    /// The eventfd by which the client says that the interrupt line may rise again.
    pub fn resample_fd(&self) -> Option<&Arc<OwnedFd>> {
        self.state.resample.as_ref()
    }

    /// The resample eventfd is readable.
    pub fn on_resample(&mut self) {
        if let Some(fd) = &self.state.resample {
            irq::drain(fd);
            self.state.irqs.resampled();
        }
    }

    /// The client is gone: drops all that was its own, resets the device, begins an epoch.
    pub fn disconnect(&mut self, handler: &mut (impl Handler + ?Sized)) {
        self.inbox.clear();
        self.twin_inbox.clear();
        self.stalled = false;
        let state = &mut self.state;
        state.outbox.clear();
        state.commands.clear();
        state.remote.disconnect();
        state.twin = None;
        state.share = ShareCheck::default();
        state.dma.clear();
        state.irqs.disconnect();
        state.resample = None;
        state.negotiated = false;
        state.tracking = Tracking::default();
        state.wait = None;
        // The next client's first reply waits until queues have let go of this one's memory.
        state.reset(ResetKind::Disconnected, handler);
    }
}

impl Drop for Session {
    /// Nobody answers any more whoever waits for the client.
    fn drop(&mut self) {
        self.state.remote.disconnect();
    }
}

impl State {
    /// Whether requests stay where they are: too many replies wait, or what was done last has to be over first.
    fn must_wait(&self) -> bool {
        self.outbox.is_full() || self.wait.is_some()
    }

    fn handle(
        &mut self,
        message: Message<'_>,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Closed> {
        let header = message.header;
        if !self.negotiated {
            return self.negotiate(&message);
        }
        if is_reply(&header) {
            if !self.replied(&header, message.payload) {
                self.fail(&header, Errno::INVAL);
            }
            return Ok(());
        }
        self.messages.count(&header);
        if !matches!(header.command, command::DMA_MAP | command::DMA_UNMAP) {
            // Another thread's queue may be told to look by what follows.
            self.dma.publish();
            self.dma.settle();
        }
        if let Err(errno) = self.execute(message, handler) {
            debug!(command = header.command, %errno, "request refused");
            self.fail(&header, errno);
        }
        Ok(())
    }

    /// A message on the second socket.
    fn handle_twin(&mut self, message: &Message<'_>) {
        let header = &message.header;
        if is_reply(header) && self.replied(header, message.payload) {
            return;
        }
        debug!(
            command = header.command,
            "not a reply, but it came where replies belong"
        );
        // Bounded, since nobody has to read this.
        if header.wants_reply() && !self.commands.is_full() {
            let errno = Errno::INVAL.raw_os_error().unsigned_abs();
            self.commands.push(&header.error_reply(errno), &[0_u8; 0]);
        }
    }

    /// The client answers a command of ours. False if there never was any.
    fn replied(&mut self, header: &Header, payload: &[u8]) -> bool {
        match self.remote.answered(header, payload) {
            Answer::Taken => true,
            Answer::Probe(id, data) => {
                self.share_sample(id, data);
                true
            }
            Answer::Unasked => false,
        }
    }

    fn negotiate(&mut self, message: &Message<'_>) -> Result<(), Closed> {
        let header = &message.header;
        let proposal =
            if header.flags & header_flags::TYPE != 0 || header.command != command::VERSION {
                Err("the first message is not VERSION")
            } else if !message.fds.is_empty() || message.fds_lost {
                Err("descriptors came with VERSION")
            } else {
                Proposal::parse(message.payload)
            };
        match proposal {
            Ok(proposal) => {
                self.negotiated = true;
                self.client = proposal;
                self.remote.connect(proposal.max_data);
                let twin = self.open_twin(proposal.twin_socket);
                let answer = proposal.answer(twin.is_some());
                self.reply_with_fds(header, answer.as_slice(), Vec::from_iter(twin));
                Ok(())
            }
            Err(why) => {
                self.fail(header, Errno::INVAL);
                Err(Closed::Negotiation(why))
            }
        }
    }

    /// Makes the second socket if the client wants it; returns the client's end.
    fn open_twin(&mut self, wanted: bool) -> Option<Arc<OwnedFd>> {
        if !wanted || self.client.max_fds == 0 {
            return None;
        }
        let flags = SocketFlags::CLOEXEC;
        match socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) {
            Ok((ours, theirs)) => {
                self.twin = Some(Arc::new(ours));
                Some(Arc::new(theirs))
            }
            Err(errno) => {
                debug!(%errno, "no second socket");
                None
            }
        }
    }

    fn execute(
        &mut self,
        message: Message<'_>,
        handler: &mut (impl Handler + ?Sized),
    ) -> Result<(), Errno> {
        let Message {
            header,
            payload,
            fds,
            fds_lost,
        } = message;
        if header.flags & header_flags::TYPE != 0 || fds_lost {
            return Err(Errno::INVAL);
        }
        if self.migration.forbids(header.command) {
            return Err(Errno::INVAL);
        }
        match header.command {
            command::REGION_READ => self.region_read(&header, payload, handler),
            command::REGION_WRITE => self.region_write(&header, payload, handler),
            command::REGION_WRITE_MULTI => self.region_write_multi(&header, payload, handler),
            command::DMA_MAP => {
                let request: DmaMap = parse(payload)?;
                if fds.len() > 1 {
                    return Err(Errno::INVAL);
                }
                self.dma_map(&request, fds.into_iter().next())?;
                self.reply(&header, &[0_u8; 0]);
                Ok(())
            }
            command::DMA_UNMAP => self.dma_unmap(&header, payload),
            command::DEVICE_GET_INFO => self.device_info(&header, parse(payload)?),
            command::DEVICE_GET_REGION_INFO => self.region_info(&header, parse(payload)?),
            command::DEVICE_GET_IRQ_INFO => self.irq_info(&header, parse(payload)?),
            command::DEVICE_SET_IRQS => {
                self.set_irqs(payload, fds)?;
                self.reply(&header, &[0_u8; 0]);
                Ok(())
            }
            command::DEVICE_FEATURE => self.device_feature(&header, payload, handler),
            command::MIG_DATA_READ => self.mig_data_read(&header, payload, handler),
            command::MIG_DATA_WRITE => self.mig_data_write(&header, payload),
            command::DEVICE_RESET => {
                self.reset(ResetKind::Message, handler);
                self.reply(&header, &[0_u8; 0]);
                Ok(())
            }
            command::DEVICE_GET_REGION_IO_FDS => self.region_io_fds(&header, parse(payload)?),
            _ => Err(Errno::INVAL),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Our end of the second socket.
    pub(crate) fn twin(&self) -> Option<&Arc<OwnedFd>> {
        self.twin.as_ref()
    }

    pub(crate) fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.remote.interrupt();
        self.outbox.hold(self.epoch);
    }

    pub(crate) fn reply(
        &mut self,
        header: &Header,
        payload: &(impl IntoBytes + Immutable + ?Sized),
    ) {
        if header.wants_reply() {
            let size = payload.as_bytes().len();
            self.outbox.push(&header.reply(size), payload);
        }
    }

    /// A reply with descriptors, which the client must be able to take: see [`Proposal::max_fds`].
    pub(crate) fn reply_with_fds(
        &mut self,
        header: &Header,
        payload: &(impl IntoBytes + Immutable + ?Sized),
        fds: Vec<Arc<OwnedFd>>,
    ) {
        debug_assert!(fds.len() <= self.client.max_fds);
        if header.wants_reply() {
            self.outbox.attach(fds);
            self.reply(header, payload);
        }
    }

    fn fail(&mut self, header: &Header, errno: Errno) {
        if header.wants_reply() {
            let errno = errno.raw_os_error().unsigned_abs();
            self.outbox.push(&header.error_reply(errno), &[0_u8; 0]);
        }
    }
}

fn is_reply(header: &Header) -> bool {
    header.flags & header_flags::TYPE == header_flags::REPLY
}

/// The fixed part of a payload; some clients send more than that.
pub(crate) fn parse<T: FromBytes>(payload: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(payload)
        .map(|(value, _)| value)
        .map_err(|_| Errno::INVAL)
}

//! Messages on their way: what is to be sent leaves, what comes in is sorted into replies and commands, and commands are
//! answered when the dialect has it so. Everything has a deadline.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::PollFlags;

use super::dialect::Dma;
use super::link::{self, Link, timed_out};
use super::memory::is_command;
use super::{Client, ClientError, Result};
use crate::wire::header_flags;

/// Which of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Main,
    Twin,
}

impl Client {
    /// Sends all of `bytes`, `fds` with the first of them. Takes in what the server sends while there is no room, since
    /// it may wait for just that.
    pub(super) fn transmit(
        &mut self,
        side: Side,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            let sent = match self.link(side) {
                Some(link) => link.send(rest, fds),
                None => return Err(ClientError::Protocol("there is no twin socket")),
            };
            match sent {
                Ok(0) => {}
                Ok(n) => {
                    rest = &rest[n..];
                    fds = &[];
                    continue;
                }
                // A message that is not sent as a whole takes the connection with it.
                Err(error) if rest.len() < bytes.len() => return Err(self.fail(error)),
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                let error = timed_out();
                return Err(match rest.len() < bytes.len() {
                    true => self.fail(error),
                    false => error,
                });
            }
            let wanted = |of| match of == side {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            let main = Some((&self.main.stream, wanted(Side::Main)));
            let twin = self.twin.as_ref();
            let twin = twin.map(|twin| (&twin.stream, wanted(Side::Twin)));
            let [main, twin] = link::wait([main, twin], deadline)?;
            self.take_in(main, twin)?;
        }
        Ok(())
    }

    fn link(&mut self, side: Side) -> Option<&mut Link> {
        match side {
            Side::Main => Some(&mut self.main),
            Side::Twin => self.twin.as_mut(),
        }
    }

    /// Deals with what has come in; waits for something until `deadline` if there is nothing. True if there was.
    /// `fresh`: the deadline is a whole time limit away, which the socket knows by itself.
    pub(super) fn pump(&mut self, deadline: Instant, fresh: bool) -> Result<bool> {
        let mut moved = self.sort_out()?;
        if !moved && fresh && self.twin.is_none() {
            moved = self.main.receive(true).map_err(|error| self.fail(error))?;
            self.sort_out()?;
        } else if !moved {
            let main = Some((&self.main.stream, PollFlags::IN));
            let twin = self.twin.as_ref();
            let twin = twin.map(|twin| (&twin.stream, PollFlags::IN));
            let [main, twin] = link::wait([main, twin], deadline)?;
            moved = self.take_in(main, twin)?;
        }
        self.answer()?;
        Ok(moved)
    }

    /// Receives from the sockets that are ready, and sorts it out.
    fn take_in(&mut self, main: PollFlags, twin: PollFlags) -> Result<bool> {
        let mut moved = false;
        let input = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        for (side, ready) in [(Side::Main, main), (Side::Twin, twin)] {
            if ready.intersects(input)
                && let Some(link) = self.link(side)
            {
                moved |= link.receive(false).map_err(|error| self.fail(error))?;
            }
        }
        Ok(self.sort_out()? | moved)
    }

    /// Sorts the messages that are complete into replies and commands. True if there were any.
    fn sort_out(&mut self) -> Result<bool> {
        let mut any = false;
        for side in [Side::Main, Side::Twin] {
            while self.sort_one(side).map_err(|error| self.fail(error))? {
                any = true;
            }
        }
        if self.manners.whole_headers && self.main.header_is_torn() {
            return Err(self.fail(ClientError::Protocol("a header comes in pieces")));
        }
        Ok(any)
    }

    fn sort_one(&mut self, side: Side) -> Result<bool> {
        let has_twin = self.twin.is_some();
        let link = match side {
            Side::Main => &mut self.main,
            Side::Twin => match &mut self.twin {
                Some(twin) => twin,
                None => return Ok(false),
            },
        };
        let Some(message) = link.next()? else {
            return Ok(false);
        };
        match (is_command(&message.header), side) {
            (true, _) if self.manners.dma == Dma::Never => {
                return Err(ClientError::Protocol("a command is taken for a reply"));
            }
            (true, Side::Main) if has_twin => {
                return Err(ClientError::Protocol(
                    "a command comes past the twin socket",
                ));
            }
            (true, _) => self.served.ask(&message)?,
            (false, Side::Twin) => {
                return Err(ClientError::Protocol("a reply comes by the twin socket"));
            }
            (false, Side::Main)
                if message.header.flags & header_flags::TYPE == header_flags::REPLY =>
            {
                self.exchange.reply(message)?;
            }
            (false, Side::Main) => {
                return Err(ClientError::Protocol("neither a command nor a reply"));
            }
        }
        Ok(true)
    }

    /// Answers the commands that wait, if the dialect answers now.
    fn answer(&mut self) -> Result<()> {
        if self.manners.dma == Dma::WhenIdle && !self.exchange.is_idle() {
            return Ok(());
        }
        // Not those that come in meanwhile: a server that asks without end has its turn again later.
        let mut out = Vec::new();
        for _ in 0..self.served.waiting() {
            out.clear();
            self.served.answer(&mut out);
            let side = match self.twin {
                Some(_) => Side::Twin,
                None => Side::Main,
            };
            self.transmit(side, &out, &[])?;
        }
        Ok(())
    }

    /// The connection is of no use any more.
    pub(super) fn fail(&mut self, error: ClientError) -> ClientError {
        self.broken = Some(match error {
            ClientError::Protocol(why) => why,
            _ => "the connection failed before",
        });
        error
    }

    pub(super) fn check(&self) -> Result<()> {
        self.broken
            .map_or(Ok(()), |why| Err(ClientError::Protocol(why)))
    }
}

//! Interrupts.

use std::os::fd::BorrowedFd;

use zerocopy::IntoBytes;

use super::exchange::Expected;
use super::{Client, ClientError, Result};
use crate::wire::{SetIrqs, command, irq_index, set_irqs_flags as set};

impl Client {
    /// The SET_IRQS request for one interrupt: `flags` from [`set_irqs_flags`](crate::wire::set_irqs_flags), with the
    /// eventfd for `DATA_EVENTFD` (none takes the old one away). Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn set_irq(&mut self, index: u32, flags: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set_irqs(index, flags, 0, 1, fd.as_slice())
    }

    /// The SET_IRQS request in full, except for `DATA_BOOL`. Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        self.request_set_irqs(index, flags, start, count, &[], fds)?;
        if index == irq_index::INTX && flags & set::ACTION_TRIGGER != 0 {
            self.line = match flags & set::DATA_EVENTFD {
                0 => self.line && count > 0,
                _ => !fds.is_empty(),
            };
        }
        Ok(())
    }

    /// SET_IRQS with a flag per interrupt (`DATA_BOOL`): `action` applies to those from `start` on whose flag is set.
    /// Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn set_irqs_where(
        &mut self,
        index: u32,
        action: u32,
        start: u32,
        flags: &[bool],
    ) -> Result<()> {
        let count = u32::try_from(flags.len()).map_err(|_| ClientError::TooLong)?;
        let bytes: Vec<u8> = flags.iter().map(|flag| u8::from(*flag)).collect();
        self.request_set_irqs(index, action | set::DATA_BOOL, start, count, &bytes, &[])
    }

    /// Has the interrupts from `start` on signalled by `fds`, in as many messages as the server needs for so many
    /// descriptors. Wait for them with `poll`: a server may make them nonblocking, for both ends, and this crate's does.
    /// Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn irq_eventfds(&mut self, index: u32, start: u32, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let most = match self.manners.irq_fds {
            Some(most) => most,
            None => self.server.max_msg_fds.max(1),
        };
        let mut at = start;
        for fds in fds.chunks(most) {
            let count = fds.len() as u32;
            let flags = set::DATA_EVENTFD | set::ACTION_TRIGGER;
            self.set_irqs(index, flags, at, count, fds)?;
            at = at.checked_add(count).ok_or(ClientError::TooLong)?;
        }
        Ok(())
    }

    /// Holds interrupts back. Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn mask_irqs(&mut self, index: u32, start: u32, count: u32) -> Result<()> {
        self.set_irqs(index, set::DATA_NONE | set::ACTION_MASK, start, count, &[])
    }

    /// Lets interrupts through. Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn unmask_irqs(&mut self, index: u32, start: u32, count: u32) -> Result<()> {
        self.set_irqs(
            index,
            set::DATA_NONE | set::ACTION_UNMASK,
            start,
            count,
            &[],
        )
    }

    /// Raises interrupts as if the device had. Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn trigger_irqs(&mut self, index: u32, start: u32, count: u32) -> Result<()> {
        self.set_irqs(
            index,
            set::DATA_NONE | set::ACTION_TRIGGER,
            start,
            count,
            &[],
        )
    }

    /// Takes all interrupts of an index down. Specification, "VFIO_USER_DEVICE_SET_IRQS".
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn disable_irqs(&mut self, index: u32) -> Result<()> {
        self.set_irqs(index, set::DATA_NONE | set::ACTION_TRIGGER, 0, 0, &[])
    }

    /// What a hypervisor does that cannot tell when the guest has dealt with INTx: after each access, unmask.
    pub(super) fn accessed_bar(&mut self, region: u32) -> Result<()> {
        match self.manners.unmasks_after_access && self.line && region < 6 {
            true => self.unmask_irqs(irq_index::INTX, 0, 1),
            false => Ok(()),
        }
    }

    fn request_set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let request = SetIrqs {
            argsz: (size_of::<SetIrqs>() + data.len()) as u32,
            flags,
            index,
            start,
            count,
        };
        let expected = Expected {
            payload: size_of::<SetIrqs>(),
            fds: 0,
        };
        let parts = [request.as_bytes(), data];
        let ticket = self.submit_parts(command::DEVICE_SET_IRQS, &parts, fds, expected)?;
        self.collect(ticket)?;
        Ok(())
    }
}

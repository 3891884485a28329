//! SET_IRQS: which eventfds carry the interrupt, and whether it is held back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use zerocopy::FromBytes;

use crate::inbox::Fds;
use crate::session::State;
use crate::wire::set_irqs_flags::{
    ACTION, ACTION_MASK, ACTION_TRIGGER, ACTION_UNMASK, DATA, DATA_BOOL, DATA_EVENTFD, DATA_NONE,
};
use crate::wire::{SetIrqs, irq_index};

impl State {
    pub(crate) fn set_irqs(&mut self, payload: &[u8], fds: Fds) -> Result<(), Errno> {
        let (request, bools) = SetIrqs::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        self.check(&request, bools, &fds)?;
        let (action, data) = (request.flags & ACTION, request.flags & DATA);
        if request.count == 0 {
            self.irqs.disable_index();
            self.resample = None;
            self.begin_epoch();
            return Ok(());
        }
        if data == DATA_EVENTFD {
            let fd = fds.into_iter().next().map(eventfd).transpose()?;
            match action {
                ACTION_TRIGGER => {
                    self.irqs.set_trigger(fd);
                    self.begin_epoch();
                }
                ACTION_UNMASK => self.resample = fd,
                // Linux knows no eventfd that masks a line, either.
                _ if fd.is_some() => return Err(Errno::OPNOTSUPP),
                _ => {}
            }
            return Ok(());
        }
        if data == DATA_BOOL && bools[0] == 0 {
            return Ok(());
        }
        match action {
            ACTION_TRIGGER => self.irqs.trigger_now(),
            ACTION_UNMASK => self.irqs.unmask(),
            _ => {
                self.irqs.mask();
                self.begin_epoch();
            }
        }
        Ok(())
    }

    /// Whether the request makes sense; after this there is at most one interrupt, number 0 of INTx.
    fn check(&self, request: &SetIrqs, bools: &[u8], fds: &Fds) -> Result<(), Errno> {
        let &SetIrqs {
            argsz,
            flags,
            index,
            start,
            count,
        } = request;
        let (total, _) = self.device.irqs(index);
        let end = start.checked_add(count).ok_or(Errno::INVAL)?;
        let (action, data) = (flags & ACTION, flags & DATA);
        let disables = count == 0;
        let sound = argsz as usize >= size_of::<SetIrqs>()
            && index < irq_index::COUNT
            && action.is_power_of_two()
            && data.is_power_of_two()
            && flags == action | data
            && start < total
            && end <= total
            && (!disables || (start == 0 && (action, data) == (ACTION_TRIGGER, DATA_NONE)))
            && match data {
                DATA_EVENTFD => fds.is_empty() || fds.len() == count as usize,
                _ => fds.is_empty(),
            }
            && (data != DATA_BOOL || bools.len() == count as usize);
        match sound {
            true => Ok(()),
            false => Err(Errno::INVAL),
        }
    }
}

/// Takes an eventfd, made so that writing never blocks. Anything else is refused: writing to a file, a pipe or a
/// socket of the client's choice could take for ever.
fn eventfd(fd: OwnedFd) -> Result<Arc<OwnedFd>, Errno> {
    let stat = fstat(&fd).map_err(|_| Errno::INVAL)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
        return Err(Errno::INVAL);
    }
    let flags = fcntl_getfl(&fd).map_err(|_| Errno::INVAL)?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|_| Errno::INVAL)?;
    }
    Ok(Arc::new(fd))
}

const _: () = assert!(ACTION == ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER);

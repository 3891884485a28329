//! SET_IRQS: which eventfds carry interrupts, and which are held back.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use zerocopy::FromBytes;

use crate::inbox::Fds;
use crate::session::State;
use crate::wire::set_irqs_flags::{
    ACTION, ACTION_MASK, ACTION_TRIGGER, ACTION_UNMASK, DATA, DATA_BOOL, DATA_EVENTFD, DATA_NONE,
};
use crate::wire::{MAX_FDS, SetIrqs, irq_index};

impl State {
    pub(crate) fn set_irqs(&mut self, payload: &[u8], fds: Fds) -> Result<(), Errno> {
        let (request, bools) = SetIrqs::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        self.check(&request, bools, &fds)?;
        let SetIrqs {
            flags,
            index,
            start,
            count,
            ..
        } = request;
        if count == 0 {
            self.irqs.disable_index(index);
            if index == irq_index::INTX {
                self.resample = None;
            }
            self.begin_epoch();
            return Ok(());
        }
        let action = flags & ACTION;
        if flags & DATA == DATA_EVENTFD {
            return self.set_eventfds(action, index, start..start + count, fds);
        }
        for (i, number) in (start..start + count).enumerate() {
            // Without BOOL there is no list, and all are meant.
            if bools.get(i) == Some(&0) && flags & DATA == DATA_BOOL {
                continue;
            }
            match action {
                ACTION_TRIGGER => self.irqs.trigger_now(index, number),
                ACTION_UNMASK => self.irqs.unmask(index, number),
                _ => self.irqs.mask(index, number),
            }
        }
        if action == ACTION_MASK {
            self.begin_epoch();
        }
        Ok(())
    }

    /// Exchanges eventfds; without any, takes away those that are there.
    fn set_eventfds(
        &mut self,
        action: u32,
        index: u32,
        range: Range<u32>,
        fds: Fds,
    ) -> Result<(), Errno> {
        // One that is none spoils all, before anything is changed.
        let mut fds = fds
            .into_iter()
            .map(eventfd)
            .collect::<Result<ArrayVec<_, MAX_FDS>, _>>()?
            .into_iter();
        match (action, index) {
            (ACTION_TRIGGER, _) => {
                let mut replaced = false;
                for number in range {
                    replaced |= self.irqs.set_trigger(index, number, fds.next());
                }
                if replaced {
                    self.begin_epoch();
                }
            }
            (ACTION_UNMASK, irq_index::INTX) => self.resample = fds.next(),
            // Linux knows no eventfds that mask, nor any that unmask a message.
            _ if fds.len() > 0 => return Err(Errno::OPNOTSUPP),
            _ => {}
        }
        Ok(())
    }

    /// Whether the request makes sense; after this the range is within the index.
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
            && (data != DATA_BOOL || bools.len() == count as usize)
            && (matches!(index, irq_index::INTX | irq_index::MSI | irq_index::MSIX)
                || action == ACTION_TRIGGER);
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

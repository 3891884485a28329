//! GET_REGION_IO_FDS: descriptors that a client may signal instead of sending a write.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::session::State;
use crate::wire::{Header, IoFd, MAX_DATA, RegionIoFds, io_fd_type, region_index};

/// [`IoFd::fd_index`] of one without a descriptor.
const NO_FD: u32 = u32::MAX;

impl State {
    pub(crate) fn region_io_fds(
        &mut self,
        header: &Header,
        request: RegionIoFds,
    ) -> Result<(), Errno> {
        let RegionIoFds {
            argsz,
            flags,
            index,
            count,
        } = request;
        let least = size_of::<RegionIoFds>();
        if flags != 0
            || count != 0
            || !(least..=MAX_DATA).contains(&(argsz as usize))
            || index >= region_index::COUNT
            || self.device.region_size(index) == 0
        {
            return Err(Errno::INVAL);
        }
        let total = self.device.io_event_fds(index).count();
        let needed = least + total * size_of::<IoFd>();
        let mut reply = RegionIoFds {
            argsz: needed as u32,
            flags: 0,
            index,
            count: total as u32,
        };
        if needed > argsz as usize {
            // The client asks again, with room for all of it.
            reply.count = 0;
            self.reply(header, &reply);
            return Ok(());
        }
        let mut fds = Vec::new();
        let mut payload = reply.as_bytes().to_vec();
        for io in self.device.io_event_fds(index) {
            let fd_index = match &io.fd {
                None => NO_FD,
                Some(fd) => {
                    let same = |sent: &Arc<OwnedFd>| sent.as_raw_fd() == fd.as_raw_fd();
                    match fds.iter().position(same) {
                        Some(at) => at as u32,
                        // The client takes no more: it goes on sending these writes.
                        None if fds.len() == self.client.max_fds => continue,
                        None => {
                            fds.push(fd.clone());
                            fds.len() as u32 - 1
                        }
                    }
                }
            };
            let io = IoFd {
                offset: io.offset,
                size: io.size,
                fd_index,
                kind: io_fd_type::IOEVENTFD,
                flags: io.flags,
                padding: 0,
                datamatch: io.datamatch,
            };
            payload.extend_from_slice(io.as_bytes());
        }
        let sent = (payload.len() - least) / size_of::<IoFd>();
        reply.count = sent as u32;
        reply.argsz = payload.len() as u32;
        payload[..least].copy_from_slice(reply.as_bytes());
        self.reply_with_fds(header, &payload[..], fds);
        Ok(())
    }
}

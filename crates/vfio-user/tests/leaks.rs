//! No descriptor is leaked, whatever a client sends. One test, alone in its process: it counts all descriptors.

mod common;

use std::os::fd::AsFd;

use common::{Rig, event_fd, memfd, words};
use vfio_user::ResetKind;
use vfio_user::client::{Client, ClientError};

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn every_descriptor_is_closed() {
    let rig = Rig::start();
    drop(Client::connect(&rig.path).unwrap());
    rig.until("disconnected", |ram| ram.resets.len() == 1);
    let before = open_files();

    let mut client = Client::connect(&rig.path).unwrap();
    let (file, event) = (memfd(0x10_0000), event_fd());
    let inside = open_files();
    // Every command, refused or not, with descriptors that nobody asked for.
    for command in 2..24 {
        for len in [0, 16, 20, 24, 32, 64] {
            let fds = [file.as_fd(), event.as_fd(), file.as_fd()];
            match client.request(command, &vec![0; len], &fds) {
                Ok(_) | Err(ClientError::Refused { .. }) => {}
                Err(error) => panic!("command {command}: {error}"),
            }
        }
    }
    assert_eq!(open_files(), inside, "refused");
    // More than fit, mapped and unmapped, assigned and replaced.
    let many: Vec<_> = (0..60).map(|_| event.as_fd()).collect();
    for _ in 0..100 {
        let _ = client.set_irqs(0, 0x24, 0, 1, &many);
        client
            .dma_map(0, 0x1000, Some((file.as_fd(), 0)), 3)
            .unwrap();
        client.dma_unmap(0, 0x1000).unwrap();
        client.set_irq(0, 0x24, Some(event.as_fd())).unwrap();
        client.set_irq(0, 0x14, Some(event.as_fd())).unwrap();
    }
    client
        .dma_map(0, 0x1000, Some((file.as_fd(), 0)), 3)
        .unwrap();
    assert_eq!(open_files(), inside + 2, "the two eventfds of the line");
    // It leaves without waiting for the reply.
    client
        .send(8, 0, &[&words(&[20, 0x24, 0, 0, 1])], &[event.as_fd()])
        .unwrap();
    drop((client, file, event));
    rig.until("disconnected", |ram| {
        ram.resets.last() == Some(&ResetKind::Disconnected)
    });
    // The event loop lets go of the resample eventfd on its next turn.
    rig.hold(false);
    for _ in 0..1000 {
        if open_files() == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(open_files(), before, "after the client left");
}

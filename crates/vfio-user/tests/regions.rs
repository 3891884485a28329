//! Regions: what GET_REGION_INFO and GET_REGION_IO_FDS say of them, clause by clause of what libvfio-user's tests ask,
//! and who answers accesses to memory that clients map.

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use common::{Desk, event_fd, memfd, words};
use rustix::io::{Errno, pread, pwrite};
use vfio_user::wire::MmapArea;
use vfio_user::{Bar, BuildError, Device, DeviceBuilder, ListenOptions, Listener, Server};

const INVAL: u32 = Errno::INVAL.raw_os_error() as u32;

const GET_REGION_INFO: u16 = 5;
const GET_REGION_IO_FDS: u16 = 6;

const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const MMAP: u32 = 1 << 2;
const CAPS: u32 = 1 << 3;

const SIZE: u64 = 0x8000;

/// BAR0 with two areas to map, BAR1 to map as a whole, BAR2 with nothing special; and the files behind.
fn device() -> (Device, [OwnedFd; 2]) {
    let files = [memfd(SIZE), memfd(0x2000)];
    let [sparse, whole] = files.each_ref().map(|file| file.try_clone().unwrap());
    let device = Device::builder()
        .bar(0, Bar::memory32(SIZE as u32))
        .bar(1, Bar::memory32(0x2000))
        .bar(2, Bar::memory32(0x1000))
        .mappable(0, sparse, &[area(0x4000, 0x6000), area(0x2000, 0x3000)])
        .mappable(1, whole, &[])
        .build();
    (device.unwrap(), files)
}

fn desk() -> (Desk, [OwnedFd; 2]) {
    let (device, files) = device();
    let mut desk = Desk::ready_of(device);
    desk.ram.bytes.resize(SIZE as usize, 0);
    (desk, files)
}

fn area(start: u64, end: u64) -> MmapArea {
    MmapArea {
        offset: start,
        size: end.wrapping_sub(start),
    }
}

fn info(argsz: u32, index: u32) -> Vec<u8> {
    words(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

/// The words of the answer, and the descriptors that came along.
fn ask_info(desk: &mut Desk, argsz: u32, index: u32) -> (Vec<u32>, Vec<Arc<OwnedFd>>) {
    desk.fds.clear();
    let reply = desk.ask(GET_REGION_INFO, &info(argsz, index));
    assert_eq!(reply.header.error, 0);
    (words_of(&reply.payload), std::mem::take(&mut desk.fds))
}

fn words_of(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
        .collect()
}

fn byte(file: &OwnedFd, at: u64) -> u8 {
    let mut byte = [0];
    pread(file, &mut byte, at).unwrap();
    byte[0]
}

// GET_REGION_INFO

#[test]
fn region_info_short_is_invalid() {
    for len in [0, 4, 31] {
        let (mut desk, _files) = desk();
        let reply = desk.ask(GET_REGION_INFO, &info(32, 0)[..len]);
        assert_eq!(reply.header.error, INVAL);
    }
}

#[test]
fn region_info_argsz_below_32_is_invalid() {
    let (mut desk, _files) = desk();
    let reply = desk.ask(GET_REGION_INFO, &info(31, 0));
    assert_eq!(reply.header.error, INVAL);
}

#[test]
fn region_info_index_out_of_range_is_invalid() {
    for index in [9, u32::MAX] {
        let (mut desk, _files) = desk();
        let reply = desk.ask(GET_REGION_INFO, &info(32, index));
        assert_eq!(reply.header.error, INVAL);
    }
}

#[test]
fn region_info_with_more_room_is_as_long_as_needed() {
    let (mut desk, _files) = desk();
    for (index, needed) in [(0, 80), (1, 32), (2, 32), (7, 32)] {
        let (reply, _) = ask_info(&mut desk, 4096, index);
        assert_eq!((reply[0], reply.len() * 4), (needed, needed as usize));
    }
}

#[test]
fn region_info_caps_that_do_not_fit_are_announced() {
    let (mut desk, _files) = desk();
    for argsz in [32, 48, 79] {
        let (reply, fds) = ask_info(&mut desk, argsz, 0);
        let size = SIZE as u32;
        assert_eq!(reply, [80, READ | WRITE | MMAP, 0, 0, size, 0, 0, 0]);
        assert!(fds.is_empty(), "not before the caps do");
    }
}

#[test]
fn region_info_caps_that_fit_come_with_one_fd() {
    let (mut desk, [file, _]) = desk();
    let (reply, fds) = ask_info(&mut desk, 80, 0);
    let (fixed, caps) = reply.split_at(8);
    let flags = READ | WRITE | MMAP | CAPS;
    assert_eq!(fixed, [80, flags, 0, 32, SIZE as u32, 0, 0, 0]);
    let header = [1 | 1 << 16, 0];
    let areas = [2, 0, 0x2000, 0, 0x1000, 0, 0x4000, 0, 0x2000, 0];
    assert_eq!(caps, [&header[..], &areas].concat());
    let [fd] = &fds[..] else {
        panic!("not one: {fds:?}")
    };
    pwrite(fd, &[0x5a], 0x4000).unwrap();
    assert_eq!(byte(&file, 0x4000), 0x5a, "the same file");
}

#[test]
fn region_info_of_one_area_has_64_bytes() {
    let device = Device::builder().bar(3, Bar::memory64(1 << 32)).mappable(
        3,
        memfd(0x2000),
        &[area(0x1000, 0x2000)],
    );
    let mut desk = Desk::ready_of(device.build().unwrap());
    let (reply, fds) = ask_info(&mut desk, 64, 3);
    assert_eq!((reply[0], reply.len(), fds.len()), (64, 16, 1));
    assert_eq!(
        reply[4..6],
        [0, 1],
        "4 GiB, of which the file has two pages"
    );
}

#[test]
fn region_info_without_areas_maps_the_whole_region() {
    let (mut desk, _files) = desk();
    let (reply, fds) = ask_info(&mut desk, 32, 1);
    assert_eq!(reply, [32, READ | WRITE | MMAP, 1, 0, 0x2000, 0, 0, 0]);
    assert_eq!(fds.len(), 1);
}

#[test]
fn region_info_of_an_empty_region_is_all_zero() {
    let (mut desk, _files) = desk();
    for index in [3, 4, 5, 6, 8] {
        let (reply, fds) = ask_info(&mut desk, 4096, index);
        assert_eq!(reply, [32, 0, index, 0, 0, 0, 0, 0]);
        assert!(fds.is_empty());
    }
}

#[test]
fn region_info_without_room_for_descriptors_maps_nothing() {
    let (device, _files) = device();
    let mut desk = Desk::of(device);
    let json = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":0}}\0";
    assert_eq!(desk.ask(1, json).header.error, 0);
    let (reply, fds) = ask_info(&mut desk, 4096, 0);
    assert_eq!((reply[1], reply.len()), (READ | WRITE, 8));
    assert!(fds.is_empty());
}

#[test]
fn region_info_fds_arrive_over_a_socket_with_their_own_reply() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.sock");
    let listener = Listener::bind(&path, &ListenOptions::default()).unwrap();
    let (device, [sparse, whole]) = device();
    let mut server = Server::new(listener, device);
    let mut ram = common::Ram::default();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    server.on_listener(&mut ram);
    let requests = [
        common::message(0, 1, 0, &common::proposal()),
        common::message(1, GET_REGION_INFO, 0, &info(80, 2)),
        common::message(2, GET_REGION_INFO, 0, &info(80, 0)),
        common::message(3, GET_REGION_INFO, 0, &info(80, 1)),
        common::message(4, GET_REGION_INFO, 0, &info(80, 2)),
    ];
    stream.write_all(&requests.concat()).unwrap();
    server.on_readable(&mut ram).unwrap();
    // A message with descriptors leaves alone, and a read ends with it.
    let mut seen: Vec<(u8, Vec<OwnedFd>)> = Vec::new();
    while seen.len() < 5 {
        let (bytes, fds) = receive(&stream);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = words_of(&rest[4..8])[0] as usize;
            seen.push((rest[0], Vec::new()));
            rest = &rest[size..];
        }
        seen.last_mut().unwrap().1 = fds;
    }
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    let files = [sparse, whole].map(|file| inode(&file));
    let seen: Vec<_> = seen
        .iter()
        .map(|(id, fds)| (*id, fds.iter().map(inode).collect::<Vec<_>>()))
        .collect();
    let [sparse, whole] = files.map(|file| vec![file]);
    let none = Vec::new;
    assert_eq!(
        seen,
        [
            (0, none()),
            (1, none()),
            (2, sparse),
            (3, whole),
            (4, none())
        ]
    );
}

fn receive(stream: &std::os::unix::net::UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut control = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut control);
    let mut bytes = vec![0; 4096];
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let n = recvmsg(stream, &mut iov, &mut control, RecvFlags::empty())
        .unwrap()
        .bytes;
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    bytes.truncate(n);
    (bytes, fds)
}

// Accesses

#[test]
fn accesses_by_message_and_through_the_mapping_see_the_same_bytes() {
    let (mut desk, [file, _]) = desk();
    let mem = desk.session.region_mem(0).unwrap();
    assert_eq!(desk.write(0, 0x2ffc, &[1, 2, 3, 4]), 0);
    assert_eq!(byte(&file, 0x2fff), 4);
    let mut bytes = [0; 4];
    mem.read(0x2ffc, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4], "the device's own view");
    mem.write(0x5ff0, &[7; 8]).unwrap();
    pwrite(&file, &[8], 0x5ff0).unwrap();
    assert_eq!(desk.read(0, 0x5ff0, 4), [8, 7, 7, 7]);
    assert!(mem.read(0x3000, &mut bytes).is_err(), "between the areas");
    assert!(desk.session.region_mem(2).is_none());
    assert!(desk.session.region_mem(6).is_none());
}

#[test]
fn a_write_by_message_is_told_after_it_is_stored() {
    let (mut desk, _files) = desk();
    assert_eq!(desk.write(0, 0x2000, &[9; 4]), 0);
    assert_eq!(desk.ram.writes, 1);
    assert_eq!(desk.ram.bytes[0x2000..0x2005], [9, 9, 9, 9, 0]);
    desk.ram.bytes.fill(0x77);
    assert_eq!(desk.read(0, 0x2000, 4), [9; 4], "reads are not");
}

#[test]
fn accesses_across_an_area_are_divided() {
    let (mut desk, [file, _]) = desk();
    assert_eq!(desk.write(0, 0x1ffe, &[1, 2, 3, 4]), 0);
    assert_eq!((byte(&file, 0x1fff), byte(&file, 0x2000)), (0, 3));
    assert_eq!(desk.ram.writes, 2);
    desk.ram.bytes.fill(0x77);
    assert_eq!(desk.read(0, 0x1ffe, 4), [0x77, 0x77, 3, 4]);
    assert_eq!(desk.read(0, 0x2fff, 2), [0, 0x77]);
    let all = desk.read(0, 0, SIZE as u32);
    assert_eq!(all[0x2000..0x2002], [3, 4]);
    let from_file = 0x3000;
    assert_eq!(all.iter().filter(|byte| **byte != 0x77).count(), from_file);
}

#[test]
fn mapped_memory_answers_messages_only_while_memory_is_enabled() {
    let (mut desk, [file, _]) = desk();
    desk.config_write(4, &[0]);
    assert_eq!(desk.write(0, 0x2000, &[9]), 0);
    assert_eq!(byte(&file, 0x2000), 0);
    assert_eq!(desk.read(0, 0x2000, 1), [0xff]);
}

// What the builder refuses

fn fails(with: impl FnOnce(DeviceBuilder) -> DeviceBuilder) -> BuildError {
    let builder = Device::builder()
        .bar(0, Bar::memory32(SIZE as u32))
        .bar(1, Bar::io(0x100))
        .bar(2, Bar::memory32(0x100));
    with(builder).build().unwrap_err()
}

#[test]
fn areas_are_whole_pages_of_their_bar() {
    for (bar, areas, offset) in [
        (0, vec![area(0x800, 0x1800)], 0x800),
        (0, vec![area(0x1000, 0x1800)], 0x1000),
        (0, vec![area(0x1000, 0x1000)], 0x1000),
        (0, vec![area(0x2000, 0x1000)], 0x2000),
        (0, vec![area(0x7000, 0x9000)], 0x7000),
        (0, vec![area(0x0000, 0x2000), area(0x1000, 0x3000)], 0x1000),
        (1, vec![], 0),
        (2, vec![], 0),
        (3, vec![area(0, 0x1000)], 0),
        (6, vec![area(0, 0x1000)], 0),
        (usize::MAX, vec![], 0),
    ] {
        let error = fails(|b| b.mappable(bar, memfd(SIZE), &areas));
        assert_eq!(error, BuildError::Area { bar, offset });
    }
    let twice = fails(|b| {
        let b = b.mappable(0, memfd(SIZE), &[area(0, 0x1000)]);
        b.mappable(0, memfd(SIZE), &[area(0x1000, 0x2000)])
    });
    assert_eq!(twice, BuildError::Area { bar: 0, offset: 0 });
}

#[test]
fn msix_tables_are_never_in_a_mapped_area() {
    let with = |areas: &[MmapArea], table, pba| {
        fails(move |b| b.mappable(0, memfd(SIZE), areas).msix(8, 0, table, 0, pba))
    };
    let (bar, offset) = (0, 0x1000);
    assert_eq!(with(&[], 0x1000, 0), BuildError::Msix { bar, offset });
    let areas = &[area(0x1000, 0x2000)];
    assert_eq!(with(areas, 0x1000, 0), BuildError::Msix { bar, offset });
    let offset = 0xff8;
    assert_eq!(with(areas, 0xff8, 0), BuildError::Msix { bar, offset });
    let offset = 0x1ff8;
    assert_eq!(with(areas, 0, 0x1ff8), BuildError::Msix { bar, offset });
}

#[test]
fn files_are_long_enough_and_can_be_written() {
    let short = fails(|b| b.mappable(0, memfd(0x1fff), &[area(0x1000, 0x2000)]));
    assert!(matches!(short, BuildError::File { bar: 0, .. }), "{short}");
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = fails(|b| b.mappable(0, null.into(), &[]));
    assert!(matches!(error, BuildError::File { .. }));
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let read_only = file.reopen().map(|_| std::fs::File::open(file.path()));
    let error = fails(|b| b.mappable(0, read_only.unwrap().unwrap().into(), &[]));
    assert!(matches!(error, BuildError::File { .. }), "{error}");
}

// GET_REGION_IO_FDS

/// BAR0 has six with a descriptor each, BAR1 five of which two have none and two share one, BAR2 has none.
fn io_device() -> (Device, Vec<Arc<OwnedFd>>) {
    let fds: Vec<_> = (0..8).map(|_| Arc::new(event_fd())).collect();
    let mut builder = Device::builder()
        .bar(0, Bar::memory32(0x1000))
        .bar(1, Bar::io(0x100))
        .bar(2, Bar::memory32(0x1000));
    for (i, fd) in (0..).zip(&fds[..6]) {
        builder = builder.ioeventfd(0, 8 * i, 8, Some(fd.clone()), 0, 0);
    }
    let (a, b) = (&fds[6], &fds[7]);
    for (i, fd) in [Some(a), None, Some(b), None, Some(a)].iter().enumerate() {
        let fd = fd.map(Arc::clone);
        builder = builder.ioeventfd(1, 4 * i as u64, 4, fd, 1, 0xfeed);
    }
    (builder.build().unwrap(), fds)
}

fn io_desk() -> (Desk, Vec<Arc<OwnedFd>>) {
    let (device, fds) = io_device();
    (Desk::ready_of(device), fds)
}

fn io_fds(desk: &mut Desk, request: &[u32]) -> Result<(Vec<u32>, Vec<i32>), u32> {
    desk.fds.clear();
    let reply = desk.ask(GET_REGION_IO_FDS, &words(request));
    match reply.header.error {
        0 => {
            let fds = desk.fds.iter().map(|fd| fd.as_raw_fd()).collect();
            Ok((words_of(&reply.payload), fds))
        }
        errno => Err(errno),
    }
}

#[test]
fn io_fds_short_is_invalid() {
    let (mut desk, _fds) = io_desk();
    assert_eq!(io_fds(&mut desk, &[]), Err(INVAL));
    assert_eq!(io_fds(&mut desk, &[512, 0, 0]), Err(INVAL));
}

#[test]
fn io_fds_flags_are_invalid() {
    let (mut desk, _fds) = io_desk();
    assert_eq!(io_fds(&mut desk, &[512, 1, 0, 0]), Err(INVAL));
}

#[test]
fn io_fds_count_is_invalid() {
    let (mut desk, _fds) = io_desk();
    assert_eq!(io_fds(&mut desk, &[512, 0, 0, 1]), Err(INVAL));
}

#[test]
fn io_fds_argsz_below_16_is_invalid() {
    let (mut desk, _fds) = io_desk();
    assert_eq!(io_fds(&mut desk, &[15, 0, 0, 0]), Err(INVAL));
}

#[test]
fn io_fds_argsz_above_the_maximum_is_invalid() {
    let (mut desk, _fds) = io_desk();
    assert_eq!(io_fds(&mut desk, &[(1 << 20) + 1, 0, 0, 0]), Err(INVAL));
    assert!(io_fds(&mut desk, &[1 << 20, 0, 0, 0]).is_ok());
}

#[test]
fn io_fds_index_out_of_range_is_invalid() {
    let (mut desk, _fds) = io_desk();
    for index in [9, 512, u32::MAX] {
        assert_eq!(io_fds(&mut desk, &[512, 0, index, 0]), Err(INVAL));
    }
}

#[test]
fn io_fds_of_an_unset_region_is_invalid() {
    let (mut desk, _fds) = io_desk();
    for index in [3, 6, 8] {
        assert_eq!(io_fds(&mut desk, &[512, 0, index, 0]), Err(INVAL));
    }
}

#[test]
fn io_fds_of_a_region_without_are_none() {
    let (mut desk, _fds) = io_desk();
    for index in [2, 7] {
        let reply = io_fds(&mut desk, &[512, 0, index, 0]).unwrap();
        assert_eq!(reply, (vec![16, 0, index, 0], Vec::new()));
    }
}

#[test]
fn io_fds_that_do_not_fit_are_announced() {
    let (mut desk, _fds) = io_desk();
    for argsz in [16, 16 + 40, 16 + 6 * 40 - 1] {
        let reply = io_fds(&mut desk, &[argsz, 0, 0, 0]).unwrap();
        assert_eq!(reply, (vec![16 + 6 * 40, 0, 0, 0], Vec::new()));
    }
}

#[test]
fn io_fds_that_fit_come_with_their_descriptors() {
    let (mut desk, fds) = io_desk();
    for argsz in [16 + 6 * 40, 4096] {
        let (reply, got) = io_fds(&mut desk, &[argsz, 0, 0, 0]).unwrap();
        let (head, list) = reply.split_at(4);
        assert_eq!(head, [16 + 6 * 40, 0, 0, 6]);
        for (i, io) in (0..).zip(list.chunks_exact(10)) {
            assert_eq!(io, [8 * i, 0, 8, 0, i, 0, 0, 0, 0, 0]);
        }
        let expected: Vec<_> = fds[..6].iter().map(|fd| fd.as_raw_fd()).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn io_fds_used_several_times_come_once_and_those_without_have_no_index() {
    let (mut desk, fds) = io_desk();
    let (reply, got) = io_fds(&mut desk, &[512, 0, 1, 0]).unwrap();
    assert_eq!(reply[..4], [16 + 5 * 40, 0, 1, 5]);
    let index = |io: &[u32]| io[4];
    let indexes: Vec<_> = reply[4..].chunks_exact(10).map(index).collect();
    assert_eq!(indexes, [0, u32::MAX, 1, u32::MAX, 0]);
    assert_eq!(reply[4..14], [0, 0, 4, 0, 0, 0, 1, 0, 0xfeed, 0]);
    assert_eq!(got, [fds[6].as_raw_fd(), fds[7].as_raw_fd()]);
}

#[test]
fn io_fds_beyond_what_a_client_takes_are_left_out() {
    let (device, fds) = io_device();
    let mut desk = Desk::of(device);
    let json = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":2}}\0";
    assert_eq!(desk.ask(1, json).header.error, 0);
    let (reply, got) = io_fds(&mut desk, &[4096, 0, 0, 0]).unwrap();
    assert_eq!(reply[..4], [16 + 2 * 40, 0, 0, 2]);
    assert_eq!(reply.len(), 4 + 2 * 10);
    assert_eq!(got, [fds[0].as_raw_fd(), fds[1].as_raw_fd()]);
}

#[test]
fn ioeventfds_lie_in_their_bar_and_watch_what_kvm_can_watch() {
    let fd = || Some(Arc::new(event_fd()));
    for (bar, offset, size) in [
        (0, SIZE, 4),
        (0, SIZE - 4, 8),
        (0, 2, 4),
        (0, 0, 3),
        (0, 0, 16),
        (0, 0, 0),
        (0, u64::MAX - 3, 4),
        (3, 0, 4),
        (6, 0, 4),
        (300, 0, 4),
    ] {
        let error = fails(|b| b.ioeventfd(bar, offset, size, fd(), 0, 0));
        assert_eq!(error, BuildError::IoEventFd { bar, offset });
    }
    let too_many = fails(|b| (0..17).fold(b, |b, i| b.ioeventfd(0, 4 * i, 4, fd(), 0, 0)));
    assert_eq!(too_many, BuildError::IoEventFd { bar: 0, offset: 0 });
}

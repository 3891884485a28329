use super::*;
use crate::testing::*;
use nic_emu::common::frame::Offload;

/// The records of a capture: time in nanoseconds and bytes. Written from the format's description.
fn parse(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    assert_eq!(file[4..16], [2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let snaplen = word(16);
    assert_eq!(word(20), 1, "Ethernet");
    let mut records = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (seconds, nanos, captured) = (word(at), word(at + 4), word(at + 8));
        assert!(nanos < 1_000_000_000);
        assert!(captured <= snaplen && captured == word(at + 12));
        let end = at + 16 + captured as usize;
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(nanos);
        records.push((time, file[at + 16..end].to_vec()));
        at = end;
    }
    records
}

#[test]
fn what_passes_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcap");
    let (inner, record) = Recorder::backend();
    let mut pcap = Pcap::around(inner, &path).unwrap();
    assert!(parse(&std::fs::read(&path).unwrap()).is_empty());

    let tso = tcp_super(1, 1448, &pattern(30_000));
    let small = (pattern(60), Offload::default());
    record.lock().unwrap().room = 2;
    let frames = [tso.clone(), small.clone(), small.clone()];
    assert_eq!(pcap.tx.send(&burst(&frames), Time(5)), 2);
    record.lock().unwrap().store.push_back(pattern(1514));
    assert_eq!(drain(&mut *pcap.rx, Time(6)), [pattern(1514)]);

    // It is in the file within a second.
    let due = pcap.tx.deadline().unwrap();
    assert_eq!(due, Time(5) + FLUSH_AFTER);
    assert_eq!(pcap.rx.deadline(), Some(Time(6) + FLUSH_AFTER));
    pcap.tx.run_timers(due);
    assert_eq!(pcap.tx.deadline(), None);
    let records = parse(&std::fs::read(&path).unwrap());
    let bytes: Vec<_> = records.iter().map(|(_, bytes)| bytes.clone()).collect();
    // Only what was taken; super-frames whole.
    assert_eq!(bytes, [tso.0, small.0.clone(), pattern(1514)]);
    assert!(records.windows(2).all(|w| w[0].0 <= w[1].0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(now.as_secs().abs_diff(records[0].0 / 1_000_000_000) < 60);

    record.lock().unwrap().room = 9;
    send(&mut *pcap.tx, &[pattern(99)], Time(7));
    drop(pcap);
    assert_eq!(parse(&std::fs::read(&path).unwrap()).len(), 4);
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_traffic() {
    let (inner, _) = Recorder::backend();
    let full = Path::new("/dev/full");
    let error = Pcap::around(inner, full).map(drop).unwrap_err();
    assert!(error.to_string().contains("/dev/full"));

    let (inner, sent) = Recorder::backend();
    let file = File::options().write(true).open(full).unwrap();
    let capture = Arc::new(Capture {
        name: "full".into(),
        file: Mutex::new(Some(BufWriter::new(file))),
    });
    let mut pcap = Pcap::into(inner, capture.clone());
    for _ in 0..300 {
        send(&mut *pcap.tx, &[pattern(1514)], Time(1));
    }
    assert!(capture.file().is_none());
    pcap.tx.run_timers(Time(1) + FLUSH_AFTER);
    assert_eq!(pcap.tx.deadline(), None);
    assert_eq!(sent.lock().unwrap().sent.len(), 300);
}

#[test]
fn a_bad_path_is_named() {
    let (inner, _) = Recorder::backend();
    let error = Pcap::around(inner, Path::new("/nonexistent/x.pcap"))
        .map(drop)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot write the capture file /nonexistent/x.pcap: ")
    );
}

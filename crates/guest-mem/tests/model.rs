//! Any accesses to any memory map, against a model that is a list of bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use guest_mem::{Access, DirtyLog, DmaError, GuestMem, LogError, Mapping, Remote};
use proptest::prelude::*;

const PAGE: u64 = 4096;
/// Everything happens below this address.
const SPACE: u64 = 24 * PAGE;

/// Somebody who is asked, and with whom writes arrive late.
#[derive(Debug)]
struct Fake {
    ram: Mutex<BTreeMap<u64, u8>>,
    under_way: Mutex<VecDeque<(u64, Vec<u8>)>>,
    blocks: bool,
}

impl Fake {
    fn arrive(&self) {
        let mut ram = self.ram.lock().unwrap();
        for (addr, bytes) in self.under_way.lock().unwrap().drain(..) {
            ram.extend((addr..).zip(bytes));
        }
    }
}

impl Remote for Fake {
    fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.arrive();
        let ram = self.ram.lock().unwrap();
        for (byte, at) in to.iter_mut().zip(addr..) {
            *byte = ram.get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), DmaError> {
        self.under_way
            .lock()
            .unwrap()
            .push_back((addr, from.to_vec()));
        Ok(())
    }

    fn flush(&self) -> Result<(), DmaError> {
        self.arrive();
        Ok(())
    }

    fn blocks(&self) -> bool {
        self.blocks
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Unreachable,
    Mapped(Access),
    Remote(Access),
}

impl Kind {
    fn allows(self, access: Access) -> bool {
        match self {
            Self::Nothing | Self::Unreachable => false,
            Self::Mapped(own) | Self::Remote(own) => {
                own == Access::ReadWrite || access == Access::Read
            }
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let access = || prop::sample::select(vec![Access::Read, Access::ReadWrite, Access::ReadWrite]);
    prop_oneof![
        Just(Kind::Nothing),
        Just(Kind::Unreachable),
        access().prop_map(Kind::Mapped),
        access().prop_map(Kind::Mapped),
        access().prop_map(Kind::Remote),
        access().prop_map(Kind::Remote),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Words(u64, usize),
    Write(u64, Vec<u8>),
    WriteWords(u64, Vec<u64>),
    Chunks(u64, Vec<u8>, [usize; 2]),
    Store(u64, u64, u8),
    Lend(u64, usize),
    Flush,
    Report(u64, u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let addr = || 0..SPACE;
    let len = || prop_oneof![0usize..40, 0usize..9000];
    let bytes = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            (any::<u8>(), 0usize..9000).prop_map(|(byte, len)| vec![byte; len]),
        ]
    };
    prop_oneof![
        (addr(), len()).prop_map(|(addr, len)| Step::Read(addr, len)),
        (addr(), 0usize..600).prop_map(|(addr, len)| Step::Words(addr & !7, len)),
        (addr(), 0usize..8).prop_map(|(addr, len)| Step::Words(addr, len)),
        (addr(), bytes()).prop_map(|(addr, bytes)| Step::Write(addr, bytes)),
        (addr(), prop::collection::vec(any::<u64>(), 0..600))
            .prop_map(|(addr, words)| Step::WriteWords(addr & !3, words)),
        (addr(), bytes(), any::<[u16; 2]>()).prop_map(|(addr, bytes, cuts)| Step::Chunks(
            addr,
            bytes,
            cuts.map(usize::from)
        )),
        (addr(), any::<u64>(), 0u8..3)
            .prop_map(|(addr, value, size)| Step::Store(addr, value, size)),
        (addr(), len()).prop_map(|(addr, len)| Step::Lend(addr, len)),
        Just(Step::Flush),
        (addr(), 1..SPACE).prop_map(|(addr, len)| Step::Report(addr, len)),
    ]
}

/// The map under test and what it has to do.
struct Model {
    mem: GuestMem,
    fake: Arc<Fake>,
    log: Arc<DirtyLog>,
    /// Of each page.
    kinds: Vec<Kind>,
    nonblocking: bool,
    bytes: Vec<u8>,
    /// Which parts of pages were written, by first byte: two ranges of the log may share a page.
    dirty: BTreeSet<u64>,
    /// The pages that are logged.
    logged: Range<u64>,
    /// Where the second range of the log begins.
    middle: u64,
}

impl Model {
    fn new(kinds: Vec<Kind>, blocks: bool, nonblocking: bool, first: u64) -> Self {
        let fake = Arc::new(Fake {
            ram: Mutex::default(),
            under_way: Mutex::default(),
            blocks,
        });
        let logged = first..first + 16;
        // In two ranges that touch, not on a page boundary.
        let middle = 7 * PAGE + 100;
        let ranges = [
            (first * PAGE, middle),
            (first * PAGE + middle, 16 * PAGE - middle),
        ];
        let log = Arc::new(DirtyLog::new(&ranges, PAGE).unwrap());
        let ram = Arc::new(Mapping::anonymous(SPACE).unwrap());
        let mut builder = GuestMem::builder().dirty_log(log.clone());
        for (page, &kind) in kinds.iter().enumerate().rev() {
            let at = page as u64 * PAGE;
            builder = match kind {
                Kind::Nothing => builder,
                Kind::Unreachable => builder.unreachable(at, PAGE, Access::ReadWrite),
                // Not in the order of the addresses.
                Kind::Mapped(access) => {
                    builder.map(at, PAGE, ram.clone(), SPACE - PAGE - at, access)
                }
                Kind::Remote(access) => builder.remote(at, PAGE, access, fake.clone()),
            };
        }
        let mem = builder.build().unwrap();
        Self {
            mem: if nonblocking { mem.nonblocking() } else { mem },
            fake,
            log,
            kinds,
            nonblocking: nonblocking && blocks,
            bytes: vec![0; SPACE as usize],
            dirty: BTreeSet::new(),
            logged,
            middle: first * PAGE + middle,
        }
    }

    fn pages(&self, addr: u64, len: usize) -> std::ops::RangeInclusive<u64> {
        addr / PAGE..=(addr + len as u64 - 1) / PAGE
    }

    /// What each range of the log has of a page.
    fn parts(&self, page: u64) -> Vec<Range<u64>> {
        let (start, end) = (page * PAGE, (page + 1) * PAGE);
        let middle = self.middle.clamp(start, end);
        let parts = [start..middle, middle..end].into_iter();
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// Whether such an access can be done.
    fn allows(&self, addr: u64, len: usize, access: Access) -> bool {
        len == 0
            || self.pages(addr, len).all(|page| {
                self.kinds.get(page as usize).is_some_and(|kind| {
                    kind.allows(access) && !(self.nonblocking && matches!(kind, Kind::Remote(_)))
                })
            })
    }

    fn mapped(&self, addr: u64, len: usize) -> bool {
        len == 0
            || self
                .pages(addr, len)
                .all(|page| matches!(self.kinds.get(page as usize), Some(Kind::Mapped(_))))
    }

    fn written(&mut self, result: Result<(), DmaError>, addr: u64, bytes: &[u8]) {
        if !self.allows(addr, bytes.len(), Access::ReadWrite) {
            assert_eq!(result, Err(DmaError::Unreachable { addr }));
            return;
        }
        assert_eq!(result, Ok(()));
        if !bytes.is_empty() {
            self.bytes[addr as usize..][..bytes.len()].copy_from_slice(bytes);
            for page in self.pages(addr, bytes.len()) {
                let end = addr + bytes.len() as u64;
                let written = |part: &Range<u64>| part.start < end && addr < part.end;
                let parts = self.parts(page).into_iter().filter(written);
                self.dirty.extend(parts.map(|part| part.start));
            }
        }
    }

    fn read(&self, result: Result<(), DmaError>, addr: u64, got: &[u8]) {
        if self.allows(addr, got.len(), Access::Read) {
            assert_eq!(result, Ok(()));
            assert!(got.is_empty() || got == &self.bytes[addr as usize..][..got.len()]);
        } else {
            assert_eq!(result, Err(DmaError::Unreachable { addr }));
            assert!(got.iter().all(|&byte| byte == 0xa5), "nothing was read");
        }
    }

    fn step(&mut self, step: &Step) {
        let mem = self.mem.clone();
        match *step {
            Step::Read(addr, len) => {
                let mut got = vec![0xa5; len];
                let result = mem.read(addr, &mut got);
                self.read(result, addr, &got);
            }
            Step::Words(addr, len) => {
                let mut words = vec![0xa5a5_a5a5_a5a5_a5a5; len];
                let result = mem.read_u64s(addr, &mut words);
                let got: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.read(result, addr, &got);
                if let Some(looked_up) = mem.words(addr, len) {
                    assert!(addr % 8 == 0 && self.mapped(addr, 8 * len));
                    assert!(self.allows(addr, 8 * len, Access::ReadWrite));
                    assert!((0..len).all(|index| looked_up.load(index) == words[index]));
                }
            }
            Step::Write(addr, ref bytes) => self.written(mem.write(addr, bytes), addr, bytes),
            Step::WriteWords(addr, ref words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.written(mem.write_u64s(addr, words), addr, &bytes);
            }
            Step::Chunks(addr, ref bytes, cuts) => {
                let mut cuts = cuts.map(|cut| cut.min(bytes.len()));
                cuts.sort_unstable();
                let [a, b] = cuts;
                let chunks = [&bytes[..a], &bytes[a..b], &bytes[b..]];
                let result = mem.write_chunks(addr, &chunks, &mut vec![9; 3]);
                self.written(result, addr, bytes);
            }
            Step::Store(addr, value, size) => {
                let (result, len) = match size {
                    0 => (mem.store_u8(addr, value as u8), 1),
                    1 => (mem.store_u32(addr, value as u32), 4),
                    _ => (mem.store_u64(addr, value), 8),
                };
                self.written(result, addr, &value.to_le_bytes()[..len]);
            }
            Step::Lend(addr, len) => {
                let mut got = Vec::new();
                let result = mem.slices(addr, len as u64, Access::Read, |slice| {
                    let start = got.len();
                    got.resize(start + slice.len(), 0);
                    assert_eq!(slice.copy_to(&mut got[start..]), slice.len());
                });
                let possible = self.mapped(addr, len) && self.allows(addr, len, Access::Read);
                assert_eq!(result.is_ok(), possible);
                if possible && len > 0 {
                    assert_eq!(got, self.bytes[addr as usize..][..len]);
                }
                let reach = mem.reach(addr, len as u64, Access::Read).is_ok();
                assert_eq!(reach, self.allows(addr, len, Access::Read));
            }
            Step::Flush => {
                mem.flush().unwrap();
                assert!(self.nonblocking || self.fake.under_way.lock().unwrap().is_empty());
            }
            Step::Report(addr, len) => self.report(addr, len),
        }
    }

    /// What is reported are the pages written. Those are clean afterwards of which somebody asked for all.
    fn report(&mut self, addr: u64, len: u64) {
        let mut bitmap = [u64::MAX; 2];
        let result = self.log.report(addr, len, &mut bitmap);
        let (first, last) = (addr / PAGE, (addr + len - 1) / PAGE);
        if !self.logged.contains(&first) || !self.logged.contains(&last) {
            assert_eq!(result, Err(LogError::NotLogged(addr)));
            return;
        }
        result.unwrap();
        for page in first..=last {
            let n = page - first;
            let dirty = bitmap[(n / 64) as usize] >> (n % 64) & 1 == 1;
            let parts = self.parts(page);
            let written = parts.iter().any(|part| self.dirty.contains(&part.start));
            assert_eq!(dirty, written, "page {page}");
            for part in parts
                .iter()
                .filter(|part| addr <= part.start && part.end <= addr + len)
            {
                self.dirty.remove(&part.start);
            }
        }
        assert_eq!(bitmap[0] & !(u64::MAX >> (63 - (last - first))), 0);
        assert_eq!(bitmap[1], u64::MAX, "not needed");
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_of_bytes(
        kinds in prop::collection::vec(kinds(), 24),
        blocks in any::<bool>(),
        nonblocking in any::<bool>(),
        first in 0u64..8,
        steps in prop::collection::vec(steps(), 0..60),
    ) {
        let mut model = Model::new(kinds, blocks, nonblocking, first);
        for step in &steps {
            model.step(step);
        }
        let logged = model.logged.clone();
        model.report(logged.start * PAGE, 16 * PAGE);
        model.report(logged.start * PAGE, 16 * PAGE);
    }
}

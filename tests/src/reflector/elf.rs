//! An object file around a BPF program, as libbpf loads it.
//!
//! Source: the ELF specification, and libbpf's documentation ("Program types and ELF sections"): one section for the
//! program, named after its type, one that names its licence, and a function symbol.

const ET_REL: u16 = 1;
const EM_BPF: u16 = 247;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
/// Binding and type of a symbol: a global function.
const GLOBAL_FUNCTION: u8 = 1 << 4 | 2;
/// Bytes of the file's header, and of the header of each section.
const HEADER: u16 = 64;
/// Bytes of a symbol.
const SYMBOL: u64 = 24;
/// Ours, for functions of the kernel that ask for one; the program calls none.
const LICENCE: &[u8] = b"MIT\0";

/// What the header of a section says besides its place.
#[derive(Default)]
struct Section<'a> {
    /// Where its name begins among the names.
    name: u32,
    kind: u32,
    flags: u64,
    content: &'a [u8],
    /// Of symbols: the section of their names.
    link: u32,
    /// Of symbols: the first that is not local.
    info: u32,
    /// Of symbols: bytes of each.
    entry: u64,
}

/// An object file with `program` in the section `title`.
pub(super) fn object(title: &str, program: &[u8]) -> Vec<u8> {
    // Sections by number; 0 is none.
    const PROGRAM: u16 = 1;
    const NAMES: u16 = 4;
    let mut names = vec![0];
    let mut name = |text: &str| {
        let at = names.len() as u32;
        names.extend(text.bytes().chain([0]));
        at
    };
    let function = name("reflect");
    let [title, license, symtab, strtab] = [title, "license", ".symtab", ".strtab"].map(&mut name);

    let mut symbols = vec![0; SYMBOL as usize];
    symbols.extend(function.to_le_bytes());
    symbols.extend([GLOBAL_FUNCTION, 0]);
    symbols.extend(PROGRAM.to_le_bytes());
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend((program.len() as u64).to_le_bytes());

    let sections = [
        Section::default(),
        Section {
            name: title,
            kind: SHT_PROGBITS,
            flags: SHF_ALLOC | SHF_EXECINSTR,
            content: program,
            ..Section::default()
        },
        Section {
            name: license,
            kind: SHT_PROGBITS,
            flags: SHF_ALLOC,
            content: LICENCE,
            ..Section::default()
        },
        Section {
            name: symtab,
            kind: SHT_SYMTAB,
            content: &symbols,
            link: NAMES.into(),
            info: 1,
            entry: SYMBOL,
            ..Section::default()
        },
        Section {
            name: strtab,
            kind: SHT_STRTAB,
            content: &names,
            ..Section::default()
        },
    ];
    let mut file = file_header(sections.len() as u16, NAMES);
    let mut place = u64::from(HEADER) * (1 + sections.len() as u64);
    for section in &sections {
        let size = section.content.len() as u64;
        let words = [section.flags, 0, place, size].map(u64::to_le_bytes);
        file.extend(section.name.to_le_bytes());
        file.extend(section.kind.to_le_bytes());
        file.extend(words.concat());
        file.extend(section.link.to_le_bytes());
        file.extend(section.info.to_le_bytes());
        file.extend(8_u64.to_le_bytes());
        file.extend(section.entry.to_le_bytes());
        place += size.next_multiple_of(8);
    }
    for section in &sections {
        file.extend(section.content);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file
}

/// The file's header: 64 bits, little-endian; the headers of its sections follow at once.
fn file_header(sections: u16, names: u16) -> Vec<u8> {
    let mut header = b"\x7FELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(ET_REL.to_le_bytes());
    header.extend(EM_BPF.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    // Neither entry nor segments.
    for word in [0, 0, u64::from(HEADER)] {
        header.extend(u64::to_le_bytes(word));
    }
    header.extend(0_u32.to_le_bytes());
    for half in [HEADER, 0, 0, HEADER, sections, names] {
        header.extend(half.to_le_bytes());
    }
    header
}

//! From the firmware to [`main`](crate::main): the PVH entry, long mode, the interrupt table.
//!
//! Xen's PVH (`docs/misc/pvh.pandoc`) enters in flat 32-bit mode without paging; EBX holds the address of the start
//! info, whose layout is `hvm_start_info` of `public/arch-x86/hvm/start_info.h`. A note says where the entry is.

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::{ptr, slice};

use bare_guest::machine::{Machine, Ram};

/// Exceptions, the inputs of both interrupt controllers from 32 on, and messages from 64 on.
const VECTORS: usize = 96;
/// Bytes from one stub to the next.
const STUB: usize = 16;
/// What the start info begins with.
const MAGIC: u32 = 0x336E_C578;
/// Memory map: RAM.
const TYPE_RAM: u32 = 1;
/// Mapped uncached from here on: BARs are above, RAM that is used below.
const UNCACHED: u64 = 2 << 30;

// Long mode and SSE, in case that the compiler makes use of it (CR4.OSFXSR, OSXMMEXCPT). Page tables: 2 MiB pages for the first 4 GiB, uncached (PCD, PWT) from 2 GiB on.
global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad entry

    .section .bss.entry, "aw", @nobits
    .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4 * 4096
    .skip 64 * 1024
stack_top:
    .skip 16 * 1024
interrupt_stack_top:

    .section .data.entry, "aw"
    .balign 16
gdt:
    .quad 0
    .quad 0x00AF9A000000FFFF
    .quad 0x00CF92000000FFFF
gdt_tss:
    .quad 0x0000890000000067, 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
    .balign 16
tss:
    .skip 0x24
    .quad interrupt_stack_top
    .skip 0x66 - 0x2C
    .word 0x68

    .section .text.entry, "ax"
    .code32
    .globl entry
entry:
    cli
    cld
    movl $stack_top, %esp
    movl $(pdpt + 3), pml4
    movl $(pd + 3), %eax
    movl $pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $pd, %edi
    movl $2048, %ecx
2:  cmpl $1024, %ecx
    jne 3f
    orl $0x18, %eax
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    movl $pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9FFFFFF3, %eax
    orl $0x80000002, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $entry64

    .code64
entry64:
    movl $16, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $tss, %eax
    movw %ax, gdt_tss + 2
    shrl $16, %eax
    movb %al, gdt_tss + 4
    movb %ah, gdt_tss + 7
    movl $0x18, %eax
    ltr %ax
    movl %ebx, %edi
    call start
    ud2

    .balign 16
    .globl stubs
stubs:
    .set vector, 0
    .rept 96
    .balign 16
    pushq $vector
    jmp save
    .set vector, vector + 1
    .endr
save:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq 72(%rsp), %rdi
    leaq 80(%rsp), %rsi
    pushq %rbp
    movq %rsp, %rbp
    .if {sse}
    subq $512, %rsp
    andq $-16, %rsp
    fxsave64 (%rsp)
    .else
    andq $-16, %rsp
    .endif
    cld
    call interrupted
    .if {sse}
    fxrstor64 (%rsp)
    .endif
    movq %rbp, %rsp
    popq %rbp
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq
"#,
    sse = const cfg!(target_feature = "sse") as u32,
    options(att_syntax)
);

unsafe extern "C" {
    static stubs: [u8; VECTORS * STUB];
    static image_end: u8;
}

/// `hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    modules_at: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`.
#[repr(C)]
struct MemoryRange {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The processor's table of interrupts, two words an entry.
struct InterruptTable(UnsafeCell<[[u64; 2]; VECTORS]>);

// SAFETY: written once, by the only processor, before interrupts are let through.
unsafe impl Sync for InterruptTable {}

static INTERRUPT_TABLE: InterruptTable = InterruptTable(UnsafeCell::new([[0; 2]; VECTORS]));

/// The machine, for who cannot be handed it.
pub(crate) fn machine() -> Machine {
    // SAFETY: this program is entered by `entry` only, which leaves the processor in ring 0 with 4 GiB mapped.
    unsafe { Machine::own() }
}

/// Called by the entry, with paging on and a stack.
#[unsafe(no_mangle)]
extern "C" fn start(info: *const StartInfo) -> ! {
    load_interrupt_table();
    // SAFETY: PVH hands over the address of such a structure, below 4 GiB, and nothing has been overwritten yet: the
    // image with its zeroed sections is where the ELF file says it goes.
    let info = unsafe { &*info };
    assert!(info.magic == MAGIC && info.version >= 1, "no start info");
    let map = ptr::with_exposed_provenance::<MemoryRange>(info.memory_map as usize);
    // SAFETY: as for the structure itself.
    let map = unsafe { slice::from_raw_parts(map, info.memory_map_entries as usize) };
    let behind = &raw const image_end as u64;
    let mut end = behind;
    for range in map {
        let holds_us = (range.addr..range.addr + range.size).contains(&behind);
        if range.kind == TYPE_RAM && holds_us {
            end = (range.addr + range.size).min(UNCACHED);
        }
    }
    let command = ptr::with_exposed_provenance(info.command_line as usize);
    // SAFETY: a string that ends with a zero byte, as PVH says.
    let command = unsafe { CStr::from_ptr(command) };
    let command = command.to_str().unwrap_or_default();
    // The loader may have put what it hands over right behind the image.
    let start = behind.next_multiple_of(1 << 20) + (1 << 20);
    // SAFETY: RAM behind the image; what PVH handed over lies below.
    let ram = unsafe { Ram::new(start, end.max(start)) };
    crate::main(machine(), ram, command)
}

/// Called by the stubs, on a stack of its own: the code that was interrupted may use what is below its stack pointer.
#[unsafe(no_mangle)]
extern "C" fn interrupted(vector: u8, frame: *const [u64; 4]) {
    // SAFETY: the processor has pushed at least five words there.
    crate::image::interrupted(machine(), vector, unsafe { &*frame });
}

fn load_interrupt_table() {
    let table = INTERRUPT_TABLE.0.get();
    let first = &raw const stubs as u64;
    for vector in 0..VECTORS {
        let stub = first + (vector * STUB) as u64;
        // Present, interrupt gate, code segment 8, stack 1 of the TSS.
        let low = stub & 0xFFFF | 8 << 16 | 1 << 32 | 0x8E << 40 | (stub >> 16 & 0xFFFF) << 48;
        // SAFETY: nobody else uses the table yet, and the index is inside.
        unsafe { (*table)[vector] = [low, stub >> 32] };
    }
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer {
        limit: (VECTORS * 16 - 1) as u16,
        base: table as u64,
    };
    // SAFETY: the table is complete, lasts, and its stubs return to what they interrupted with all registers as found.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack)) };
}

//! The probe's guest: its memory and registers, ready to run 64-bit code at once.
//!
//! Virtual addresses begin at [`VIRTUAL_BASE`], where Linux has its kernel, and are mapped to guest memory from 0 by one page of
//! 2 MiB. The program writes a letter to the serial port after each thing that a real kernel needs:
//!
//! | letter | after |
//! |---|---|
//! | A | the first instruction |
//! | B | `lidt` |
//! | C | `rdmsr` of the APIC base |
//! | D | a reload of CR3 |
//! | E, F | a breakpoint exception: in its handler, and back from it |
//! | G | two million steps of a loop |
//! | Z | an invalid instruction: in the handler of everything else, which halts |
//!
//! Sources: AMD64 Architecture Programmer's Manual, volumes 2 (§4.8 descriptors, §5.3 long-mode paging, §8.9 interrupts) and 3.

/// Size of the guest's memory, in bytes: one large page.
pub(super) const MEMORY_BYTES: usize = 2 * 1024 * 1024;

/// What a KVM that works makes the program write.
pub(super) const EXPECTED_OUTPUT: &str = "ABCDEFGZ";

/// The first serial port's data register.
pub(super) const OUTPUT_PORT: u16 = 0x3f8;

const VIRTUAL_BASE: u64 = 0xffff_ffff_8100_0000;

// Guest-physical addresses.
const PROGRAM: u64 = 0x1000;
const BREAKPOINT_HANDLER: u64 = 0x1100;
const OTHER_HANDLER: u64 = 0x1200;
const IDT: u64 = 0x2000;
const GDT: u64 = 0x3000;
const IDT_POINTER: u64 = 0x3100;
const STACK_TOP: u64 = 0x9000;
const PML4: u64 = 0x1_0000;
const PDPT: u64 = 0x1_1000;
const PAGE_DIRECTORY: u64 = 0x1_2000;

const IDT_BYTES: u16 = 256 * 16;
const GDT_BYTES: u16 = 3 * 8;

/// Selector of the 64-bit code segment.
pub(super) const CODE_SELECTOR: u16 = 8;
/// Selector of the data segment.
pub(super) const DATA_SELECTOR: u16 = 16;

/// The registers to start with that are not fixed by 64-bit mode itself.
pub(super) struct StartState {
    pub instruction_pointer: u64,
    pub stack_pointer: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub gdt_base: u64,
    pub gdt_limit: u16,
    pub idt_base: u64,
    pub idt_limit: u16,
}

pub(super) fn start_state() -> StartState {
    StartState {
        instruction_pointer: VIRTUAL_BASE + PROGRAM,
        stack_pointer: VIRTUAL_BASE + STACK_TOP,
        // Protection, paging, write protection and what Linux sets besides.
        cr0: 0x8005_0033,
        cr3: PML4,
        // Physical address extension.
        cr4: 0x20,
        // Long mode, enabled and active.
        efer: 0x500,
        gdt_base: VIRTUAL_BASE + GDT,
        gdt_limit: GDT_BYTES - 1,
        idt_base: VIRTUAL_BASE + IDT,
        idt_limit: IDT_BYTES - 1,
    }
}

/// Pieces of guest memory by their guest-physical address; everything else is zero.
pub(super) fn memory_pieces() -> Vec<(u64, Vec<u8>)> {
    let index_in_table = |level_bits: u32| (VIRTUAL_BASE >> level_bits & 0x1ff) * 8;
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 1 << 7;
    let entry = |value: u64| value.to_le_bytes().to_vec();
    let mut idt_pointer = (IDT_BYTES - 1).to_le_bytes().to_vec();
    idt_pointer.extend((VIRTUAL_BASE + IDT).to_le_bytes());
    vec![
        (PROGRAM, program()),
        // mov dx, port; mov al, 'E'; out dx, al; iretq
        (
            BREAKPOINT_HANDLER,
            [&write_letter(b'E')[..], &[0x48, 0xcf]].concat(),
        ),
        // mov dx, port; mov al, 'Z'; out dx, al; hlt
        (OTHER_HANDLER, [&write_letter(b'Z')[..], &[0xf4]].concat()),
        (IDT, interrupt_table()),
        (
            GDT,
            [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff_u64]
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect(),
        ),
        (IDT_POINTER, idt_pointer),
        (PML4 + index_in_table(39), entry(PDPT | PRESENT_WRITABLE)),
        (
            PDPT + index_in_table(30),
            entry(PAGE_DIRECTORY | PRESENT_WRITABLE),
        ),
        (
            PAGE_DIRECTORY + index_in_table(21),
            entry(PRESENT_WRITABLE | LARGE_PAGE),
        ),
    ]
}

/// mov dx, port; mov al, letter; out dx, al
fn write_letter(letter: u8) -> [u8; 7] {
    let [low, high] = OUTPUT_PORT.to_le_bytes();
    [0x66, 0xba, low, high, 0xb0, letter, 0xee]
}

fn program() -> Vec<u8> {
    // A 32-bit address that the processor extends by its sign: the upper half is where VIRTUAL_BASE is.
    let idt_pointer = ((VIRTUAL_BASE + IDT_POINTER) as u32).to_le_bytes();
    [
        &write_letter(b'A')[..],
        // lidt [idt_pointer]
        &[0x0f, 0x01, 0x1c, 0x25],
        &idt_pointer,
        &write_letter(b'B'),
        // mov ecx, 0x1b; rdmsr
        &[0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32],
        &write_letter(b'C'),
        // mov rax, cr3; mov cr3, rax
        &[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8],
        &write_letter(b'D'),
        // int3
        &[0xcc],
        &write_letter(b'F'),
        // mov ecx, 2000000; dec ecx; jnz back to dec
        &[0xb9, 0x80, 0x84, 0x1e, 0x00, 0xff, 0xc9, 0x75, 0xfc],
        &write_letter(b'G'),
        // ud2; hlt
        &[0x0f, 0x0b, 0xf4],
    ]
    .concat()
}

/// 256 interrupt gates of 64-bit mode: vector 3 to the breakpoint's handler, the others to the other.
fn interrupt_table() -> Vec<u8> {
    let gate = |vector: u16| {
        let handler = VIRTUAL_BASE
            + if vector == 3 {
                BREAKPOINT_HANDLER
            } else {
                OTHER_HANDLER
            };
        let [a, b, c, d, e, f, g, h] = handler.to_le_bytes();
        let [selector_low, selector_high] = CODE_SELECTOR.to_le_bytes();
        const PRESENT_INTERRUPT_GATE: u8 = 0x8e;
        [
            a,
            b,
            selector_low,
            selector_high,
            0,
            PRESENT_INTERRUPT_GATE,
            c,
            d,
            e,
            f,
            g,
            h,
            0,
            0,
            0,
            0,
        ]
    };
    (0..256).flat_map(gate).collect()
}

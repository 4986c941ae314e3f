//! The part of the KVM interface that the probe needs: one virtual machine with one processor.
//!
//! The only module of this crate with `unsafe` code. Outside, [`GuestMachine`] is safe to use, because:
//!
//! - Structures given to the kernel are `repr(C)`, have the layout of `linux/kvm.h` (asserted by size below), hold only
//!   integers, and are as large as their request's number says, or larger.
//! - Guest memory and the shared `kvm_run` page are mappings owned by [`Mapping`]; nobody but the kernel and this module knows
//!   their addresses, and no Rust reference to them is ever made: they are read and written through raw pointers only, with
//!   every range checked against the mapping's length.
//! - [`GuestMachine`] drops the processor and the machine before the memory they use.
#![allow(unsafe_code, reason = "said above, with what keeps it sound")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{MapFlags, ProtFlags};

use super::guest_program::{CODE_SELECTOR, DATA_SELECTOR, StartState};

/// The only version there has ever been since Linux 2.6.22.
const API_VERSION: i32 = 12;

const KVM: u8 = 0xae;
const GET_API_VERSION: Opcode = opcode::none(KVM, 0x00);
const CREATE_VM: Opcode = opcode::none(KVM, 0x01);
const GET_VCPU_MMAP_SIZE: Opcode = opcode::none(KVM, 0x04);
const GET_SUPPORTED_CPUID: Opcode = opcode::read_write::<CpuidHeader>(KVM, 0x05);
const CREATE_VCPU: Opcode = opcode::none(KVM, 0x41);
const SET_USER_MEMORY_REGION: Opcode = opcode::write::<MemoryRegion>(KVM, 0x46);
const RUN: Opcode = opcode::none(KVM, 0x80);
const SET_REGS: Opcode = opcode::write::<Registers>(KVM, 0x82);
const GET_SREGS: Opcode = opcode::read::<SpecialRegisters>(KVM, 0x83);
const SET_SREGS: Opcode = opcode::write::<SpecialRegisters>(KVM, 0x84);
const SET_CPUID2: Opcode = opcode::write::<CpuidHeader>(KVM, 0x90);

#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidHeader {
    entries: u32,
    padding: u32,
}

/// Far more than any processor reports.
const CPUID_ENTRIES_MAX: usize = 256;

/// `kvm_cpuid2`; its entries are ten 32-bit numbers each, which are handed back as they came.
#[repr(C)]
struct CpuidTable {
    header: CpuidHeader,
    entries: [[u32; 10]; CPUID_ENTRIES_MAX],
}

/// `kvm_userspace_memory_region`
#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_physical_address: u64,
    bytes: u64,
    host_address: u64,
}

/// `kvm_regs`
#[repr(C)]
#[derive(Default)]
struct Registers {
    /// rax, rbx, rcx, rdx, rsi, rdi
    general: [u64; 6],
    rsp: u64,
    rbp: u64,
    r8_to_r15: [u64; 8],
    rip: u64,
    rflags: u64,
}

/// `kvm_segment`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Segment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    privilege_level: u8,
    is_32_bit: u8,
    is_code_or_data: u8,
    is_64_bit: u8,
    is_limit_in_pages: u8,
    available: u8,
    unusable: u8,
    padding: u8,
}

/// `kvm_dtable`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct DescriptorTable {
    base: u64,
    limit: u16,
    padding: [u16; 3],
}

/// `kvm_sregs`
#[repr(C)]
#[derive(Default)]
struct SpecialRegisters {
    cs: Segment,
    /// ds, es, fs, gs, ss
    data: [Segment; 5],
    tr: Segment,
    ldt: Segment,
    gdt: DescriptorTable,
    idt: DescriptorTable,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cr8: u64,
    efer: u64,
    apic_base: u64,
    interrupt_bitmap: [u64; 4],
}

const _: () = assert!(size_of::<CpuidHeader>() == 8);
const _: () = assert!(size_of::<CpuidTable>() == 8 + 40 * CPUID_ENTRIES_MAX);
const _: () = assert!(size_of::<MemoryRegion>() == 32);
const _: () = assert!(size_of::<Registers>() == 144);
const _: () = assert!(size_of::<Segment>() == 24);
const _: () = assert!(size_of::<DescriptorTable>() == 16);
const _: () = assert!(size_of::<SpecialRegisters>() == 312);

/// Offsets in `kvm_run`, the memory shared with the kernel.
mod run_page {
    pub(super) const EXIT_REASON: usize = 8;
    pub(super) const IO_DIRECTION: usize = 32;
    pub(super) const IO_SIZE: usize = 33;
    pub(super) const IO_PORT: usize = 34;
    pub(super) const IO_COUNT: usize = 36;
    pub(super) const IO_DATA_OFFSET: usize = 40;
    pub(super) const INTERNAL_SUBERROR: usize = 32;
    pub(super) const FAIL_ENTRY_REASON: usize = 32;
}

/// Why the guest stopped and the kernel came back to us (`KVM_EXIT_…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// It wrote one byte to a port.
    PortWrite { port: u16, byte: u8 },
    /// It executed `hlt`.
    Halt,
    /// KVM could not go on.
    InternalError { suberror: u32 },
    /// The processor refused to enter the guest.
    FailEntry { hardware_reason: u64 },
    /// Any other, by its number.
    Other(u32),
}

/// What did not work, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct KvmError {
    step: &'static str,
    source: io::Error,
}

/// Names a step in an error.
fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> KvmError {
    move |source| KvmError {
        step,
        source: source.into(),
    }
}

/// A request whose argument is a number or the address of a structure; the answer is the call's own number.
struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the constants above pair each opcode with the structure that is passed; all are passed as mutable memory of that
// size or more (see `Request::with`), and the answer is taken as the plain number that KVM returns.
unsafe impl Ioctl for Request {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> Result<i32, Errno> {
        Ok(answer)
    }
}

/// A request without a structure.
fn call(fd: impl AsFd, opcode: Opcode) -> Result<i32, Errno> {
    // SAFETY: GET_API_VERSION, CREATE_VM (type 0), GET_VCPU_MMAP_SIZE, CREATE_VCPU (number 0) and RUN take no pointer.
    unsafe {
        rustix::ioctl::ioctl(
            fd,
            Request {
                opcode,
                argument: ptr::null_mut(),
            },
        )
    }
}

/// A request with a structure of the type that `opcode` was made from.
fn call_with<T>(fd: impl AsFd, opcode: Opcode, structure: &mut T) -> Result<i32, Errno> {
    // SAFETY: `structure` lives and is exclusively ours during the call; the callers pass the type that the opcode is for.
    unsafe {
        rustix::ioctl::ioctl(
            fd,
            Request {
                opcode,
                argument: ptr::from_mut(structure).cast(),
            },
        )
    }
}

/// A request that answers with a new descriptor.
fn call_for_fd(fd: impl AsFd, opcode: Opcode) -> Result<OwnedFd, Errno> {
    let new = call(fd, opcode)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Memory shared with the kernel or the guest, unmapped when dropped.
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn anonymous(bytes: usize) -> Result<Self, Errno> {
        // SAFETY: a new private mapping at an address that the kernel chooses touches nothing of ours.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    fn shared(fd: impl AsFd, bytes: usize) -> Result<Self, Errno> {
        // SAFETY: as above; what it shows belongs to the virtual processor behind `fd`.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// Copies as much of `content` as lies within the mapping.
    fn write(&mut self, offset: usize, content: &[u8]) {
        let end = offset.saturating_add(content.len());
        debug_assert!(end <= self.bytes);
        if end <= self.bytes {
            // SAFETY: the range lies within the mapping, as just checked; `content` is Rust memory, so they cannot overlap.
            unsafe {
                ptr::copy_nonoverlapping(content.as_ptr(), self.start.add(offset), content.len());
            }
        }
    }

    /// Reads bytes that the kernel may change at any time; beyond the mapping they are zero.
    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut content = [0; N];
        if offset.saturating_add(N) <= self.bytes {
            for (index, byte) in content.iter_mut().enumerate() {
                // SAFETY: offset + index is below the mapping's length, as just checked; a byte has no alignment.
                *byte = unsafe { self.start.add(offset + index).read_volatile() };
            }
        }
        content
    }

    fn read_u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.read(offset))
    }

    fn read_u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.read(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what was mapped, and its address leaves this module only to a KVM that is already closed
        // (field order of `GuestMachine`). A failure would leave the mapping until the process ends.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.bytes) };
    }
}

/// One virtual machine with one processor. Fields are dropped in this order: first what uses the memory.
pub(super) struct GuestMachine {
    run: Mapping,
    processor: OwnedFd,
    _machine: OwnedFd,
    _memory: Mapping,
}

impl GuestMachine {
    /// Makes the machine with `memory_bytes` of memory from guest-physical 0, holding `pieces`, and the processor with all
    /// features that KVM offers, ready to start in 64-bit mode at `start`.
    pub(super) fn new(
        memory_bytes: usize,
        pieces: &[(u64, Vec<u8>)],
        start: &StartState,
    ) -> Result<Self, KvmError> {
        let kvm = rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("cannot open /dev/kvm"))?;
        let version = call(&kvm, GET_API_VERSION).map_err(at("KVM_GET_API_VERSION"))?;
        if version != API_VERSION {
            let source = io::Error::other(format!("version {version} instead of {API_VERSION}"));
            return Err(KvmError {
                step: "KVM_GET_API_VERSION",
                source,
            });
        }
        let machine = call_for_fd(&kvm, CREATE_VM).map_err(at("KVM_CREATE_VM"))?;

        let mut memory = Mapping::anonymous(memory_bytes).map_err(at("memory for the guest"))?;
        for (address, content) in pieces {
            memory.write(usize::try_from(*address).unwrap_or(usize::MAX), content);
        }
        let mut region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_physical_address: 0,
            bytes: memory_bytes as u64,
            host_address: memory.start as u64,
        };
        call_with(&machine, SET_USER_MEMORY_REGION, &mut region)
            .map_err(at("KVM_SET_USER_MEMORY_REGION"))?;

        let processor = call_for_fd(&machine, CREATE_VCPU).map_err(at("KVM_CREATE_VCPU"))?;
        let run_bytes = call(&kvm, GET_VCPU_MMAP_SIZE).map_err(at("KVM_GET_VCPU_MMAP_SIZE"))?;
        let run = Mapping::shared(&processor, usize::try_from(run_bytes).unwrap_or(0))
            .map_err(at("memory shared with KVM"))?;

        let mut cpuid = Box::new(CpuidTable {
            header: CpuidHeader {
                entries: CPUID_ENTRIES_MAX as u32,
                padding: 0,
            },
            entries: [[0; 10]; CPUID_ENTRIES_MAX],
        });
        call_with(&kvm, GET_SUPPORTED_CPUID, cpuid.as_mut())
            .map_err(at("KVM_GET_SUPPORTED_CPUID"))?;
        call_with(&processor, SET_CPUID2, cpuid.as_mut()).map_err(at("KVM_SET_CPUID2"))?;

        let mut special = SpecialRegisters::default();
        call_with(&processor, GET_SREGS, &mut special).map_err(at("KVM_GET_SREGS"))?;
        enter_64_bit_mode(&mut special, start);
        call_with(&processor, SET_SREGS, &mut special).map_err(at("KVM_SET_SREGS"))?;
        // Bit 1 of the flags is always set; interrupts are off.
        let mut registers = Registers {
            rip: start.instruction_pointer,
            rsp: start.stack_pointer,
            rflags: 2,
            ..Registers::default()
        };
        call_with(&processor, SET_REGS, &mut registers).map_err(at("KVM_SET_REGS"))?;

        Ok(Self {
            run,
            processor,
            _machine: machine,
            _memory: memory,
        })
    }

    /// Lets the guest run until it stops. A broken KVM may never return.
    pub(super) fn run(&mut self) -> Result<Exit, KvmError> {
        call(&self.processor, RUN).map_err(at("KVM_RUN"))?;
        Ok(match self.run.read_u32(run_page::EXIT_REASON) {
            2 => self.port_access(),
            5 => Exit::Halt,
            9 => Exit::FailEntry {
                hardware_reason: self.run.read_u64(run_page::FAIL_ENTRY_REASON),
            },
            17 => Exit::InternalError {
                suberror: self.run.read_u32(run_page::INTERNAL_SUBERROR),
            },
            other => Exit::Other(other),
        })
    }

    fn port_access(&self) -> Exit {
        const OUT: u8 = 1;
        let [direction] = self.run.read(run_page::IO_DIRECTION);
        let [size] = self.run.read(run_page::IO_SIZE);
        if (direction, size, self.run.read_u32(run_page::IO_COUNT)) != (OUT, 1, 1) {
            return Exit::Other(2);
        }
        let data_offset =
            usize::try_from(self.run.read_u64(run_page::IO_DATA_OFFSET)).unwrap_or(usize::MAX);
        let [byte] = self.run.read(data_offset);
        Exit::PortWrite {
            port: u16::from_ne_bytes(self.run.read(run_page::IO_PORT)),
            byte,
        }
    }
}

fn enter_64_bit_mode(special: &mut SpecialRegisters, start: &StartState) {
    // Types by AMD64 APM 2 §4.7: 11 = code, readable, accessed; 3 = data, writable, accessed.
    let flat = Segment {
        limit: u32::MAX,
        present: 1,
        is_code_or_data: 1,
        is_limit_in_pages: 1,
        ..Segment::default()
    };
    special.cs = Segment {
        selector: CODE_SELECTOR,
        kind: 11,
        is_64_bit: 1,
        ..flat
    };
    special.data = [Segment {
        selector: DATA_SELECTOR,
        kind: 3,
        is_32_bit: 1,
        ..flat
    }; 5];
    special.gdt = DescriptorTable {
        base: start.gdt_base,
        limit: start.gdt_limit,
        padding: [0; 3],
    };
    special.idt = DescriptorTable {
        base: start.idt_base,
        limit: start.idt_limit,
        padding: [0; 3],
    };
    special.cr0 = start.cr0;
    special.cr3 = start.cr3;
    special.cr4 = start.cr4;
    special.efer = start.efer;
}

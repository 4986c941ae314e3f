//! What the system answers to who writes to disk in this program: that it failed, if a daemon of a schedule is to be dead by then.
//!
//! Only what may change what is on disk is asked about, of threads in which a daemon blocks.
#![allow(
    unsafe_code,
    reason = "these functions of the C library are what all of Rust's files go through, and can be replaced in no other way"
)]

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

use simulated_cloud::fuse;

/// Numbers of the system's calls.
struct Calls {
    write: c_long,
    pwrite: c_long,
    fstat: c_long,
    openat: c_long,
    renameat2: c_long,
    unlinkat: c_long,
    mkdirat: c_long,
    linkat: c_long,
    fsync: c_long,
    fdatasync: c_long,
    ftruncate: c_long,
    copy_file_range: c_long,
}

#[cfg(target_arch = "x86_64")]
const CALLS: Calls = Calls {
    write: 1,
    pwrite: 18,
    fstat: 5,
    openat: 257,
    renameat2: 316,
    unlinkat: 263,
    mkdirat: 258,
    linkat: 265,
    fsync: 74,
    fdatasync: 75,
    ftruncate: 77,
    copy_file_range: 326,
};
#[cfg(target_arch = "aarch64")]
const CALLS: Calls = Calls {
    write: 64,
    pwrite: 68,
    fstat: 80,
    openat: 56,
    renameat2: 276,
    unlinkat: 35,
    mkdirat: 34,
    linkat: 37,
    fsync: 82,
    fdatasync: 83,
    ftruncate: 46,
    copy_file_range: 285,
};

const HERE: c_int = -100;
const REMOVE_FOLDER: c_int = 0x200;
const CREATE: c_int = 0o100;
const TRUNCATE: c_int = 0o1000;
const EIO: c_int = 5;

/// As the kernel writes it: that it is a file is said behind these bytes.
const STAT_BYTES: usize = 256;
const MODE_AT: usize = if cfg!(target_arch = "x86_64") { 24 } else { 16 };
const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

fn failed() -> c_int {
    // SAFETY: it is this thread's.
    unsafe { *__errno_location() = EIO };
    -1
}

/// Whether it is no pipe and nothing by which threads wake each other.
fn is_file(of: c_int) -> bool {
    let mut stat = [0_u8; STAT_BYTES];
    // SAFETY: there is more room than it takes.
    let done = unsafe { syscall(CALLS.fstat, of, stat.as_mut_ptr()) };
    let mode = stat
        .get(MODE_AT..MODE_AT + 4)
        .and_then(|mode| mode.try_into().ok());
    done == 0 && mode.is_some_and(|mode| u32::from_ne_bytes(mode) & KIND == FILE)
}

/// What this program itself says isn't a daemon's.
fn may_write(to: c_int) -> bool {
    to <= 2 || !is_file(to) || fuse::may_write()
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(to: c_int, from: *const c_void, bytes: usize) -> isize {
    if !may_write(to) {
        return failed() as isize;
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.write, to, from, bytes) as isize }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(to: c_int, from: *const c_void, bytes: usize, at: i64) -> isize {
    if !may_write(to) {
        return failed() as isize;
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.pwrite, to, from, bytes, at) as isize }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if flags & (CREATE | TRUNCATE) != 0 && !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.openat, HERE, path, flags, mode) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.renameat2, HERE, from, HERE, to, 0) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: as it was asked.
    unsafe { unlinkat(HERE, path, 0) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: as it was asked.
    unsafe { unlinkat(HERE, path, REMOVE_FOLDER) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.unlinkat, folder, path, flags) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.mkdirat, HERE, path, mode) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    of: c_int,
    from: *const c_char,
    folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.linkat, of, from, folder, to, flags) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(of: c_int) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.fsync, of) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(of: c_int) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.fdatasync, of) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(of: c_int, bytes: i64) -> c_int {
    if !fuse::may_write() {
        return failed();
    }
    // SAFETY: as it was asked.
    unsafe { syscall(CALLS.ftruncate, of, bytes) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut i64,
    to: c_int,
    to_at: *mut i64,
    bytes: usize,
    flags: c_uint,
) -> isize {
    if !fuse::may_write() {
        return failed() as isize;
    }
    // SAFETY: as it was asked.
    unsafe {
        syscall(
            CALLS.copy_file_range,
            from,
            from_at,
            to,
            to_at,
            bytes,
            flags,
        ) as isize
    }
}

//! What the system answers about time and chance in this program: what the schedule says, so that the same seed gives the same run, of
//! identifiers, of the order in hash tables, of everything. Before there is a schedule, and for other clocks, the system itself.
#![allow(
    unsafe_code,
    reason = "these functions of the C library are what all of Rust asks, and can be replaced in no other way"
)]

use std::{
    cell::Cell,
    ffi::{c_int, c_long, c_uint, c_void},
    time::Duration,
};

use simulated_cloud::clock;

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanos: c_long,
}

const REALTIME: c_int = 0;
const MONOTONIC: c_int = 1;

/// Numbers of the system's calls.
struct Calls {
    clock_gettime: c_long,
    getrandom: c_long,
    sched_getaffinity: c_long,
    sched_setaffinity: c_long,
    sched_setscheduler: c_long,
}

#[cfg(target_arch = "x86_64")]
const CALLS: Calls = Calls {
    clock_gettime: 228,
    getrandom: 318,
    sched_getaffinity: 204,
    sched_setaffinity: 203,
    sched_setscheduler: 144,
};
#[cfg(target_arch = "aarch64")]
const CALLS: Calls = Calls {
    clock_gettime: 113,
    getrandom: 278,
    sched_getaffinity: 123,
    sched_setaffinity: 122,
    sched_setscheduler: 119,
};
/// Takes the processor from nobody who has it.
const SCHED_BATCH: c_int = 3;
/// Processors that a set of them has place for.
const PROCESSORS: usize = 1024;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

thread_local! {
    /// Zero: chance is the system's. Threads of which nobody knows in which order they ask have that.
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// From now on chance is decided by this in this thread.
pub fn seed(seed: u64) {
    CHANCE.set(seed | 1);
}

/// From now on all threads of this process take turns on one processor, of which this seed decides.
pub fn share_one_processor(seed: u64) {
    let mut allowed = [0_u64; PROCESSORS / 64];
    let bytes = size_of_val(&allowed);
    // SAFETY: the set is as long as is said.
    unsafe { syscall(CALLS.sched_getaffinity, 0, bytes, allowed.as_mut_ptr()) };
    let is_allowed = |one: &usize| allowed[one / 64] & (1 << (one % 64)) != 0;
    let all: Vec<usize> = (0..PROCESSORS).filter(is_allowed).collect();
    let Some(one) = all.get(seed as usize % all.len().max(1)) else {
        return;
    };
    let mut set = [0_u64; PROCESSORS / 64];
    set[one / 64] = 1 << (one % 64);
    // SAFETY: the set is as long as is said.
    unsafe { syscall(CALLS.sched_setaffinity, 0, bytes, set.as_ptr()) };
}

/// This thread waits until the one that it shares its processor with has nothing more to do: so what blocks ends after what is done at
/// the same moment, and not sometimes before it. (Where others take the processor away, it may come first nevertheless.)
pub fn stand_back() {
    let priority: c_int = 0;
    // SAFETY: the structure that it points to is one number.
    unsafe {
        syscall(
            CALLS.sched_setscheduler,
            0,
            SCHED_BATCH,
            &raw const priority,
        )
    };
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(which: c_int, out: *mut Timespec) -> c_int {
    let virtual_: Option<Duration> = match which {
        REALTIME => clock::wall(),
        MONOTONIC => clock::monotonic(),
        _ => None,
    };
    match virtual_ {
        // SAFETY: the caller gives a place for it.
        Some(time) => unsafe {
            (*out).seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            (*out).nanos = c_long::from(time.subsec_nanos());
            0
        },
        // SAFETY: as it was asked.
        None => unsafe { c_int::try_from(syscall(CALLS.clock_gettime, which, out)).unwrap_or(-1) },
    }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(out: *mut c_void, length: usize, flags: c_uint) -> isize {
    if CHANCE.get() == 0 {
        // SAFETY: as it was asked.
        return unsafe { syscall(CALLS.getrandom, out, length, flags) as isize };
    }
    for at in 0..length {
        // SAFETY: the caller gives a place for so many.
        unsafe { out.cast::<u8>().add(at).write(next_byte()) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// The top of a step of splitmix64.
fn next_byte() -> u8 {
    let mut value = CHANCE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    CHANCE.set(value);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value >> 56) as u8
}

//! Disk images of strangers: the first bytes, then the whole file.
#![no_main]

use std::{fs::File, io::Write as _, os::fd::FromRawFd as _, path::Path};

use libfuzzer_sys::fuzz_target;
use storage::inspect::{SizeLimits, first_bytes, whole_file};

unsafe extern "C" {
    fn memfd_create(name: *const std::ffi::c_char, flags: std::ffi::c_uint) -> i32;
}

fuzz_target!(|data: &[u8]| {
    let limits = SizeLimits::default();
    let Ok(inspected) = first_bytes(data, None, &limits) else {
        return;
    };
    // SAFETY: the name is a C string, and the descriptor is nobody else's.
    let mut file = unsafe { File::from_raw_fd(memfd_create(c"image".as_ptr(), 0)) };
    if file.write_all(data).is_ok() {
        let _ = whole_file(&file, Path::new("image"), &inspected, &limits);
    }
});

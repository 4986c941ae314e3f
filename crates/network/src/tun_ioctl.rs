//! The one ioctl that makes a tap. The only unsafe code of this crate.
//!
//! Invariant: `TUNSETIFF` (Linux `include/uapi/linux/if_tun.h`) takes a pointer to a `struct ifreq`, which the kernel
//! copies in and out whole: 40 bytes on 64-bit, 32 on 32-bit machines. [`InterfaceRequest`] has that layout (asserted
//! below), is plain bytes valid in any state, and lives on our stack for the whole call.
#![allow(unsafe_code, reason = "said above, with what keeps it sound")]

use std::fs::File;
use std::io;

use rustix::ioctl::{Updater, ioctl, opcode};

use crate::name::{INTERFACE_NAME_MAX, InterfaceName};

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

#[repr(C)]
struct InterfaceRequest {
    name: [u8; INTERFACE_NAME_MAX + 1],
    flags: u16,
    // The rest of the union, whose largest member begins with a machine word.
    rest: [usize; if size_of::<usize>() == 8 { 2 } else { 3 }],
}

const _: () =
    assert!(size_of::<InterfaceRequest>() == if size_of::<usize>() == 8 { 40 } else { 32 });

/// Makes the open `/dev/net/tun` the tap `name`: whole Ethernet frames, no packet information, virtio headers.
///
/// # Errors
/// The kernel's own: `EBUSY` when the name is taken, `EPERM` without the right to do so.
pub(crate) fn become_tap(tun: &File, name: &InterfaceName) -> io::Result<()> {
    // TUNSETIFF is declared with `int` as its size, whatever it takes.
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    let mut request = InterfaceRequest {
        name: [0; INTERFACE_NAME_MAX + 1],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: Default::default(),
    };
    // The name is at most fifteen bytes, so the last stays zero.
    for (to, from) in request
        .name
        .iter_mut()
        .take(INTERFACE_NAME_MAX)
        .zip(name.as_str().bytes())
    {
        *to = from;
    }
    // SAFETY: the module's invariant; the opcode is the kernel's for exactly this structure.
    unsafe {
        ioctl(
            tun,
            Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )
    }?;
    Ok(())
}

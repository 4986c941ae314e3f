//! A machine's tap.
//!
//! It is not persistent: it lives exactly as long as somebody holds its descriptor. This process gives that to QEMU, so
//! the tap outlives this process and vanishes with QEMU, however QEMU ends: nothing is left over to clean.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use crate::error::{NetworkError, Result};
use crate::links::Links;
use crate::name::InterfaceName;
use crate::tun_ioctl;

/// Makes the tap `name`, a port of the bridge, up. The descriptor is close-on-exec and non-blocking.
///
/// # Errors
/// [`NetworkError::Tap`] when the name is taken (its machine still runs) or we may not.
pub async fn create(
    links: &Links,
    name: &InterfaceName,
    bridge_index: u32,
    mtu: u16,
) -> Result<OwnedFd> {
    let tap = {
        let name = name.clone();
        // Takes the kernel's global interface lock, behind which others may be slow.
        tokio::task::spawn_blocking(move || open(&name))
            .await
            .map_err(|_| NetworkError::Closed {
                part: "the runtime",
            })??
    };
    links.attach(name, bridge_index, mtu).await?;
    Ok(tap)
}

/// Removes a tap that nobody holds: one that was made persistent, by hand say. Ours never are.
///
/// # Errors
/// The kernel refused or did not answer.
pub async fn remove_unheld(links: &Links, name: &InterfaceName) -> Result<bool> {
    let held = {
        let name = name.clone();
        // Only one can hold it. If it isn't a tap at all, or is somebody's, this fails.
        tokio::task::spawn_blocking(move || open(&name)).await
    };
    match held {
        Ok(Ok(_held)) => {
            tracing::warn!(tap = %name, "removing a tap that no process holds");
            links.delete(name).await?;
            Ok(true)
        }
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

fn open(name: &InterfaceName) -> Result<OwnedFd> {
    let wrong = |source| NetworkError::Tap {
        name: name.to_string(),
        source,
    };
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32)
        .open("/dev/net/tun")
        .map_err(wrong)?;
    tun_ioctl::become_tap(&tun, name).map_err(wrong)?;
    Ok(tun.into())
}

//! Whether QEMU has its iSCSI driver is found out by QEMU itself.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use vmhost::{launch_spec::Accelerator, qemu::QemuHypervisor};

use crate::support::Bench;

/// Where Debian puts what is in packages of its own.
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/qemu";

#[tokio::test]
async fn a_driver_that_is_missing_is_not_taken_for_one_that_is_there() {
    let Some(bench) = Bench::new() else { return };
    if !Path::new(MODULES).join("block-iscsi.so").exists() {
        eprintln!(
            "skipped: QEMU's iSCSI driver is not installed (Debian package qemu-block-extra)"
        );
        return;
    }
    bench.hypervisor.opens_iscsi().await.unwrap();
    let of = |program: &Path| QemuHypervisor::new(program, Accelerator::default());
    let refused = of(Path::new("/bin/true")).opens_iscsi().await;
    assert_eq!(refused, Err("QEMU says nothing".to_owned()));
    let refused = of(&bench.path().join("none")).opens_iscsi().await;
    assert!(refused.unwrap_err().contains("No such file"));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: who isn't root can't hide the driver");
        return;
    }
    let hidden = bench.path().join("qemu");
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none {MODULES} && exec qemu-system-x86_64 \"$@\"' sh \"$@\"\n"
    );
    fs::write(&hidden, script).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = of(&hidden).opens_iscsi().await;
    assert_eq!(refused, Err("Unknown driver 'iscsi'".to_owned()));
}

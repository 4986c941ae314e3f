//! Conversion of other hypervisors' images by the real qemu-img, and what its confinement does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use storage::Error;
use storage::confine::{Bounds, QemuImg};
use storage::foreign::ForeignFormat;
use storage::inspect::SizeLimits;

fn real() -> Option<QemuImg> {
    let found = QemuImg::at(Path::new("/usr/bin/qemu-img")).ok();
    if found.is_none() {
        eprintln!("skipped: there is no /usr/bin/qemu-img");
    }
    found
}

fn qemu_img(dir: &Path, arguments: &str) {
    let output = Command::new("qemu-img")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .expect("qemu-img");
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("list").count()
}

/// A program in the place of qemu-img.
fn pretender(dir: &Path, script: &str) -> QemuImg {
    let program = dir.join("pretender");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    QemuImg::at(&program).expect("a program")
}

#[tokio::test(flavor = "multi_thread")]
async fn self_contained_images_become_qcow2() {
    let Some(program) = real() else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let contents: Vec<u8> = (0..700_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(2 << 20)
        .collect();
    std::fs::write(dir.path().join("raw"), contents).expect("write");
    for (name, format, how) in [
        ("sparse", ForeignFormat::Vmdk, "-O vmdk"),
        (
            "stream",
            ForeignFormat::Vmdk,
            "-O vmdk -o subformat=streamOptimized",
        ),
        ("vdi", ForeignFormat::Vdi, "-O vdi"),
        ("dynamic", ForeignFormat::Vpc, "-O vpc -o force_size"),
        (
            "fixed",
            ForeignFormat::Vpc,
            "-O vpc -o subformat=fixed,force_size",
        ),
    ] {
        qemu_img(dir.path(), &format!("convert {how} raw {name}"));
        let target = dir.path().join(format!("{name}.qcow2"));
        let source = dir.path().join(name);
        let before = count(dir.path());
        let limits = SizeLimits {
            max_virtual_bytes: 1 << 20,
            ..SizeLimits::default()
        };
        let error = program
            .convert(&source, format, &target, limits)
            .await
            .expect_err("over the limit");
        assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
        assert_eq!(count(dir.path()), before, "{name}");

        let bytes = program
            .convert(&source, format, &target, SizeLimits::default())
            .await;
        assert_eq!(
            bytes.unwrap_or_else(|error| unreachable!("{name}: {error}")),
            2 << 20
        );
        qemu_img(dir.path(), &format!("check -q -f qcow2 {name}.qcow2"));
        qemu_img(
            dir.path(),
            &format!("compare -q -f qcow2 -F raw {name}.qcow2 raw"),
        );
        let again = program
            .convert(&source, format, &target, SizeLimits::default())
            .await;
        assert!(matches!(again, Err(Error::Exists { .. })), "{name}");
        assert_eq!(count(dir.path()), before + 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_several_files_are_refused_before_any_program_sees_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // It would say so if it ran.
    let program = pretender(dir.path(), "echo ran >&2; exit 1");
    if real().is_none() {
        return;
    }
    qemu_img(
        dir.path(),
        "create -q -f vmdk -o subformat=monolithicFlat flat 1M",
    );
    qemu_img(
        dir.path(),
        "create -q -f vmdk -o subformat=twoGbMaxExtentSparse extents 1M",
    );
    qemu_img(dir.path(), "create -q -f vmdk parent 1M");
    qemu_img(dir.path(), "create -q -f vmdk -F vmdk -b parent child");
    qemu_img(dir.path(), "create -q -f raw raw 1M");
    for (name, format) in [
        ("flat", ForeignFormat::Vmdk),
        ("extents", ForeignFormat::Vmdk),
        ("child", ForeignFormat::Vmdk),
        ("raw", ForeignFormat::Vmdk),
        ("raw", ForeignFormat::Vdi),
        ("raw", ForeignFormat::Vpc),
    ] {
        let target = dir.path().join("target");
        let error = program
            .convert(
                &dir.path().join(name),
                format,
                &target,
                SizeLimits::default(),
            )
            .await
            .expect_err(name);
        assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
    }
}

/// A file that passes our own examination, so that the program is run.
fn examined(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("image.vdi");
    let mut bytes = vec![0; 1024];
    bytes[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    std::fs::write(&path, bytes).expect("write");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_has_no_rights_no_network_and_no_environment() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can take rights away");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let script = "id -u; id -G; env | grep -c '^HOME\\|^USER\\|^CARGO'; grep -c : /proc/net/dev; ulimit -v; ulimit -n; \
                  ulimit -c; grep NoNewPrivs /proc/self/status; pwd; exit 9";
    let program = pretender(dir.path(), &format!("exec >&2\n{script}"));
    let image = examined(dir.path());
    let error = program
        .convert(
            &image,
            ForeignFormat::Vdi,
            &dir.path().join("target"),
            SizeLimits::default(),
        )
        .await
        .expect_err("exit status 9");
    let said = error.to_string();
    assert!(
        said.contains(r"exit status 9: 65534\n65534\n0\n1\n1048576\n64\n0\nNoNewPrivs:\t1\n/"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_stopped_at_its_time_limit_with_all_it_started() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let program = pretender(dir.path(), "sleep 600 & sleep 600; echo").with_bounds(Bounds {
        time: Duration::from_millis(300),
        ..Bounds::default()
    });
    let image = examined(dir.path());
    let started = Instant::now();
    let error = program
        .convert(
            &image,
            ForeignFormat::Vdi,
            &dir.path().join("target"),
            SizeLimits::default(),
        )
        .await
        .expect_err("too long");
    assert!(error.to_string().contains("took longer"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_output_is_bounded() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let program = pretender(dir.path(), "yes | head -c 20000000; exit 0");
    let image = examined(dir.path());
    let error = program
        .convert(
            &image,
            ForeignFormat::Vdi,
            &dir.path().join("target"),
            SizeLimits::default(),
        )
        .await
        .expect_err("no JSON");
    assert!(matches!(error, Error::Tool { .. }), "{error}");
    assert!(error.to_string().len() < 1000);
}

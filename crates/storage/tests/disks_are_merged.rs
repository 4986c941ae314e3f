//! What a machine left on its overlay becomes a standalone image that QEMU finds to be the very same disk.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::disk::{self, Disk, FlatQcow2};
use storage::inspect::Format;

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    if !output.status.success() {
        eprintln!("{program} {arguments:?}: {output:?}");
    }
    output.status.success()
}

/// Whether the programs that judge are here.
fn judged() -> bool {
    let there = Command::new("qemu-io").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: cannot run qemu-io (Debian: qemu-utils)");
    }
    there
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A base of 200 MiB with data here and there, an overlay of 300 MiB on it that writes over some of it, discards some and
/// adds behind its end.
fn chain(dir: &Path, base_format: &str, more: &[&str]) -> (PathBuf, PathBuf) {
    let raw = dir.join("base.raw");
    assert!(run(
        "qemu-img",
        &["create", "-q", "-f", "raw", text(&raw), "200M"]
    ));
    let writes = [
        "write -P 1 0 1M",
        "write -P 2 70M 3M",
        "write -P 3 199M 1M",
        "write -P 4 100000k 12k",
    ];
    for command in writes {
        assert!(run("qemu-io", &["-f", "raw", "-c", command, text(&raw)]));
    }
    let base = dir.join("base");
    let convert = [
        &["convert", "-f", "raw", "-O", base_format],
        more,
        &[text(&raw), text(&base)],
    ]
    .concat();
    assert!(run("qemu-img", &convert));
    let overlay = dir.join("overlay.qcow2");
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        text(&base),
        "-F",
        base_format,
        text(&overlay),
        "300M",
    ];
    assert!(run("qemu-img", &create));
    for command in [
        "write -P 5 71M 100k",
        "write -z 72M 1M",
        "write -P 6 250M 5M",
        "write -P 7 512 512",
        "discard 199M 1M",
    ] {
        assert!(run(
            "qemu-io",
            &["-f", "qcow2", "-c", command, text(&overlay)]
        ));
    }
    (base, overlay)
}

fn merged(disk: Box<dyn Disk>, target: &Path) -> u64 {
    let mut flat = FlatQcow2::new(disk).expect("flat");
    let length = flat.length();
    let mut file = std::fs::File::create(target).expect("create");
    while let Some(part) = flat.next_part().expect("part") {
        file.write_all(&part).expect("write");
    }
    assert_eq!(file.metadata().expect("length").len(), length);
    length
}

#[test]
fn a_merged_disk_is_the_same_disk_and_stands_on_nothing() {
    if !judged() {
        return;
    }
    let ways: [(&str, Format, &[&str]); 5] = [
        ("raw", Format::Raw, &[]),
        ("qcow2", Format::Qcow2, &[]),
        ("qcow2", Format::Qcow2, &["-c"]),
        (
            "qcow2",
            Format::Qcow2,
            &["-c", "-o", "compression_type=zstd"],
        ),
        (
            "qcow2",
            Format::Qcow2,
            &["-o", "compat=0.10,cluster_size=4096"],
        ),
    ];
    for (format, kind, more) in ways {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (base, overlay) = chain(dir.path(), format, more);
        let below = disk::open(&base, kind, None).expect("base");
        let disk = disk::open(&overlay, Format::Qcow2, Some(below)).expect("overlay");
        let target = dir.path().join("merged.qcow2");
        let length = merged(disk, &target);
        assert!(
            run("qemu-img", &["check", "-q", "-f", "qcow2", text(&target)]),
            "{format} {more:?}"
        );
        assert!(
            run(
                "qemu-img",
                &[
                    "compare",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    "qcow2",
                    text(&overlay),
                    text(&target)
                ]
            ),
            "{format} {more:?}"
        );
        assert!(length < 16 << 20, "only what is stored: {length} bytes");
        std::fs::remove_file(&base).expect("remove");
        assert!(run("qemu-img", &["map", "-f", "qcow2", text(&target)]));
    }
}

#[test]
fn altered_overlays_end_in_errors() {
    if !judged() {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let (base, overlay) = chain(dir.path(), "raw", &[]);
    let good = std::fs::read(&overlay).expect("read");
    // Every byte of header and first tables, one after the other, and cut off anywhere.
    let tables = (0..112).chain(
        (0x10000..0x10010)
            .chain(0x30000..0x30010)
            .chain(0x40000..0x40040),
    );
    for (number, at) in tables.enumerate() {
        let mut bad = good.clone();
        let Some(byte) = bad.get_mut(at) else {
            continue;
        };
        *byte ^= if number % 2 == 0 { 0xff } else { 0x41 };
        bad.truncate(good.len() - (number % 7) * 70_000);
        std::fs::write(&overlay, &bad).expect("write");
        let below = disk::open(&base, Format::Raw, None).expect("base");
        let Ok(disk) = disk::open(&overlay, Format::Qcow2, Some(below)) else {
            continue;
        };
        if disk.bytes() > 1 << 40 {
            continue; // what an image may be at most is for who asks to say
        }
        let Ok(mut flat) = FlatQcow2::new(disk) else {
            continue;
        };
        let mut bytes = 0;
        while let Ok(Some(part)) = flat.next_part() {
            bytes += part.len();
            assert!(bytes as u64 <= flat.length());
            if bytes > 64 << 20 {
                break;
            }
        }
    }
}

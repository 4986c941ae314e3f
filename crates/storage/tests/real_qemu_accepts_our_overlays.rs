//! The overlays, swap areas and empty disks we write, judged by qemu-img, qemu-io, blkid and swaplabel.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use proptest::prelude::*;
use storage::Durability;
use storage::inspect::Format;
use storage::qcow2::{self, Backing};

/// Runs a program, or says why the test is skipped.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: cannot run {program}: {error}");
            None
        }
    }
}

/// Runs a program that must succeed and returns what it printed.
fn succeed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    Some(text)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn info(path: &Path) -> Option<serde_json::Value> {
    let json = succeed(
        "qemu-img",
        &["info", "-f", "qcow2", "--output", "json", text(path)],
    )?;
    Some(serde_json::from_str(&json).expect("JSON"))
}

/// Checks one overlay; `None` if qemu-img is not installed.
fn overlay_is_right(virtual_bytes: u64, format: Format, base_bytes: u64) -> Option<()> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (base, overlay) = (
        dir.path().join("base: of, machine"),
        dir.path().join("overlay"),
    );
    succeed(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            format.as_str(),
            text(&base),
            &base_bytes.to_string(),
        ],
    )?;
    qcow2::create(
        &overlay,
        virtual_bytes,
        Some(Backing {
            path: &base,
            format,
        }),
        Durability::Cached,
    )
    .expect("create");

    succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&overlay)])?;
    let info = info(&overlay)?;
    assert_eq!(info["virtual-size"], virtual_bytes);
    assert_eq!(info["full-backing-filename"], text(&base));
    assert_eq!(info["backing-filename-format"], format.as_str());
    assert_eq!(info["cluster-size"], 65536);
    assert_eq!(info["dirty-flag"], false);
    // Writing at the very end allocates through L1, L2 and refcounts; the result must still be consistent.
    let write = format!("write -P 7 {} 512", virtual_bytes - 512);
    let read = format!("read -P 7 {} 512", virtual_bytes - 512);
    let printed = succeed(
        "qemu-io",
        &["-f", "qcow2", "-c", &write, "-c", &read, text(&overlay)],
    )?;
    assert!(!printed.contains("failed"), "{printed}");
    succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&overlay)]).map(drop)
}

#[test]
fn overlays_of_notable_sizes() {
    let l1_entry = 512 << 20;
    let l1_cluster = 8192 * l1_entry;
    for size in [
        512,
        65536,
        l1_entry - 512,
        l1_entry,
        l1_entry + 512,
        l1_cluster,
        l1_cluster + 512,
        64 << 40,
    ] {
        for format in [Format::Raw, Format::Qcow2] {
            if overlay_is_right(size, format, 1 << 20).is_none() {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn overlays_of_any_size(sectors in 1_u64..=(64 << 40) / 512, bits in 9_u32..46, base in 1_u64..64) {
        let size = (sectors * 512).min(1 << bits).max(512);
        let _ = overlay_is_right(size, Format::Raw, base * 65536);
    }
}

#[test]
fn an_overlay_shows_what_lies_below_it_and_keeps_it_unchanged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (base, overlay) = (dir.path().join("base"), dir.path().join("overlay"));
    let contents: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 1000) as u8).collect();
    std::fs::write(&base, &contents[..2_999_808]).expect("write");
    let backing = Some(Backing {
        path: &base,
        format: Format::Raw,
    });
    qcow2::create(&overlay, 2_999_808, backing, Durability::Flushed).expect("create");
    let compared = succeed(
        "qemu-img",
        &[
            "compare",
            "-s",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(&overlay),
            text(&base),
        ],
    );
    if compared.is_none() {
        return;
    }
    succeed(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 9 0 1M", text(&overlay)],
    );
    assert_eq!(std::fs::read(&base).expect("read"), &contents[..2_999_808]);
}

#[test]
fn an_overlay_takes_the_same_short_time_whatever_its_size() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let base = dir.path().join("base");
    for size in [1 << 20, 10 << 30, 64 << 40] {
        let mut times: Vec<_> = (0..101)
            .map(|n| {
                let path = dir.path().join(format!("{size}-{n}"));
                let backing = Some(Backing {
                    path: &base,
                    format: Format::Raw,
                });
                let started = Instant::now();
                qcow2::create(&path, size, backing, Durability::Cached).expect("create");
                started.elapsed()
            })
            .collect();
        times.sort();
        eprintln!(
            "overlay of {size} bytes: median {:?}, best {:?}",
            times[50], times[0]
        );
        assert!(times[50].as_millis() < 5, "median {:?}", times[50]);
    }
}

#[test]
fn a_standalone_image_is_right_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("disk");
    qcow2::create(&path, 10 << 30, None, Durability::Cached).expect("create");
    let Some(info) = info(&path) else { return };
    assert_eq!(info["virtual-size"], 10_u64 << 30);
    assert!(info.get("backing-filename").is_none());
    succeed("qemu-img", &["check", "-q", "-f", "qcow2", text(&path)]);
}

#[test]
fn swap_space_is_recognised() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("swap");
    let uuid = uuid::Uuid::new_v4();
    storage::swap::create_swap(
        &path,
        (1 << 30) + 100,
        uuid,
        "stratus-swap",
        Durability::Cached,
    )
    .expect("create");
    assert_eq!(std::fs::metadata(&path).expect("made").len(), 1 << 30);
    let Some(found) = succeed("blkid", &["-p", "-o", "export", text(&path)]) else {
        return;
    };
    for line in [
        "TYPE=swap",
        "VERSION=1",
        "LABEL=stratus-swap",
        &format!("UUID={uuid}"),
    ] {
        assert!(found.lines().any(|l| l == line), "{line} in {found}");
    }
    let Some(label) = succeed("swaplabel", &[text(&path)]) else {
        return;
    };
    assert!(
        label.contains("stratus-swap") && label.contains(&uuid.to_string()),
        "{label}"
    );
}

#[test]
fn swap_limits() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("swap");
    let make = |bytes, label| {
        storage::swap::create_swap(&path, bytes, uuid::Uuid::nil(), label, Durability::Cached)
    };
    assert!(make(10 * 4096 - 1, "").is_err());
    assert!(make((1 << 44) + 4096, "").is_err());
    assert!(make(1 << 20, "sixteen-bytes-xx").is_err());
    make(10 * 4096, "fifteen-bytes-x").expect("the smallest");
}

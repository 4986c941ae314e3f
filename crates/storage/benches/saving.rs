//! Saving a machine's disk, beside what `qemu-img convert` needs for the same disk.
//!
//! | row | budget |
//! |---|---|
//! | saved (merged, named by its SHA-1, checked, flushed) over `qemu-img convert` and a flush | ≥ 0.8 × its speed |
//! | the same of as much in a file system, cleaned | ≥ 0.8 × its speed |
//!
//! `qemu-img convert` computes no checksum. SHA-256, which proves a saved image to others, is made when it is there already; how long
//! that takes is told, too. So what a user would type for the same result stands beside both together: `qemu-img convert`, and then
//! `sha1sum` and `sha256sum` at once.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use storage::Durability;
use storage::confine::Debugfs;
use storage::digest::Expected;
use storage::disk::{self, Disk, FlatQcow2, clean};
use storage::import::{ImageStore, Limits, Options, Progress, Source};
use storage::inspect::Format;
use storage::qcow2::{self, Backing};

const MIB: u64 = 1 << 20;
/// What lies in the image, and what the machine wrote.
const BASE_MIB: u64 = 512;
const OWN_MIB: u64 = 512;
const DISK_MIB: u64 = 8192;
const ROUNDS: u32 = 5;

fn noise(file: &File, mib: u64, seed: u64) {
    let mut state = seed | 1;
    let mut file = file;
    for _ in 0..mib {
        let mut block = Vec::with_capacity(MIB as usize);
        while block.len() < MIB as usize {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

fn merged(base: &Path, overlay: &Path) -> Box<dyn Disk> {
    let below = disk::open(base, Format::Raw, None).unwrap();
    disk::open(overlay, Format::Qcow2, Some(below)).unwrap()
}

/// How long it takes until the image is there, and until it is proven.
async fn save(dir: &Path, disk: impl FnOnce() -> Box<dyn Disk>) -> (Duration, Duration) {
    let store_dir = dir.join("store");
    let store = ImageStore::open(&store_dir, Options::default()).unwrap();
    let began = Instant::now();
    let flat = FlatQcow2::new(disk()).unwrap();
    let (progress, _) = tokio::sync::watch::channel(Progress::default());
    let expected = Expected {
        format: Some(Format::Qcow2),
        proven_later: true,
        ..Expected::default()
    };
    let saved = store
        .import(Source::Disk(flat), expected, Limits::default(), &progress)
        .await
        .unwrap();
    let took = began.elapsed();
    store.prove(&saved.image.identifier).await.unwrap();
    let proven = began.elapsed();
    drop(store);
    std::fs::remove_dir_all(&store_dir).unwrap();
    (took, proven)
}

/// How long the conversion takes, and both checksums after it.
fn convert(dir: &Path, overlay: &Path) -> (Duration, Duration) {
    let target = dir.join("converted.qcow2");
    let began = Instant::now();
    run(
        "qemu-img",
        &[
            "convert",
            "-O",
            "qcow2",
            overlay.to_str().unwrap(),
            target.to_str().unwrap(),
        ],
    );
    File::open(&target).unwrap().sync_all().unwrap();
    let converted = began.elapsed();
    let sums = ["sha1sum", "sha256sum"].map(|program| {
        let mut sum = Command::new(program);
        sum.arg(&target).stdout(Stdio::null()).spawn().unwrap()
    });
    for mut sum in sums {
        assert!(sum.wait().unwrap().success());
    }
    let summed = began.elapsed();
    std::fs::remove_file(&target).unwrap();
    (converted, summed)
}

#[tokio::main]
async fn main() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        println!("skipped: qemu-img is not here (Debian: qemu-utils)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    let file = File::create(&base).unwrap();
    noise(&file, BASE_MIB, 1);
    file.set_len(DISK_MIB * MIB).unwrap();
    file.sync_all().unwrap();
    let own = dir.path().join("own");
    noise(&File::create(&own).unwrap(), OWN_MIB, 2);
    let overlay = dir.path().join("overlay.qcow2");
    let backing = Backing {
        path: &base,
        format: Format::Raw,
    };
    qcow2::create(&overlay, DISK_MIB * MIB, Some(backing), Durability::Flushed).unwrap();
    let write = format!("write -q -s {} {}M {OWN_MIB}M", own.display(), BASE_MIB / 2);
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", &write, overlay.to_str().unwrap()],
    );
    compare(dir.path(), "merged", &overlay, || merged(&base, &overlay)).await;

    let Ok(debugfs) = Debugfs::at(Path::new("/usr/sbin/debugfs")) else {
        println!("skipped: debugfs is not here (Debian: e2fsprogs)");
        return;
    };
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("root")).unwrap();
    std::fs::write(root.join("root/.bash_history"), "make bench").unwrap();
    let file = File::create(root.join("noise")).unwrap();
    noise(&file, BASE_MIB + OWN_MIB / 2, 3);
    File::create(&base)
        .unwrap()
        .set_len(DISK_MIB * MIB)
        .unwrap();
    let (from, to) = (root.to_str().unwrap(), base.to_str().unwrap());
    run("mke2fs", &["-q", "-t", "ext4", "-d", from, to]);
    std::fs::remove_dir_all(&root).unwrap();
    File::open(&base).unwrap().sync_all().unwrap();
    std::fs::remove_file(&overlay).unwrap();
    qcow2::create(&overlay, DISK_MIB * MIB, Some(backing), Durability::Flushed).unwrap();
    compare(dir.path(), "cleaned", &overlay, || {
        let scratch = clean::Scratch {
            dir: dir.path(),
            reserve_bytes: 0,
        };
        let cleaned = clean::cleaned(merged(&base, &overlay), Some(&debugfs), scratch).unwrap();
        assert_eq!((cleaned.files, cleaned.left.len()), (1, 0));
        cleaned.disk
    })
    .await;
}

/// Saves and converts side by side, each first in turn.
async fn compare(dir: &Path, what: &str, overlay: &Path, disk: impl Fn() -> Box<dyn Disk>) {
    let (mut ratios, mut ratios_with_sums) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let ((ours, proven), (theirs, summed)) = if round % 2 == 0 {
            let ours = save(dir, &disk).await;
            (ours, convert(dir, overlay))
        } else {
            let theirs = convert(dir, overlay);
            (save(dir, &disk).await, theirs)
        };
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!(
            "{what} and saved in {:.2} s (proven after {:.2} s), qemu-img convert in {:.2} s: {ratio:.2} × its speed",
            ours.as_secs_f64(),
            proven.as_secs_f64(),
            theirs.as_secs_f64()
        );
        ratios.push(ratio);
        ratios_with_sums.push(summed.as_secs_f64() / proven.as_secs_f64());
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "{what}: median {:.2} × the speed of qemu-img convert (budget: 0.8), proven {:.2} × with sha1sum and sha256sum",
        median(ratios),
        median(ratios_with_sums)
    );
}

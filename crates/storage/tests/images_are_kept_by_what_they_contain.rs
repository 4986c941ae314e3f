//! Imports from files and uploads: what is accepted, how it is kept, and that nothing else stays.

mod content;
mod formats;

use std::path::Path;
use std::process::Command;

use storage::Error;
use storage::confine::QemuImg;
use storage::digest::Expected;
use storage::import::{ImageStore, Imported, Limits, Options, Progress, Source};
use tokio::sync::watch;

fn store(dir: &Path) -> ImageStore {
    let qemu_img = QemuImg::at(Path::new("/usr/bin/qemu-img")).ok();
    ImageStore::open(
        &dir.join("store"),
        Options {
            reserve_bytes: 0,
            qemu_img,
        },
    )
    .expect("open")
}

async fn import(
    store: &ImageStore,
    path: &Path,
    expected: Expected,
    limits: Limits,
) -> Result<Imported, Error> {
    let (progress, _) = watch::channel(Progress::default());
    store
        .import(Source::File(path.to_owned()), expected, limits, &progress)
        .await
}

async fn import_bytes(
    store: &ImageStore,
    bytes: Vec<u8>,
    expected: Expected,
) -> Result<Imported, Error> {
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Stream {
        reader: Box::new(std::io::Cursor::new(bytes)),
        length: None,
    };
    store
        .import(source, expected, Limits::default(), &progress)
        .await
}

fn nothing_is_left(dir: &Path) {
    let incoming = dir.join("store/incoming");
    assert_eq!(
        std::fs::read_dir(&incoming).expect("list").count(),
        0,
        "something is left in {}",
        incoming.display()
    );
}

const DISK_BYTES: u64 = 6 << 20;

/// A disk with data, a hole, and data again.
fn disk() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..300_000_u32)
        .flat_map(|i| (i ^ (i >> 7)).to_le_bytes())
        .collect();
    bytes.resize(DISK_BYTES as usize, 0);
    bytes.truncate(DISK_BYTES as usize);
    let end = bytes.len();
    bytes[end - 1000..].fill(3);
    bytes
}

/// Makes an image with qemu-img; `None` (and a word) if it is not installed.
fn qemu_img(arguments: &[&str]) -> Option<()> {
    let run = || Command::new("qemu-img").args(arguments).output();
    // It measures its own work for LUKS, and gives up where the computer's clock moves in steps.
    let is_unlucky = |output: &std::process::Output| {
        String::from_utf8_lossy(&output.stderr).contains("Unable to get accurate CPU usage")
    };
    let mut made = run();
    for _ in 0..20 {
        if !made.as_ref().is_ok_and(is_unlucky) {
            break;
        }
        made = run();
    }
    match made {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(())
        }
        Err(error) => {
            eprintln!("skipped: cannot run qemu-img: {error}");
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn digest_of(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg(path).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

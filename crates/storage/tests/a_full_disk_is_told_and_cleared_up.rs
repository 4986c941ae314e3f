//! What happens when the file system is full: on a small tmpfs, so root is needed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use storage::confine::QemuImg;
use storage::digest::Expected;
use storage::disk::{self, FlatQcow2};
use storage::import::{ImageStore, Limits, Options, Progress, Source};
use storage::inspect::Format;
use storage::qcow2::{self, Backing};
use storage::space::Space;
use storage::{Durability, Error};
use tokio::sync::watch;

/// A mounted tmpfs of 16 MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,nr_inodes=64", "small-disk"])
            .arg(at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            Ok(output) => {
                eprintln!(
                    "skipped: cannot mount a tmpfs: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                None
            }
            Err(error) => {
                eprintln!("skipped: cannot run mount: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

async fn import(store: &ImageStore, bytes: usize, expected: Expected) -> Result<(), Error> {
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Stream {
        reader: Box::new(std::io::Cursor::new(vec![7; bytes])),
        length: None,
    };
    store
        .import(source, expected, Limits::default(), &progress)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_does_not_fit_frees_what_it_took() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = SmallDisk::mount(dir.path()) else {
        return;
    };
    let options = Options {
        reserve_bytes: 1 << 20,
        qemu_img: None,
    };
    let store = ImageStore::open(&disk.0, options).expect("open");
    let free = Space::of(&disk.0).expect("space").free_bytes;

    // Known beforehand: refused without a byte written.
    let expected = Expected {
        bytes: Some(20 << 20),
        ..Expected::default()
    };
    let error = import(&store, 20 << 20, expected)
        .await
        .expect_err("does not fit");
    assert!(
        matches!(
            error,
            Error::NoSpace {
                needed_bytes: 20_971_520,
                reserve_bytes: 1_048_576,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains(disk.0.to_str().expect("text")),
        "{error}"
    );

    // Found out on the way.
    let error = import(&store, 20 << 20, Expected::default())
        .await
        .expect_err("does not fit");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    // The kernel frees the space when the thread that wrote has closed the file, which may be a moment later.
    let freed = async {
        while Space::of(&disk.0).expect("space").free_bytes != free {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(20), freed).await;
    freed.expect("the space is free again");

    import(&store, 4 << 20, Expected::default())
        .await
        .expect("the next one fits");
    drop(store);
}

/// What a file system runs out of.
#[derive(Debug, Clone, Copy)]
enum Scarce {
    /// Pages for contents, of 4 KiB.
    Pages,
    /// Files and folders.
    Inodes,
}

/// What takes all of a small disk but so much; gone when dropped.
struct Filler(PathBuf);

impl Filler {
    fn leaving(disk: &Path, what: Scarce, left: u64) -> Self {
        let folder = disk.join("filler");
        std::fs::create_dir(&folder).expect("folder");
        let free = || rustix::fs::statvfs(disk).expect("statvfs");
        match what {
            Scarce::Pages => {
                let file = std::fs::File::create(folder.join("pages")).expect("file");
                let taken = (free().f_bfree - left) * free().f_frsize;
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken)
                    .expect("allocated");
            }
            Scarce::Inodes => {
                for number in 0..free().f_ffree - left {
                    std::fs::File::create(folder.join(number.to_string())).expect("file");
                }
            }
        }
        Self(folder)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is brought in, as often as it is asked for.
enum Brought {
    Bytes(Vec<u8>),
    /// A saved disk: an overlay and what it stands on.
    Disk {
        overlay: PathBuf,
        base: PathBuf,
    },
}

impl Brought {
    fn source(&self) -> Source {
        match self {
            Self::Bytes(bytes) => Source::Stream {
                reader: Box::new(std::io::Cursor::new(bytes.clone())),
                length: None,
            },
            Self::Disk { overlay, base } => {
                let below = disk::open(base, Format::Raw, None).expect("base");
                let merged = disk::open(overlay, Format::Qcow2, Some(below)).expect("overlay");
                Source::Disk(FlatQcow2::new(merged).expect("flat"))
            }
        }
    }
}

/// Names of everything in a store.
fn contents(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["incoming", "images"] {
        for entry in std::fs::read_dir(store.join(folder)).expect("list") {
            found.push(entry.expect("entry").path());
        }
    }
    found
}

/// Brings an image in while so much is left, for every `left` until it fits. Whatever it ran out at, the reason is named and
/// nothing is left; then there is room, and it comes. Gives how often it did not fit.
async fn every_step(disk: &Path, what: Scarce, by: usize, brought: &Brought) -> u64 {
    let dir = disk.join("store");
    let qemu_img = QemuImg::at(Path::new("/usr/bin/qemu-img")).ok();
    let mut failures = 0;
    for left in (0..4096).step_by(by) {
        let options = Options {
            reserve_bytes: 0,
            qemu_img: qemu_img.clone(),
        };
        let store = ImageStore::open(&dir, options).expect("open");
        let import = async || {
            let (progress, _) = watch::channel(Progress::default());
            store
                .import(
                    brought.source(),
                    Expected::default(),
                    Limits::default(),
                    &progress,
                )
                .await
        };
        let filler = Filler::leaving(disk, what, left);
        let first = import().await;
        drop(filler);
        match &first {
            Ok(_) => {}
            Err(error) => {
                failures += 1;
                assert!(error.is_for_want_of_space(), "{what:?} {left}: {error}");
                let told = error.to_string();
                assert!(told.to_lowercase().contains("space"), "{left}: {told}");
                assert_eq!(contents(&dir), Vec::<PathBuf>::new(), "{left}: {told}");
                assert_eq!(store.list(), []);
            }
        }
        let image = import().await.expect("there is room").image;
        store.verify(&image.identifier).await.expect("as it came");
        assert_eq!(contents(&dir).len(), 1);
        store.delete(&image.identifier).await.expect("deleted");
        drop(store);
        if first.is_ok() {
            return failures;
        }
    }
    unreachable!("it never fits");
}

fn ran(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {output:?}");
            true
        }
        Err(error) => {
            eprintln!("skipped: cannot run {program}: {error} (Debian: qemu-utils)");
            false
        }
    }
}

/// Contents of which no page is a hole.
fn pages(number: u32) -> Vec<u8> {
    (0..number * 1024)
        .flat_map(|n| (n | 1).to_le_bytes())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_step_of_an_import_finds_the_disk_full_nothing_is_left_and_the_next_try_works() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let Some(disk) = SmallDisk::mount(dir.path()) else {
        return;
    };
    let elsewhere = tempfile::tempdir().expect("temporary directory");
    let raw = elsewhere.path().join("raw");
    std::fs::write(&raw, pages(48)).expect("written");

    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&pages(12)).expect("packed");
    let packed = Brought::Bytes(packed.finish().expect("packed"));
    // The content, page by page, and the page of its description.
    assert_eq!(every_step(&disk.0, Scarce::Pages, 1, &packed).await, 13);
    // Folder, content, description.
    assert_eq!(every_step(&disk.0, Scarce::Inodes, 1, &packed).await, 3);

    let vmdk = elsewhere.path().join("vmdk");
    let arguments = ["convert", "-q", "-O", "vmdk"];
    let (from, to) = (raw.to_str().expect("text"), vmdk.to_str().expect("text"));
    if ran("qemu-img", &[&arguments[..], &[from, to]].concat()) {
        let foreign = Brought::Bytes(std::fs::read(&vmdk).expect("read"));
        let failures = every_step(&disk.0, Scarce::Pages, 7, &foreign).await;
        assert!(failures > 10, "{failures}");
        // Besides, what it is converted into, which takes the place of what came before there is a description.
        assert_eq!(every_step(&disk.0, Scarce::Inodes, 1, &foreign).await, 3);
    }

    let overlay = elsewhere.path().join("overlay");
    let backing = Backing {
        path: &raw,
        format: Format::Raw,
    };
    let bytes = std::fs::metadata(&raw).expect("metadata").len();
    qcow2::create(&overlay, bytes, Some(backing), Durability::Cached).expect("overlay");
    let path = overlay.to_str().expect("text");
    if ran(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -q -P 9 64k 64k", path],
    ) {
        let saved = Brought::Disk { overlay, base: raw };
        let failures = every_step(&disk.0, Scarce::Pages, 5, &saved).await;
        assert!(failures > 8, "{failures}");
        assert_eq!(every_step(&disk.0, Scarce::Inodes, 1, &saved).await, 3);
    }
}

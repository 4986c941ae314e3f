//! What happens when the file system is full: on a small tmpfs, so root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use storage::Error;
use storage::digest::Expected;
use storage::import::{ImageStore, Limits, Options, Progress, Source};
use storage::space::Space;
use tokio::sync::watch;

/// A mounted tmpfs of 16 MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "small-disk"])
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

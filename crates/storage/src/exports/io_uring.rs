//! Whether processes that show volumes read and write them by `io_uring`: where the kernel lets them and the program can.
//!
//! By threads, which is how they do it else, each piece goes from one thread to another and back, though it may be in memory: a tenth
//! of the time of a guest's small read.

use std::{
    io::Read as _,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{Part, StorageDaemon, What};
use crate::{
    durable::{Durability, RemoveOnDrop},
    error::Error,
    inspect::Format,
    qcow2,
};

/// Longer than the program takes to start on a busy computer.
const LIMIT: Duration = Duration::from_secs(20);
/// Of the image that is shown to try it.
const BYTES: u64 = 1 << 20;
/// Who has no rights.
const NOBODY: u32 = 65534;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct IoUring {
    was_tried: OnceLock<()>,
    is_had: AtomicBool,
}

impl IoUring {
    /// Whether it can be had, as far as is known.
    pub(super) fn is_had(&self) -> bool {
        self.is_had.load(Relaxed)
    }

    /// What a process has said at its end. One that can't have it any more says so: its volume, and all others, are shown by threads
    /// the next time.
    pub(super) fn hear(&self, said: &str) {
        if said.contains("io_uring") && self.is_had.swap(false, Relaxed) {
            tracing::warn!(
                said,
                "from now on volumes are shown to other hosts without io_uring"
            );
        }
    }
}

impl StorageDaemon {
    /// Whether its processes have `io_uring`. Blocks until that was tried.
    #[must_use]
    pub fn has_io_uring(&self) -> bool {
        self.uring.was_tried.wait();
        self.uring.is_had()
    }

    /// Tries it beside: nobody is to wait for that.
    pub(super) fn try_io_uring(&self) {
        let daemon = self.clone();
        let trying = move || {
            match daemon.show_by_io_uring() {
                Ok(()) => daemon.uring.is_had.store(true, Relaxed),
                Err(why) => {
                    tracing::info!(
                        why,
                        "if volumes are shown to other hosts, it is without io_uring, which makes small reads slower"
                    );
                }
            }
            let _ = daemon.uring.was_tried.set(());
        };
        let thread = thread::Builder::new().name("io-uring".to_owned());
        if let Err(error) = thread.spawn(trying) {
            tracing::warn!(%error, "whether io_uring can be had can't be tried");
            let _ = self.uring.was_tried.set(());
        }
    }

    /// Has a process show an image: it reads some of that at once, and newer ones say only then that they can't.
    fn show_by_io_uring(&self) -> Result<(), String> {
        let path = self.folder.join(uuid::Uuid::new_v4().simple().to_string());
        let _image = RemoveOnDrop::new(path.clone());
        let told = |error: Error| error.to_string();
        qcow2::create(&path, BYTES, None, Durability::Cached).map_err(told)?;
        let what = What {
            parts: vec![Part {
                path,
                format: Format::Qcow2,
            }],
            is_tried: true,
            ..What::default()
        };
        let (mut stream, shown) = self.start(&what, Some(NOBODY)).map_err(told)?;
        let mut greeting = [0; 8];
        let heard = stream.set_read_timeout(Some(LIMIT));
        let heard = heard.and_then(|()| stream.read_exact(&mut greeting));
        let said = shown.end_and_hear();
        heard.map_err(|error| format!("{error}: {said}"))?;
        said.is_empty().then_some(()).ok_or(said)
    }
}

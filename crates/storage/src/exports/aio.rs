//! How processes that show volumes read and write them: by `io_uring` where the kernel lets them and the program can, else by threads.
//!
//! By threads each piece goes from one thread to another and back, though it may be in memory: a tenth of the time of a guest's
//! small read.

use std::{io::Read as _, time::Duration};

use tokio::runtime::Handle;

use super::{Part, StorageDaemon, What};
use crate::{
    durable::{Durability, RemoveOnDrop},
    error::Error,
    inspect::Format,
    qcow2,
};

/// A word of its `aio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aio {
    IoUring,
    Threads,
}

/// Longer than the program takes to start on a busy computer.
const LIMIT: Duration = Duration::from_secs(20);
/// Of the image that is shown.
const BYTES: u64 = 1 << 20;

impl Aio {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

impl StorageDaemon {
    /// What processes of this user can. Tried once. Blocks.
    pub(super) fn aio(&self, user: Option<u32>) -> Aio {
        *self.aio.get_or_init(|| match self.try_io_uring(user) {
            Ok(()) => Aio::IoUring,
            Err(why) => {
                tracing::info!(why, "volumes are shown to other hosts without io_uring, which makes small reads slower");
                Aio::Threads
            }
        })
    }

    /// Has a process show an image by it: it reads some of that at once, and newer ones say only then that they can't.
    fn try_io_uring(&self, user: Option<u32>) -> Result<(), String> {
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
        let (mut stream, mut shown) = self.start(&what, Aio::IoUring, user).map_err(told)?;
        let mut greeting = [0; 8];
        let heard = stream
            .set_read_timeout(Some(LIMIT))
            .and_then(|()| stream.read_exact(&mut greeting));
        shown.kill();
        let said = Handle::current()
            .block_on(&mut shown.ended)
            .unwrap_or_default();
        match heard {
            Ok(()) if said.is_empty() => Ok(()),
            Ok(()) => Err(said),
            Err(error) => Err(format!("{error}: {said}")),
        }
    }
}

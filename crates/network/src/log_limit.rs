//! Keeps dnsmasq's log small, as it is written: a guest can make it write a line for every packet it sends.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const LOG_LIMIT_BYTES: u64 = 1 << 20;
/// However fast it is written to, it is looked at no more often.
const PAUSE: Duration = Duration::from_millis(500);

/// Word of writes to a log.
#[derive(Debug)]
pub(crate) struct LogLimit {
    log: PathBuf,
    /// None: the kernel has no more of them. The log is then cut when machines change.
    written: Option<AsyncFd<OwnedFd>>,
}

impl LogLimit {
    /// Watches a log that is there.
    pub(crate) fn of(log: PathBuf) -> Self {
        let watch = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, &log, WatchFlags::MODIFY)?;
            #[expect(
                deprecated,
                reason = "sound for OwnedFd, and the successor is an unsafe function"
            )]
            AsyncFd::with_interest(events, Interest::READABLE)
        };
        let written = watch()
            .inspect_err(|error| {
                tracing::warn!(log = %log.display(), %error, "dnsmasq's log is only cut when machines change");
            })
            .ok();
        Self { log, written }
    }

    /// Cuts the log whenever it has grown too large. Never returns.
    pub(crate) async fn keep(&self) {
        loop {
            self.cut().await;
            let Some(written) = &self.written else {
                return std::future::pending().await;
            };
            let Ok(mut ready) = written.readable().await else {
                return std::future::pending().await;
            };
            // All that happened is taken at once; what it was doesn't matter.
            let mut space = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(written.get_ref(), &mut space);
            while reader.next().is_ok() {}
            ready.clear_ready();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn cut(&self) {
        set_large_log_aside(&self.log).await;
    }
}

/// Where the previous part of a log is.
pub(crate) fn old_log(log: &Path) -> PathBuf {
    log.with_extension("log.old")
}

/// Copied and emptied, not renamed: dnsmasq appends to the open file, and as an unprivileged user could not make
/// another. It writes two lines at every SIGHUP. Of a log that grew while nobody looked, the end is lost.
pub(crate) async fn set_large_log_aside(log: &Path) {
    if tokio::fs::metadata(log)
        .await
        .is_ok_and(|data| data.len() > LOG_LIMIT_BYTES)
    {
        let kept = copy_beginning(log).await;
        let emptied = match tokio::fs::OpenOptions::new().write(true).open(log).await {
            Ok(file) => file.set_len(0).await,
            Err(error) => Err(error),
        };
        if let Err(error) = kept.and(emptied) {
            tracing::warn!(log = %log.display(), %error, "dnsmasq's log grows beyond its limit");
        }
    }
}

async fn copy_beginning(log: &Path) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt as _;
    let mut beginning = tokio::fs::File::open(log).await?.take(LOG_LIMIT_BYTES);
    let mut old = tokio::fs::File::create(old_log(log)).await?;
    tokio::io::copy(&mut beginning, &mut old).await?;
    tokio::io::AsyncWriteExt::flush(&mut old).await
}

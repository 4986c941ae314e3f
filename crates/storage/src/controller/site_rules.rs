//! What changes when the operator edits the rules of the site: images that wait are tried at once, and cached ones are judged
//! by the new rules, without a restart and without waiting for the next look.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::StorageController;

/// Editors and `fetch-crl` write in several steps.
const PAUSE: Duration = Duration::from_millis(300);

impl StorageController {
    /// Follows the files of the site's rules until `shutdown`.
    pub(super) async fn follow_site_rules(&self, shutdown: &CancellationToken) {
        let files = self.0.settings.registries.policy().files();
        let mut watch = match Watch::of(&files) {
            Ok(watch) => watch,
            Err(error) => {
                if !files.is_empty() {
                    tracing::warn!(%error, "changes of the site's policy are only seen when images are looked at");
                }
                return shutdown.cancelled().await;
            }
        };
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = watch.changed() => {}
            }
            tracing::info!("the site's rules for images have changed; images are looked at again");
            self.0.rests.forget_all();
            self.0.look_at_all.notify_one();
        }
    }
}

/// Word of changes of files, also when they are replaced or come to be only later.
struct Watch {
    events: AsyncFd<OwnedFd>,
    /// Which names matter in which folder; no name: all of them.
    wanted: Vec<(i32, Option<OsString>)>,
}

impl Watch {
    fn of(files: &[PathBuf]) -> std::io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut wanted = Vec::new();
        for file in files {
            // A link is replaced where it is, and its file where that is.
            let real = file.canonicalize().ok().filter(|real| real != file);
            for path in [Some(file.clone()), real].into_iter().flatten() {
                let of_itself = path.is_dir().then(|| (path.clone(), None));
                for (folder, name) in of_itself.into_iter().chain(in_folder(&path)) {
                    let flags = WatchFlags::CLOSE_WRITE
                        | WatchFlags::CREATE
                        | WatchFlags::DELETE
                        | WatchFlags::MOVED_TO
                        | WatchFlags::MOVED_FROM
                        | WatchFlags::ATTRIB;
                    wanted.push((inotify::add_watch(&events, &folder, flags)?, name));
                }
            }
        }
        if wanted.is_empty() {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        #[expect(
            deprecated,
            reason = "sound for OwnedFd, and the successor is an unsafe function"
        )]
        let events = AsyncFd::with_interest(events, Interest::READABLE)?;
        Ok(Self { events, wanted })
    }

    /// Returns when one of them has changed, and a moment later than that: what follows at once is the same change.
    async fn changed(&mut self) {
        while !self.is_any_wanted().await {}
        tokio::time::sleep(PAUSE).await;
        self.take();
    }

    async fn is_any_wanted(&mut self) -> bool {
        match self.events.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // Only when the runtime ends.
            Err(_) => return std::future::pending().await,
        }
        self.take()
    }

    /// Takes all events that are there; whether one was of a wanted file.
    fn take(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.events.get_ref(), &mut space);
        let mut is_wanted = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            is_wanted |= self.wanted.iter().any(|(watch, wanted)| {
                *watch == event.wd()
                    && wanted
                        .as_ref()
                        .is_none_or(|wanted| name == Some(wanted.as_bytes()))
            });
        }
        is_wanted
    }
}

fn in_folder(path: &Path) -> Option<(PathBuf, Option<OsString>)> {
    Some((
        path.parent()?.to_owned(),
        Some(path.file_name()?.to_owned()),
    ))
}

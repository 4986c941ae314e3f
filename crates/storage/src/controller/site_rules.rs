//! What changes when the operator edits the rules of the site: images that wait are tried at once, and cached ones are judged
//! by the new rules, without a restart and without waiting for the next look.

use std::ffi::{CStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::StorageController;

/// Editors and `fetch-crl` write in several steps: what follows so soon is the same change.
const QUIET: Duration = Duration::from_millis(300);
/// What never comes to rest is read nevertheless, so long after its first change.
const LONGEST: Duration = Duration::from_secs(10);
/// Most names that are watched on the way to a file: more are of links that lead to themselves.
const MOST_NAMES: usize = 500;

impl StorageController {
    /// Follows the files of the site's rules until `shutdown`.
    pub(super) async fn follow_site_rules(&self, shutdown: &CancellationToken) {
        let files = self.0.settings.registries.policy().files();
        if files.is_empty() {
            return shutdown.cancelled().await;
        }
        let unseen = |error: io::Error| {
            tracing::warn!(%error, "changes of the site's policy are only seen when images are looked at");
        };
        let mut watch = match Watch::of(&files) {
            Ok(watch) => watch,
            Err(error) => {
                unseen(error);
                return shutdown.cancelled().await;
            }
        };
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = watch.changed(QUIET, LONGEST) => {}
            }
            // Names may lead elsewhere now. This comes first, so that what changes meanwhile is either read or seen.
            match Watch::of(&files) {
                Ok(anew) => watch = anew,
                Err(error) => unseen(error),
            }
            tracing::info!("the site's rules for images have changed; images are looked at again");
            self.0.rests.forget_all();
            self.0.look_at_all.notify_one();
        }
    }
}

/// Word of changes of files, also when they, or folders and links on the way to them, are replaced or come to be only later. It
/// is good for one change: after that the names may lead elsewhere.
struct Watch {
    events: AsyncFd<OwnedFd>,
    /// Which names matter in which folder; no name: all of them.
    wanted: Vec<(i32, Option<OsString>)>,
}

impl Watch {
    fn of(files: &[PathBuf]) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut wanted = Vec::new();
        for file in files {
            let of_itself = file.is_dir().then(|| (file.clone(), None));
            let on_the_way = names_on_the_way(file).into_iter();
            let named = on_the_way.map(|(folder, name)| (folder, Some(name)));
            for (folder, name) in of_itself.into_iter().chain(named) {
                let flags = WatchFlags::CLOSE_WRITE
                    | WatchFlags::CREATE
                    | WatchFlags::DELETE
                    | WatchFlags::MOVED_TO
                    | WatchFlags::MOVED_FROM
                    | WatchFlags::ATTRIB;
                match inotify::add_watch(&events, &folder, flags) {
                    Ok(watch) => wanted.push((watch, name)),
                    // Its own name is watched where it should be.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        #[expect(
            deprecated,
            reason = "sound for OwnedFd, and the successor is an unsafe function"
        )]
        let events = AsyncFd::with_interest(events, Interest::READABLE)?;
        Ok(Self { events, wanted })
    }

    /// Returns when one of them has changed and nothing more has for `quiet`, or `longest` after that change.
    async fn changed(&mut self, quiet: Duration, longest: Duration) {
        self.next().await;
        let mut longest = pin!(tokio::time::sleep(longest));
        loop {
            tokio::select! {
                biased;
                () = &mut longest => return,
                more = tokio::time::timeout(quiet, self.next()) => {
                    if more.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The next change.
    async fn next(&mut self) {
        while !self.is_any_wanted().await {}
    }

    /// Waits for events, and takes them up to the first that is wanted; whether there is one.
    async fn is_any_wanted(&mut self) -> bool {
        // An error comes only when the runtime ends.
        let Ok(mut ready) = self.events.readable().await else {
            return std::future::pending().await;
        };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.events.get_ref(), &mut space);
        loop {
            let Ok(event) = reader.next() else {
                ready.clear_ready();
                return false;
            };
            if is_wanted(&self.wanted, &event) {
                return true;
            }
            // However many come, others have their turn between.
            if reader.is_buffer_empty() {
                return false;
            }
        }
    }
}

fn is_wanted(wanted: &[(i32, Option<OsString>)], event: &inotify::Event<'_>) -> bool {
    // Events that were lost, and a folder that is gone, may have been anything.
    let lost = ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED;
    let name = event.file_name().map(CStr::to_bytes);
    event.events().intersects(lost)
        || wanted.iter().any(|(watch, wanted)| {
            let wanted = wanted.as_ref().map(|wanted| wanted.as_bytes());
            *watch == event.wd() && (wanted.is_none() || wanted == name)
        })
}

/// All names that say where a file is, each with the folder that it is in: its own, those of the folders above, and the same of
/// whatever a link among them leads to.
fn names_on_the_way(file: &Path) -> Vec<(PathBuf, OsString)> {
    let mut names = Vec::new();
    let mut ways = vec![std::path::absolute(file).unwrap_or_else(|_| file.to_owned())];
    while let Some(way) = ways.pop() {
        for place in way.ancestors() {
            let (Some(folder), Some(name)) = (place.parent(), place.file_name()) else {
                continue;
            };
            if names.len() == MOST_NAMES {
                return names;
            }
            names.push((folder.to_owned(), name.to_owned()));
            if let (Ok(to), Ok(rest)) = (place.read_link(), way.strip_prefix(place)) {
                // Without a `/` at its end, behind which a link would be taken for what it leads to.
                ways.push(folder.join(to).join(rest).components().collect());
            }
        }
    }
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::fs;

    use tokio::time::{Instant, timeout};

    use super::*;

    /// Longer than anything takes here.
    const AT_LAST: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_never_comes_to_rest_is_told_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.cfg");
        let mut watch = Watch::of(std::slice::from_ref(&file)).unwrap();
        let (quiet, longest) = (Duration::from_secs(20), Duration::from_millis(500));
        let writing = async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            loop {
                pause.tick().await;
                fs::write(&file, "").unwrap();
            }
        };
        let begun = Instant::now();
        tokio::select! {
            () = watch.changed(quiet, longest) => {}
            () = writing => {}
        }
        assert!(begun.elapsed() < quiet);
    }

    #[tokio::test]
    async fn when_events_are_lost_a_change_is_supposed() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::of(&[folder.path().join("policy.cfg")]).unwrap();
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let most: usize = most.trim().parse().unwrap();
        // Each is two events: that it is there, and that it was written.
        for number in 0..=most / 2 {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        timeout(AT_LAST, watch.next()).await.expect("told");
    }

    #[test]
    fn links_are_watched_where_they_are_and_where_they_lead() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("second", at.join("first")).unwrap();
        std::os::unix::fs::symlink(at.join("real"), at.join("second")).unwrap();
        std::os::unix::fs::symlink("round", at.join("round")).unwrap();
        let real = (at.join("real"), "policy.cfg".into());
        let of_file = names_on_the_way(&at.join("first/policy.cfg"));
        assert!(of_file.contains(&real), "{of_file:?}");
        for names in [of_file, names_on_the_way(&at.join("first"))] {
            for name in ["first", "second", "real"] {
                assert!(names.contains(&(at.clone(), name.into())), "{names:?}");
            }
        }
        assert_eq!(names_on_the_way(&at.join("round")).len(), MOST_NAMES);
    }
}

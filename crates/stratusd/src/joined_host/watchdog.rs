//! The guard of this host's machines (`vmhost::guard`): there as long as this daemon is, and told what was heard.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    process::{Child, Command},
    time::sleep,
};
use vmhost::guard::{Fence, Guard, LOOK, Moment, Presence, stand_in};

use crate::config::Config;

/// The folder of the guard below the state directory.
pub(crate) const FOLDER: &str = "guard";

/// See the module.
pub(super) struct Watchdog {
    folder: PathBuf,
    /// As configured; none: it ends no machines.
    after: Option<Duration>,
    machines: PathBuf,
    /// Also after this one was replaced by another version.
    program: PathBuf,
    presence: Presence,
    /// The one that was started here last, as long as it isn't known how it ended.
    started: Mutex<Option<Child>>,
}

impl Watchdog {
    /// As configured.
    pub(super) fn new(config: &Config, machines: &Path) -> Self {
        let seconds = config.machines.fence_seconds;
        let watchdog = Self {
            folder: config.state_dir().join(FOLDER),
            after: (seconds != 0).then(|| Duration::from_secs(seconds)),
            machines: machines.to_owned(),
            program: "/proc/self/exe".into(),
            presence: Presence::default(),
            started: Mutex::default(),
        };
        // One outlives its daemon: what it guards is guarded from the first moment on.
        if Guard::is_there(&watchdog.folder) {
            watchdog.presence.tell(Ok(()));
        }
        watchdog
    }

    /// By what the controller of machines goes.
    pub(super) fn fence(&self) -> Option<Fence> {
        let after = self.after?;
        Some(Fence {
            after,
            guard: self.presence.clone(),
        })
    }

    /// Notes what was heard, and has the guard there; or, once the cloud knows that there is none, not. The cloud goes by what this host
    /// has `told` it: until it knows of another time, or of none, the machines end as it was promised.
    pub(super) fn heard(&self, asked: Moment, told: Option<Duration>) {
        let Some(after) = kept(self.after, told) else {
            if let Err(error) = Guard::dismiss(&self.folder) {
                tracing::error!(%error, "the guard of machines can't be dismissed: it may end them");
            }
            return;
        };
        if let Err(error) = Guard::new(self.folder.clone(), after).heard(asked) {
            tracing::error!(%error, "the guard of machines can't be told that this host is heard: it will end them");
        }
    }

    /// Has the guard there, for ever: whether this host is heard or not, since that is when it is needed.
    pub(super) async fn keep(&self) -> Infallible {
        loop {
            if Guard::is_wanted(&self.folder) && !self.has_it_there() {
                // As long as there is none, this daemon does the same.
                let (folder, machines) = (self.folder.clone(), self.machines.clone());
                if let Err(error) =
                    tokio::task::spawn_blocking(move || stand_in(&folder, &machines)).await
                {
                    tracing::error!(%error, "nobody looks whether machines are to be ended");
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it is there, told to who goes by it. Starts one if it isn't.
    fn has_it_there(&self) -> bool {
        if Guard::is_there(&self.folder) {
            self.presence.tell(Ok(()));
            return true;
        }
        let mut started = self.started.lock();
        let ended = match started.as_mut().map(Child::try_wait) {
            // It has only begun.
            Some(Ok(None)) => return false,
            Some(Ok(Some(status))) => Some(format!("it ended: {status}")),
            Some(Err(error)) => Some(error.to_string()),
            None => self.presence.is_there().then(|| "it ended".to_owned()),
        };
        let next = self.start();
        let why = match &next {
            Ok(_) => ended,
            Err(error) => Some(format!(
                "{} can't be started: {error}",
                self.program.display()
            )),
        };
        if let Some(why) = why {
            let told = format!(
                "no guard ends machines here if this host is lost, so none goes on elsewhere by itself: {why} (`machines.fence_seconds`)"
            );
            if self.presence.tell(Err(told)) {
                tracing::error!(why, "the guard of machines isn't there");
            }
        }
        *started = next.ok();
        false
    }

    /// It outlives this process.
    fn start(&self) -> std::io::Result<Child> {
        let child = Command::new(&self.program)
            .arg("guard")
            .args([&self.folder, &self.machines])
            .stdin(Stdio::null())
            .spawn()?;
        tracing::info!(pid = child.id(), "the guard of machines was started");
        Ok(child)
    }
}

/// The shorter of what is configured and what the cloud was told: an end that comes too early is no second machine.
fn kept(configured: Option<Duration>, told: Option<Duration>) -> Option<Duration> {
    configured.into_iter().chain(told).min()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn of(folder: &Path, program: &str) -> Watchdog {
        Watchdog {
            folder: folder.join(FOLDER),
            after: Some(Duration::from_secs(3600)),
            machines: folder.join("machines"),
            program: program.into(),
            presence: Presence::default(),
            started: Mutex::default(),
        }
    }

    /// Looks until something is told of it.
    async fn told(watchdog: &Watchdog) -> Option<String> {
        let looks = async {
            while !watchdog.presence.is_there() && watchdog.presence.trouble().is_none() {
                watchdog.has_it_there();
                sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, looks).await.unwrap();
        watchdog.presence.trouble()
    }

    #[tokio::test]
    async fn a_guard_that_can_not_be_started_or_ends_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let watchdog = of(folder.path(), "/nonexistent");
        let fence = watchdog.fence().unwrap();
        assert!(fence.guard.trouble().is_none(), "nobody has looked yet");
        let why = told(&watchdog).await.unwrap();
        assert!(why.contains("/nonexistent can't be started"), "{why}");

        // One that ends at once.
        let watchdog = of(folder.path(), "/bin/false");
        let why = told(&watchdog).await.unwrap();
        assert!(why.contains("exit status: 1"), "{why}");

        // One that is there, and is killed: it is missing until the next one is there.
        let watchdog = of(folder.path(), "/nonexistent");
        watchdog.heard(Moment::now(), None);
        let (own, machines) = (watchdog.folder.clone(), watchdog.machines.clone());
        let guard = std::thread::spawn(move || vmhost::guard::watch(&own, &machines).unwrap());
        while !Guard::is_there(&watchdog.folder) {
            std::thread::yield_now();
        }
        assert!(watchdog.has_it_there() && watchdog.presence.is_there());
        Guard::dismiss(&watchdog.folder).unwrap();
        guard.join().unwrap();
        assert!(!watchdog.has_it_there() && !watchdog.presence.is_there());
        assert!(watchdog.presence.trouble().is_some());
    }

    #[test]
    fn what_the_cloud_was_told_is_kept_until_it_knows_better() {
        let of = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (configured, told, wanted) in [
            (None, None, None),
            (None, Some(60), Some(60)),
            (Some(60), None, Some(60)),
            (Some(3600), Some(60), Some(60)),
            (Some(30), Some(60), Some(30)),
        ] {
            assert_eq!(kept(of(configured), of(told)), of(wanted));
        }
    }
}

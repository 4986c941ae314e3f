//! The guard of this host's machines (`vmhost::guard`), started and told what was heard.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;
use vmhost::guard::{Guard, Moment};

use crate::config::Config;

/// The folder of the guard below the state directory.
pub(crate) const FOLDER: &str = "guard";

/// See the module.
pub(super) struct Watchdog {
    folder: PathBuf,
    /// As configured; none: it ends no machines.
    after: Option<Duration>,
    machines: PathBuf,
}

impl Watchdog {
    /// As configured.
    pub(super) fn new(config: &Config, machines: &Path) -> Self {
        let seconds = config.machines.fence_seconds;
        Self {
            folder: config.state_dir().join(FOLDER),
            after: (seconds != 0).then(|| Duration::from_secs(seconds)),
            machines: machines.to_owned(),
        }
    }

    /// After how long.
    pub(super) const fn after(&self) -> Option<Duration> {
        self.after
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
        let guard = Guard::new(self.folder.clone(), after);
        if let Err(error) = guard.heard(asked) {
            tracing::error!(%error, "the guard of machines can't be told that this host is heard: it will end them");
        }
        if !guard.is_there()
            && let Err(error) = self.start(after)
        {
            tracing::error!(%error, "the guard of machines can't be started: they wouldn't be ended if this host were lost");
        }
    }

    /// It outlives this process, and is waited for by the runtime.
    fn start(&self, after: Duration) -> std::io::Result<()> {
        // Also after the program was replaced by another version.
        Command::new("/proc/self/exe")
            .arg("guard")
            .args([&self.folder, &self.machines])
            .stdin(Stdio::null())
            .spawn()
            .map(|child| {
                tracing::info!(
                    pid = child.id(),
                    seconds = after.as_secs(),
                    "the guard of machines was started"
                );
            })
    }
}

/// The shorter of what is configured and what the cloud was told: an end that comes too early is no second machine.
fn kept(configured: Option<Duration>, told: Option<Duration>) -> Option<Duration> {
    configured.into_iter().chain(told).min()
}

#[cfg(test)]
mod tests {
    use super::*;

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

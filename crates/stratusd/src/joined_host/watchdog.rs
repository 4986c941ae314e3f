//! The guard of this host's machines (`vmhost::guard`), started and told what was heard.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::Command;
use vmhost::guard::{Guard, Moment};

use crate::config::Config;

/// The folder of the guard below the state directory.
pub(crate) const FOLDER: &str = "guard";

/// See the module.
pub(super) struct Watchdog {
    guard: Guard,
    after: Duration,
    machines: PathBuf,
}

impl Watchdog {
    /// As configured; without one, one of before is dismissed.
    ///
    /// # Errors
    /// If that can't be told.
    pub(super) fn begin(config: &Config, machines: &Path) -> anyhow::Result<Option<Self>> {
        let folder = config.state_dir().join(FOLDER);
        let seconds = config.machines.fence_seconds;
        if seconds == 0 {
            Guard::dismiss(&folder).context("ending the guard of machines")?;
            return Ok(None);
        }
        let after = Duration::from_secs(seconds);
        Ok(Some(Self {
            guard: Guard::new(folder, after),
            after,
            machines: machines.to_owned(),
        }))
    }

    /// After how long.
    pub(super) const fn after(&self) -> Duration {
        self.after
    }

    /// Notes what was heard, and has the guard there.
    pub(super) fn heard(&self, asked: Moment) {
        if let Err(error) = self.guard.heard(asked) {
            tracing::error!(%error, "the guard of machines can't be told that this host is heard: it will end them");
        }
        if !self.guard.is_there()
            && let Err(error) = self.start()
        {
            tracing::error!(%error, "the guard of machines can't be started: they wouldn't be ended if this host were lost");
        }
    }

    /// It outlives this process, and is waited for by the runtime.
    fn start(&self) -> std::io::Result<()> {
        // Also after the program was replaced by another version.
        Command::new("/proc/self/exe")
            .arg("guard")
            .args([self.guard.folder(), &self.machines])
            .stdin(Stdio::null())
            .spawn()
            .map(|child| {
                tracing::info!(
                    pid = child.id(),
                    seconds = self.after.as_secs(),
                    "the guard of machines was started"
                );
            })
    }
}

//! The daemon of a cloud: stopped, killed, started again, and what it logged.

use std::{
    fs,
    path::Path,
    process::{ExitStatus, Output},
};

use super::TestCloud;
use crate::{
    StopPoint,
    daemon::{Daemon, tail},
};

impl TestCloud {
    /// Stops the daemon in order. Machines run on.
    ///
    /// # Panics
    /// If it doesn't run, or doesn't end.
    pub fn stop(&self) -> ExitStatus {
        self.take_daemon().stop()
    }

    /// Ends the daemon as a crash would. Machines run on.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn kill(&self) {
        self.take_daemon().kill();
    }

    /// Starts the daemon again, and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start_again(&self) {
        self.try_start_again()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// As [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// Why it did not start, with its log.
    pub fn try_start_again(&self) -> Result<(), String> {
        let mut daemon = self.daemon.lock().unwrap();
        assert!(daemon.is_none(), "the daemon runs already");
        *daemon = Some(Daemon::start(&self.spec, self.namespace.as_ref())?);
        Ok(())
    }

    /// Stops the daemon in order and starts it again.
    ///
    /// # Panics
    /// If either fails.
    pub fn restart(&self) {
        let status = self.stop();
        assert!(
            status.success(),
            "stratusd ended with {status}; the end of its log:\n{}",
            self.log_tail()
        );
        self.start_again();
    }

    /// Runs `stratusd` with other arguments than the daemon's, as the user that the daemon runs as.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn stratusd(&self, arguments: &[&str]) -> Output {
        self.run(self.spec.command().args(arguments))
    }

    /// Has the daemon stop at a point.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    pub fn stop_point(&self, name: &str) -> StopPoint {
        StopPoint::of(&self.spec.stop_points(), name)
    }

    /// The configuration file. What is written there counts from the next start on.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.spec.config
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// If it doesn't run.
    #[must_use]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon
            .lock()
            .unwrap()
            .as_ref()
            .expect("the daemon runs")
            .pid()
    }

    /// Whether the daemon runs, and did not end by itself.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn daemon_runs(&self) -> bool {
        self.daemon
            .lock()
            .unwrap()
            .as_mut()
            .is_some_and(Daemon::is_running)
    }

    fn take_daemon(&self) -> Daemon {
        self.daemon.lock().unwrap().take().expect("the daemon runs")
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.spec.log)
    }

    /// The whole log.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.spec.log).unwrap_or_default()).into_owned()
    }
}

//! A computer that joins a cloud: a daemon with a state directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;

use crate::{
    cloud::instance_tag,
    daemon::{Daemon, DaemonSpec},
};

/// Dropped, it leaves nothing behind but what its cloud knows of it.
#[derive(Debug)]
pub struct TestHost {
    daemon: Option<Daemon>,
    spec: DaemonSpec,
    folder: TempDir,
}

impl TestHost {
    /// One that nobody knows yet, and that doesn't run.
    ///
    /// # Panics
    /// If its folder can't be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-host-")
            .tempdir()
            .unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        let spec = DaemonSpec {
            config: folder.path().join("stratusd.toml"),
            log: folder.path().join("stratusd.log"),
            user: None,
            home,
            role: None,
        };
        let configuration = format!(
            "instance = \"{}\"\nhost_name = \"newcomer\"\nstate_dir = \"{}\"\n[network]\nmode = \"user\"\n",
            instance_tag(),
            folder.path().join("state").display(),
        );
        fs::write(&spec.config, configuration).unwrap();
        Self {
            daemon: None,
            spec,
            folder,
        }
    }

    /// Runs `stratusd join`.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn join(&self, token: &str, entry: &str) -> Output {
        let mut command = self.spec.command();
        command.arg("join").arg("--config").arg(&self.spec.config);
        command.args([token, entry]).output().unwrap()
    }

    /// Starts the daemon.
    ///
    /// # Panics
    /// If it runs already, or doesn't start.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let daemon = Daemon::start(&self.spec, None).unwrap_or_else(|error| panic!("{error}"));
        self.daemon = Some(daemon);
    }

    /// Ends the daemon as a crash would.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// Asks the daemon to stop; whether it did so in order.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn stop(&mut self) -> bool {
        self.daemon.take().unwrap().stop().success()
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::is_running)
    }

    /// What it keeps of having joined.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.folder.path().join("state/host")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log, for messages.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.spec.log).unwrap_or_default()
    }
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

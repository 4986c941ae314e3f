//! A Marketplace that is alone with the commands of its endorsers, as a site runs it that is no cloud.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
};

use tempfile::TempDir;

use crate::{
    Api,
    cloud::instance_tag,
    daemon::{Daemon, DaemonSpec, tail},
    free_port,
    programs::{program, search_path},
};

/// A running Marketplace. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct TestMarketplace {
    daemon: Mutex<Option<Daemon>>,
    spec: DaemonSpec,
    base: String,
    api: Api,
    folder: TempDir,
}

impl TestMarketplace {
    /// Starts one; `tables` are more tables of its configuration, after the lines of `marketplace` in `lines`. Its own address
    /// is known to it.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start(lines: &str, tables: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-market-")
            .tempdir()
            .unwrap();
        for name in ["state", "home", "bin"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let listen = format!("127.0.0.1:{}", free_port());
        let base = format!("https://{listen}");
        let spec = DaemonSpec {
            config: folder.path().join("stratusd.toml"),
            log: folder.path().join("stratusd.log"),
            user: None,
            home: folder.path().join("home"),
            role: Some("marketplace"),
        };
        let configuration = format!(
            "instance = \"{}\"\nhost_name = \"localhost\"\nstate_dir = \"{}\"\nlisten = \"{listen}\"\n\
             [accounts]\npassword_memory_kib = 8\npassword_passes = 1\n\
             [marketplace]\nurl = \"{base}/marketplace\"\n{lines}\n{tables}\n",
            instance_tag(),
            folder.path().join("state").display(),
        );
        fs::write(&spec.config, configuration).unwrap();
        let daemon = Daemon::start(&spec, None).unwrap_or_else(|error| panic!("{error}"));
        let api = Api::open(&base, &folder.path().join("state/tls/ca.pem"), None);
        Self {
            daemon: Mutex::new(Some(daemon)),
            spec,
            base,
            api,
            folder,
        }
    }

    /// Where it is: `https://127.0.0.1:…`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Its pages and documents, to anybody.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// A folder that goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate to trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("state/tls/ca.pem")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.spec.config
    }

    /// Its database file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("state/db")
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap()
    }

    /// Ends the daemon as a crash would.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn kill(&self) {
        self.daemon().take().unwrap().kill();
    }

    /// Stops the daemon in order.
    ///
    /// # Panics
    /// If it doesn't run, or ends with a failure.
    pub fn stop(&self) {
        let status = self.daemon().take().unwrap().stop();
        assert!(
            status.success(),
            "{status}; the end of its log:\n{}",
            self.log_tail()
        );
    }

    /// Starts the daemon again, and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start_again(&self) {
        let daemon = Daemon::start(&self.spec, None).unwrap_or_else(|error| panic!("{error}"));
        *self.daemon() = Some(daemon);
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.spec.log)
    }

    /// Runs `stratusd` with other arguments than the daemon's; what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn stratusd(&self, arguments: &[&str]) {
        let output = self.spec.command().args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "stratusd {arguments:?}: {output:?}"
        );
    }

    /// Runs a command by StratusLab's name, such as `stratus-upload-metadata`, in a folder, as an endorser whose Marketplace
    /// this is.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn command(&self, name: &str, folder: &Path, arguments: &[&str]) -> Output {
        let link = self.folder.path().join("bin").join(name);
        if !link.exists() {
            // Tests run commands side by side.
            let _ = std::os::unix::fs::symlink(program("stratus"), &link);
        }
        Command::new(link)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", &self.spec.home)
            .env("STRATUSLAB_MARKETPLACE_ENDPOINT", &self.base)
            .env("STRATUS_CA", self.ca())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// As [`command`](Self::command); what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, name: &str, folder: &Path, arguments: &[&str]) -> String {
        let output = self.command(name, folder, arguments);
        assert!(
            output.status.success(),
            "{name} {arguments:?}: {output:?}\nthe daemon's log ends:\n{}",
            self.log_tail()
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

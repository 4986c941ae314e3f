//! An entry alone: the API and the rules of a cloud whose documents are in a database that it shares with others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    Api,
    cloud::instance_tag,
    daemon::{Daemon, DaemonSpec},
    free_port,
};

/// A running daemon of the role `entry`. Dropped, it leaves nothing behind but what is in the database.
#[derive(Debug)]
pub struct TestEntry {
    daemon: Option<Daemon>,
    spec: DaemonSpec,
    base: String,
    folder: TempDir,
}

impl TestEntry {
    /// Starts one; `tables` are more tables of its configuration: those of its database, above all.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start(tables: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-entry-")
            .tempdir()
            .unwrap();
        for name in ["state", "home"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let listen = format!("127.0.0.1:{}", free_port());
        let base = format!("https://{listen}");
        let spec = DaemonSpec {
            config: folder.path().join("stratusd.toml"),
            log: folder.path().join("stratusd.log"),
            user: None,
            home: folder.path().join("home"),
            role: Some("entry"),
        };
        let configuration = format!(
            "instance = \"{}\"\nhost_name = \"localhost\"\nstate_dir = \"{}\"\nlisten = \"{listen}\"\n\
             [accounts]\npassword_memory_kib = 8\npassword_passes = 1\n[network]\nmode = \"user\"\n{tables}\n",
            instance_tag(),
            folder.path().join("state").display(),
        );
        fs::write(&spec.config, configuration).unwrap();
        let daemon = Daemon::start(&spec, None).unwrap_or_else(|error| panic!("{error}"));
        Self {
            daemon: Some(daemon),
            spec,
            base,
            folder,
        }
    }

    /// Its API as somebody.
    #[must_use]
    pub fn api(&self, user: &str, password: &str) -> Api {
        let ca = self.state_dir().join("tls/ca.pem");
        Api::open(&self.base, &ca, None).as_user(user, password)
    }

    /// The password of the first administrator, if this daemon made that user.
    ///
    /// # Panics
    /// If another one did.
    #[must_use]
    pub fn admin_password(&self) -> String {
        let file = self.state_dir().join("secrets/admin-password");
        let text = fs::read_to_string(&file);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().to_owned()
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Its log, for messages.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.spec.log).unwrap_or_default()
    }

    /// A folder that goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the daemon as a crash would, and starts it again.
    ///
    /// # Panics
    /// If it doesn't run, or doesn't start.
    pub fn crash_and_restart(&mut self) {
        self.daemon.take().unwrap().kill();
        let daemon = Daemon::start(&self.spec, None).unwrap_or_else(|error| panic!("{error}"));
        self.daemon = Some(daemon);
    }
}

impl Drop for TestEntry {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

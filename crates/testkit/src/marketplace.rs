//! A Marketplace that is no cloud: the real program, in that role alone.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tempfile::TempDir;

use crate::{
    cloud::{UNPRIVILEGED, free_port, instance_tag},
    daemon::{Daemon, DaemonSpec},
};

/// A running Marketplace on the loopback interface. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct TestMarketplace {
    daemon: Mutex<Option<Daemon>>,
    spec: DaemonSpec,
    base: String,
    folder: TempDir,
}

impl TestMarketplace {
    /// A Marketplace with more lines of its table `[marketplace]`, and more tables.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start(keys: &str, tables: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-market-")
            .tempdir()
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (state, home) = (folder.path().join("state"), folder.path().join("home"));
        let user = rustix::process::geteuid().is_root().then_some(UNPRIVILEGED);
        for owned in [&state, &home] {
            fs::create_dir_all(owned).unwrap();
            if let Some(user) = user {
                std::os::unix::fs::chown(owned, Some(user), Some(user)).unwrap();
            }
        }
        let listen = format!("127.0.0.1:{}", free_port());
        let base = format!("https://{listen}");
        let config = folder.path().join("stratusd.toml");
        let text = format!(
            "instance = \"{}\"\nhost_name = \"market\"\nstate_dir = \"{}\"\nlisten = \"{listen}\"\n\
             [marketplace]\nurl = \"{base}/marketplace\"\n{keys}\n{tables}\n",
            instance_tag(),
            state.display(),
        );
        fs::write(&config, text).unwrap();
        let spec = DaemonSpec {
            config,
            log: folder.path().join("stratusd.log"),
            user,
            home,
            role: Some("marketplace"),
        };
        let daemon = Daemon::start(&spec, None).unwrap_or_else(|error| panic!("{error}"));
        Self {
            daemon: Mutex::new(Some(daemon)),
            spec,
            base,
            folder,
        }
    }

    /// Where it is: `https://…`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// The authority of its certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("state/tls/ca.pem")
    }

    /// A folder of this Marketplace that its daemon can read.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// If it doesn't run, or ends with an error.
    pub fn stop(&self) {
        let daemon = self.daemon.lock().unwrap().take();
        let status = daemon.expect("the Marketplace runs").stop();
        assert!(status.success(), "stratusd ended with {status}");
    }

    /// Starts it again.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start_again(&self) {
        let daemon = Daemon::start(&self.spec, None).unwrap_or_else(|error| panic!("{error}"));
        *self.daemon.lock().unwrap() = Some(daemon);
    }
}

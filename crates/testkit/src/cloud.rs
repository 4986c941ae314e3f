//! The cloud under test.

mod clearing;
mod configuration;
mod resources;
mod running;
mod using;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tempfile::TempDir;

use self::configuration::configuration;
use crate::{
    Api, Namespace,
    daemon::{Daemon, DaemonSpec},
    free_port,
};

pub use configuration::Options;
pub(crate) use configuration::instance_tag;
pub(crate) use using::make_key;

/// An unprivileged user that owns nothing on most systems.
pub(crate) const UNPRIVILEGED: u32 = 61_234;

/// A running cloud. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct TestCloud {
    daemon: Mutex<Option<Daemon>>,
    spec: DaemonSpec,
    base: String,
    instance: String,
    state: PathBuf,
    admin: Api,
    /// Machines that were ever seen here, by UUID: what is named for them must go.
    seen: Mutex<BTreeSet<String>>,
    image: Mutex<Option<String>>,
    // In this order: the namespace's processes end before the folder they write to goes.
    namespace: Option<Namespace>,
    folder: TempDir,
}

impl TestCloud {
    /// A cloud with bridges, in a network namespace of its own.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// The same, configured otherwise.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start_with(options: &Options) -> Self {
        Self::begin(options, Some(Namespace::new()))
    }

    /// The same, in a namespace that was prepared for it.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start_in(namespace: Namespace, options: &Options) -> Self {
        Self::begin(options, Some(namespace))
    }

    /// A cloud of a user without privileges: no bridges, each machine's SSH port is forwarded on the loopback interface.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start_user_mode() -> Self {
        Self::start_user_mode_with(&Options::default())
    }

    /// The same, configured otherwise.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start_user_mode_with(options: &Options) -> Self {
        Self::begin(options, None)
    }

    fn begin(options: &Options, namespace: Option<Namespace>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-test-")
            .tempdir()
            .unwrap();
        // dnsmasq and QEMU run as users of their own and must pass.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let state = options
            .state_dir
            .clone()
            .unwrap_or_else(|| folder.path().join("state"));
        let home = folder.path().join("home");
        fs::create_dir_all(&state).unwrap();
        fs::create_dir_all(&home).unwrap();
        let user = namespace
            .is_none()
            .then_some(UNPRIVILEGED)
            .filter(|_| rustix::process::geteuid().is_root());
        if let Some(user) = user {
            for owned in [&state, &home] {
                std::os::unix::fs::chown(owned, Some(user), Some(user)).unwrap();
            }
        }
        let listen = if let Some(listen) = &options.listen {
            listen.clone()
        } else if namespace.is_some() {
            "127.0.0.1:8443".to_owned()
        } else {
            format!("127.0.0.1:{}", free_port())
        };
        let config = folder.path().join("stratusd.toml");
        let instance = instance_tag();
        fs::write(
            &config,
            configuration(options, &instance, &state, &listen, namespace.is_some()),
        )
        .unwrap();
        make_key(folder.path());
        let spec = DaemonSpec {
            config,
            log: folder.path().join("stratusd.log"),
            user,
            home,
            role: None,
        };
        let daemon =
            Daemon::start(&spec, namespace.as_ref()).unwrap_or_else(|error| panic!("{error}"));
        let base = format!("https://{listen}");
        let password = fs::read_to_string(state.join("secrets/admin-password")).unwrap();
        let admin = Api::open(&base, &state.join("tls/ca.pem"), namespace.as_ref())
            .as_user("admin", password.trim());
        Self {
            daemon: Mutex::new(Some(daemon)),
            spec,
            base,
            instance,
            state,
            admin,
            seen: Mutex::default(),
            image: Mutex::default(),
            namespace,
            folder,
        }
    }

    /// Where the cloud keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// A folder of this test, removed with the cloud.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The namespace that the cloud is in; none for a cloud without privileges.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }
}

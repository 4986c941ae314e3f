//! A computer that joins a cloud: a daemon with a state directory of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Namespace, Options, StopPoint, TestCloud,
    cloud::instance_tag,
    daemon::{Daemon, DaemonSpec},
    leaks,
    namespace::kill,
    wait_until,
};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Dropped, it leaves nothing behind but what its cloud knows of it.
#[derive(Debug)]
pub struct TestHost {
    daemon: Option<Daemon>,
    spec: DaemonSpec,
    instance: String,
    // In this order: the namespace's processes end before the folder they write to goes.
    namespace: Option<Namespace>,
    folder: TempDir,
}

impl TestHost {
    /// One that nobody knows yet, and that doesn't run. It has no bridges.
    ///
    /// # Panics
    /// If its folder can't be made.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// The same, with a network namespace and bridges of its own.
    ///
    /// # Panics
    /// If these can't be made.
    #[must_use]
    pub fn with_bridges() -> Self {
        Self::with(Some(Namespace::new()))
    }

    /// One with bridges that has joined a cloud as `node7`, by a cable of its own, and runs; and that cloud, in whose network
    /// namespace the cable can be [cut](Namespace::cut). New machines come to the host alone.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    #[track_caller]
    pub fn of_a_cloud() -> (Self, TestCloud) {
        Self::of_a_cloud_with("")
    }

    /// The same of a cloud with more lines in the table `storage`. Its end of the cable is 192.168.77.1.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    #[track_caller]
    pub fn of_a_cloud_with(storage: &str) -> (Self, TestCloud) {
        const CLOUD: &str = "192.168.77.1";
        let mut host = Self::with_bridges();
        let (namespace, other) = (Namespace::new(), host.namespace().unwrap());
        namespace.connect(&format!("{CLOUD}/24"), other, "192.168.77.2/24");
        let options = Options {
            listen: Some(format!("{CLOUD}:8443")),
            tunnel_address: Some(CLOUD.to_owned()),
            storage: storage.to_owned(),
            ..Options::default()
        };
        let cloud = TestCloud::start_in(namespace, &options);
        let token = cloud.cli(&["host", "token", "--name", "node7"]);
        let joined = host.join(token.trim(), &cloud.url());
        assert!(joined.status.success(), "{joined:?}");
        host.start();
        host.wait_for_state(&cloud, "OK");
        // Where the cloud's own host would do, it is told to take none.
        cloud.cli(&["host", "maintenance", "testhost"]);
        (host, cloud)
    }

    /// Waits until a cloud shows `node7` so.
    ///
    /// # Panics
    /// If that takes longer than anything does on a busy machine.
    #[track_caller]
    pub fn wait_for_state(&self, cloud: &TestCloud, state: &str) {
        wait_until(&format!("{state}: {}", self.log()), LIMIT, || {
            let hosts = cloud.cli_json(&["host", "list"]);
            let mut hosts = hosts.as_array().unwrap().iter();
            let found = hosts.find(|shown| shown["name"] == "node7")?;
            (found["state"] == state).then_some(())
        });
    }

    fn with(namespace: Option<Namespace>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-host-")
            .tempdir()
            .unwrap();
        // dnsmasq and QEMU run as users of their own and must pass.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        let spec = DaemonSpec {
            config: folder.path().join("stratusd.toml"),
            log: folder.path().join("stratusd.log"),
            user: None,
            home,
            role: None,
        };
        let instance = instance_tag();
        let mode = match namespace {
            Some(_) => "bridge",
            None => "user",
        };
        let state = folder.path().join("state");
        let configuration = format!(
            r#"instance = "{instance}"
host_name = "newcomer"
state_dir = "{}"
[machines]
translation_cache_mib = 64
[storage]
reserve_mib = 64
[network]
mode = "{mode}"
dns_upstream = []
"#,
            state.display(),
        );
        fs::write(&spec.config, configuration).unwrap();
        Self {
            daemon: None,
            spec,
            instance,
            namespace,
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
        command.args([token, entry]);
        match &self.namespace {
            Some(namespace) => namespace.output(&mut command),
            None => command.output().unwrap(),
        }
    }

    /// Adds a line to a table of its configuration, which counts from the next start on.
    ///
    /// # Panics
    /// If there is no such table.
    pub fn configure(&self, table: &str, line: &str) {
        let head = format!("[{table}]\n");
        let text = fs::read_to_string(&self.spec.config).unwrap();
        assert!(text.contains(&head), "{text}");
        fs::write(
            &self.spec.config,
            text.replace(&head, &format!("{head}{line}\n")),
        )
        .unwrap();
    }

    /// Its network namespace, if it has one.
    #[must_use]
    pub const fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The folders of the machines that are here.
    ///
    /// # Panics
    /// If a name is no text.
    #[must_use]
    pub fn machines(&self) -> Vec<String> {
        let folders = fs::read_dir(self.folder.path().join("state/machines"));
        let names = folders.into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.collect()
    }

    /// Has the daemon stop at a point.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    pub fn stop_point(&self, name: &str) -> StopPoint {
        StopPoint::of(&self.spec.stop_points(), name)
    }

    /// Starts the daemon.
    ///
    /// # Panics
    /// If it runs already, or doesn't start.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let daemon = Daemon::start(&self.spec, self.namespace.as_ref())
            .unwrap_or_else(|error| panic!("{error}"));
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

    /// The certificate that it has, PEM.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.joined()["certificate"].as_str().unwrap().to_owned()
    }

    /// Has it renew its certificate so long from now, if it is started before that.
    ///
    /// # Panics
    /// If it has none.
    pub fn renew_in(&self, time: Duration) {
        let mut joined = self.joined();
        // It does so when a third of its life is left.
        let expires = cimi::Timestamp::now().after(trust::CERTIFICATE_LIFE / 3 + time);
        joined["expires"] = expires.to_string().into();
        fs::write(self.joined_file(), joined.to_string()).unwrap();
    }

    fn joined(&self) -> Value {
        serde_json::from_slice(&fs::read(self.joined_file()).unwrap()).unwrap()
    }

    fn joined_file(&self) -> PathBuf {
        self.kept().join("joined.json")
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
        if std::thread::panicking() {
            eprintln!("--- the log of the host:\n{}", self.log());
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        if let Some(namespace) = &self.namespace {
            namespace.processes().into_iter().for_each(kill);
        }
        // The guard of its machines is in the namespace, too, and was killed with it.
        leaks::remove_control_groups(&format!("stratus-{}", self.instance));
    }
}

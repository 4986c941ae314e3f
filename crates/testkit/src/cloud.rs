//! The cloud under test.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Api, Appliance, Machine, Namespace,
    daemon::{Daemon, DaemonSpec, tail},
    leaks,
    namespace::kill,
    programs::{program, search_path},
    waiting::wait_until,
};

/// How long the cloud may take to clear away what it was told to remove.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);
/// How long a job may take.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// An unprivileged user that owns nothing on most systems.
const UNPRIVILEGED: u32 = 61_234;

/// What a test's cloud has that others have not.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More lines of the configuration, before the first table.
    pub top: String,
    /// More tables of the configuration. Tables and keys that the testkit writes itself: `network`, `accounts`,
    /// `machines`, `storage`.
    pub tables: String,
    /// Where the cloud keeps its state, if not in a folder of its own.
    pub state_dir: Option<PathBuf>,
    /// More lines of the table `storage`.
    pub storage: String,
    /// Seconds that guests have to obey the power button.
    pub power_button_seconds: Option<u64>,
    /// MiB of disk that new machines leave free.
    pub reserve_mib: Option<u64>,
}

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
        let listen = if namespace.is_some() {
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

    // --- the daemon -----------------------------------------------------------------------------------------------

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

    // --- as users do ----------------------------------------------------------------------------------------------

    /// The API as the administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        self.admin.clone()
    }

    /// Creates a user, and gives the API as this user. The password is the name and `-password`.
    ///
    /// # Panics
    /// If that is refused.
    pub fn user(&self, name: &str) -> Api {
        let password = format!("{name}-password");
        self.admin
            .post("User", &json!({"username": name, "password": password}))
            .ok();
        self.admin.as_user(name, &password)
    }

    /// Runs `stratus` as the administrator; the output whatever the exit status.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn try_cli(&self, arguments: &[&str]) -> Output {
        let password = fs::read_to_string(self.state.join("secrets/admin-password")).unwrap();
        self.try_cli_as("admin", password.trim(), arguments)
    }

    /// Runs `stratus` as a user; the output whatever the exit status.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn try_cli_as(&self, user: &str, password: &str, arguments: &[&str]) -> Output {
        let mut command = self.client();
        command
            .args(arguments)
            .env("STRATUSLAB_USERNAME", user)
            .env("STRATUSLAB_PASSWORD", password);
        self.run(&mut command)
    }

    /// Runs `stratus` as the administrator; what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.try_cli(arguments);
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "stratus {arguments:?}: {}\n{out}\n{error}\nthe daemon's log ends:\n{}",
            output.status,
            self.log_tail()
        );
        out.into_owned()
    }

    /// As [`cli`](Self::cli) with `--format json`, parsed.
    ///
    /// # Panics
    /// If it fails, or prints no JSON.
    #[track_caller]
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let out = self.cli(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&out)
            .unwrap_or_else(|error| panic!("stratus {arguments:?}: {error}: {out}"))
    }

    fn client(&self) -> Command {
        let mut command = Command::new(program("stratus"));
        command
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", &self.spec.home)
            .env("STRATUSLAB_ENDPOINT", &self.base);
        command
            .env("STRATUS_CA", self.state.join("tls/ca.pem"))
            .env("STRATUSLAB_KEY", self.public_key_file());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program where the cloud is.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn run(&self, command: &mut Command) -> Output {
        match &self.namespace {
            Some(namespace) => namespace.output(command),
            None => command.output().unwrap(),
        }
    }

    /// Runs a command line of the shell where the cloud is; what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let output = self.run(
            Command::new("sh")
                .args(["-c", line])
                .env("PATH", search_path()),
        );
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{line}: {}\n{out}\n{error}",
            output.status
        );
        out.trim_end().to_owned()
    }

    /// The file with the public key that machines get.
    #[must_use]
    pub fn public_key_file(&self) -> PathBuf {
        self.folder.path().join("key.pub")
    }

    /// The public key that machines get.
    ///
    /// # Panics
    /// If it can't be read.
    #[must_use]
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.public_key_file())
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(crate) fn ssh_to(&self, host: &str, port: u64, name: &str, line: &str) -> Output {
        let mut command = Command::new("ssh");
        let option = |name: &str, value: &dyn std::fmt::Display| format!("-o{name}={value}");
        command
            .arg("-F")
            .arg("none")
            .arg("-i")
            .arg(self.folder.path().join("key"))
            .args(["-p", &port.to_string()]);
        command.args([
            option("BatchMode", &"yes"),
            option("ConnectTimeout", &5),
            option("ServerAliveInterval", &5),
            option("ServerAliveCountMax", &6),
            option("StrictHostKeyChecking", &"accept-new"),
            option(
                "UserKnownHostsFile",
                &self.folder.path().join("known_hosts").display(),
            ),
            option("HostKeyAlias", &name),
            option("LogLevel", &"ERROR"),
        ]);
        command
            .arg(format!("root@{host}"))
            .arg(line)
            .stdin(Stdio::null());
        self.run(&mut command)
    }

    // --- resources ------------------------------------------------------------------------------------------------

    /// The tiny appliance in this cloud, public: `MachineImage/<id>`. Imported by the first call.
    ///
    /// # Panics
    /// If the import fails.
    pub fn image(&self) -> String {
        let mut image = self.image.lock().unwrap();
        if let Some(id) = &*image {
            return id.clone();
        }
        let tiny = Appliance::tiny();
        let paths = [&tiny.disk, &tiny.kernel, &tiny.initrd].map(|path| path.display().to_string());
        let [disk, kernel, initrd] = &paths;
        let answer = self.cli_json(&[
            "image",
            "import",
            disk,
            "--public",
            "--kernel",
            kernel,
            "--initrd",
            initrd,
            "--kernel-args",
            &tiny.arguments,
        ]);
        let identifier = answer["identifier"].as_str();
        let id = identifier.map(|identifier| format!("MachineImage/{identifier}"));
        let id = id.unwrap_or_else(|| panic!("no identifier: {answer}"));
        *image = Some(id.clone());
        id
    }

    /// Imports a file as an image to start machines from: `MachineImage/<id>`.
    ///
    /// # Panics
    /// If the import fails.
    pub fn import(&self, path: &Path) -> String {
        let answer = self.cli_json(&["image", "import", "--public", &path.display().to_string()]);
        format!(
            "MachineImage/{}",
            answer["identifier"]
                .as_str()
                .unwrap_or_else(|| panic!("no identifier: {answer}"))
        )
    }

    /// What to send for a small machine.
    #[must_use]
    pub fn machine_document(&self, image: &str) -> Value {
        json!({
            "resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate",
            "machineTemplate": {
                "machineConfig": {"cpu": 1, "memory": 128 * 1024},
                "machineImage": {"href": image},
                "credential": {"publicKey": self.public_key()},
            },
        })
    }

    /// Starts a small machine from the tiny appliance.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn machine(&self) -> Machine<'_> {
        let image = self.image();
        self.machine_of(&self.api(), &self.machine_document(&image))
    }

    /// Starts a machine as a user.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn machine_of(&self, api: &Api, document: &Value) -> Machine<'_> {
        let body = api.post("Machine", document).expect(201);
        self.known_machine(api, &body)
    }

    /// A machine by its document.
    #[must_use]
    #[track_caller]
    pub fn known_machine(&self, api: &Api, document: &Value) -> Machine<'_> {
        let machine = Machine::new(self, api.clone(), document);
        self.remember(machine.uuid());
        machine
    }

    /// A machine by its number.
    #[must_use]
    #[track_caller]
    pub fn machine_by_number(&self, vmid: u64) -> Machine<'_> {
        let document = self.admin.get(&format!("Machine/{vmid}")).expect(200);
        self.known_machine(&self.api(), &document)
    }

    /// Remembers a machine, so that what is named for it is looked for at the end.
    ///
    /// # Panics
    /// Never.
    pub fn remember(&self, uuid: &str) {
        self.seen.lock().unwrap().insert(uuid.to_owned());
    }

    /// Makes a volume and waits until it can be used: `Volume/<uuid>`.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn volume(&self, api: &Api, gib: u64) -> String {
        let kilobytes = (gib << 30).div_ceil(1000);
        let document = json!({"name": "data", "volumeTemplate": {"volumeConfig": {"type": "http://schemas.dmtf.org/cimi/1/mapped", "capacity": kilobytes}}});
        let reply = api.post("Volume", &document);
        let job = reply.job.clone();
        let body = reply.expect(201);
        if let Some(job) = job {
            self.wait_for_job(&job);
        }
        body["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {body}"))
            .to_owned()
    }

    /// Waits until a job has ended.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn wait_for_job(&self, job: &str) {
        let (state, document) = self.job_end(job);
        assert_eq!(state, "SUCCESS", "{job}: {document}");
    }

    /// Waits until a job has ended; its state and document.
    ///
    /// # Panics
    /// If it doesn't end.
    #[track_caller]
    pub fn job_end(&self, job: &str) -> (String, Value) {
        wait_until(job, JOB_LIMIT, || {
            let document = self.admin.get(job).expect(200);
            let state = document["state"].as_str().unwrap_or_default().to_owned();
            (!["QUEUED", "RUNNING"].contains(&state.as_str())).then_some((state, document))
        })
    }

    // --- what is there --------------------------------------------------------------------------------------------

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

    /// Waits until nothing is left of any machine: by what the cloud's own checker finds, and by what is seen without it.
    /// All machines must have been removed before.
    ///
    /// # Panics
    /// If something is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        let machines = self.admin.list("Machine");
        assert!(
            machines.is_empty(),
            "machines are still there: {machines:?}"
        );
        let begun = std::time::Instant::now();
        loop {
            let found = self.left_over();
            if found.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < CLEAR_LIMIT,
                "left over after {} s:\n{}\nthe daemon's log ends:\n{}",
                CLEAR_LIMIT.as_secs(),
                found.join("\n"),
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn left_over(&self) -> Vec<String> {
        let seen: Vec<String> = self.seen.lock().unwrap().iter().cloned().collect();
        let mut found = leaks::left_over(&self.state, self.namespace.as_ref(), &seen);
        let output = self.try_cli(&["doctor", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match report["findings"].as_array() {
            Some(findings) => {
                found.extend(findings.iter().map(|finding| format!("doctor: {finding}")));
            }
            None => found.push(format!(
                "doctor says {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
        }
        found
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ends:\n{}", self.log_tail());
        }
        // First the daemon, or it would mend what is taken down.
        if let Ok(mut daemon) = self.daemon.lock() {
            daemon.take();
        }
        if let Some(namespace) = &self.namespace {
            namespace.processes().into_iter().for_each(kill);
        }
        leaks::processes_with(&self.folder.path().display().to_string())
            .into_iter()
            .for_each(kill);
        let seen: Vec<String> = self
            .seen
            .lock()
            .map(|seen| seen.iter().cloned().collect())
            .unwrap_or_default();
        let folders = fs::read_dir(self.state.join("machines"))
            .into_iter()
            .flatten()
            .flatten();
        let seen: Vec<String> = seen
            .into_iter()
            .chain(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect();
        seen.iter()
            .flat_map(|uuid| leaks::processes_with(uuid))
            .for_each(kill);
        leaks::remove_control_groups(&format!("stratus-{}", self.instance));
    }
}

/// Three letters and digits, this cloud's own: names of control groups, which no namespace keeps apart, are made with them.
pub(crate) fn instance_tag() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() * 7 + COUNT.fetch_add(1, Ordering::Relaxed)) % 46_656;
    let letter = |value: u32| char::from_digit(value % 36, 36).unwrap();
    [letter(number / 1296), letter(number / 36), letter(number)]
        .iter()
        .collect()
}

fn configuration(
    options: &Options,
    instance: &str,
    state: &Path,
    listen: &str,
    bridged: bool,
) -> String {
    let power_button = options.power_button_seconds.unwrap_or(60);
    let reserve = options.reserve_mib.unwrap_or(64);
    let network = if bridged {
        r#"[network]
mode = "bridge"
dns_upstream = []
[networks.public]
class = "public"
tag = "0"
subnet = "10.77.0.0/24"
domain = "stratus.internal"
nat = true
"#
        .to_owned()
    } else {
        let first = 28_000 + (std::process::id() % 300) * 100;
        format!(
            "[network]\nmode = \"user\"\nforward_ports = [{first}, {}]\n",
            first + 99
        )
    };
    format!(
        r#"instance = "{instance}"
host_name = "testhost"
state_dir = "{}"
listen = "{listen}"
{}
[accounts]
password_cost = 4
[machines]
power_button_seconds = {power_button}
translation_cache_mib = 64
[storage]
reserve_mib = {reserve}
{}
{network}{}
"#,
        state.display(),
        options.top,
        options.storage,
        options.tables
    )
}

fn make_key(folder: &Path) {
    let key = folder.join("key");
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ssh-keygen: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

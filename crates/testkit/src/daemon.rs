//! The daemon as a child process, from its start to its end.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    Namespace,
    programs::{program, search_path},
    waiting::wait_until,
};

/// How long a start may take. Mostly the probe of the accelerator, and other work on this machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How the daemon is started, each time.
#[derive(Debug)]
pub(crate) struct DaemonSpec {
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    /// The unprivileged user it runs as.
    pub(crate) user: Option<u32>,
    pub(crate) home: PathBuf,
    /// The only role it plays; none: all of them.
    pub(crate) role: Option<&'static str>,
}

impl DaemonSpec {
    /// Where tests wait at points of its way.
    pub(crate) fn stop_points(&self) -> PathBuf {
        self.home.join("points")
    }

    /// The program, as the user it runs as.
    pub(crate) fn command(&self) -> Command {
        let mut command = match self.user {
            None => Command::new(program("stratusd")),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".into(),
                    "--".into(),
                ]);
                command.arg(program("stratusd"));
                command
            }
        };
        command
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", &self.home)
            .env("STRATUS_STOP_POINTS", self.stop_points());
        for name in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}

/// A daemon that said it is ready.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// Why not, with the end of its log.
    pub(crate) fn start(spec: &DaemonSpec, namespace: Option<&Namespace>) -> Result<Self, String> {
        let (ready, writer) = std::io::pipe().map_err(|error| format!("a pipe: {error}"))?;
        if let Some(user) = spec.user {
            // The daemon opens it by name, so it must be its own.
            let owner = rustix::fs::Uid::from_raw(user);
            rustix::fs::fchown(&writer, Some(owner), None)
                .map_err(|error| format!("a pipe: {error}"))?;
        }
        let log = File::options()
            .append(true)
            .create(true)
            .open(&spec.log)
            .map_err(|error| format!("{}: {error}", spec.log.display()))?;
        let mut command = spec.command();
        command
            .arg("serve")
            .arg("--config")
            .arg(&spec.config)
            .args(["--ready-fd", "1"]);
        if let Some(role) = spec.role {
            command.args(["--roles", role]);
        }
        command.stdin(Stdio::null()).stdout(writer).stderr(log);
        let child = match namespace {
            Some(namespace) => namespace.enter(|| command.spawn()),
            None => command.spawn(),
        };
        let child = child.map_err(|error| format!("stratusd can't be started: {error}"))?;
        // The command keeps our end of the pipe; without it the end of the daemon is the end of the pipe.
        drop(command);
        let mut daemon = Self { child };
        let (told, tell) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(ready).read_line(&mut line);
            let _ = told.send(line);
        });
        match tell.recv_timeout(START_LIMIT) {
            Ok(line) if !line.is_empty() => Ok(daemon),
            Ok(_) => {
                let status = daemon.wait(STOP_LIMIT);
                Err(format!(
                    "stratusd ended before it was ready: {status}; the end of its log:\n{}",
                    tail(&spec.log)
                ))
            }
            Err(_) => Err(format!(
                "stratusd is not ready after {} s; the end of its log:\n{}",
                START_LIMIT.as_secs(),
                tail(&spec.log)
            )),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits for its end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(STOP_LIMIT)
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.wait(STOP_LIMIT);
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        let _ = rustix::process::kill_process(pid, signal);
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        if let Ok(Some(status)) = self.child.try_wait() {
            return status;
        }
        wait_until("the end of stratusd", limit, || {
            self.child.try_wait().ok().flatten().or_else(|| {
                // What hangs is ended, so that the test can say so and go.
                (begun.elapsed() + Duration::from_secs(1) > limit).then(|| {
                    self.signal(Signal::KILL);
                    ExitStatus::from_raw(9)
                })
            })
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

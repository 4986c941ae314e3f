//! The machine that becomes an image, by SSH: every command and all it says goes into the log.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::quoted;
use crate::cloud::Ssh;
use crate::failure::{Failure, Result};
use crate::output::{Output, printable};

/// How long a try to log in may take, and the pause before the next.
const TRY_SECONDS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(2);
/// A guest that says nothing any more for so long is given up.
const ALIVE: [&str; 2] = ["ServerAliveInterval=15", "ServerAliveCountMax=8"];
/// Most lines that are shown of what failed; the log has all.
const SHOWN_LINES: usize = 15;

/// The whole story, for a look at what failed.
#[derive(Debug, Clone)]
pub(super) struct Log {
    file: Arc<Mutex<File>>,
    path: PathBuf,
}

impl Log {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Failure::file(path, &error))?;
        Ok(Self { file: Arc::new(Mutex::new(file)), path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line. That the log can't be written is no reason to end the work.
    pub(super) fn line(&self, text: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{text}");
    }

    /// Writes a line with the time.
    pub(super) fn step(&self, text: &str) {
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).map_or_else(|_| String::new(), |now| now.to_string());
        self.line(&format!("=== {now} {text}"));
    }
}

/// How to reach a machine, and where to write what is done there.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) place: Ssh,
    pub(super) key: PathBuf,
    /// Under which its host key is known.
    pub(super) alias: String,
    pub(super) known_hosts: PathBuf,
    pub(super) log: Log,
    pub(super) out: Output,
}

impl Guest {
    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-p").arg(self.place.port.to_string()).args(["-o", &format!("ConnectTimeout={TRY_SECONDS}")]);
        for option in ["StrictHostKeyChecking=no", "BatchMode=yes", "CheckHostIP=no", "LogLevel=ERROR", ALIVE[0], ALIVE[1]] {
            command.args(["-o", option]);
        }
        command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", self.known_hosts.display()));
        command.arg("-o").arg(format!("HostKeyAlias={}", self.alias));
        command.arg("-i").arg(&self.key).arg(format!("root@{}", self.place.host.trim_matches(['[', ']'])));
        command.kill_on_drop(true);
        command
    }

    /// How a person logs in there.
    pub(super) fn login(&self) -> String {
        format!("ssh -i {} -p {} root@{}", self.key.display(), self.place.port, self.place.host.trim_matches(['[', ']']))
    }

    /// Tries to log in until that works.
    pub(super) async fn until_reachable(&self, limit: Duration, tick: impl Fn()) -> Result {
        let deadline = Instant::now() + limit;
        loop {
            let mut command = self.command();
            command.arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let tried = tokio::time::timeout(Duration::from_secs(u64::from(TRY_SECONDS) + 5), command.output()).await;
            let why = match tried {
                Ok(Ok(output)) if output.status.success() => return Ok(()),
                Ok(Ok(output)) => printable(String::from_utf8_lossy(&output.stderr).trim()),
                Ok(Err(error)) => return Err(Failure::Work(format!("ssh cannot be run: {error}; is an SSH client installed?"))),
                Err(_) => "it says nothing".to_owned(),
            };
            self.log.line(&format!("no login yet: {why}"));
            if Instant::now() >= deadline {
                return Err(Failure::Work(format!("Failed to connect to the machine within {} seconds: {why}", limit.as_secs())));
            }
            tick();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Runs a script in the machine's shell; gives what it printed.
    pub(super) async fn script(&self, what: &str, script: &str, arguments: &[String]) -> Result<String> {
        self.run(what, &shell_with(arguments), script.as_bytes()).await
    }

    /// Runs a command line in the machine; gives what it printed.
    pub(super) async fn run(&self, what: &str, line: &str, input: &[u8]) -> Result<String> {
        self.log.step(&format!("{what}: {line}"));
        let mut command = self.command();
        command.arg(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::Work(format!("ssh cannot be run: {error}; is an SSH client installed?")))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let send = async {
            if let Some(mut stdin) = stdin {
                // A command that doesn't read ends the pipe; its status tells how it went.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let shown = Mutex::new(Vec::new());
        let (_, printed, _, status) = tokio::join!(
            send,
            self.follow(stdout, &shown),
            self.follow(stderr, &shown),
            child.wait()
        );
        let status = status.map_err(|error| Failure::Work(format!("ssh: {error}")))?;
        self.log.step(&format!("{what}: {status}"));
        if status.success() {
            return Ok(printed);
        }
        for line in shown.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.out.error(format_args!("\t{line}"));
        }
        let code = status.code().map_or_else(|| status.to_string(), |code| format!("status {code}"));
        Err(Failure::Work(format!("{what} failed with {code}; the whole output is in {}", self.log.path().display())))
    }

    /// Writes what comes into the log, shows it with `-v`, keeps the last lines in `shown`; gives all, up to a limit.
    async fn follow(&self, stream: Option<impl AsyncRead + Unpin>, shown: &Mutex<Vec<String>>) -> String {
        const KEPT_BYTES: usize = 64 * 1024;
        let mut all = String::new();
        let Some(stream) = stream else {
            return all;
        };
        let mut lines = BufReader::new(stream).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = printable(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            self.log.line(&line);
            self.out.detail(format_args!("\t{line}"));
            if all.len() < KEPT_BYTES {
                all.push_str(&line);
                all.push('\n');
            }
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.len() == SHOWN_LINES {
                shown.remove(0);
            }
            shown.push(line);
        }
        all
    }
}

/// The command line of a shell that runs the script on its standard input, so that nothing of it has to be quoted. It reads all of
/// it first: what it runs finds nothing to read, least of all the rest of the script.
fn shell_with(arguments: &[String]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|one| quoted(one)).collect();
    format!(r#"sh -c 'eval "$(cat)"' stratus {}"#, arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_a_script_runs_reads_nothing_of_it() {
        // Where `sh` is one that reads a line at a time, as on Fedora.
        let folder = tempfile::tempdir().expect("temporary directory");
        std::os::unix::fs::symlink("/bin/bash", folder.path().join("sh")).expect("a link");
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let (input, mut to_it) = std::io::pipe().expect("a pipe");
        to_it.write_all(b"cat\nfor word; do echo \"<$word>\"; done\nexit 3\n").expect("written");
        drop(to_it);
        let (mut printed, output) = std::io::pipe().expect("a pipe");
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &shell_with(&["it's".to_owned(), "-x $y".to_owned()])]);
        let status = command.env("PATH", path).stdin(input).stdout(output).status().expect("run");
        drop(command);
        let mut text = String::new();
        printed.read_to_string(&mut text).expect("read");
        assert_eq!((status.code(), &*text), (Some(3), "<it's>\n<-x $y>\n"));
    }
}

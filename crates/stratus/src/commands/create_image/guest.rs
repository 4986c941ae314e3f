//! The machine that becomes an image, by SSH: every command and all it says goes into the log.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::cloud::Ssh;
use crate::failure::{Failure, Result};
use crate::logged_run::{self, Log, quoted};
use crate::output::{Output, printable};

/// How long a try to log in may take, and the pause before the next.
const TRY_SECONDS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(2);
/// A guest that says nothing any more for so long is given up.
const ALIVE: [&str; 2] = ["ServerAliveInterval=15", "ServerAliveCountMax=8"];
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
        command.arg(line);
        logged_run::run(&self.log, &self.out, what, &mut command, input).await
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
    use std::io::{Read as _, Write as _};

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

//! Where something is done: on this computer, or on another by ssh.

use std::fmt;
use std::path::PathBuf;

use tokio::process::Command;

use crate::failure::{Failure, Result};
use crate::logged_run::{self, Log, quoted};
use crate::output::Output;

/// What ssh itself ends with when there is no connection.
const NO_CONNECTION: i32 = 255;
/// What the script of [`AS_ROOT`] ends with when there is no way to become root.
const NOT_ROOT: i32 = 251;
/// Runs a script (`$0`) as root.
const AS_ROOT: &str = "[ \"$(id -u)\" != 0 ] || exec sh -c \"$0\"\nsudo -n true || exit 251\nexec sudo -n sh -c \"$0\"";
/// Nothing is asked; a computer that says nothing is given up.
const OPTIONS: [&str; 4] = ["BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=8"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    There { host: String, key: Option<PathBuf>, port: Option<u16> },
}

impl Place {
    /// `[USER@]HOST`; without a user, root.
    pub(super) fn by_ssh(node: &str, key: Option<PathBuf>, port: Option<u16>) -> Result<Self> {
        let (user, host) = node.split_once('@').unwrap_or(("root", node));
        let is_odd = |text: &str| text.is_empty() || text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c == '@');
        if is_odd(user) || is_odd(host) {
            return Err(Failure::Usage(format!("-n: '{node}' is not [USER@]HOST")));
        }
        Ok(Self::There { host: format!("{user}@{host}"), key, port })
    }

    fn command(&self, script: &str) -> Command {
        match self {
            Self::Here => {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            }
            Self::There { host, key, port } => {
                let mut command = Command::new("ssh");
                command.args(OPTIONS.iter().flat_map(|option| ["-o", *option]));
                if let Some(key) = key {
                    // This one, and not whatever an agent offers before it.
                    command.args(["-o", "IdentitiesOnly=yes"]).arg("-i").arg(key);
                }
                if let Some(port) = port {
                    command.arg("-p").arg(port.to_string());
                }
                // Whatever shell the user has there.
                command.args(["--", host]).arg(format!("sh -c {} {}", quoted(AS_ROOT), quoted(script)));
                command
            }
        }
    }

    /// Runs a script there with that on its standard input; gives what it printed.
    pub(super) async fn script(&self, log: &Log, out: &Output, what: &str, script: &str, input: &[u8]) -> Result<String> {
        let script = format!("set -eu\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8\n{script}");
        let ran = logged_run::run(log, out, what, &mut self.command(&script), input).await;
        let Self::There { host, key, port } = self else {
            return ran;
        };
        let options = key.iter().map(|key| format!("-i {} ", key.display())).chain(port.map(|port| format!("-p {port} ")));
        let options: String = options.collect();
        let ended_with = |text: &str, status: i32| text.contains(&format!("status {status};"));
        match ran {
            Err(Failure::Work(text)) if ended_with(&text, NO_CONNECTION) => {
                Err(Failure::Work(format!("there is no way in by ssh: {text}")).with_hint(format!(
                    "This must work without a question: ssh -o BatchMode=yes {options}{host} true\nA key that is not known there is given by ssh-copy-id {options}{host}; a computer that is not \
                     known here is confirmed when you log in once by hand."
                )))
            }
            Err(Failure::Work(text)) if ended_with(&text, NOT_ROOT) => {
                Err(Failure::Work(format!("this has to be done as root, which {host} is not and may not become: {text}"))
                    .with_hint(format!("Log in as root, or this must work without a question: ssh -o BatchMode=yes {options}{host} sudo -n true")))
            }
            ran => ran,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("this computer"),
            Self::There { host, .. } => f.write_str(host.strip_prefix("root@").unwrap_or(host)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_user_and_host() {
        let place = Place::by_ssh("node7", None, Some(2222)).unwrap();
        assert_eq!(place.to_string(), "node7");
        assert_eq!(place, Place::There { host: "root@node7".to_owned(), key: None, port: Some(2222) });
        assert_eq!(Place::by_ssh("ann@node7", None, None).unwrap().to_string(), "ann@node7");
        for odd in ["", "-oProxyCommand=x", "a b", "root@", "@x", "root@-x", "a@b@c"] {
            assert!(Place::by_ssh(odd, None, None).is_err(), "{odd}");
        }
    }

    #[tokio::test]
    async fn a_script_has_its_input_and_its_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::append(&folder.path().join("log")).unwrap().of_place(&"node7");
        let out = Output { verbose: 0, quiet: 3, format: crate::output::Format::Table };
        let printed = Place::Here.script(&log, &out, "it", "cat; echo \"it's\"", b"input\n").await.unwrap();
        assert_eq!(printed, "input\nit's\n");
        let failure = Place::Here.script(&log, &out, "it", "echo why >&2; false; echo on", &[]).await.unwrap_err();
        assert!(failure.to_string().starts_with("it failed with status 1"), "{failure}");
        let story = std::fs::read_to_string(log.path()).unwrap();
        assert!(story.contains("\nnode7: why\n") && !story.contains(": on\n"), "{story}");
        let ends = story.lines().filter(|line| line.starts_with("=== ") && line.contains(" node7: it: exit status: "));
        assert_eq!(ends.count(), 2, "{story}");
    }
}

//! A copy of what `make cloud` needs of the tree, with the cloud that it makes there.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    Appliance, Namespace,
    cloud::instance_tag,
    leaks,
    namespace::kill,
    programs::{programs_dir, repository, search_path},
};

/// Debian's unprivileged user: one that has a name, since OpenSSH refuses others.
const NOBODY: u32 = 65_534;

/// A checkout whose cloud is run by `make`, with the programs and the appliance of this build. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Checkout {
    /// The unprivileged user that it belongs to; none: root.
    user: Option<u32>,
    instance: String,
    appliance: PathBuf,
    // In this order: the namespace's processes end before the folder they write to goes.
    namespace: Option<Namespace>,
    folder: TempDir,
}

impl Checkout {
    /// Of root, in a network namespace, with a configuration that its owner wrote: `lines` and the least that keeps it apart from
    /// other clouds.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn of_root(lines: &str) -> Self {
        let checkout = Self::new(None, Some(Namespace::new()));
        fs::create_dir_all(checkout.state()).unwrap();
        fs::write(
            checkout.state().join("stratusd.toml"),
            format!(
                "instance = \"{}\"\nstate_dir = \"{}\"\n{lines}",
                checkout.instance,
                checkout.state().display()
            ),
        )
        .unwrap();
        checkout
    }

    /// Of a user without privileges, without any configuration.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn of_a_user() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self::new(is_root.then_some(NOBODY), None)
    }

    fn new(user: Option<u32>, namespace: Option<Namespace>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-checkout-")
            .tempdir()
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new("cp")
            .arg("-r")
            .args(["packaging", "Makefile"].map(|name| repository().join(name)))
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::create_dir(folder.path().join("home")).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("home")] {
            chown(path, user, user).unwrap();
        }
        let tiny = Appliance::tiny();
        Self {
            user,
            instance: instance_tag(),
            appliance: tiny.disk.parent().unwrap().to_owned(),
            namespace,
            folder,
        }
    }

    /// Its top folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its cloud keeps everything.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join(".stratus")
    }

    /// Its network namespace, if it has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Runs a line of the shell in it, as its owner; the output whatever the exit status. The home folder is `home` in it.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn run(&self, line: &str) -> Output {
        let mut command = match self.user {
            None => Command::new("bash"),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".into(),
                    "--".into(),
                    "bash".into(),
                ]);
                command
            }
        };
        command
            .args(["-c", line])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", self.folder.path().join("home"))
            .env("STRATUS_PROGRAMS", programs_dir())
            .env("STRATUS_TINY", &self.appliance)
            .stdin(Stdio::null());
        match &self.namespace {
            Some(namespace) => namespace.output(&mut command),
            None => command.output().unwrap(),
        }
    }

    /// As [`run`](Self::run); all that it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let output = self.run(line);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{line}: {}\n{text}", output.status);
        text
    }

    /// Everything that its cloud left running or in the kernel, as lines for people.
    #[must_use]
    pub fn left_over(&self) -> Vec<String> {
        let path = self.folder.path().display().to_string();
        let mut found: Vec<String> = leaks::processes_with(&path)
            .into_iter()
            .map(|pid| format!("process {pid}"))
            .collect();
        if let Some(namespace) = &self.namespace {
            found.extend(
                namespace
                    .processes()
                    .iter()
                    .map(|pid| format!("process {pid} in the namespace")),
            );
            for line in ["ip -o link | grep -v ' lo:'", "nft list ruleset"] {
                let mut command = Command::new("sh");
                command.args(["-c", line]).env("PATH", search_path());
                let output = namespace.output(&mut command);
                found.extend(
                    String::from_utf8_lossy(&output.stdout)
                        .lines()
                        .map(str::to_owned),
                );
            }
        }
        found.extend(leaks::control_group_folders(&format!(
            "stratus-{}",
            self.instance
        )));
        found
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.state().join("log/stratusd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the daemon's log ends:\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        if let Some(namespace) = &self.namespace {
            namespace.processes().into_iter().for_each(kill);
        }
        leaks::processes_with(&self.folder.path().display().to_string())
            .into_iter()
            .for_each(kill);
        leaks::remove_control_groups(&format!("stratus-{}", self.instance));
    }
}

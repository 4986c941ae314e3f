//! The cloud as its users have it: the API, the commands, OpenSSH.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::TestCloud;
use crate::{
    Api, ComputerRoom,
    programs::{program, search_path},
    wait_until,
};

/// A program that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl TestCloud {
    /// The API as the administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        self.admin.clone()
    }

    /// Where the API is: `https://…`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.base.clone()
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
        self.try_cli_as("admin", &self.admin_password(), arguments)
    }

    fn admin_password(&self) -> String {
        let password = fs::read_to_string(self.state.join("secrets/admin-password"));
        password.unwrap().trim().to_owned()
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

    /// Runs `stratus` as whoever the arguments say; the output whatever the exit status.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn try_cli_as_told(&self, arguments: &[&str]) -> Output {
        let mut command = self.client();
        command.args(arguments);
        self.run(&mut command)
    }

    /// Runs `stratus` as the administrator, who is the operator of a room, too; the output whatever the exit status. Files are written to a folder of this test.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn try_cli_of_operator(&self, room: &ComputerRoom, arguments: &[&str]) -> Output {
        let mut command = self.told_of_it(room.operator());
        command
            .arg(program("stratus"))
            .args(arguments)
            .env("STRATUSLAB_USERNAME", "admin")
            .env("STRATUSLAB_PASSWORD", self.admin_password())
            .current_dir(self.folder());
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

    /// Runs `stratus` in a folder, for commands that write files into the current one.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn cli_in(&self, folder: &Path, arguments: &[&str]) {
        let mut command = self.client();
        let output = self.run(command.args(arguments).current_dir(folder));
        assert!(output.status.success(), "stratus {arguments:?}: {output:?}");
    }

    /// Runs `stratus` as the administrator until it prints a text, and ends it then: for what has no end of its own. The text is made anew by `make`
    /// until it is there.
    ///
    /// # Panics
    /// If it ends before, or the text doesn't come.
    #[track_caller]
    pub fn cli_until(&self, arguments: &[&str], text: &str, make: impl Fn()) {
        let mut command = self.client();
        command
            .args(arguments)
            .env("STRATUSLAB_USERNAME", "admin")
            .env("STRATUSLAB_PASSWORD", self.admin_password())
            .stdout(Stdio::piped());
        let child = match &self.namespace {
            Some(namespace) => namespace.enter(|| command.spawn()),
            None => command.spawn(),
        };
        let mut child = Ended(child.unwrap());
        let mut out = child.0.stdout.take().unwrap();
        let wanted = text.to_owned();
        let reading = std::thread::spawn(move || {
            let (mut seen, mut piece) = (String::new(), [0; 4096]);
            while !seen.contains(&wanted) {
                let length = out.read(&mut piece).unwrap();
                assert!(length > 0, "it ended: {seen}");
                seen.push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        wait_until(text, Duration::from_secs(60), || {
            make();
            reading.is_finished().then_some(())
        });
        drop(child);
        reading.join().unwrap();
    }

    fn client(&self) -> Command {
        self.told_of_it(Command::new(program("stratus")))
    }

    /// Has a command know the cloud, and nothing else.
    fn told_of_it(&self, mut command: Command) -> Command {
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

    /// Runs a command line as root of a machine that is reached at this place from where the cloud is, and known by this name.
    ///
    /// # Panics
    /// If `ssh` can't be run.
    #[must_use]
    pub fn ssh_to(&self, host: &str, port: u64, name: &str, line: &str) -> Output {
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
}

/// Makes the pair of keys `key` and `key.pub`.
pub(crate) fn make_key(folder: &Path) {
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

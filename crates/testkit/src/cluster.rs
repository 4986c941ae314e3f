//! A cloud of many computers: what `make cluster` makes, in a network namespace.

use std::{fs, path::Path, process::Output};

use crate::Checkout;

/// The computers and all they run, by `packaging/cluster`. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Cluster {
    checkout: Checkout,
}

impl Cluster {
    /// Starts everything, and waits until the machine on each host can be logged in to.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn up() -> Self {
        let cluster = Self {
            checkout: Checkout::of_root(""),
        };
        let said = cluster.shell("make cluster");
        assert!(said.contains("Your cluster is up"), "{said}");
        cluster
    }

    /// Ends everything; all that is left, as lines for people.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn down(&self) -> Vec<String> {
        let namespaces = self.namespaces();
        self.shell("make cluster-down");
        let mut left = self.checkout.left_over();
        left.extend(
            namespaces
                .into_iter()
                .filter(|name| Path::new(name).exists()),
        );
        let files = [".cluster", "cluster.env"].map(|name| self.checkout.folder().join(name));
        let files = files.iter().filter(|path| path.exists());
        left.extend(files.map(|path| path.display().to_string()));
        left
    }

    fn namespaces(&self) -> Vec<String> {
        let tag = fs::read_to_string(self.checkout.folder().join(".cluster/facts/tag"));
        let begin = format!("sk{}-", tag.unwrap_or_default().trim());
        let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = all.map(|entry| entry.file_name().into_string().unwrap());
        let own = names.filter(|name| name.starts_with(&begin));
        own.map(|name| format!("/run/netns/{name}")).collect()
    }

    /// Tells `packaging/cluster` to kill, start, cut or mend a computer.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn tell(&self, what: &str, computer: &str) {
        self.shell(&format!("packaging/cluster {what} {computer}"));
    }

    /// What a command of the user's printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn stratus(&self, line: &str) -> String {
        let output = self.try_stratus(line);
        assert!(output.status.success(), "stratus {line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command of the user's, whatever becomes of it.
    #[must_use]
    pub fn try_stratus(&self, line: &str) -> Output {
        self.checkout
            .run(&format!(". ./cluster.env && stratus {line}"))
    }

    /// A command of the administrator's, whatever becomes of it.
    #[must_use]
    pub fn try_as_admin(&self, line: &str) -> Output {
        self.checkout.run(&format!(
            ". ./cluster.env && STRATUSLAB_USERNAME=$STRATUS_ADMIN_USERNAME STRATUSLAB_PASSWORD=$STRATUS_ADMIN_PASSWORD stratus {line}"
        ))
    }

    /// Runs a command of the shell in a machine, by way of the first host's network.
    #[must_use]
    pub fn try_ssh(&self, address: &str, command: &str) -> Output {
        let options = "-F none -i .cluster/keys/id_ed25519 -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR \
                       -o BatchMode=yes -o ConnectTimeout=5";
        self.checkout.run(&format!(
            "packaging/cluster in host1 ssh {options} root@{address} '{command}'"
        ))
    }

    /// A line of the shell in the checkout; what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        self.checkout.shell(line)
    }

    /// What the programs of a computer have logged.
    #[must_use]
    pub fn log(&self, computer: &str) -> String {
        let file = self
            .checkout
            .folder()
            .join(format!(".cluster/log/{computer}.log"));
        fs::read_to_string(file).unwrap_or_default()
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.checkout.folder()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for computer in ["entry1", "entry2", "store1", "host1", "host2", "host3"] {
                let log = self.log(computer);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(15);
                eprintln!(
                    "--- the log of {computer} ends:\n{}",
                    lines[last..].join("\n")
                );
            }
        }
        // Done already, it does nothing.
        let _ = self.checkout.run("make cluster-down");
    }
}

//! A cloud of many computers: what `make cluster` makes, in a network namespace.

use std::{collections::BTreeSet, fs, path::Path, process::Output, time::Duration};

use serde_json::Value;

use crate::{Checkout, StopPoint, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What a user's machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as users see them")]
pub struct ClusterMachine {
    pub id: String,
    pub host: String,
    pub address: String,
    pub state: String,
}

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

    /// What a command of the administrator's printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn as_admin(&self, line: &str) -> String {
        let output = self.try_as_admin(line);
        assert!(output.status.success(), "stratus {line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The user's machines, by host.
    ///
    /// # Panics
    /// If they can't be listed.
    #[track_caller]
    pub fn machines(&self) -> Vec<ClusterMachine> {
        let text = self.stratus("describe-instance --format json");
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let of_one = |one: &Value| ClusterMachine {
            id: text(&one["id"]),
            host: text(&one["host"]),
            address: text(&one["address"]),
            state: text(&one["state"]),
        };
        let mut all: Vec<_> = all.iter().map(of_one).collect();
        all.sort_by(|one, other| one.host.cmp(&other.host));
        all
    }

    /// What a command of the shell in a machine printed, once that can be reached.
    ///
    /// # Panics
    /// If it fails for long.
    #[track_caller]
    pub fn ssh(&self, address: &str, command: &str) -> String {
        wait_until(&format!("{address}: {command}"), LIMIT, || {
            let output = self.try_ssh(address, command);
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        })
    }

    /// Waits until hosts are shown so: `host1 OK, host2 LOST`.
    ///
    /// # Panics
    /// If they aren't.
    #[track_caller]
    pub fn wait_for_hosts(&self, wanted: &str) {
        wait_until(wanted, LIMIT, || {
            let output = self.try_as_admin("host list --format json");
            let hosts: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
            let states: BTreeSet<_> = hosts
                .iter()
                .map(|host| format!("{} {}", host["name"], host["state"]))
                .collect();
            let states: Vec<_> = states.into_iter().collect();
            (states.join(", ").replace('"', "") == wanted).then_some(())
        });
    }

    /// Makes a volume on the storage, which a machine has from then on with a file system of its own at `/mnt`.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn mount_a_volume(&self, machine: &ClusterMachine) {
        let made = self.stratus("create-volume --size 1 --format json");
        let made: Value = serde_json::from_str(&made).unwrap();
        let uuid = made["uuid"].as_str().unwrap();
        self.stratus(&format!("attach-volume -i {} {uuid}", machine.id));
        let serial: String = uuid.replace('-', "").chars().skip(12).collect();
        let disk = wait_until("the guest to see the volume", LIMIT, || {
            let find = format!("grep -l {serial} /sys/block/vd*/serial || true");
            let seen = self.ssh(&machine.address, &find);
            Some(seen.split('/').nth(3)?.to_owned())
        });
        let make = format!("mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt");
        self.ssh(&machine.address, &make);
    }

    /// Has the daemon of a computer stop at points from its next start on, which this is.
    ///
    /// # Panics
    /// If it can't be started.
    #[track_caller]
    pub fn start_with_stop_points(&self, computer: &str) {
        self.shell(&format!(
            "STRATUS_STOP_POINTS=$PWD/.cluster/{computer}/points packaging/cluster start {computer}"
        ));
    }

    /// Has the daemon of a computer stop at a point, if it was started so.
    #[must_use]
    pub fn stop_point(&self, computer: &str, name: &str) -> StopPoint {
        let computer = self.checkout.folder().join(".cluster").join(computer);
        StopPoint::of(&computer.join("points"), name)
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

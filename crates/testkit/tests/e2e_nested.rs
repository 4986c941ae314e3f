//! Bare computers become hosts by `stratus install`, over SSH, and run machines by their kernel's own KVM: with systemd, the Debian packages and all
//! that these ask for.
//!
//! Takes minutes, so it runs by `make test-nested`: `STRATUS_NESTED` names a folder with the packages, `STRATUS_NEEDED` one with what they
//! need as a repository for apt, `STRATUS_DEBIAN` one with the Debian appliance.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    env,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{
    BareComputer, ComputerRoom, Machine, Namespace, Options, TestCloud, skip_unless, wait_until,
};

/// Longer than a guest of a guest takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// What suits computers with small disks.
const CONFIGURATION: &str = "[storage]\nreserve_mib = 64\n[network]\ndns_upstream = []\n";

/// What is another each time a kernel starts.
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

struct Folders {
    appliance: PathBuf,
    packages: PathBuf,
    needed: PathBuf,
}

impl Folders {
    /// None, if it can't be tried here.
    fn of_environment() -> Option<Self> {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from);
        let named = ["STRATUS_DEBIAN", "STRATUS_NESTED", "STRATUS_NEEDED"].map(folder);
        let [Some(appliance), Some(packages), Some(needed)] = named else {
            println!("SKIPPED: STRATUS_NESTED names no folder with packages; make test-nested");
            return None;
        };
        (!skip_unless(&[])).then_some(Self {
            appliance,
            packages,
            needed,
        })
    }
}

/// The operator of the cloud, and of the room beside it.
struct Operator<'t> {
    cloud: &'t TestCloud,
    room: &'t ComputerRoom,
    packages: String,
    begun: Instant,
}

impl Operator<'_> {
    fn done(&self, what: &str) {
        println!("{:5} s  {what}", self.begun.elapsed().as_secs());
    }

    /// `stratus install`, and all that it printed.
    fn try_install(&self, arguments: &[&str]) -> (bool, String) {
        let usual = ["install", "--packages", &self.packages];
        let output = self
            .cloud
            .try_cli_of_operator(self.room, &[&usual, arguments].concat());
        (output.status.success(), printed(&output))
    }

    #[track_caller]
    fn install(&self, arguments: &[&str]) -> String {
        let (is_done, told) = self.try_install(arguments);
        assert!(is_done, "{arguments:?}: {told}");
        told
    }

    /// It is refused, for a reason that is told.
    #[track_caller]
    fn is_refused(&self, arguments: &[&str], because: &str) {
        let (is_done, told) = self.try_install(arguments);
        assert!(!is_done && told.contains(because), "{because}: {told}");
    }

    /// A host as the cloud shows it.
    fn host(&self, name: &str) -> Option<Value> {
        let hosts = self.cloud.cli_json(&["host", "list"]);
        let mut hosts = hosts.as_array().unwrap().iter();
        hosts.find(|host| host["name"] == name).cloned()
    }

    /// A machine that only a host with KVM may have.
    fn machine(&self) -> Machine<'_> {
        let image = self.cloud.image();
        let image = image.trim_start_matches("MachineImage/");
        let only = ["--vm-requirements", "HYPERVISOR = \"kvm\""];
        let how = ["--ram", "128", "--swap", "0", "--restart-policy", "always"];
        let started = self
            .cloud
            .cli_json(&[&["run-instance"], &only[..], &how, &[image]].concat());
        self.cloud
            .machine_by_number(started[0]["id"].as_u64().unwrap())
    }

    /// The name of the host that has a machine.
    fn place_of(&self, machine: &Machine<'_>) -> String {
        let id = machine.document()["host"]["href"].clone();
        let hosts = self.cloud.cli_json(&["host", "list"]);
        let mut hosts = hosts.as_array().unwrap().iter();
        let found = hosts.find(|host| host["id"] == id);
        found.map_or_else(String::new, |host| {
            host["name"].as_str().unwrap().to_owned()
        })
    }
}

fn printed(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// What a command in a machine printed, however busy this computer is.
fn in_machine(machine: &Machine<'_>, line: &str) -> String {
    wait_until(line, LIMIT, || {
        let output = machine.try_ssh(line);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    })
}

/// The machine is the only one there, and its QEMU has a virtual machine of the kernel's KVM.
fn runs_by_kvm(computer: &BareComputer<'_>, machine: &Machine<'_>) {
    let told = computer
        .ssh("pid=$(pgrep qemu-system) && tr '\\0' ' ' </proc/$pid/cmdline && ls -l /proc/$pid/fd");
    for part in [
        machine.uuid(),
        "-accel kvm",
        "/dev/kvm",
        "anon_inode:kvm-vm",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// Whatever is in the way is told before anything is done there.
fn obstacles_are_told(operator: &Operator<'_>, computer: &BareComputer<'_>) {
    let address = computer.address();
    let key = operator.room.key().display().to_string();
    operator.is_refused(&["-n", address], "Host key verification failed");
    computer.confirm();
    operator.is_refused(&["-n", address], "Permission denied");
    let with_key = |more: &[&str], because: &str| {
        operator.is_refused(&[&["-k", &key], more].concat(), because);
    };
    let visitor = format!("visitor@{address}");
    with_key(&["-n", &visitor], "is not and may not become");
    let elsewhere = ["--entry", "https://nowhere.invalid:8443", "-n", address];
    with_key(
        &elsewhere,
        "https://nowhere.invalid:8443 (that name has no address there)",
    );
    let closed = format!("https://{}:8442", ComputerRoom::CLOUD);
    with_key(
        &["--entry", &closed, "-n", address],
        "(no connection to that port)",
    );
    computer.ssh("date -s '+1 hour'");
    with_key(&["-n", address], "ahead of this computer's: set it by NTP");
    computer.ssh("date -s '-1 hour'");
    let program = "cp /usr/bin/sleep /usr/local/bin/stratusd && { setsid /usr/local/bin/stratusd 1000 </dev/null >/dev/null 2>&1 & }";
    computer.ssh(program);
    with_key(
        &["-n", address],
        "another stratusd runs there, /usr/local/bin/stratusd",
    );
    computer.ssh("pkill -x stratusd; rm /usr/local/bin/stratusd");
    computer.ssh("fallocate -l $(($(df -Pk / | awk 'END { print $4 }') - 1000000))K /var/full");
    with_key(&["-n", address], "at least 2.00 GiB are needed");
    computer.ssh("rm /var/full; ! dpkg-query -W stratusd 2>/dev/null; test ! -e /var/lib/stratus");
}

/// The computer is started anew: systemd starts the daemon, and that the machine, whose policy wants it.
fn is_there_again(computer: &mut BareComputer<'_>, machine: &Machine<'_>) {
    in_machine(machine, "echo kept > /root/kept; sync");
    let before = in_machine(machine, BOOT);
    computer.reboot();
    wait_until("the machine to be there again", LIMIT, || {
        (in_machine(machine, BOOT) != before).then_some(())
    });
    assert_eq!(in_machine(machine, "cat /root/kept"), "kept");
    runs_by_kvm(computer, machine);
}

/// A host is emptied: its machine goes to the other one, and its guest runs on. Then it is removed, and its daemon ends for good.
fn is_emptied_and_removed(
    operator: &Operator<'_>,
    name: &str,
    computer: &BareComputer<'_>,
    next: &BareComputer<'_>,
    machine: &Machine<'_>,
) {
    let before = in_machine(machine, BOOT);
    let cloud = operator.cloud;
    cloud.cli(&["host", "drain", name, "--move", "--wait"]);
    assert_ne!(operator.place_of(machine), name);
    assert_eq!(in_machine(machine, BOOT), before, "its guest runs on");
    runs_by_kvm(next, machine);
    operator.done("it was moved, and its guest runs on");
    cloud.cli(&["host", "remove", name]);
    assert_eq!(operator.host(name), None);
    wait_until(
        "the daemon of a host that was removed to end",
        LIMIT,
        || {
            let state =
                computer.ssh("systemctl show --property ActiveState,ExecMainStatus stratusd");
            (state.contains("failed") && state.contains("ExecMainStatus=3")).then_some(())
        },
    );
}

#[test]
fn bare_computers_become_hosts_over_ssh_and_run_machines_by_kvm() {
    let Some(folders) = Folders::of_environment() else {
        return;
    };
    let begun = Instant::now();
    let namespace = Namespace::new();
    let room = ComputerRoom::beside(&namespace, &folders.appliance, &folders.needed);
    let options = Options {
        listen: Some(format!("{}:8443", ComputerRoom::CLOUD)),
        tunnel_address: Some(ComputerRoom::CLOUD.to_owned()),
        ..Options::default()
    };
    let cloud = TestCloud::start_in(namespace, &options);
    let operator = Operator {
        cloud: &cloud,
        room: &room,
        packages: folders.packages.display().to_string(),
        begun,
    };
    let (mut first, mut second) = (room.computer("node1", 11), room.computer("node2", 12));
    first.wait_for_ssh();
    second.wait_for_ssh();
    operator.done("two bare computers");
    obstacles_are_told(&operator, &first);
    operator.done("what is in the way is told");

    let configuration = cloud.folder().join("node.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    let configuration = configuration.display().to_string();
    let key = room.key().display().to_string();
    // One by root, the other by a user who may become that.
    let both = format!("{},debian@{}", first.address(), second.address());
    let install = ["-k", &key, "--daemon-config", &configuration, "-n", &both];
    let told = operator.install(&install);
    for name in ["node1", "node2"] {
        let heard = format!(
            "the cloud has heard of {name}: OK; machines run by kvm (the guest probe ran to its end)"
        );
        assert!(told.contains(&heard), "{told}");
        let host = operator.host(name).unwrap();
        assert_eq!(host["accelerator"], "kvm", "{host}");
        assert_eq!(host["acceleratorReason"], "the guest probe ran to its end");
    }
    assert_ne!(
        operator.host("testhost").unwrap()["accelerator"],
        "kvm",
        "without nesting this shows nothing"
    );
    operator.done("installed");
    let pid = "systemctl show --property MainPID stratusd";
    let before = first.ssh(pid);
    let told = operator.install(&install);
    for part in [
        "is there",
        "stratusd.toml is so",
        "as node1 already",
        "as node2 already",
        "runs already",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(first.ssh(pid), before);
    operator.done("and once more: all is there");

    let machine = operator.machine();
    in_machine(&machine, "true");
    let place = operator.place_of(&machine);
    let is_first = place == "node1";
    assert!(is_first || place == "node2", "{place}");
    let (mut here, there) = if is_first {
        (first, second)
    } else {
        (second, first)
    };
    runs_by_kvm(&here, &machine);
    operator.done(&format!("a machine runs by KVM on {place}"));

    is_there_again(&mut here, &machine);
    operator.done("it is there again after its computer was started anew");
    is_emptied_and_removed(&operator, &place, &here, &there, &machine);
    machine.kill();
    cloud.assert_clean();
    operator.done("cleared away");
}

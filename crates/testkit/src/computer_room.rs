//! Bare computers: Debian on a disk of its own, an address, and SSH for an operator with a key.
//!
//! They are guests of QEMU, which translates their processor in software and gives it a virtualization that works (AMD's SVM) all the
//! same. So their kernel's KVM is a real one, wherever the tests run.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    FileServer, Namespace, cloud::make_key, daemon::tail, programs::search_path, wait_until,
};

/// Where packages are for the computers.
const PACKAGES: &str = "192.168.78.2";

/// How long one may take until it answers SSH: a minute on a quiet machine, more than ten on one that does other things.
const BOOT_LIMIT: Duration = Duration::from_secs(1800);

/// Runs a command in a mount namespace in which root's home is where the passwd file `$1` says: `ssh` goes by that, and not by `HOME`.
const AT_HOME: &str = r#"mount --bind "$1" /etc/passwd && shift && exec "$@""#;

/// A room with computers, a switch, and a cable to a cloud. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct ComputerRoom {
    appliance: PathBuf,
    packages: FileServer,
    // In this order: the namespace's processes end before the folder they write to goes.
    namespace: Namespace,
    folder: TempDir,
}

impl ComputerRoom {
    /// The cloud's address in the room.
    pub const CLOUD: &str = "192.168.78.1";

    /// An empty room beside a cloud. `appliance` is the folder with the Debian appliance, `packages` one that apt takes as a repository: computers
    /// have no other to install from.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn beside(cloud: &Namespace, appliance: &Path, packages: &Path) -> Self {
        let namespace = Namespace::new();
        let (own, its) = (format!("{}/24", Self::CLOUD), format!("{PACKAGES}/24"));
        cloud.connect(&own, &namespace, &its);
        let folder = tempfile::Builder::new()
            .prefix("stratus-room-")
            .tempdir()
            .unwrap();
        make_key(folder.path());
        let ip = |arguments: &[&str]| ip(&namespace, arguments);
        ip(&["link", "add", "switch", "type", "bridge"]);
        ip(&["address", "flush", "dev", "lan"]);
        ip(&["link", "set", "lan", "master", "switch"]);
        ip(&["address", "add", &its, "dev", "switch"]);
        ip(&["link", "set", "switch", "up"]);
        let served = namespace.enter(|| FileServer::serve_at(PACKAGES));
        for file in fs::read_dir(packages).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            served.put(&format!("/./{name}"), &file.path());
        }
        let room = Self {
            appliance: appliance.to_owned(),
            packages: served,
            namespace,
            folder,
        };
        room.make_home();
        room
    }

    /// The operator's home has nothing in it yet: no key, no computer that is known.
    fn make_home(&self) {
        let home = self.file("home");
        let ssh = home.join(".ssh");
        fs::create_dir_all(&ssh).unwrap();
        for folder in [&home, &ssh] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let line = format!("root:x:0:0:root:{}:/bin/sh\n", home.display());
        fs::write(self.file("passwd"), line).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The private key of the operator, whom every computer lets in.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.file("key")
    }

    /// What runs a command, whose words are its further arguments, as the operator: `ssh` finds there what is in the operator's home.
    pub(crate) fn operator(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", AT_HOME, "sh"]);
        command.arg(self.file("passwd"));
        command
    }

    /// Switches a new computer on. Nothing is on its disk but Debian. Root is let in by the operator's key; so is `debian`, who may do everything by sudo, and
    /// `visitor`, who may do nothing. `number` is the last one of its address.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    pub fn computer(&self, name: &str, number: u8) -> BareComputer<'_> {
        let address = format!("192.168.78.{number}");
        let medium = self.medium(name, &address);
        let disk = self.file(&format!("{name}.disk"));
        let of_appliance = |kind: &str| self.appliance.join(format!("debian12.{kind}"));
        run(Command::new("qemu-img")
            .args("create -q -f qcow2 -F qcow2 -b".split(' '))
            .args([&of_appliance("qcow2"), &disk])
            .arg("8G"));
        for arguments in [
            ["tuntap", "add", name, "mode", "tap"],
            ["link", "set", name, "master", "switch"],
            ["link", "set", "up", "dev", name],
        ] {
            ip(&self.namespace, &arguments);
        }
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.env("PATH", search_path());
        qemu.args("-M q35 -nodefaults -vga none -display none -m 1536".split(' '));
        qemu.args("-accel tcg,tb-size=512 -cpu max".split(' '));
        qemu.arg("-kernel").arg(of_appliance("vmlinuz"));
        qemu.arg("-initrd").arg(of_appliance("initrd"));
        let kernel_arguments = fs::read_to_string(of_appliance("cmdline")).unwrap();
        qemu.arg("-append");
        qemu.arg(format!("{} {}", kernel_arguments.trim(), counter()));
        for option in [
            [
                "-drive",
                &format!(
                    "file={},if=virtio,cache=unsafe,format=qcow2",
                    disk.display()
                ),
            ],
            [
                "-drive",
                &format!("file={},if=virtio,readonly=on,format=raw", medium.display()),
            ],
            [
                "-netdev",
                &format!("tap,id=lan,ifname={name},script=no,downscript=no"),
            ],
            [
                "-device",
                &format!("virtio-net-pci,netdev=lan,romfile=,mac=52:54:00:78:00:{number:02x}"),
            ],
            [
                "-serial",
                &format!("file:{}", self.file(&format!("{name}.console")).display()),
            ],
        ] {
            qemu.args(option);
        }
        let errors = File::create(self.file(&format!("{name}.errors"))).unwrap();
        qemu.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        BareComputer {
            process: self.namespace.enter(|| qemu.spawn()).unwrap(),
            room: self,
            name: name.to_owned(),
            address,
        }
    }

    /// What cloud-init makes a computer of the appliance by.
    fn medium(&self, name: &str, address: &str) -> PathBuf {
        let folder = self.file(&format!("{name}.medium"));
        fs::create_dir(&folder).unwrap();
        let key = fs::read_to_string(self.file("key.pub")).unwrap();
        let (key, packages) = (key.trim(), self.packages.url());
        let files = [
            (
                "meta-data",
                format!("instance-id: {name}\nlocal-hostname: {name}\npublic-keys: [\"{key}\"]\n"),
            ),
            (
                "network-config",
                format!(
                    "version: 1\nconfig:\n- type: physical\n  name: eth0\n  subnets:\n  - type: static\n    address: {address}/24\n"
                ),
            ),
            (
                "user-data",
                format!(
                    "#cloud-config\nmanage_etc_hosts: true\nusers: [default, {{name: visitor, shell: /bin/bash, ssh_authorized_keys: [\"{key}\"]}}]\n\
                     write_files:\n- path: /etc/apt/sources.list.d/debian.sources\n  content: |\n    Types: deb\n    URIs: {packages}/\n    Suites: ./\n    Trusted: yes\n"
                ),
            ),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let medium = folder.with_extension("iso");
        run(Command::new("genisoimage")
            .args("-quiet -V cidata -J -R -o".split(' '))
            .args([&medium, &folder]));
        medium
    }
}

/// A computer that is switched on until this is dropped.
#[derive(Debug)]
pub struct BareComputer<'r> {
    room: &'r ComputerRoom,
    name: String,
    address: String,
    process: Child,
}

impl BareComputer<'_> {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs a command on it as root, whatever the operator's home has; the output whatever the exit status.
    #[must_use]
    pub fn try_ssh(&self, line: &str) -> Output {
        let mut command = Command::new("ssh");
        command.args("-F none -o BatchMode=yes -o LogLevel=ERROR -o ConnectTimeout=10".split(' '));
        command.args("-o ServerAliveInterval=5 -o ServerAliveCountMax=12 -o StrictHostKeyChecking=accept-new".split(' '));
        command.arg("-o").arg(format!(
            "UserKnownHostsFile={}",
            self.room.file("known").display()
        ));
        command.arg("-i").arg(self.room.key());
        command.arg(format!("root@{}", self.address)).arg(line);
        self.room.namespace.output(command.stdin(Stdio::null()))
    }

    /// The same; what it printed, without the end of the last line.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ssh(&self, line: &str) -> String {
        let output = self.try_ssh(line);
        assert!(output.status.success(), "{}: {line}: {output:?}", self.name);
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Waits until it answers SSH, and cloud-init has done all.
    ///
    /// # Panics
    /// If that takes too long, or the computer fails.
    #[track_caller]
    pub fn wait_for_ssh(&mut self) {
        wait_until(&format!("{} to answer", self.name), BOOT_LIMIT, || {
            let ended = self.process.try_wait().unwrap();
            let errors = tail(&self.room.file(&format!("{}.errors", self.name)));
            assert!(ended.is_none(), "{}: {ended:?}: {errors}", self.name);
            self.try_ssh("test -e /var/lib/cloud/instance/boot-finished")
                .status
                .success()
                .then_some(())
        });
    }

    /// Starts it anew, as its operator would, and waits until it answers SSH.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn reboot(&mut self) {
        const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";
        let before = self.ssh(BOOT);
        // The connection may end before the command does.
        let _ = self.try_ssh("systemctl reboot");
        wait_until(
            &format!("{} to be there again", self.name),
            BOOT_LIMIT,
            || {
                let now = self.try_ssh(BOOT);
                let boot = String::from_utf8_lossy(&now.stdout);
                (now.status.success() && boot.trim() != before).then_some(())
            },
        );
    }

    /// The operator has seen it, and knows it from now on.
    ///
    /// # Panics
    /// If it was never reached by SSH.
    pub fn confirm(&self) {
        let known = fs::read_to_string(self.room.file("known")).unwrap();
        fs::write(self.room.file("home/.ssh/known_hosts"), known).unwrap();
    }
}

impl Drop for BareComputer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = tail(&self.room.file(&format!("{}.console", self.name)));
            let journal = self.try_ssh("journalctl --no-pager -u stratusd -n 60");
            let journal = String::from_utf8_lossy(&journal.stdout);
            eprintln!("--- {}:\n{console}\n{journal}", self.name);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells a kernel the rate of this processor's counter, which code that is translated reads as it is. One that measures it itself while this computer is busy
/// has a clock that is several times too fast; and certificates go by clocks.
fn counter() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = processors.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| name.trim() == "bogomips");
    // That is twice the rate, in MHz.
    let twice: Option<f64> = found.and_then(|(_, value)| value.trim().parse().ok());
    twice.map_or_else(String::new, |twice| {
        format!("tsc_early_khz={:.0}", twice * 500.0)
    })
}

fn ip(namespace: &Namespace, arguments: &[&str]) {
    run(Command::new("ip")
        .args(["-n", namespace.name()])
        .args(arguments));
}

fn run(command: &mut Command) {
    let output = command.env("PATH", search_path()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

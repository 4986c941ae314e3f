//! A whole distribution in the cloud: the Debian appliance boots, its cloud-init does what the user asked for, and its apt makes
//! a new image of it.
//!
//! Takes minutes without hardware virtualization, so it runs by `make test-debian`: `STRATUS_DEBIAN` names the folder with the
//! appliance.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use testkit::{
    DebianPackage, Machine, Namespace, Options, PackageRepository, TestCloud, skip_unless,
    wait_until,
};

/// How long the guest may take to answer SSH, and then cloud-init to be done: a minute each under TCG on a quiet machine, more than
/// ten on one that does other things.
const LIMIT: Duration = Duration::from_secs(1800);

/// What Debian needs.
const SMALL: [&str; 4] = ["--ram", "512", "--swap", "0"];

/// Where the appliance is; none, if it can't be tried here.
fn appliance() -> Option<PathBuf> {
    let folder = env::var_os("STRATUS_DEBIAN").map(PathBuf::from);
    if folder.is_none() {
        println!(
            "SKIPPED: STRATUS_DEBIAN names no folder with the Debian appliance; make test-debian"
        );
    }
    folder.filter(|_| !skip_unless(&[]))
}

/// The appliance as an image that boots by kernel and initrd, or by the boot loader on the disk; its identifier.
fn imported(cloud: &TestCloud, folder: &Path, name: &str) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    let [disk, kernel, initrd] =
        ["qcow2", "vmlinuz", "initrd"].map(|kind| file(&format!("debian12.{kind}")));
    let kernel_arguments = fs::read_to_string(folder.join("debian12.cmdline")).unwrap();
    let mut arguments = vec!["image", "import", "--name", name, &disk];
    if name == "direct" {
        arguments.extend([
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--kernel-args",
            kernel_arguments.trim(),
        ]);
    }
    let image = cloud.cli_json(&arguments);
    image["identifier"].as_str().unwrap().to_owned()
}

fn started<'c>(cloud: &'c TestCloud, more: &[&str]) -> Machine<'c> {
    let started = cloud.cli_json(&[&["run-instance"], &SMALL[..], more].concat());
    cloud.machine_by_number(started[0]["id"].as_u64().unwrap())
}

fn wait_for_ssh(machine: &Machine<'_>) {
    wait_until("SSH of Debian", LIMIT, || {
        machine.try_ssh("true").status.success().then_some(())
    });
}

#[test]
fn debian_boots_and_runs_its_user_data() {
    let Some(folder) = appliance() else {
        return;
    };
    let cloud = TestCloud::start();
    for name in ["direct", "disk"] {
        let image = imported(&cloud, &folder, name);
        let config = cloud.folder().join("config");
        let script = cloud.folder().join("script");
        fs::write(&config, "#cloud-config\nwrite_files:\n- path: /etc/asked-for\n  content: written by cloud-init\n").unwrap();
        fs::write(
            &script,
            "#!/bin/sh\necho \"run on $(hostname)\" > /root/ran\n",
        )
        .unwrap();
        let user_data = format!(
            "cloud-config,{}#x-shellscript,{}",
            config.display(),
            script.display()
        );
        let begun = Instant::now();
        let machine = started(&cloud, &["--cloud-init", &user_data, &image]);
        wait_for_ssh(&machine);
        println!("{name}: SSH after {:.0} s", begun.elapsed().as_secs_f64());
        let told = machine.ssh("cloud-init status --wait --long");
        println!(
            "{name}: cloud-init done after {:.0} s",
            begun.elapsed().as_secs_f64()
        );
        assert!(told.contains("status: done"), "{told}");
        assert_eq!(machine.ssh("cat /etc/asked-for"), "written by cloud-init");
        let host_name = format!("vm-{}", machine.address().replace('.', "-"));
        assert_eq!(machine.ssh("cat /root/ran"), format!("run on {host_name}"));
        // The power button ends it in order.
        cloud.cli(&["stop-instance", "--wait", &machine.vmid.to_string()]);
        machine.kill();
        cloud.cli(&["image", "delete", &image]);
    }
    cloud.assert_clean();
}

/// Somebody else at the packages, as `apt-daily` and `unattended-upgrades` are just after a start: lists and packages are locked until
/// apt has met that.
const BUSY: &str = r#"
import fcntl, glob, time

def lock(path):
    file = open(path, "w")
    fcntl.lockf(file, fcntl.LOCK_EX)
    return file

def runs(action):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = open(path, "rb").read().split(b"\0")
        except OSError:
            continue
        if words[0] == b"apt-get" and action in words:
            return True
    return False

def wait(action, is_there):
    while runs(action) != is_there:
        time.sleep(0.05)

lists, packages = lock("/var/lib/apt/lists/lock"), lock("/var/lib/dpkg/lock-frontend")
wait(b"update", True)
wait(b"update", False)
lists.close()
wait(b"install", True)
time.sleep(3)
packages.close()
"#;

#[test]
fn an_image_of_debian_is_created_when_cloud_init_is_done() {
    let Some(folder) = appliance() else {
        return;
    };
    let namespace = Namespace::new();
    let mut repository = PackageRepository::beside(&namespace);
    repository.publish(&DebianPackage {
        name: "greeting",
        version: "1",
        files: &[("usr/bin/greet", "#!/bin/sh\necho hello\n")],
        configured: "chmod 755 /usr/bin/greet",
    });
    let cloud = TestCloud::start_in(namespace, &Options::default());
    let base = imported(&cloud, &folder, "direct");
    let file = |name: &str, content: &str| {
        let path = cloud.folder().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    // The last thing that cloud-init does. There is no other repository that could be reached.
    let at_last = format!(
        "#!/bin/sh\nrm -f /etc/apt/sources.list /etc/apt/sources.list.d/*\n\
         setsid python3 -c '{BUSY}' </dev/null >/dev/null 2>&1 &\nsleep 5\necho cloud-init >/etc/made-by\n"
    );
    let user_data = format!("x-shellscript,{}", file("at-last", &at_last));
    let script = file("script.sh", "#!/bin/sh\nset -e\ngreet >>/etc/made-by\n");
    let log = file("creation.log", "");
    let key = cloud.public_key_file().display().to_string();
    let (repository, identifier) = (repository.line(), base.as_str());
    let limit = LIMIT.as_secs().to_string();
    let options = [
        ["--vm-ping-timeout", &limit],
        ["--cloud-init", &user_data],
        ["--title", "created"],
        ["--comment", "c"],
        ["--author", "Ann Example"],
        ["--author-email", "ann@example.org"],
        ["--packages", "greeting"],
        ["--extra-os-repos", &repository],
        ["--scripts", &script],
        ["--key", &key],
        ["--log", &log],
    ];
    let made = cloud.cli_json(
        &[
            &["create-image"],
            &SMALL[..],
            &options.concat(),
            &[identifier],
        ]
        .concat(),
    );
    let story = fs::read_to_string(&log).unwrap();
    assert!(
        story.contains("Could not get lock /var/lib/apt/lists/lock"),
        "{story}"
    );
    let machine = started(&cloud, &[made["identifier"].as_str().unwrap()]);
    wait_for_ssh(&machine);
    assert_eq!(machine.ssh("cat /etc/made-by"), "cloud-init\nhello");
    assert_eq!(machine.ssh("dpkg-query -W greeting"), "greeting\t1");
    machine.kill();
    cloud.assert_clean();
}

//! A whole distribution in the cloud: the Debian appliance boots, and its cloud-init does what the user asked for.
//!
//! Takes minutes without hardware virtualization, so it runs by `make test-debian`: `STRATUS_DEBIAN` names the folder with the
//! appliance.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use testkit::{TestCloud, skip_unless, wait_until};

/// How long the guest may take to answer SSH, and then cloud-init to be done: a minute each under TCG on a quiet machine.
const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn debian_boots_and_runs_its_user_data() {
    let Some(folder) = env::var_os("STRATUS_DEBIAN").map(PathBuf::from) else {
        println!(
            "SKIPPED: STRATUS_DEBIAN names no folder with the Debian appliance; make test-debian"
        );
        return;
    };
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let file = |name: &str| folder.join(name).display().to_string();
    let arguments = fs::read_to_string(folder.join("debian12.cmdline")).unwrap();
    // By kernel and initrd, and by the boot loader on the disk.
    let direct = [
        "--kernel",
        &file("debian12.vmlinuz"),
        "--initrd",
        &file("debian12.initrd"),
        "--kernel-args",
        arguments.trim(),
    ];
    for (name, options) in [("direct", &direct[..]), ("disk", &[])] {
        let disk = file("debian12.qcow2");
        let import = [&["image", "import", "--name", name, disk.as_str()], options].concat();
        let image = cloud.cli_json(&import)["identifier"]
            .as_str()
            .unwrap()
            .to_owned();

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
        let started = cloud.cli_json(&[
            "run-instance",
            "--ram",
            "512",
            "--swap",
            "0",
            "--cloud-init",
            &user_data,
            &image,
        ]);
        let machine = cloud.machine_by_number(started[0]["id"].as_u64().unwrap());
        wait_until("SSH of Debian", LIMIT, || {
            machine.try_ssh("true").status.success().then_some(())
        });
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

//! What a user does on the first day: an image, a machine from it, a look inside, and its end; all by the commands.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use testkit::{Appliance, Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_user_starts_a_machine_and_logs_in() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    import_shows_progress(&cloud);
    let image = cloud.image().trim_start_matches("MachineImage/").to_owned();
    let listed = cloud.cli(&["image", "list"]);
    assert!(listed.contains(&image), "{listed}");
    let data = data_image(&cloud);

    let script = cloud.folder().join("user-data.sh");
    fs::write(
        &script,
        "#!/bin/sh\necho user data ran > /root/user-data-ran\n",
    )
    .unwrap();
    let user_data = format!("x-shellscript,{}", script.display());
    let started = cloud.cli_json(&[
        "run-instance", "--ram", "160", "--cpu", "1", "--swap", "64", "--volatile-disk", "1", "--readonly-disk", &data, "--vm-name", "first",
        "--context", "GREETING=hello world#START_SCRIPT=. /mnt/stratuslab/context.sh; echo \"$GREETING\" > /root/greeting",
        "--cloud-init", &user_data, &image,
    ]);
    let number = started[0]["id"]
        .as_u64()
        .unwrap_or_else(|| panic!("{started}"));
    let machine = cloud.machine_by_number(number);
    assert_eq!(started[0]["name"], "first");
    assert_eq!(
        started[0]["address"].as_str().unwrap(),
        machine.address(),
        "the address is told at once"
    );
    machine.wait_for_phase("Running");
    let refused = cloud
        .api()
        .delete(&format!("/cimi/MachineImage/{data}"))
        .expect(409);
    assert!(
        refused.to_string().contains("(first) needs it"),
        "its read-only disk stays: {refused}"
    );
    let table = cloud.cli(&["describe-instance", "-n"]);
    assert!(
        table
            .lines()
            .any(|line| line.contains("Running") && line.contains(&machine.address())),
        "{table}"
    );

    let connected = wait_until("connect-instance", Duration::from_secs(120), || {
        let key = cloud.folder().join("key").display().to_string();
        let output = cloud.try_cli(&[
            "connect-instance",
            "-k",
            &key,
            &number.to_string(),
            "--",
            "echo inside",
        ]);
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert!(connected.contains("inside"), "{connected}");
    machine.wait_for_ssh();
    the_context_arrived(&machine);
    names_are_known(&cloud, &machine);
    the_world_is_reached_by_nat(&cloud);
    disks_are_as_ordered(&machine);
    the_console_is_shown(&cloud, number);

    // The second is ended without being asked; the first by its power button.
    let second = cloud.machine();
    cloud.cli(&["shutdown-instance", &number.to_string()]);
    wait_until("the end of the first machine", LIMIT, || {
        (machine.phase() == "Done").then_some(())
    });
    let console_said_so = cloud.cli(&["describe-instance", &number.to_string()]);
    assert!(console_said_so.contains("Done"), "{console_said_so}");
    second.wait_for_phase("Running");
    cloud.cli(&["kill-instance", &second.vmid.to_string()]);
    second.wait_for_phase("Done");
    let described = cloud.cli_json(&["describe-instance", &second.vmid.to_string()]);
    assert_eq!(described[0]["state"], "Done", "{described}");
    cloud.assert_clean();
}

/// The same file is imported with everything that a terminal shows switched on, and the second time the cloud has it already.
fn import_shows_progress(cloud: &TestCloud) {
    let tiny = Appliance::tiny();
    let kernel = tiny.kernel.display().to_string();
    let first = cloud.try_cli(&["image", "import", "--type", "FILE", &kernel]);
    assert!(first.status.success(), "{first:?}");
    let told = String::from_utf8_lossy(&first.stdout).into_owned();
    let identifier = told
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(identifier.len(), 27, "{told}");
    let visibility = || {
        let shown = cloud.cli_json(&["image", "show", &identifier]);
        shown["visibility"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(visibility(), "PRIVATE");
    let public = cloud.cli(&["image", "import", "--public", "--type", "FILE", &kernel]);
    assert!(public.contains(&identifier), "{public}");
    assert_eq!(visibility(), "PUBLIC");
    let again = cloud.cli(&["image", "import", "--type", "FILE", &kernel]);
    assert!(
        again.contains(&identifier),
        "the same content has the same identifier: {again}"
    );
}

/// Something to be seen on a read-only disk.
fn data_image(cloud: &TestCloud) -> String {
    let path = cloud.folder().join("data.img");
    let mut content = vec![0_u8; 1 << 20];
    content[..16].copy_from_slice(b"read-only data 1");
    fs::write(&path, content).unwrap();
    cloud
        .import(&path)
        .trim_start_matches("MachineImage/")
        .to_owned()
}

fn the_context_arrived(machine: &Machine<'_>) {
    wait_until("the end of the user's scripts", LIMIT, || {
        machine
            .console()
            .contains("stratus-context-done")
            .then_some(())
    });
    assert_eq!(machine.ssh("cat /root/user-data-ran"), "user data ran");
    assert_eq!(machine.ssh("cat /root/greeting"), "hello world");
}

fn names_are_known(cloud: &TestCloud, machine: &Machine<'_>) {
    let address = machine.address();
    let name = format!("{}.stratus.internal", machine.ssh("hostname"));
    let reverse: Vec<&str> = address.rsplit('.').collect();
    let reverse = format!("{}.in-addr.arpa", reverse.join("."));
    let forward = machine.ssh(&format!("nslookup {name}"));
    assert!(forward.contains(&address), "{forward}");
    let backward = machine.ssh(&format!("nslookup {address}"));
    assert!(backward.contains(&name), "{reverse}: {backward}");
    let outside = cloud.shell(&format!(
        "busybox nslookup {name} 10.77.0.1; busybox nslookup {address} 10.77.0.1"
    ));
    assert!(
        outside.contains(&address) && outside.contains(&name),
        "{outside}"
    );
}

fn the_world_is_reached_by_nat(cloud: &TestCloud) {
    let rules = cloud.shell("nft list ruleset");
    assert!(rules.contains("masquerade"), "{rules}");
    assert_eq!(cloud.shell("cat /proc/sys/net/ipv4/ip_forward"), "1");
}

fn disks_are_as_ordered(machine: &Machine<'_>) {
    let serials =
        machine.ssh("for disk in vda vdb vdc vdd; do cat /sys/block/$disk/serial; echo; done");
    let serials: Vec<&str> = serials.split_whitespace().collect();
    assert_eq!(serials, ["root", "swap", "volatile0", "data0"]);
    assert_eq!(machine.ssh("cat /sys/block/vdd/ro"), "1");
    assert_eq!(machine.ssh("head -c 16 /dev/vdd"), "read-only data 1");
    assert_eq!(
        machine.ssh("cat /sys/block/vdc/size"),
        (1_u64 << 30).div_ceil(512).to_string()
    );
    let swaps = machine.ssh("cat /proc/swaps");
    assert!(swaps.contains("/dev/vdb"), "{swaps}");
}

fn the_console_is_shown(cloud: &TestCloud, number: u64) {
    let console = cloud.cli(&["console", &number.to_string()]);
    assert!(console.contains("stratus-ready"), "{console}");
    assert!(console.contains("hostkey=SHA256:"), "{console}");
}

/// Without a namespace there is nothing to look at: only that the programs say who they are.
#[test]
fn the_programs_say_their_version() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let version = cloud.cli(&["--version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let status: Value = cloud.cli_json(&["status"]);
    assert_eq!(status["status"], "ok", "{status}");
    let refused = cloud.run(Command::new("curl").args([
        "-ksS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "https://127.0.0.1:8443/cimi/Machine",
    ]));
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "401");
    let table = cloud.cli(&["host", "list"]);
    assert!(table.contains("testhost"), "{table}");
    cloud.assert_clean();
}

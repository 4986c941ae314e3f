//! The operator's own interface becomes a port of a bridge and leaves it again, under the operator's own connection.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

mod scene;

use std::io::Write as _;

use scene::{Operator, Scene, gone};
use testkit::{Need, skip_unless};

fn cannot_run() -> bool {
    let programs = ["ip", "ss", "nft", "busybox"];
    let needs: Vec<Need> = programs.into_iter().map(Need::Program).collect();
    skip_unless(&[&[Need::Root], needs.as_slice()].concat())
}

#[test]
fn who_is_here_by_the_interface_stays_and_all_goes_with_it_there_and_back() {
    if cannot_run() {
        return;
    }
    let scene = Scene::new();
    let (before, files) = (scene.kernel(), scene.interfaces());
    let mut echo = scene.connection();
    // All is said and read by the interface that is moved.
    let mut operator = Operator::at(&scene, 2222);
    operator.type_in(&scene.command("attach eth1 --confirm 300 --reach 192.0.2.1:7"));
    let told = operator.read_until("confirm within");
    for line in [
        "address 192.0.2.5/24 goes from eth1 to br-eth1",
        "route default via 192.0.2.1 metric 50 goes",
        "must answer afterwards: the gateway 192.0.2.1",
        "must answer afterwards: the gateway fe80::1",
        "must answer afterwards: your connection from 192.0.2.1:",
        "does your connection from 192.0.2.1:",
        "does 192.0.2.1:7 answer?",
    ] {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }
    echo.lives();
    assert_eq!(scene.interfaces(), files, "nothing is for ever yet");
    assert!(
        scene
            .run("status")
            .contains("br-eth1 has what eth1 had, and waits")
    );
    let again = scene.run("attach eth1");
    assert!(
        again.contains("a change waits for being confirmed"),
        "{again}"
    );

    // By a connection of its own, which comes by the bridge.
    let mut second = Operator::at(&scene, 2223);
    second.type_in(&scene.command("confirm"));
    second.read_until("br-eth1 has what eth1 had");
    operator.read_until("kept");
    let bridged = scene.kernel();
    assert_eq!(
        Scene::as_of_one(&bridged),
        before,
        "all that one had the other has"
    );
    assert!(!bridged.contains("dev eth1 "), "{bridged}");
    let link = scene.ip("link show dev eth1");
    assert!(link.contains("master br-eth1"), "{link}");
    let bridge = scene.ip("link show dev br-eth1");
    assert!(
        bridge.contains("mtu 1450") && bridge.contains(Scene::MAC),
        "{bridge}"
    );
    assert!(scene.interfaces().contains("iface br-eth1 inet static"));
    assert_eq!(scene.run("status"), "eth1 is in br-eth1\n");
    echo.lives();

    operator.type_in(&scene.command("detach br-eth1 --confirm 0"));
    operator.read_until("kept");
    assert_eq!(scene.kernel(), before);
    assert_eq!(scene.interfaces(), files);
    assert!(gone(&scene, "br-eth1"));
    echo.lives();
}

#[test]
fn what_does_not_answer_any_more_or_is_not_confirmed_is_put_back() {
    if cannot_run() {
        return;
    }
    let scene = Scene::new();
    let (before, files) = (scene.kernel(), scene.interfaces());
    let mut echo = scene.connection();
    // A firewall that knows the interface by name, as an operator's does.
    scene.nft("add table inet own; add chain inet own input { type filter hook input priority 0; policy accept; }; add rule inet own input iifname br-eth1 tcp sport 7 drop");
    let told = scene.run("attach eth1 --reach 192.0.2.1:7");
    assert!(
        told.contains("192.0.2.1:7 doesn't answer any more: all is as it was before"),
        "{told}"
    );
    assert_eq!(scene.kernel(), before);
    scene.nft("delete table inet own");

    let told = scene.run("attach eth1 --confirm 1");
    assert!(
        told.contains("nobody confirmed it in time: all is as it was before"),
        "{told}"
    );
    assert_eq!(scene.kernel(), before);
    let late = scene.run("confirm");
    assert!(late.contains("no change waits"), "{late}");

    // Nor does it stay when who waits is gone with the connection.
    let mut waiting = scene.spawn("attach eth1 --confirm 2");
    waiting.read_until("confirm within");
    waiting.kill();
    scene.until_settled();
    assert_eq!(scene.kernel(), before);

    // Detaching is no different.
    assert!(scene.run("attach eth1 --confirm 0").contains("kept"));
    let bridged = (scene.kernel(), scene.interfaces());
    assert!(
        scene
            .run("detach br-eth1 --confirm 1")
            .contains("nobody confirmed")
    );
    assert_eq!((scene.kernel(), scene.interfaces()), bridged);
    assert!(scene.run("detach eth1 --confirm 0").contains("kept"));
    assert_eq!((scene.kernel(), scene.interfaces()), (before, files));
    echo.lives();
}

#[test]
fn who_is_killed_at_any_step_leaves_all_as_it_was() {
    if cannot_run() {
        return;
    }
    let scene = Scene::new();
    let mut echo = scene.connection();
    let before = scene.kernel();
    let joining = [
        "making br-eth1",
        "giving br-eth1 the addresses",
        "putting eth1 into br-eth1",
        "routing by br-eth1",
        "taking the addresses of eth1",
        "does the gateway 192.0.2.1",
    ];
    for step in joining {
        let mut worker = scene.spawn("attach eth1");
        worker.read_until(step);
        worker.kill();
        scene.until_settled();
        assert_eq!(scene.kernel(), before, "killed at: {step}");
        assert!(gone(&scene, "br-eth1"), "killed at: {step}");
        echo.lives();
    }
    // With the guard, too: whoever comes next does it.
    let mut worker = scene.spawn("attach eth1");
    worker.read_until("taking the addresses of eth1");
    worker.kill_with_guard();
    assert_ne!(scene.kernel(), before);
    let told = scene.run("confirm");
    assert!(told.contains("no change waits"), "{told}");
    assert_eq!(scene.kernel(), before);

    assert!(scene.run("attach eth1 --confirm 0").contains("kept"));
    let bridged = scene.kernel();
    let leaving = [
        "giving eth1 the addresses",
        "taking eth1 out of br-eth1",
        "routing by eth1",
        "taking the addresses of br-eth1",
        "does the gateway 192.0.2.1",
    ];
    for step in leaving {
        let mut worker = scene.spawn("detach br-eth1");
        worker.read_until(step);
        worker.kill();
        scene.until_settled();
        assert_eq!(scene.kernel(), bridged, "killed at: {step}");
        echo.lives();
    }
}

#[test]
fn what_can_not_be_a_port_is_refused_by_name_and_nothing_is_changed() {
    if cannot_run() {
        return;
    }
    let scene = Scene::new();
    let before = scene.kernel();
    scene.ip("link add busy type veth peer name other");
    scene.ip("link add br7 type bridge");
    scene.ip("link set busy master br7 up");
    scene.ip("link add tagged type veth peer name far");
    scene.ip("link set tagged up");
    scene.ip("link add link tagged name upon type macvlan");
    for (interface, why) in [
        ("eth7", "eth7: there is none; there are: "),
        ("lo", "lo: it is the loopback interface"),
        ("br7", "br7: it is a bridge itself"),
        ("busy", "busy: it is in br7 already"),
        ("tagged", "tagged: upon on it would hear nothing any more"),
        ("other", "other: it is down: ip link set other up"),
        ("eth1 --bridge br7", "there is an interface br7 already"),
        (
            "eth1 --reach 192.0.2.1:9",
            "192.0.2.1:9 is to be reached afterwards, and isn't before",
        ),
    ] {
        // Nobody listens there, and nobody refuses.
        scene.site_drops(9);
        let told = scene.run(&format!("attach {interface}"));
        assert!(told.contains(why), "{why}: {told}");
    }
    let told = scene.run("detach br7");
    assert!(
        told.contains("was not made by `stratusd network attach`"),
        "{told}"
    );

    let plan = scene.run("attach eth1 --dry-run");
    assert!(plan.contains("for the next boot (ifupdown): "), "{plan}");
    std::fs::write(scene.root().join("etc/network/interfaces"), "auto lo\n").unwrap();
    let told = scene.run("attach eth1");
    assert!(told.contains("with --until-boot"), "{told}");
    // NetworkManager would undo it.
    let devices = scene.root().join("run/NetworkManager/devices");
    std::fs::create_dir_all(&devices).unwrap();
    let file = devices.join(scene.index("eth1"));
    std::fs::File::create(&file)
        .unwrap()
        .write_all(b"[device]\nmanaged=true\n")
        .unwrap();
    let told = scene.run("attach eth1");
    for line in [
        "nmcli connection add type bridge con-name br-eth1 ifname br-eth1",
        "ipv4.addresses 192.0.2.5/24,198.18.0.5/32,192.0.2.55/24 ipv4.gateway 192.0.2.1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(scene.kernel(), before);
    assert!(gone(&scene, "br-eth1"));
}

#[test]
fn an_address_that_is_lent_stays_and_goes_back_as_it_was_lent() {
    if cannot_run() {
        return;
    }
    let scene = Scene::new();
    scene.ip("address change 192.0.2.5/24 brd + dev eth1 valid_lft 5000 preferred_lft 4000");
    let plan = scene.run("attach eth1 --dry-run");
    assert!(plan.contains("its address is lent by DHCP"), "{plan}");
    let mut worker = scene.spawn("attach eth1");
    worker.read_until("confirm within");
    assert!(
        scene
            .ip("-o address show dev br-eth1 to 192.0.2.5")
            .contains("valid_lft forever")
    );
    worker.kill();
    assert!(scene.run("confirm").contains("br-eth1 has what eth1 had"));
    scene.until_settled();
    let told = scene.run("detach br-eth1 --confirm 1");
    assert!(told.contains("nobody confirmed"), "{told}");

    assert!(scene.run("detach br-eth1 --confirm 0").contains("kept"));
    scene.ip("address change 192.0.2.5/24 brd + dev eth1 valid_lft 5000 preferred_lft 4000");
    assert!(
        scene
            .run("attach eth1 --confirm 1")
            .contains("nobody confirmed")
    );
    let lent = scene.ip("-o address show dev eth1 to 192.0.2.5");
    assert!(
        lent.contains("valid_lft") && !lent.contains("forever"),
        "{lent}"
    );
}

//! A guest with another's address or MAC reaches nobody.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use serde_json::Value;
use testkit::{TestCloud, skip_unless};

#[test]
fn a_guest_that_pretends_reaches_nobody() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let (liar, victim) = (cloud.machine(), cloud.machine());
    liar.wait_for_ssh();
    victim.wait_for_ssh();
    let victims = victim.address();
    assert!(
        liar.ssh(&format!(
            "ping -c 1 -W 5 {victims} >/dev/null && echo reached"
        ))
        .contains("reached"),
        "honest guests reach each other"
    );

    // With another address beside its own, it asks as that one.
    let alias = "10.77.0.200";
    let told = liar.ssh(&format!(
        "ip addr add {alias}/24 dev eth0; for target in {victims} 10.77.0.1; do ping -c 2 -W 1 -I {alias} $target >/dev/null && echo reached $target; done; ip addr del {alias}/24 dev eth0; true"
    ));
    assert!(!told.contains("reached"), "{told}");
    let counted = dropped(&cloud);
    assert!(
        counted("spoofed_arp") > 0 || counted("spoofed_address") > 0,
        "nothing counted"
    );

    // With the victim's own address: the victim keeps its connections, and the way to it does not change.
    liar.ssh(&format!("ip addr add {victims}/32 dev eth0; arping -U -c 2 -I eth0 {victims} >/dev/null 2>&1; ip addr del {victims}/32 dev eth0; true"));
    assert_eq!(victim.ssh("echo still me"), "still me");

    // With another MAC it is mute; afterwards all is as before.
    let told = liar.ssh(&format!(
        "mac=$(cat /sys/class/net/eth0/address); \
         change() {{ ip link set eth0 down; ip link set eth0 address $1; ip link set eth0 up; ip route add default via 10.77.0.1 2>/dev/null; }}; \
         (sleep 1; change 02:00:00:00:00:99; ping -c 3 -W 1 {victims} >/tmp/result 2>&1; change $mac) >/dev/null 2>&1 & echo begun"
    ));
    assert_eq!(told, "begun");
    // While it is mute nobody can ask it; when it answers, the file tells whether it has been.
    let result = testkit::wait_until(
        "the ping's result",
        std::time::Duration::from_secs(90),
        || {
            let answer = liar.try_ssh("cat /tmp/result 2>/dev/null");
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            Some(text).filter(|text| text.contains("packet loss"))
        },
    );
    assert!(result.contains("100% packet loss"), "{result}");
    assert!(dropped(&cloud)("spoofed_mac") > 0, "nothing counted");

    liar.kill();
    victim.kill();
    cloud.assert_clean();
}

/// The firewall's counters by name, packets, as nftables says.
fn dropped(cloud: &TestCloud) -> impl Fn(&str) -> u64 {
    let listing: Value = serde_json::from_str(&cloud.shell("nft -j list counters")).unwrap();
    move |name| {
        let counters = listing["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| &object["counter"]);
        counters
            .filter(|counter| counter["name"] == name)
            .filter_map(|counter| counter["packets"].as_u64())
            .sum()
    }
}

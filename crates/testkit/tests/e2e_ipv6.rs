//! Machines on a network with IPv6: they make their address themselves, it is shown as that, and they have no other.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Machine, Namespace, Options, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Another network than the one that all tests have, which is without.
const SIX: &str = r#"
[networks.six]
class = "public"
tag = "6"
subnet = "10.78.0.0/24"
subnet6 = "fd12:5c31:1::/64"
domain = "six.internal"
nat = true
"#;
const GATEWAY: &str = "fd12:5c31:1::1";
const WORLD: &str = "fd00:beef::2";

/// A machine whose first user's script writes down what its context says of IPv6.
fn machine<'a>(cloud: &'a TestCloud, image: &str) -> Machine<'a> {
    let mut document = cloud.machine_document(image);
    let template = &mut document["machineTemplate"];
    template["networkInterfaces"] = json!([{"network": {"href": "Network/six"}}]);
    template["context"] = json!({
        "START_SCRIPT": ". /mnt/stratuslab/context.sh; echo \"$ETH0_IP6 $ETH0_IP6_GATEWAY\" > /root/told"
    });
    cloud.machine_of(&cloud.api(), &document)
}

/// Waits until a machine has an address, and uses it.
fn has(machine: &Machine<'_>, address: &str) {
    wait_until("a machine to have its address", LIMIT, || {
        let has = machine.ssh("ip -6 addr show dev eth0 scope global");
        (has.contains(&format!("{address}/64")) && !has.contains("tentative")).then_some(())
    });
}

fn reaches(from: &Machine<'_>, to: &str) -> bool {
    let asked = from.try_ssh(&format!("ping6 -c 1 -W 5 {to} >/dev/null && echo reached"));
    String::from_utf8_lossy(&asked.stdout).contains("reached")
}

#[test]
fn machines_have_the_ipv6_addresses_that_are_shown_and_no_others() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        tables: SIX.to_owned(),
        ..Options::default()
    });
    let world = Namespace::new();
    let namespace = cloud.namespace().unwrap();
    namespace.connect("fd00:beef::1/64", &world, &format!("{WORLD}/64"));
    let image = cloud.image();
    let (one, other) = (machine(&cloud, &image), machine(&cloud, &image));
    let shown = |machine: &Machine<'_>| {
        machine.document()["addresses6"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (address, others) = (shown(&one), shown(&other));
    assert!(address.starts_with("fd12:5c31:1::aff:fe4e:"), "{address}");
    one.wait_for_ssh();
    other.wait_for_ssh();
    let number = one.vmid.to_string();
    let listed = cloud.cli_json(&["describe-instance", &number]);
    let listed: &Value = listed.get(0).unwrap_or(&listed);
    assert_eq!(listed["addresses6"], json!([address]), "{listed}");
    has(&one, &address);
    has(&other, &others);
    let told = wait_until("what the context says", LIMIT, || {
        let told = one.try_ssh("cat /root/told");
        let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        Some(told).filter(|told| !told.is_empty())
    });
    assert_eq!(told, format!("{address} {GATEWAY}"));

    for to in [others.as_str(), GATEWAY, WORLD] {
        wait_until(to, LIMIT, || reaches(&one, to).then_some(()));
    }
    let name = format!("vm-{}.six.internal", others.replace(':', "-"));
    let known = one.ssh(&format!(
        "nslookup {name} {GATEWAY}; nslookup {others} {GATEWAY}"
    ));
    assert!(known.contains(&others) && known.contains(&name), "{known}");

    // As another it reaches nobody.
    let alias = "fd12:5c31:1::77";
    one.ssh(&format!("ip -6 addr add {alias}/64 dev eth0"));
    has(&one, alias);
    for to in [others.as_str(), GATEWAY] {
        let answers = one.try_ssh(&format!("ping6 -c 2 -W 1 -I {alias} {to}"));
        assert!(!answers.status.success(), "{answers:?}");
    }
    let counters = cloud.shell("nft list counters");
    for counter in ["spoofed_neighbour", "spoofed_address"] {
        let name = format!("counter {counter} ");
        let counted = counters.split(&name).skip(1);
        let mut counted = counted.map(|rest| rest.split_whitespace().nth(2).unwrap_or("0"));
        assert!(
            counted.any(|packets| packets != "0"),
            "{counter}: {counters}"
        );
    }
    one.ssh(&format!("ip -6 addr del {alias}/64 dev eth0"));
    assert!(reaches(&one, &others));

    // The daemon goes, the machines stay.
    cloud.kill();
    cloud.start_again();
    one.wait_for_phase("Running");
    assert!(reaches(&one, &others) && reaches(&one, WORLD));
    one.kill();
    other.kill();
    one.wait_for_phase("Done");
    other.wait_for_phase("Done");
    cloud.assert_clean();
}

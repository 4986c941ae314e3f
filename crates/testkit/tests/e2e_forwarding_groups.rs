//! Guests of two networks reach each other as long as these are in one forwarding group, and not else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Machine, Options, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// A second network, of which nothing leads out or in.
const LOCAL: &str = r#"
[networks.local]
class = "local"
tag = "1"
subnet = "10.78.0.0/24"
domain = "local.internal"
nat = false
"#;

/// Whether one guest gets an answer of the other, asked once.
fn reaches(from: &Machine<'_>, to: &str) -> bool {
    let output = from.try_ssh(&format!(
        "ping -c 1 -W 2 {to} >/dev/null 2>&1 && echo reached"
    ));
    String::from_utf8_lossy(&output.stdout).contains("reached")
}

/// Whether a guest gets more of what the other says over a connection that was begun before.
fn hears(guest: &Machine<'_>) -> bool {
    let output = guest.try_ssh(
        "before=$(wc -c </tmp/heard); sleep 4; [ $(wc -c </tmp/heard) -gt $before ] && echo more",
    );
    String::from_utf8_lossy(&output.stdout).contains("more")
}

#[test]
fn guests_of_a_group_reach_each_other_and_no_others() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        tables: LOCAL.to_owned(),
        ..Options::default()
    });
    let api = cloud.api();
    let image = cloud.image();
    let document = |network: &str| {
        let mut document = cloud.machine_document(&image);
        document["machineTemplate"]["networkInterfaces"] =
            json!([{"network": {"href": format!("Network/{network}")}}]);
        document
    };
    let outer = cloud.machine_of(&api, &document("public"));
    let inner = cloud.machine_of(&api, &document("local"));
    outer.wait_for_ssh();
    inner.wait_for_ssh();
    let (out, within) = (outer.address(), inner.address());
    assert!(!reaches(&outer, &within) && !reaches(&inner, &out));

    let networks = |names: &[&str]| -> Value {
        let all = names
            .iter()
            .map(|name| json!({"href": format!("Network/{name}")}));
        json!({"forwardingGroupTemplate": {"networks": all.collect::<Vec<_>>()}})
    };
    let group = api
        .post("ForwardingGroup", &networks(&["public", "local"]))
        .expect(201)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let both = || {
        wait_until("both to reach the other", LIMIT, || {
            (reaches(&outer, &within) && reaches(&inner, &out)).then_some(())
        });
    };
    both();
    // A daemon that was killed goes on with it.
    cloud.kill();
    cloud.start_again();
    both();

    // A connection that is open.
    // (busybox's nc ends where the other end has nothing more to say.)
    inner.ssh("(sleep 600 | nc -l -p 4000 >/tmp/heard) >/dev/null 2>&1 & echo listening");
    let say = "while :; do echo something; sleep 1; done";
    wait_until("a connection", LIMIT, || {
        outer.ssh(&format!(
            "({say}) 2>/dev/null | nc {within} 4000 >/dev/null 2>&1 & echo begun"
        ));
        hears(&inner).then_some(())
    });

    api.delete(&format!("{group}/networks/local")).ok();
    wait_until("nobody to reach the other", LIMIT, || {
        (!reaches(&outer, &within) && !reaches(&inner, &out)).then_some(())
    });
    assert!(!hears(&inner), "what was open is cut, too");
    api.post(
        &format!("{group}/networks"),
        &json!({"network": {"href": "Network/local"}}),
    )
    .ok();
    both();
    api.delete(&group).ok();
    wait_until("nobody to reach the other", LIMIT, || {
        (!reaches(&outer, &within) && !reaches(&inner, &out)).then_some(())
    });
    outer.kill();
    inner.kill();
    outer.wait_for_phase("Done");
    inner.wait_for_phase("Done");
    cloud.assert_clean();
}

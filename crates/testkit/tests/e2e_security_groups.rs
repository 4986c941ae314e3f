//! Security groups by the command line, with real guests: who is let in, while rules, members and a machine's groups change, the
//! daemon is killed, and machines are stopped and started.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::Value;
use testkit::{Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// Whether one guest gets what the other has to say at a port, asked once.
fn hears(from: &Machine<'_>, to: &str, port: u16) -> bool {
    let output = from.try_ssh(&format!("nc -w 3 {to} {port} </dev/null 2>/dev/null"));
    String::from_utf8_lossy(&output.stdout).contains("here")
}

fn pings(from: &Machine<'_>, to: &str) -> bool {
    let output = from.try_ssh(&format!(
        "ping -c 1 -W 3 {to} >/dev/null 2>&1 && echo reached"
    ));
    String::from_utf8_lossy(&output.stdout).contains("reached")
}

/// Says something to whoever asks.
fn serve(machine: &Machine<'_>, port: u16) {
    machine.ssh(&format!(
        "(while :; do echo here | nc -l -p {port} >/dev/null; done) >/dev/null 2>&1 & echo serving"
    ));
}

fn start<'c>(cloud: &'c TestCloud, image: &str, groups: &[&str]) -> Machine<'c> {
    let mut arguments = vec!["run-instance"];
    for group in groups {
        arguments.extend(["--security-group", group]);
    }
    arguments.push(image);
    let started = cloud.cli_json(&arguments);
    let document = cloud.api().get(started[0]["uri"].as_str().unwrap());
    cloud.known_machine(&cloud.api(), &document.expect(200))
}

fn becomes(what: &str, is_so: impl Fn() -> bool) {
    wait_until(what, LIMIT, || is_so().then_some(()));
}

#[test]
fn guests_are_reached_as_their_groups_say() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let image = cloud.image();
    let image = image.rsplit('/').next().unwrap();
    let run = |arguments: &[&str]| {
        let mut all = vec!["security-group"];
        all.extend(arguments);
        cloud.cli(&all)
    };
    run(&["create", "web", "--description", "the shop"]);
    run(&["create", "app"]);
    run(&["create", "none"]);
    run(&["allow", "web", "tcp/22"]);
    run(&["allow", "web", "tcp/4000", "--from", "app"]);
    run(&["allow", "app", "tcp/22"]);
    let listed = run(&["list"]);
    assert!(
        listed.contains("web") && listed.contains("the shop"),
        "{listed}"
    );

    let web = start(&cloud, image, &["web"]);
    let other = start(&cloud, image, &[]);
    web.wait_for_ssh();
    other.wait_for_ssh();
    serve(&web, 4000);
    serve(&other, 4000);
    let (at_web, at_other) = (web.address(), other.address());
    // What it begins, and the answers; whatever reaches the one without a group.
    becomes("it to begin what it likes", || {
        hears(&web, &at_other, 4000) && pings(&web, &at_other)
    });
    assert!(!hears(&other, &at_web, 4000) && !pings(&other, &at_web));

    let number = other.vmid.to_string();
    run(&["add", "app", &number]);
    becomes("members to be let in", || hears(&other, &at_web, 4000));
    let shown: Value = cloud.cli_json(&["security-group", "show", "app"]);
    assert_eq!(shown["machines"], serde_json::json!([other.vmid]));
    // As a member it is behind a group that lets nobody in.
    assert!(!hears(&web, &at_other, 4000));

    // The daemon is killed, and a machine is stopped and started.
    cloud.kill();
    cloud.start_again();
    becomes("a member to be let in still", || {
        hears(&other, &at_web, 4000)
    });
    assert!(!pings(&other, &at_web) && !hears(&web, &at_other, 4000));
    cloud.cli(&["stop-instance", "--wait", &web.vmid.to_string()]);
    cloud.cli(&["start-instance", "--wait", &web.vmid.to_string()]);
    web.wait_for_ssh();
    serve(&web, 4000);
    becomes("a member to be let in again", || {
        hears(&other, &at_web, 4000)
    });
    assert!(!pings(&other, &at_web));

    run(&["allow", "web", "icmp/8"]);
    becomes("a ping to be let in", || pings(&other, &at_web));
    // Outward: nothing but what is named.
    run(&["allow", "web", "tcp/4001", "--to", "app"]);
    run(&["allow", "app", "tcp/4000-4001"]);
    becomes("only what is named to get out", || {
        !hears(&web, &at_other, 4000)
    });
    serve(&other, 4001);
    becomes("what is named to get out", || hears(&web, &at_other, 4001));

    // In use, so it stays; and a machine that leaves it is free.
    let refused = cloud.try_cli(&["security-group", "delete", "web"]);
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && said.contains(&web.id),
        "{refused:?}"
    );
    run(&["remove", "web", &web.vmid.to_string()]);
    becomes("everybody to be let in", || pings(&other, &at_web));
    run(&["delete", "web"]);
    web.kill();
    other.kill();
    web.wait_for_phase("Done");
    other.wait_for_phase("Done");
    run(&["delete", "app", "none"]);
    assert!(cloud.api().list("SecurityGroup").is_empty());
    cloud.assert_clean();
}

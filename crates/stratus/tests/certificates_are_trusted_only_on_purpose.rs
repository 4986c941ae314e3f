//! TLS: what is trusted, how trust is given, and what is said when it is missing.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use crate::support::{Cloud, Reply, certificate, collection, ended, ended_with_input};
use serde_json::json;

fn empty_cloud() -> Cloud {
    Cloud::start(|_| Reply::json(200, &collection("machines", &[])))
}

const HEADER: &str = "id  state     vcpu memory    cpu% host/ip                 name\n";

#[test]
fn an_unknown_certificate_is_refused_and_the_message_says_what_to_do() {
    let cloud = empty_cloud();
    let mut command = cloud.command();
    command.arg("describe-instance");
    let result = ended(command);
    assert_eq!(result.status, 255, "{result:?}");
    assert!(
        result.stdout.starts_with(&format!(
            "Error: the certificate of localhost:{} is not trusted: it is signed by itself",
            cloud.port
        )),
        "{result:?}"
    );
    assert!(result.stdout.contains("SHA256:"), "{result:?}");
    assert!(
        result
            .stderr
            .contains(&format!("stratus trust https://localhost:{}", cloud.port)),
        "{result:?}"
    );
    assert!(
        cloud.lines().is_empty(),
        "credentials went to a cloud that is not trusted: {:?}",
        cloud.requests()
    );
}

#[test]
fn a_ca_file_is_trusted_by_variable_option_and_key() {
    let cloud = empty_cloud();
    assert_eq!(cloud.run("describe-instance").success(), HEADER);
    let mut command = cloud.command();
    command.args(["describe-instance", "--ca", "ca.pem"]);
    assert_eq!(ended(command).success(), HEADER);
    std::fs::write(
        cloud.home.path().join("c.cfg"),
        "[default]\nca_file = ca.pem\n",
    )
    .unwrap();
    let mut command = cloud.command();
    command.args(["describe-instance", "-c", "c.cfg"]);
    assert_eq!(ended(command).success(), HEADER);
    let mut command = cloud.command();
    command.args(["describe-instance", "--ca", "missing.pem"]);
    let result = ended(command);
    assert!(
        result.status == 255 && result.stdout.contains("'missing.pem' cannot be used"),
        "{result:?}"
    );
}

#[test]
fn a_ca_file_does_not_make_another_host_name_right() {
    let certified = rcgen::generate_simple_self_signed(["cloud.example.org".to_owned()]).unwrap();
    let cloud = Cloud::start_with(&certified, 0, |_| Reply::json(200, &json!({})));
    let result = cloud.run("describe-instance");
    assert!(
        result.status == 255 && result.stdout.contains("it is for another host name"),
        "{result:?}"
    );
}

#[test]
fn a_trusted_certificate_is_pinned_and_a_changed_one_refused() {
    let cloud = empty_cloud();
    let mut trust = cloud.command();
    trust.arg("trust");
    let result = ended(trust);
    assert!(
        result.status == 1 && result.stderr.contains("--fingerprint"),
        "it must not trust without being told: {result:?}"
    );

    let mut trust = cloud.command();
    trust.args(["trust", "--fingerprint", &"ab".repeat(32)]);
    let result = ended(trust);
    assert!(
        result.status == 255 && result.stdout.contains("another certificate than expected"),
        "{result:?}"
    );

    let mut trust = cloud.command();
    trust.args(["trust", "--yes", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&ended(trust).success()).unwrap();
    assert!(
        shown["fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("SHA256:")
    );
    let mut command = cloud.command();
    command.arg("describe-instance");
    assert_eq!(ended(command).success(), HEADER);

    // Another certificate at the same place.
    let (port, known) = (
        cloud.port,
        cloud.home.path().join(".stratuslab/known_clouds"),
    );
    let pins = std::fs::read_to_string(&known).unwrap();
    let other = Cloud::start_with(&certificate(), 0, |_| {
        Reply::json(200, &collection("machines", &[]))
    });
    std::fs::create_dir_all(other.home.path().join(".stratuslab")).unwrap();
    std::fs::write(
        other.home.path().join(".stratuslab/known_clouds"),
        pins.replace(&format!(":{port} "), &format!(":{} ", other.port)),
    )
    .unwrap();
    for result in [
        other.run("describe-instance"),
        other.run("describe-volumes"),
    ] {
        assert!(
            result.status == 255 && result.stdout.contains("has changed"),
            "{result:?}"
        );
        assert!(result.stderr.contains("stratus trust"), "{result:?}");
    }
    assert!(other.lines().is_empty());

    let mut forget = cloud.command();
    forget.args(["trust", "--forget"]);
    ended(forget).success();
    let mut command = cloud.command();
    command.arg("describe-instance");
    assert_eq!(ended(command).status, 255);
}

#[test]
fn a_list_of_known_clouds_that_is_not_understood_ends_the_command() {
    let cloud = empty_cloud();
    std::fs::create_dir_all(cloud.home.path().join(".stratuslab")).unwrap();
    std::fs::write(
        cloud.home.path().join(".stratuslab/known_clouds"),
        "localhost what\n",
    )
    .unwrap();
    let mut command = cloud.command();
    command.arg("describe-instance");
    let result = ended_with_input(command, "");
    assert!(
        result.status == 255 && result.stdout.contains("known_clouds line 1"),
        "{result:?}"
    );
}

//! Schemathesis, a fuzzer that nobody here wrote, makes requests from the OpenAPI document, valid ones and others, against a
//! real daemon: none is answered by 5xx, and the daemon lives on.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{env, path::Path, process::Command};

use serde_json::json;
use testkit::{Need, TestCloud, skip_unless};

/// How long it may ask, in seconds; what it found until then counts.
const SECONDS: &str = "70";

#[test]
fn whatever_follows_from_the_openapi_document_is_answered_without_a_server_error() {
    asked_as(&["::ADMIN"], 3);
}

#[test]
fn nor_is_what_a_user_without_rights_asks() {
    asked_as(&[], 1);
}

/// Has everything asked by somebody with these roles, so many requests of each operation.
fn asked_as(roles: &[&str], examples: usize) {
    let Some(program) = schemathesis() else {
        return;
    };
    let cloud = TestCloud::start_user_mode();
    // One that the fuzzer can't lock out: the last administrator with a password stays, this one may go.
    let api = cloud.api();
    let account = json!({"username": "fuzzer", "password": "fuzzer-password", "roles": roles});
    api.post("User", &account).ok();
    let root = api.base().trim_end_matches('/').trim_end_matches("/cimi");
    let mut command = Command::new("timeout");
    command
        .args(["--signal=INT", "--kill-after=20", SECONDS, &program, "run"])
        .arg(format!("{root}/api/openapi.json"))
        .args(["--url", root, "--auth", "fuzzer:fuzzer-password"])
        .args(["--checks", "not_a_server_error", "--workers", "2"])
        .args(["--phases", "fuzzing", "--max-examples"])
        .arg(examples.to_string())
        .args(["--request-timeout", "20", "--no-color", "--no-shrink"])
        .args(["--generation-database", "none", "--warnings", "off"])
        .args(["--suppress-health-check", "all"])
        // What reports that the host is ill says so by 503.
        .args(["--exclude-path", "/health"])
        .args(["--exclude-method", "HEAD", "--exclude-method", "OPTIONS"])
        .arg("--tls-verify")
        .arg(cloud.state_dir().join("tls/ca.pem"))
        .env("NO_PROXY", "*")
        .current_dir(cloud.folder());
    let output = cloud.run(&mut command);
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let log = cloud.log();
    let server_errors: Vec<_> = (log.lines())
        .filter(|line| line.contains(" access: ") && line.contains(" status=5"))
        .filter(|line| !line.contains(r#"path="/health"#))
        .collect();
    assert!(
        server_errors.is_empty() && !told.contains("Network Error"),
        "{server_errors:#?}\n{told}\nthe daemon's log ends:\n{}",
        cloud.log_tail()
    );
    // 124: the time was over; what was asked until then was answered well. With 1 it also ends where an operation
    // "failed" because the tool could not make up the same request twice: it then says that it found nothing.
    let ended_well =
        matches!(output.status.code(), Some(0 | 124 | 130)) || told.contains("No issues found");
    assert!(ended_well, "{}: {told}\n{errors}", output.status);
    let (selected, tested) = (number(&told, "Selected: "), number(&told, "Tested: "));
    assert!(selected > 100 && tested > 30, "it asked little: {told}");
    assert!(cloud.daemon_runs());
    cloud.api().get("Machine").ok();
}

/// The number behind a word of the tool's summary.
fn number(told: &str, word: &str) -> usize {
    let behind = told.split_once(word).map_or("", |(_, behind)| behind);
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The path of the tool, which is installed if it isn't there; nothing where it can't be.
fn schemathesis() -> Option<String> {
    if skip_unless(&[Need::Program("python3"), Need::Program("timeout")]) {
        return None;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let script = repository.unwrap().join("packaging/schemathesis");
    let found = Command::new(&script).output().unwrap();
    if found.status.code() == Some(3) {
        let reason = String::from_utf8_lossy(&found.stderr);
        let required = env::var_os("STRATUS_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "STRATUS_REQUIRE_ALL=1, but: {reason}");
        println!("SKIPPED: {reason}");
        return None;
    }
    assert!(found.status.success(), "{found:?}");
    Some(String::from_utf8(found.stdout).unwrap().trim().to_owned())
}

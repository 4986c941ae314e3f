//! A command that has several things to ask of the cloud asks its user for the password once.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::Command;

use serde_json::json;

use crate::support::{Cloud, Reply, ended_with_input};

#[test]
fn a_command_of_several_parts_asks_for_the_password_once() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        line if line.starts_with("GET /cimi/User/") => {
            Reply::json(200, &json!({"roles": ["::ADMIN"]}))
        }
        _ => Reply::json(200, &json!({})),
    });
    // On a terminal of its own: `script` passes on what it reads as if it were typed.
    let program = cloud.command();
    let mut command = Command::new("script");
    let run = format!(
        "{} user enable --ca ca.pem ann zoe",
        program.get_program().display()
    );
    let environment = program.get_envs();
    command
        .env_clear()
        .envs(environment.filter_map(|(name, value)| Some((name, value?))))
        .env_remove("STRATUSLAB_PASSWORD")
        .current_dir(cloud.home.path())
        .args(["-qec", &run, "/dev/null"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let ended = ended_with_input(command, "s3cret\n");
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.stdout.matches("password: ").count(), 1, "{ended:?}");
    let expected = "Basic am9lOnMzY3JldA==";
    let requests = cloud.requests();
    assert!(
        requests.len() > 2
            && requests
                .iter()
                .all(|seen| seen.headers["authorization"] == expected),
        "{requests:?}"
    );
}

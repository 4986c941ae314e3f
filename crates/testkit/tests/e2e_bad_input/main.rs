//! What is wrong, missing, huge or hostile is refused with a message, and leaves nothing.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

mod attributes;
mod commands;
mod images;
mod routes;

use cimi::model::{Kind, describe};
use serde_json::json;
use testkit::{Api, Reply, TestCloud};

/// Refusals have a status of 400 to 499 and a text; nothing ends badly. What was accepted is removed again.
#[track_caller]
fn judge(cloud: &TestCloud, what: &str, reply: Result<Reply, String>, wrong: &mut Vec<String>) {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            wrong.push(format!("{what}: no answer: {error}"));
            return;
        }
    };
    if (200..300).contains(&reply.status) {
        if let Some(made) = reply.location.filter(|_| reply.status == 201) {
            remove(&cloud.api(), &made);
        }
        return;
    }
    if !(400..500).contains(&reply.status) {
        wrong.push(format!("{what}: {} {}", reply.status, reply.text()));
    } else if reply.detail().len() < 5 && reply.status != 401 {
        wrong.push(format!(
            "{what}: {} without a message: {}",
            reply.status,
            reply.text()
        ));
    } else if reply.bytes.len() > 4096 {
        wrong.push(format!(
            "{what}: {} with a message of {} bytes",
            reply.status,
            reply.bytes.len()
        ));
    }
}

fn remove(api: &Api, made: &str) {
    if made.starts_with("Machine/") {
        let _ = api.post(&format!("{made}/kill"), &json!({}));
    } else {
        let _ = api.delete(made);
    }
}

fn collections() -> impl Iterator<Item = Kind> {
    Kind::ALL
        .iter()
        .copied()
        .filter(|kind| describe(*kind).collection.is_some())
}

/// Nothing of all this made the daemon stumble.
#[track_caller]
fn survived(cloud: &TestCloud) {
    assert!(cloud.daemon_runs(), "{}", cloud.log_tail());
    let log = cloud.log();
    let panicked: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert!(panicked.is_empty(), "{}", panicked.join("\n"));
}

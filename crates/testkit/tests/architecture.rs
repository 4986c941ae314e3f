//! Who may depend on whom, as `ARCHITECTURE.md` says: asked of cargo, so that it holds.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// The crates of ours that each crate may use. What is not here is a decision: take it in `ARCHITECTURE.md`, then here.
const MAY_USE: &[(&str, &[&str])] = &[
    ("accounts", &["cimi"]),
    ("cimi", &[]),
    (
        "cloud",
        &[
            "accounts",
            "cimi",
            "context",
            "documents",
            "network",
            "store",
        ],
    ),
    ("context", &[]),
    ("documents", &["cimi", "store"]),
    ("doors", &["accounts", "cimi", "cloud"]),
    ("network", &[]),
    ("scheduler", &["cimi", "documents", "store"]),
    ("storage", &["cimi", "documents", "store"]),
    ("store", &[]),
    ("stratus", &["cimi", "context"]),
    (
        "stratusd",
        &[
            "accounts",
            "cimi",
            "cloud",
            "documents",
            "doors",
            "network",
            "scheduler",
            "storage",
            "store",
            "vmhost",
        ],
    ),
    ("testkit", &["cimi"]),
    (
        "vmhost",
        &[
            "cimi",
            "context",
            "documents",
            "network",
            "storage",
            "store",
        ],
    ),
];

/// What a crate must not do, by the libraries that it would do it with.
const MUST_NOT_USE: &[(&str, &str, &[&str])] = &[
    (
        "cimi",
        "do I/O",
        &["tokio", "hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    ("cloud", "know HTTP", &["hyper", "axum", "http", "reqwest"]),
    (
        "store",
        "be a server or a client",
        &["hyper", "axum", "reqwest"],
    ),
    (
        "scheduler",
        "do I/O",
        &["hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    ("doors", "hold state", &["rusqlite"]),
];

/// Names of the dependencies of each crate of the workspace; for its tests only, if `kind` is `dev`.
fn dependencies(kind: Option<&str>) -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap();
            let of_kind = all.iter().filter(|one| one["kind"].as_str() == kind);
            (
                text(&package["name"]),
                of_kind.map(|one| text(&one["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let all = dependencies(None);
    let allowed: BTreeMap<_, BTreeSet<_>> = MAY_USE
        .iter()
        .map(|(name, may)| (*name, may.iter().copied().collect()))
        .collect();
    assert_eq!(
        all.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>(),
        "the crates of the workspace"
    );
    for (name, uses) in &all {
        let ours: BTreeSet<&str> = uses
            .iter()
            .map(String::as_str)
            .filter(|used| allowed.contains_key(used))
            .collect();
        let may = &allowed[name.as_str()];
        assert!(
            ours.is_subset(may),
            "{name} uses {ours:?} and may use {may:?}"
        );
    }
}

#[test]
fn crates_do_not_use_what_they_must_not_know() {
    let all = dependencies(None);
    for (name, rule, libraries) in MUST_NOT_USE {
        let used: Vec<_> = libraries
            .iter()
            .filter(|library| all[*name].contains(**library))
            .collect();
        assert!(used.is_empty(), "{name} must not {rule}: it uses {used:?}");
    }
}

#[test]
fn the_testkit_is_for_tests() {
    let users: Vec<_> = dependencies(None)
        .into_iter()
        .filter(|(_, uses)| uses.contains("testkit"))
        .map(|(name, _)| name)
        .collect();
    assert!(users.is_empty(), "{users:?} ship the testkit");
}

//! Who may depend on whom, as `ARCHITECTURE.md` says: asked of cargo, so that it holds.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

/// The crates of ours that each crate may use. What is not here is a decision: take it in `ARCHITECTURE.md`, then here.
const MAY_USE: &[(&str, &[&str])] = &[
    ("accounts", &["certificates", "cimi", "passwords"]),
    ("certificates", &["cimi"]),
    ("cimi", &[]),
    (
        "cloud",
        &[
            "accounts",
            "cimi",
            "context",
            "documents",
            "mail",
            "network",
            "placement",
            "store",
            "trust",
        ],
    ),
    ("context", &[]),
    ("directory", &["accounts", "cimi"]),
    ("documents", &["cimi", "store"]),
    (
        "doors",
        &[
            "accounts",
            "certificates",
            "cimi",
            "cloud",
            "hosts",
            "marketplace",
            "marketplace-query",
            "marketplace-service",
            "relay",
            "store",
            "trust",
        ],
    ),
    ("enrolment", &["cloud", "directory"]),
    ("hosts", &["cimi", "documents", "store"]),
    ("mail", &["store"]),
    ("marketplace", &["certificates"]),
    ("marketplace-query", &["marketplace"]),
    (
        "marketplace-service",
        &["mail", "marketplace", "marketplace-query", "store"],
    ),
    ("network", &[]),
    ("passwords", &[]),
    ("placement", &["cimi"]),
    ("relay", &[]),
    (
        "saving",
        &["cimi", "documents", "mail", "marketplace", "store"],
    ),
    ("scheduler", &["cimi", "documents", "placement", "store"]),
    (
        "simulated-cloud",
        &[
            "cimi",
            "cloud",
            "documents",
            "hosts",
            "network",
            "placement",
            "scheduler",
            "storage",
            "store",
            "vmhost",
        ],
    ),
    ("simulator", &["cimi", "placement"]),
    ("storage", &["cimi", "documents", "marketplace", "store"]),
    ("store", &[]),
    (
        "stratus",
        &["cimi", "context", "marketplace", "passwords", "simulator"],
    ),
    (
        "stratusd",
        &[
            "accounts",
            "certificates",
            "cimi",
            "cloud",
            "directory",
            "documents",
            "doors",
            "enrolment",
            "mail",
            "marketplace",
            "marketplace-service",
            "network",
            "placement",
            "relay",
            "saving",
            "scheduler",
            "storage",
            "store",
            "trust",
            "vmhost",
        ],
    ),
    ("testkit", &["cimi", "trust"]),
    ("trust", &["cimi"]),
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
        "placement",
        "do I/O",
        &["tokio", "hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    (
        "simulator",
        "do I/O",
        &["tokio", "hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    (
        "scheduler",
        "do I/O",
        &["hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    ("doors", "hold state", &["rusqlite"]),
    (
        "marketplace",
        "do I/O",
        &["tokio", "hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
    (
        "marketplace-query",
        "do I/O",
        &["tokio", "hyper", "axum", "reqwest", "rusqlite", "rustix"],
    ),
];

/// Features with which a crate offers to other crates' tests what it must not have in a program.
const FOR_TESTS: &[&str] = &["testing", "conformance"];

/// Crates that are for tests altogether.
const TEST_CRATES: &[&str] = &["simulated-cloud", "testkit"];

/// Names of the dependencies of each crate of the workspace; for its tests only, if `kind` is `dev`.
fn dependencies(kind: Option<&str>) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    packages()
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

/// The crates of the workspace, as cargo describes them.
fn packages() -> Vec<Value> {
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
    metadata["packages"].as_array().unwrap().clone()
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
fn crates_for_tests_are_in_no_program() {
    let users: Vec<_> = dependencies(None)
        .into_iter()
        .filter(|(_, uses)| TEST_CRATES.iter().any(|one| uses.contains(*one)))
        .map(|(name, _)| name)
        .collect();
    assert!(users.is_empty(), "{users:?} ship what is for tests");
}

#[test]
fn what_is_for_tests_is_in_no_program() {
    let is_for_tests = |name: &Value| FOR_TESTS.contains(&name.as_str().unwrap());
    for package in packages() {
        let name = &package["name"];
        if TEST_CRATES.contains(&name.as_str().unwrap()) {
            continue;
        }
        let mut shipped = package["dependencies"].as_array().unwrap().iter();
        let enabled = shipped.find(|one| {
            one["kind"].as_str() != Some("dev")
                && one["features"].as_array().unwrap().iter().any(is_for_tests)
        });
        assert_eq!(enabled, None, "{name} ships what is for tests");
        let by_default = package["features"]["default"].as_array();
        let by_default = by_default.is_some_and(|names| names.iter().any(is_for_tests));
        assert!(!by_default, "{name} has it by default");
    }
}

/// Files and tests named in a cell of `SPECIFICATION.md`, as `crate: file (test), file; crate: file`.
fn named(cell: &str, last: &mut (String, String)) -> Vec<(String, String, Option<String>)> {
    let mut found = Vec::new();
    for part in cell.split(';').map(str::trim) {
        let (package, files) = part.split_once(": ").unwrap_or((&last.0, part));
        let (package, files) = (package.to_owned(), files.to_owned());
        let mut within = false;
        let files = files.split(|char| {
            within = (within || char == '(') && char != ')';
            char == ',' && !within
        });
        for one in files.map(str::trim) {
            let (file, tests) = one.split_once(" (").unwrap_or((one, ""));
            if file != "the same" {
                *last = (package.clone(), file.to_owned());
            }
            let of = |test: Option<String>| (last.0.clone(), last.1.clone(), test);
            if tests.is_empty() {
                found.push(of(None));
            }
            let tests = tests.trim_end_matches(')').split(", ");
            found.extend(
                tests
                    .filter(|test| !test.is_empty())
                    .map(|test| of(Some(test.to_owned()))),
            );
        }
    }
    found
}

/// The sources of a test program: one file, or a folder of modules.
fn test_program(tests: &Path, name: &str) -> String {
    let modules = fs::read_dir(tests.join(name)).into_iter().flatten();
    modules
        .map(|module| module.unwrap().path())
        .chain([tests.join(format!("{name}.rs"))])
        .map(|path| text_of(&path))
        .collect()
}

/// Empty if there is no such file.
fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn no_file_of_tests_is_forgotten() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for package in fs::read_dir(crates).unwrap() {
        let tests = package.unwrap().path().join("tests");
        // Without it each file is a program of its own, which cargo finds.
        let all = text_of(&tests.join("all.rs"));
        if all.is_empty() {
            continue;
        }
        for file in fs::read_dir(&tests).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let module = name.strip_suffix(".rs").filter(|module| *module != "all");
            assert!(
                module.is_none_or(|module| all.contains(&format!("mod {module};"))),
                "{}: {name} is no module of all.rs, so it isn't run",
                tests.display()
            );
        }
    }
}

#[test]
fn the_specification_names_tests_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(top.join("SPECIFICATION.md")).unwrap();
    let mut last = (String::new(), String::new());
    let mut missing = Vec::new();
    let mut count = 0;
    // Budgets name benchmarks.
    let promises = text.split("## Speed").next().unwrap();
    for line in promises.lines().filter(|line| line.starts_with("| ")) {
        let cell = line
            .trim_end_matches('|')
            .rsplit('|')
            .next()
            .unwrap()
            .trim();
        // Headings name nothing.
        if !(cell.contains(": ") || cell.starts_with("the same")) {
            continue;
        }
        for (package, file, test) in named(cell, &mut last) {
            count += 1;
            // A file of the sources is named as such, with its ending.
            let source = match file.trim_matches('`').strip_suffix(".rs") {
                Some(source) => text_of(&top.join(format!("crates/{package}/src/{source}.rs"))),
                None => test_program(&top.join(format!("crates/{package}/tests")), &file),
            };
            let there = match &test {
                Some(test) => source.contains(&format!("fn {test}(")),
                None => !source.is_empty(),
            };
            if !there {
                missing.push(format!("{package}: {file} {test:?}, in: {line}"));
            }
        }
    }
    assert!(count > 40, "only {count} tests were found named");
    assert!(
        missing.is_empty(),
        "promised and not there:\n{}",
        missing.join("\n")
    );
}

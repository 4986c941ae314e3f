//! Schedules of a whole cloud, each in a process of its own, so that it can be played again by its seed:
//!
//! ```text
//! STRATUS_SEED=17 RUST_LOG=info cargo nextest run --workspace --bins --tests --run-ignored all -E 'test(=schedules::one)' --no-capture
//! ```
//!
//! `STRATUS_SCHEDULES` says how many [`all_hold`] runs (20), `STRATUS_FIRST_SEED` from which on (1).
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::process::{Command, Stdio};

use simulated_cloud::{node, world};

use crate::chance_and_time;

fn number(name: &str, default: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(default, |told| told.parse().unwrap())
}

/// The schedule of `STRATUS_SEED`.
#[test]
#[ignore = "one of those that `all_hold` runs"]
fn one() {
    let seed = number("STRATUS_SEED", 1);
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let lines = tracing_subscriber::fmt().with_env_filter(filter);
        lines.with_writer(std::io::stderr).init();
    }
    chance_and_time::share_one_processor(seed);
    node::BLOCKING.get_or_init(|| chance_and_time::stand_back);
    // A thread whose hash tables begin with this seed, too.
    let schedule = std::thread::spawn(move || {
        chance_and_time::seed(seed);
        world::run(seed)
    });
    let report = schedule.join().unwrap();
    println!(
        "seed {seed}: trace {:016x}: {}",
        report.trace, report.summary
    );
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}", report.wrong);
}

fn play(seed: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "schedules::one", "--ignored", "--nocapture"])
        .env("STRATUS_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a schedule printed, and whether all held.
fn played(child: std::process::Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout);
    let line = said.lines().find(|line| line.contains(": trace "));
    let line = line.unwrap_or_default().to_owned();
    match output.status.success() {
        true => (true, line),
        false => (false, format!("{line}\n{}\n{said}", text(&output.stderr))),
    }
}

#[test]
fn all_hold() {
    let first = number("STRATUS_FIRST_SEED", 1);
    let last = first + number("STRATUS_SCHEDULES", 20);
    let mut seeds = first..last;
    let mut running = std::collections::VecDeque::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < 2
            && let Some(seed) = seeds.next()
        {
            running.push_back((seed, play(seed)));
        }
        let Some((seed, child)) = running.pop_front() else {
            break;
        };
        let (held, said) = played(child);
        println!("{said}");
        if !held {
            failed.push(seed);
        }
    }
    assert!(
        failed.is_empty(),
        "these seeds failed: {failed:?}; play one again as the top of this file says"
    );
}

#[test]
#[ignore = "where the computer is busy, what blocks may end a moment earlier or later: `make test-faults`"]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 8] {
        // Another turn now and then is one among several that are the same.
        let mut runs = std::collections::HashMap::new();
        for _ in 0..5 {
            let (held, said) = played(play(seed));
            assert!(held && said.contains(": trace "), "{said}");
            *runs.entry(said).or_insert(0) += 1;
        }
        assert!(runs.values().any(|times| *times >= 3), "{runs:#?}");
    }
}

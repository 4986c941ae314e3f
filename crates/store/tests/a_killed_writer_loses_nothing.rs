//! A process that writes is killed at random moments, many times: every acknowledged transaction is there, and none is
//! there by half.
//!
//! `STORE_CRASH_ROUNDS` sets how often (30 unless set).

#![allow(clippy::panic, reason = "a test says so when a promise is broken")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use store::{Key, Outcome, Prefix, Revision, SqliteStore, Store, Transaction};

/// Where the child finds the database.
const DATABASE: &str = "STORE_CRASH_DATABASE";
/// Clients of the child, each with documents of its own.
const CLIENTS: usize = 16;
/// Documents written together.
const PARTS: [&str; 3] = ["a", "b", "c"];
/// How long the child may take to its first acknowledgement.
const START: Duration = Duration::from_secs(60);

fn key(client: usize, part: &str) -> Key {
    Key::new("crash", &format!("{client}/{part}")).expect("a valid key")
}

/// The number in a document of the test; it is followed by padding, so that a transaction spans several pages.
fn count(value: &[u8]) -> u64 {
    let digits = value
        .get(..20)
        .expect("documents of the test begin with 20 digits");
    std::str::from_utf8(digits)
        .expect("digits")
        .parse()
        .expect("digits")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the other test kills"]
async fn writes_until_killed() {
    let Some(database) = std::env::var_os(DATABASE) else {
        println!("skipped: only the other test gives it a database");
        return;
    };
    let store = std::sync::Arc::new(
        SqliteStore::open(database).expect("the database opens after every crash"),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                loop {
                    let entry = store.get(&key(client, "a")).await.expect("the store works");
                    let (revision, next) = entry.map_or((Revision::ZERO, 1), |entry| {
                        (entry.revision, count(&entry.value) + 1)
                    });
                    let write = Transaction::new().revision_is(&key(client, "a"), revision);
                    let write = PARTS.iter().fold(write, |write, part| {
                        write.put(key(client, part), format!("{next:020}{}", "x".repeat(3000)))
                    });
                    let outcome = store.commit(write).await.expect("the store works");
                    assert!(
                        matches!(outcome, Outcome::Committed(_)),
                        "nobody else writes these"
                    );
                    // On a line of its own whatever the test harness prints.
                    println!("\nack {client} {next}");
                }
            })
        })
        .collect();
    let ended = futures::future::join_all(clients).await;
    panic!("clients write until they are killed, but: {ended:?}");
}

/// Kills the child, however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Errors mean that it is dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Let a child write for `time`, kill it, and return what it has acknowledged last, by client.
fn write_and_kill(database: &Path, time: Duration) -> HashMap<usize, u64> {
    let child = Command::new(std::env::current_exe().expect("this test has a path"))
        .args([
            "--exact",
            "a_killed_writer_loses_nothing::writes_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test runs");
    let mut child = Killed(child);
    let output = BufReader::new(child.0.stdout.take().expect("it is piped"));
    let (begun, first) = mpsc::sync_channel(1);
    let reader = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let Some((client, number)) = line
                .strip_prefix("ack ")
                .and_then(|ack| ack.split_once(' '))
            else {
                continue;
            };
            // The kill may have cut the last line short: its number would then only be too small.
            if let (Ok(client), Ok(number)) = (client.parse(), number.parse()) {
                acknowledged.insert(client, number);
                let _ = begun.try_send(());
            }
        }
        acknowledged
    });
    first
        .recv_timeout(START)
        .expect("the child acknowledges something");
    std::thread::sleep(time);
    drop(child);
    reader.join().expect("the reader doesn't panic")
}

#[tokio::test]
async fn every_acknowledged_write_survives_and_none_by_half() {
    let rounds: u32 = std::env::var("STORE_CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(30);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("db");
    let mut seen = Revision(1);
    for round in 0..rounds {
        let random = uuid::Uuid::new_v4().as_u128();
        let time = Duration::from_micros((random % 120_000) as u64);
        let path = database.clone();
        let acknowledged = tokio::task::spawn_blocking(move || write_and_kill(&path, time))
            .await
            .expect("no panic");
        assert!(!acknowledged.is_empty());

        let store = SqliteStore::open(&database).expect("the database opens after every crash");
        for (client, acknowledged) in acknowledged {
            let mut entries = Vec::new();
            for part in PARTS {
                let entry = store
                    .get(&key(client, part))
                    .await
                    .expect("the store works");
                entries.push(
                    entry.unwrap_or_else(|| panic!("round {round}: {client}/{part} is lost")),
                );
            }
            let found = count(&entries[0].value);
            assert!(
                found >= acknowledged,
                "round {round}: {client} was told {acknowledged}, there is {found}"
            );
            for entry in &entries {
                assert_eq!(
                    count(&entry.value),
                    found,
                    "round {round}: half a transaction"
                );
                assert_eq!(
                    entry.revision, entries[0].revision,
                    "round {round}: half a transaction"
                );
            }
        }
        // The history of the round has no gap and no half either.
        let last = store
            .range(store::Range::prefix(&Prefix::everything()))
            .await
            .expect("the store works")
            .revision;
        let mut watch = store
            .watch(Prefix::everything(), seen)
            .await
            .expect("the store works");
        while seen < last {
            let batch = watch.next().await.expect("history is there");
            assert_eq!(
                (batch.revision, batch.changes.len()),
                (seen.next(), PARTS.len()),
                "round {round}"
            );
            seen = batch.revision;
        }
        store.close().await;
    }
    println!("{rounds} kills, {seen} transactions");
}

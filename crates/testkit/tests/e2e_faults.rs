//! The daemon is killed again and again while users work; afterwards nothing that was acknowledged is lost, nothing is left over,
//! and no machine ever had two QEMU.
//!
//! `STRATUS_FAULT_ROUNDS` says how often (25 unless told), `STRATUS_FAULT_SEED` which choices are made.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use testkit::{Api, Reply, TestCloud, firmware_only_image, skip_unless, wait_until};

const USERS: usize = 3;
const MACHINES_PER_USER: usize = 3;
const VOLUMES_PER_USER: usize = 2;
/// How long the cloud may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// What the cloud acknowledged to a user, and what the user asked to be removed, with or without an answer.
#[derive(Debug, Default)]
struct Ledger {
    acknowledged: BTreeSet<String>,
    removal_asked: BTreeSet<String>,
}

impl Ledger {
    fn alive(&self, kind: &str) -> Vec<String> {
        self.acknowledged
            .difference(&self.removal_asked)
            .filter(|id| id.starts_with(kind))
            .cloned()
            .collect()
    }
}

fn number_of(name: &str, default: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn a_daemon_killed_at_any_moment_loses_nothing() {
    if skip_unless(&[]) {
        return;
    }
    let rounds = number_of("STRATUS_FAULT_ROUNDS", 25);
    let seed = number_of("STRATUS_FAULT_SEED", u64::from(std::process::id()));
    println!("STRATUS_FAULT_ROUNDS={rounds} STRATUS_FAULT_SEED={seed}");
    let cloud = TestCloud::start();
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let users: Vec<(Api, Mutex<Ledger>)> = (0..USERS)
        .map(|user| (cloud.user(&format!("user{user}")), Mutex::default()))
        .collect();

    let ended = AtomicBool::new(false);
    let doubles = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_for_doubles(&ended));
        for (number, (api, ledger)) in users.iter().enumerate() {
            let (ended, cloud, image) = (&ended, &cloud, &image);
            let mut random = StdRng::seed_from_u64(seed + 1 + number as u64);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    act(cloud, api, image, ledger, &mut random);
                }
            });
        }
        let mut random = StdRng::seed_from_u64(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..rounds {
                thread::sleep(Duration::from_millis(random.random_range(0..700)));
                cloud.kill();
                cloud.start_again();
            }
        }));
        ended.store(true, Ordering::Relaxed);
        let doubles = watcher.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        doubles
    });
    assert!(doubles.is_empty(), "machines with two QEMU: {doubles:?}");

    comes_to_rest(&cloud);
    for (api, ledger) in &users {
        nothing_is_lost(api, &ledger.lock().unwrap());
    }
    let made: usize = users
        .iter()
        .map(|(_, ledger)| ledger.lock().unwrap().acknowledged.len())
        .sum();
    println!("{made} resources were made");
    assert!(made > 0, "the users got nothing done");

    for machine in cloud.api().list("Machine") {
        let machine = cloud.known_machine(&cloud.api(), &machine);
        let _ = cloud
            .api()
            .post(&format!("{}/kill", machine.id), &json!({}));
    }
    wait_until("all machines to be gone", REST_LIMIT, || {
        cloud.api().list("Machine").is_empty().then_some(())
    });
    for volume in cloud.api().list("Volume") {
        let id = volume["id"].as_str().unwrap().to_owned();
        wait_until("the volume to be deleted", REST_LIMIT, || {
            (cloud.api().delete(&id).status != 409).then_some(())
        });
    }
    wait_until("all volumes to be gone", REST_LIMIT, || {
        cloud.api().list("Volume").is_empty().then_some(())
    });
    let addresses = cloud.api().list("Address");
    assert!(addresses.is_empty(), "{addresses:?}");
    cloud.assert_clean();
    let log = cloud.log();
    let panicked: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert!(panicked.is_empty(), "{}", panicked.join("\n"));
}

/// One thing a user may do. That the cloud does not answer is part of the game.
fn act(cloud: &TestCloud, api: &Api, image: &str, ledger: &Mutex<Ledger>, random: &mut StdRng) {
    let (machines, volumes) = {
        let ledger = ledger.lock().unwrap();
        (ledger.alive("Machine/"), ledger.alive("Volume/"))
    };
    let machine = machines.choose(random).cloned();
    let volume = volumes.choose(random).cloned();
    let answer = match (random.random_range(0..10), machine, volume) {
        (0..=2, _, _) if machines.len() < MACHINES_PER_USER => {
            let mut document = cloud.machine_document(image);
            document["machineTemplate"]["machineConfig"]["memory"] = json!(32 * 1024);
            made(cloud, api.try_json("POST", "Machine", &document), ledger)
        }
        (3, _, _) if volumes.len() < VOLUMES_PER_USER => {
            let document =
                json!({"name": "v", "volumeTemplate": {"volumeConfig": {"capacity": 4000}}});
            made(cloud, api.try_json("POST", "Volume", &document), ledger)
        }
        (4, Some(machine), Some(volume)) => api.try_json(
            "POST",
            &format!("{machine}/volumes"),
            &json!({"volume": {"href": volume}}),
        ),
        (5, Some(machine), Some(volume)) => {
            let uuid = volume.trim_start_matches("Volume/");
            api.send("DELETE", &format!("{machine}/volumes/{uuid}"), &[], None)
        }
        (6, Some(machine), _) => {
            api.try_json("POST", &format!("{machine}/stop"), &json!({"force": true}))
        }
        (7, Some(machine), _) => api.try_json("POST", &format!("{machine}/start"), &json!({})),
        (8, Some(machine), _) => {
            ledger.lock().unwrap().removal_asked.insert(machine.clone());
            let verb = if random.random_bool(0.5) {
                "kill"
            } else {
                "shutdown"
            };
            api.try_json("POST", &format!("{machine}/{verb}"), &json!({}))
        }
        (9, _, Some(volume)) => {
            let answer = api.send("DELETE", &volume, &[], None);
            // Refused, it stays ours; without an answer it may be gone.
            if !matches!(&answer, Ok(reply) if reply.status == 409) {
                ledger.lock().unwrap().removal_asked.insert(volume);
            }
            answer
        }
        _ => take_stock(api, ledger),
    };
    match answer {
        Ok(reply) => assert!(
            reply.status < 500 || reply.status == 503,
            "{} {}",
            reply.status,
            reply.text()
        ),
        Err(_) => thread::sleep(Duration::from_millis(20)),
    }
    thread::sleep(Duration::from_millis(random.random_range(0..60)));
}

fn made(
    cloud: &TestCloud,
    answer: Result<Reply, String>,
    ledger: &Mutex<Ledger>,
) -> Result<Reply, String> {
    if let Ok(reply) = &answer
        && reply.status == 201
    {
        let id = reply.body["id"].as_str().unwrap().to_owned();
        if let Some(uuid) = id.strip_prefix("Machine/") {
            cloud.remember(uuid);
        }
        ledger.lock().unwrap().acknowledged.insert(id);
    }
    answer
}

/// Looks at one's machines and volumes. Those whose making was answered into the void are one's own from now on.
fn take_stock(api: &Api, ledger: &Mutex<Ledger>) -> Result<Reply, String> {
    api.get_any("Volume")
        .map(|reply| note_all(&reply, ledger))?;
    let reply = api.get_any("Machine")?;
    note_all(&reply, ledger);
    Ok(reply)
}

fn note_all(reply: &Reply, ledger: &Mutex<Ledger>) {
    let mut ledger = ledger.lock().unwrap();
    for member in reply.members().unwrap_or_default() {
        // One that was asked to go may still be seen going.
        ledger
            .acknowledged
            .extend(member["id"].as_str().map(str::to_owned));
    }
}

/// No machine is on its way any more.
fn comes_to_rest(cloud: &TestCloud) {
    let begun = Instant::now();
    loop {
        let resting = ["Running", "Stopped", "Unknown", "Failed", "Done"];
        let moving: Vec<Value> = cloud
            .api()
            .list("Machine")
            .into_iter()
            .filter(|machine| !resting.contains(&machine["phase"].as_str().unwrap_or_default()))
            .collect();
        // A guest without ACPI does not obey the power button; it is forced after a minute.
        let moving: Vec<String> = moving
            .iter()
            .map(|machine| {
                format!(
                    "{} {} {}",
                    machine["vmid"], machine["phase"], machine["reason"]
                )
            })
            .collect();
        if moving.is_empty() {
            return;
        }
        assert!(
            begun.elapsed() < REST_LIMIT,
            "after {} s still: {moving:?}\n{}",
            REST_LIMIT.as_secs(),
            cloud.log_tail()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// What was acknowledged is there, unless its removal was asked for; and there is nothing that nobody asked for, but for what
/// was made and whose answer was lost.
fn nothing_is_lost(api: &Api, ledger: &Ledger) {
    for id in ledger
        .alive("Machine/")
        .into_iter()
        .chain(ledger.alive("Volume/"))
    {
        let reply = api.get(&id);
        assert_eq!(
            reply.status,
            200,
            "{id} was acknowledged and is lost: {}",
            reply.text()
        );
    }
}

/// Looks at all processes until told to end; gives machines that had two QEMU at once.
fn watch_for_doubles(ended: &AtomicBool) -> BTreeSet<String> {
    let mut doubles = BTreeSet::new();
    while !ended.load(Ordering::Relaxed) {
        let found = qemus();
        for (uuid, processes) in &found {
            // A process that splits while it starts is one: its parts are parent and child.
            let apart = processes
                .iter()
                .filter(|(_, parent)| !processes.iter().any(|(pid, _)| pid == parent))
                .count();
            if apart > 1 {
                doubles.insert(uuid.clone());
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    doubles
}

/// Process and parent of every QEMU, by its machine. Also those of other tests, which does not matter.
fn qemus() -> BTreeMap<String, Vec<(u32, u32)>> {
    let mut found: BTreeMap<String, Vec<(u32, u32)>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if !words[0].windows(4).any(|part| part == b"qemu") {
            continue;
        }
        let Some(at) = words.iter().position(|word| *word == b"-uuid") else {
            continue;
        };
        let uuid = String::from_utf8_lossy(words.get(at + 1).unwrap_or(&&b""[..])).into_owned();
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
            .unwrap_or(0);
        found.entry(uuid).or_default().push((pid, parent));
    }
    found
}

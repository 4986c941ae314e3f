//! The daemon is killed again and again while users work; afterwards nothing that was acknowledged is lost, nothing is left over,
//! and no machine ever had two QEMU.
//!
//! `STRATUS_FAULT_ROUNDS` says how often (100 unless told; `make test-faults`: 1000), `STRATUS_FAULT_SEED` which choices are made.
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
use testkit::{Api, Options, Reply, TestCloud, firmware_only_image, skip_unless, wait_until};

const USERS: usize = 3;
const MACHINES_PER_USER: usize = 3;
const VOLUMES_PER_USER: usize = 2;
/// How long the cloud may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// What a user asked of the cloud, and what it acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    /// Everything that was answered, or seen in a list: one's own.
    acknowledged: BTreeSet<String>,
    /// Of these, what was answered.
    answered: BTreeSet<String>,
    /// How often a creation got no answer, by kind.
    unanswered: BTreeMap<&'static str, usize>,
    /// What was asked to be removed, with or without an answer.
    removal_asked: BTreeSet<String>,
    /// Of these, what the cloud promised to remove.
    removal_promised: BTreeSet<String>,
    /// Kilobytes of each volume that was answered.
    sizes: BTreeMap<String, u64>,
    /// What was asked last about each volume.
    attachments: BTreeMap<String, Attachment>,
}

/// What a user may expect of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attachment {
    /// The cloud promised it to this machine.
    To(String),
    /// The cloud promised to take it from this machine; a guest without drivers may keep it.
    Leaving(String),
    /// The last request got no answer.
    Unknown,
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
    let rounds = number_of("STRATUS_FAULT_ROUNDS", 100);
    let seed = number_of("STRATUS_FAULT_SEED", u64::from(std::process::id()));
    println!("STRATUS_FAULT_ROUNDS={rounds} STRATUS_FAULT_SEED={seed}");
    let cloud = TestCloud::start_with(&Options {
        // Guests without a system never obey it.
        power_button_seconds: Some(5),
        ..Options::default()
    });
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let users: Vec<(Api, Mutex<Ledger>)> = (0..USERS)
        .map(|user| (cloud.user(&format!("user{user}")), Mutex::default()))
        .collect();

    let begun = Instant::now();
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
                thread::sleep(Duration::from_millis(random.random_range(0..300)));
                cloud.kill();
                cloud.start_again();
            }
        }));
        println!("{rounds} kills in {:.1} s", begun.elapsed().as_secs_f64());
        ended.store(true, Ordering::Relaxed);
        let doubles = watcher.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        doubles
    });
    assert!(doubles.is_empty(), "machines with two QEMU: {doubles:?}");

    comes_to_rest(&cloud);
    println!("at rest after {:.1} s", begun.elapsed().as_secs_f64());
    for (api, ledger) in &users {
        take_stock(api, ledger).unwrap();
        let ledger = ledger.lock().unwrap();
        nothing_is_lost(api, &ledger);
        nothing_is_there_that_nobody_asked_for(&ledger);
        let mut last = Vec::new();
        let all_well = wait_for(REST_LIMIT, || {
            last = wrong_volumes(api, &ledger);
            last.is_empty()
        });
        assert!(all_well, "{}\n{}", last.join("\n"), cloud.log_tail());
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
        (0..=2, _, _) if machines.len() < MACHINES_PER_USER && has_room(api) => {
            let mut document = cloud.machine_document(image);
            document["machineTemplate"]["machineConfig"]["memory"] = json!(32 * 1024);
            made(
                cloud,
                "Machine/",
                api.try_json("POST", "Machine", &document),
                ledger,
            )
        }
        (3, _, _) if volumes.len() < VOLUMES_PER_USER => {
            // Whole sectors, so that the size is the one that was asked for.
            let kilobytes = 64 * random.random_range(64..256_u64);
            let document =
                json!({"name": "v", "volumeTemplate": {"volumeConfig": {"capacity": kilobytes}}});
            let answer = made(
                cloud,
                "Volume/",
                api.try_json("POST", "Volume", &document),
                ledger,
            );
            if let Some(id) = id_of_created(&answer) {
                ledger.lock().unwrap().sizes.insert(id, kilobytes);
            }
            answer
        }
        (4, Some(machine), Some(volume)) => {
            let answer = api.try_json(
                "POST",
                &format!("{machine}/volumes"),
                &json!({"volume": {"href": volume}}),
            );
            note_attachment(ledger, volume, &answer, Attachment::To(machine));
            answer
        }
        (5, Some(machine), Some(volume)) => {
            let uuid = volume.trim_start_matches("Volume/").to_owned();
            let answer = api.send("DELETE", &format!("{machine}/volumes/{uuid}"), &[], None);
            note_attachment(ledger, volume, &answer, Attachment::Leaving(machine));
            answer
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
            let answer = api.try_json("POST", &format!("{machine}/{verb}"), &json!({}));
            promised(ledger, &machine, &answer);
            answer
        }
        (9, _, Some(volume)) => {
            let answer = api.send("DELETE", &volume, &[], None);
            // Refused, it stays ours; without an answer it may be gone.
            if !matches!(&answer, Ok(reply) if reply.status == 409) {
                promised(ledger, &volume, &answer);
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
    kind: &'static str,
    answer: Result<Reply, String>,
    ledger: &Mutex<Ledger>,
) -> Result<Reply, String> {
    let mut ledger = ledger.lock().unwrap();
    if let Some(id) = id_of_created(&answer) {
        if let Some(uuid) = id.strip_prefix("Machine/") {
            cloud.remember(uuid);
        }
        ledger.answered.insert(id.clone());
        ledger.acknowledged.insert(id);
    } else if answer.is_err() {
        *ledger.unanswered.entry(kind).or_default() += 1;
    }
    answer
}

fn id_of_created(answer: &Result<Reply, String>) -> Option<String> {
    let reply = answer.as_ref().ok().filter(|reply| reply.status == 201)?;
    Some(reply.body["id"].as_str().unwrap().to_owned())
}

/// Notes a removal that the cloud promised.
fn promised(ledger: &Mutex<Ledger>, id: &str, answer: &Result<Reply, String>) {
    if matches!(answer, Ok(reply) if reply.status < 300) {
        ledger
            .lock()
            .unwrap()
            .removal_promised
            .insert(id.to_owned());
    }
}

/// Notes what became of a wish to attach or detach; a refusal changes nothing.
fn note_attachment(
    ledger: &Mutex<Ledger>,
    volume: String,
    answer: &Result<Reply, String>,
    wished: Attachment,
) {
    let now = match answer {
        Ok(reply) if reply.status < 300 => wished,
        Ok(reply) if reply.status < 500 => return,
        _ => Attachment::Unknown,
    };
    ledger.lock().unwrap().attachments.insert(volume, now);
}

/// Whether few enough of one's machines are left, with those that are on their way out: a daemon that is killed all the time removes
/// more slowly than users ask.
fn has_room(api: &Api) -> bool {
    let reply = api.get_any("Machine").ok();
    reply
        .and_then(|reply| reply.members())
        .is_some_and(|members| members.len() <= MACHINES_PER_USER)
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
        // A guest without ACPI does not obey the power button; it is forced after some seconds.
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

/// What was acknowledged is there, unless its removal was asked for; what was promised to be removed is gone.
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
    for id in &ledger.removal_promised {
        wait_until(&format!("the end of {id}"), REST_LIMIT, || {
            (api.get(id).status == 404).then_some(())
        });
    }
}

/// Whatever was ever seen was asked for: answered, or one of the requests that got no answer.
fn nothing_is_there_that_nobody_asked_for(ledger: &Ledger) {
    for kind in ["Machine/", "Volume/"] {
        let unanswered: Vec<&String> = ledger
            .acknowledged
            .difference(&ledger.answered)
            .filter(|id| id.starts_with(kind))
            .collect();
        let asked = ledger.unanswered.get(kind).copied().unwrap_or(0);
        assert!(
            unanswered.len() <= asked,
            "{asked} requests got no answer, but these are there: {unanswered:?}"
        );
    }
}

/// Volumes that are not as was promised, as lines for people: their sizes, and which machine has them.
fn wrong_volumes(api: &Api, ledger: &Ledger) -> Vec<String> {
    let mut wrong = Vec::new();
    for id in ledger.alive("Volume/") {
        let volume = api.get(&id).expect(200);
        // Disks have whole blocks of 4096 bytes: never less than asked for, and less than one block more.
        let has = volume["capacity"].as_u64().unwrap_or_default();
        if let Some(asked) = ledger.sizes.get(&id)
            && !(*asked..*asked + 5).contains(&has)
        {
            wrong.push(format!("{id} has {}, not {asked} kB", volume["capacity"]));
        }
        let holder = volume["attachedTo"]["href"].as_str();
        let uuid = id.trim_start_matches("Volume/");
        let state = |machine: &str| {
            let member = api.get(&format!("{machine}/volumes/{uuid}"));
            member.body["state"].as_str().unwrap_or_default().to_owned()
        };
        let is_removed = |machine: &String| ledger.removal_asked.contains(machine);
        let is_right = match (ledger.attachments.get(&id), holder) {
            (Some(Attachment::Unknown), _) => true,
            (Some(Attachment::To(machine)), None) => is_removed(machine),
            (Some(Attachment::To(machine)), Some(holder)) => {
                is_removed(machine) && holder.ends_with(machine.as_str())
                    || holder.ends_with(machine.as_str())
                        && ["ATTACHED", "ATTACHING"].contains(&state(machine).as_str())
            }
            (Some(Attachment::Leaving(_)) | None, None) => true,
            (Some(Attachment::Leaving(machine)), Some(holder)) => {
                holder.ends_with(machine.as_str()) && state(machine) == "DETACHING"
            }
            (None, Some(_)) => false,
        };
        if !is_right {
            wrong.push(format!(
                "{id}: last asked was {:?}, but it is: {volume}",
                ledger.attachments.get(&id)
            ));
        }
    }
    wrong
}

/// Looks again and again; false if it never was so.
fn wait_for(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
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

/// Process and parent of every QEMU of this network, by its machine. Also those of other tests, which does not matter: where a
/// machine may be on two computers, these are networks of their own.
fn qemus() -> BTreeMap<String, Vec<(u32, u32)>> {
    let mut found: BTreeMap<String, Vec<(u32, u32)>> = BTreeMap::new();
    let own = fs::read_link("/proc/self/ns/net").ok();
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
        if fs::read_link(entry.path().join("ns/net")).ok() != own {
            continue;
        }
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

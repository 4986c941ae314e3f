//! Machines with volumes go between hosts of a cluster while their guests run, whichever entries each host knows, and whichever entry
//! is lost in the moment in which the guest stands still. All is real, by `make cluster`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Cluster, Need, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Longer than a guest stands still on a busy machine.
const STANDSTILL: Duration = Duration::from_secs(10);
const ALL_OK: &str = "host1 OK, host2 OK, host3 OK";
/// What counts: on the disk that goes with the machine, and on its volume.
const COUNTS: [&str; 2] = ["/root/count", "/mnt/count"];

struct World {
    cluster: Cluster,
    id: String,
    uuid: String,
    address: String,
    boot: String,
}

impl World {
    /// A machine whose guest counts; each number is on the disk before the next one.
    fn counting() -> Self {
        let cluster = Cluster::up();
        cluster.wait_for_hosts(ALL_OK);
        // Those that are there are to be on their hosts and no others. By the first one's network machines are reached.
        let pinned = cluster.machines();
        for other in &pinned[1..] {
            cluster.stratus(&format!("kill-instance {}", other.id));
        }
        cluster.stratus("run-instance -q --vm-name moving $STRATUS_IMAGE");
        let machine = wait_until("the machine to run", LIMIT, || {
            let mut machines = cluster.machines().into_iter();
            machines
                .find(|one| one.state == "Running" && pinned.iter().all(|other| other.id != one.id))
        });
        cluster.mount_a_volume(&machine);
        for file in COUNTS {
            let count = format!(
                "(n=0; while true; do n=$((n+1)); echo $n >> {file}; fsync {file} || sync; usleep 20000; done) >/dev/null 2>&1 </dev/null &"
            );
            cluster.ssh(&machine.address, &count);
        }
        let boot = cluster.ssh(&machine.address, "cat /proc/sys/kernel/random/boot_id");
        let shown = format!("describe-instance -vvv {} --format json", machine.id);
        let shown: Value = serde_json::from_str(&cluster.stratus(&shown)).unwrap();
        let uuid = shown["id"]
            .as_str()
            .unwrap()
            .split('/')
            .next_back()
            .unwrap();
        Self {
            uuid: uuid.to_owned(),
            cluster,
            id: machine.id,
            address: machine.address,
            boot,
        }
    }

    fn host(&self) -> String {
        let machines = self.cluster.machines();
        let own = machines.iter().find(|one| one.id == self.id);
        own.unwrap().host.clone()
    }

    /// Moves it with its guest running, which stands still for a moment.
    fn move_live(&self, host: &str) {
        let began = Instant::now();
        let moved = format!("host move {} {host} --wait --format json", self.id);
        let moved: Value = serde_json::from_str(&self.cluster.as_admin(&moved)).unwrap();
        assert_eq!(moved["host"], host, "{moved}");
        let stood = moved["lastMove"]["downtimeMilliseconds"].as_u64();
        let stood = Duration::from_millis(stood.unwrap_or_else(|| {
            panic!("it went at rest: {moved}");
        }));
        eprintln!(
            "to {host} in {:?}; stood still for {stood:?}",
            began.elapsed()
        );
        assert!(stood < STANDSTILL, "{moved}");
    }

    /// Waits until it is on no way any more, and runs.
    fn until_settled(&self) {
        wait_until("its way to be over", LIMIT, || {
            let line = format!("describe-instance -vvv {} --format json", self.id);
            let shown: Value =
                serde_json::from_slice(&self.cluster.try_as_admin(&line).stdout).ok()?;
            let is_over = shown["moving"].is_null() && shown["state"] == "STARTED";
            is_over.then_some(())
        });
    }

    fn counted(&self, file: &str) -> usize {
        let told = self.cluster.ssh(&self.address, &format!("cat {file}"));
        let numbers: Vec<&str> = told.lines().collect();
        for (number, line) in (1..).zip(&numbers) {
            let is_last = number == numbers.len();
            assert!(
                line.parse() == Ok(number) || is_last,
                "{file}: line {number}: {line}"
            );
        }
        numbers.len()
    }

    /// It is the same guest, which has written each number once and writes on, on one host; and nothing of it is on another.
    fn is_whole(&self) {
        let boot = "cat /proc/sys/kernel/random/boot_id";
        assert_eq!(self.cluster.ssh(&self.address, boot), self.boot);
        let own = format!(".cluster/{}/", self.host());
        wait_until("nothing to be left of its way", LIMIT, || {
            let find = format!("ls -d .cluster/host?/state/machines/{}*/", self.uuid);
            let folders = self.cluster.shell(&find);
            let is_one = folders.lines().count() == 1;
            (is_one && folders.starts_with(&own) && !folders.contains(".arriving")).then_some(())
        });
        for file in COUNTS {
            let before = self.counted(file);
            wait_until("it to count on", LIMIT, || {
                (self.counted(file) > before).then_some(())
            });
        }
    }

    /// The storage's own record: before a host has the volume, the one before has it no more.
    fn has_had_one_writer(&self) {
        let log = self.cluster.log("store1");
        let mut user = None;
        let mut changes = 0;
        for line in log.lines() {
            let host = || {
                let after = line.split("host=").nth(1)?;
                Some(after.split(' ').next()?.to_owned())
            };
            if line.contains("a host uses a volume no more") {
                assert_eq!(user.take(), host(), "{line}\n{log}");
            } else if line.contains("a host uses a volume") {
                assert_eq!(user, None, "{line}\n{log}");
                user = host();
                changes += 1;
            } else if line.contains("starting") {
                // All its processes ended with it.
                user = None;
            }
        }
        eprintln!("the volume was given {changes} times, to one after the other");
        assert!(changes > 2, "{log}");
    }

    /// Pings it meanwhile; the longest time without an answer.
    fn longest_silence(&self, meanwhile: impl FnOnce()) -> Duration {
        let ping = format!(
            "packaging/cluster in host1 ping -D -n -i 0.05 -w 25 {}",
            self.address
        );
        let said = std::thread::scope(|scope| {
            let pinging = scope.spawn(|| self.cluster.shell(&ping));
            meanwhile();
            pinging.join().unwrap()
        });
        let times: Vec<f64> = said
            .lines()
            .filter(|line| line.contains("icmp_seq"))
            .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
            .collect();
        assert!(times.len() > 20, "{said}");
        let lost = said.lines().find(|line| line.contains("packet loss"));
        eprintln!("{}", lost.unwrap_or_default());
        let silences = times.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_secs_f64(silences.fold(0.0, f64::max))
    }

    /// Has a host know these entries of those it has joined by, and stop at points.
    fn knows(&self, host: &str, entries: &str) {
        let cluster = &self.cluster;
        cluster.tell("kill", host);
        cluster.shell(&format!(
            "cd .cluster/{host}/state/host && jq '.entries |= {entries}' joined.json > new.json && cat new.json > joined.json && rm new.json"
        ));
        cluster.start_with_stop_points(host);
    }
}

#[test]
#[ignore = "minutes: `make test-faults`"]
fn machines_with_volumes_go_between_hosts_that_meet_at_any_entry() {
    let tools = [
        "make", "jq", "curl", "flock", "nsenter", "openssl", "etcd", "etcdctl",
    ];
    if skip_unless(&[]) || skip_unless(&tools.map(Need::Program)) {
        return;
    }
    let world = World::counting();
    let cluster = &world.cluster;
    // In another order, and not all of them.
    world.knows("host1", ".");
    world.knows("host2", "reverse");
    world.knows("host3", ".[1:]");
    cluster.wait_for_hosts(ALL_OK);
    if world.host() != "host1" {
        world.move_live("host1");
        world.is_whole();
    }
    let silence = world.longest_silence(|| world.move_live("host2"));
    eprintln!("no answer for {silence:?}");
    assert!(silence < STANDSTILL, "{silence:?}");
    world.is_whole();
    world.move_live("host3");
    world.is_whole();
    world.has_had_one_writer();

    // The entry that they have met at dies while the guest is halted: it stays, and goes by the other one.
    for (number, point) in ["Halted", "Still", "Sent", "Gone"].into_iter().enumerate() {
        // `host1` goes to the first one first, `host3` to the second.
        let (from, entry) = [("host3", "entry2"), ("host1", "entry1")][number % 2];
        if world.host() != from {
            world.move_live(from);
            world.is_whole();
        }
        let to = if from == "host1" { "host2" } else { "host1" };
        let mut point = cluster.stop_point(from, point);
        cluster.as_admin(&format!("host move {} {to}", world.id));
        point.reached();
        cluster.tell("kill", entry);
        drop(point);
        world.until_settled();
        world.is_whole();
        eprintln!("without {entry}: on {}", world.host());
        if world.host() == from {
            world.move_live(to);
            world.is_whole();
        }
        cluster.tell("start", entry);
        cluster.wait_for_hosts(ALL_OK);
    }
    // The one that it goes by is cut off, and nobody is told.
    let from = world.host();
    let to = if from == "host1" { "host2" } else { "host1" };
    let mut point = cluster.stop_point(&from, "Halted");
    cluster.as_admin(&format!("host move {} {to}", world.id));
    point.reached();
    cluster.tell("cut", "entry1");
    drop(point);
    world.until_settled();
    world.is_whole();
    cluster.tell("mend", "entry1");
    cluster.wait_for_hosts(ALL_OK);

    // A host is emptied.
    if world.host() == "host1" {
        world.move_live("host2");
        world.is_whole();
    }
    let from = world.host();
    cluster.as_admin(&format!("host drain {from} --move --wait"));
    assert_ne!(world.host(), from);
    world.is_whole();
    world.has_had_one_writer();
    assert_eq!(cluster.down(), [""; 0]);
}

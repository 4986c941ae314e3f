//! A machine is moved to another computer and back while its guest runs, which notices it by a moment at most; what goes wrong on the way
//! harms it not. All is real: two daemons in two network namespaces, QEMU.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{Machine, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Longer than a guest stands still on a busy machine; a quiet one takes a tenth of it.
const STANDSTILL: Duration = Duration::from_secs(4);

struct World<'c> {
    cloud: &'c TestCloud,
    machine: Machine<'c>,
    id: String,
    boot: String,
}

impl<'c> World<'c> {
    /// A machine on the cloud's own host, whose guest counts: each number is on its disk before the next one.
    fn counting(cloud: &'c TestCloud) -> Self {
        cloud.cli(&["host", "maintenance", "testhost", "--off"]);
        cloud.cli(&["host", "maintenance", "node7"]);
        let machine = cloud.machine();
        machine.wait_for_ssh();
        cloud.cli(&["host", "maintenance", "node7", "--off"]);
        machine.ssh("echo remembered > /dev/shm/word");
        let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
        let id = machine.vmid.to_string();
        let world = Self {
            cloud,
            machine,
            id,
            boot,
        };
        world.count_at("/root/count");
        world
    }

    fn count_at(&self, file: &str) {
        self.machine.ssh(&format!(
            "(n=0; while true; do n=$((n+1)); echo $n >> {file}; fsync {file} || sync; usleep 20000; done) >/dev/null 2>&1 </dev/null &"
        ));
    }

    /// Whose the machine is, by the name of its host.
    fn host(&self) -> String {
        self.machine.document()["hostname"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn move_and_wait(&self, host: &str) -> Value {
        let moved = self
            .cloud
            .cli_json(&["host", "move", &self.id, host, "--wait"]);
        assert_eq!(moved["host"], host, "{moved}");
        moved["lastMove"].clone()
    }

    /// Starts to be moved slowly; returns when some of it was copied.
    fn under_way(&self, host: &str) {
        self.cloud
            .cli(&["host", "move", &self.id, host, "--bandwidth", "2M"]);
        wait_until("something to be copied", LIMIT, || {
            let machine = self.machine.document();
            let copied = machine["moving"]["bytesCopied"].as_u64()?;
            (copied > 0).then_some(())
        });
    }

    /// Waits until it is on no way any more.
    fn until_settled(&self) {
        wait_until("its way to be over", LIMIT, || {
            let machine = self.machine.document();
            let is_over = machine["moving"].is_null() && machine["state"] == "STARTED";
            is_over.then_some(())
        });
    }

    /// It is the same guest, which runs, and has written each number once.
    fn is_the_same(&self) {
        let machine = &self.machine;
        assert_eq!(machine.ssh("cat /dev/shm/word"), "remembered");
        assert_eq!(
            machine.ssh("cat /proc/sys/kernel/random/boot_id"),
            self.boot
        );
        let before = self.counted("/root/count");
        wait_until("it to count on", LIMIT, || {
            (self.counted("/root/count") > before).then_some(())
        });
    }

    /// How far it has counted.
    fn counted(&self, file: &str) -> usize {
        let told = self.machine.ssh(&format!("cat {file}"));
        let numbers: Vec<&str> = told.lines().collect();
        for (number, line) in (1..).zip(&numbers) {
            let is_last = number == numbers.len();
            // The last one may just be being written.
            assert!(
                line.parse() == Ok(number) || is_last,
                "line {number}: {line}"
            );
        }
        numbers.len()
    }

    /// Has pings go to it, and tells the longest time without an answer.
    fn longest_silence(&self, meanwhile: impl FnOnce()) -> Duration {
        let mut ping = Command::new("ping");
        ping.args([
            "-D",
            "-n",
            "-i",
            "0.05",
            "-w",
            "20",
            &self.machine.address(),
        ]);
        let namespace = self.cloud.namespace().unwrap();
        let said = std::thread::scope(|scope| {
            let pinging = scope.spawn(move || namespace.output(&mut ping));
            meanwhile();
            pinging.join().unwrap()
        });
        let said = String::from_utf8(said.stdout).unwrap();
        let times: Vec<f64> = said
            .lines()
            .filter(|line| line.contains("icmp_seq"))
            .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
            .collect();
        assert!(times.len() > 20, "{said}");
        let silences = times.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_secs_f64(silences.fold(0.0, f64::max))
    }
}

fn nothing_is_left(host: &TestHost) {
    wait_until("nothing to be left there", LIMIT, || {
        host.machines().is_empty().then_some(())
    });
}

#[test]
fn a_machine_goes_to_another_host_and_back_while_its_guest_counts() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let world = World::counting(&cloud);
    let uuid = world.machine.uuid().to_owned();
    let silence = world.longest_silence(|| {
        let began = Instant::now();
        let last = world.move_and_wait("node7");
        let stood = last["downtimeMilliseconds"].as_u64().unwrap();
        eprintln!("moved in {:?}; stood still for {stood} ms", began.elapsed());
        assert!(Duration::from_millis(stood) < STANDSTILL, "{last}");
        assert!(last["bytesCopied"].as_u64().unwrap() > 1 << 20, "{last}");
    });
    eprintln!("no answer for {silence:?}");
    assert!(silence < STANDSTILL, "{silence:?}");
    world.is_the_same();
    assert_eq!(host.machines(), std::slice::from_ref(&uuid));
    let process = world.machine.process();
    assert!(host.namespace().unwrap().processes().contains(&process));
    wait_until("its files here to go", LIMIT, || {
        let here = cloud.state_dir().join("machines").join(&uuid);
        (!here.exists()).then_some(())
    });
    // What it said before is still read.
    assert!(world.machine.console().contains("Linux") || !world.machine.console().is_empty());

    let last = world.move_and_wait("testhost");
    eprintln!("back; stood still for {} ms", last["downtimeMilliseconds"]);
    world.is_the_same();
    nothing_is_left(&host);

    // At rest, as before.
    cloud.cli(&["host", "move", &world.id, "node7", "--at-rest", "--wait"]);
    assert_eq!(world.host(), "node7");
    world.machine.wait_for_phase("Running");
    world.is_the_same();

    // A host is emptied.
    cloud.cli(&["host", "drain", "node7", "--move", "--wait"]);
    assert_eq!(world.host(), "testhost");
    world.is_the_same();
    nothing_is_left(&host);
    world.machine.kill();
    cloud.assert_clean();
}

#[test]
fn what_goes_wrong_on_the_way_leaves_it_running_where_it_was() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let world = World::counting(&cloud);

    // Cancelled.
    world.under_way("node7");
    cloud.cli(&["host", "move", &world.id, "--cancel"]);
    world.until_settled();
    let reason = world.machine.document()["reason"].to_string();
    assert!(reason.contains("cancelled"), "{reason}");
    world.is_the_same();
    nothing_is_left(&host);
    // Something else is wanted of it.
    world.under_way("node7");
    cloud.cli(&["pause-instance", &world.id]);
    wait_until("it to be paused", LIMIT, || {
        (world.machine.document()["state"] == "PAUSED").then_some(())
    });
    cloud.cli(&["start-instance", &world.id]);
    world.until_settled();
    world.is_the_same();
    assert_eq!(world.host(), "testhost");

    // Either daemon is killed, far before the end.
    world.under_way("node7");
    host.kill();
    host.start();
    host.wait_for_state(&cloud, "OK");
    world.until_settled();
    assert_eq!(world.host(), "testhost");
    world.is_the_same();
    nothing_is_left(&host);
    world.under_way("node7");
    cloud.kill();
    cloud.start_again();
    host.wait_for_state(&cloud, "OK");
    world.until_settled();
    assert_eq!(world.host(), "testhost");
    world.is_the_same();
    nothing_is_left(&host);

    // The cable is cut.
    world.under_way("node7");
    cloud.namespace().unwrap().cut(true);
    host.wait_for_state(&cloud, "LOST");
    world.until_settled();
    world.is_the_same();
    cloud.namespace().unwrap().cut(false);
    host.wait_for_state(&cloud, "OK");
    assert_eq!(world.host(), "testhost");
    nothing_is_left(&host);

    // It goes after all that.
    world.move_and_wait("node7");
    world.is_the_same();
    // And the other way round.
    world.under_way("testhost");
    cloud.namespace().unwrap().cut(true);
    host.wait_for_state(&cloud, "LOST");
    cloud.namespace().unwrap().cut(false);
    host.wait_for_state(&cloud, "OK");
    world.until_settled();
    assert_eq!(world.host(), "node7");
    world.is_the_same();
    world.under_way("testhost");
    host.kill();
    host.start();
    host.wait_for_state(&cloud, "OK");
    world.until_settled();
    assert_eq!(world.host(), "node7");
    world.is_the_same();
    world.machine.kill();
    cloud.assert_clean();
}

#[test]
fn whenever_a_daemon_dies_it_runs_on_one_of_the_hosts() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let world = World::counting(&cloud);
    let other = |of: &str| if of == "node7" { "testhost" } else { "node7" };
    let mut moved = 0;
    // At any moment of it, the last ones among them: each time a little later, until it was there before.
    for attempt in 0..10_u32 {
        let from = world.host();
        cloud.cli(&["host", "move", &world.id, other(&from)]);
        std::thread::sleep(Duration::from_millis(700) * (attempt / 2 + 1));
        if attempt % 2 == 0 {
            host.kill();
            host.start();
        } else {
            cloud.kill();
            cloud.start_again();
        }
        host.wait_for_state(&cloud, "OK");
        world.until_settled();
        world.is_the_same();
        moved += u32::from(world.host() != from);
    }
    eprintln!("{moved} of 10 moves had come to their end");
    world.machine.kill();
    cloud.assert_clean();
}

#[test]
fn a_machine_with_volumes_goes_at_rest() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let world = World::counting(&cloud);
    let volume = cloud.volume(&cloud.api(), 1);
    world.machine.attach(&volume);
    for to in ["node7", "testhost"] {
        assert_eq!(world.move_and_wait(to), Value::Null);
        world.machine.wait_for_phase("Running");
        world.is_the_same();
    }
    nothing_is_left(&host);
    world.machine.detach(&volume);
    world.machine.kill();
    cloud.assert_clean();
}

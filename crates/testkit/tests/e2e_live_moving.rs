//! A machine is moved to another computer and back while its guest runs, which notices it by a moment at most; what goes wrong on the way
//! harms it not. All is real: two daemons in two network namespaces, QEMU.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Machine, Namespace, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Longer than a guest stands still on a busy machine; a quiet one takes a tenth of it.
const STANDSTILL: Duration = Duration::from_secs(10);

const MIB: f64 = 1_048_576.0;

/// What counts, and where: on the disk that goes with the machine, and on a volume.
const ROOT: &str = "/root/count";
const VOLUME: &str = "/mnt/count";

struct World<'c> {
    cloud: &'c TestCloud,
    machine: Machine<'c>,
    id: String,
    boot: String,
    counts: Vec<&'static str>,
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
        let mut world = Self {
            cloud,
            machine,
            id,
            boot,
            counts: Vec::new(),
        };
        world.count_at(ROOT);
        world
    }

    /// The same, whose guest counts on a volume, too.
    fn counting_on_a_volume(cloud: &'c TestCloud) -> Self {
        let mut world = Self::counting(cloud);
        let volume = cloud.volume(&cloud.api(), 1);
        world.machine.attach(&volume);
        let uuid = volume.trim_start_matches("Volume/").replace('-', "");
        let find = format!("grep -l {} /sys/block/vd*/serial || true", &uuid[12..]);
        let disk = wait_until("the guest to see the volume", LIMIT, || {
            let seen = world.ssh(&find);
            Some(seen.split('/').nth(3)?.to_owned())
        });
        let make = format!("mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt");
        world.ssh(&make);
        world.count_at(VOLUME);
        world
    }

    fn count_at(&mut self, file: &'static str) {
        self.machine.ssh(&format!(
            "(n=0; while true; do n=$((n+1)); echo $n >> {file}; fsync {file} || sync; usleep 20000; done) >/dev/null 2>&1 </dev/null &"
        ));
        self.counts.push(file);
    }

    /// What a command in it printed, however busy this computer is.
    fn ssh(&self, command: &str) -> String {
        wait_until(command, LIMIT, || {
            let output = self.machine.try_ssh(command);
            let text = String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned();
            output.status.success().then_some(text)
        })
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

    /// The same, with its guest running; for how long that stood still.
    fn move_live(&self, host: &str) -> Duration {
        let began = Instant::now();
        let last = self.move_and_wait(host);
        let stood = last["downtimeMilliseconds"].as_u64();
        let stood = Duration::from_millis(stood.unwrap_or_else(|| {
            panic!("it went at rest: {last} {}", self.machine.document());
        }));
        eprintln!(
            "moved in {:?}; stood still for {stood:?}; {} bytes",
            began.elapsed(),
            last["bytesCopied"]
        );
        assert!(stood < STANDSTILL, "{last}");
        stood
    }

    /// Starts to be moved slowly, has something happen once some of it was copied, and stays for that.
    fn stays(&self, host: &mut TestHost, to: &str, disturb: impl FnOnce(&mut TestHost)) {
        let from = self.host();
        self.cloud
            .cli(&["host", "move", &self.id, to, "--bandwidth", "2M"]);
        wait_until("something to be copied", LIMIT, || {
            let machine = self.machine.document();
            let copied = machine["moving"]["bytesCopied"].as_u64()?;
            (copied > 0).then_some(())
        });
        disturb(host);
        self.until_settled();
        assert_eq!(self.host(), from);
        self.is_whole(host);
    }

    /// No more than was asked for is copied in any time, but for what a look later than another shows.
    fn is_copied_slowly(&self) {
        let copied = || {
            let machine = self.machine.document();
            machine["moving"]["bytesCopied"].as_f64().unwrap()
        };
        let (begun, before) = (Instant::now(), copied());
        let now = wait_until("10 MiB to be copied", LIMIT, || {
            let now = copied();
            (now - before > 10.0 * MIB).then_some(now)
        });
        let speed = (now - before) / MIB / begun.elapsed().as_secs_f64();
        eprintln!("copied at {speed:.2} MiB/s of 2");
        assert!(speed < 3.0, "{speed} MiB/s");
    }

    /// Waits until it is on no way any more.
    fn until_settled(&self) {
        wait_until("its way to be over", LIMIT, || {
            let machine = self.machine.document();
            let is_over = machine["moving"].is_null() && machine["state"] == "STARTED";
            is_over.then_some(())
        });
    }

    /// It is the same guest, which runs on one host, has written each number once wherever it counts, and nothing of it is anywhere
    /// else.
    fn is_whole(&self, host: &TestHost) {
        let machine = &self.machine;
        assert_eq!(self.ssh("cat /dev/shm/word"), "remembered");
        assert_eq!(self.ssh("cat /proc/sys/kernel/random/boot_id"), self.boot);
        let is_there = self.host() == "node7";
        let here = self.cloud.state_dir().join("machines");
        wait_until("nothing to be left of its way", LIMIT, || {
            let here = fs::read_dir(&here).unwrap().count();
            let there = host.machines();
            let wanted = (usize::from(!is_there), usize::from(is_there));
            let is_one = there.iter().all(|name| name == machine.uuid());
            ((here, there.len()) == wanted && is_one).then_some(())
        });
        let process = machine.process();
        let of = if is_there {
            host.namespace()
        } else {
            self.cloud.namespace()
        };
        assert!(of.unwrap().processes().contains(&process));
        // Of the cloud's own host QEMU has volumes by their files.
        let shown = usize::from(is_there && self.counts.contains(&VOLUME));
        wait_until("nobody else to write its disks", LIMIT, || {
            let writers = [host.namespace(), self.cloud.namespace()];
            let writers = writers.map(|one| disk_writers(one.unwrap()));
            (writers == [0, shown]).then_some(())
        });
        for file in &self.counts {
            let before = self.counted(file);
            wait_until("it to count on", LIMIT, || {
                (self.counted(file) > before).then_some(())
            });
        }
    }

    /// How far it has counted.
    fn counted(&self, file: &str) -> usize {
        let told = self.ssh(&format!("cat {file}"));
        let numbers: Vec<&str> = told.lines().collect();
        for (number, line) in (1..).zip(&numbers) {
            let is_last = number == numbers.len();
            // The last one may just be being written.
            assert!(
                line.parse() == Ok(number) || is_last,
                "{file}: line {number}: {line}"
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

/// A port of the guest's that its security group lets in, and one that it doesn't.
const OPEN: u16 = 4000;
const CLOSED: u16 = 4001;

/// A guest in a security group: its rules go with it, and so does a connection that they let in.
struct Guarded<'w> {
    world: &'w World<'w>,
    open: BufReader<TcpStream>,
    said: u32,
}

impl<'w> Guarded<'w> {
    fn new(world: &'w World<'w>) -> Self {
        for port in [OPEN, CLOSED] {
            world.ssh(&format!(
                "nc -ll -p {port} -e cat >/dev/null 2>&1 </dev/null & echo serving"
            ));
        }
        wait_until("it to serve", LIMIT, || connect(world, CLOSED));
        let group = |arguments: &[&str]| {
            let all: Vec<&str> = ["security-group"]
                .iter()
                .chain(arguments)
                .copied()
                .collect();
            world.cloud.cli(&all)
        };
        group(&["create", "goes-along"]);
        for what in ["tcp/22", &format!("tcp/{OPEN}"), "icmp/8"] {
            group(&["allow", "goes-along", what]);
        }
        group(&["add", "goes-along", &world.id]);
        wait_until("its group to hold", LIMIT, || {
            connect(world, CLOSED).is_none().then_some(())
        });
        let open = wait_until("what is let in", LIMIT, || connect(world, OPEN));
        let mut guarded = Self {
            world,
            open: BufReader::new(open),
            said: 0,
        };
        guarded.holds();
        guarded
    }

    /// The connection goes on, and nobody begins another that isn't let in.
    fn holds(&mut self) {
        self.said += 1;
        writeln!(self.open.get_mut(), "{}", self.said).unwrap();
        let mut heard = String::new();
        self.open.read_line(&mut heard).unwrap();
        assert_eq!(heard, format!("{}\n", self.said));
        assert!(connect(self.world, CLOSED).is_none());
        assert!(connect(self.world, OPEN).is_some());
    }
}

/// A connection from the cloud's own host, if it is let in.
fn connect(world: &World<'_>, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(world.machine.address().parse().unwrap(), port);
    let within = Duration::from_secs(3);
    let namespace = world.cloud.namespace().unwrap();
    let stream = namespace
        .enter(|| TcpStream::connect_timeout(&to, within))
        .ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Some(stream)
}

/// How many processes write disks for other hosts, of the daemon in a namespace; they are in none of ours.
fn disk_writers(namespace: &Namespace) -> usize {
    let daemons = namespace.processes();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let statuses = all.filter_map(|one| fs::read_to_string(one.path().join("status")).ok());
    let of = |status: &String, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let is_ours = |status: &String| {
        let parent = of(status, "PPid:").parse();
        of(status, "Name:").starts_with("qemu-storage")
            && !of(status, "State:").starts_with('Z')
            && parent.is_ok_and(|parent| daemons.contains(&parent))
    };
    statuses.filter(is_ours).count()
}

/// Says something to the hypervisor of a machine of the cloud's own host, whose daemon isn't there.
fn tell_hypervisor(cloud: &TestCloud, machine: &Machine<'_>, command: &str) {
    let folder = cloud.state_dir().join("machines").join(machine.uuid());
    let mut to = UnixStream::connect(folder.join("qmp.sock")).unwrap();
    to.set_read_timeout(Some(LIMIT)).unwrap();
    let mut lines = BufReader::new(to.try_clone().unwrap()).lines();
    for command in ["qmp_capabilities", command] {
        writeln!(to, "{}", json!({"execute": command})).unwrap();
        let answered = lines.find(|line| !line.as_ref().is_ok_and(|line| is_other(line)));
        let answer: Value = serde_json::from_str(&answered.unwrap().unwrap()).unwrap();
        assert_eq!(answer, json!({"return": {}}));
    }
}

/// What the hypervisor says without having been asked.
fn is_other(line: &str) -> bool {
    let said: Value = serde_json::from_str(line).unwrap();
    ["QMP", "event"].iter().any(|one| !said[one].is_null())
}

/// Ends a daemon as a crash does, has something happen, and starts it again.
fn kill_and_start(host: &mut TestHost, cloud: &TestCloud, name: &str, meanwhile: impl FnOnce()) {
    if name == "node7" {
        host.kill();
        meanwhile();
        host.start();
    } else {
        cloud.kill();
        meanwhile();
        cloud.start_again();
    }
    host.wait_for_state(cloud, "OK");
}

fn other(of: &str) -> &'static str {
    if of == "node7" { "testhost" } else { "node7" }
}

#[test]
fn a_machine_goes_to_another_host_and_back_while_its_guest_counts() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let world = World::counting(&cloud);
    let mut guarded = Guarded::new(&world);
    let silence = world.longest_silence(|| {
        world.move_live("node7");
    });
    eprintln!("no answer for {silence:?}");
    assert!(silence < STANDSTILL, "{silence:?}");
    world.is_whole(&host);
    guarded.holds();
    // What it said before is still read.
    assert!(world.machine.console().contains("Linux") || !world.machine.console().is_empty());
    world.move_live("testhost");
    world.is_whole(&host);
    guarded.holds();

    // Who halts it on purpose later finds it halted, also if the daemon begins anew: it isn't on its way.
    cloud.kill();
    tell_hypervisor(&cloud, &world.machine, "stop");
    cloud.start_again();
    wait_until("it to be seen halted", LIMIT, || {
        let machine = world.machine.document();
        let reason = machine["reason"].as_str().unwrap_or_default();
        (machine["state"] == "PAUSED" && reason.contains("paused at the hypervisor")).then_some(())
    });
    cloud.kill();
    tell_hypervisor(&cloud, &world.machine, "cont");
    cloud.start_again();
    world.until_settled();
    world.is_whole(&host);

    // At rest, as before.
    cloud.cli(&["host", "move", &world.id, "node7", "--at-rest", "--wait"]);
    assert_eq!(world.host(), "node7");
    world.machine.wait_for_phase("Running");
    world.is_whole(&host);

    // A host is emptied.
    cloud.cli(&["host", "drain", "node7", "--move", "--wait"]);
    assert_eq!(world.host(), "testhost");
    world.is_whole(&host);
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
    let cable = |host: &mut TestHost, is_cut: bool| {
        cloud.namespace().unwrap().cut(is_cut);
        host.wait_for_state(&cloud, if is_cut { "LOST" } else { "OK" });
    };
    world.stays(&mut host, "node7", |_| {
        world.is_copied_slowly();
        cloud.cli(&["host", "move", &world.id, "--cancel"]);
        world.until_settled();
        let reason = world.machine.document()["reason"].to_string();
        assert!(reason.contains("cancelled"), "{reason}");
    });
    // Something else is wanted of it.
    world.stays(&mut host, "node7", |_| {
        cloud.cli(&["pause-instance", &world.id]);
        wait_until("it to be paused", LIMIT, || {
            (world.machine.document()["state"] == "PAUSED").then_some(())
        });
        cloud.cli(&["start-instance", &world.id]);
    });
    // The cable is cut, for long: it runs on meanwhile.
    world.stays(&mut host, "node7", |host| {
        cable(host, true);
        world.until_settled();
        cable(host, false);
    });
    // Either daemon is killed, far before the end.
    for killed in ["node7", "testhost"] {
        world.stays(&mut host, "node7", |host| {
            kill_and_start(host, &cloud, killed, || {});
        });
    }
    // It goes after all that. And the other way round.
    world.move_live("node7");
    world.is_whole(&host);
    world.stays(&mut host, "testhost", |host| {
        cable(host, true);
        cable(host, false);
    });
    world.stays(&mut host, "testhost", |host| {
        kill_and_start(host, &cloud, "node7", || {});
    });
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
    let mut moved = 0;
    // At any moment of it, the last ones among them: each time a little later, until it was there before.
    for attempt in 0..10_u32 {
        let from = world.host();
        cloud.cli(&["host", "move", &world.id, other(&from)]);
        std::thread::sleep(Duration::from_millis(700) * (attempt / 2 + 1));
        let killed = if attempt % 2 == 0 {
            "node7"
        } else {
            "testhost"
        };
        kill_and_start(&mut host, &cloud, killed, || {});
        world.until_settled();
        world.is_whole(&host);
        moved += u32::from(world.host() != from);
    }
    eprintln!("{moved} of 10 moves had come to their end");
    world.machine.kill();
    cloud.assert_clean();
}

#[test]
fn a_machine_with_volumes_goes_while_its_guest_writes_them() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let world = World::counting_on_a_volume(&cloud);
    for to in ["node7", "testhost"] {
        let silence = world.longest_silence(|| {
            world.move_live(to);
        });
        eprintln!("to {to}: no answer for {silence:?}");
        world.is_whole(&host);
    }
    world.machine.kill();
    // Its volume is free, and whole.
    let second = cloud.machine();
    second.wait_for_ssh();
    let volumes = cloud.api().get("Volume").expect(200);
    let volume = volumes["volumes"][0]["id"].as_str().unwrap();
    second.attach(volume);
    let told = wait_until("the volume in another machine", LIMIT, || {
        let told = second.try_ssh(
            "fsck.ext4 -fy /dev/vdb >/dev/null 2>&1; mount /dev/vdb /mnt && wc -l < /mnt/count",
        );
        let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        told.parse::<usize>().ok()
    });
    assert!(told > 100, "{told}");
    second.kill();
}

/// Which of the two hosts of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Leaving,
    Coming,
}

/// What happens to a way when one end has come to a point (`vmhost::stop_points`).
#[derive(Debug)]
struct Disturbed {
    point: &'static str,
    at: End,
    /// Whose daemon is killed; none: the cable is cut until one host is lost.
    killed: Option<End>,
    /// Where the machine is afterwards; none: on either.
    ends: Option<End>,
}

const fn killed(point: &'static str, at: End, killed: End, ends: Option<End>) -> Disturbed {
    let killed = Some(killed);
    Disturbed {
        point,
        at,
        killed,
        ends,
    }
}

const fn cut(point: &'static str, at: End, ends: Option<End>) -> Disturbed {
    Disturbed {
        point,
        at,
        killed: None,
        ends,
    }
}

impl Disturbed {
    fn run(&self, world: &World<'_>, host: &mut TestHost) {
        let from = world.host();
        let named = |end| match end {
            End::Leaving => from.as_str(),
            End::Coming => other(&from),
        };
        let began = Instant::now();
        let mut point = match named(self.at) {
            "node7" => host.stop_point(self.point),
            _ => world.cloud.stop_point(self.point),
        };
        world
            .cloud
            .cli(&["host", "move", &world.id, named(End::Coming)]);
        point.reached();
        if let Some(killed) = self.killed {
            kill_and_start(host, world.cloud, named(killed), || drop(point));
        } else {
            let cable = world.cloud.namespace().unwrap();
            cable.cut(true);
            host.wait_for_state(world.cloud, "LOST");
            drop(point);
            cable.cut(false);
            host.wait_for_state(world.cloud, "OK");
        }
        world.until_settled();
        eprintln!(
            "{self:?} on the way from {from}: on {} after {:?}",
            world.host(),
            began.elapsed()
        );
        if let Some(end) = self.ends {
            assert_eq!(world.host(), named(end), "{self:?}");
        }
        world.is_whole(host);
    }
}

/// Has each happen on the way there and on the way back, and lets the machine go undisturbed in the end.
fn disturbed(cases: &[Disturbed]) {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let world = World::counting_on_a_volume(&cloud);
    for from in ["testhost", "node7"] {
        for case in cases {
            if world.host() != from {
                world.move_live(from);
                world.is_whole(&host);
            }
            case.run(&world, &mut host);
        }
    }
    world.move_live(other(&world.host()));
    world.is_whole(&host);
    world.machine.kill();
}

#[test]
#[ignore = "minutes: `make test-faults`"]
fn the_daemon_that_it_leaves_is_killed_at_each_step_of_its_standstill() {
    use End::{Coming, Leaving};
    disturbed(&[
        killed("Halted", Leaving, Leaving, Some(Leaving)),
        killed("MirrorsEnded", Leaving, Leaving, Some(Leaving)),
        killed("Still", Leaving, Leaving, Some(Leaving)),
        killed("Sent", Leaving, Leaving, Some(Leaving)),
        killed("Gone", Leaving, Leaving, Some(Leaving)),
        killed("Left", Leaving, Leaving, None),
        killed("Read", Coming, Leaving, None),
    ]);
}

#[test]
#[ignore = "minutes: `make test-faults`"]
fn the_daemon_that_it_comes_to_is_killed_at_each_step_of_its_standstill() {
    use End::{Coming, Leaving};
    disturbed(&[
        killed("Halted", Leaving, Coming, Some(Leaving)),
        killed("Still", Leaving, Coming, Some(Leaving)),
        killed("Sent", Leaving, Coming, Some(Leaving)),
        killed("Read", Coming, Coming, Some(Leaving)),
        killed("Arrived", Coming, Coming, Some(Coming)),
        killed("Taken", Coming, Coming, Some(Coming)),
        killed("Runs", Coming, Coming, Some(Coming)),
    ]);
}

#[test]
#[ignore = "minutes: `make test-faults`"]
fn the_cable_is_cut_at_each_step_of_its_standstill() {
    use End::{Coming, Leaving};
    disturbed(&[
        cut("Halted", Leaving, Some(Leaving)),
        cut("Still", Leaving, Some(Leaving)),
        cut("Sent", Leaving, Some(Leaving)),
        cut("Left", Leaving, None),
        cut("Taken", Coming, Some(Coming)),
    ]);
}

//! The life of a machine through the cloud, side by side with the same by hand: `bare-qemu`, in the same network namespace,
//! one after the other in every round, so that a busy computer is unfair to both.
//!
//! | row | budget |
//! |---|---|
//! | request → QEMU runs (its monitor says so) | 1.1 × by hand |
//! | request → SSH answers | 1.02 × by hand |
//! | hard stop: request → process gone | 50 ms |
//! | idle daemon | 40 MiB |
//!
//! `cargo build --release --workspace --bins` before, `STRATUS_ROUNDS=N` for another number of rounds than 5.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Appliance, TestCloud, skip_unless};

const LIMIT: Duration = Duration::from_secs(180);
const BRIDGE: &str = "bare0";

/// From the request on.
struct Times {
    runs: Duration,
    ssh: Duration,
    stop: Duration,
}

/// Whether somebody says `SSH-` at the address; gives up soon, to be asked again.
fn ssh_answers(address: SocketAddr) -> Option<()> {
    let soon = Duration::from_millis(250);
    let mut stream = TcpStream::connect_timeout(&address, soon).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).ok()?;
    (greeting == *b"SSH-").then_some(())
}

/// Whether the monitor at the socket says that the guest runs.
fn monitor_says_running(socket: &Path) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    lines.next()?.ok()?;
    for command in ["qmp_capabilities", "query-status"] {
        writeln!(stream, "{{\"execute\": \"{command}\"}}").ok()?;
    }
    let status = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.ok()?).ok()?;
        line["return"]["status"].as_str().map(str::to_owned)
    });
    (status? == "running").then_some(())
}

/// Asks all the time until there is an answer: what the waiting costs is the same for both sides.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn gone(pid: u32) -> Option<()> {
    // A process that has ended and was not yet asked for by its parent has no memory any more.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    (!status.contains("VmRSS")).then_some(())
}

fn by_hand(cloud: &TestCloud, base: &Path, round: usize) -> Times {
    let folder = cloud.folder().join(format!("bare-{round}"));
    let tap = format!("bare{}", round + 1);
    let octet = round + 10;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bare-qemu");
    let began = Instant::now();
    let output = cloud.run(
        Command::new(script)
            .arg(&folder)
            .arg(base)
            .arg(cloud.public_key_file())
            .args([BRIDGE, &tap, &format!("02:00:00:63:00:{octet:02x}")])
            .stdin(Stdio::null()),
    );
    assert!(output.status.success(), "{output:?}");
    let socket = folder.join("qmp.sock");
    until("QEMU by hand", || monitor_says_running(&socket));
    let runs = began.elapsed();
    let address = SocketAddr::from(([10, 99, 0, octet as u8], 22));
    cloud.namespace().unwrap().enter(|| {
        until("SSH by hand", || ssh_answers(address));
    });
    let ssh = began.elapsed();
    let pid: u32 = fs::read_to_string(folder.join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let began = Instant::now();
    cloud.shell(&format!("kill -9 {pid}"));
    until("the end by hand", || gone(pid));
    let stop = began.elapsed();
    cloud.shell(&format!("ip link delete {tap}"));
    Times { runs, ssh, stop }
}

fn by_the_cloud(cloud: &TestCloud) -> Times {
    let api = cloud.api();
    let document = cloud.machine_document(&cloud.image());
    let began = Instant::now();
    let machine = cloud.machine_of(&api, &document);
    until("Running", || (machine.phase() == "Running").then_some(()));
    let runs = began.elapsed();
    let address = SocketAddr::new(machine.address().parse().unwrap(), 22);
    cloud.namespace().unwrap().enter(|| {
        until("SSH", || ssh_answers(address));
    });
    let ssh = began.elapsed();
    let pid = machine.process();
    let began = Instant::now();
    api.post(&format!("{}/kill", machine.id), &json!({})).ok();
    until("the end", || gone(pid));
    let stop = began.elapsed();
    machine.wait_for_phase("Done");
    Times { runs, ssh, stop }
}

/// A bridge with a DHCP server, as somebody would have set them up by hand long ago.
fn network_by_hand(cloud: &TestCloud) -> PathBuf {
    let leases = cloud.folder().join("bare.leases");
    for line in [
        format!("ip link add {BRIDGE} type bridge"),
        format!("ip address add 10.99.0.1/24 dev {BRIDGE}"),
        format!("ip link set {BRIDGE} up"),
    ] {
        cloud.shell(&line);
    }
    let hosts: String = (0..60)
        .map(|round| {
            format!(
                "--dhcp-host=02:00:00:63:00:{:02x},10.99.0.{} ",
                round + 10,
                round + 10
            )
        })
        .collect();
    cloud.shell(&format!(
        "dnsmasq --conf-file=/dev/null --port=0 --interface={BRIDGE} --bind-interfaces --dhcp-authoritative \
         --dhcp-range=10.99.0.2,static --no-ping --dhcp-leasefile={} --pid-file={} {hosts}",
        leases.display(),
        cloud.folder().join("bare-dnsmasq.pid").display()
    ));
    leases
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn median(values: impl Iterator<Item = Duration>) -> f64 {
    let mut all: Vec<f64> = values.map(|value| value.as_secs_f64() * 1e3).collect();
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    // `cargo test --benches` only wants to know that it can be built.
    if std::env::args().any(|argument| argument == "--test") || skip_unless(&[]) {
        return;
    }
    let rounds = std::env::var("STRATUS_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let cloud = TestCloud::start();
    println!(
        "idle daemon, all roles                     {:6.1} MiB   (budget 40)",
        resident_kib(cloud.daemon_pid()) as f64 / 1024.0
    );
    let base = Appliance::tiny().disk;
    cloud.image();
    network_by_hand(&cloud);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    // The first of each reads files that nobody has read before.
    for round in 0..=rounds {
        let pair = (by_hand(&cloud, &base, round), by_the_cloud(&cloud));
        if round > 0 {
            bare.push(pair.0);
            ours.push(pair.1);
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("{rounds} rounds, load average {}", load.trim());
    type Of = fn(&Times) -> Duration;
    let rows: [(&str, Of, &str); 3] = [
        ("request -> QEMU runs", |times| times.runs, "1.1 x"),
        ("request -> SSH answers", |times| times.ssh, "1.02 x"),
        ("hard stop -> process gone", |times| times.stop, "50 ms"),
    ];
    for (what, of, budget) in rows {
        let (bare, ours) = (median(bare.iter().map(of)), median(ours.iter().map(of)));
        println!(
            "{what:28} by hand {bare:8.1} ms   cloud {ours:8.1} ms   {:5.2} x   (budget {budget})",
            ours / bare
        );
    }
    println!(
        "daemon afterwards                          {:6.1} MiB",
        resident_kib(cloud.daemon_pid()) as f64 / 1024.0
    );
}

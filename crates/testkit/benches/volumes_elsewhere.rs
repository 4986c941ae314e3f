//! A guest's disk that is a volume of another computer, side by side with the same by hand: `qemu-storage-daemon` and QEMU with TLS
//! between them, and nobody else (`bare-volume`). Both guests run all the time, and are measured in turn.
//!
//! | row | budget |
//! |---|---|
//! | reads | ≥ 0.9 × by hand |
//! | writes, flushed in the end | ≥ 0.9 × by hand |
//! | reads of 4 KiB, one after the other | ≥ 0.9 × by hand |
//!
//! By hand is as the programs are when nothing else is said. The cloud has volumes read by `io_uring` where it can;
//! `STRATUS_BARE_AIO=io_uring` has it so by hand, too.
//!
//! `cargo build --release --workspace --bins` before, `STRATUS_ROUNDS=N` for another number of rounds than 7. As root.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use testkit::{Appliance, TestHost, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const CLOUD: &str = "192.168.77.1";
const HOST: &str = "192.168.77.2";
const PORT: u64 = 2222;
const GIB: u64 = 1;

/// What the guest does with the disk that it finds, how much that moves, and what it is called.
const ROWS: [(&str, &str, f64); 3] = [
    ("reads", "dd if=$disk of=/dev/null bs=1M count=256", 256.0),
    (
        "writes, flushed",
        "dd if=/dev/zero of=$disk bs=1M count=128 conv=fsync",
        128.0,
    ),
    (
        "reads of 4 KiB",
        "echo 0 > /sys/block/${disk#/dev/}/queue/read_ahead_kb; dd if=$disk of=/dev/null bs=4k count=4096; \
         echo 128 > /sys/block/${disk#/dev/}/queue/read_ahead_kb",
        16.0,
    ),
];

/// How fast the guest does it, in MiB/s, by its own clock.
fn speed(ssh: &dyn Fn(&str) -> Output, work: &str, mib: f64) -> f64 {
    let line = format!(
        "disk=$(for d in /dev/vd?; do [ $(cat /sys/block/${{d#/dev/}}/size) = {} ] && echo $d; done); [ -n \"$disk\" ] || exit 1; \
         sync; echo 3 > /proc/sys/vm/drop_caches; read begun rest < /proc/uptime; {work} 2>/dev/null; read ended rest < /proc/uptime; \
         echo $begun $ended",
        (GIB << 30) / 512
    );
    let output = ssh(&line);
    let text = String::from_utf8_lossy(&output.stdout);
    let times: Vec<f64> = text
        .split(' ')
        .map(|it| it.trim().parse().unwrap())
        .collect();
    mib / (times[1] - times[0])
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    // `cargo test --benches` only wants to know that it can be built.
    if std::env::args().any(|argument| argument == "--test") || skip_unless(&[]) {
        return;
    }
    let rounds = std::env::var("STRATUS_ROUNDS").map_or(7, |text| text.parse().unwrap());
    let (host, cloud) = TestHost::of_a_cloud();
    let machine = cloud.machine();
    machine.wait_for_ssh();
    machine.attach(&cloud.volume(&cloud.api(), GIB));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bare-volume");
    let started = Command::new(script)
        .arg(cloud.folder().join("bare-volume"))
        .arg(Appliance::tiny().disk)
        .arg(cloud.public_key_file())
        .args([cloud.namespace().unwrap().name(), CLOUD])
        .args([host.namespace().unwrap().name(), HOST])
        .args([PORT.to_string(), GIB.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    let by_hand = |line: &str| cloud.ssh_to(HOST, PORT, "bare", line);
    let by_the_cloud = |line: &str| machine.try_ssh(line);
    wait_until("SSH by hand", LIMIT, || {
        by_hand("true").status.success().then_some(())
    });

    // What is read was written once, so that it isn't holes.
    for ssh in [&by_hand as &dyn Fn(&str) -> Output, &by_the_cloud] {
        speed(
            ssh,
            "dd if=/dev/zero of=$disk bs=1M count=256 conv=fsync",
            256.0,
        );
    }
    for (what, work, mib) in ROWS {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(speed(&by_hand, work, mib));
            ours.push(speed(&by_the_cloud, work, mib));
        }
        let (bare, ours) = (median(bare), median(ours));
        println!(
            "{what:18} by hand {bare:8.1} MiB/s   cloud {ours:8.1} MiB/s   {:5.2} x   (budget 0.9 x)",
            ours / bare
        );
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("{rounds} rounds, load average {}", load.trim());
}

//! A hundred thousand machines are placed on ten thousand hosts, one after the other, by each strategy, with and without
//! expressions and groups. Budget (`SPECIFICATION.md`): 1,000 placements a second.
//!
//! `cargo bench -p placement --bench ten_thousand_hosts`

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use cimi::{HostId, resources::Capacity, testing};
use placement::{Demand, Fleet, Group, Policy, Rank, Requirements, Strategy, Togetherness, Wish};

const HOSTS: u32 = 10_000;
const MACHINES: u32 = 100_000;
const GIB: u64 = 1 << 20;

fn fleet(strategy: Strategy) -> Fleet {
    let mut fleet = Fleet::new(Policy {
        strategy,
        ..Policy::default()
    });
    for number in 0..HOSTS {
        let mut host = testing::host();
        host.id = HostId::from_local(&format!("host-{number:05}")).unwrap();
        host.common.name = Some(format!("node-{number}.example.org"));
        host.capacity = Capacity {
            cpus: 32,
            memory_kib: (64 << (number % 3)) * GIB,
            ..Capacity::default()
        };
        fleet.host(&host, true);
    }
    fleet
}

/// How long each of the placements took, and the sum.
fn run(name: &str, strategy: Strategy, wish: impl Fn(u32, &mut dyn FnMut(&Wish<'_>))) {
    let mut fleet = fleet(strategy);
    let mut times = Vec::with_capacity(MACHINES as usize);
    let (mut placed, began) = (0_u32, Instant::now());
    for number in 0..MACHINES {
        let machine = format!("machine-{number}");
        let before = Instant::now();
        wish(number, &mut |wish| {
            placed += u32::from(fleet.reserve(&machine, wish).is_ok());
        });
        times.push(before.elapsed());
    }
    let took = began.elapsed();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000];
    let micros = |time: Duration| time.as_nanos() / 1000;
    println!(
        "{name:42} {:>8.0} placements/s, median {} µs, p99 {} µs, longest {} µs, {placed} placed",
        f64::from(MACHINES) / took.as_secs_f64(),
        micros(at(500)),
        micros(at(990)),
        micros(at(1000)),
    );
}

fn main() {
    let demand = |number: u32| Demand {
        cpu_percent: 100 << (number % 3),
        memory_kib: u64::from(1 + number % 4) * 2 * GIB,
    };
    let images: Vec<String> = (0..100).map(|number| format!("image-{number}")).collect();
    for (name, strategy) in [
        ("spreading", Strategy::Spreading),
        ("packing", Strategy::Packing),
    ] {
        run(name, strategy, |number, place| {
            place(&Wish {
                image: Some(&images[number as usize % images.len()]),
                ..Wish::of_room(demand(number))
            });
        });
    }
    let kvm = Requirements::parse("HYPERVISOR = 'tcg' & NAME = 'node-*.example.org'").unwrap();
    let rank = Rank::parse("FREECPU / TOTALCPU - RUNNING_VMS").unwrap();
    run(
        "requirements and rank",
        Strategy::Spreading,
        |number, place| {
            place(&Wish {
                requirements: Some(&kvm),
                rank: Some(&rank),
                ..Wish::of_room(demand(number))
            });
        },
    );
    run(
        "groups of ten, apart",
        Strategy::Packing,
        |number, place| {
            let group = Group {
                owner: "ann".into(),
                name: (number / 10).to_string().into(),
                kind: Togetherness::Apart,
            };
            place(&Wish {
                groups: &[group],
                ..Wish::of_room(demand(number))
            });
        },
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or("VmHWM: unknown"));
}

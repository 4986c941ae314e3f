//! The run: events in the order of virtual time. A machine that finds no host waits, and is tried again when room is made, as the
//! scheduler does it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use cimi::HostId;
use placement::{
    Demand, Fleet, Group, HostFacts, HostLoad, HostState, Means, Rank, Requirements, Togetherness,
    Wish,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Report, Scenario,
    report::{Moment, Recorder},
};

/// How many moments of the course are recorded.
const MOMENTS: u32 = 240;

/// What happens. In the order in which things of one moment happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Leaves(u32),
    /// Number of the maintenance, and whether it begins.
    Maintenance(u32, bool),
    Comes(u32),
    /// The course is recorded.
    Look,
}

/// Milliseconds of virtual time.
type Time = u64;

struct Kind {
    demand: Demand,
    requirements: Option<Requirements>,
    rank: Option<Rank>,
    mean: f64,
}

struct Machine {
    kind: u32,
    image: u32,
    groups: Vec<Group>,
    came: Time,
    /// How long it runs once it is placed.
    lives: Option<Time>,
}

struct Run<'s> {
    scenario: &'s Scenario,
    fleet: Fleet,
    kinds: Vec<Kind>,
    images: Vec<String>,
    machines: Vec<Machine>,
    events: BinaryHeap<Reverse<(Time, Event)>>,
    waiting: BTreeMap<u32, ()>,
    running: u32,
    /// By number of the host, in how many maintenances it is.
    closed: Vec<u32>,
    record: Recorder,
}

/// Simulates a scenario. `progress` is told the share of the virtual time that has passed, from 0 to 1.
#[must_use]
pub fn simulate(scenario: &Scenario, mut progress: impl FnMut(f64)) -> Report {
    let began = Instant::now();
    let mut run = Run::new(scenario);
    let end = millis(scenario.hours);
    while let Some(Reverse((now, event))) = run.events.pop() {
        if now > end {
            break;
        }
        run.happen(now, event);
        if event == Event::Look {
            #[allow(clippy::cast_precision_loss, reason = "a share to be shown")]
            progress(now as f64 / end as f64);
        }
    }
    let waiting = u32::try_from(run.waiting.len()).unwrap_or(u32::MAX);
    run.record
        .report(scenario, &run.fleet, run.running, waiting, began.elapsed())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "hours are checked to be from 0 to a year"
)]
fn millis(hours: f64) -> Time {
    (hours * 3_600_000.0) as Time
}

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario) -> Self {
        let mut random = StdRng::seed_from_u64(scenario.seed);
        let mut run = Self {
            scenario,
            fleet: fleet(scenario),
            kinds: Vec::new(),
            images: Vec::new(),
            machines: Vec::new(),
            events: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            running: 0,
            closed: vec![0; scenario.host_count() as usize],
            record: Recorder::default(),
        };
        for (number, kind) in (0_u32..).zip(&scenario.machines) {
            run.kinds.push(Kind {
                demand: Demand {
                    cpu_percent: u64::from(kind.cpus) * 100,
                    memory_kib: kind.memory_mib.saturating_mul(1024),
                },
                requirements: kind
                    .requirements
                    .as_deref()
                    .and_then(|text| Requirements::parse(text).ok()),
                rank: kind.rank.as_deref().and_then(|text| Rank::parse(text).ok()),
                mean: kind.mean_hours,
            });
            let first_image = run.images.len();
            let images = kind.images;
            run.images
                .extend((0..images).map(|image| format!("{number}-{image}")));
            for index in 0..kind.count {
                let [from, to] = kind.between_hours;
                let came = millis(random.random_range(from..=to));
                let groups = [
                    (Togetherness::Together, kind.together),
                    (Togetherness::Apart, kind.apart),
                ];
                let groups = groups.iter().filter(|(_, size)| *size > 0);
                let machine = Machine {
                    kind: number,
                    image: u32::try_from(first_image).unwrap_or(0) + random.random_range(0..images),
                    groups: groups
                        .map(|(togetherness, size)| Group {
                            owner: number.to_string().into(),
                            name: (index / size).to_string().into(),
                            kind: *togetherness,
                        })
                        .collect(),
                    came,
                    // The life of what may end at any moment is spread exponentially.
                    lives: run.kinds.last().filter(|kind| kind.mean > 0.0).map(|kind| {
                        millis(
                            (-random.random_range(f64::MIN_POSITIVE..1.0_f64).ln() * kind.mean)
                                .min(8784.0),
                        )
                    }),
                };
                let id = u32::try_from(run.machines.len()).unwrap_or(u32::MAX);
                run.events.push(Reverse((came, Event::Comes(id))));
                run.machines.push(machine);
            }
        }
        for (number, one) in (0_u32..).zip(&scenario.maintenance) {
            let [from, to] = one.between_hours;
            run.events
                .push(Reverse((millis(from), Event::Maintenance(number, true))));
            run.events
                .push(Reverse((millis(to), Event::Maintenance(number, false))));
        }
        let end = millis(scenario.hours);
        for moment in 0..=MOMENTS {
            let at = end * u64::from(moment) / u64::from(MOMENTS);
            run.events.push(Reverse((at, Event::Look)));
        }
        run
    }

    fn happen(&mut self, now: Time, event: Event) {
        match event {
            Event::Comes(id) => {
                if !self.place(now, id) {
                    self.waiting.insert(id, ());
                }
            }
            Event::Leaves(id) => {
                self.fleet.unbook(&id.to_string());
                self.running -= 1;
                self.place_waiting(now);
            }
            Event::Maintenance(number, begins) => {
                self.maintain(number, begins);
                if !begins {
                    self.place_waiting(now);
                }
            }
            Event::Look => {
                let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
                let moment = Moment::of(now, &self.fleet, self.running, waiting);
                self.record.course.push(moment);
            }
        }
    }

    /// Hosts only fill up in here: what had no room at once has none later, nor has anything larger.
    fn place_waiting(&mut self, now: Time) {
        let mut no_room: Vec<Demand> = Vec::new();
        let candidates: Vec<u32> = self.waiting.keys().copied().collect();
        for id in candidates {
            let Some((demand, plain)) = self.demand_of(id) else {
                continue;
            };
            if no_room.iter().any(|smaller| smaller.fits_in(demand)) {
                continue;
            }
            if self.place(now, id) {
                self.waiting.remove(&id);
            } else if plain {
                no_room.push(demand);
            }
        }
    }

    /// What a machine uses up, and whether it wants nothing but room.
    fn demand_of(&self, id: u32) -> Option<(Demand, bool)> {
        let machine = self.machines.get(id as usize)?;
        let kind = self.kinds.get(machine.kind as usize)?;
        Some((
            kind.demand,
            kind.requirements.is_none() && machine.groups.is_empty(),
        ))
    }

    fn place(&mut self, now: Time, id: u32) -> bool {
        let Some(machine) = self.machines.get(id as usize) else {
            return false;
        };
        let Some(kind) = self.kinds.get(machine.kind as usize) else {
            return false;
        };
        let wish = Wish {
            demand: kind.demand,
            requirements: kind.requirements.as_ref(),
            rank: kind.rank.as_ref(),
            image: self.images.get(machine.image as usize).map(String::as_str),
            groups: &machine.groups,
            needs: Means::default(),
            bridges: &[],
            content: None,
            way: None,
        };
        let began = Instant::now();
        let placed = self.fleet.reserve(&id.to_string(), &wish);
        self.record.decided(began.elapsed());
        match placed {
            Ok(_) => {
                self.running += 1;
                self.record
                    .placed(Duration::from_millis(now - machine.came));
                if let Some(lives) = machine.lives {
                    self.events.push(Reverse((now + lives, Event::Leaves(id))));
                }
                true
            }
            Err(refused) => {
                self.record.refused(&refused);
                false
            }
        }
    }

    fn maintain(&mut self, number: u32, begins: bool) {
        let Some(one) = self.scenario.maintenance.get(number as usize) else {
            return;
        };
        let hosts = one.after..one.after.saturating_add(one.hosts);
        for host in hosts {
            let Some(count) = self.closed.get_mut(host as usize) else {
                break;
            };
            *count = if begins {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            let state = if *count > 0 {
                HostState::Maintenance
            } else {
                HostState::Open
            };
            if let Ok(id) = HostId::from_local(&local_id(host)) {
                self.fleet.set_state(&id, state);
            }
        }
    }
}

/// Numbers of equal length, so that the order of ids is that of the scenario.
fn local_id(number: u32) -> String {
    format!("{number:07}")
}

fn fleet(scenario: &Scenario) -> Fleet {
    let policy = scenario.policy.for_placement();
    let mut fleet = Fleet::new(policy);
    let mut number = 0;
    for hosts in &scenario.hosts {
        for index in 0..hosts.count {
            let Ok(id) = HostId::from_local(&local_id(number)) else {
                continue;
            };
            number += 1;
            let capacity = cimi::resources::Capacity {
                cpus: hosts.cpus,
                memory_kib: hosts.memory_gib.saturating_mul(1 << 20),
                ..Default::default()
            };
            fleet.insert(HostLoad {
                id,
                offered: policy.offer(&capacity),
                booked: Demand::default(),
                state: HostState::Open,
                means: Means::ALL,
                trouble: None,
                facts: Box::new(HostFacts {
                    name: format!("{}-{index}", hosts.name),
                    hypervisor: hosts.hypervisor.clone(),
                    cpu_flags: format!(" {} ", hosts.cpu_flags.join(" ")),
                    ..HostFacts::default()
                }),
            });
        }
    }
    fleet
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Hosts, Machines, Maintenance};

    fn hosts(count: u32, memory_gib: u64) -> Hosts {
        Hosts {
            count,
            name: "n".into(),
            cpus: 4,
            memory_gib,
            hypervisor: "kvm".into(),
            cpu_flags: Vec::new(),
        }
    }

    fn machines(count: u32, memory_mib: u64, mean_hours: f64) -> Machines {
        Machines {
            count,
            between_hours: [0.0, 1.0],
            cpus: 1,
            memory_mib,
            mean_hours,
            images: 3,
            requirements: None,
            rank: None,
            together: 0,
            apart: 0,
        }
    }

    fn scenario(hosts: Vec<Hosts>, machines: Vec<Machines>) -> Scenario {
        Scenario {
            seed: 7,
            hours: 10.0,
            policy: crate::Policy {
                memory_reserve_mib: 0,
                ..crate::Policy::default()
            },
            hosts,
            machines,
            maintenance: Vec::new(),
        }
    }

    #[test]
    fn what_fits_is_placed_at_once_and_the_rest_waits_with_a_reason() {
        let report = simulate(
            &scenario(vec![hosts(3, 4)], vec![machines(20, 1024, 0.0)]),
            |_| {},
        );
        assert_eq!((report.running, report.waiting.left), (12, 8));
        assert_eq!(report.waiting.placed_at_once, 12);
        assert!(
            report
                .waiting
                .reason
                .as_ref()
                .unwrap()
                .contains("3 lack memory"),
            "{report:?}"
        );
        assert!((report.balance.memory_used - 1.0).abs() < 1e-9);
    }

    #[test]
    fn who_waits_comes_when_room_is_made() {
        let report = simulate(
            &scenario(vec![hosts(1, 4)], vec![machines(8, 1024, 0.5)]),
            |_| {},
        );
        assert_eq!((report.waiting.left, report.placed), (0, 8), "{report:?}");
        assert!(report.waiting.longest_seconds > 0.0);
    }

    #[test]
    fn hosts_in_maintenance_get_nothing_until_it_ends() {
        let mut scenario = scenario(vec![hosts(2, 64)], vec![machines(10, 1024, 0.0)]);
        scenario.maintenance = vec![
            Maintenance {
                between_hours: [0.0, 5.0],
                hosts: 1,
                after: 0,
            },
            Maintenance {
                between_hours: [0.0, 6.0],
                hosts: 2,
                after: 0,
            },
        ];
        let report = simulate(&scenario, |_| {});
        // Both are closed until the sixth hour: all came within the first.
        assert_eq!(report.placed, 10);
        assert!(report.waiting.median_seconds >= 5.0 * 3600.0, "{report:?}");
    }

    #[test]
    fn members_of_a_group_are_apart_in_a_run_too() {
        let mut kind = machines(9, 64, 0.0);
        kind.apart = 3;
        let report = simulate(&scenario(vec![hosts(2, 64)], vec![kind]), |_| {});
        assert_eq!((report.placed, report.waiting.left), (6, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_same_scenario_gives_the_same_run(seed in any::<u64>(), hours in 0.1_f64..4.0, mean in 0.0_f64..2.0) {
            let mut scenario = scenario(vec![hosts(3, 4), hosts(2, 2)], vec![machines(30, 512, mean), machines(10, 2048, 0.0)]);
            (scenario.seed, scenario.hours) = (seed, hours);
            let (one, other) = (simulate(&scenario, |_| {}), simulate(&scenario, |_| {}));
            prop_assert_eq!((one.placed, one.running), (other.placed, other.running));
            prop_assert_eq!(&one.course, &other.course);
            prop_assert_eq!(&one.waiting, &other.waiting);
            for moment in &one.course {
                prop_assert!(moment.memory_used <= 1.0 && moment.cpu_used <= 1.0);
            }
        }
    }
}

//! The choice: filters, then weights among the hosts that are left.

use std::cmp::Ordering;

use crate::{Demand, Group, HostLoad, HostState, Means, NoRoom, Strategy, Togetherness, Wish};

/// How much better a host is liked that has the machine's image, in thousandths of an empty host: less than what a machine of
/// usual size changes on a small host, so that it decides among hosts that are about as full.
const IMAGE_BONUS: i64 = 30;

/// The host for a machine. The order of `hosts` makes no difference.
///
/// # Errors
/// [`NoRoom`] with the reasons counted, if no host can take it.
pub fn place<'h>(
    hosts: &'h [HostLoad],
    wish: &Wish<'_>,
    strategy: Strategy,
) -> Result<&'h HostLoad, NoRoom> {
    let filters = Filters::of(wish, hosts);
    let mut best: Option<(Weight<'h>, &HostLoad)> = None;
    for host in hosts {
        if filters.refuse(host).is_some() {
            continue;
        }
        let weight = Weight::of(host, wish, strategy);
        if best.as_ref().is_none_or(|(other, _)| weight.beats(other)) {
            best = Some((weight, host));
        }
    }
    best.map(|(_, host)| host)
        .ok_or_else(|| NoRoom::among(hosts, wish, &filters))
}

/// Why a host is no choice. In the order in which they are told: the first that holds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal<'a> {
    Excluded,
    Maintenance,
    Lost,
    Trouble,
    /// It has no way to the storage that the machine needs.
    Storage,
    /// Its ports can't be forwarded to where the machine's users are.
    Ports,
    /// It is too old to hold the machine to its security groups.
    TooOld,
    /// It has no bridge of this name.
    Bridge(&'a str),
    /// A machine that it shall be apart from is there.
    Apart,
    /// The machines that it shall be together with are elsewhere.
    Elsewhere,
    Memory,
    Cpu,
}

/// What a machine's wish excludes.
pub(crate) struct Filters<'a> {
    wish: &'a Wish<'a>,
    /// What a host must have room for: the machine, or all that are to leave their host together with it.
    pub(crate) room: Demand,
    /// The groups that shall be together and have a host already.
    bound: Vec<&'a Group>,
}

impl<'a> Filters<'a> {
    fn of(wish: &'a Wish<'a>, hosts: &[HostLoad]) -> Self {
        let together = |group: &&Group| group.kind == Togetherness::Together;
        let (bound, free): (Vec<_>, Vec<_>) = wish
            .groups
            .iter()
            .filter(together)
            .partition(|group| hosts.iter().any(|host| binds(host, group, wish)));
        let mut room = wish.demand;
        // The first to leave chooses for those that come after it. Machines of several groups have their largest one's room at least.
        if let Some(way) = wish.way
            && !free.is_empty()
            && let Some(from) = hosts.iter().find(|host| host.id.local() == way.from)
            && from.state == HostState::Maintenance
        {
            let members = free
                .into_iter()
                .filter_map(|group| from.facts.groups.get(group));
            for all in members {
                room.cpu_percent = room.cpu_percent.max(all.demand.cpu_percent);
                room.memory_kib = room.memory_kib.max(all.demand.memory_kib);
            }
        }
        Self { wish, room, bound }
    }

    /// Whether others are to find room with it.
    pub(crate) fn is_for_all_of_a_group(&self) -> bool {
        self.room != self.wish.demand
    }

    /// The first reason not to take a host. What is known without looking beyond the host's own line comes first for the choice's
    /// sake, and is put in its order by [`NoRoom`] only when there was no choice.
    fn refuse(&self, host: &HostLoad) -> Option<Refusal<'a>> {
        if !self.room.fits_in(host.free()) {
            return Some(Refusal::Memory);
        }
        self.refuse_otherwise(host)
    }

    /// The first reason, in the order of [`Refusal`].
    pub(crate) fn reason(&self, host: &HostLoad) -> Option<Refusal<'a>> {
        let free = host.free();
        let of_room = if free.memory_kib < self.room.memory_kib {
            Some(Refusal::Memory)
        } else if free.cpu_percent < self.room.cpu_percent {
            Some(Refusal::Cpu)
        } else {
            None
        };
        self.refuse_otherwise(host).or(of_room)
    }

    fn refuse_otherwise(&self, host: &HostLoad) -> Option<Refusal<'a>> {
        let requirements = self.wish.requirements;
        let is_on_the_way = self
            .wish
            .way
            .is_none_or(|way| way.leads_to(host.id.local()));
        if !is_on_the_way || requirements.is_some_and(|requirements| !requirements.met_by(host)) {
            return Some(Refusal::Excluded);
        }
        match host.state {
            HostState::Open => {}
            HostState::Maintenance => return Some(Refusal::Maintenance),
            HostState::Lost => return Some(Refusal::Lost),
        }
        if host.trouble.is_some() {
            return Some(Refusal::Trouble);
        }
        let needs = self.wish.needs;
        let storage = Means {
            forwarded_ports: false,
            security_groups: false,
            ..needs
        };
        if !host.means.cover(storage) {
            return Some(Refusal::Storage);
        }
        if needs.forwarded_ports && !host.means.forwarded_ports {
            return Some(Refusal::Ports);
        }
        if needs.security_groups && !host.means.security_groups {
            return Some(Refusal::TooOld);
        }
        let lacks = |bridge: &&String| !host.facts.bridges.contains(bridge);
        if let Some(bridge) = self.wish.bridges.iter().find(lacks) {
            return Some(Refusal::Bridge(bridge));
        }
        let has = |group: &Group| host.facts.groups.contains_key(group);
        let apart = |group: &Group| group.kind == Togetherness::Apart && has(group);
        if self.wish.groups.iter().any(apart) {
            return Some(Refusal::Apart);
        }
        if !self.bound.iter().all(|group| binds(host, group, self.wish)) {
            return Some(Refusal::Elsewhere);
        }
        None
    }
}

/// Whether machines of a group that shall be together go where this host is: as long as one of them stays there. Who leaves a host
/// that takes no machines goes before the others do, and nobody is kept waiting for a host that is lost.
fn binds(host: &HostLoad, group: &Group, wish: &Wish<'_>) -> bool {
    let Some(members) = host.facts.groups.get(group) else {
        return false;
    };
    let is_left = wish.way.is_some_and(|way| way.from == host.id.local());
    members.machines > members.leaving
        && match host.state {
            HostState::Open => true,
            HostState::Maintenance => !is_left,
            HostState::Lost => false,
        }
}

/// How well a host is liked.
struct Weight<'h> {
    rank: f64,
    emptiness: i64,
    host: &'h HostLoad,
}

impl<'h> Weight<'h> {
    fn of(host: &'h HostLoad, wish: &Wish<'_>, strategy: Strategy) -> Self {
        let left = host.free().minus(wish.demand);
        let emptiness = per_mille(left.memory_kib, host.offered.memory_kib)
            .min(per_mille(left.cpu_percent, host.offered.cpu_percent));
        let emptiness = match strategy {
            Strategy::Spreading => emptiness,
            Strategy::Packing => -emptiness,
        };
        let facts = &host.facts;
        let cached = wish.image.is_some_and(|image| {
            let copied = wish.content.is_some_and(|sha1| facts.cached.contains(sha1));
            facts.has_all_images || copied || facts.images.contains_key(image)
        });
        Self {
            rank: wish.rank.map_or(0.0, |rank| rank.of(host)),
            emptiness: emptiness + if cached { IMAGE_BONUS } else { 0 },
            host,
        }
    }

    /// Among equals the first id, so that the same documents always give the same decision.
    fn beats(&self, other: &Self) -> bool {
        self.rank
            .total_cmp(&other.rank)
            .then(self.emptiness.cmp(&other.emptiness))
            .then_with(|| other.host.id.cmp(&self.host.id))
            == Ordering::Greater
    }
}

fn per_mille(part: u64, whole: u64) -> i64 {
    // Amounts are KiB and hundredths of processors: a thousand times as much is in range.
    let share = part.saturating_mul(1000) / whole.max(1);
    i64::try_from(share).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use proptest::{
        prelude::{Just, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
        strategy::Strategy as Generator,
    };

    use super::*;
    use crate::{Group, Rank, Requirements, host::example};

    const MIB: u64 = 1024;

    fn demand(cpu_percent: u64, memory_mib: u64) -> Demand {
        Demand {
            cpu_percent,
            memory_kib: memory_mib * MIB,
        }
    }

    fn room(cpu_percent: u64, memory_mib: u64) -> Wish<'static> {
        Wish::of_room(demand(cpu_percent, memory_mib))
    }

    fn members(machines: u32) -> crate::Members {
        crate::Members {
            machines,
            ..crate::Members::default()
        }
    }

    fn group(name: &str, kind: Togetherness) -> Group {
        Group {
            owner: "ann".into(),
            name: name.into(),
            kind,
        }
    }

    #[test]
    fn the_emptiest_or_the_fullest_host_is_taken() {
        let hosts = [
            example("a", demand(400, 8000), demand(100, 4000)),
            example("b", demand(400, 8000), demand(100, 2000)),
            example("c", demand(400, 8000), demand(100, 7900)),
        ];
        let wanted = room(100, 1000);
        assert_eq!(place(&hosts, &wanted, Strategy::Spreading), Ok(&hosts[1]));
        assert_eq!(place(&hosts, &wanted, Strategy::Packing), Ok(&hosts[0]));
    }

    #[test]
    fn a_rank_decides_before_the_strategy() {
        let mut hosts = [
            example("a", demand(400, 8000), demand(0, 0)),
            example("b", demand(400, 8000), demand(0, 4000)),
        ];
        hosts[1].facts.machines = 7;
        let rank = Rank::parse("RUNNING_VMS").unwrap();
        let wish = Wish {
            rank: Some(&rank),
            ..room(100, 100)
        };
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[1]));
    }

    #[test]
    fn a_host_that_has_the_image_is_liked_a_little_better() {
        let mut hosts = [
            example("a", demand(400, 8000), demand(0, 0)),
            example("b", demand(400, 8000), demand(0, 100)),
            example("c", demand(400, 8000), demand(0, 4000)),
        ];
        let wish = Wish {
            image: Some("debian"),
            ..room(0, 100)
        };
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[0]));
        hosts[2].facts.images.insert("debian".into(), 1);
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[0]));
        hosts[1].facts.images.insert("debian".into(), 1);
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[1]));
        // One with a copy of the same content, from whichever image, is as good; so is one that has all.
        let wish = Wish {
            content: Some("da39a3ee"),
            ..wish
        };
        hosts[0].facts.cached.insert("da39a3ee".into());
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[0]));
        hosts[0].facts.cached.clear();
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[1]));
        hosts[0].facts.has_all_images = true;
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[0]));
    }

    #[test]
    fn groups_are_kept_together_or_apart() {
        let mut hosts = [
            example("a", demand(400, 8000), demand(0, 0)),
            example("b", demand(400, 8000), demand(0, 4000)),
        ];
        let together = [group("web", Togetherness::Together)];
        let apart = [group("db", Togetherness::Apart)];
        let wish = |groups| Wish {
            groups,
            ..room(0, 100)
        };
        // The first goes where it is best; the next follows it, or avoids it.
        assert_eq!(
            place(&hosts, &wish(&together), Strategy::Spreading),
            Ok(&hosts[0])
        );
        hosts[1]
            .facts
            .groups
            .insert(together[0].clone(), members(1));
        assert_eq!(
            place(&hosts, &wish(&together), Strategy::Spreading),
            Ok(&hosts[1])
        );
        hosts[0].facts.groups.insert(apart[0].clone(), members(1));
        assert_eq!(
            place(&hosts, &wish(&apart), Strategy::Spreading),
            Ok(&hosts[1])
        );
        // A group of that name of somebody else is another.
        let other = [Group {
            owner: "bob".into(),
            ..apart[0].clone()
        }];
        assert_eq!(
            place(&hosts, &wish(&other), Strategy::Spreading),
            Ok(&hosts[0])
        );
        hosts[1].facts.groups.insert(apart[0].clone(), members(2));
        let refused = place(&hosts, &wish(&apart), Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 2 hosts: 2 have machines that this one is to be apart from"
        );
    }

    #[test]
    fn nobody_waits_for_a_group_on_a_lost_host() {
        let mut hosts = [
            example("a", demand(400, 8000), demand(0, 0)),
            example("b", demand(400, 8000), demand(0, 4000)),
        ];
        let together = [group("web", Togetherness::Together)];
        let wish = Wish {
            groups: &together,
            ..room(0, 100)
        };
        hosts[1]
            .facts
            .groups
            .insert(together[0].clone(), members(1));
        hosts[1].state = HostState::Maintenance;
        let refused = place(&hosts, &wish, Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 2 hosts: 1 has not the machines that this one is to be together with, 1 is in maintenance"
        );
        hosts[1].state = HostState::Lost;
        assert_eq!(place(&hosts, &wish, Strategy::Spreading), Ok(&hosts[0]));
    }

    #[test]
    fn an_explanation_counts_its_reasons() {
        let mut hosts = [
            example("a", demand(400, 4096), demand(100, 4000)),
            example("b", demand(400, 4096), demand(100, 3584)),
            example("c", demand(400, 4096), demand(0, 0)),
            example("d", demand(400, 4096), demand(0, 0)),
        ];
        hosts[2].trouble = Some("no space left for disks".into());
        hosts[3].state = HostState::Maintenance;
        let refused = place(&hosts, &room(100, 2048), Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 4 hosts: 2 lack memory (largest free 512 MiB, 2048 MiB wanted), \
             1 is in maintenance, 1 is in trouble (no space left for disks)"
        );
        let refused = place(&hosts[..1], &room(350, 1), Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 1 host: 1 lacks processors (largest free 3, 3.50 wanted)"
        );
        let avx = Requirements::parse("CPUFLAGS = '* avx2 *'").unwrap();
        let wish = Wish {
            requirements: Some(&avx),
            ..room(1, 1)
        };
        let refused = place(&hosts, &wish, Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 4 hosts: 4 are not what the machine's requirements ask for"
        );
        let refused = place(&[], &room(100, 1), Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for a host: none has reported yet"
        );
    }

    fn any_demand(most: u64) -> impl Generator<Value = Demand> {
        (0..most, 0..most).prop_map(|(cpu_percent, memory_kib)| Demand {
            cpu_percent,
            memory_kib,
        })
    }

    /// One group of each kind, which every host and every machine of a generated world may be of.
    fn both() -> [Group; 2] {
        [
            group("t", Togetherness::Together),
            group("a", Togetherness::Apart),
        ]
    }

    fn any_means() -> impl Generator<Value = Means> {
        prop::array::uniform4(prop::bool::weighted(0.7)).prop_map(
            |[volumes, saving, forwarded_ports, security_groups]| Means {
                volumes,
                saving,
                forwarded_ports,
                security_groups,
            },
        )
    }

    fn any_hosts() -> impl Generator<Value = Vec<HostLoad>> {
        let rare = || prop::bool::weighted(0.2);
        let state = prop_oneof![
            8 => Just(HostState::Open),
            1 => Just(HostState::Maintenance),
            1 => Just(HostState::Lost),
        ];
        let one = (
            any_demand(50),
            any_demand(50),
            rare(),
            state,
            any_means(),
            rare(),
            rare(),
        );
        prop::collection::vec(one, 0..8).prop_map(|hosts| {
            let build = |(n, (offered, booked, trouble, state, means, t, a))| {
                let mut host = example(&format!("h{n}"), offered, booked);
                let trouble: bool = trouble;
                host.trouble = trouble.then(|| "t".into());
                (host.state, host.means) = (state, means);
                for (group, is_there) in both().into_iter().zip([t, a]) {
                    if is_there {
                        host.facts.groups.insert(group, members(1));
                    }
                }
                host
            };
            hosts.into_iter().enumerate().map(build).collect()
        })
    }

    fn any_strategy() -> impl Generator<Value = Strategy> {
        prop_oneof![Just(Strategy::Spreading), Just(Strategy::Packing)]
    }

    proptest! {
        #[test]
        fn a_host_is_found_exactly_if_one_can_take_it(
            hosts in any_hosts(), wanted in any_demand(40), strategy in any_strategy(), of in 0_usize..3,
            needs in any_means(),
        ) {
            let groups = both();
            let groups = &groups[..of];
            let wish = Wish { groups, needs, ..Wish::of_room(wanted) };
            let together_elsewhere = |host: &HostLoad| {
                let has = |host: &HostLoad| {
                    host.state != HostState::Lost && host.facts.groups.contains_key(&both()[0])
                };
                of > 0 && hosts.iter().any(has) && !has(host)
            };
            let fits = |host: &HostLoad| {
                host.trouble.is_none()
                    && host.state == HostState::Open
                    && (host.means.volumes || !needs.volumes)
                    && (host.means.saving || !needs.saving)
                    && (host.means.forwarded_ports || !needs.forwarded_ports)
                    && (host.means.security_groups || !needs.security_groups)
                    && wanted.fits_in(host.free())
                    && !together_elsewhere(host)
                    && !(of > 1 && host.facts.groups.contains_key(&both()[1]))
            };
            match place(&hosts, &wish, strategy) {
                Ok(host) => prop_assert!(fits(host)),
                Err(refused) => {
                    prop_assert!(!hosts.iter().any(fits));
                    prop_assert_eq!(refused.counted(), refused.hosts);
                    prop_assert_eq!(usize::try_from(refused.hosts), Ok(hosts.len()));
                    prop_assert!(!refused.to_string().is_empty());
                }
            }
        }

        #[test]
        fn the_order_of_hosts_makes_no_difference(
            hosts in any_hosts(), wanted in any_demand(40), strategy in any_strategy(), turn in 0_usize..8,
        ) {
            let mut turned = hosts.clone();
            let turn = turn % hosts.len().max(1);
            turned.rotate_left(turn);
            let name = |hosts: &[HostLoad]| {
                let placed = place(hosts, &Wish::of_room(wanted), strategy);
                placed.map(|host| host.id.clone()).map_err(|refused| refused.kinds())
            };
            prop_assert_eq!(name(&hosts), name(&turned));
        }

        #[test]
        fn a_row_of_placements_never_overbooks(
            mut hosts in any_hosts(), wanted in prop::collection::vec(any_demand(20), 0..40), strategy in any_strategy(),
        ) {
            let fine = |host: &HostLoad| host.booked.fits_in(host.offered);
            let before: Vec<bool> = hosts.iter().map(fine).collect();
            for wanted in wanted {
                let chosen = place(&hosts, &Wish::of_room(wanted), strategy).map(|host| host.id.clone());
                for host in hosts.iter_mut().filter(|host| chosen.as_ref() == Ok(&host.id)) {
                    host.booked = host.booked.plus(wanted);
                }
            }
            for (host, before) in hosts.iter().zip(before) {
                prop_assert!(!before || fine(host));
            }
        }
    }
}

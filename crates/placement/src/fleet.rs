//! What is booked on which host, kept up to date machine by machine, so that a decision doesn't have to add up all
//! machines of the cloud.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use cimi::{HostId, resources::Host};

use crate::{
    Demand, Group, HostFacts, HostLoad, HostState, Means, Members, NoRoom, Policy, Wish, place,
};

/// All hosts and what every machine takes of them. A booking names its machine, so that booking again replaces it and
/// nothing is counted twice.
#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    hosts: Vec<HostLoad>,
    places: HashMap<HostId, usize>,
    bookings: HashMap<Box<str>, Booking>,
    /// What is booked on hosts that have no document (yet).
    elsewhere: HashMap<HostId, Taken>,
}

/// What one machine takes of its host.
#[derive(Debug)]
struct Booking {
    host: HostId,
    demand: Demand,
    image: Option<Box<str>>,
    groups: Box<[Group]>,
    /// It is asked to go elsewhere.
    leaves: bool,
}

/// What all machines take of a host.
#[derive(Debug, Default)]
struct Taken {
    demand: Demand,
    images: HashMap<Box<str>, u32>,
    groups: HashMap<Group, Members>,
    machines: u64,
}

impl Fleet {
    /// Without hosts.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            hosts: Vec::new(),
            places: HashMap::new(),
            bookings: HashMap::new(),
            elsewhere: HashMap::new(),
        }
    }

    /// All hosts, in no order.
    #[must_use]
    pub fn hosts(&self) -> &[HostLoad] {
        &self.hosts
    }

    /// The host is as its document says, and heard of or not. Returns whether there may be more room than before.
    pub fn host(&mut self, host: &Host, is_heard: bool) -> bool {
        if !host.runs_machines() {
            self.host_gone(host.id.local());
            return false;
        }
        let offered = self.policy.offer(&host.capacity);
        let trouble = (!host.troubles.is_empty()).then(|| host.troubles.join("; ").into());
        let (state, means) = (HostState::of(host, is_heard), Means::of(host));
        let mut facts = Box::new(HostFacts::of(host));
        if let Some(known) = self
            .places
            .get(&host.id)
            .and_then(|&place| self.hosts.get_mut(place))
        {
            std::mem::swap(&mut facts.images, &mut known.facts.images);
            std::mem::swap(&mut facts.groups, &mut known.facts.groups);
            facts.machines = known.facts.machines;
            let more = !offered.fits_in(known.offered)
                || (known.trouble.is_some() && trouble.is_none())
                || (known.state != state && state == HostState::Open)
                // Nobody is kept waiting for what is on a host that is lost.
                || (known.state != state && state == HostState::Lost && !facts.groups.is_empty())
                || !known.means.cover(means)
                || described_otherwise(&known.facts, &facts);
            (known.offered, known.trouble) = (offered, trouble);
            (known.state, known.means, known.facts) = (state, means, facts);
            return more;
        }
        self.insert(HostLoad {
            id: host.id.clone(),
            offered,
            booked: Demand::default(),
            state,
            means,
            trouble,
            facts,
        });
        true
    }

    /// A host that wasn't there: what is taken of it is what machines have booked, whatever `host` says.
    pub fn insert(&mut self, mut host: HostLoad) {
        let taken = self.elsewhere.remove(&host.id).unwrap_or_default();
        host.booked = taken.demand;
        let facts = &mut *host.facts;
        (facts.images, facts.groups, facts.machines) = (taken.images, taken.groups, taken.machines);
        self.places.insert(host.id.clone(), self.hosts.len());
        self.hosts.push(host);
    }

    /// Whether a host takes machines from now on.
    pub fn set_state(&mut self, host: &HostId, state: HostState) {
        if let Some(known) = self.place_of(host) {
            known.state = state;
        }
    }

    /// The host is none for machines any more. What is booked on it stays booked, should it come back.
    pub fn host_gone(&mut self, local: &str) {
        let Some(place) = self.hosts.iter().position(|host| host.id.local() == local) else {
            return;
        };
        let gone = self.hosts.swap_remove(place);
        self.places.remove(&gone.id);
        if let Some(moved) = self.hosts.get(place) {
            self.places.insert(moved.id.clone(), place);
        }
        if gone.facts.machines > 0 {
            let taken = Taken {
                demand: gone.booked,
                images: gone.facts.images,
                groups: gone.facts.groups,
                machines: gone.facts.machines,
            };
            self.elsewhere.insert(gone.id, taken);
        }
    }

    /// The machine takes what it wishes of `host`, and nothing of any other. Returns whether room was made thereby.
    pub fn book(&mut self, machine: &str, host: &HostId, wish: &Wish<'_>) -> bool {
        let leaves = wish.way.is_some_and(|way| way.from == host.local());
        let same = |had: &Booking| {
            had.host == *host
                && had.demand == wish.demand
                && had.image.as_deref() == wish.image
                && *had.groups == *wish.groups
                && had.leaves == leaves
        };
        if self.bookings.get(machine).is_some_and(same) {
            return false;
        }
        let made_room = self.unbook(machine);
        let booking = Booking {
            host: host.clone(),
            demand: wish.demand,
            image: wish.image.map(Into::into),
            groups: wish.groups.into(),
            leaves,
        };
        match self.place_of(host) {
            Some(known) => {
                let facts = &mut *known.facts;
                known.booked = known.booked.plus(booking.demand);
                facts.machines += 1;
                count_in(&mut facts.images, booking.image.as_ref());
                join(&mut facts.groups, &booking);
            }
            None => {
                let taken = self.elsewhere.entry(host.clone()).or_default();
                taken.demand = taken.demand.plus(booking.demand);
                taken.machines += 1;
                count_in(&mut taken.images, booking.image.as_ref());
                join(&mut taken.groups, &booking);
            }
        }
        self.bookings.insert(machine.into(), booking);
        made_room
    }

    /// The machine takes nothing of any host. Returns whether it did before.
    pub fn unbook(&mut self, machine: &str) -> bool {
        let Some(booking) = self.bookings.remove(machine) else {
            return false;
        };
        if let Some(known) = self.place_of(&booking.host) {
            let facts = &mut *known.facts;
            known.booked = known.booked.minus(booking.demand);
            facts.machines = facts.machines.saturating_sub(1);
            count_out(&mut facts.images, booking.image.as_ref());
            part(&mut facts.groups, &booking);
        } else if let Entry::Occupied(mut entry) = self.elsewhere.entry(booking.host.clone()) {
            let taken = entry.get_mut();
            taken.demand = taken.demand.minus(booking.demand);
            taken.machines = taken.machines.saturating_sub(1);
            count_out(&mut taken.images, booking.image.as_ref());
            part(&mut taken.groups, &booking);
            if taken.machines == 0 {
                entry.remove();
            }
        }
        true
    }

    /// Finds a host that can take the machine, and books it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn reserve(&mut self, machine: &str, wish: &Wish<'_>) -> Result<HostId, NoRoom> {
        let host = place(&self.hosts, wish, self.policy.strategy)?.id.clone();
        self.book(machine, &host, wish);
        Ok(host)
    }

    fn place_of(&mut self, host: &HostId) -> Option<&mut HostLoad> {
        let place = *self.places.get(host)?;
        self.hosts.get_mut(place)
    }
}

/// Whether what requirements may ask for is another, or the bridges are.
fn described_otherwise(one: &HostFacts, other: &HostFacts) -> bool {
    let told = |facts: &HostFacts| {
        [
            &facts.name,
            &facts.hypervisor,
            &facts.cpu_model,
            &facts.cpu_flags,
        ]
        .map(String::clone)
    };
    told(one) != told(other) || one.bridges != other.bridges
}

fn count_in<'a, K: Clone + Eq + Hash + 'a>(
    counts: &mut HashMap<K, u32>,
    keys: impl IntoIterator<Item = &'a K>,
) {
    for key in keys {
        *counts.entry(key.clone()).or_default() += 1;
    }
}

fn count_out<'a, K: Eq + Hash + 'a>(
    counts: &mut HashMap<K, u32>,
    keys: impl IntoIterator<Item = &'a K>,
) {
    for key in keys {
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

fn join(groups: &mut HashMap<Group, Members>, booking: &Booking) {
    for group in &booking.groups {
        let members = groups.entry(group.clone()).or_default();
        members.machines += 1;
        members.leaving += u32::from(booking.leaves);
        members.demand = members.demand.plus(booking.demand);
    }
}

fn part(groups: &mut HashMap<Group, Members>, booking: &Booking) {
    for group in &booking.groups {
        if let Some(members) = groups.get_mut(group) {
            members.machines -= 1;
            members.leaving -= u32::from(booking.leaves);
            members.demand = members.demand.minus(booking.demand);
            if members.machines == 0 {
                groups.remove(group);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Togetherness, host::example};

    fn fleet(hosts: u32) -> Fleet {
        let mut fleet = Fleet::new(Policy::default());
        for number in 0..hosts {
            let offered = Demand {
                cpu_percent: 1000,
                memory_kib: 1000,
            };
            let host = example(&format!("h{number}"), offered, Demand::default());
            fleet.insert(host);
        }
        fleet
    }

    fn groups() -> [Group; 1] {
        [Group {
            owner: "ann".into(),
            name: "db".into(),
            kind: Togetherness::Apart,
        }]
    }

    #[test]
    fn a_host_that_has_joined_gets_machines_once_it_takes_them_and_while_it_is_heard_of() {
        let mut fleet = fleet(0);
        let wish = Wish::of_room(Demand::default());
        let mut host = cimi::testing::host();
        host.desired.apart = true;
        assert!(!fleet.host(&host, true));
        let refused = fleet.reserve("1", &wish).unwrap_err().to_string();
        assert!(refused.contains("none has reported yet"), "{refused}");
        host.runs_machines = true;
        assert!(fleet.host(&host, true));
        assert_eq!(fleet.reserve("1", &wish).unwrap(), host.id);
        assert!(!fleet.host(&host, false));
        let refused = fleet.reserve("2", &wish).unwrap_err().to_string();
        assert_eq!(
            refused,
            "waiting for room on 1 host: 1 is lost (nothing is heard of it)"
        );
        assert!(fleet.host(&host, true));
        assert_eq!(fleet.reserve("2", &wish).unwrap(), host.id);
        host.runs_machines = false;
        assert!(!fleet.host(&host, true));
        assert!(fleet.reserve("3", &wish).is_err());
        assert_eq!(fleet.elsewhere.get(&host.id).unwrap().machines, 2);
        // The one of the cloud's own daemon needn't say that it is there.
        host.desired.apart = false;
        assert!(fleet.host(&host, false));
        assert_eq!(fleet.reserve("3", &wish).unwrap(), host.id);
    }

    #[test]
    fn what_only_the_cloud_s_own_host_has_is_not_looked_for_elsewhere() {
        let mut fleet = fleet(0);
        let mut joined = cimi::testing::host();
        (joined.desired.apart, joined.runs_machines) = (true, true);
        fleet.host(&joined, true);
        let room = Wish::of_room(Demand::default());
        let volumes = Means {
            volumes: true,
            ..Means::default()
        };
        let saving = Means {
            saving: true,
            ..Means::default()
        };
        let ports = Means {
            forwarded_ports: true,
            ..Means::default()
        };
        let no_storage =
            "1 has no way to the storage that the machine needs (for volumes, or to be saved)";
        for (needs, told) in [
            (volumes, no_storage),
            (saving, no_storage),
            (
                ports,
                "1 has no ports that users reach (the machine's network forwards those of the cloud's own host)",
            ),
        ] {
            let wish = Wish { needs, ..room };
            let refused = fleet.reserve("1", &wish).unwrap_err().to_string();
            assert_eq!(refused, format!("waiting for room on 1 host: {told}"));
        }
        joined.uses_volumes = true;
        fleet.host(&joined, true);
        let of_volumes = Wish {
            needs: volumes,
            ..room
        };
        assert_eq!(fleet.reserve("0", &of_volumes).unwrap(), joined.id);
        joined.features = vec!["of a newer one".to_owned(), Host::GIVES_DISKS.to_owned()];
        fleet.host(&joined, true);
        let to_be_saved = Wish {
            needs: saving,
            ..room
        };
        assert_eq!(fleet.reserve("s", &to_be_saved).unwrap(), joined.id);
        let own = cimi::testing::host();
        fleet.host(&own, false);
        let needs = Means::ALL;
        assert_eq!(fleet.reserve("1", &Wish { needs, ..room }).unwrap(), own.id);
    }

    #[test]
    fn a_host_without_the_bridge_or_too_old_for_groups_is_told_in_words() {
        let mut fleet = fleet(0);
        let bridges = ["br-site".to_owned()];
        let room = Wish::of_room(Demand::default());
        let on_the_site = Wish {
            bridges: &bridges,
            ..room
        };
        let in_groups = Wish {
            needs: Means {
                security_groups: true,
                ..Means::default()
            },
            ..room
        };
        let (mut joined, mut other) = (cimi::testing::host(), cimi::testing::host());
        for host in [&mut joined, &mut other] {
            (host.desired.apart, host.runs_machines) = (true, true);
            host.bridges = vec!["br-else".to_owned()];
            fleet.host(host, true);
        }
        let refused = fleet.reserve("1", &on_the_site).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 2 hosts: 2 lack the bridge br-site (the machine's network is plugged into it)"
        );
        let refused = fleet.reserve("1", &in_groups).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 2 hosts: 2 are too old for security groups (their stratusd is to be upgraded)"
        );
        // Who waits is looked at again when a host gets what was missing.
        joined.bridges.push("br-site".to_owned());
        assert!(fleet.host(&joined, true));
        assert_eq!(fleet.reserve("1", &on_the_site).unwrap(), joined.id);
        other.features.push(Host::SECURITY_GROUPS.to_owned());
        assert!(fleet.host(&other, true));
        assert_eq!(fleet.reserve("2", &in_groups).unwrap(), other.id);
        assert!(!fleet.host(&other, true));
    }

    #[test]
    fn what_is_booked_on_a_host_outlives_its_document() {
        let mut fleet = fleet(1);
        let host = HostId::from_local("h0").unwrap();
        let groups = groups();
        let wish = Wish {
            image: Some("debian"),
            groups: &groups,
            ..Wish::of_room(Demand {
                cpu_percent: 600,
                memory_kib: 10,
            })
        };
        fleet.book("1", &host, &wish);
        fleet.host_gone("h0");
        assert!(fleet.reserve("2", &wish).is_err());
        fleet.unbook("1");
        assert!(fleet.elsewhere.is_empty());
        fleet.book("1", &host, &wish);
        assert_eq!(fleet.elsewhere.get(&host).unwrap().groups.len(), 1);
    }

    /// One step of a history: a machine is booked somewhere, taken off, or a host's document goes.
    #[derive(Clone, Debug)]
    enum Step {
        Book(u8, u8, u64),
        Unbook(u8),
        Gone(u8),
    }

    fn any_step() -> impl proptest::strategy::Strategy<Value = Step> {
        prop_oneof![
            (0_u8..6, 0_u8..4, 0_u64..100).prop_map(|(m, h, d)| Step::Book(m, h, d)),
            (0_u8..6).prop_map(Step::Unbook),
            (0_u8..4).prop_map(Step::Gone),
        ]
    }

    proptest! {
        /// The account equals what adding up all bookings anew gives, whatever happened.
        #[test]
        fn the_account_is_the_sum_of_its_bookings(steps in prop::collection::vec(any_step(), 0..60)) {
            let mut fleet = fleet(4);
            let mut machines: HashMap<u8, (u8, u64)> = HashMap::new();
            let groups = groups();
            for step in steps {
                match step {
                    Step::Book(machine, host, amount) => {
                        let wish = Wish {
                            groups: &groups,
                            ..Wish::of_room(Demand { cpu_percent: amount, memory_kib: amount })
                        };
                        let id = HostId::from_local(&format!("h{host}")).unwrap();
                        fleet.book(&machine.to_string(), &id, &wish);
                        machines.insert(machine, (host, amount));
                    }
                    Step::Unbook(machine) => {
                        let had = fleet.unbook(&machine.to_string());
                        prop_assert_eq!(had, machines.remove(&machine).is_some());
                    }
                    Step::Gone(host) => fleet.host_gone(&format!("h{host}")),
                }
            }
            for number in 0..4_u8 {
                let id = HostId::from_local(&format!("h{number}")).unwrap();
                let here = || machines.values().filter(|(host, _)| *host == number);
                let amount: u64 = here().map(|(_, amount)| amount).sum();
                let (booked, count, grouped) = match fleet.places.get(&id) {
                    Some(&place) => {
                        let host = fleet.hosts.get(place).unwrap();
                        (host.booked, host.facts.machines, host.facts.groups.clone())
                    }
                    None => fleet.elsewhere.get(&id).map_or((Demand::default(), 0, HashMap::new()), |taken| {
                        (taken.demand, taken.machines, taken.groups.clone())
                    }),
                };
                prop_assert_eq!(booked.cpu_percent, amount);
                prop_assert_eq!(count, here().count() as u64);
                let demand = Demand { cpu_percent: amount, memory_kib: amount };
                let members = Members { machines: u32::try_from(count).unwrap(), leaving: 0, demand };
                prop_assert_eq!(grouped.get(&groups[0]).copied(), (count > 0).then_some(members));
            }
        }
    }
}

//! What is booked on which host, kept up to date machine by machine, so that a decision doesn't have to add up all
//! machines of the cloud.

use std::collections::HashMap;

use cimi::{
    HostId,
    resources::{AcceleratorKind, Host},
};

use crate::{
    placement::{Demand, HostLoad, NoRoom, Policy, place},
    requirements::{HostFacts, Requirements},
};

/// All hosts and what every machine takes of them. A booking names its machine, so that booking again replaces it and
/// nothing is counted twice.
#[derive(Debug)]
pub(crate) struct Ledger {
    policy: Policy,
    hosts: Vec<HostLoad>,
    places: HashMap<HostId, usize>,
    bookings: HashMap<Box<str>, (HostId, Demand)>,
    /// What is booked on hosts that have no document (yet).
    elsewhere: HashMap<HostId, Demand>,
}

impl Ledger {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            hosts: Vec::new(),
            places: HashMap::new(),
            bookings: HashMap::new(),
            elsewhere: HashMap::new(),
        }
    }

    /// The host is as its document says. Returns whether there may be more room than before.
    pub(crate) fn host(&mut self, host: &Host) -> bool {
        let offered = self.policy.offer(&host.capacity);
        let trouble = (!host.troubles.is_empty()).then(|| host.troubles.join("; "));
        if let Some(known) = self
            .places
            .get(&host.id)
            .and_then(|&place| self.hosts.get_mut(place))
        {
            let more =
                !offered.fits_in(known.offered) || (known.trouble.is_some() && trouble.is_none());
            let machines = known.facts.machines;
            let facts = facts(host, machines);
            let other = known.facts != facts;
            (known.offered, known.trouble, known.facts) = (offered, trouble, facts);
            return more || other;
        }
        let placed = self.bookings.values().filter(|(at, _)| *at == host.id);
        let facts = facts(host, placed.count() as u64);
        let booked = self.elsewhere.remove(&host.id).unwrap_or_default();
        self.places.insert(host.id.clone(), self.hosts.len());
        self.hosts.push(HostLoad {
            id: host.id.clone(),
            offered,
            booked,
            trouble,
            facts,
        });
        true
    }

    /// The host's document is gone. What is booked on it stays booked, should it come back.
    pub(crate) fn host_gone(&mut self, local: &str) {
        let Some(place) = self.hosts.iter().position(|host| host.id.local() == local) else {
            return;
        };
        let gone = self.hosts.swap_remove(place);
        self.places.remove(&gone.id);
        if let Some(moved) = self.hosts.get(place) {
            self.places.insert(moved.id.clone(), place);
        }
        self.elsewhere.insert(gone.id, gone.booked);
    }

    /// The machine takes `demand` of `host`, and nothing of any other. Returns whether room was made thereby.
    pub(crate) fn book(&mut self, machine: &str, host: &HostId, demand: Demand) -> bool {
        if self
            .bookings
            .get(machine)
            .is_some_and(|(at, had)| at == host && *had == demand)
        {
            return false;
        }
        let made_room = self.unbook(machine);
        let booked = self.booked(host);
        *booked = booked.plus(demand);
        self.count(host, 1);
        self.bookings.insert(machine.into(), (host.clone(), demand));
        made_room
    }

    /// The machine takes nothing of any host. Returns whether it did before.
    pub(crate) fn unbook(&mut self, machine: &str) -> bool {
        let Some((host, demand)) = self.bookings.remove(machine) else {
            return false;
        };
        let booked = self.booked(&host);
        *booked = booked.minus(demand);
        let nothing = *booked == Demand::default();
        self.count(&host, -1);
        if nothing {
            self.elsewhere.remove(&host);
        }
        true
    }

    /// Finds a host with room and books it.
    pub(crate) fn reserve(
        &mut self,
        machine: &str,
        demand: Demand,
        requirements: Option<&Requirements>,
    ) -> Result<HostId, NoRoom> {
        let host = place(&self.hosts, demand, requirements, self.policy.strategy)?
            .id
            .clone();
        self.book(machine, &host, demand);
        Ok(host)
    }

    fn count(&mut self, host: &HostId, change: i64) {
        if let Some(known) = self
            .places
            .get(host)
            .and_then(|&place| self.hosts.get_mut(place))
        {
            known.facts.machines = known.facts.machines.saturating_add_signed(change);
        }
    }

    fn booked(&mut self, host: &HostId) -> &mut Demand {
        match self
            .places
            .get(host)
            .and_then(|&place| self.hosts.get_mut(place))
        {
            Some(known) => &mut known.booked,
            None => self.elsewhere.entry(host.clone()).or_default(),
        }
    }
}

fn facts(host: &Host, machines: u64) -> HostFacts {
    HostFacts {
        name: host.common.name.clone().unwrap_or_default(),
        hypervisor: match host.accelerator {
            AcceleratorKind::Kvm => "kvm".to_owned(),
            AcceleratorKind::Tcg => "tcg".to_owned(),
        },
        cpu_model: host.cpu_model.clone(),
        machines,
    }
}

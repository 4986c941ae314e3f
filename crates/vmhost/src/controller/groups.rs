//! Security groups of the machines of this host, as the documents say: what the host's networks are told of them.
//!
//! Of a group that a rule names only the addresses are known here, by the group that has the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cimi::resources::{Machine, RuleDirection, SecurityGroup, SecurityRule};
use ipnet::IpNet;
use network::{Direction, GroupRule, GroupTag, Groups, RulePeer, Traffic};

use super::{Shared, prepare};

/// ICMP goes by types and codes, what has ports by these.
const ALL_PORTS: (u16, u16) = (0, u16::MAX);

impl Shared {
    /// The groups of the machines of a network, those that come included.
    pub(super) fn groups_on(&self, network: &str) -> Groups {
        let mut groups = Groups::default();
        let mut named: Vec<String> = Vec::new();
        for machine in self.machines_here() {
            named.extend(
                machine
                    .security_groups
                    .iter()
                    .map(|one| one.href.local().to_owned()),
            );
            for (name, request) in prepare::plug_requests(&machine) {
                if name == network {
                    groups.of.insert(request.nic, request.groups);
                }
            }
        }
        named.sort_unstable();
        named.dedup();
        let known = named
            .iter()
            .filter_map(|local| self.documents.security_groups.get(local));
        let mut known: Vec<_> = known.collect();
        // Of what two say of a third the newer holds.
        known.sort_by_key(|group| group.common.updated);
        for group in known {
            define(&mut groups, &group);
        }
        // Elsewhere the same addresses may be other people's.
        if let Some(reached) = self.subnets_reached(network) {
            for group in groups.groups.values_mut() {
                group.members.retain(|address| {
                    is_on_link(address) || reached.iter().any(|subnet| subnet.contains(address))
                });
            }
        }
        groups
    }

    /// The addresses of a network and of those that it forwards to: others come by another address than their own. None: it isn't known.
    fn subnets_reached(&self, network: &str) -> Option<Vec<IpNet>> {
        let networks = self.documents.networks.all();
        let own = networks.iter().find(|one| one.id.local() == network)?;
        let group = own.forwarding_group.as_ref().map(|group| &group.href);
        let reached = networks.iter().filter(|other| {
            let theirs = other.forwarding_group.as_ref().map(|group| &group.href);
            other.id == own.id || group.is_some() && theirs == group
        });
        let subnets = reached.flat_map(|one| [Some(&one.subnet), one.subnet6.as_ref()]);
        Some(
            subnets
                .flatten()
                .filter_map(|text| text.parse().ok())
                .collect(),
        )
    }

    /// Has a network that is set up know them.
    pub(super) async fn tell_groups(
        &self,
        name: &str,
        host: &network::NetworkHost,
    ) -> network::Result<()> {
        host.set_groups(self.groups_on(name)).await
    }
}

/// Whether an address is one of a link only, in IPv6.
const fn is_on_link(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The groups of a machine, as the host's networks call them.
pub(super) fn tags(machine: &Machine) -> BTreeSet<GroupTag> {
    let groups = machine.security_groups.iter();
    groups.filter_map(|group| tag(group.href.local())).collect()
}

/// One that has no such name is one that nobody is in: ids are made by `cloud`.
fn tag(local: &str) -> Option<GroupTag> {
    local.parse().ok()
}

fn define(groups: &mut Groups, document: &SecurityGroup) {
    for (named, addresses) in &document.reached {
        if let Some(tag) = tag(named) {
            groups.groups.entry(tag).or_default().members = addresses.clone();
        }
    }
    if let Some(tag) = tag(document.id.local()) {
        let rules = document.rules.iter().filter_map(|one| {
            let rule = rule(one);
            if rule.is_none() {
                tracing::warn!(group = %document.id, rule = one.id, "this daemon doesn't know such a rule: it allows nothing");
            }
            rule
        });
        groups.groups.entry(tag).or_default().rules = rules.collect();
    }
}

fn rule(rule: &SecurityRule) -> Option<GroupRule> {
    let (first, last) = rule.first_port.zip(rule.last_port).unwrap_or(ALL_PORTS);
    Some(GroupRule {
        direction: match rule.direction {
            RuleDirection::In => Direction::In,
            RuleDirection::Out => Direction::Out,
        },
        traffic: match rule.protocol.as_str() {
            "any" => Traffic::Any,
            "tcp" => Traffic::Tcp(first, last),
            "udp" => Traffic::Udp(first, last),
            "icmp" => Traffic::Icmp(rule.icmp_type, rule.icmp_code),
            "icmpv6" => Traffic::Icmpv6(rule.icmp_type, rule.icmp_code),
            number => Traffic::Protocol(number.parse().ok()?),
        },
        peer: match (&rule.group, &rule.addresses) {
            (Some(group), _) => RulePeer::Group(tag(group.href.local())?),
            (None, Some(block)) => RulePeer::Block(block.parse().ok()?),
            (None, None) => RulePeer::Anybody,
        },
    })
}

/// Which groups machines of this host have been told to be in, to see what is new.
#[derive(Default)]
pub(super) struct Noticed(BTreeMap<String, BTreeSet<GroupTag>>);

impl Noticed {
    /// Whether a machine that changed is in others than before.
    pub(super) fn differs(&mut self, id: &str, machine: Option<&Machine>) -> bool {
        let now = machine.map(tags).unwrap_or_default();
        let before = self.0.remove(id).unwrap_or_default();
        let differs = before != now;
        if !now.is_empty() {
            self.0.insert(id.to_owned(), now);
        }
        differs
    }
}

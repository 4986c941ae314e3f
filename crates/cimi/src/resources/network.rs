//! Network and Address.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{
    AddressId, Common, HostId, MachineId, NetworkId, Ref, Timestamp, ids::ForwardingGroupId,
};

/// Reach of a network (StratusLab's three address classes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkClass {
    /// Reaches the Internet.
    Public,
    /// Within the cloud.
    Local,
    /// Within one host.
    Private,
}

/// States of a Network (DSP0263 §5.28).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NetworkState {
    /// Machines on it can speak.
    Started,
    /// Machines on it can't speak.
    Stopped,
}

/// A network that machines are plugged into.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `Network/<name>`.
    pub id: NetworkId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: NetworkState,
    /// Its reach.
    pub class: NetworkClass,
    /// Address range in CIDR notation, e.g. `10.77.0.0/16`.
    pub subnet: String,
    /// Prefix of its machines' IPv6 addresses in CIDR notation, 64 bits; none: they have no IPv6. Whose each address is
    /// follows from MACs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<String>,
    /// The bridge of each host by which its machines are on the site's own Ethernet; none: it is a network of the cloud's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The router's address: the host's own on the bridge, or that of the site's router.
    pub gateway: Ipv4Addr,
    /// First address that may be leased.
    pub first: Ipv4Addr,
    /// Last address that may be leased.
    pub last: Ipv4Addr,
    /// DNS domain of its machines.
    pub domain: String,
    /// Name servers told to machines; empty: the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<Ipv4Addr>,
    /// Whether machines reach the outside through the host's address.
    pub nat: bool,
    /// Largest packet in bytes; none: 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Its machines are reached by forwarded ports of their host, not by their addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    /// By what its bridge is named on hosts, behind the host's `instance`: one letter or digit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Where it is one network over several hosts: these, by their ids. Empty: each host has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<NetworkOnHost>,
    /// The group of networks whose machines its machines reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding_group: Option<Ref<ForwardingGroupId>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Network, "Network", |network, add| {
    if let Some(group) = &network.forwarding_group {
        add("forwardingGroup", group.href.local());
    }
});

/// A host that has a network in common with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkOnHost {
    /// Which.
    pub host: HostId,
    /// Its address for the other hosts.
    pub tunnel: Ipv4Addr,
    /// Its own address on the network, leased for as long as it is in this list.
    pub address: Ipv4Addr,
}

/// A leased address. Its id contains network and address, so that its existence is the lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// `Address/<network>.<ip>`.
    pub id: AddressId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// The address.
    pub ip: IpAddr,
    /// MAC by rule.
    pub mac: String,
    /// Host name without domain.
    pub hostname: String,
    /// Its network.
    pub network: Ref<NetworkId>,
    /// The machine that has it; none: a user keeps it for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Ref<MachineId>>,
    /// A user asked for it: it stays when its machine goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Since when its owner uses it as it is, if that is not since its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_since: Option<Timestamp>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(
    Address,
    "Address",
    |address, add| {
        add("network", address.network.href.local());
        if let Some(machine) = &address.resource {
            add("machine", machine.href.local());
        }
    },
    |_address, _add| {},
    {
        fn uses(&self) -> Vec<super::Use> {
            self.in_use()
        }

        fn use_anew(&mut self, before: &Self, now: Timestamp) {
            self.begin_anew(before, now);
        }
    }
);

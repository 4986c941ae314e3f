//! Network and Address.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{
    AddressId, Common, MachineId, NetworkId, Ref,
    ids::{ForwardingGroupId, NetworkPortId},
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
    /// Being made.
    Creating,
    /// On its way to `Started`.
    Starting,
    /// Machines on it can speak.
    Started,
    /// On its way to `Stopped`.
    Stopping,
    /// Machines on it can't speak.
    Stopped,
    /// Being removed.
    Deleting,
    /// It could not be set up.
    Error,
}

/// What is wanted of a network that a user made. Written by `cloud` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkWish {
    /// Its number among those of the pool that users' networks are taken from; no other network has it.
    pub number: u16,
    /// Whether its machines are to be able to speak.
    pub on: bool,
    /// It is to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// A network that machines are plugged into: of the configuration, or made by a user.
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
    /// The router's address: the host's own on the bridge.
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
    /// What is wanted of it, if a user made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<NetworkWish>,
    /// Its machines reach those of the other networks of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding_group: Option<Ref<ForwardingGroupId>>,
    /// Why it is in this state, for people. Written by the host's controller, as is the state of a network with a wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Network, "Network", |network, add| {
    if let Some(group) = &network.forwarding_group {
        add("group", group.href.local());
    }
    if network.wish.is_some() {
        add("made", "yes");
    }
});

/// A place on a network that one machine at a time can have, and that can be switched on and off.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPort {
    /// Its id.
    pub id: NetworkPortId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its network.
    pub network: Ref<NetworkId>,
    /// Whether it is to be connected. Written by `cloud`.
    pub on: bool,
    /// The machine that has it. Set by `cloud` when the machine is made, cleared when it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Whether the running machine's link is connected; none while there is none. Written by the host's controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(NetworkPort, "NetworkPort", |port, add| {
    add("network", port.network.href.local());
    if let Some(machine) = &port.machine {
        add("machine", machine.local());
    }
});

impl NetworkPort {
    /// Its state: what is wanted, once the machine's link is so.
    #[must_use]
    pub fn state(&self) -> NetworkState {
        match (self.on, self.connected.unwrap_or(self.on)) {
            (true, true) => NetworkState::Started,
            (true, false) => NetworkState::Starting,
            (false, true) => NetworkState::Stopping,
            (false, false) => NetworkState::Stopped,
        }
    }
}

/// Networks whose machines reach each other. Which they are, the networks say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardingGroup {
    /// Its id.
    pub id: ForwardingGroupId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(ForwardingGroup, "ForwardingGroup");

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
    }
);

//! The networks of the configuration, and addresses, as they are shown. What users make of addresses is in `address`.

use std::net::{Ipv4Addr, Ipv6Addr};

use cimi::{
    Acl, Common, NetworkId, Right, Timestamp,
    common::USER_ROLE,
    model::Kind,
    resources::{Address, Network, NetworkClass, NetworkState},
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, OpContext, Rel, Result, access,
    catalogue::{Public, object},
    cloud::seed,
    leases,
};

/// A network as configured.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Its name: `public`, `local`, `private`, or any other.
    pub name: String,
    /// Its reach.
    pub class: NetworkClass,
    /// CIDR notation.
    pub subnet: String,
    /// The prefix of IPv6 addresses, of 64 bits, in CIDR notation.
    pub subnet6: Option<String>,
    /// The bridge of each host by which its machines are on the site's own Ethernet; none: it is a network of the cloud's own.
    pub bridge: Option<String>,
    /// The router's address on it.
    pub gateway: Ipv4Addr,
    /// First address that may be leased.
    pub first: Ipv4Addr,
    /// Last address that may be leased.
    pub last: Ipv4Addr,
    /// DNS domain of its machines.
    pub domain: String,
    /// Name servers told to machines; empty: the gateway.
    pub name_servers: Vec<Ipv4Addr>,
    /// Whether machines reach the outside through the host.
    pub nat: bool,
    /// Largest packet in bytes; none: 1500.
    pub mtu: Option<u16>,
    /// Its machines are reached by forwarded ports of their host, not by their addresses.
    pub forwarded: bool,
    /// By what its bridge is named on hosts.
    pub tag: String,
}

impl Cloud {
    /// Writes the configured networks as documents. Those that are not configured any more are `STOPPED`: they stay for
    /// the machines that are on them, and take no new ones.
    pub(crate) async fn seed_networks(&self) -> Result<()> {
        for settings in &self.0.settings.networks {
            let network = document(settings)?;
            // Which group it is in, administrators say; on which hosts it is, `network_hosts`.
            let keep = |network: &mut Network, known: &Network| {
                network.hosts.clone_from(&known.hosts);
                network.forwarding_group.clone_from(&known.forwarding_group);
            };
            let name = network.id.local().to_owned();
            seed(&self.0.documents, network, keep).await?;
            self.tell_left_over(&name);
        }
        let configured = |name: &str| self.0.settings.networks.iter().any(|n| n.name == name);
        for network in self.0.documents.networks.all() {
            if configured(network.id()) {
                continue;
            }
            let stop = |network: &mut Network| {
                let changes = network.state != NetworkState::Stopped;
                network.state = NetworkState::Stopped;
                Ok::<bool, CloudError>(changes)
            };
            self.0.documents.update(network.id(), stop).await?;
        }
        Ok(())
    }

    /// Tells the operator of leases that the network's configuration doesn't have any more.
    fn tell_left_over(&self, name: &str) {
        let documents = &self.0.documents;
        let Some(network) = documents.networks.get(name) else {
            return;
        };
        let leased = documents.addresses.by_index("network", name);
        match leases::left_over(&network, leased.iter().map(|address| &address.document.0)) {
            Ok(told) => {
                if let Some(text) = told.kept {
                    tracing::warn!("{text}");
                }
                if let Some(text) = told.gateways {
                    tracing::error!("{text}");
                }
            }
            Err(error) => tracing::warn!(network = name, %error, "it can lease no address"),
        }
    }

    /// A network that a machine of the caller may be on.
    pub(crate) fn usable_network(
        &self,
        context: &OpContext,
        name: &str,
    ) -> Result<std::sync::Arc<Cached<Network>>> {
        let path = "machineTemplate.networkInterfaces.network";
        let found = access::find::<Network>(&self.0.documents, context, name, Right::View);
        let wrong = match found {
            Ok(network) if network.state == NetworkState::Started => return Ok(network),
            Ok(network) => format!("{} is not in use any more", network.document.id),
            Err(CloudError::NotFound { .. }) => format!("there is no network `{name}`"),
            Err(other) => return Err(other),
        };
        let mut usable = self
            .0
            .documents
            .readable::<Network>(context.user(), context.roles());
        usable.retain(|network| network.state == NetworkState::Started);
        let names: Vec<_> = usable.iter().map(|network| network.id()).collect();
        Err(CloudError::invalid(
            path,
            format!("{wrong}; there are: {}", names.join(", ")),
        ))
    }
}

/// A network as it is configured; what others say of it is not in it.
pub(crate) fn document(settings: &NetworkSettings) -> Result<Network> {
    let id = NetworkId::from_local(&settings.name)
        .map_err(|error| CloudError::Internal(error.to_string()))?;
    let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
    let mut common = Common::new(acl, Timestamp::now());
    common.name = Some(settings.name.clone());
    Ok(Network {
        id,
        common,
        state: NetworkState::Started,
        class: settings.class,
        subnet: settings.subnet.clone(),
        subnet6: settings.subnet6.clone(),
        bridge: settings.bridge.clone(),
        gateway: settings.gateway,
        first: settings.first,
        last: settings.last,
        domain: settings.domain.clone(),
        name_servers: settings.name_servers.clone(),
        nat: settings.nat,
        mtu: settings.mtu,
        forwarded: settings.forwarded,
        tag: settings.tag.clone(),
        hosts: Vec::new(),
        forwarding_group: None,
        unknown: Map::new(),
    })
}

/// CIMI's two types of networks (DSP0263 §5.28): what reaches the Internet, and what doesn't.
pub(crate) fn network_type(network: &Network) -> &'static str {
    match network.class {
        NetworkClass::Public => "PUBLIC",
        NetworkClass::Local | NetworkClass::Private => "PRIVATE",
    }
}

/// Its largest packet in bytes.
pub(crate) fn mtu(network: &Network) -> u16 {
    network.mtu.unwrap_or(1500)
}

/// The IPv6 address of whatever has this MAC on a network.
pub(crate) fn ipv6_of(network: &Network, mac: &str) -> Option<Ipv6Addr> {
    let prefix: ::network::Ipv6Prefix = network.subnet6.as_ref()?.parse().ok()?;
    Some(prefix.address_of(mac.parse().ok()?))
}

/// Both of its addresses in a network with IPv6: that one, and the one on the link.
pub(crate) fn ipv6_both(network: &Network, mac: &str) -> Option<[Ipv6Addr; 2]> {
    let on_link = ::network::ipv6::LINK_LOCAL.address_of(mac.parse().ok()?);
    Some([ipv6_of(network, mac)?, on_link])
}

/// The name servers its machines are told.
fn name_servers(network: &Network) -> Vec<Ipv4Addr> {
    if network.name_servers.is_empty() {
        vec![network.gateway]
    } else {
        network.name_servers.clone()
    }
}

impl Public for Network {
    const KIND: Kind = Kind::Network;

    /// Leases come and go without the network's document.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state,
            "networkType": network_type(self),
            "class": self.class,
            "mtu": mtu(self),
            "subnet": self.subnet,
            "gateway": self.gateway.to_string(),
            "first": self.first.to_string(),
            "last": self.last.to_string(),
            "domain": self.domain,
            "nat": self.nat,
            "nameServers": name_servers(self),
            "leases": documents.addresses.count_by_index("network", self.id.local()),
        }));
        if let Some(prefix) = &self.subnet6 {
            out.insert("subnet6".to_owned(), prefix.as_str().into());
        }
        if let Some(bridge) = &self.bridge {
            out.insert("bridge".to_owned(), bridge.as_str().into());
        }
        if let Some(group) = &self.forwarding_group {
            out.insert("forwardingGroup".to_owned(), json!(group));
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        Vec::new()
    }
}

impl Public for Address {
    const KIND: Kind = Kind::Address;

    /// Most of it is the network's.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "ip": self.ip.to_string(),
            "hostname": self.hostname,
            "allocation": if self.kept { "static" } else { "dynamic" },
            "protocol": if self.ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "network": {"href": self.network.href},
            "macAddress": self.mac,
        }));
        if let Some(resource) = &self.resource {
            out.insert("resource".to_owned(), json!(resource));
        }
        if let Some(network) = documents.networks.get(self.network.href.local()) {
            out.insert(
                "defaultGateway".to_owned(),
                network.gateway.to_string().into(),
            );
            if let Ok(subnet) = network.subnet.parse::<::network::Ipv4Network>() {
                out.insert("mask".to_owned(), subnet.netmask().to_string().into());
            }
            out.insert("dns".to_owned(), json!(name_servers(&network)));
            if let Some(ip6) = ipv6_of(&network, &self.mac) {
                out.insert("ip6".to_owned(), ip6.to_string().into());
            }
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        match (self.kept, &self.resource) {
            (false, _) => Vec::new(),
            (true, None) => vec![Rel::Edit, Rel::Delete],
            (true, Some(_)) => vec![Rel::Edit],
        }
    }
}

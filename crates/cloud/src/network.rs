//! Networks and leased addresses. Networks come from the configuration; addresses come and go with machines.

use std::net::Ipv4Addr;

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
}

impl Cloud {
    /// Writes the configured networks as documents.
    pub(crate) async fn seed_networks(&self) -> Result<()> {
        for settings in &self.0.settings.networks {
            let id = NetworkId::from_local(&settings.name)
                .map_err(|error| CloudError::Internal(error.to_string()))?;
            let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
            let mut common = Common::new(acl, Timestamp::now());
            common.name = Some(settings.name.clone());
            let network = Network {
                id,
                common,
                state: NetworkState::Started,
                class: settings.class,
                subnet: settings.subnet.clone(),
                gateway: settings.gateway,
                first: settings.first,
                last: settings.last,
                domain: settings.domain.clone(),
                name_servers: settings.name_servers.clone(),
                nat: settings.nat,
                mtu: settings.mtu,
                forwarded: settings.forwarded,
                unknown: Map::new(),
            };
            seed(&self.0.documents, network).await?;
        }
        Ok(())
    }

    /// A network that a machine of the caller may be on.
    pub(crate) fn usable_network(
        &self,
        context: &OpContext,
        name: &str,
    ) -> Result<std::sync::Arc<Cached<Network>>> {
        access::find::<Network>(&self.0.documents, context, name, Right::View).map_err(|error| {
            match error {
                CloudError::NotFound { .. } => {
                    let mut names: Vec<_> = self
                        .0
                        .documents
                        .networks
                        .all()
                        .iter()
                        .map(|n| n.document.id.local().to_owned())
                        .collect();
                    names.sort();
                    let problem = format!(
                        "there is no network `{name}`; there are: {}",
                        names.join(", ")
                    );
                    CloudError::invalid("machineTemplate.networkInterfaces.network", problem)
                }
                other => other,
            }
        })
    }
}

impl Public for Network {
    const KIND: Kind = Kind::Network;

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let kind = if self.class == NetworkClass::Public {
            "PUBLIC"
        } else {
            "PRIVATE"
        };
        object(json!({
            "state": self.state,
            "networkType": kind,
            "class": self.class,
            "mtu": self.mtu.unwrap_or(1500),
            "subnet": self.subnet,
            "gateway": self.gateway.to_string(),
            "first": self.first.to_string(),
            "last": self.last.to_string(),
            "domain": self.domain,
            "nat": self.nat,
            "leases": documents.addresses.count_by_index("network", self.id.local()),
        }))
    }

    fn operations(&self) -> Vec<Rel> {
        Vec::new()
    }
}

impl Public for Address {
    const KIND: Kind = Kind::Address;

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "ip": self.ip.to_string(),
            "hostname": self.hostname,
            "allocation": "dynamic",
            "protocol": if self.ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "network": {"href": self.network.href},
            "resource": {"href": self.resource.href},
            "macAddress": self.mac,
        }));
        if let Some(network) = documents.networks.get(self.network.href.local()) {
            out.insert(
                "defaultGateway".to_owned(),
                network.gateway.to_string().into(),
            );
            if let Ok(subnet) = network.subnet.parse::<::network::Ipv4Network>() {
                out.insert("mask".to_owned(), subnet.netmask().to_string().into());
            }
            let servers = if network.name_servers.is_empty() {
                vec![network.gateway]
            } else {
                network.name_servers.clone()
            };
            out.insert(
                "dns".to_owned(),
                servers
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .into(),
            );
        }
        out
    }

    fn operations(&self) -> Vec<Rel> {
        Vec::new()
    }
}

//! From the configured networks to what the rules, and this host, need to know of them.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::Context as _;
use cimi::resources::{Network, NetworkClass as Class};
use cloud::NetworkSettings;
use documents::Documents;
use network::{
    BridgedConfig, InstanceTag, NetworkConfig, NetworkError, NetworkHost, Outward, Overlay, Peer,
    Upstream, UserModeConfig,
};
use vmhost::controller::{Networks, Opening};

use crate::config::{Config, NetworkClass, NetworkEntry};

/// The networks as the rules know them.
///
/// # Errors
/// None after the configuration was checked.
pub fn for_rules(config: &Config) -> anyhow::Result<Vec<NetworkSettings>> {
    let one = |(name, entry): (&String, &NetworkEntry)| {
        let range = entry
            .range()
            .map_err(|(key, problem)| anyhow::anyhow!("networks.{name}{key} {problem}"))?;
        Ok(NetworkSettings {
            name: name.clone(),
            class: match entry.class {
                NetworkClass::Public => Class::Public,
                NetworkClass::Local => Class::Local,
                NetworkClass::Private => Class::Private,
            },
            subnet: range.subnet.to_string(),
            gateway: range.gateway,
            first: range.first,
            last: range.last,
            domain: entry.domain.clone(),
            name_servers: entry.name_servers.clone(),
            nat: entry.nat,
            mtu: entry.mtu,
            forwarded: !config.bridged(),
            tag: entry.tag.clone(),
        })
    };
    config.networks.iter().map(one).collect()
}

/// A network as this host sets it up. Its files are in a folder of its own in the state directory.
///
/// # Errors
/// None after the configuration was checked.
pub fn for_host(config: &Config, name: &str) -> anyhow::Result<NetworkConfig> {
    let entry = config.networks.get(name).with_context(|| {
        format!("network `{name}` is not in the configuration any more; write it there until its machines are gone")
    })?;
    let range = entry
        .range()
        .map_err(|(key, problem)| anyhow::anyhow!("networks.{name}{key} {problem}"))?;
    let instance: InstanceTag = format!("{}{}", config.instance, entry.tag).parse()?;
    let domain = entry.domain.parse()?;
    if !config.bridged() {
        let mut user = UserModeConfig::new(instance, range.subnet, range.gateway, domain);
        [user.first_port, user.last_port] = config.network.forward_ports;
        return Ok(NetworkConfig::User(user));
    }
    let directory = folder(&config.state_dir(), name);
    let mut bridged = BridgedConfig::new(instance, directory, range.subnet, range.gateway, domain);
    bridged.outward = match (entry.class, entry.nat) {
        (_, true) => Outward::Nat,
        (NetworkClass::Public, false) => Outward::Routed,
        (NetworkClass::Local | NetworkClass::Private, false) => Outward::Isolated,
    };
    if let Some(mtu) = entry.mtu {
        bridged.mtu = mtu;
    }
    bridged.host_tcp_ports = config.network.host_tcp_ports.iter().copied().collect();
    let servers = config.upstream_servers();
    bridged.upstream = if !servers.is_empty() {
        Upstream::Servers(servers)
    } else if config.network.dns_upstream.is_empty() {
        Upstream::None
    } else {
        Upstream::Host
    };
    Ok(NetworkConfig::Bridged(bridged))
}

/// Makes sure that no other cloud on this host has the addresses of a network of this one.
///
/// # Errors
/// Names both, and what to change.
pub async fn check(config: &Config) -> anyhow::Result<()> {
    for name in config.networks.keys() {
        NetworkHost::check(&for_host(config, name)?)
            .await
            .with_context(|| format!("network `{name}`"))?;
    }
    Ok(())
}

fn folder(state: &Path, name: &str) -> std::path::PathBuf {
    state.join("network").join(name)
}

/// The networks of the configuration, each set up when its first machine needs it.
pub struct Configured(pub Arc<Config>);

impl Networks for Configured {
    fn open(&self, network: &Network, peers: BTreeSet<Peer>, overlay: Option<Overlay>) -> Opening {
        let (config, name) = (self.0.clone(), network.id.local().to_owned());
        Box::pin(async move {
            let mut settings = for_host(&config, &name).map_err(|error| NetworkError::File {
                path: "configuration".into(),
                source: std::io::Error::other(format!("{error:#}")),
            })?;
            if let NetworkConfig::Bridged(bridged) = &mut settings {
                bridged.peers = peers;
                bridged.overlay = overlay;
            }
            NetworkHost::open(settings).await
        })
    }

    fn as_peer(&self, network: &str) -> Option<Peer> {
        for_host(&self.0, network).ok()?.as_peer()
    }
}

/// On a host that has joined a cloud: the networks as the cloud's documents say, whatever the configuration here has.
pub struct OfDocuments {
    pub config: Arc<Config>,
    pub documents: Documents,
}

impl OfDocuments {
    /// What there would be without documents.
    fn configured(&self, network: &Network) -> Configured {
        let entry = NetworkEntry {
            class: match network.class {
                Class::Public => NetworkClass::Public,
                Class::Local => NetworkClass::Local,
                Class::Private => NetworkClass::Private,
            },
            tag: network.tag.clone(),
            subnet: network.subnet.clone(),
            domain: network.domain.clone(),
            nat: network.nat,
            gateway: Some(network.gateway),
            first: Some(network.first),
            last: Some(network.last),
            name_servers: network.name_servers.clone(),
            mtu: network.mtu,
        };
        let name = network.id.local().to_owned();
        Configured(Arc::new(Config {
            networks: [(name, entry)].into(),
            ..(*self.config).clone()
        }))
    }
}

impl Networks for OfDocuments {
    fn open(&self, network: &Network, peers: BTreeSet<Peer>, overlay: Option<Overlay>) -> Opening {
        self.configured(network).open(network, peers, overlay)
    }

    fn as_peer(&self, network: &str) -> Option<Peer> {
        let document = self.documents.networks.get(network)?;
        self.configured(&document).as_peer(network)
    }
}

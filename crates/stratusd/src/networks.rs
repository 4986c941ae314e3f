//! From the configured networks to what the rules, and this host, need to know of them.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use cimi::resources::{Network, NetworkClass as Class};
use cloud::NetworkSettings;
use documents::Documents;
use futures::{FutureExt as _, future::BoxFuture};
use network::links::Links;
use network::{
    BridgedConfig, InstanceTag, NetworkConfig, NetworkError, NetworkHost, Outward, Overlay, Peer,
    Site, Upstream, UserModeConfig,
};
use vmhost::controller::{Networks, Opening};

use crate::{
    config::{Config, NetworkClass, NetworkEntry},
    instance::{make_dir, remove, write_atomically},
};

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
            // In user mode QEMU gives no IPv6.
            subnet6: range
                .subnet6
                .filter(|_| config.bridged())
                .map(|prefix| prefix.to_string()),
            bridge: entry.bridge.clone().filter(|_| config.bridged()),
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
    bridged.network6 = range.subnet6;
    bridged.site = match &entry.bridge {
        None => None,
        Some(bridge) => Some(Site {
            bridge: bridge.parse()?,
            first: range.first,
            last: range.last,
            name_servers: entry.name_servers.clone(),
        }),
    };
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

fn folder(state: &Path, name: &str) -> PathBuf {
    state.join("network").join(name)
}

/// Where it is noted what one is that no configuration here has.
fn note_of(state: &Path, name: &str) -> PathBuf {
    folder(state, &format!("{name}.json"))
}

/// Notes down what these networks are, before they are set up: whoever takes them down has no documents.
fn note(config: &Config) -> anyhow::Result<()> {
    let state = config.state_dir();
    for (name, entry) in &config.networks {
        let (file, text) = (note_of(&state, name), serde_json::to_vec_pretty(entry)?);
        if std::fs::read(&file).is_ok_and(|known| known == text) {
            continue;
        }
        make_dir(&state.join("network"), 0o755)?;
        write_atomically(&file, &text, 0o644)?;
    }
    Ok(())
}

/// All networks that may have been set up here: those of the configuration, and, by the notes, those of a cloud that this host has
/// joined.
///
/// # Errors
/// If a note can't be read.
pub fn set_up_here(config: &Config) -> anyhow::Result<Config> {
    let mut config = config.clone();
    let notes = std::fs::read_dir(config.state_dir().join("network"));
    for note in notes.into_iter().flatten() {
        let file = note?.path();
        let name = file.file_stem().and_then(OsStr::to_str);
        let (Some(name), Some("json")) = (name, file.extension().and_then(OsStr::to_str)) else {
            continue;
        };
        let told = || file.display().to_string();
        let text = std::fs::read(&file).with_context(told)?;
        let entry = serde_json::from_slice(&text).with_context(told)?;
        config.networks.insert(name.to_owned(), entry);
    }
    Ok(config)
}

/// What was noted of a network, which is gone now.
///
/// # Errors
/// If it can't be removed.
pub fn forget(config: &Config, name: &str) -> anyhow::Result<()> {
    remove(&note_of(&config.state_dir(), name))
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

    fn bridges(&self) -> BoxFuture<'_, Vec<String>> {
        bridges().boxed()
    }
}

async fn bridges() -> Vec<String> {
    let listed = match Links::open() {
        Ok(links) => links.bridges_of_operator().await,
        Err(error) => Err(error),
    };
    listed.unwrap_or_else(|error| {
        tracing::warn!(%error, "the bridges of this host can't be looked at: no machine comes here for one");
        Vec::new()
    })
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
            subnet6: network.subnet6.clone(),
            bridge: network.bridge.clone(),
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
        let configured = self.configured(network);
        let opening = configured.open(network, peers, overlay);
        Box::pin(async move {
            let noted = tokio::task::spawn_blocking(move || note(&configured.0)).await;
            noted
                .map_err(anyhow::Error::from)
                .flatten()
                .map_err(|error| NetworkError::File {
                    path: "notes of networks".into(),
                    source: std::io::Error::other(format!("{error:#}")),
                })?;
            opening.await
        })
    }

    fn as_peer(&self, network: &str) -> Option<Peer> {
        let document = self.documents.networks.get(network)?;
        self.configured(&document).as_peer(network)
    }

    fn bridges(&self) -> BoxFuture<'_, Vec<String>> {
        bridges().boxed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;

    #[test]
    fn what_was_set_up_is_known_without_documents_until_it_is_taken_down() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().display().to_string();
        let own = Config {
            state_dir,
            ..Config::default()
        };
        let (name, entry) = own.networks.iter().next().unwrap();
        // Of the cloud: one of the same name with another tag, and one of a name that is in no configuration here.
        let other = NetworkEntry {
            tag: "z".to_owned(),
            ..entry.clone()
        };
        let cloud = Config {
            networks: [
                (name.clone(), other.clone()),
                ("lab.1".to_owned(), other.clone()),
            ]
            .into(),
            ..own.clone()
        };
        note(&cloud).unwrap();
        // Once more, as after each restart.
        note(&cloud).unwrap();
        let known = set_up_here(&own).unwrap().networks;
        assert_eq!(known.len(), own.networks.len() + 1);
        assert_eq!((&known[name], &known["lab.1"]), (&other, &other));
        for name in known.keys() {
            forget(&own, name).unwrap();
        }
        assert_eq!(set_up_here(&own).unwrap().networks, own.networks);
    }
}

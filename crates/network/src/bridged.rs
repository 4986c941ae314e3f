//! Machines on a bridge: tap, firewall and dnsmasq put together.

mod config;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bridge::{self, BridgeState};
use crate::dnsmasq::{DhcpHealth, Dnsmasq};
use crate::dnsmasq_files::Lease;
use crate::error::{NetworkError, Result};
use crate::firewall::Firewall;
use crate::forwarding::Forwarding;
use crate::group::Groups;
use crate::host::{Attachment, Audit, PlugRequest, Plugged, Ready, Reconciled};
use crate::links::{Link, Links};
use crate::name::{InstanceTag, InterfaceName, NicTag};
use crate::nft::Nft;
use crate::overlay::Overlay;
use crate::ruleset::{Binding, Peer};
use crate::{tap, vxlan};

use config::{RUN, run_directory};

pub use config::BridgedConfig;

/// The bridge, its firewall and its dnsmasq.
#[derive(Debug)]
pub struct Bridged {
    config: BridgedConfig,
    links: Links,
    firewall: Firewall,
    dnsmasq: Dnsmasq,
    bridge: Mutex<BridgeState>,
    /// As it is wanted; held while the bridge or the tunnel is changed.
    overlay: tokio::sync::Mutex<Option<Overlay>>,
}

impl Bridged {
    /// See [`NetworkHost::open`](crate::NetworkHost::open).
    ///
    /// # Errors
    /// A program is missing, or the kernel refuses.
    pub async fn open(config: BridgedConfig) -> Result<Self> {
        config.network.check_host("the gateway", config.gateway)?;
        std::fs::create_dir_all(&config.directory)
            .map_err(NetworkError::file(&config.directory))?;
        let links = Links::open()?;
        bridge::ensure_alone(&links, &config.bridge_spec(None)).await?;
        if let Some(site) = &config.site {
            site.check(&links).await?;
        }
        let overlay = config.overlay.clone().filter(|_| config.site.is_none());
        match &overlay {
            Some(overlay) => config.check_overlay(&links, overlay).await?,
            // One of an earlier run goes before its rules.
            None => drop(links.delete(&config.instance.tunnel()).await?),
        }
        // Rules before the bridge: there is no moment in which it forwards without them.
        let firewall = Firewall::open(
            Nft {
                program: config.nft.clone(),
            },
            config.ruleset(),
        )
        .await?;
        let state = config.ensure_links(&links, overlay.as_ref()).await?;
        config.switch_forwarding_on().await?;
        let dnsmasq = Dnsmasq::open(config.dnsmasq_place().await?, state.created).await?;
        Ok(Self {
            config,
            links,
            firewall,
            dnsmasq,
            bridge: Mutex::new(state),
            overlay: tokio::sync::Mutex::new(overlay),
        })
    }

    pub(crate) async fn check(config: &BridgedConfig) -> Result<()> {
        bridge::ensure_alone(&Links::open()?, &config.bridge_spec(None)).await
    }

    /// What was found or made at the last opening or reconciliation.
    #[must_use]
    pub fn bridge(&self) -> BridgeState {
        *self.bridge.lock()
    }

    pub(crate) async fn plug(&self, request: &PlugRequest) -> Result<Plugged> {
        self.config
            .network
            .check_host("the address of a machine", request.ip)?;
        let ifname = self.config.instance.tap(&request.nic);
        let index = self.bridge().index;
        // The tap first: QEMU waits for nothing else, and a name that is taken must not touch the rules of the
        // machine that has it.
        let fd = tap::create(&self.links, &ifname, index, self.config.mtu()).await?;
        let ready = Ready {
            firewall: Some(
                self.firewall
                    .allow(self.binding(request), request.groups.clone())
                    .await?,
            ),
            dnsmasq: Some(self.dnsmasq.add(lease(request)).await?),
        };
        Ok(Plugged {
            ifname,
            attachment: Attachment::Tap(fd),
            ready,
        })
    }

    pub(crate) async fn unplug(&self, nic: &NicTag, ip: Ipv4Addr) -> Result<()> {
        let ifname = self.config.instance.tap(nic);
        let ready = Ready {
            firewall: Some(self.firewall.forget(ifname.clone()).await?),
            dnsmasq: Some(self.dnsmasq.forget(ip).await?),
        };
        let (link, rest) = futures::join!(self.links.delete(&ifname), ready.wait());
        link.map(drop).and(rest)
    }

    pub(crate) async fn reconcile(&self, wanted: &[PlugRequest]) -> Result<Reconciled> {
        let bindings = wanted
            .iter()
            .map(|request| (self.binding(request), request.groups.clone()))
            .collect();
        let leases = wanted
            .iter()
            .map(|request| (request.ip, lease(request)))
            .collect();
        self.firewall.reconcile(bindings).await?;
        let state = {
            let overlay = self.overlay.lock().await;
            self.config
                .ensure_links(&self.links, overlay.as_ref())
                .await?
        };
        self.config.switch_forwarding_on().await?;
        *self.bridge.lock() = state;
        if state.created {
            self.dnsmasq.renew().await?;
        }
        self.dnsmasq.reconcile(leases).await?;

        let mut missing: BTreeMap<String, NicTag> = wanted
            .iter()
            .map(|request| {
                (
                    self.config.instance.tap(&request.nic).into(),
                    request.nic.clone(),
                )
            })
            .collect();
        let mut unexpected = Vec::new();
        let instance = &self.config.instance;
        let not_taps = [instance.bridge(), instance.tunnel(), instance.uplink()];
        for link in self
            .links
            .list(&self.config.instance.interface_prefix())
            .await?
        {
            let Ok(name) = link.name.parse::<InterfaceName>() else {
                continue;
            };
            if missing.remove(&link.name).is_some() {
                if link.controller != Some(state.index) || !link.up {
                    self.links
                        .attach(&name, state.index, self.config.mtu())
                        .await?;
                }
            } else if !not_taps.contains(&name) && !tap::remove_unheld(&self.links, &name).await? {
                unexpected.push(name);
            }
        }
        Ok(Reconciled {
            missing: missing.into_values().collect(),
            unexpected,
        })
    }

    pub(crate) async fn audit(&self) -> Result<Audit> {
        let name = self.config.instance.bridge();
        let tunnel = self.config.instance.tunnel();
        let overlay = self.overlay.lock().await;
        let names = self
            .links
            .list(&self.config.instance.interface_prefix())
            .await?;
        let (tunnels, others): (Vec<_>, Vec<_>) =
            names.iter().partition(|link| link.name == tunnel.as_str());
        let cable = self.config.instance.uplink();
        let (bridges, taps): (Vec<&Link>, Vec<&Link>) = others
            .into_iter()
            .filter(|link| link.name != cable.as_str())
            .partition(|link| link.name == name.as_str());
        let listing = self.firewall.list().await?;
        let mut missing = Vec::new();
        match bridges.first() {
            None => missing.push(format!("the bridge {name} is not there")),
            Some(bridge) if !bridge.up => missing.push(format!("the bridge {name} is down")),
            Some(bridge) => missing.extend(
                taps.iter()
                    .filter(|tap| tap.controller != Some(bridge.index))
                    .map(|tap| format!("{} is not on the bridge {name}", tap.name)),
            ),
        }
        match overlay.as_ref() {
            Some(overlay) => {
                let bridge = bridges.first().map(|bridge| bridge.index);
                let spec = self.config.vxlan_spec(overlay);
                missing.extend(vxlan::lacks(&self.links, &spec, bridge).await?);
            }
            None if !tunnels.is_empty() => {
                missing.push(format!(
                    "the tunnel {tunnel} leads to other hosts and should not"
                ));
            }
            None => {}
        }
        if let Some(site) = &self.config.site {
            let bridge = bridges.first().map(|bridge| bridge.index);
            let lacks = site.lacks(&self.links, &self.config.instance, bridge);
            missing.extend(lacks.await?);
        }
        if listing.is_none() {
            missing.push("the rules of the firewall are not there".to_owned());
        }
        let listing = listing.unwrap_or_default();
        let parsed = |link: &&Link| link.name.parse::<InterfaceName>().ok();
        Ok(Audit {
            missing,
            bridge: bridges.iter().find_map(parsed),
            tunnel: tunnels.iter().find_map(parsed),
            taps: taps.iter().filter_map(parsed).collect(),
            bindings: listing.bindings,
            packets: listing.packets,
            leases: self.dnsmasq.list().await?.into_values().collect(),
            forwards: BTreeMap::new(),
        })
    }

    pub(crate) async fn teardown(&self) -> Result<()> {
        let dnsmasq = self.dnsmasq.stop().await;
        let links = remove_links(&self.links, &self.config.instance).await;
        // The rules go last: nothing of ours forwards without them.
        let firewall = self.firewall.teardown().await;
        let rest = clear_away(&self.config, &self.links).await;
        dnsmasq.and(links).and(firewall).and(rest)
    }

    /// As [`teardown`](Self::teardown), for what an earlier process left, without starting anything.
    pub(crate) async fn remove(config: &BridgedConfig) -> Result<()> {
        let kernel = Links::open()?;
        bridge::ensure_ours(&kernel, &config.bridge_spec(None)).await?;
        let (place, other) = config.dnsmasq_places().await?;
        let dnsmasq = Dnsmasq::remove(&place)
            .await
            .and(Dnsmasq::remove(&other).await);
        let links = remove_links(&kernel, &config.instance).await;
        let firewall = Firewall::remove(
            &Nft {
                program: config.nft.clone(),
            },
            &config.ruleset(),
        )
        .await;
        let rest = clear_away(config, &kernel).await;
        dnsmasq.and(links).and(firewall).and(rest)
    }

    pub(crate) async fn forward_to(&self, peers: BTreeSet<Peer>) -> Result<()> {
        match self.config.site {
            None => self.firewall.forward_to(peers).await,
            Some(_) => Ok(()),
        }
    }

    pub(crate) async fn set_groups(&self, groups: Groups) -> Result<()> {
        let instance = &self.config.instance;
        let of = groups.of.into_iter();
        let of = of.map(|(nic, groups)| (instance.tap(&nic), groups));
        self.firewall.set_groups(groups.groups, of.collect()).await
    }

    pub(crate) async fn set_overlay(&self, wanted: Option<Overlay>) -> Result<()> {
        // The site's Ethernet joins the hosts: a second way would be a loop.
        let wanted = wanted.filter(|_| self.config.site.is_none());
        if let Some(overlay) = &wanted {
            self.config.check_overlay(&self.links, overlay).await?;
        }
        let mut overlay = self.overlay.lock().await;
        *overlay = wanted;
        if overlay.is_none() {
            self.links.delete(&self.config.instance.tunnel()).await?;
        }
        // The rules stand as long as the tunnel does, and longer.
        self.firewall.set_overlay(overlay.clone()).await?;
        let state = self
            .config
            .ensure_links(&self.links, overlay.as_ref())
            .await?;
        *self.bridge.lock() = state;
        if state.created {
            self.dnsmasq.renew().await?;
        }
        Ok(())
    }

    pub(crate) fn dhcp_health(&self) -> watch::Receiver<DhcpHealth> {
        self.dnsmasq.health()
    }

    fn binding(&self, request: &PlugRequest) -> Binding {
        Binding {
            port: self.config.instance.tap(&request.nic),
            mac: request.mac,
            ip: request.ip,
        }
    }
}

/// The empty folders, and the host's forwarding as it was.
async fn clear_away(config: &BridgedConfig, links: &Links) -> Result<()> {
    for folder in [
        &config.directory,
        &run_directory(&config.directory),
        Path::new(RUN),
    ] {
        // Not there, or with something of somebody else's in it.
        let _ = tokio::fs::remove_dir(folder).await;
    }
    Forwarding::of(&config.directory).put_back(links).await
}

async fn remove_links(links: &Links, instance: &InstanceTag) -> Result<()> {
    let mut result = Ok(());
    for name in links
        .list(&instance.interface_prefix())
        .await?
        .iter()
        .filter_map(|link| link.name.parse().ok())
    {
        result = result.and(links.delete(&name).await.map(drop));
    }
    result
}

fn lease(request: &PlugRequest) -> Lease {
    Lease {
        ip: request.ip,
        mac: request.mac,
    }
}

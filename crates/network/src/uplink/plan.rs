//! What a change would do, found out before anything is changed: whether it can be made, who must answer afterwards, and who sets
//! up the interface at the next boot.

use std::net::IpAddr;

use super::boot::{self, Change, Keeper, Wanted};
use super::holdings::{Device, Holdings};
use super::moving::{self, Moved, Way};
use super::note::{self, Stage, Trial};
use super::probe::{self, Probe};
use super::{CHANGE_LIMIT, Tell, Uplinks, Wish, port};
use crate::error::{NetworkError, Result};
use crate::links::Links;
use crate::name::InterfaceName;

/// A change that can be made, and what is known before it.
pub(super) struct Plan {
    pub(super) trial: Trial,
    pub(super) to: Device,
    pub(super) from: Device,
    pub(super) probes: Vec<Probe>,
    keeper: Option<Keeper>,
}

impl Uplinks {
    /// How an interface gets into a bridge.
    ///
    /// # Errors
    /// It can't.
    pub(super) async fn attaching(&self, links: &Links, wish: &Wish) -> Result<Plan> {
        self.refuse_waiting()?;
        let found = port::candidate(links, &wish.interface).await?;
        let name = &wish.interface;
        let bridge = match &wish.bridge {
            Some(bridge) => bridge.clone(),
            None => format!("br-{name}")
                .parse()
                .map_err(|_| NetworkError::Uplink {
                    interface: name.to_string(),
                    why: format!("`br-{name}` is too long for a name: write another with --bridge"),
                })?,
        };
        if links.find(&bridge).await?.is_some() {
            return Err(NetworkError::Uplink {
                interface: name.to_string(),
                why: format!(
                    "there is an interface {bridge} already: write another name with --bridge"
                ),
            });
        }
        let holdings = Holdings::of(links, &found.device).await?;
        let moved = moved(&bridge, &found, holdings).await;
        let keeper = match wish.until_boot {
            true => None,
            false => Some(Keeper::of(&self.root, found.device.index, wanted(&moved))?),
        };
        // The bridge has no number yet.
        let to = Device {
            name: bridge,
            index: 0,
        };
        self.plan(links, wish, (Way::Join, moved), (found.device, to), keeper)
            .await
    }

    /// How it gets out.
    ///
    /// # Errors
    /// It can't.
    pub(super) async fn detaching(&self, links: &Links, wish: &Wish) -> Result<Plan> {
        self.refuse_waiting()?;
        let name = &wish.interface;
        let refuse = |why: String| NetworkError::Uplink {
            interface: name.to_string(),
            why,
        };
        let kept = self.notes.kept()?;
        let known = kept
            .iter()
            .find(|one| one.bridge == *name || one.port == *name);
        let known = known.ok_or_else(|| {
            refuse(
                "it was not made by `stratusd network attach`: whoever made it takes it back"
                    .to_owned(),
            )
        })?;
        boot::check(&known.files)?;
        let bridge = port::find(links, &known.bridge).await?;
        let port = port::find(links, &known.port).await?;
        let (Some(bridge), Some(port)) = (bridge, port) else {
            return Err(refuse(format!(
                "{} or {} is gone",
                known.bridge, known.port
            )));
        };
        let mut others = port::ports(links, bridge.device.index).await?;
        others.retain(|other| *other != known.port.as_str());
        if !others.is_empty() {
            return Err(refuse(format!(
                "{} is in it, too: take that out first (networks of machines: stratusd teardown, or another `bridge`)",
                others.join(", ")
            )));
        }
        let holdings = Holdings::of(links, &bridge.device).await?;
        let mut moved = moved(&known.bridge, &port, holdings).await;
        // What the port has set now is that it is one.
        moved.ipv6_was_off = moving::ipv6_setting(&known.bridge, "disable_ipv6").await;
        let keeper = (!known.files.is_empty()).then(|| Keeper::Files {
            name: "the files of before",
            changes: known.files.clone(),
        });
        self.plan(
            links,
            wish,
            (Way::Leave, moved),
            (bridge.device, port.device),
            keeper,
        )
        .await
    }

    async fn plan(
        &self,
        links: &Links,
        wish: &Wish,
        (way, moved): (Way, Moved),
        (from, to): (Device, Device),
        keeper: Option<Keeper>,
    ) -> Result<Plan> {
        let own: Vec<IpAddr> = moved.holdings.addresses().map(|(ip, _)| ip).collect();
        let gateways = moved.holdings.gateways().into_iter();
        let mut probes: Vec<Probe> = gateways.map(|(ip, _)| Probe::Gateway(ip)).collect();
        probes.extend(probe::connections(&own));
        let mut answering = Vec::new();
        for probe in probes {
            // Who doesn't answer now says nothing afterwards.
            if probe.answers(links, &from, true, &mut |_| {}).await?
                || matches!(probe, Probe::Connection { .. })
            {
                answering.push(probe);
            }
        }
        for peer in &wish.reach {
            let probe = Probe::Peer(*peer);
            if !probe.answers(links, &from, true, &mut |_| {}).await? {
                return Err(NetworkError::Uplink {
                    interface: from.name.to_string(),
                    why: format!("{peer} is to be reached afterwards, and isn't before"),
                });
            }
            answering.push(probe);
        }
        let files = match &keeper {
            Some(Keeper::Files { changes, .. }) => changes.clone(),
            _ => Vec::new(),
        };
        Ok(Plan {
            trial: Trial {
                way,
                stage: Stage::Changing,
                until: note::after(CHANGE_LIMIT),
                boot: note::this_boot()?,
                moved,
                made_bridge: way == Way::Join,
                files,
            },
            to,
            from,
            probes: answering,
            keeper,
        })
    }

    /// A change that waits for being confirmed is to be ended first.
    fn refuse_waiting(&self) -> Result<()> {
        match self.notes.trial()? {
            None => Ok(()),
            Some(trial) => Err(NetworkError::Trial {
                why: format!(
                    "a change waits for being confirmed: stratusd network confirm, or wait {} s until it is put back",
                    trial.until.saturating_sub(note::now())
                ),
            }),
        }
    }
}

impl Plan {
    /// What will be done, for people.
    pub(super) fn tell(&self, tell: Tell<'_>) {
        let Moved {
            bridge,
            port,
            holdings,
            mtu,
            ..
        } = &self.trial.moved;
        let (from, to) = (&self.from.name, &self.to.name);
        tell(&match self.trial.way {
            Way::Join => format!(
                "{port} becomes a port of the new bridge {bridge}, which has its MAC {} and MTU {mtu}",
                self.trial.moved.mac()
            ),
            Way::Leave => format!("{port} leaves the bridge {bridge}, which is removed"),
        });
        for (ip, length) in holdings.addresses() {
            tell(&format!("  address {ip}/{length} goes from {from} to {to}"));
        }
        for route in holdings.routes() {
            tell(&format!("  route {route} goes from {from} to {to}"));
        }
        for probe in &self.probes {
            tell(&format!("  must answer afterwards: {probe}"));
        }
        if self.probes.is_empty() {
            tell("  nobody answers by it now, so nothing is tested (name somebody with --reach)");
        }
        if holdings.has_lent(false) {
            tell(&format!(
                "  its address is lent by DHCP: it stays until the next boot; have the client ask by {to} meanwhile"
            ));
        }
        match &self.keeper {
            Some(Keeper::Files { name, changes }) => {
                for Change { path, .. } in changes {
                    tell(&format!("  for the next boot ({name}): {}", path.display()));
                }
            }
            Some(Keeper::Told { .. } | Keeper::Nobody) => {}
            None => tell("  the next boot does as before"),
        }
        tell(&format!(
            "  rules of your firewall that name {from} don't see what comes by {to}"
        ));
    }

    /// # Errors
    /// The next boot would not do the same, and nobody said that this is meant.
    pub(super) fn refuse_unknown_boot(&self, wish: &Wish) -> Result<()> {
        let interface = wish.interface.to_string();
        match &self.keeper {
            Some(Keeper::Told { name, how }) => Err(NetworkError::Uplink {
                interface,
                why: format!("{name} manages it, and would undo what others do. Have it make the bridge itself:\n{how}\nThen write `bridge = \"{}\"` for the network", self.to.name),
            }),
            Some(Keeper::Nobody) => Err(NetworkError::Uplink {
                interface,
                why: "neither ifupdown nor systemd-networkd sets it up, so who does it at the next boot is unknown; with --until-boot it is done for now".to_owned(),
            }),
            Some(Keeper::Files { .. }) | None => Ok(()),
        }
    }
}

async fn moved(bridge: &InterfaceName, port: &port::Port, holdings: Holdings) -> Moved {
    let name = &port.device.name;
    Moved {
        bridge: bridge.clone(),
        port: name.clone(),
        mac: port.mac.octets(),
        mtu: port.mtu,
        ipv6_was_off: moving::ipv6_setting(name, "disable_ipv6").await,
        ipv6_mode: moving::ipv6_setting(name, "addr_gen_mode").await,
        holdings,
    }
}

fn wanted(moved: &Moved) -> Wanted<'_> {
    Wanted {
        bridge: &moved.bridge,
        port: &moved.port,
        mac: moved.mac(),
        mtu: moved.mtu,
        holdings: &moved.holdings,
    }
}

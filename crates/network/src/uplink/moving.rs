//! The steps by which an interface becomes a port of a bridge with all that it has, or leaves it with all that the bridge has.
//!
//! Each step can be done again, and each can be turned round: what undoes a move is the move the other way, with what was there
//! before. At every moment the host has its addresses, on one of the two or on both, and routes by one of them; so connections
//! wait for milliseconds at most.

use std::path::{Path, PathBuf};

use rtnetlink::packet_route::link::{BridgeStpState, LinkAttribute};
use rtnetlink::{LinkBridge, LinkUnspec};
use serde::{Deserialize, Serialize};

use super::holdings::{Device, Holdings, take_addresses};
use super::port;
use crate::address::MacAddr;
use crate::error::{NetworkError, Result};
use crate::links::{EEXIST, Links, kernel_code, within};
use crate::name::InterfaceName;

/// Where settings of interfaces are, by family.
const SETTINGS: [&str; 2] = ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"];
/// Those that are no choice of the operator's, or are set by other ways.
const NOT_CARRIED: [&str; 4] = ["mtu", "stable_secret", "addr_gen_mode", "disable_ipv6"];
/// No addresses of the kernel's own making: they are given.
const NO_ADDRESSES_OF_ITS_OWN: &str = "1";

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// The interface into the bridge, what it has to the bridge.
    Join,
    /// Out of it, and what the bridge has to the interface.
    Leave,
}

/// A bridge, its port to the outside, and what one of them has that both may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Moved {
    pub(super) bridge: InterfaceName,
    pub(super) port: InterfaceName,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    /// `disable_ipv6` of the port before it was one; none: a kernel without IPv6.
    pub(super) ipv6_was_off: Option<String>,
    /// `addr_gen_mode` of the port.
    pub(super) ipv6_mode: Option<String>,
    pub(super) holdings: Holdings,
}

impl Moved {
    /// Makes the move, however far it was made before, whichever way. `tell` is told of each step before it is taken.
    ///
    /// # Errors
    /// The kernel refuses a step, or an interface is gone. What was done stays; the other way undoes it.
    pub(super) async fn go(
        &self,
        links: &Links,
        way: Way,
        tell: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let (bridge, port) = (&self.bridge, &self.port);
        if way == Way::Join {
            tell(&format!("making {bridge}, with the MAC of {port}"));
            self.make_bridge(links).await?;
        }
        let port = self.found(links, port).await?;
        let Some(bridge) = port::find(links, bridge).await? else {
            return match way {
                // It never was, or is gone with all that it had.
                Way::Leave => self.leave(links, (&port, None), tell).await,
                Way::Join => Err(self.gone(bridge)),
            };
        };
        match way {
            Way::Join => self.join(links, (&port.device, &bridge.device), tell).await,
            Way::Leave => self.leave(links, (&port, Some(&bridge.device)), tell).await,
        }
    }

    /// Removes the bridge, unless somebody else has something in it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) async fn remove_bridge(&self, links: &Links) -> Result<()> {
        let Some(bridge) = port::find(links, &self.bridge).await? else {
            return Ok(());
        };
        if port::ports(links, bridge.device.index).await?.is_empty() {
            links.delete(&self.bridge).await?;
        }
        Ok(())
    }

    async fn join(
        &self,
        links: &Links,
        (port, bridge): (&Device, &Device),
        tell: &mut dyn FnMut(&str),
    ) -> Result<()> {
        tell(&format!(
            "giving {} the addresses of {}",
            bridge.name, port.name
        ));
        let given = self.holdings.without_ends();
        given.give_addresses(links, bridge).await?;
        tell(&format!("putting {} into {}", port.name, bridge.name));
        let change = LinkUnspec::new_with_index(port.index).controller(bridge.index);
        let request = links.handle.link().change(change.build()).execute();
        within(
            &format!("putting {} into {}", port.name, bridge.name),
            request,
        )
        .await?;
        tell(&format!("routing by {}", bridge.name));
        self.holdings.give_routes(links, bridge).await?;
        tell(&format!("taking the addresses of {}", port.name));
        take_addresses(links, port).await?;
        if self.ipv6_was_off.is_some() {
            set(&port.name, "disable_ipv6", "1").await?;
        }
        Ok(())
    }

    async fn leave(
        &self,
        links: &Links,
        (port, bridge): (&port::Port, Option<&Device>),
        tell: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let from = bridge.unwrap_or(&port.device);
        let (port, is_port) = (&port.device, port.controller.is_some());
        tell(&format!("giving {} the addresses", port.name));
        if let Some(was) = &self.ipv6_was_off {
            if self.ipv6_mode.is_some() {
                set(&port.name, "addr_gen_mode", NO_ADDRESSES_OF_ITS_OWN).await?;
            }
            set(&port.name, "disable_ipv6", was).await?;
        }
        self.holdings.give_addresses(links, port).await?;
        if let Some(mode) = &self.ipv6_mode {
            set(&port.name, "addr_gen_mode", mode).await?;
        }
        if is_port && bridge.is_some() {
            tell(&format!("taking {} out of {}", port.name, from.name));
            let change = LinkUnspec::new_with_index(port.index).nocontroller();
            let request = links.handle.link().change(change.build()).execute();
            within(&format!("taking {} out of its bridge", port.name), request).await?;
        }
        tell(&format!("routing by {}", port.name));
        self.holdings.give_routes(links, port).await?;
        if let Some(bridge) = bridge {
            tell(&format!("taking the addresses of {}", bridge.name));
            take_addresses(links, bridge).await?;
        }
        Ok(())
    }

    async fn make_bridge(&self, links: &Links) -> Result<()> {
        let name = &self.bridge;
        let message = LinkBridge::new(name.as_str())
            .stp_state(BridgeStpState::Disabled)
            .address(self.mac.to_vec())
            .mtu(self.mtu)
            .append_extra_attribute(LinkAttribute::IfAlias(self.alias()))
            .build();
        let request = links.handle.link().add(message).execute();
        match within(&format!("making {name}"), request).await {
            Err(error) if kernel_code(&error) == Some(EEXIST) => {}
            made => made?,
        }
        // Before it is up, or it would have addresses of its own for a moment, which it would ask the others about.
        if self.ipv6_was_off.is_some() {
            set(name, "addr_gen_mode", NO_ADDRESSES_OF_ITS_OWN).await?;
        }
        carry_settings(&self.port, name).await;
        if let Some(off) = &self.ipv6_was_off {
            set(name, "disable_ipv6", off).await?;
        }
        let up = LinkUnspec::new_with_name(name.as_str()).up().build();
        let request = links.handle.link().change(up).execute();
        within(&format!("setting {name} up"), request).await
    }

    /// By what it is seen whose bridge it is.
    pub(super) fn alias(&self) -> String {
        format!("bridge of {}, made by stratusd network attach", self.port)
    }

    async fn found(&self, links: &Links, name: &InterfaceName) -> Result<port::Port> {
        let found = port::find(links, name).await?;
        found.ok_or_else(|| self.gone(name))
    }

    fn gone(&self, name: &InterfaceName) -> NetworkError {
        NetworkError::Uplink {
            interface: name.to_string(),
            why: "it is gone".to_owned(),
        }
    }

    pub(super) fn mac(&self) -> MacAddr {
        MacAddr(self.mac)
    }
}

/// What is set of IPv6 for an interface; none if it can't be read.
pub(super) async fn ipv6_setting(name: &InterfaceName, key: &str) -> Option<String> {
    let text = tokio::fs::read_to_string(setting(name, key)).await;
    Some(text.ok()?.trim().to_owned())
}

/// All that the operator may have chosen for one interface, for another. What the kernel doesn't take is no reason not to go on.
async fn carry_settings(from: &InterfaceName, to: &InterfaceName) {
    for family in SETTINGS {
        let (from, to) = (
            Path::new(family).join(from.as_str()),
            Path::new(family).join(to.as_str()),
        );
        let Ok(mut entries) = tokio::fs::read_dir(&from).await else {
            continue;
        };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            if NOT_CARRIED.iter().any(|key| name.to_str() == Some(key)) {
                continue;
            }
            let there = to.join(&name);
            let (is, was) = (
                tokio::fs::read_to_string(entry.path()).await,
                tokio::fs::read_to_string(&there).await,
            );
            if let (Ok(is), Ok(was)) = (is, was)
                && is != was
                && let Err(error) = tokio::fs::write(&there, is.trim()).await
            {
                tracing::debug!(setting = %there.display(), %error, "not carried over");
            }
        }
    }
}

fn setting(name: &InterfaceName, key: &str) -> PathBuf {
    let [_, ipv6] = SETTINGS;
    Path::new(ipv6).join(name.as_str()).join(key)
}

async fn set(name: &InterfaceName, key: &str, value: &str) -> Result<()> {
    let path = setting(name, key);
    tokio::fs::write(&path, value)
        .await
        .map_err(NetworkError::file(path))
}

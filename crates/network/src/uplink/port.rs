//! Whether an interface can be a port of a bridge, and what of it the bridge needs.

use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage,
};

use super::holdings::Device;
use crate::address::MacAddr;
use crate::error::{NetworkError, Result};
use crate::links::{Links, kind, within};
use crate::name::{self, InterfaceName};

/// An interface that can be a port, or is one.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) device: Device,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// The bridge that it is in.
    pub(super) controller: Option<u32>,
}

/// The interface, if it can be moved into a bridge.
///
/// # Errors
/// Why not.
pub(super) async fn candidate(links: &Links, name: &InterfaceName) -> Result<Port> {
    let refuse = |why: String| {
        Err(NetworkError::Uplink {
            interface: name.to_string(),
            why,
        })
    };
    let Some(message) = links.message(name).await? else {
        let names: Vec<_> = links.list("").await?;
        let names = names.into_iter().map(|link| link.name).collect::<Vec<_>>();
        return refuse(format!("there is none; there are: {}", names.join(", ")));
    };
    if message.header.flags.contains(LinkFlags::Loopback) {
        return refuse("it is the loopback interface".to_owned());
    }
    if message.header.link_layer_type != LinkLayerType::Ether {
        return refuse(format!(
            "it is no Ethernet ({:?})",
            message.header.link_layer_type
        ));
    }
    let sys = Path::new("/sys/class/net").join(name.as_str());
    if ["wireless", "phy80211"]
        .iter()
        .any(|sign| sys.join(sign).exists())
    {
        return refuse(
            "it is wireless: access points take frames of the one station only, never of machines behind it".to_owned(),
        );
    }
    if name.as_str().starts_with(name::PREFIX) && is_of_stratus(name.as_str()) {
        return refuse("it is of a cloud on this host".to_owned());
    }
    match kind(&message) {
        Some(InfoKind::Bridge) => {
            return refuse(
                "it is a bridge itself: write its name as `bridge` of a network".to_owned(),
            );
        }
        Some(InfoKind::Tun) => return refuse("it is the tap of a program".to_owned()),
        _ => {}
    }
    if let Some(above) = controller(&message) {
        let above = name_of(links, above).await?;
        return refuse(format!(
            "it is in {above} already (a bridge, bond or VRF): take it out first, or use {above}"
        ));
    }
    let upon = upon(links, message.header.index).await?;
    if !upon.is_empty() {
        return refuse(format!(
            "{} on it would hear nothing any more: remove what is there (VLANs, macvlans), or attach one of these instead",
            upon.join(", ")
        ));
    }
    if !message.header.flags.contains(LinkFlags::Up) {
        return refuse(format!("it is down: ip link set {name} up"));
    }
    port(name, &message)
}

/// The interface as it is; none if it is gone.
pub(super) async fn find(links: &Links, name: &InterfaceName) -> Result<Option<Port>> {
    let message = links.message(name).await?;
    message.map(|message| port(name, &message)).transpose()
}

/// Names of the ports of a bridge.
pub(super) async fn ports(links: &Links, bridge: u32) -> Result<Vec<String>> {
    let all = links.list("").await?.into_iter();
    let ports = all.filter(|link| link.controller == Some(bridge));
    Ok(ports.map(|link| link.name).collect())
}

fn port(name: &InterfaceName, message: &LinkMessage) -> Result<Port> {
    let (mut mac, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    let (Some(mac), Some(mtu)) = (mac, mtu) else {
        return Err(NetworkError::Uplink {
            interface: name.to_string(),
            why: "it has no MAC address".to_owned(),
        });
    };
    Ok(Port {
        device: Device {
            name: name.clone(),
            index: message.header.index,
        },
        mac: MacAddr(mac),
        mtu,
        controller: controller(message),
    })
}

/// Interfaces that have this one below them.
async fn upon(links: &Links, index: u32) -> Result<Vec<String>> {
    let listing = links.handle.link().get().execute();
    let all: Vec<LinkMessage> = within("listing interfaces", listing.try_collect()).await?;
    let is_upon = |message: &&LinkMessage| {
        // One whose other end is in another namespace has that one's number there.
        let elsewhere =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
        message.attributes.contains(&LinkAttribute::Link(index))
            && !message.attributes.iter().any(elsewhere)
            && kind(message) != Some(InfoKind::Veth)
    };
    Ok(all
        .iter()
        .filter(is_upon)
        .map(|message| crate::links::describe(message).name)
        .collect())
}

async fn name_of(links: &Links, index: u32) -> Result<String> {
    let all = links.list("").await?;
    let found = all.into_iter().find(|link| link.index == index);
    Ok(found.map_or_else(|| format!("interface {index}"), |link| link.name))
}

fn controller(message: &LinkMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) if *index != 0 => Some(*index),
            _ => None,
        })
}

/// `st<tag>-…`: that begins with `st` alone says nothing.
fn is_of_stratus(name: &str) -> bool {
    let tag = name
        .split_once('-')
        .and_then(|(tag, _)| tag.strip_prefix(name::PREFIX));
    tag.is_some_and(|tag| tag.parse::<name::InstanceTag>().is_ok())
}

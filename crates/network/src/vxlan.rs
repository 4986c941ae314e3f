//! The VXLAN device that joins the bridge with those of other hosts: a port of the bridge like a tap, and a full mesh of
//! hosts behind it. What is for everybody, or for a MAC not seen yet, goes to each of them (an entry of zeros a host); where
//! the others are is learnt from what they send.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use rtnetlink::LinkVxlan;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{NetworkError, Result};
use crate::links::{EEXIST, ENOENT, Links, describe, kernel_code, within};
use crate::name::InterfaceName;
use crate::overlay::{Overlay, TUNNEL_OVERHEAD};

/// The MAC of entries that stand for all that is not known otherwise.
const ANY: [u8; 6] = [0; 6];

/// The device as it should be.
#[derive(Debug, Clone)]
pub(crate) struct VxlanSpec<'a> {
    pub(crate) name: InterfaceName,
    pub(crate) overlay: &'a Overlay,
    /// UDP port, the same on all hosts.
    pub(crate) port: u16,
    /// The guests' largest packet.
    pub(crate) mtu: u16,
}

/// Makes sure that guests' packets fit through, before anything is changed.
///
/// # Errors
/// No interface has the host's address, or [`NetworkError::TunnelMtu`].
pub(crate) async fn ensure_fits(links: &Links, spec: &VxlanSpec<'_>) -> Result<()> {
    let (interface, mtu) = interface_with(links, spec.overlay.local).await?;
    let most = mtu.saturating_sub(TUNNEL_OVERHEAD.into());
    if u32::from(spec.mtu) <= most {
        return Ok(());
    }
    Err(NetworkError::TunnelMtu {
        mtu: spec.mtu,
        interface,
        most,
    })
}

/// Name and MTU of the interface that has the address.
async fn interface_with(links: &Links, local: Ipv4Addr) -> Result<(String, u32)> {
    let listing = links.handle.address().get().execute();
    let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
    let has_it = |message: &&AddressMessage| {
        let mut attributes = message.attributes.iter();
        attributes.any(|a| matches!(a, AddressAttribute::Local(IpAddr::V4(ip)) if *ip == local))
    };
    let missing = NetworkError::TunnelAddress { local };
    let Some(address) = all.iter().find(has_it) else {
        return Err(missing);
    };
    let request = links.handle.link().get();
    let request = request.match_index(address.header.index).execute();
    let mut found = std::pin::pin!(request);
    let link = within("looking up an interface", found.try_next()).await?;
    let (mut name, mut mtu) = (None, None);
    for attribute in link.ok_or(missing)?.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Mtu(size) => mtu = Some(size),
            _ => {}
        }
    }
    // The kernel tells both of every interface.
    Ok((name.unwrap_or_default(), mtu.unwrap_or_default()))
}

/// Makes the device be there, as described, up and on the bridge, with exactly these hosts behind it. One that is there and
/// fits is kept, with what it learnt.
///
/// # Errors
/// [`NetworkError::TunnelTaken`], or the kernel refused.
pub(crate) async fn ensure(links: &Links, spec: &VxlanSpec<'_>, bridge_index: u32) -> Result<()> {
    let (name, overlay) = (&spec.name, spec.overlay);
    let standing = links.message(name).await?;
    if !standing.as_ref().is_some_and(|link| is_as(link, spec)) {
        if standing.is_some() {
            links.delete(name).await?;
        }
        let message = LinkVxlan::new(name.as_str(), overlay.vni.number())
            .local(overlay.local)
            .port(spec.port)
            .build();
        let what = format!("creating the tunnel {name}");
        let created = within(&what, links.handle.link().add(message).execute()).await;
        created.map_err(|error| match kernel_code(&error) {
            Some(EEXIST) => NetworkError::TunnelTaken {
                vni: overlay.vni,
                port: spec.port,
            },
            _ => error,
        })?;
    }
    let Some(link) = links.find(name).await? else {
        return Err(NetworkError::Closed { part: "the tunnel" });
    };
    set_peers(links, name, link.index, &overlay.others().collect()).await?;
    // By itself the host would tell the others which groups it listens to, past the rules of the bridge. (A kernel without
    // IPv6 has none to switch off.)
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if let Err(error) = tokio::fs::write(&path, "1").await {
        tracing::debug!(path, %error, "not written");
    }
    links.attach(name, bridge_index, spec.mtu).await
}

/// What is not as described, in words; empty if all is.
///
/// # Errors
/// The kernel refused or did not answer.
pub(crate) async fn lacks(
    links: &Links,
    spec: &VxlanSpec<'_>,
    bridge_index: Option<u32>,
) -> Result<Vec<String>> {
    let name = &spec.name;
    let Some(message) = links.message(name).await? else {
        return Ok(vec![format!("the tunnel {name} is not there")]);
    };
    let mut lacks = Vec::new();
    if !is_as(&message, spec) {
        lacks.push(format!("the tunnel {name} leads elsewhere"));
    }
    let link = describe(&message);
    if link.controller.is_none() || link.controller != bridge_index {
        lacks.push(format!("the tunnel {name} is not on the bridge"));
    }
    if !link.up {
        lacks.push(format!("the tunnel {name} is down"));
    }
    let behind: BTreeSet<Ipv4Addr> = entries(links, link.index)
        .await?
        .into_iter()
        .filter(|entry| entry.mac == ANY)
        .map(|entry| entry.host)
        .collect();
    let missing = spec.overlay.others().filter(|peer| !behind.contains(peer));
    lacks.extend(missing.map(|peer| format!("the tunnel {name} doesn't lead to {peer}")));
    Ok(lacks)
}

/// Whether it is a device for the same network, from the same address: neither can be changed.
fn is_as(link: &LinkMessage, spec: &VxlanSpec<'_>) -> bool {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    let data = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    data.is_some_and(|data| {
        [
            InfoVxlan::Id(spec.overlay.vni.number()),
            InfoVxlan::Local(spec.overlay.local),
            InfoVxlan::Port(spec.port),
        ]
        .iter()
        .all(|wanted| data.contains(wanted))
    })
}

/// That frames for a MAC go to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mac: [u8; 6],
    host: Ipv4Addr,
}

impl Entry {
    fn read(message: &NeighbourMessage) -> Option<Self> {
        let (mut mac, mut host) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok();
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => host = Some(*ip),
                // The family of these messages is the bridge's, so the address is bytes to the parser.
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    host = <[u8; 4]>::try_from(bytes.as_slice())
                        .ok()
                        .map(Ipv4Addr::from);
                }
                _ => {}
            }
        }
        Some(Self {
            mac: mac?,
            host: host?,
        })
    }

    fn message(&self, index: u32) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(self.mac.to_vec()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(self.host)),
        ];
        message
    }
}

/// What the device knows: what we wrote and what it learnt.
async fn entries(links: &Links, index: u32) -> Result<Vec<Entry>> {
    let request = links.handle.neighbours().get();
    let request = request.set_address_family(AddressFamily::Bridge).execute();
    let all: Vec<NeighbourMessage> =
        within("listing the tunnel's hosts", request.try_collect()).await?;
    let of_device = all.iter().filter(|message| message.header.ifindex == index);
    Ok(of_device.filter_map(Entry::read).collect())
}

/// Exactly these hosts: also what was learnt of others goes, for their guests may be elsewhere now.
async fn set_peers(
    links: &Links,
    name: &InterfaceName,
    index: u32,
    peers: &BTreeSet<Ipv4Addr>,
) -> Result<()> {
    let standing = entries(links, index).await?;
    for peer in peers {
        let entry = Entry {
            mac: ANY,
            host: *peer,
        };
        if !standing.contains(&entry) {
            let what = format!("leading {name} to {peer}");
            within(&what, append(links, entry.message(index))).await?;
        }
    }
    for entry in standing.iter().filter(|entry| !peers.contains(&entry.host)) {
        let removal = links.handle.neighbours().del(entry.message(index));
        match within(
            &format!("leading {name} no more to {}", entry.host),
            removal.execute(),
        )
        .await
        {
            // What was learnt ends by itself, too.
            Err(error) if kernel_code(&error) == Some(ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Adds one more host for the same MAC, which `rtnetlink` has no words for.
async fn append(
    links: &Links,
    message: NeighbourMessage,
) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
    let mut answers = std::pin::pin!(links.handle.clone().request(request)?);
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

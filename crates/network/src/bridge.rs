//! The bridge the machines of this host share, with the host's own address on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use rtnetlink::packet_route::link::{BridgeStpState, LinkAttribute};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{LinkBridge, LinkUnspec, RouteMessageBuilder};

use crate::address::{Ipv4Network, MacAddr, MacPrefix};
use crate::error::{NetworkError, Result};
use crate::ipv6::{Ipv6Prefix, LINK_LOCAL, PREFIX_LENGTH};
use crate::links::{EEXIST, Links, kernel_code, within};
use crate::name::InterfaceName;

/// The bridge as it should be.
#[derive(Debug, Clone)]
pub struct BridgeSpec {
    /// Its name.
    pub name: InterfaceName,
    /// The host's address on it, the guests' gateway.
    pub gateway: Ipv4Addr,
    /// One more that only this host has, and by which it speaks to guests then (see [`Overlay`](crate::Overlay)).
    pub host_address: Option<Ipv4Addr>,
    /// The network, for the prefix of the address.
    pub network: Ipv4Network,
    /// Its IPv6 prefix, of which the host has the gateway's address; without one there is no IPv6 on the bridge.
    pub network6: Option<Ipv6Prefix>,
    /// Its MAC. Without one a bridge takes the lowest of its ports', and every tap that comes or goes would make the
    /// guests' ARP entries for their gateway wrong.
    pub mac: MacAddr,
    /// Largest packet.
    pub mtu: u16,
    /// Whose it is, as its alias tells it: two clouds on one host may be given the same name.
    pub owner: String,
}

/// What [`ensure`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeState {
    /// The kernel's number of the bridge.
    pub index: u32,
    /// Whether it was made just now. What was bound to an earlier one of that name (dnsmasq, taps) must be renewed.
    pub created: bool,
}

/// Makes the bridge be there, as described, up and without spanning tree (which would hold packets back for 15 s).
///
/// # Errors
/// The kernel refused, or an interface of that name is no bridge.
pub async fn ensure(links: &Links, spec: &BridgeSpec) -> Result<BridgeState> {
    let name = &spec.name;
    let mut created = false;
    if links.find(name).await?.is_none() {
        let message = LinkBridge::new(name.as_str())
            .stp_state(BridgeStpState::Disabled)
            .address(spec.mac.octets().to_vec())
            .mtu(spec.mtu.into())
            .append_extra_attribute(LinkAttribute::IfAlias(spec.owner.clone()))
            .build();
        match within(
            &format!("creating the bridge {name}"),
            links.handle.link().add(message).execute(),
        )
        .await
        {
            Ok(()) => created = true,
            Err(error) if kernel_code(&error) == Some(EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    // Before it is up: the kernel would give it an address of its own then.
    set_ipv6(spec).await?;
    let Some(link) = links.find(name).await? else {
        return Err(NetworkError::Closed { part: "the bridge" });
    };
    // Also for one that an earlier version made.
    let message = LinkUnspec::new_with_index(link.index)
        .mtu(spec.mtu.into())
        .append_extra_attribute(LinkAttribute::IfAlias(spec.owner.clone()))
        .up()
        .build();
    within(
        &format!("setting {name} up"),
        links.handle.link().change(message).execute(),
    )
    .await?;
    ensure_addresses(links, spec, link.index).await?;
    if let Some(prefix) = spec.network6 {
        ensure_ipv6_addresses(links, spec, link.index, prefix).await?;
    }
    Ok(BridgeState {
        index: link.index,
        created,
    })
}

/// Makes sure that the bridge, if it is there, is not another cloud's.
///
/// # Errors
/// [`NetworkError::BridgeTaken`] says whose it is.
pub async fn ensure_ours(links: &Links, spec: &BridgeSpec) -> Result<()> {
    let alias = links.find(&spec.name).await?.and_then(|link| link.alias);
    match alias.filter(|owner| !owner.is_empty() && *owner != spec.owner) {
        None => Ok(()),
        Some(owner) => Err(NetworkError::BridgeTaken {
            bridge: spec.name.to_string(),
            owner,
        }),
    }
}

/// Makes sure that no other cloud on this host has the same name or addresses: the kernel would send packets to either bridge.
///
/// # Errors
/// [`NetworkError::BridgeTaken`], [`NetworkError::SubnetTaken`] name both.
pub async fn ensure_alone(links: &Links, spec: &BridgeSpec) -> Result<()> {
    ensure_ours(links, spec).await?;
    let listing = links.handle.address().get().execute();
    let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
    for other in links.bridges_of_stratus().await? {
        if other.name == spec.name.as_str() {
            continue;
        }
        let addresses = all.iter().filter(|m| m.header.index == other.index);
        for message in addresses {
            if let Some((network, theirs)) = overlap(spec, message) {
                return Err(NetworkError::SubnetTaken {
                    network,
                    bridge: spec.name.to_string(),
                    other: other.name.clone(),
                    theirs: format!("{theirs}/{}", message.header.prefix_len),
                });
            }
        }
    }
    Ok(())
}

/// Which of our networks has an address of another bridge in common with its network; and that address.
fn overlap(spec: &BridgeSpec, theirs: &AddressMessage) -> Option<(String, IpAddr)> {
    theirs
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => {
                let bits = theirs.header.prefix_len.min(spec.network.prefix_len());
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                let common = (address.to_bits() ^ spec.gateway.to_bits()) & mask == 0;
                common.then(|| (spec.network.to_string(), (*address).into()))
            }
            AddressAttribute::Address(IpAddr::V6(address)) => {
                let prefix = spec.network6.filter(|prefix| prefix.contains(*address))?;
                Some((prefix.to_string(), (*address).into()))
            }
            _ => None,
        })
}

/// Prefix of the host's own address: it is one address of the network, whose prefix the gateway's has.
const SINGLE: u8 = 32;
/// As [`SINGLE`], of IPv6. It has most in common with the addresses of machines, of which the lower halves are made alike, so that the
/// host speaks by it and not by the gateway's (RFC 6724 §5, rule 8).
const SINGLE6: u8 = 128;

/// Exactly our addresses on the bridge: one of an earlier configuration would answer for a network that is no more.
async fn ensure_addresses(links: &Links, spec: &BridgeSpec, index: u32) -> Result<()> {
    let gateway = (spec.gateway, spec.network.prefix_len());
    let host = spec.host_address.map(|address| (address, SINGLE));
    let listing = links
        .handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
    let standing: Vec<_> = all
        .into_iter()
        .filter(|m| m.header.family == AddressFamily::Inet && m.header.index == index)
        .map(|message| (address_of(&message), message))
        .collect();
    let wanted: Vec<_> = [Some(gateway), host].into_iter().flatten().collect();
    // Without the gateway all begins anew: it is to be the first, by which dnsmasq knows the network.
    let anew = !standing.iter().any(|(is, _)| *is == Some(gateway));
    let (kept, old): (Vec<_>, Vec<_>) = standing
        .into_iter()
        .partition(|(is, _)| !anew && is.is_some_and(|is| wanted.contains(&is)));
    // The route names the host's address and would go with it, so that is the last to go.
    let (last, first): (Vec<_>, Vec<_>) = old
        .into_iter()
        .partition(|(_, message)| !anew && message.header.prefix_len == SINGLE);
    for (_, message) in first {
        remove_address(links, spec, message).await?;
    }
    for (address, prefix_len) in wanted {
        if !kept
            .iter()
            .any(|(is, _)| *is == Some((address, prefix_len)))
        {
            let addresses = links.handle.address();
            let request = addresses.add(index, address.into(), prefix_len);
            within(
                &format!("giving {address} to {}", spec.name),
                request.replace().execute(),
            )
            .await?;
        }
    }
    ensure_route(links, spec, index).await?;
    for (_, message) in last {
        remove_address(links, spec, message).await?;
    }
    Ok(())
}

/// Exactly the gateway's addresses, that of the network and that of the link, from which routers advertise themselves; and the
/// host's own of both.
async fn ensure_ipv6_addresses(
    links: &Links,
    spec: &BridgeSpec,
    index: u32,
    prefix: Ipv6Prefix,
) -> Result<()> {
    let listing = links
        .handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
    let standing: Vec<_> = all
        .into_iter()
        .filter(|m| m.header.family == AddressFamily::Inet6 && m.header.index == index)
        .map(|message| (ipv6_address_of(&message), message))
        .collect();
    let own = spec.host_address.map(|ip| MacPrefix::default().mac(ip));
    let own_on = |of: Ipv6Prefix| own.map(|mac| of.address_of(mac));
    // In this order: when the host asks for neighbours of those for whom it forwards, the kernel takes the oldest address of the
    // link, which has to be its own. It goes for nothing else: what advertises a router is to have the gateway's.
    let wanted = [
        own_on(LINK_LOCAL).map(|address| (address, PREFIX_LENGTH, Use::Neighbours)),
        Some((LINK_LOCAL.gateway(), PREFIX_LENGTH, Use::All)),
        Some((prefix.gateway(), PREFIX_LENGTH, Use::All)),
        own_on(prefix).map(|address| (address, SINGLE6, Use::All)),
    ];
    let wanted: Vec<_> = wanted.into_iter().flatten().collect();
    let stands = |address: Ipv6Addr, length: u8| {
        standing
            .iter()
            .any(|(is, _)| *is == Some((address, length)))
    };
    let anew = own_on(LINK_LOCAL).is_some_and(|own| !stands(own, PREFIX_LENGTH));
    let is_kept = |is: &Option<(Ipv6Addr, u8)>| {
        let same = |&&(address, length, _): &&(Ipv6Addr, u8, Use)| *is == Some((address, length));
        wanted
            .iter()
            .find(same)
            .is_some_and(|(address, ..)| !anew || *address != LINK_LOCAL.gateway())
    };
    let (kept, old): (Vec<_>, Vec<_>) = standing.iter().partition(|(is, _)| is_kept(is));
    for (_, message) in old {
        remove_address(links, spec, message.clone()).await?;
    }
    for (address, length, used_for) in &wanted {
        if kept.iter().any(|(is, _)| *is == Some((*address, *length))) {
            continue;
        }
        let addresses = links.handle.address();
        let mut request = addresses.add(index, (*address).into(), *length);
        let message = request.message_mut();
        // All hosts of a network have the gateway's, and each is to be usable at once.
        message.header.flags |= AddressHeaderFlags::Nodad;
        if let Use::Neighbours = used_for {
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message
                .attributes
                .push(AddressAttribute::CacheInfo(lifetime));
        }
        within(
            &format!("giving {address} to {}", spec.name),
            request.replace().execute(),
        )
        .await?;
    }
    Ok(())
}

/// What an address of the host is used for by itself.
#[derive(Clone, Copy)]
enum Use {
    /// Everything.
    All,
    /// Questions for neighbours, and nothing else: it is no address that is preferred (RFC 6724 §5, rule 3).
    Neighbours,
}

fn ipv6_address_of(message: &AddressMessage) -> Option<(Ipv6Addr, u8)> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V6(ip)) => Some((*ip, message.header.prefix_len)),
            _ => None,
        })
}

fn address_of(message: &AddressMessage) -> Option<(Ipv4Addr, u8)> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => Some((*ip, message.header.prefix_len)),
            _ => None,
        })
}

async fn remove_address(links: &Links, spec: &BridgeSpec, message: AddressMessage) -> Result<()> {
    within(
        &format!("removing an old address of {}", spec.name),
        links.handle.address().del(message).execute(),
    )
    .await
}

/// The route that the kernel made with the gateway's address, with the source that we are to speak from.
async fn ensure_route(links: &Links, spec: &BridgeSpec, index: u32) -> Result<()> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(spec.network.address(), spec.network.prefix_len())
        .output_interface(index)
        .protocol(RouteProtocol::Kernel)
        .scope(RouteScope::Link)
        .pref_source(spec.host_address.unwrap_or(spec.gateway))
        .build();
    within(
        &format!("routing {} to {}", spec.network, spec.name),
        links.handle.route().add(route).replace().execute(),
    )
    .await
}

/// The host speaks IPv6 on the bridge if guests do, and learns nothing of the network from them.
async fn set_ipv6(spec: &BridgeSpec) -> Result<()> {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(spec.name.as_str());
    if spec.network6.is_none() {
        let path = folder.join("disable_ipv6");
        // A kernel without IPv6 has none to switch off.
        if let Err(error) = tokio::fs::write(&path, "1").await {
            tracing::debug!(path = %path.display(), %error, "not written");
        }
        return Ok(());
    }
    for (key, value) in [
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        ("disable_ipv6", "0"),
    ] {
        let path = folder.join(key);
        tokio::fs::write(&path, value)
            .await
            .map_err(NetworkError::file(path))?;
    }
    Ok(())
}

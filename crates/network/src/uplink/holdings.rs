//! What an interface has that is to be another's: addresses, routes and fixed neighbours, as the kernel tells and takes them. What
//! it doesn't know itself it keeps in the kernel's own words, so nothing is lost on the way.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_core::{
    Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use crate::error::{NetworkError, Result};
use crate::links::{EEXIST, Links, kernel_code, within};
use crate::name::InterfaceName;

/// The kernel's table of its own addresses: it follows from these.
const LOCAL_TABLE: u32 = 255;
/// A lifetime without end.
const FOR_EVER: u32 = u32::MAX;
/// Ticks a second in which the kernel tells lifetimes of routes.
const TICKS: u32 = 100;
const EADDRNOTAVAIL: i32 = -99;
const ESRCH: i32 = -3;

/// An interface, as messages to the kernel name it.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) name: InterfaceName,
    pub(super) index: u32,
}

/// What an interface has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Holdings {
    #[serde(with = "super::in_hex")]
    addresses: Vec<AddressMessage>,
    #[serde(with = "super::in_hex")]
    routes: Vec<RouteMessage>,
    #[serde(with = "super::in_hex")]
    neighbours: Vec<NeighbourMessage>,
}

impl Holdings {
    /// What it has now.
    ///
    /// # Errors
    /// The kernel doesn't tell, or it has what can't be moved.
    pub(super) async fn of(links: &Links, device: &Device) -> Result<Self> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            let listing = links.handle.route().get(asked).execute();
            let all: Vec<RouteMessage> = within("listing routes", listing.try_collect()).await?;
            for route in all {
                if is_shared(&route, device.index) {
                    return Err(NetworkError::Uplink {
                        interface: device.name.to_string(),
                        why: format!(
                            "the route to {} goes over several interfaces: divide it first",
                            destination(&route)
                        ),
                    });
                }
                routes.extend(movable(route, device.index));
            }
        }
        // Gateways are reached by the others.
        routes.sort_by_key(|route| gateway(route).is_some());
        let listing = links.handle.neighbours().get().execute();
        let all: Vec<NeighbourMessage> =
            within("listing neighbours", listing.try_collect()).await?;
        let is_fixed = |message: &NeighbourMessage| {
            message.header.ifindex == device.index
                && message.header.state == NeighbourState::Permanent
        };
        Ok(Self {
            addresses: addresses(links, device)
                .await?
                .into_iter()
                .map(settable)
                .collect(),
            routes,
            neighbours: all.into_iter().filter(is_fixed).collect(),
        })
    }

    /// The addresses, with their prefixes.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let one = |message: &AddressMessage| Some((address(message)?, message.header.prefix_len));
        self.addresses.iter().filter_map(one)
    }

    /// Whether one of them is lent for a time, as by DHCP.
    pub(super) fn has_lent(&self, ipv6: bool) -> bool {
        self.addresses.iter().any(|message| {
            let lent = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::CacheInfo(life) if life.ifa_valid != FOR_EVER);
            (message.header.family == AddressFamily::Inet6) == ipv6
                && message.attributes.iter().any(lent)
        })
    }

    /// Gateways, each once, in the order of their routes; and which have default routes.
    pub(super) fn gateways(&self) -> Vec<(IpAddr, bool)> {
        let mut gateways: Vec<(IpAddr, bool)> = Vec::new();
        for route in &self.routes {
            let is_default = route.header.destination_prefix_length == 0;
            let Some(one) = gateway(route) else { continue };
            match gateways.iter_mut().find(|(known, _)| *known == one) {
                Some((_, default)) => *default |= is_default,
                None => gateways.push((one, is_default)),
            }
        }
        gateways
    }

    /// The routes, as people read them.
    pub(super) fn routes(&self) -> impl Iterator<Item = String> {
        self.routes.iter().map(|route| {
            let by = gateway(route).map(|gateway| format!(" via {gateway}"));
            let metric = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Priority(metric) => Some(format!(" metric {metric}")),
                    _ => None,
                });
            let (by, metric) = (by.unwrap_or_default(), metric.unwrap_or_default());
            format!("{}{by}{metric}", destination(route))
        })
    }

    /// The same, with IPv4 addresses that are lent for ever: who renews them does so at the interface that they were lent to.
    pub(super) fn without_ends(&self) -> Self {
        let mut kept = self.clone();
        for message in &mut kept.addresses {
            if message.header.family == AddressFamily::Inet {
                message
                    .attributes
                    .retain(|attribute| !matches!(attribute, AddressAttribute::CacheInfo(_)));
            }
        }
        kept
    }

    /// Gives the addresses to an interface; those that it has stay.
    pub(super) async fn give_addresses(&self, links: &Links, to: &Device) -> Result<()> {
        for message in &self.addresses {
            let mut message = message.clone();
            message.header.index = to.index;
            for attribute in &mut message.attributes {
                // A label is the name of the interface, or begins with it and a colon.
                if let AddressAttribute::Label(label) = attribute {
                    let rest = label.find(':').and_then(|at| label.get(at..));
                    *label = format!("{}{}", to.name, rest.unwrap_or_default());
                    label.truncate(crate::name::INTERFACE_NAME_MAX);
                }
            }
            let what = match address(&message) {
                Some(address) => format!("giving {address} to {}", to.name),
                None => format!("giving an address to {}", to.name),
            };
            let message = RouteNetlinkMessage::NewAddress(message);
            within(&what, send(links, message, NLM_F_CREATE | NLM_F_REPLACE)).await?;
        }
        Ok(())
    }

    /// Has the routes go by an interface that has the addresses, each in place of the one that there is.
    pub(super) async fn give_routes(&self, links: &Links, to: &Device) -> Result<()> {
        for route in &self.routes {
            let mut route = route.clone();
            route.attributes.push(RouteAttribute::Oif(to.index));
            // The kernel makes those with the addresses, too. Of IPv6 the one in place would be replaced by a second one of
            // the same interface.
            let flags = match (route.header.protocol, route.header.address_family) {
                (RouteProtocol::Kernel, AddressFamily::Inet6) => NLM_F_CREATE | NLM_F_APPEND,
                _ => NLM_F_CREATE | NLM_F_REPLACE,
            };
            let what = format!("routing {} by {}", destination(&route), to.name);
            let sent = within(
                &what,
                send(links, RouteNetlinkMessage::NewRoute(route), flags),
            );
            match sent.await {
                Err(error) if kernel_code(&error) == Some(EEXIST) => {}
                sent => sent?,
            }
        }
        for neighbour in &self.neighbours {
            let mut neighbour = neighbour.clone();
            neighbour.header.ifindex = to.index;
            let message = RouteNetlinkMessage::NewNeighbour(neighbour);
            let what = format!("telling {} its fixed neighbours", to.name);
            within(&what, send(links, message, NLM_F_CREATE | NLM_F_REPLACE)).await?;
        }
        Ok(())
    }
}

/// Takes all addresses of an interface, with the routes that follow from them.
pub(super) async fn take_addresses(links: &Links, device: &Device) -> Result<()> {
    for message in addresses(links, device).await? {
        let removal = links.handle.address().del(message).execute();
        match within(&format!("taking an address of {}", device.name), removal).await {
            // With the first of a network the others of it go.
            Err(error) if matches!(kernel_code(&error), Some(EADDRNOTAVAIL | ESRCH)) => {}
            taken => taken?,
        }
    }
    Ok(())
}

async fn addresses(links: &Links, device: &Device) -> Result<Vec<AddressMessage>> {
    let listing = links
        .handle
        .address()
        .get()
        .set_link_index_filter(device.index)
        .execute();
    let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
    let is_its = |message: &AddressMessage| message.header.index == device.index;
    Ok(all.into_iter().filter(is_its).collect())
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
    })
}

/// The address as it can be set: without what the kernel says of it, and usable at once, for it is nobody else's.
fn settable(mut message: AddressMessage) -> AddressMessage {
    let kept = AddressFlags::Noprefixroute
        | AddressFlags::Mcautojoin
        | AddressFlags::Managetempaddr
        | AddressFlags::Homeaddress;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(told) = attribute {
            flags = *told & kept;
        }
    }
    if message.header.family == AddressFamily::Inet6 {
        flags |= AddressFlags::Nodad;
    }
    message.header.flags = AddressHeaderFlags::empty();
    message
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn goes_by(route: &RouteMessage, index: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(index))
}

fn is_shared(route: &RouteMessage, index: u32) -> bool {
    route.attributes.iter().any(|attribute| {
        matches!(attribute, RouteAttribute::MultiPath(hops) if hops.iter().any(|hop| hop.interface_index == index))
    })
}

/// The route as it can be set, without its interface; none if it isn't by that one, or follows from what else there is.
fn movable(mut route: RouteMessage, index: u32) -> Option<RouteMessage> {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let is_own = table.unwrap_or(route.header.table.into()) == LOCAL_TABLE;
    if !goes_by(&route, index) || is_own || route.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    route.header.flags &= RouteFlags::Onlink;
    let expires = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::CacheInfo(told) if told.expires > 0 => Some(told.expires / TICKS),
            _ => None,
        });
    route.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::Oif(_)
                | RouteAttribute::CacheInfo(_)
                | RouteAttribute::NhId(_)
                | RouteAttribute::Expires(_)
        )
    });
    route
        .attributes
        .extend(expires.map(|seconds| RouteAttribute::Expires(seconds.max(1))));
    Some(route)
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    let of = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    };
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => of(address),
            RouteAttribute::Via(rtnetlink::packet_route::route::RouteVia::Inet6(address)) => {
                Some((*address).into())
            }
            _ => None,
        })
}

fn destination(route: &RouteMessage) -> String {
    let length = route.header.destination_prefix_length;
    let to = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(address.to_string()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(address.to_string()),
            _ => None,
        });
    match (to, route.header.address_family) {
        (Some(to), _) => format!("{to}/{length}"),
        (None, AddressFamily::Inet6) => "default (IPv6)".to_owned(),
        (None, _) => "default".to_owned(),
    }
}

/// Sends a change with these flags, some of which `rtnetlink` has no words for.
async fn send(
    links: &Links,
    message: RouteNetlinkMessage,
    flags: u16,
) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = std::pin::pin!(links.handle.clone().request(request)?);
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

/// The kernel's own words for a message.
pub(super) fn bytes_of(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

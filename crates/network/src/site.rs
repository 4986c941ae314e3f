//! A network whose machines are on the site's own Ethernet, by a bridge of the operator's.
//!
//! ```text
//!   taps ── st<i>-br0 ── st<i>-up0 ═══ sp<i>-up0 ── the operator's bridge ── eth1
//!          (ours)              (a cable)           (with the host's addresses)
//! ```
//!
//! Two bridges, so that each stays its owner's: ours goes with the network, and what is checked at it doesn't touch what else the
//! operator's carries. The router is the site's. Our DHCP answers machines of this host from an address that is of this bridge
//! alone and never crosses the cable, no more than DHCP does: strangers hear nothing of us, and we nothing of theirs.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{LinkUnspec, LinkVeth};
use serde::{Deserialize, Serialize};

use crate::address::Ipv4Network;
use crate::error::{NetworkError, Result};
use crate::links::{EEXIST, Links, kernel_code, within};
use crate::name::{InstanceTag, InterfaceName};

/// Of the cable's far end, which says nothing by it.
const HIGHEST_MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// The site, as a network is plugged into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The operator's bridge.
    pub bridge: InterfaceName,
    /// The first address that machines of the network can have.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
    /// Name servers of the site; machines are told none if there are none.
    pub name_servers: Vec<Ipv4Addr>,
}

/// The network of our own address on a bridge to a site, and that address. It is none of the site's, but one of a link
/// (RFC 3927), made of the network's: two of a host must differ.
#[must_use]
pub(crate) fn service_of(network: Ipv4Network) -> (Ipv4Network, Ipv4Addr) {
    // Mixed, so that neighbours differ (Knuth's multiplicative hashing), to 14 bits: which four of the link's addresses. Not of
    // its first 256 nor of its last, which are reserved.
    let mixed = network.address().to_bits().wrapping_mul(0x9e37_79b1) >> 18;
    let [.., high, low] = mixed.to_be_bytes();
    let third = match 1 + (high << 2 | low >> 6) % 253 {
        // Where machines of other clouds, as this host may be one, have their metadata (169.254.169.254).
        169 => 254,
        third => third,
    };
    let own = Ipv4Addr::new(169, 254, third, (low & 0x3f) << 2 | 1);
    (Ipv4Network::of_four(own), own)
}

impl Site {
    /// Makes sure that the operator's bridge is there, and that the host has none of the machines' addresses on it, before
    /// anything is made.
    ///
    /// # Errors
    /// [`NetworkError::SiteBridge`], or [`NetworkError::SiteAddress`], says what to do.
    pub(crate) async fn check(&self, links: &Links) -> Result<()> {
        let index = self.ensure_there(links).await?;
        let listing = links
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute();
        let all: Vec<AddressMessage> = within("listing addresses", listing.try_collect()).await?;
        for attribute in all.iter().flat_map(|message| &message.attributes) {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute
                && (self.first..=self.last).contains(address)
            {
                return Err(NetworkError::SiteAddress {
                    bridge: self.bridge.to_string(),
                    address: *address,
                });
            }
        }
        Ok(())
    }

    /// The kernel's number of the operator's bridge.
    ///
    /// # Errors
    /// [`NetworkError::SiteBridge`] says what to do.
    async fn ensure_there(&self, links: &Links) -> Result<u32> {
        let found = links.find(&self.bridge).await?;
        let bridge = found.ok_or_else(|| NetworkError::SiteBridge {
            bridge: self.bridge.to_string(),
        })?;
        Ok(bridge.index)
    }

    /// Lays the cable between the two bridges.
    ///
    /// # Errors
    /// The operator's bridge is gone, or is no bridge; or the kernel refuses.
    pub(crate) async fn ensure_cable(
        &self,
        links: &Links,
        (instance, bridge_index, mtu): (&InstanceTag, u32, u16),
    ) -> Result<()> {
        let site_index = self.ensure_there(links).await?;
        let (ours, theirs) = (instance.uplink(), instance.uplink_end());
        if links.find(&ours).await?.is_none() {
            let message = LinkVeth::new(ours.as_str(), theirs.as_str()).build();
            let request = links.handle.link().add(message).execute();
            match within(&format!("making {ours}"), request).await {
                Err(error) if kernel_code(&error) == Some(EEXIST) => {}
                made => made?,
            }
        }
        // A bridge that was given no MAC takes the lowest of its ports', and all of the site would have to learn it anew.
        let message = LinkUnspec::new_with_name(theirs.as_str()).address(HIGHEST_MAC.to_vec());
        let request = links.handle.link().change(message.build()).execute();
        within(&format!("giving {theirs} its MAC"), request).await?;
        links.attach(&theirs, site_index, mtu).await?;
        links.attach(&ours, bridge_index, mtu).await
    }

    /// What of the cable is not as it should be.
    ///
    /// # Errors
    /// The kernel doesn't tell.
    pub(crate) async fn lacks(
        &self,
        links: &Links,
        instance: &InstanceTag,
        bridge_index: Option<u32>,
    ) -> Result<Vec<String>> {
        let Some(site) = links.find(&self.bridge).await? else {
            return Ok(vec![format!("the bridge {} is not there", self.bridge)]);
        };
        let mut lacks = Vec::new();
        for (name, controller) in [
            (instance.uplink(), bridge_index),
            (instance.uplink_end(), Some(site.index)),
        ] {
            match links.find(&name).await? {
                None => lacks.push(format!("{name} is not there")),
                Some(link) if !link.up => lacks.push(format!("{name} is down")),
                Some(link) if link.controller != controller => {
                    lacks.push(format!("{name} is not on its bridge"));
                }
                Some(_) => {}
            }
        }
        Ok(lacks)
    }
}

/// Takes the cable away, if there is one.
///
/// # Errors
/// The kernel refuses.
pub(crate) async fn remove_cable(links: &Links, instance: &InstanceTag) -> Result<()> {
    links.delete(&instance.uplink()).await.map(drop)
}

/// Has the host answer for its addresses on this interface only (`arp_ignore`): its other ones it has on the site's.
pub(crate) async fn answer_for_itself(bridge: &InterfaceName) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{bridge}/arp_ignore");
    tokio::fs::write(&path, "1")
        .await
        .map_err(NetworkError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_address_is_of_the_link_and_follows_from_the_network() {
        let of = |network: &str| {
            let (network, own) = service_of(network.parse().unwrap());
            assert!(network.has_host(own), "{network} {own}");
            assert!(own.is_link_local() && ![0, 169, 255].contains(&own.octets()[2]));
            own
        };
        assert_eq!(of("192.0.2.0/24"), of("192.0.2.0/24"));
        assert_ne!(of("10.1.0.0/24"), of("10.1.4.0/24"));
        assert_ne!(of("10.1.0.0/16"), of("10.2.0.0/16"));
        let neighbours: std::collections::BTreeSet<_> =
            (0..64).map(|n| of(&format!("192.168.{n}.0/24"))).collect();
        assert_eq!(neighbours.len(), 64);
        for (high, low) in (0..=255).flat_map(|high| (0..=255).map(move |low| (high, low))) {
            of(&format!("10.{high}.{low}.0/24"));
        }
    }
}

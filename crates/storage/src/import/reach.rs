//! Which addresses images are fetched from. The daemon sits inside the operator's networks and users choose the URL: without
//! a rule any of them could have it ask the host's own services, its neighbours, or a metadata service.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Where images may come from: everywhere on the Internet, and from what was allowed by name.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Allowed whatever they are.
    pub allowed: Vec<IpNet>,
    /// The cloud's own networks: refused although they may look public.
    pub own: Vec<IpNet>,
}

/// An address that images are not fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreachable {
    address: IpAddr,
    why: &'static str,
}

impl std::error::Error for Unreachable {}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = match self.address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        write!(
            f,
            "{} is {}, and images are not fetched from there; an administrator can allow it with `allow_sources = \
             [\"{}/{block}\"]` in the table [images] of the daemon's configuration",
            self.address, self.why, self.address
        )
    }
}

impl Reach {
    /// For whoever knows whom it asks.
    pub(super) fn everywhere() -> Self {
        Self {
            allowed: vec![IpNet::from(Ipv4Net::default()), Ipv6Net::default().into()],
            own: Vec::new(),
        }
    }

    /// Whether images may be fetched from an address.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Unreachable> {
        let address = address.to_canonical();
        let within = |blocks: &[IpNet]| blocks.iter().any(|block| block.contains(&address));
        let why = if within(&self.allowed) {
            return Ok(());
        } else if within(&self.own) {
            Some("in one of the cloud's own networks")
        } else {
            match address {
                IpAddr::V4(address) => special_v4(address),
                IpAddr::V6(address) => special_v6(address),
            }
            .or_else(|| is_ours(address).then_some("an address of this host"))
        };
        why.map_or(Ok(()), |why| Err(Unreachable { address, why }))
    }

    /// Whether a URL names an address that images may be fetched from. Host names are judged when they are resolved.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Unreachable> {
        // However an address was spelled, a parsed URL has it in its usual form.
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => self.check(address),
            Err(_) => Ok(()),
        }
    }
}

/// Resolves names to allowed addresses only. What it answers is what the client connects to: nobody can answer the check
/// one thing and the connection another.
pub(super) struct Resolver(pub(super) Arc<Reach>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refused = None;
            let mut good: Vec<SocketAddr> = Vec::new();
            for at in found {
                match reach.check(at.ip()) {
                    Ok(()) => good.push(at),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(refused) if good.is_empty() => Err(refused.into()),
                _ if good.is_empty() => Err(io::Error::from(io::ErrorKind::NotFound).into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Resolves every name to the addresses of one server.
pub(super) struct OneServer(pub(super) Arc<str>);

impl Resolve for OneServer {
    fn resolve(&self, _: Name) -> Resolving {
        let server = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((&*server, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What is special about an address that isn't one of the Internet (IANA "IPv4 Special-Purpose Address Registry").
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("an address of \"this network\""),
        (127, ..) => Some("a loopback address"),
        (169, 254, _) => Some("a link-local address"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("a private address"),
        (100, 64..=127, _) => Some("a shared address of a provider"),
        (224..=239, ..) => Some("a multicast address"),
        (192, 0, 0) | (198, 18..=19, _) | (240.., ..) => Some("a reserved address"),
        _ => None,
    }
}

/// The same for IPv6, and for the IPv4 address within one that stands for it.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        // Unspecified, and the long abandoned form of an IPv4 address.
        [0, 0, 0, 0, 0, 0, ..] => Some("a reserved address"),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Some("a private address"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("a multicast address"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("a link-local address"),
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => {
            Some("a private address")
        }
        _ => None,
    }
}

/// Whether this host has an address: then it can be bound to.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &[&str]) -> Vec<IpNet> {
        text.iter()
            .map(|block| block.parse().expect("a block"))
            .collect()
    }

    #[test]
    fn only_addresses_of_the_internet_are_reached() {
        let reach = Reach {
            own: blocks(&["203.0.113.0/24"]),
            ..Reach::default()
        };
        for refused in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.200.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address = refused.parse().expect("an address");
            assert!(reach.check(address).is_err(), "{refused}");
        }
        for good in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            let address = good.parse().expect("an address");
            assert_eq!(reach.check(address), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_allowed_is_reached_and_nothing_beside_it() {
        let reach = Reach {
            allowed: blocks(&["127.0.0.0/8", "fd00:1::/32"]),
            own: blocks(&["127.0.0.0/8"]),
        };
        for (address, good) in [
            ("127.3.2.1", true),
            ("::ffff:127.0.0.1", true),
            ("fd00:1::5", true),
            ("::1", false),
            ("fd00:2::5", false),
            ("10.0.0.1", false),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(reach.check(address).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn a_url_may_spell_an_address_in_any_way() {
        for url in [
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]:80/",
        ] {
            let url = Url::parse(url).expect("a URL");
            let refused = Reach::default().check_url(&url).expect_err("loopback");
            assert!(refused.to_string().contains("allow_sources"), "{refused}");
        }
    }
}

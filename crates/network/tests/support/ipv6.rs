//! IPv6: frames, and guests that make their own addresses.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // as its parent

use std::net::Ipv6Addr;

use network::{Ipv6Prefix, MacAddr, PlugRequest};

use super::frames::ethernet;
use super::{Namespace, TestHost, eventually};

pub const ICMP: u8 = 58;
pub const UDP: u8 = 17;
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Where DHCPv6 servers listen.
pub const DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The host's address on every link.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

pub fn prefix() -> Ipv6Prefix {
    "fd12:5c31:1::/64".parse().unwrap()
}

/// The address of a machine on the network.
pub fn global(request: &PlugRequest) -> Ipv6Addr {
    prefix().address_of(request.mac)
}

/// Its address on the link.
pub fn local(request: &PlugRequest) -> Ipv6Addr {
    let lower = u128::from(global(request).to_bits() as u64);
    Ipv6Addr::from_bits(0xfe80 << 112 | lower)
}

/// A host whose network has IPv6.
pub fn host() -> TestHost {
    let mut test = TestHost::new();
    test.config.network6 = Some(prefix());
    test
}

/// A guest that makes its address of what the router says. To be called when its rules stand.
pub fn make_address(guest: &Namespace, request: &PlugRequest) {
    make_address_of(guest, global(request));
}

/// The same, on whatever network.
pub fn make_address_of(guest: &Namespace, address: Ipv6Addr) {
    guest.enter(|| {
        for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "1"), ("autoconf", "1")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{key}"), value).unwrap();
        }
    });
    // As at its start.
    guest.ip("link set eth0 down");
    guest.ip("link set eth0 up");
    has_address(guest, address);
}

/// Waits for it.
pub fn has_address(guest: &Namespace, address: Ipv6Addr) {
    eventually("a guest makes its address", || {
        let shown = guest.command("ip", &["-6", "addr", "show", "dev", "eth0"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        shown.contains(&format!("{address}/64")) && !shown.contains("tentative")
    });
}

/// Whether the other answers an echo of that size.
pub fn pings(guest: &Namespace, to: Ipv6Addr, size: &str) -> bool {
    let to = if to == ROUTER {
        format!("{to}%eth0")
    } else {
        to.to_string()
    };
    let arguments = ["-6", "-n", "-c", "1", "-W", "5", "-s", size, &to];
    guest.command("ping", &arguments).status.success()
}

/// A packet as it is on the wire; the MAC it goes to follows from the address if that is a group's, else it is everybody's.
pub fn packet(
    from: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    header: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([header, 255]);
    bytes.extend(source.octets());
    bytes.extend(target.octets());
    bytes.extend(payload);
    let [.., a, b, c, d] = target.octets();
    let to = if target.is_multicast() {
        MacAddr([0x33, 0x33, a, b, c, d])
    } else {
        super::frames::BROADCAST
    };
    ethernet(to, from, 0x86dd, &bytes)
}

/// A message of a neighbour (RFC 4861 §4.3, §4.4): whom it is about, and an option of 8 bytes.
pub fn neighbour(kind: u8, about: Ipv6Addr, option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(about.octets());
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac.octets());
    }
    message
}

/// A UDP datagram with its checksum, which IPv6 demands (RFC 8200 §8.1).
pub fn udp(source: (Ipv6Addr, u16), target: (Ipv6Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len() as u16;
    let mut datagram = Vec::new();
    for word in [source.1, target.1, length, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(data);
    let mut summed = [source.0.octets(), target.0.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, UDP]);
    summed.extend(&datagram);
    let mut sum = summed.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    datagram[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    datagram
}

/// One header of 8 bytes before a payload, which it tells to be of that kind.
pub fn behind(inner: u8, payload: &[u8]) -> Vec<u8> {
    // Its length in further units of 8 bytes, and an option of padding.
    let mut bytes = vec![inner, 0, 1, 4, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

/// The header of a fragment (RFC 8200 §4.5), by its offset in units of 8 bytes.
pub fn fragment(inner: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![inner, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend([0, 0, 0, 7]);
    bytes.extend(payload);
    bytes
}

//! Giving a lease back in a machine's name (DHCPRELEASE, RFC 2131 §4.4.6).
//!
//! dnsmasq holds a lease in memory until it expires, and refuses the address to anybody else so long, whatever its hosts
//! file says. A machine that is switched off never gives its lease back, so we do.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use crate::dnsmasq_files::RememberedLease;

const SERVER_PORT: u16 = 67;
const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

/// The message of RFC 2131 §2 with the options of §4.4.6.
#[must_use]
pub fn message(lease: &RememberedLease, server: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0]; // BOOTREQUEST, Ethernet, six bytes of address, no hops
    bytes.extend(lease.ip.octets()); // transaction: anything; no answer comes
    bytes.extend([0; 4]); // seconds, flags
    bytes.extend(lease.ip.octets()); // ciaddr
    bytes.extend([0; 12]); // yiaddr, siaddr, giaddr
    bytes.extend(lease.mac.octets());
    bytes.extend([0; 10 + 64 + 128]); // rest of chaddr, sname, file
    bytes.extend(MAGIC);
    bytes.extend([53, 1, 7]); // DHCPRELEASE
    bytes.extend([54, 4]);
    bytes.extend(server.octets());
    if let (Ok(length @ 1..), true) = (
        u8::try_from(lease.client_id.len()),
        lease.client_id.len() < 256,
    ) {
        bytes.extend([61, length]);
        bytes.extend(&lease.client_id);
    }
    bytes.push(255);
    bytes
}

/// Sends the releases to the server on this host, through the loopback interface. There is no answer; the lease file
/// shows the effect.
///
/// # Errors
/// The network has no way to the server's own address (loopback is down).
pub fn send(leases: &[RememberedLease], server: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for lease in leases {
        socket.send_to(&message(lease, server), (server, SERVER_PORT))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::MacAddr;

    #[test]
    fn the_fields_are_where_the_rfc_puts_them() {
        let lease = RememberedLease {
            mac: MacAddr([2, 0, 172, 16, 0, 5]),
            ip: Ipv4Addr::new(172, 16, 0, 5),
            client_id: vec![1, 2],
        };
        let bytes = message(&lease, Ipv4Addr::new(172, 16, 0, 1));
        assert_eq!(&bytes[12..16], &[172, 16, 0, 5]);
        assert_eq!(&bytes[28..34], &[2, 0, 172, 16, 0, 5]);
        assert_eq!(&bytes[236..240], &MAGIC);
        assert_eq!(
            &bytes[240..],
            &[53, 1, 7, 54, 4, 172, 16, 0, 1, 61, 2, 1, 2, 255]
        );
    }
}

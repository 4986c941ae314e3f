//! What can go wrong, by what the caller can do about it.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::PoolError;
use crate::name::NameError;
use crate::overlay::Vni;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, NetworkError>;

/// An error of the host's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A name that must not reach the kernel, nftables or DNS.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pool or network that makes no sense.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The kernel refused a change of an interface.
    #[error("{what}: {source}; is this process allowed to change interfaces (CAP_NET_ADMIN)?")]
    Link {
        /// What was tried, with the interface's name.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A tap could not be made.
    #[error(
        "cannot create the tap {name}: {source}; check /dev/net/tun and that no other program holds that name"
    )]
    Tap {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Two clouds on one host want the same addresses.
    #[error(
        "the subnet {network} of {bridge} overlaps {theirs} of {other}, which belongs to another cloud on this host; \
         write another `subnet` for it under [networks] in the configuration, or take the other cloud down"
    )]
    SubnetTaken {
        /// Our subnet.
        network: String,
        /// Our bridge.
        bridge: String,
        /// The other cloud's bridge.
        other: String,
        /// Its address.
        theirs: String,
    },
    /// The bridge is another cloud's.
    #[error(
        "{bridge} belongs to another cloud on this host, the one with {owner}; \
         give this one another `instance` and other subnets in the configuration, or take the other down. \
         If the other is no more: `ip link delete {bridge}`"
    )]
    BridgeTaken {
        /// The bridge.
        bridge: String,
        /// The folder of the other cloud's network.
        owner: String,
    },
    /// Guests' packets don't fit between the hosts.
    #[error(
        "packets of {mtu} bytes don't fit through {interface} to other hosts, where {most} is the most; \
         write `mtu = {most}` for this network under [networks] in the configuration of all hosts, or give {interface} a larger MTU"
    )]
    TunnelMtu {
        /// The guests' MTU.
        mtu: u16,
        /// The interface between the hosts.
        interface: String,
        /// The largest MTU of guests that fits.
        most: u32,
    },
    /// Another device has the network's number already.
    #[error(
        "another interface of this host has VXLAN number {vni} on UDP port {port}: \
         that of another network of this cloud, or of another program (`ip -d link show type vxlan`); give this network another number on all hosts"
    )]
    TunnelTaken {
        /// The number.
        vni: Vni,
        /// The port.
        port: u16,
    },
    /// The operator's bridge isn't there.
    #[error(
        "this host has no bridge {bridge}, on which the machines of this network are to be; make it of the interface to the site \
         (`stratusd network attach INTERFACE --bridge {bridge}`), or write another `bridge` for the network"
    )]
    SiteBridge {
        /// The bridge.
        bridge: String,
    },
    /// The host has an address that machines can be given.
    #[error(
        "{bridge} has the address {address}, which machines of this network can be given; write another `first` or `last` for the network"
    )]
    SiteAddress {
        /// The operator's bridge.
        bridge: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// This host hasn't the address by which other hosts are to reach it.
    #[error(
        "no interface of this host has the address {local}, by which other hosts are to reach its networks; \
         give it to the interface between the hosts, or write the right one in the configuration"
    )]
    TunnelAddress {
        /// The address.
        local: Ipv4Addr,
    },
    /// nftables refused a change set.
    #[error("nftables refused the rules: {reason}")]
    Firewall {
        /// What `nft` said.
        reason: String,
    },
    /// dnsmasq does not run or does not follow.
    #[error("dnsmasq: {reason}")]
    Dnsmasq {
        /// What it said, or what was missing.
        reason: String,
    },
    /// A program that could not be started.
    #[error("cannot run {program}: {source}; is it installed?")]
    Program {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of ours that could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket that could not be used.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No port left for a machine's SSH forwarding.
    #[error(
        "no free port between {first} and {last} on 127.0.0.1; widen the range of forwarded ports"
    )]
    NoFreePort {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// An interface of the operator's that can't be moved into a bridge, or out of it.
    #[error("{interface}: {why}")]
    Uplink {
        /// The interface.
        interface: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A change of an interface that can't be made, kept or confirmed now.
    #[error("{why}")]
    Trial {
        /// Why not.
        why: String,
    },
    /// Something outside did not answer in time.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The part that would have done it was shut down.
    #[error("{part} has been shut down")]
    Closed {
        /// Which part.
        part: &'static str,
    },
}

impl NetworkError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

//! Networks of one host: address pools, bridge and taps, DHCP and DNS (dnsmasq driven by us), NAT and anti-spoofing
//! (nftables), and a mode without privileges (QEMU's user networking).
//!
//! The promise: [`NetworkHost::plug`] gives a machine its link at once, so that QEMU can be started, and a [`Ready`] to
//! wait for before the guest runs: from then on the guest can use its own address and no other. What stands in the
//! kernel and in dnsmasq outlives this process; [`NetworkHost::reconcile`] makes it exactly what is wanted.
//!
//! | module | idea |
//! |---|---|
//! | [`address`], [`pool`], [`ipv6`] | networks, MAC addresses, who can get which: pure |
//! | [`name`] | names that go into the kernel, nftables and DNS, checked once |
//! | [`bridge`], [`tap`], `vxlan`, [`links`] | interfaces, over one netlink connection |
//! | [`overlay`] | one network over several hosts |
//! | [`group`] | security groups |
//! | [`site`] | machines on the site's own Ethernet |
//! | [`firewall`], [`ruleset`], [`nft`] | nftables: the worker, the text, the program |
//! | [`dnsmasq`], [`dnsmasq_files`], [`dhcp_release`] | DHCP and DNS: the supervisor, its files, giving a lease back |
//! | [`uplink`] | the operator's interface into a bridge, on request: changed, tested, put back |
//! | [`host`], [`bridged`], [`user_mode`] | what the VM host uses |

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod address;
mod background;
pub mod bridge;
pub mod bridged;
pub mod dhcp_release;
mod dns_probe;
pub mod dnsmasq;
pub mod dnsmasq_files;
pub mod error;
mod files;
pub mod firewall;
mod forwarding;
pub mod group;
pub mod host;
pub mod ipv6;
pub mod links;
mod log_limit;
pub mod name;
pub mod nft;
pub mod overlay;
pub mod pool;
pub mod ruleset;
pub mod site;
pub mod tap;
mod tun_ioctl;
pub mod uplink;
pub mod user_mode;
mod vxlan;

pub use address::{Ipv4Network, MacAddr, MacPrefix, PoolError};
pub use bridged::BridgedConfig;
pub use dnsmasq::DhcpHealth;
pub use dnsmasq_files::{Lease, Upstream};
pub use error::{NetworkError, Result};
pub use group::{Direction, Group, GroupRule, GroupTag, Groups, RulePeer, Traffic};
pub use host::{
    Attachment, Audit, NetworkConfig, NetworkHost, PlugRequest, Plugged, Ready, Reconciled,
};
pub use ipv6::Ipv6Prefix;
pub use name::{Domain, Hostname, InstanceTag, InterfaceName, NameError, NicTag};
pub use overlay::{Overlay, VXLAN_PORT, Vni};
pub use pool::AddressPool;
pub use ruleset::{Binding, Outward, Peer};
pub use site::Site;
pub use uplink::Uplinks;
pub use user_mode::{UserModeConfig, UserNetdev};

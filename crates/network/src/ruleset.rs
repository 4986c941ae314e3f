//! The nftables text of one cloud on one host. Pure; everything pasted in is a checked type.
//!
//! Two or three tables named `stratus_<instance>`:
//!
//! - family `bridge`, what a guest may send. Sets keyed by the interface it came from, so that a machine is a few
//!   elements and no rule, and a packet costs the same with ten machines or ten thousand. A tap that is in no set may
//!   send nothing: a machine whose rules are not there yet is mute, not free. What is said by IPv6 is in [`ipv6`].
//! - family `ip`, and `ip6` if guests have IPv6, where it may go ([`ip`]): the host's DHCP and DNS but nothing else of the host,
//!   the world through NAT or routing, and nothing into the network that was not asked for from inside. That holds for each
//!   packet, not for the first of a connection alone: what another network began while it was a peer ends when it is none any more.
//!
//! What hosts of one network exchange has rules of its own, in both: [`tunnel`]. So has what is exchanged with the site: [`site`].
//! Machines with security groups have a table beside these: [`groups`].
//!
//! Texts use only what nftables 1.0.6 (Debian 12) has.

pub(crate) mod groups;
mod ip;
mod ipv6;
mod site;
mod tunnel;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::{Ipv4Network, MacAddr};
use crate::ipv6::Ipv6Prefix;
use crate::name::{InstanceTag, InterfaceName};
use crate::overlay::Overlay;
use crate::site::Site;
use ip::IpTable;

/// How guests reach the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outward {
    /// Behind an address of the host; connections come from inside only.
    #[default]
    Nat,
    /// With their own addresses, both ways: the network's router sends the guests' network to this host.
    Routed,
    /// Not at all: only each other and the host's DHCP and DNS.
    Isolated,
}

/// One NIC's right to send: this MAC with this address, on this interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// The tap.
    pub port: InterfaceName,
    /// The only source MAC.
    pub mac: MacAddr,
    /// The only source address.
    pub ip: Ipv4Addr,
}

/// Counters of the bridge table for what a well-behaved guest never sends.
pub const SPOOF_COUNTERS: [&str; 9] = [
    "spoofed_mac",
    "spoofed_arp",
    "spoofed_address",
    "spoofed_dhcp",
    "rogue_dhcp_server",
    "router_advertisement",
    "too_many_dhcp",
    "spoofed_neighbour",
    "extension_header",
];

/// Families in which every network has a table.
pub(crate) const ALWAYS: [&str; 2] = ["bridge", "ip"];
const IPV6: &str = "ip6";

/// By it QEMU says where a guest is that has just come, if that doesn't itself: switches learn its MAC, and nobody else listens.
const RARP: &str = "0x8035";
/// Exactly what QEMU says: it carries nothing else, and to nobody in particular. (60 bytes are the least that Ethernet carries.)
const ANNOUNCES: &str =
    "ether type 0x8035 ether daddr ff:ff:ff:ff:ff:ff meta length <= 60 @nh,0,64 0x0001080006040003";

/// Taps whose rates can be counted at once; those beyond are not limited.
const MOST_TAPS: u32 = 65_535;

/// Another network of this host, to and from which is forwarded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its bridge.
    pub bridge: InterfaceName,
    /// Its addresses.
    pub network: Ipv4Network,
    /// Its IPv6 prefix, if it has one.
    pub network6: Option<Ipv6Prefix>,
}

/// Everything the text depends on.
#[derive(Debug, Clone)]
pub struct Ruleset {
    /// Whose tables.
    pub instance: InstanceTag,
    /// The guests' network.
    pub network: Ipv4Network,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
    /// The guests' IPv6 prefix; without one they can send no IPv6.
    pub network6: Option<Ipv6Prefix>,
    /// The way out.
    pub outward: Outward,
    /// TCP ports of the host, besides DNS, that guests may reach on the gateway address (a metadata service, say).
    pub host_tcp_ports: BTreeSet<u16>,
    /// The networks whose guests and this one's reach each other, both ways and by their own addresses.
    pub peers: BTreeSet<Peer>,
    /// UDP port of tunnels between hosts, whether this network has one or not.
    pub tunnel_port: u16,
    /// How it is joined with the same network on other hosts.
    pub overlay: Option<Overlay>,
    /// The site whose Ethernet it is on; none: it is one of its own.
    pub site: Option<Site>,
}

impl Ruleset {
    /// Name of the tables.
    #[must_use]
    pub fn table(&self) -> String {
        format!("stratus_{}", self.instance)
    }

    /// The tables exactly as wanted, in one transaction: no packet sees them half made, and counters go on counting.
    #[must_use]
    pub fn establish(&self, bindings: &BTreeSet<Binding>) -> String {
        let mut text = self.bridge_table();
        text.push_str(&IpTable::ipv4(self).text());
        if let Some(prefix) = self.network6 {
            text.push_str(&IpTable::ipv6(self, prefix).text());
        }
        self.elements(&mut text, "add", &bindings.iter().collect::<Vec<_>>());
        text
    }

    /// As [`establish`](Self::establish), throwing away whatever has our name first: for tables that an older version
    /// or somebody's hand left in a shape that cannot be changed into ours.
    #[must_use]
    pub fn replace(&self, bindings: &BTreeSet<Binding>) -> String {
        let tables = self.families().into_iter();
        let gone: String = tables.map(|family| self.teardown_of(family)).collect();
        gone + &self.establish(bindings)
    }

    /// Takes elements out and puts others in, in one transaction; elements already gone or there do no harm.
    #[must_use]
    pub fn change(&self, removed: &[&Binding], added: &[&Binding]) -> String {
        let mut text = String::new();
        // Deleting what is not there fails the whole transaction, adding what is there does not.
        self.elements(&mut text, "add", removed);
        self.elements(&mut text, "delete", removed);
        self.elements(&mut text, "add", added);
        text
    }

    /// Removes the tables, whether they exist or not.
    #[must_use]
    pub fn teardown(&self) -> String {
        let families = self.families();
        families.iter().fold(self.ungroup(), |text, family| {
            text + &self.teardown_of(family)
        })
    }

    /// Removes the table of that family, whether it exists or not.
    fn teardown_of(&self, family: &str) -> String {
        let table = self.table();
        format!("add table {family} {table}\ndelete table {family} {table}\n")
    }

    /// Removes what an earlier configuration had, if guests have no IPv6 any more. It is refused by kernels without IPv6.
    #[must_use]
    pub fn teardown_unused(&self) -> Option<String> {
        (self.network6.is_none()).then(|| self.teardown_of(IPV6))
    }

    /// The families in which there is a table.
    #[must_use]
    pub fn families(&self) -> Vec<&'static str> {
        let ipv6 = self.network6.map(|_| IPV6);
        ALWAYS.into_iter().chain(ipv6).collect()
    }

    fn bridge_table(&self) -> String {
        let t = self.table();
        let prefix = self.instance.interface_prefix();
        let mut text = format!(
            "add table bridge {t}\n\
             add set bridge {t} macs {{ type ifname . ether_addr; }}\n\
             add set bridge {t} bindings {{ type ifname . ether_addr . ipv4_addr; }}\n\
             add set bridge {t} clients {{ typeof iifname . @th,288,48; }}\n\
             add set bridge {t} dhcp_rate {{ type ifname; size {MOST_TAPS}; flags dynamic; timeout 1m; }}\n\
             add counter bridge {t} other_protocol\n"
        );
        for counter in SPOOF_COUNTERS {
            let _ = writeln!(text, "add counter bridge {t} {counter}");
        }
        tunnel::declare_bridge(&mut text, &t);
        site::declare_bridge(&mut text, &t);
        ipv6::declare(&mut text, &t);
        let _ = write!(
            text,
            "add chain bridge {t} guests {{ type filter hook prerouting priority -200; policy accept; }}\n\
             add chain bridge {t} arp_sender\n\
             add chain bridge {t} ipv4_sender\n\
             flush table bridge {t}\n\
             flush set bridge {t} macs\n\
             flush set bridge {t} bindings\n\
             flush set bridge {t} clients\n\
             flush set bridge {t} bindings6\n\
             flush set bridge {t} neighbours\n\
             flush set bridge {t} link_options\n\
             flush set bridge {t} dhcp_rate\n\
             add rule bridge {t} guests iifname != \"{prefix}*\" accept\n"
        );
        tunnel::bridge_rules(&mut text, self);
        site::bridge_rules(&mut text, self);
        let mut rule = |chain: &str, rule: &str| {
            let _ = writeln!(text, "add rule bridge {t} {chain} {rule}");
        };
        rule(
            "guests",
            "iifname . ether saddr != @macs counter name spoofed_mac drop",
        );
        rule(
            "guests",
            "ether type vmap { ip : goto ipv4_sender, arp : goto arp_sender, ip6 : goto ipv6_sender }",
        );
        rule("guests", &format!("{ANNOUNCES} accept"));
        rule("guests", "counter name other_protocol drop");
        // 0.0.0.0 is the probe of duplicate address detection (RFC 5227): it claims nothing.
        rule(
            "arp_sender",
            "arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept",
        );
        rule(
            "arp_sender",
            "iifname . arp saddr ether . arp saddr ip != @bindings counter name spoofed_arp drop",
        );
        rule("arp_sender", "accept");
        // A DHCP client may speak for its own hardware address only (`chaddr`, 28 bytes into the message, behind 8 of
        // UDP): else it could give back another's lease.
        rule(
            "ipv4_sender",
            "udp dport 67 iifname . @th,288,48 != @clients counter name spoofed_dhcp drop",
        );
        // dnsmasq may log a line for each. A client that is told no asks again after seconds.
        rule(
            "ipv4_sender",
            "udp dport 67 update @dhcp_rate { iifname limit rate over 5/second burst 20 packets } counter name too_many_dhcp drop",
        );
        rule(
            "ipv4_sender",
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        );
        rule(
            "ipv4_sender",
            "iifname . ether saddr . ip saddr != @bindings counter name spoofed_address drop",
        );
        // Clients look at the port that they are spoken to at, whatever the other is.
        for port in ["sport 67", "dport 68"] {
            rule(
                "ipv4_sender",
                &format!("udp {port} counter name rogue_dhcp_server drop"),
            );
        }
        rule("ipv4_sender", "accept");
        match self.network6 {
            Some(_) => ipv6::rules(&mut rule),
            None => ipv6::rules_without(&mut rule),
        }
        text
    }

    fn elements(&self, text: &mut String, verb: &str, bindings: &[&Binding]) {
        let t = self.table();
        let mut set = |name: &str, element: &dyn Fn(&Binding) -> String| {
            let list: Vec<String> = bindings.iter().map(|&binding| element(binding)).collect();
            if !list.is_empty() {
                let _ = writeln!(
                    text,
                    "{verb} element bridge {t} {name} {{ {} }}",
                    list.join(", ")
                );
            }
        };
        set("macs", &|b| format!("\"{}\" . {}", b.port, b.mac));
        set("bindings", &|b| {
            format!("\"{}\" . {} . {}", b.port, b.mac, b.ip)
        });
        set("clients", &|b| {
            format!("\"{}\" . 0x{}", b.port, hexadecimal(&b.mac.octets()))
        });
        if let Some(prefix) = self.network6 {
            for (name, element) in ipv6::ELEMENTS {
                set(name, &|b| element(prefix, b));
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
#[allow(clippy::panic)] // a test that panics has failed
mod tests {
    use super::*;

    fn rules(outward: Outward) -> Ruleset {
        Ruleset {
            instance: "x".parse().unwrap(),
            network: "172.16.0.0/24".parse().unwrap(),
            gateway: "172.16.0.1".parse().unwrap(),
            network6: None,
            outward,
            host_tcp_ports: BTreeSet::new(),
            peers: BTreeSet::new(),
            tunnel_port: 4789,
            overlay: None,
            site: None,
        }
    }

    #[test]
    fn peers_are_let_through_before_all_else_is_refused() {
        let mut rules = rules(Outward::Isolated);
        rules.peers.insert(Peer {
            bridge: "sty-br0".parse().unwrap(),
            network: "172.17.0.0/24".parse().unwrap(),
            network6: None,
        });
        let text = rules.establish(&BTreeSet::new());
        let rule = |rule: &str| {
            let rule = format!("add rule ip stratus_x forward {rule}\n");
            text.find(&rule)
                .unwrap_or_else(|| panic!("{rule}is not in\n{text}"))
        };
        let refusals = [
            rule("iifname \"stx-br0\" jump outward"),
            rule("oifname \"stx-br0\" jump inward"),
        ];
        for peer in [
            "iifname \"stx-br0\" oifname \"sty-br0\" ip saddr 172.16.0.0/24 ip daddr 172.17.0.0/24 accept",
            "iifname \"sty-br0\" oifname \"stx-br0\" ip saddr 172.17.0.0/24 ip daddr 172.16.0.0/24 accept",
        ] {
            let peer = rule(peer);
            assert!(refusals.iter().all(|refusal| peer < *refusal), "{text}");
        }
    }

    fn binding(nic: &str, last: u8) -> Binding {
        let ip = Ipv4Addr::new(172, 16, 0, last);
        Binding {
            port: format!("stx-{nic}").parse().unwrap(),
            mac: MacAddr([2, 0, 172, 16, 0, last]),
            ip,
        }
    }

    #[test]
    fn a_machine_is_three_elements_and_no_rule() {
        let text = rules(Outward::Nat).change(&[], &[&binding("7", 5)]);
        assert_eq!(
            text,
            "add element bridge stratus_x macs { \"stx-7\" . 02:00:ac:10:00:05 }\n\
             add element bridge stratus_x bindings { \"stx-7\" . 02:00:ac:10:00:05 . 172.16.0.5 }\n\
             add element bridge stratus_x clients { \"stx-7\" . 0x0200ac100005 }\n"
        );
    }

    #[test]
    fn removing_is_idempotent_because_it_adds_first() {
        let text = rules(Outward::Nat).change(&[&binding("7", 5)], &[]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines.iter().take(3).all(|l| l.starts_with("add "))
                && lines.iter().skip(3).all(|l| l.starts_with("delete "))
        );
    }

    #[test]
    fn many_changes_are_few_lines() {
        let many: Vec<Binding> = (2..250).map(|n| binding(&n.to_string(), n)).collect();
        assert_eq!(
            rules(Outward::Nat)
                .change(&[], &many.iter().collect::<Vec<_>>())
                .lines()
                .count(),
            3
        );
    }

    #[test]
    fn the_way_out_is_as_chosen() {
        let text = |outward| rules(outward).establish(&BTreeSet::new());
        assert!(
            text(Outward::Nat).contains("masquerade")
                && text(Outward::Nat).contains("refused_inward drop")
        );
        assert!(
            !text(Outward::Routed).contains("masquerade")
                && !text(Outward::Routed).contains("refused_inward drop")
        );
        assert!(text(Outward::Isolated).contains("outward reject"));
    }
}

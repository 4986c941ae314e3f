//! Those that have files of their own making: the operator is told what to say to them.

use std::fmt::Write as _;
use std::path::Path;

use super::{Keeper, Wanted};

/// Where NetworkManager tells which interfaces are its.
const DEVICES: &str = "run/NetworkManager/devices";

/// NetworkManager, if it manages the interface.
pub(super) fn network_manager(root: &Path, index: u32, wanted: Wanted<'_>) -> Option<Keeper> {
    let text = std::fs::read_to_string(root.join(DEVICES).join(index.to_string())).ok()?;
    text.lines()
        .any(|line| line.trim() == "managed=true")
        .then_some(())?;
    let Wanted {
        bridge,
        port,
        mac,
        mtu,
        holdings,
    } = wanted;
    let mut how = format!(
        "nmcli connection add type bridge con-name {bridge} ifname {bridge} bridge.stp no bridge.mac-address {mac} 802-3-ethernet.mtu {mtu}"
    );
    for (family, ipv6) in [("ipv4", false), ("ipv6", true)] {
        let addresses = of_family(wanted, ipv6);
        if holdings.has_lent(ipv6) || (ipv6 && addresses.is_empty()) {
            let _ = write!(how, " {family}.method auto");
        } else if addresses.is_empty() {
            let _ = write!(how, " {family}.method disabled");
        } else {
            let _ = write!(
                how,
                " {family}.method manual {family}.addresses {}",
                addresses.join(",")
            );
            for gateway in gateways(wanted, ipv6) {
                let _ = write!(how, " {family}.gateway {gateway}");
            }
        }
    }
    let _ = write!(
        how,
        "\nnmcli connection add type ethernet con-name {bridge}-port ifname {port} master {bridge}\n\
         nmcli connection up {bridge}-port"
    );
    Some(Keeper::Told {
        name: "NetworkManager",
        how,
    })
}

/// netplan.
pub(super) fn netplan(wanted: Wanted<'_>) -> Keeper {
    let Wanted {
        bridge,
        port,
        mac,
        mtu,
        holdings,
    } = wanted;
    let mut how = format!(
        "network:\n  version: 2\n  ethernets:\n    {port}: {{dhcp4: false, dhcp6: false, accept-ra: false, link-local: []}}\n  \
         bridges:\n    {bridge}:\n      interfaces: [{port}]\n      macaddress: \"{mac}\"\n      mtu: {mtu}\n      \
         parameters: {{stp: false, forward-delay: 0}}\n"
    );
    for (family, ipv6) in [("dhcp4", false), ("dhcp6", true)] {
        let _ = writeln!(how, "      {family}: {}", holdings.has_lent(ipv6));
    }
    let fixed: Vec<String> = [false, true]
        .into_iter()
        .filter(|ipv6| !holdings.has_lent(*ipv6))
        .flat_map(|ipv6| of_family(wanted, ipv6))
        .collect();
    if !fixed.is_empty() {
        let _ = writeln!(how, "      addresses: [{}]", fixed.join(", "));
    }
    let routes: Vec<String> = [false, true]
        .into_iter()
        .filter(|ipv6| !holdings.has_lent(*ipv6))
        .flat_map(|ipv6| gateways(wanted, ipv6))
        .map(|gateway| format!("{{to: default, via: \"{gateway}\"}}"))
        .collect();
    if !routes.is_empty() {
        let _ = writeln!(how, "      routes: [{}]", routes.join(", "));
    }
    let _ = write!(
        how,
        "(in /etc/netplan, in place of what is said of {port} there; then: netplan try)"
    );
    Keeper::Told {
        name: "netplan",
        how,
    }
}

/// Addresses but those that the kernel makes for each link.
fn of_family(wanted: Wanted<'_>, ipv6: bool) -> Vec<String> {
    let is_wanted = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(_) => !ipv6,
        std::net::IpAddr::V6(ip) => ipv6 && !ip.is_unicast_link_local(),
    };
    let addresses = wanted.holdings.addresses();
    addresses
        .filter(|(ip, _)| is_wanted(ip))
        .map(|(ip, length)| format!("{ip}/{length}"))
        .collect()
}

fn gateways(wanted: Wanted<'_>, ipv6: bool) -> Vec<String> {
    let gateways = wanted.holdings.gateways().into_iter();
    gateways
        .filter(|(gateway, is_default)| *is_default && gateway.is_ipv6() == ipv6)
        .map(|(gateway, _)| gateway.to_string())
        .collect()
}

//! Debian's ifupdown (`interfaces(5)`): the stanzas of the interface become those of the bridge, where they stand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Change, Keeper, Wanted, read};
use crate::error::{NetworkError, Result};

pub(super) fn keeper(root: &Path, wanted: Wanted<'_>) -> Result<Option<Keeper>> {
    let mut touched = Vec::new();
    for path in files(root) {
        let Some(before) = read(&path)? else { continue };
        let after = bridged(&before, wanted).map_err(|why| NetworkError::Uplink {
            interface: wanted.port.to_string(),
            why: format!("{}: {why}; or --until-boot", path.display()),
        })?;
        if let Some(after) = after {
            touched.push((path, before, after));
        }
    }
    let port = wanted.port;
    if touched.len() > 1 {
        // One file is replaced at once; two could be so by half when the power goes.
        let paths: Vec<_> = touched
            .iter()
            .map(|(path, ..)| path.display().to_string())
            .collect();
        return Err(NetworkError::Uplink {
            interface: port.to_string(),
            why: format!(
                "its lines are in several files, {}: put them into one",
                paths.join(" and ")
            ),
        });
    }
    Ok(touched.pop().map(|(path, before, after)| Keeper::Files {
        name: "ifupdown",
        changes: vec![Change {
            path,
            before: Some(before),
            after: Some(after),
        }],
    }))
}

fn files(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("etc/network");
    let more = std::fs::read_dir(folder.join("interfaces.d"));
    let more = more.into_iter().flatten().flatten();
    let mut more: Vec<_> = more.map(|entry| entry.path()).collect();
    more.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && !name.starts_with('.')
    });
    more.sort();
    [folder.join("interfaces")]
        .into_iter()
        .chain(more)
        .collect()
}

/// What options of a stanza begin with by which ifupdown, or a program of its, makes the interface itself: under another name it
/// would make another one.
const MAKES_IT: [&str; 6] = ["bond", "slaves", "vlan", "bridge", "wpa", "tunnel"];

/// The text with the bridge in place of the interface; none if it says nothing of it.
///
/// # Errors
/// Why it can't be said with certainty what the next boot would make of it.
fn bridged(text: &str, wanted: Wanted<'_>) -> std::result::Result<Option<String>, String> {
    let (port, bridge) = (wanted.port.as_str(), wanted.bridge.as_str());
    let mut out = String::new();
    let (mut within, mut made, mut touched) = (false, false, false);
    let mut doubt = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let begins_with = |word: &str| words.first().is_some_and(|first| first.starts_with(word));
        if line.ends_with('\\') && !begins_with("#") {
            doubt = Some("has lines that go on in the next one: write each as one line".to_owned());
        }
        if begins_with("source") && !line.contains("interfaces.d") {
            doubt = Some(
                "has its lines from other places than interfaces.d, too: put them there".to_owned(),
            );
        }
        let is_made = MAKES_IT.iter().any(|word| begins_with(word))
            || (line.contains("ip link add") && !line.contains(&format!("ip link add {bridge} ")));
        if within && is_made || words.get(..2) == Some(&["iface", port]) && port.contains('.') {
            doubt = Some(format!(
                "ifupdown makes {port} itself, by `{}`: write the bridge there by hand",
                line.trim()
            ));
        }
        match words.as_slice() {
            [word, rest @ ..] if *word == "auto" || word.starts_with("allow-") => {
                within = false;
                if !rest.contains(&port) {
                    let _ = writeln!(out, "{line}");
                    continue;
                }
                touched = true;
                let others: Vec<&str> = rest.iter().filter(|one| **one != port).copied().collect();
                if !others.is_empty() {
                    let _ = writeln!(out, "{word} {}", others.join(" "));
                }
                // Nobody plugs in a bridge.
                let _ = writeln!(out, "auto {bridge}");
            }
            ["iface", name, rest @ ..] => {
                within = *name == port;
                if !within {
                    let _ = writeln!(out, "{line}");
                    continue;
                }
                touched = true;
                let _ = writeln!(out, "iface {bridge} {}", rest.join(" "));
                if !made {
                    made = true;
                    out.push_str(&lines(wanted));
                }
            }
            [word, ..]
                if [
                    "mapping",
                    "source",
                    "source-directory",
                    "no-auto-down",
                    "no-scripts",
                    "rename",
                ]
                .contains(word) =>
            {
                within = false;
                let _ = writeln!(out, "{line}");
            }
            _ if within => {
                let _ = writeln!(out, "{}", renamed(line, port, bridge));
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    match doubt {
        _ if !touched => Ok(None),
        Some(doubt) => Err(doubt),
        None if !made => Err(format!(
            "has no `iface {port}`, only that it is set up: write both here"
        )),
        None => Ok(Some(out)),
    }
}

/// How the bridge is made before it gets its addresses; without the package `bridge-utils`, which not every host has.
fn lines(wanted: Wanted<'_>) -> String {
    let Wanted {
        bridge,
        port,
        mac,
        mtu,
        ..
    } = wanted;
    let mut text = format!(
        "    # By `stratusd network attach {port}`; `stratusd network detach {bridge}` takes it back.\n\
         \x20   pre-up ip link show dev {bridge} >/dev/null 2>&1 || ip link add {bridge} address {mac} type bridge stp_state 0\n\
         \x20   pre-up ip link set {port} up master {bridge}\n\
         \x20   pre-up echo 1 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6 || true\n"
    );
    if mtu != 1500 {
        for name in [port, bridge] {
            let _ = writeln!(text, "    pre-up ip link set {name} mtu {mtu}");
        }
    }
    let _ = writeln!(text, "    post-down ip link delete {bridge} || true");
    text
}

/// The line with another name wherever the interface is a word of its own.
fn renamed(line: &str, port: &str, bridge: &str) -> String {
    let mut out = String::new();
    for piece in line.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        match word == port {
            true => out.push_str(&piece.replacen(port, bridge, 1)),
            false => out.push_str(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::MacAddr;
    use crate::uplink::holdings::Holdings;

    #[test]
    fn its_stanzas_become_the_bridges() {
        let (bridge, port) = ("br-eth1".parse().unwrap(), "eth1".parse().unwrap());
        let holdings = Holdings::default();
        let wanted = Wanted {
            bridge: &bridge,
            port: &port,
            mac: MacAddr([0x52, 0x54, 0, 1, 2, 3]),
            mtu: 9000,
            holdings: &holdings,
        };
        let before = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n\
            auto eth0 eth1\nallow-hotplug eth1\n# The site.\niface eth1 inet static\n\taddress 192.0.2.5/24\n\
            \tgateway 192.0.2.1\n\tup ip route add 198.51.100.0/24 via 192.0.2.2 dev eth1\niface eth1 inet6 auto\n\
            iface eth10 inet manual\n\tup echo eth1\n";
        let after = bridged(before, wanted).unwrap().unwrap();
        assert_eq!(
            after,
            "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n\
            auto eth0\nauto br-eth1\nauto br-eth1\n# The site.\niface br-eth1 inet static\n\
            \x20   # By `stratusd network attach eth1`; `stratusd network detach br-eth1` takes it back.\n\
            \x20   pre-up ip link show dev br-eth1 >/dev/null 2>&1 || ip link add br-eth1 address 52:54:00:01:02:03 type bridge stp_state 0\n\
            \x20   pre-up ip link set eth1 up master br-eth1\n\
            \x20   pre-up echo 1 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6 || true\n\
            \x20   pre-up ip link set eth1 mtu 9000\n\
            \x20   pre-up ip link set br-eth1 mtu 9000\n\
            \x20   post-down ip link delete br-eth1 || true\n\
            \taddress 192.0.2.5/24\n\
            \tgateway 192.0.2.1\n\tup ip route add 198.51.100.0/24 via 192.0.2.2 dev br-eth1\niface br-eth1 inet6 auto\n\
            iface eth10 inet manual\n\tup echo eth1\n"
        );
        assert_eq!(bridged("iface eth10 inet dhcp\n", wanted), Ok(None));
        for doubtful in [
            "auto eth1\n",
            "source /etc/network/site/*\nauto eth1\niface eth1 inet dhcp\n",
            "auto eth0 \\\n  eth1\niface eth1 inet dhcp\n",
            "iface eth1 inet manual\n    bond-slaves eth2 eth3\n",
            "iface eth1 inet manual\n    vlan-raw-device eth0\n",
            "iface eth1 inet static\n    pre-up ip link add eth1 type dummy\n",
        ] {
            assert!(bridged(doubtful, wanted).is_err(), "{doubtful}");
        }
        let port = "eth0.7".parse().unwrap();
        let of_vlan = Wanted {
            port: &port,
            ..wanted
        };
        assert!(bridged("auto eth0.7\niface eth0.7 inet dhcp\n", of_vlan).is_err());
    }
}

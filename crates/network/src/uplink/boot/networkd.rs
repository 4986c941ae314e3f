//! systemd-networkd (`systemd.network(5)`): three files of our own before all others, the bridge's with what the interface's says.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Change, Keeper, Wanted, others, read};
use crate::error::{NetworkError, Result};

/// Where the daemon tells by which file it set up a link.
const LINKS: &str = "run/systemd/netif/links";
const FOLDER: &str = "etc/systemd/network";
/// What names of our files begin with: the first that matches an interface counts.
const FIRST: &str = "05-stratus";

pub(super) fn keeper(root: &Path, index: u32, wanted: Wanted<'_>) -> Result<Option<Keeper>> {
    let Some(link) = read(&root.join(LINKS).join(index.to_string()))? else {
        return Ok(None);
    };
    let value = |key: &str| {
        let mut values = link.lines().filter_map(|line| line.strip_prefix(key));
        values.next().filter(|value| !value.is_empty())
    };
    let Some(file) = value("NETWORK_FILE=") else {
        return Ok(None);
    };
    if file.contains("netplan") {
        return Ok(Some(others::netplan(wanted)));
    }
    if let Some(more) = value("NETWORK_FILE_DROPINS=") {
        return Err(NetworkError::Uplink {
            interface: wanted.port.to_string(),
            why: format!(
                "systemd-networkd sets it up by {file} with {more}: put all into that one file"
            ),
        });
    }
    let name = Path::new(file).file_name().unwrap_or_default();
    if name.to_string_lossy().as_ref() < FIRST {
        return Err(NetworkError::Uplink {
            interface: wanted.port.to_string(),
            why: format!(
                "systemd-networkd sets it up by {file}, which comes before `{FIRST}…` at the next boot: rename it to 10-…"
            ),
        });
    }
    let path = root.join(file.trim_start_matches('/'));
    let text = read(&path)?.ok_or_else(|| {
        NetworkError::file(&path)(std::io::Error::from(std::io::ErrorKind::NotFound))
    })?;
    let (bridge, port, mac, mtu) = (wanted.bridge, wanted.port, wanted.mac, wanted.mtu);
    let by = format!(
        "# By `stratusd network attach {port}`; `stratusd network detach {bridge}` takes it back.\n"
    );
    let netdev = format!(
        "{by}[NetDev]\nName={bridge}\nKind=bridge\nMACAddress={mac}\nMTUBytes={mtu}\n\n[Bridge]\nSTP=no\nForwardDelaySec=0\n"
    );
    let of_port = format!(
        "{by}[Match]\nName={port}\n\n[Link]\nMTUBytes={mtu}\n\n[Network]\nBridge={bridge}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    );
    let of_bridge = by + &matching(&text, bridge.as_str());
    let change = |name: String, after: String| -> Result<Change> {
        let path: PathBuf = root.join(FOLDER).join(name);
        let before = read(&path)?;
        Ok(Change {
            path,
            before,
            after: Some(after),
        })
    };
    // The port's last: with the others alone the interface is set up as before.
    let changes = vec![
        change(format!("{FIRST}-{bridge}.netdev"), netdev)?,
        change(format!("{FIRST}-{bridge}.network"), of_bridge)?,
        change(format!("{FIRST}-{port}-port.network"), of_port)?,
    ];
    Ok(Some(Keeper::Files {
        name: "systemd-networkd",
        changes,
    }))
}

/// The file for the interface of another name: all but its `[Match]` and what is about the device itself.
fn matching(text: &str, name: &str) -> String {
    let mut out = format!("[Match]\nName={name}\n\n");
    let mut is_left_out = false;
    for line in text.lines() {
        let section = line.trim();
        if section.starts_with('[') {
            is_left_out = section == "[Match]" || section == "[Link]";
        }
        if !is_left_out {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_what_the_interface_had() {
        let text = "[Match]\nMACAddress=52:54:00:01:02:03\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nUseDomains=yes\n";
        assert_eq!(
            matching(text, "br0"),
            "[Match]\nName=br0\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nUseDomains=yes\n"
        );
    }
}

//! The NoCloud medium: for every image with cloud-init.
//!
//! cloud-init finds it by its label and wants `meta-data` and `user-data`, both there even when empty; `network-config` is
//! version 2 (netplan's form). All are YAML, with every value in double quotes.

use std::fmt::Write as _;

use crate::guest::{Context, Nic};
use crate::medium::MediumFile;
use crate::yaml::quoted;

/// The keys let in root, as StratusLab's images always did and `stratus-connect-instance` expects; distributions would
/// allow only their own user. The user's own cloud-config ranks above this.
const VENDOR_DATA: &str = "#cloud-config\ndisable_root: false\n";

/// The files of the medium labelled [`VolumeLabel::CIDATA`](crate::iso9660::VolumeLabel::CIDATA).
#[must_use]
pub fn files(context: &Context) -> Vec<MediumFile> {
    let mut files = vec![
        MediumFile::new("meta-data", meta_data(context)),
        MediumFile::new("vendor-data", VENDOR_DATA),
        MediumFile::new(
            "user-data",
            context.user_data.clone().unwrap_or_default().into_bytes(),
        ),
    ];
    // Without cards there is nothing to configure, and an empty `ethernets` is an error to some versions.
    if !context.nics.is_empty() {
        files.push(MediumFile::new(
            "network-config",
            network_config(&context.nics),
        ));
    }
    files
}

fn meta_data(context: &Context) -> String {
    let mut text = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&context.instance_id),
        quoted(context.hostname.as_str())
    );
    // Lines that an authorized_keys file may have beside keys are no keys.
    let mut keys = context
        .public_keys
        .lines()
        .filter(|line| !line.starts_with('#'))
        .peekable();
    if keys.peek().is_some() {
        text.push_str("public-keys:\n");
        for key in keys {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  - {}", quoted(key));
        }
    }
    text
}

/// Every card by its MAC, asking DHCP; with its IPv6 address, if it has one: some systems make another one of secrets of
/// their own instead of the MAC. `set-name` makes the names those of the CONTEXT medium; without it, guests that
/// configure by name (ifupdown) would write `eth0` into a file and have `enp1s0`.
fn network_config(nics: &[Nic]) -> String {
    let mut text = String::from("version: 2\nethernets:\n");
    for (index, nic) in nics.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  eth{index}:\n    match:\n      macaddress: {}\n    set-name: \"eth{index}\"\n    dhcp4: true",
            quoted(&nic.mac.to_string())
        );
        if let Some(ipv6) = nic.ipv6 {
            let _ = writeln!(
                text,
                "    addresses:\n      - \"{}/64\"\n    routes:\n      - to: \"::/0\"\n        via: \"{}\"",
                ipv6.address, ipv6.gateway
            );
        }
        if let Some(mtu_bytes) = nic.mtu_bytes {
            let _ = writeln!(text, "    mtu: {mtu_bytes}");
        }
    }
    text
}

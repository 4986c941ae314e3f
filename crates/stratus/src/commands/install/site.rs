//! StratusLab's file of a whole cloud, `stratuslab.cfg`: what of it means something here, and what is told instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::SiteFile;
use crate::failure::{Failure, Result};

/// What a key, or all that begin so, is here. The longest that fits counts.
const MEANINGS: &[(&str, Meaning)] = &[
    ("frontend_ip", Meaning::Used),
    ("node_private_key", Meaning::Used),
    ("node_ssh_port", Meaning::Used),
    ("quarantine_period", Meaning::Used),
    ("quota_cpu", Meaning::Used),
    ("quota_memory", Meaning::Used),
    ("hypervisor", Meaning::Elsewhere("machines run by QEMU, with KVM where there is; see [machines]")),
    ("debug_level", Meaning::Elsewhere("[log] level")),
    ("one_public_network", Meaning::Elsewhere("[networks.public]: subnet, first, last; hardware addresses follow from the addresses")),
    ("one_local_network", Meaning::Elsewhere("[networks.local]")),
    ("one_private_network", Meaning::Elsewhere("[networks.private]")),
    ("default_gateway", Meaning::Elsewhere("[networks.public] gateway")),
    ("nat", Meaning::Elsewhere("[networks.…] nat")),
    ("dhcp", Meaning::Elsewhere("[networks.…]: addresses are handed out by the daemon itself")),
    ("node_bridge", Meaning::Elsewhere("[networks.…]: bridges are made by the daemon itself")),
    ("node_network_interface", Meaning::Elsewhere("[networks.…]: no interface of the host becomes part of a bridge")),
    ("proxy_port", Meaning::Elsewhere("listen")),
    ("proxy_oneadmin_password", Meaning::Elsewhere("stratus user password")),
    ("one_password", Meaning::Elsewhere("stratus user password")),
    ("whitelist", Meaning::Elsewhere("[images] policy")),
    ("blacklist", Meaning::Elsewhere("[images] policy")),
    ("certificate_authority", Meaning::Elsewhere("[certificates] authorities")),
    ("persistent_disk", Meaning::Elsewhere("[storage]: volumes are kept by the daemon itself")),
    ("openldap", Meaning::Elsewhere("[registration.ldap]: a directory that is there")),
    ("registration_ldap", Meaning::Elsewhere("[registration.ldap]")),
    ("registration_mail", Meaning::Elsewhere("[mail]")),
    ("registration", Meaning::Elsewhere("[registration]")),
    ("smtp_host", Meaning::Elsewhere("[mail] server")),
    ("marketplace_endpoint_local", Meaning::Elsewhere("[saving] marketplace, and [[catalogue]]")),
    ("built_image_validity_period", Meaning::Elsewhere("[saving] valid_days")),
    ("save_image_reply_to_email", Meaning::Elsewhere("[mail] from")),
    ("port_translation", Meaning::Elsewhere("[network] mode = \"user\", forward_ports")),
    ("pat_", Meaning::Elsewhere("[network] mode = \"user\", forward_ports")),
    ("", Meaning::Nothing),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Used,
    /// What is written instead in the daemon's configuration, or done.
    Elsewhere(&'static str),
    Nothing,
}

fn meaning(key: &str) -> Meaning {
    let fitting = MEANINGS.iter().filter(|(begin, _)| key.starts_with(begin));
    fitting.max_by_key(|(begin, _)| begin.len()).map_or(Meaning::Nothing, |(_, meaning)| *meaning)
}

/// What the file says that is not as in its reference file.
#[derive(Debug, Default)]
pub(super) struct Site {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Site {
    /// Reads the named file, or the usual one if it is there.
    pub(super) fn read(path: Option<&Path>) -> Result<Option<Self>> {
        let file = SiteFile::read(path)?;
        if !file.is_there() {
            return match path {
                Some(path) => Err(Failure::file(path, &std::io::Error::from_raw_os_error(2))),
                None => Ok(None),
            };
        }
        let changed = file.keys()?.into_iter().filter(|known| known.default.as_ref() != Some(&known.value) && !known.value.trim().is_empty());
        Ok(Some(Self { path: file.path().to_owned(), values: changed.map(|known| (known.key, known.value)).collect() }))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn wrong(&self, key: &str, problem: &str) -> Failure {
        let value = self.text(key).unwrap_or_default();
        Failure::Configuration(format!("{}: {key} = '{value}' {problem}", self.path.display()))
    }

    /// The address of the front end, if it is one for others.
    pub(super) fn frontend(&self) -> Option<&str> {
        let is_own = |text: &str| text == "localhost" || text.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        self.text("frontend_ip").filter(|text| !is_own(text))
    }

    pub(super) fn private_key(&self) -> Option<PathBuf> {
        self.text("node_private_key").map(PathBuf::from)
    }

    pub(super) fn ssh_port(&self) -> Result<Option<u16>> {
        let port = |text: &str| text.parse().map_err(|_| self.wrong("node_ssh_port", "is no port: give a number from 1 to 65535"));
        self.text("node_ssh_port").map(port).transpose()
    }

    /// A line for each key that is set and changes nothing.
    pub(super) fn what_is_not_used(&self) -> Vec<String> {
        let of_key = |key: &String| match meaning(key) {
            Meaning::Used if key == "frontend_ip" && self.frontend().is_none() => Some("is no address for others, and is not used: give that of the network".to_owned()),
            Meaning::Used => None,
            Meaning::Elsewhere(place) => Some(format!("is not used; here it is: {place}")),
            Meaning::Nothing => Some("means nothing here".to_owned()),
        };
        self.values.keys().filter_map(|key| Some(format!("{}: {key} {}", self.path.display(), of_key(key)?))).collect()
    }

    /// What the front end's daemon is told by it; none if nothing is.
    pub(super) fn daemon_configuration(&self) -> Result<Option<String>> {
        let mut text = String::new();
        if let Some(address) = self.frontend() {
            text.push_str(&format!("\n[tls]\nnames = [{}]\n", in_toml(address)));
        }
        if let Some(period) = self.text("quarantine_period") {
            let minutes = minutes(period).ok_or_else(|| self.wrong("quarantine_period", "is no time: give a number of minutes, or one with m, h or d"))?;
            text.push_str(&format!("\n[storage]\nquarantine_hours = {}\n", minutes.div_ceil(60)));
        }
        let mut limits = String::new();
        if let Some(count) = self.text("quota_cpu") {
            let count: u32 = count.parse().map_err(|_| self.wrong("quota_cpu", "is no number of processors"))?;
            limits.push_str(&format!("cpus_per_user = {count}\n"));
        }
        if let Some(size) = self.text("quota_memory") {
            let kib = kibibytes(size).ok_or_else(|| self.wrong("quota_memory", "is no size: give a number of KB, or one with KB, MB or GB"))?;
            limits.push_str(&format!("memory_gib_per_user = {}\n", kib.div_ceil(1 << 20)));
        }
        if !limits.is_empty() {
            text.push_str(&format!("\n[limits]\n{limits}"));
        }
        Ok((!text.is_empty()).then(|| format!("# From {}.\n{text}", self.path.display())))
    }
}

fn in_toml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `15m`, `2h`, `1d`, `15`.
fn minutes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let each = match unit {
        "" | "m" => 1,
        "h" => 60,
        "d" => 24 * 60,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(each)
}

/// `1GB`, `512 MB`, `1024`.
fn kibibytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let each = match &*unit.to_ascii_uppercase() {
        "" | "KB" => 1,
        "MB" => 1 << 10,
        "GB" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(each)
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(text: &str, reference: Option<&str>) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stratuslab.cfg");
        std::fs::write(&path, text).unwrap();
        if let Some(reference) = reference {
            std::fs::write(folder.path().join("stratuslab.cfg.ref"), reference).unwrap();
        }
        Site::read(Some(&path)).unwrap().unwrap()
    }

    #[test]
    fn keys_that_mean_something_become_the_daemons_configuration() {
        let site = site("[a]\nfrontend_ip = 192.0.2.1\nnode_ssh_port = 2222\n[b]\nquarantine_period = 90m\nquota_cpu = 8\nquota_memory = 1500MB\n", None);
        let text = site.daemon_configuration().unwrap().unwrap();
        assert!(text.ends_with("\n[tls]\nnames = [\"192.0.2.1\"]\n\n[storage]\nquarantine_hours = 2\n\n[limits]\ncpus_per_user = 8\nmemory_gib_per_user = 2\n"), "{text}");
        assert_eq!((site.ssh_port().unwrap(), site.frontend()), (Some(2222), Some("192.0.2.1")));
        assert!(site.what_is_not_used().is_empty());
    }

    #[test]
    fn keys_that_mean_nothing_are_told_unless_they_are_as_everywhere() {
        let reference = "[a]\nfrontend_ip = 127.0.0.1\ndhcp = False\nvnc_base_port = 5000\npersistent_disk_lvm_device = /dev/pdisk\n";
        // The program's own reference says the same.
        let unchanged = site(reference, None);
        assert!(unchanged.what_is_not_used().is_empty());
        assert_eq!(unchanged.daemon_configuration().unwrap(), None);
        let told = site("[a]\nfrontend_ip = 127.0.0.1\ndhcp = True\nvnc_base_port = 5900\npersistent_disk_lvm_device = /dev/pdisk\n", Some(reference)).what_is_not_used();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("dhcp is not used; here it is: [networks.…]"), "{told:?}");
        assert!(told[1].contains("vnc_base_port means nothing here"), "{told:?}");
        assert!(site("[a]\nfrontend_ip = 127.0.1.1\n", None).what_is_not_used()[0].contains("no address for others"));
    }

    #[test]
    fn a_value_that_can_not_be_is_named() {
        for (key, value) in [("quarantine_period", "soon"), ("quota_cpu", "-1"), ("quota_memory", "1TB")] {
            let failure = site(&format!("[a]\n{key} = {value}\n"), None).daemon_configuration().unwrap_err().to_string();
            assert!(failure.contains(key) && failure.contains(value), "{failure}");
        }
        assert!(site("[a]\nnode_ssh_port = ssh\n", None).ssh_port().is_err());
    }
}

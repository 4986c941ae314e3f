//! Forwarding of the host: switched on for the guests, and put back when the last network goes.
//!
//! That it was us is written down in a file for each family, for a later process to know, together with the boot in which it
//! happened: after another boot the system's own setting is in force, whatever we did before.
//!
//! IPv6 has a trap: an interface that has its addresses and routes from a router's advertisements (`accept_ra` 1) takes none
//! any more as soon as the host forwards, and the kernel takes the default route away at once. That would cut off the host. So
//! such interfaces are told first to take them nevertheless (2).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

use crate::error::{NetworkError, Result};
use crate::files::write_atomically;
use crate::links::Links;

/// One network at a time: two that are the first together would write one note, and one that is the last would switch off
/// what another switches on. The system's setting is one as well, so this is one for the process.
static TURN: Mutex<()> = Mutex::const_new(());

// Answered for the network namespace of the thread that opens them.
const IPV4: Family = Family {
    switch: "/proc/sys/net/ipv4/ip_forward",
    mark: "forwarding-was-off",
    name: "net.ipv4.ip_forward",
};
const IPV6: Family = Family {
    switch: "/proc/sys/net/ipv6/conf/all/forwarding",
    mark: "ipv6-forwarding-was-off",
    name: "net.ipv6.conf.all.forwarding",
};
/// Settings of each interface that there is, and of those that will be (`default`).
const IPV6_INTERFACES: &str = "/proc/sys/net/ipv6/conf";
const ACCEPT_RA: &str = "accept_ra";
const FORWARDING: &str = "forwarding";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

struct Family {
    switch: &'static str,
    /// Beside the folders of the networks, whose it is together.
    mark: &'static str,
    name: &'static str,
}

/// What is known about forwarding by the networks that have their folders beside this one.
pub(crate) struct Forwarding<'a> {
    directory: &'a Path,
}

impl<'a> Forwarding<'a> {
    /// For a network with this folder.
    pub(crate) fn of(directory: &'a Path) -> Self {
        Self { directory }
    }

    /// Switches IPv4's on if it is off, and IPv6's if the guests have that. The network has its bridge already, by which
    /// others know that forwarding is needed.
    pub(crate) async fn switch_on(&self, with_ipv6: bool) -> Result<()> {
        let _turn = TURN.lock().await;
        if !IPV4.is_on().await? {
            self.note(&IPV4, &BTreeSet::new()).await?;
            IPV4.switch("1").await?;
        }
        if with_ipv6 && !IPV6.is_on().await? {
            // Those that a process told that ended before it switched.
            let mut interfaces = self.noted(&IPV6).await?.unwrap_or_default();
            interfaces.extend(told_by_routers().await?);
            // The note first: a crash after it costs nothing.
            self.note(&IPV6, &interfaces).await?;
            for interface in &interfaces {
                let path = setting(interface, ACCEPT_RA);
                match write(&path, "2").await {
                    // It vanished meanwhile, and has no route to lose.
                    Err(_) if !path.exists() => {}
                    told => told?,
                }
            }
            IPV6.switch("1").await?;
        }
        Ok(())
    }

    /// Switches off what we switched on, unless another network on this host still needs it.
    pub(crate) async fn put_back(&self, links: &Links) -> Result<()> {
        let _turn = TURN.lock().await;
        if !links.bridges_of_stratus().await?.is_empty() {
            return Ok(());
        }
        for family in [&IPV4, &IPV6] {
            if let Some(interfaces) = self.noted(family).await? {
                if family.is_on().await? {
                    family.switch("0").await?;
                }
                for interface in interfaces {
                    // It may be gone, or be set by somebody else by now.
                    let path = setting(&interface, ACCEPT_RA);
                    if read(&path).await.is_ok_and(|value| value == "2") {
                        write(path, "1").await?;
                    }
                }
            }
            let mark = self.mark(family);
            match tokio::fs::remove_file(&mark).await {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(NetworkError::file(mark)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn mark(&self, family: &Family) -> PathBuf {
        self.directory.with_file_name(family.mark)
    }

    async fn note(&self, family: &Family, interfaces: &BTreeSet<String>) -> Result<()> {
        let mut text = read(BOOT).await?;
        for interface in interfaces {
            text.push('\n');
            text.push_str(interface);
        }
        // Whole: what is half written would say that nobody was told anything.
        write_atomically(&self.mark(family), text).await
    }

    /// That it was us in this boot, and which interfaces were told something for it.
    async fn noted(&self, family: &Family) -> Result<Option<BTreeSet<String>>> {
        let Ok(note) = tokio::fs::read_to_string(self.mark(family)).await else {
            return Ok(None);
        };
        let mut lines = note.lines().map(str::to_owned);
        let ours = lines.next() == Some(read(BOOT).await?);
        Ok(ours.then(|| lines.collect()))
    }
}

impl Family {
    async fn is_on(&self) -> Result<bool> {
        Ok(read(self.switch).await? == "1")
    }

    async fn switch(&self, value: &str) -> Result<()> {
        write(self.switch, value).await?;
        tracing::info!(
            setting = self.name,
            value,
            "set for the networks of machines; it is put back when the last one is taken down"
        );
        Ok(())
    }
}

/// Interfaces that take advertisements of routers as long as the host doesn't forward.
async fn told_by_routers() -> Result<BTreeSet<String>> {
    let wrong = |source| NetworkError::file(IPV6_INTERFACES)(source);
    let mut interfaces = BTreeSet::new();
    let mut entries = tokio::fs::read_dir(IPV6_INTERFACES).await.map_err(wrong)?;
    while let Some(entry) = entries.next_entry().await.map_err(wrong)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let takes = [(ACCEPT_RA, "1"), (FORWARDING, "0")];
        let mut all = name != "all";
        for (key, value) in takes {
            // One may vanish meanwhile.
            all = all && read(setting(&name, key)).await.is_ok_and(|is| is == value);
        }
        if all {
            interfaces.insert(name);
        }
    }
    Ok(interfaces)
}

fn setting(interface: &str, key: &str) -> PathBuf {
    Path::new(IPV6_INTERFACES).join(interface).join(key)
}

async fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(NetworkError::file(path))?;
    Ok(text.trim().to_owned())
}

async fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    tokio::fs::write(path, value)
        .await
        .map_err(NetworkError::file(path))
}

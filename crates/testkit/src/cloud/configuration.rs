//! The configuration file of a test's cloud.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// What a test's cloud has that others have not.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More lines of the configuration, before the first table.
    pub top: String,
    /// More tables of the configuration. Tables and keys that the testkit writes itself: `network`, `accounts`,
    /// `machines`, `storage`.
    pub tables: String,
    /// Where the cloud keeps its state, if not in a folder of its own.
    pub state_dir: Option<PathBuf>,
    /// Where the API listens, if not on the loopback interface alone.
    pub listen: Option<String>,
    /// This host's address for others that join.
    pub tunnel_address: Option<String>,
    /// More lines of the table `storage`.
    pub storage: String,
    /// Seconds that guests have to obey the power button.
    pub power_button_seconds: Option<u64>,
    /// MiB of disk that new machines leave free.
    pub reserve_mib: Option<u64>,
}

/// Three letters and digits, this cloud's own: names of control groups, which no namespace keeps apart, are made with them.
pub(crate) fn instance_tag() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() * 7 + COUNT.fetch_add(1, Ordering::Relaxed)) % 46_656;
    let letter = |value: u32| char::from_digit(value % 36, 36).unwrap();
    [letter(number / 1296), letter(number / 36), letter(number)]
        .iter()
        .collect()
}

pub(super) fn configuration(
    options: &Options,
    instance: &str,
    state: &Path,
    listen: &str,
    bridged: bool,
) -> String {
    let power_button = options.power_button_seconds.unwrap_or(60);
    let reserve = options.reserve_mib.unwrap_or(64);
    let network = if bridged {
        let (address, mtu) = match &options.tunnel_address {
            // What goes between hosts is longer.
            Some(address) => (address.as_str(), 1450),
            None => ("", 1500),
        };
        format!(
            r#"[network]
mode = "bridge"
dns_upstream = []
tunnel_address = "{address}"
[networks.public]
class = "public"
tag = "0"
subnet = "10.77.0.0/24"
domain = "stratus.internal"
nat = true
mtu = {mtu}
"#
        )
    } else {
        let first = 28_000 + (std::process::id() % 300) * 100;
        format!(
            "[network]\nmode = \"user\"\nforward_ports = [{first}, {}]\n",
            first + 99
        )
    };
    format!(
        r#"instance = "{instance}"
host_name = "testhost"
state_dir = "{}"
listen = "{listen}"
{}
[accounts]
password_memory_kib = 8
password_passes = 1
[machines]
power_button_seconds = {power_button}
translation_cache_mib = 64
[storage]
reserve_mib = {reserve}
{}
{network}{}
"#,
        state.display(),
        options.top,
        options.storage,
        options.tables
    )
}

//! What a guest is told, as the two media it finds it on.

use std::path::{Path, PathBuf};

use cimi::resources::{Machine, Network};
use context::{
    AuthorizedKeys, Context, ContextMethod, HostName, Ipv4Settings, Ipv6Settings, Variables,
    context_medium, iso9660, nocloud,
};
use documents::Documents;

use super::prepare::{PrepareError, host_name};

/// Writes the context medium and the NoCloud medium of a machine into its folder, in the order the guest sees them.
pub(super) fn write(
    documents: &Documents,
    machine: &Machine,
    folder: &Path,
) -> Result<Vec<PathBuf>, PrepareError> {
    let context = context_of(documents, machine)?;
    let written =
        jiff::Timestamp::from_millisecond(machine.common.created.as_millis()).unwrap_or_default();
    let media = [
        (
            "context.iso",
            iso9660::VolumeLabel::CONTEXT,
            context_medium::files(&context),
        ),
        (
            "cidata.iso",
            iso9660::VolumeLabel::CIDATA,
            nocloud::files(&context),
        ),
    ];
    let mut paths = Vec::new();
    for (name, label, files) in media {
        let bytes = iso9660::write(&label, written, &files)?;
        let path = folder.join(name);
        write_private(&path, &bytes).map_err(|source| PrepareError::File {
            path: path.clone(),
            source,
        })?;
        paths.push(path);
    }
    Ok(paths)
}

/// Media hold keys and user data: readable by the daemon alone, which hands QEMU an open descriptor.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&temporary, path)
}

fn context_of(documents: &Documents, machine: &Machine) -> Result<Context, PrepareError> {
    let mut public_keys = AuthorizedKeys::none();
    for key in &machine.context.public_keys {
        public_keys.add(key)?;
    }
    let mut variables = Variables::from_pairs(&machine.context.variables)?;
    let method = ContextMethod::from_variable(
        machine
            .context
            .variables
            .get("CONTEXT_METHOD")
            .map(String::as_str),
    );
    variables.remove("CONTEXT_METHOD");
    let user_data = machine
        .context
        .user_data
        .as_deref()
        .map(context::decoding::decode_user_data)
        .transpose()?;
    let mut nics = Vec::new();
    for nic in &machine.nics {
        let network = documents.networks.get(nic.network.local());
        let ipv4 = match (nic.ip, network.as_deref()) {
            (std::net::IpAddr::V4(ip), Some(network)) => Some(settings_of(ip, network)?),
            _ => None,
        };
        let mac: network::MacAddr = nic.mac.parse().map_err(PrepareError::Mac)?;
        let ipv6 = network
            .as_deref()
            .map(|network| ipv6_settings_of(mac, network));
        let mtu_bytes = network.as_deref().and_then(|network| network.mtu);
        nics.push(context::Nic {
            mac: context::MacAddress(mac.octets()),
            ipv4,
            ipv6: ipv6.transpose()?.flatten(),
            mtu_bytes,
        });
    }
    let hostname: HostName = host_name(machine).parse()?;
    Ok(Context {
        vmid: machine.vmid.0.into(),
        machine_name: machine.display_name(),
        instance_id: machine.id.local().to_owned(),
        hostname,
        method,
        public_keys,
        variables,
        user_data,
        nics,
    })
}

fn ipv6_settings_of(
    mac: network::MacAddr,
    network: &Network,
) -> Result<Option<Ipv6Settings>, PrepareError> {
    let Some(text) = &network.subnet6 else {
        return Ok(None);
    };
    let prefix: network::Ipv6Prefix = text.parse().map_err(PrepareError::Mac)?;
    Ok(Some(Ipv6Settings {
        address: prefix.address_of(mac),
        gateway: prefix.gateway(),
    }))
}

fn settings_of(ip: std::net::Ipv4Addr, network: &Network) -> Result<Ipv4Settings, PrepareError> {
    let subnet: network::Ipv4Network = network.subnet.parse().map_err(PrepareError::Mac)?;
    let mut settings = Ipv4Settings::new(ip, subnet.prefix_len())?;
    settings.gateway = Some(network.gateway);
    settings.name_servers = if network.name_servers.is_empty() {
        vec![network.gateway]
    } else {
        network.name_servers.clone()
    };
    settings.domain = network.domain.parse().ok();
    Ok(settings)
}

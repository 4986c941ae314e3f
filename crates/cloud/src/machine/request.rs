//! What a creation of a machine says, once its references are resolved.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use cimi::{
    ids::MachineConfigurationId,
    lifecycle::RestartPolicy,
    resources::{
        ConfigurationDisk, Credential, MachineConfiguration, MachineTemplate, Network, NetworkPort,
        NetworkState, Placement, Resource as _, VolumeConfiguration, VolumeImage,
    },
};
use documents::Cached;
use placement::{Means, Rank, Requirements};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Cloud, CloudError, OpContext, Result, error::unreadable, network, resolve};

const TEMPLATE: &str = "machineTemplate";
/// The keyboard layouts that QEMU comes with (`pc-bios/keymaps`).
const KEYMAPS: [&str; 34] = [
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr",
    "fr-be", "fr-ca", "fr-ch", "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "no", "pl",
    "pt", "pt-br", "ru", "sl", "sv", "th", "tr",
];
/// Most groups of each kind that a machine may be in.
const MOST_GROUPS: usize = 8;

/// The wrapper: MachineCreate.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MachineCreate {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) properties: BTreeMap<String, String>,
    pub(super) machine_template: Map<String, Value>,
}

/// What a template holds beside the parts that may be references themselves.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Template {
    pub(super) initial_state: Option<String>,
    pub(super) machine_config: Option<Map<String, Value>>,
    pub(super) machine_image: Option<Map<String, Value>>,
    pub(super) credential: Option<Map<String, Value>>,
    #[serde(default)]
    network_interfaces: Vec<InterfaceRequest>,
    #[serde(default)]
    pub(super) volumes: Vec<Map<String, Value>>,
    #[serde(default)]
    volume_templates: Vec<Map<String, Value>>,
    pub(super) user_data: Option<String>,
    #[serde(default)]
    pub(super) context: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) read_only_disks: Vec<Map<String, Value>>,
    pub(super) cpu_model: Option<String>,
    pub(super) keymap: Option<String>,
    pub(super) cpu_share: Option<Value>,
    pub(super) requirements: Option<String>,
    rank: Option<String>,
    #[serde(default)]
    placement_together: Vec<String>,
    #[serde(default)]
    placement_apart: Vec<String>,
    pub(super) restart_policy: Option<RestartPolicy>,
    #[serde(default)]
    pub(super) security_groups: Vec<Map<String, Value>>,
    pub(super) save: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceRequest {
    network: Option<Map<String, Value>>,
    network_port: Option<Map<String, Value>>,
    #[serde(default)]
    addresses: Vec<Map<String, Value>>,
    model: Option<String>,
    network_type: Option<String>,
    mtu: Option<u64>,
}

/// A network interface wanted.
#[derive(Debug)]
pub(super) struct Interface {
    /// Name of the network.
    pub(super) network: String,
    /// A certain address.
    pub(super) ip: Option<IpAddr>,
    /// Device model.
    pub(super) model: Option<String>,
    /// The port it is plugged into, by the part of its id after the slash.
    pub(super) port: Option<String>,
}

/// A volume to be made together with a machine.
#[derive(Debug)]
pub(super) struct NewVolume {
    pub(super) capacity_kb: u64,
    /// Where the guest should see it; a wish.
    pub(super) location: Option<String>,
    /// What it begins as; none: empty.
    pub(super) origin: Option<Arc<Cached<VolumeImage>>>,
}

/// The size of a machine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Size {
    pub(super) cpu: u32,
    pub(super) memory: u64,
    #[serde(default)]
    pub(super) disks: Vec<ConfigurationDisk>,
}

impl MachineCreate {
    pub(super) fn parse(body: Map<String, Value>) -> Result<Self> {
        typed(body, "")
    }

    /// The template with what it refers to put in.
    pub(super) fn template(&mut self, cloud: &Cloud, context: &OpContext) -> Result<Template> {
        let given = std::mem::take(&mut self.machine_template);
        typed(
            resolve::resolve::<MachineTemplate>(&cloud.0.documents, context, given, TEMPLATE)?,
            TEMPLATE,
        )
    }
}

impl Template {
    /// What its machine needs of the cloud's storage itself.
    pub(super) fn needs(&self) -> Means {
        Means {
            volumes: !self.volumes.is_empty() || !self.volume_templates.is_empty(),
            saving: self.save.is_some(),
            ..Means::default()
        }
    }

    /// The keyboard layout of its screen, which QEMU must have.
    pub(super) fn check_keymap(&self) -> Result<()> {
        match self.keymap.as_deref() {
            Some(keymap) if !KEYMAPS.contains(&keymap) => Err(CloudError::invalid(
                format!("{TEMPLATE}.keymap"),
                format!(
                    "`{keymap}` is no keyboard layout; there are {}",
                    KEYMAPS.join(", ")
                ),
            )),
            _ => Ok(()),
        }
    }

    /// What it wishes of the host, checked.
    pub(super) fn placement(&self) -> Result<Placement> {
        let path = |name: &str| format!("{TEMPLATE}.{name}");
        if let Some(text) = &self.requirements {
            Requirements::parse(text)
                .map_err(|error| CloudError::invalid(path("requirements"), error.to_string()))?;
        }
        if let Some(text) = &self.rank {
            Rank::parse(text)
                .map_err(|error| CloudError::invalid(path("rank"), error.to_string()))?;
        }
        for (name, groups) in [
            ("placementTogether", &self.placement_together),
            ("placementApart", &self.placement_apart),
        ] {
            if groups.len() > MOST_GROUPS {
                let text = format!(
                    "names {} groups; at most {MOST_GROUPS} are possible",
                    groups.len()
                );
                return Err(CloudError::invalid(path(name), text));
            }
        }
        Ok(Placement {
            rank: self.rank.clone(),
            together: self.placement_together.clone(),
            apart: self.placement_apart.clone(),
        })
    }

    /// The size asked for, by value or by reference, or that of the default type.
    pub(super) fn size(&self, cloud: &Cloud, context: &OpContext) -> Result<Size> {
        let path = "machineTemplate.machineConfig";
        let given = match &self.machine_config {
            Some(given) => given.clone(),
            None => {
                let default = &cloud.0.settings.default_machine_type;
                let reference = format!("{}/{default}", MachineConfigurationId::COLLECTION);
                Map::from_iter([("href".to_owned(), Value::from(reference))])
            }
        };
        typed(
            resolve::resolve::<MachineConfiguration>(&cloud.0.documents, context, given, path)?,
            path,
        )
    }

    /// The SSH keys of the credential, by value or by reference.
    pub(super) fn credential_key(
        &self,
        cloud: &Cloud,
        context: &OpContext,
    ) -> Result<Option<String>> {
        let path = "machineTemplate.credential";
        let Some(given) = self.credential.clone() else {
            return Ok(None);
        };
        let credential = resolve::resolve::<Credential>(&cloud.0.documents, context, given, path)?;
        match credential.get("publicKey").and_then(Value::as_str) {
            Some(key) => Ok(Some(key.to_owned())),
            None => Err(CloudError::invalid(
                path,
                "has no `publicKey`; machines accept SSH public keys only",
            )),
        }
    }

    /// The interfaces asked for; one on the default network if none is.
    pub(super) fn interfaces(&self, cloud: &Cloud, context: &OpContext) -> Result<Vec<Interface>> {
        if self.network_interfaces.is_empty() {
            return Ok(vec![Interface {
                network: cloud.0.settings.default_network.clone(),
                ip: None,
                model: None,
                port: None,
            }]);
        }
        self.network_interfaces
            .iter()
            .enumerate()
            .map(|(number, request)| {
                let path = format!("machineTemplate.networkInterfaces[{number}]");
                request.interface(cloud, context, &path)
            })
            .collect()
    }

    /// The volumes to be made for the machine.
    pub(super) fn new_volumes(&self, cloud: &Cloud, context: &OpContext) -> Result<Vec<NewVolume>> {
        let path = "machineTemplate.volumeTemplates";
        let documents = &cloud.0.documents;
        let one = |entry: &Map<String, Value>| {
            let location = entry
                .get("initialLocation")
                .and_then(Value::as_str)
                .map(str::to_owned);
            // Nested as in the standard, or flattened as some clients write it.
            let given = match entry.get("volumeTemplate") {
                Some(Value::Object(nested)) => nested.clone(),
                _ => entry.clone(),
            };
            let template = resolve::resolve::<cimi::resources::VolumeTemplate>(
                documents, context, given, path,
            )?;
            let capacity_kb =
                crate::volume::configured_capacity(documents, context, &template, path)?;
            let origin = cloud.origin_of(context, &template, capacity_kb, path)?;
            Ok(NewVolume {
                capacity_kb,
                location,
                origin,
            })
        };
        self.volume_templates.iter().map(one).collect()
    }
}

impl InterfaceRequest {
    fn interface(&self, cloud: &Cloud, context: &OpContext, path: &str) -> Result<Interface> {
        let port = self.port(cloud, context, path)?;
        let name = match &port {
            Some(port) => self.network_of(port, path)?,
            None => self.network_name(cloud, context, path)?,
        };
        let network = cloud.usable_network(context, &name)?;
        let type_path = format!("{path}.networkType");
        if let Some(wanted) = &self.network_type
            && wanted != network::network_type(&network)
        {
            let has = network::network_type(&network);
            return Err(CloudError::invalid(
                type_path,
                format!("is {wanted}, but network {name} is {has}"),
            ));
        }
        if let Some(wanted) = self.mtu
            && wanted != u64::from(network::mtu(&network))
        {
            let has = network::mtu(&network);
            return Err(CloudError::invalid(
                format!("{path}.mtu"),
                format!("is the network's to say: {name} has {has}; leave it out"),
            ));
        }
        let ip = match self.addresses.as_slice() {
            [] => None,
            [one] => Some(address(one, &name)?),
            _ => {
                return Err(CloudError::invalid(
                    format!("{path}.addresses"),
                    "may hold one address",
                ));
            }
        };
        Ok(Interface {
            network: name,
            ip,
            model: self.model.clone(),
            port: port.map(|port| port.local_id().to_owned()),
        })
    }

    /// The port referred to, if one is.
    fn port(
        &self,
        cloud: &Cloud,
        context: &OpContext,
        path: &str,
    ) -> Result<Option<Arc<Cached<NetworkPort>>>> {
        let Some(reference) = &self.network_port else {
            return Ok(None);
        };
        let path = format!("{path}.networkPort");
        let href = resolve::href_of(reference)
            .ok_or_else(|| CloudError::invalid(path.clone(), "must be a reference"))?;
        let local = resolve::local_part::<NetworkPort>(href, &path)?;
        cloud.free_port(context, local, &path).map(Some)
    }

    /// The network of its port; one that is named beside it must be the same.
    fn network_of(&self, port: &NetworkPort, path: &str) -> Result<String> {
        let name = port.network.href.local();
        if let Some(href) = self.network.as_ref().and_then(resolve::href_of) {
            let path = format!("{path}.network");
            if resolve::local_part::<Network>(href, &path)? != name {
                let problem = format!("is `{href}`, but {} is in {}", port.id, port.network.href);
                return Err(CloudError::invalid(path, problem));
            }
        }
        Ok(name.to_owned())
    }

    /// The network referred to; else the default one, or the first of the type asked for.
    fn network_name(&self, cloud: &Cloud, context: &OpContext, path: &str) -> Result<String> {
        if let Some(reference) = &self.network {
            let path = format!("{path}.network");
            let href = resolve::href_of(reference)
                .ok_or_else(|| CloudError::invalid(path.clone(), "must be a reference"))?;
            return Ok(resolve::local_part::<Network>(href, &path)?.to_owned());
        }
        let default = &cloud.0.settings.default_network;
        let Some(wanted) = &self.network_type else {
            return Ok(default.clone());
        };
        let documents = &cloud.0.documents;
        let mut fitting = documents.readable::<Network>(context.user(), context.roles());
        fitting.retain(|network| {
            network.state == NetworkState::Started && network::network_type(network) == wanted
        });
        fitting.sort_by_key(|network| network.document.id.local() != default);
        let first = fitting.first().map(|network| network.id().to_owned());
        first.ok_or_else(|| {
            CloudError::invalid(
                format!("{path}.networkType"),
                format!("is {wanted}, and there is no such network"),
            )
        })
    }
}

/// The address in `{"ip": …}`, or in a reference to `Address/<network>.<ip>`.
fn address(given: &Map<String, Value>, network: &str) -> Result<IpAddr> {
    let path = "machineTemplate.networkInterfaces.addresses";
    let text = match (
        given.get("ip").and_then(Value::as_str),
        resolve::href_of(given),
    ) {
        (Some(ip), _) => ip,
        (None, Some(href)) => resolve::local_part::<cimi::resources::Address>(href, path)?
            .strip_prefix(&format!("{network}."))
            .ok_or_else(|| {
                CloudError::invalid(path, format!("`{href}` is not in network {network}"))
            })?,
        (None, None) => return Err(CloudError::invalid(path, "needs `ip`")),
    };
    text.parse()
        .map_err(|_| CloudError::invalid(path, format!("`{text}` is not an address")))
}

/// Reads a checked object into a type of ours.
pub(crate) fn typed<T: DeserializeOwned>(object: Map<String, Value>, path: &str) -> Result<T> {
    serde_json::from_value(Value::Object(object)).map_err(|error| unreadable(path, &error))
}

/// The volume referred to by `{"volume": {"href": …}}`, or flattened `{"href": …}`.
pub(super) fn volume_reference(entry: &Map<String, Value>, path: &str) -> Result<String> {
    let reference = match entry.get("volume") {
        Some(Value::Object(nested)) => resolve::href_of(nested),
        Some(Value::String(href)) => Some(href.as_str()),
        _ => resolve::href_of(entry),
    };
    let href = reference
        .ok_or_else(|| CloudError::invalid(path, "needs `volume`: {\"href\": \"Volume/…\"}"))?;
    Ok(resolve::local_part::<cimi::resources::Volume>(href, path)?.to_owned())
}

/// The capacity of a volume configuration, by value or by reference.
pub(crate) fn configuration_capacity(
    documents: &documents::Documents,
    context: &OpContext,
    given: Map<String, Value>,
    path: &str,
) -> Result<u64> {
    let configuration = resolve::resolve::<VolumeConfiguration>(documents, context, given, path)?;
    if let Some(format) = configuration.get("format").and_then(Value::as_str)
        && format != "raw"
    {
        return Err(CloudError::invalid(
            format!("{path}.format"),
            format!("`{format}` is not made here; volumes are `raw`, format them in a machine"),
        ));
    }
    configuration
        .get("capacity")
        .and_then(Value::as_u64)
        .filter(|kb| *kb > 0)
        .ok_or_else(|| {
            CloudError::invalid(format!("{path}.capacity"), "must be a number of kB above 0")
        })
}

//! The cloud's documents as far as commands look at them. Members that are missing are no fault: a view shows what there is.

use serde::Deserialize;
use serde_json::Value;

/// `{"href": …}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// The resource referred to.
    pub href: String,
}

/// Where a machine answers SSH.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct Ssh {
    /// Address or host name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A Machine, or the record of one that is gone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineView {
    /// `Machine/<uuid>`.
    pub id: String,
    /// Its number.
    pub vmid: Option<u64>,
    /// Its name.
    pub name: Option<String>,
    /// What the commands show as its state.
    pub phase: Option<String>,
    /// CIMI's state.
    pub state: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// CPUs.
    pub cpu: Option<u64>,
    /// Memory, KiB.
    pub memory: Option<u64>,
    /// Memory in use, KiB.
    pub memory_used: Option<u64>,
    /// CPU use of the last seconds.
    pub cpu_percent: Option<f64>,
    /// Addresses, in the order of the interfaces.
    pub addresses: Vec<String>,
    /// IPv6 addresses, of the interfaces that have one.
    pub addresses6: Vec<String>,
    /// Names of their networks.
    pub networks: Vec<String>,
    /// Where it answers SSH.
    pub ssh: Option<Ssh>,
    /// Whose it is.
    pub owner: Option<String>,
    /// The host it runs on.
    pub hostname: Option<String>,
    /// The image it was started from.
    pub image_identifier: Option<String>,
    /// The same, as a resource.
    pub machine_image: Option<Reference>,
}

impl MachineView {
    /// The state as shown.
    #[must_use]
    pub fn shown_state(&self) -> &str {
        self.phase
            .as_deref()
            .or(self.state.as_deref())
            .unwrap_or("Unknown")
    }

    /// The number as shown.
    #[must_use]
    pub fn shown_id(&self) -> String {
        self.vmid.map_or_else(
            || self.id.trim_start_matches("Machine/").to_owned(),
            |vmid| vmid.to_string(),
        )
    }

    /// The last interface's address.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.addresses.last().map(String::as_str)
    }

    /// Where it answers SSH, once that is known: a forwarded port is chosen when the machine is started.
    #[must_use]
    pub fn ssh_place(&self) -> Option<Ssh> {
        self.ssh
            .clone()
            .filter(|ssh| !ssh.host.is_empty() && ssh.port != 0)
    }
}

/// A Volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeView {
    /// `Volume/<uuid>`.
    pub id: String,
    /// Its tag.
    pub name: Option<String>,
    /// Its state.
    pub state: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// GiB.
    pub size: Option<u64>,
    /// Bytes.
    pub size_bytes: Option<u64>,
    /// `PRIVATE` or `PUBLIC`.
    pub visibility: Option<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// How many machines have it.
    pub count: Option<u64>,
    /// The machine that has it.
    pub attached_to: Option<Reference>,
    /// Free text of the owner, and the type that StratusLab's tools give.
    pub properties: std::collections::BTreeMap<String, String>,
}

impl VolumeView {
    /// The UUID alone.
    #[must_use]
    pub fn uuid(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or_default()
    }
}

/// A MachineImage.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ImageView {
    /// `MachineImage/<uuid>`.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Its state.
    pub state: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// Its 27 characters.
    pub identifier: Option<String>,
    /// `IMAGE` or `FILE`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `raw` or `qcow2`.
    pub format: Option<String>,
    /// Bytes that a machine sees.
    pub virtual_size: Option<u64>,
    /// The kernel that it boots with directly.
    pub kernel: Option<Reference>,
    /// The RAM disk of that kernel.
    pub initrd: Option<Reference>,
    /// Its arguments.
    pub kernel_arguments: Option<String>,
    /// Percent of the import.
    pub progress: Option<f64>,
    /// `PRIVATE` or `PUBLIC`.
    pub visibility: Option<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// Where it is from: `catalogue:NAME:PRODUCT@VERSION` of one that the cloud keeps of a catalogue.
    pub image_location: Option<String>,
    /// When it was made.
    pub created: Option<String>,
}

impl ImageView {
    /// Whether the cloud keeps it of the catalogue that a name such as `CATALOGUE:PRODUCT` begins with. Several versions of one
    /// product have its name; which of them is meant is for the catalogue to say.
    #[must_use]
    pub fn is_product_of(&self, name: &str) -> bool {
        let location = self.image_location.as_deref();
        let product = location.and_then(|location| location.strip_prefix("catalogue:"));
        match (product, name.split_once(':')) {
            (Some(product), Some((catalogue, _))) => product
                .split_once(':')
                .is_some_and(|(of, _)| of == catalogue),
            _ => false,
        }
    }

    /// How far it is, while it is being fetched.
    #[must_use]
    pub fn on_its_way(&self) -> String {
        match &self.reason {
            Some(reason) => format!("waiting for the image: {reason}"),
            None => format!("fetching the image: {:.0} %", self.progress.unwrap_or(0.0)),
        }
    }
}

impl ImageView {
    /// Whether it can't be used any more.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state.as_deref() == Some("ERROR")
    }

    /// Why it can't be used.
    #[must_use]
    pub fn why_failed(&self) -> &str {
        let reason = self.reason.as_deref();
        reason.unwrap_or("the cloud gives no reason")
    }

    /// Why it isn't here yet, if something is in the way.
    #[must_use]
    pub fn why_not_here(&self) -> Option<&str> {
        let is_coming = self.state.as_deref() == Some("CREATING");
        self.reason.as_deref().filter(|_| is_coming)
    }

    /// What stands for its content: the identifier, or its own path where that is not known.
    #[must_use]
    pub fn content(&self) -> &str {
        self.identifier.as_deref().unwrap_or(&self.id)
    }
}

/// A User.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UserView {
    /// `User/<uuid>`.
    pub id: String,
    /// The name to log in with.
    pub username: Option<String>,
    /// Roles.
    pub roles: Value,
    /// Whether the user may log in.
    pub enabled: Option<bool>,
    /// Mail address.
    pub email: Option<String>,
}

impl UserView {
    /// Roles separated by commas, whether they came as a list or as text.
    #[must_use]
    pub fn shown_roles(&self) -> String {
        text_of(&self.roles)
    }
}

/// A Group.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupView {
    /// Its name in access lists.
    pub groupname: String,
    /// What it is for.
    pub description: Option<String>,
    /// Names of the users who are in it.
    pub members: Vec<String>,
    /// The most that they may have together.
    pub quota: serde_json::Map<String, Value>,
    /// What they have.
    pub used: serde_json::Map<String, Value>,
}

/// A Token.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenView {
    /// `Token/<uuid>`.
    pub id: String,
    /// The token itself; in the answer to its creation only.
    pub token: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
    /// What it is for.
    pub name: Option<String>,
    /// `full` or `read-only`.
    pub scope: Option<String>,
    /// The types of resources that it is for; empty: for everything.
    #[serde(default)]
    pub types: Vec<String>,
    /// When it ends.
    pub expires: Option<String>,
    /// When it was last used.
    pub last_used: Option<String>,
    /// From where.
    pub last_address: Option<String>,
}

impl TokenView {
    /// The part of its id after the slash.
    #[must_use]
    pub fn local_id(&self) -> &str {
        self.id.strip_prefix("Token/").unwrap_or(&self.id)
    }
}

/// A Host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostView {
    /// `Host/<uuid>`.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Its state.
    pub state: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// A value as a person would write it.
#[must_use]
pub fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text_of).collect::<Vec<_>>().join(","),
        Value::Object(members) if members.len() == 1 => members.values().map(text_of).collect(),
        other => other.to_string(),
    }
}

//! The document that asks for a machine.

use std::path::Path;

use context::Variables;
use context::encoding::{encode_cloud_init, parse_cloud_init_option, parse_context_file, parse_context_option, public_key_value};
use serde_json::{Map, Value, json};

use super::{Arguments, Context};
use crate::cloud::Api;
use crate::commands::image_name::{BootsFrom, bootable, startable};
use crate::commands::security_group::group_named;
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result};
use crate::machine_types::MachineType;
use crate::memory_size::{Gigabytes, Megabytes};
use crate::public_keys::{KEY_HINT, public_key_file, public_key_text};
use crate::session::Session;

const MIB: u64 = 1 << 20;

/// Kilobytes of 1000 bytes, as CIMI counts disks; rounded up.
fn kilobytes(mib: u64) -> u64 {
    mib.saturating_mul(MIB).div_ceil(1000)
}

impl Arguments {
    /// The MachineCreate document.
    pub(super) async fn body(&self, session: &Session, api: &Api, image: &str, kind: &MachineType) -> Result<Value> {
        let settings = &session.settings;
        let text = |given: &Option<String>, key: &str| settings.text(given.as_deref(), key);
        let mut template = Map::new();

        let cpu = settings.parsed(self.cpu, "vm_cpu", "a whole number")?.unwrap_or(kind.cpu);
        let in_mb = |given: Option<Megabytes>, key: &str| settings.parsed(given, key, "a number of MB");
        let ram_mib = in_mb(self.ram, "vm_ram")?.map_or(kind.ram_mib, |Megabytes(mib)| mib);
        let swap_mib = in_mb(self.swap, "vm_swap")?.map_or(kind.swap_mib, |Megabytes(mib)| mib);
        let mut disks = Vec::new();
        if swap_mib > 0 {
            disks.push(json!({ "capacity": kilobytes(swap_mib), "format": "swap" }));
        }
        let volatile_mib = match self.disks.volatile_disk {
            Some(Gigabytes(mib)) => Some(mib),
            None => in_mb(None, "extra_disk_size")?.map(|Megabytes(mib)| mib),
        };
        if let Some(mib) = volatile_mib.filter(|mib| *mib > 0) {
            disks.push(json!({ "capacity": kilobytes(mib), "format": "raw" }));
        }
        template.insert("machineConfig".to_owned(), json!({ "cpu": cpu, "memory": ram_mib.saturating_mul(1024), "disks": disks }));

        let share = settings.parsed(self.vm_cpu_amount, "vm_cpu_amount", "a number")?;
        if let Some(share) = share.filter(|share| *share <= f64::from(cpu)) {
            template.insert("cpuShare".to_owned(), json!(share));
        }
        if let Some(bus) = text(&self.disks.vm_disks_bus, "vm_disks_bus")
            && !["ide", "scsi", "virtio"].contains(&bus.as_str())
        {
            return Err(Failure::Value(format!("Unknown disks bus type {bus}")));
        }
        let saved = settings.switch(self.saving.save, "save_disk");
        let mut volumes = Vec::new();
        // What becomes an image is written to a disk of the machine's own.
        match if saved { BootsFrom::Image(startable(session, api, image).await?) } else { bootable(session, api, image).await? } {
            BootsFrom::Image(href) => {
                template.insert("machineImage".to_owned(), json!({ "href": href }));
            }
            BootsFrom::Volume(uuid) => volumes.push(volume_entry(&uuid)),
        }
        template.insert("networkInterfaces".to_owned(), json!([self.interface(session)]));
        template.insert("initialState".to_owned(), json!("STARTED"));

        if let Some(volume) = &self.disks.persistent_disk {
            let uuid = volume_uuid(volume).ok_or_else(|| Failure::Check(format!("Invalid UUID {volume}")))?;
            volumes.push(volume_entry(&uuid));
        }
        if !volumes.is_empty() {
            template.insert("volumes".to_owned(), json!(volumes));
        }
        if let Some(id) = text(&self.disks.readonly_disk, "readonly_disk_id") {
            let href = startable(session, api, &id).await?;
            template.insert("readOnlyDisks".to_owned(), json!([{ "href": href }]));
        }
        for (name, value) in [
            ("keymap", text(&self.rare.keymap, "keymap")),
            ("requirements", text(&self.rare.vm_requirements, "vm_requirements")),
            ("rank", text(&self.rare.vm_rank, "vm_rank")),
            ("restartPolicy", text(&self.restart_policy, "restart_policy")),
            ("cpuModel", settings.switch(self.rare.use_host_cpu, "use_host_cpu").then(|| "host".to_owned())),
        ] {
            template.extend(value.map(|value| (name.to_owned(), json!(value))));
        }

        for (name, groups) in [("placementTogether", &self.rare.together), ("placementApart", &self.rare.apart)] {
            if !groups.is_empty() {
                template.insert(name.to_owned(), json!(groups));
            }
        }

        let mut security_groups = Vec::new();
        for named in &self.network.security_group {
            let id = group_named(api, named).await?;
            security_groups.push(json!({ "href": format!("SecurityGroup/{id}") }));
        }
        if !security_groups.is_empty() {
            template.insert("securityGroups".to_owned(), json!(security_groups));
        }

        let key_file = public_key_file(settings, self.key.as_deref());
        let key_text = public_key_text(&key_file)?;
        let shown = key_file.display().to_string();
        let key = public_key_value(&key_text, &shown).map_err(|error| Failure::Work(error.to_string()))?;
        context::check_public_keys(&key_text).map_err(|error| Failure::Work(format!("'{shown}': {error}")).with_hint(KEY_HINT))?;
        template.insert("credential".to_owned(), json!({ "publicKey": key }));
        let variables = variables(session, &self.context, &shown)?;
        if !variables.is_empty() {
            let variables: Map<String, Value> = variables.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            template.insert("context".to_owned(), Value::Object(variables));
        }

        if saved {
            template.insert("save".to_owned(), self.saving.template(session));
        }
        let mut body = json!({ "resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate", "machineTemplate": template });
        if let Some(name) = text(&self.vm_name, "vm_name").or_else(|| saved.then(super::saving::creator_name)) {
            body["name"] = json!(name);
        }
        Ok(body)
    }

    fn interface(&self, session: &Session) -> Value {
        let settings = &session.settings;
        let network = if settings.switch(self.network.local_ip, "is_local_ip") {
            "local"
        } else if settings.switch(self.network.private_ip, "is_private_ip") {
            "private"
        } else {
            "public"
        };
        let mut interface = json!({ "network": { "href": format!("Network/{network}") } });
        if let Some(address) = settings.text(self.network.address.as_deref(), "specific_address_request") {
            interface["addresses"] = json!([{ "ip": address }]);
        }
        if let Some(model) = settings.text(self.network.vm_network_model.as_deref(), "vm_network_model") {
            interface["model"] = json!(model);
        }
        interface
    }
}

fn volume_entry(uuid: &str) -> Value {
    json!({ "volume": { "href": format!("Volume/{uuid}") } })
}

/// The context variables: of the file, of the option, then cloud-init's; later ones win.
fn variables(session: &Session, options: &Context, key_file: &str) -> Result<Variables> {
    let settings = &session.settings;
    let parse_failure = |error: context::ContextError| Failure::Check(error.to_string());
    let work_failure = |error: context::ContextError| Failure::Work(error.to_string());
    let mut variables = Variables::new();
    if let Some(file) = settings.text(options.context_file.as_deref().and_then(Path::to_str), "extra_context_file") {
        let path = Path::new(&file);
        let text = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
        variables.extend(parse_context_file(&String::from_utf8_lossy(&text)).map_err(parse_failure)?).map_err(parse_failure)?;
    }
    if let Some(text) = settings.text(options.context.as_deref(), "extra_context_data") {
        variables.extend(parse_context_option(&text).map_err(parse_failure)?).map_err(parse_failure)?;
    }
    let method = settings.text(options.context_method.as_deref(), "default_context_method");
    let pairs = settings.text(options.cloud_init.as_deref(), "cloud_init");
    if pairs.is_some() || method.as_deref() == Some("cloud-init") {
        let pairs = parse_cloud_init_option(pairs.as_deref().unwrap_or_default()).map_err(work_failure)?;
        let cloud_init = encode_cloud_init(&pairs, Some(key_file), |path| std::fs::read(path)).map_err(work_failure)?;
        variables.extend(cloud_init.variables().map_err(work_failure)?).map_err(work_failure)?;
    } else if let Some(method) = method {
        variables.set(context::encoding::CONTEXT_METHOD, method).map_err(work_failure)?;
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_never_smaller_than_asked_for() {
        assert_eq!(kilobytes(1536), 1_610_613);
        assert_eq!(kilobytes(u64::MAX), u64::MAX.div_ceil(1000));
    }
}

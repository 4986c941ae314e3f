//! What is asked of a new machine, checked and resolved, before anything is written.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use cimi::{
    Acl, Right,
    resources::{ContextData, Disk, DiskRole, Image, ImageState, Placement, Save, local_bytes},
    size::ByteSize,
};
use context::{AuthorizedKeys, ContextError, Variables, decoding};
use documents::Cached;
use placement::{Demand, Means};
use serde_json::{Map, Value};
use store::Revision;

use super::super::{
    request::{Interface, MachineCreate, NewVolume, Size, Template, volume_reference},
    save::save_of,
};
use crate::{Cloud, CloudError, OpContext, Result, quota::Measure, resolve};

const MACHINE_IMAGE: &str = "machineTemplate.machineImage";
/// Most disks of one machine, volumes included (StratusLab: ten data disks).
const MOST_DISKS: usize = 12;
/// Most interfaces of one machine.
const MOST_INTERFACES: usize = 4;
/// Least memory that makes sense, in KiB.
const LEAST_MEMORY_KIB: u64 = 16 * 1024;

/// Everything a new machine needs that doesn't change from attempt to attempt.
pub(super) struct Plan {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) acl: Acl,
    /// What it was made from is at most as new as this.
    pub(super) as_of: Revision,
    pub(super) template_href: Option<String>,
    pub(super) size: Size,
    /// Guaranteed processor time in hundredths of one CPU.
    pub(super) share_percent: Option<u32>,
    pub(super) placement: Placement,
    pub(super) template: Template,
    /// None: it boots from its first volume.
    pub(super) image: Option<Arc<Cached<Image>>>,
    pub(super) context: ContextData,
    pub(super) disks: Vec<Disk>,
    pub(super) interfaces: Vec<Interface>,
    /// How many of these get addresses that the user keeps, and so has already.
    pub(super) kept_addresses: usize,
    pub(super) save: Option<Save>,
    pub(super) new_volumes: Vec<NewVolume>,
}

impl Plan {
    /// What it adds to what the user has.
    pub(super) fn amounts(&self) -> [(Measure, u64); 7] {
        let volumes = self.new_volumes.iter();
        let space = volumes.map(|new| ByteSize::from_capacity_kb(new.capacity_kb).0);
        [
            (Measure::Machines, 1),
            (Measure::Cpus, self.size.cpu.into()),
            (Measure::Memory, self.size.memory),
            (Measure::LocalSpace, local_bytes(&self.disks)),
            (Measure::Volumes, self.new_volumes.len() as u64),
            (Measure::VolumeSpace, space.fold(0, u64::saturating_add)),
            (
                Measure::Addresses,
                self.interfaces.len().saturating_sub(self.kept_addresses) as u64,
            ),
        ]
    }
}

impl Cloud {
    /// How many of these interfaces get addresses that the caller keeps.
    fn kept_among(&self, context: &OpContext, interfaces: &[Interface]) -> Result<usize> {
        let mut kept = 0;
        for interface in interfaces {
            let Some(ip) = interface.ip else {
                continue;
            };
            let network = self.usable_network(context, &interface.network)?;
            kept += usize::from(self.kept_address(context, &network.id, ip)?.is_some());
        }
        Ok(kept)
    }

    pub(super) fn plan(&self, context: &OpContext, body: Map<String, Value>) -> Result<Plan> {
        let acl = Self::acl_for(context, false)?;
        // Before anything is read.
        let as_of = self.0.documents.revision();
        let mut request = MachineCreate::parse(body)?;
        let template_href = resolve::href_of(&request.machine_template).map(str::to_owned);
        let template = request.template(self, context)?;
        template.check_keymap()?;
        let size = template.size(self, context)?;
        let share_percent = cpu_share(template.cpu_share.as_ref(), size.cpu)?;
        self.check_size(&size, share_percent, template.needs())?;
        let image = self.bootable_image(context, &template)?;
        let guest = guest_context(&template, template.credential_key(self, context)?)?;
        let disks = self.disks(
            context,
            &template,
            &size,
            image.as_ref().map(|image| &image.document.0),
        )?;
        let interfaces = template.interfaces(self, context)?;
        let kept_addresses = self.kept_among(context, &interfaces)?;
        let save = save_of(template.save.as_ref())?;
        volumes_named_once(&template)?;
        ports_named_once(&interfaces)?;
        let placement = template.placement()?;
        let new_volumes = template.new_volumes(self, context)?;
        if image.is_none() {
            boots_from_volume(&template, &new_volumes, save.as_ref())?;
        }
        if interfaces.len() > MOST_INTERFACES {
            return Err(CloudError::invalid(
                "machineTemplate.networkInterfaces",
                format!(
                    "{} are too many: a machine has at most {MOST_INTERFACES}",
                    interfaces.len()
                ),
            ));
        }
        let all = disks.len() + new_volumes.len() + template.volumes.len();
        if all > MOST_DISKS {
            return Err(CloudError::invalid(
                "machineTemplate",
                format!(
                    "{all} disks and volumes are too many: a machine starts with at most {MOST_DISKS}"
                ),
            ));
        }
        Ok(Plan {
            kept_addresses,
            name: request.name,
            description: request.description,
            properties: request.properties,
            acl,
            as_of,
            template_href,
            size,
            share_percent,
            placement,
            template,
            image,
            context: guest,
            disks,
            interfaces,
            save,
            new_volumes,
        })
    }

    /// The image a template boots, which the caller may use, if it names one.
    fn bootable_image(
        &self,
        context: &OpContext,
        template: &Template,
    ) -> Result<Option<Arc<Cached<Image>>>> {
        let path = MACHINE_IMAGE;
        let Some(given) = &template.machine_image else {
            return Ok(None);
        };
        let href = resolve::href_of(given).ok_or_else(|| {
            CloudError::invalid(
                path,
                "needs `href`: {\"href\": \"MachineImage/…\"} with an id or identifier",
            )
        })?;
        let local = resolve::local_part::<Image>(href, path)?;
        let image = resolve::at(path, self.find_image(context, local, Right::View))?;
        usable_image(&image, path)?;
        if image.kind != "IMAGE" {
            return Err(CloudError::invalid(
                path,
                format!("{} is a {}, not a bootable image", image.id, image.kind),
            ));
        }
        Ok(Some(image))
    }

    /// Refuses sizes that no host offers, however empty, to machines that need storage or don't.
    fn check_size(&self, size: &Size, share_percent: Option<u32>, needs: Means) -> Result<()> {
        let path = "machineTemplate.machineConfig";
        let whole = u64::from(size.cpu) * 100;
        let demand = Demand {
            cpu_percent: share_percent.map_or(whole, u64::from),
            memory_kib: size.memory,
        };
        let policy = &self.0.settings.placement;
        let hosts: Vec<(u32, Demand)> = self
            .0
            .documents
            .hosts
            .all()
            .iter()
            .filter(|host| host.runs_machines() && Means::of(host).cover(needs))
            .map(|host| (host.capacity.cpus, policy.offer(&host.capacity)))
            .collect();
        // Before the first host has reported, nothing is too large: the machine waits for one.
        let largest =
            |of: fn(&(u32, Demand)) -> u64| hosts.iter().map(of).max().unwrap_or(u64::MAX);
        let host = match needs == Means::default() {
            true => "host",
            false => "host with a way to the cloud's storage, for volumes or to be saved,",
        };
        let cpus = largest(|(cpus, _)| u64::from(*cpus));
        if size.cpu == 0 || u64::from(size.cpu) > cpus {
            let problem = format!(
                "must be 1 to {cpus} (the largest {host}), but is {}",
                size.cpu
            );
            return Err(CloudError::invalid(format!("{path}.cpu"), problem));
        }
        let memory = largest(|(_, offer)| offer.memory_kib);
        if size.memory < LEAST_MEMORY_KIB || size.memory > memory {
            let problem = format!(
                "must be {LEAST_MEMORY_KIB} to {memory} KiB, which is {} to {} MiB (what the largest {host} offers to machines), but is {} KiB",
                LEAST_MEMORY_KIB / 1024,
                memory / 1024,
                size.memory
            );
            return Err(CloudError::invalid(format!("{path}.memory"), problem));
        }
        let fits = |(cpus, offer): &(u32, Demand)| size.cpu <= *cpus && demand.fits_in(*offer);
        if !hosts.is_empty() && !hosts.iter().any(fits) {
            return Err(CloudError::invalid(
                path,
                format!(
                    "is more than any {host} offers: {} CPUs and {} KiB of memory together",
                    size.cpu, size.memory
                ),
            ));
        }
        Ok(())
    }

    /// Root, swap, volatile and read-only disks in the documented order.
    fn disks(
        &self,
        context: &OpContext,
        template: &Template,
        size: &Size,
        image: Option<&Image>,
    ) -> Result<Vec<Disk>> {
        let root = |image: &Image| Disk {
            role: DiskRole::Root,
            size_bytes: image
                .file
                .as_ref()
                .map_or(ByteSize(0), |file| file.virtual_size),
            serial: "root".to_owned(),
        };
        let mut disks: Vec<Disk> = image.map(root).into_iter().collect();
        let mut volatile = Vec::new();
        for disk in &size.disks {
            let size_bytes = ByteSize::from_capacity_kb(disk.capacity);
            self.check_volume_size(size_bytes, "machineTemplate.machineConfig.disks")?;
            match disk.format.as_str() {
                "swap" if disks.iter().all(|disk| disk.role != DiskRole::Swap) => {
                    disks.push(Disk {
                        role: DiskRole::Swap,
                        size_bytes,
                        serial: "swap".to_owned(),
                    });
                }
                "swap" => {
                    let problem = "a machine has one swap disk";
                    return Err(CloudError::invalid(
                        "machineTemplate.machineConfig.disks",
                        problem,
                    ));
                }
                "raw" => {
                    let serial = format!("volatile{}", volatile.len());
                    volatile.push(Disk {
                        role: DiskRole::Volatile,
                        size_bytes,
                        serial,
                    });
                }
                other => {
                    return Err(CloudError::invalid(
                        "machineTemplate.machineConfig.disks.format",
                        format!("must be `raw` or `swap`, but is `{other}`"),
                    ));
                }
            }
        }
        disks.append(&mut volatile);
        for (number, entry) in template.read_only_disks.iter().enumerate() {
            let path = "machineTemplate.readOnlyDisks";
            let href =
                resolve::href_of(entry).ok_or_else(|| CloudError::invalid(path, "needs `href`"))?;
            let local = resolve::local_part::<Image>(href, path)?;
            let data = resolve::at(path, self.find_image(context, local, Right::View))?;
            usable_image(&data, path)?;
            disks.push(Disk {
                role: DiskRole::ReadOnly {
                    image: data.id.clone(),
                },
                size_bytes: data
                    .file
                    .as_ref()
                    .map_or(ByteSize(0), |file| file.virtual_size),
                serial: format!("data{number}"),
            });
        }
        Ok(disks)
    }
}

/// Refuses a machine that has nothing to boot from, or whose root disk would have to be its own.
fn boots_from_volume(
    template: &Template,
    new_volumes: &[NewVolume],
    save: Option<&Save>,
) -> Result<()> {
    // Those that are there already come first among the volumes of the machine.
    let new = new_volumes.first();
    if template.volumes.is_empty() && new.is_none_or(|new| new.origin.is_none()) {
        return Err(CloudError::invalid(
            MACHINE_IMAGE,
            "is missing; give {\"href\": \"MachineImage/…\"} with an id or identifier, or in `volumes` a volume to boot from",
        ));
    }
    if save.is_some() {
        return Err(CloudError::invalid(
            "machineTemplate.save",
            "is for machines with a root disk of their own: what this one writes is kept on the volume it boots from; when it is gone, make an image of that",
        ));
    }
    Ok(())
}

/// Refuses a port that two interfaces are to be plugged into.
fn ports_named_once(interfaces: &[Interface]) -> Result<()> {
    let mut seen = HashSet::new();
    let ports = interfaces.iter().filter_map(|one| one.port.as_deref());
    match ports.into_iter().find(|port| !seen.insert(*port)) {
        None => Ok(()),
        Some(twice) => Err(CloudError::invalid(
            "machineTemplate.networkInterfaces",
            format!("NetworkPort/{twice} is named twice; one interface is plugged into a port"),
        )),
    }
}

/// Refuses a volume that is named twice.
fn volumes_named_once(template: &Template) -> Result<()> {
    let mut named = HashSet::new();
    for (number, entry) in template.volumes.iter().enumerate() {
        let path = format!("machineTemplate.volumes[{number}]");
        let local = volume_reference(entry, &path)?;
        if !named.insert(local.clone()) {
            return Err(CloudError::invalid(
                path,
                format!("names Volume/{local} again; a machine has a volume once"),
            ));
        }
    }
    Ok(())
}

/// `0.5` or `"0.5"` of a CPU as hundredths.
fn cpu_share(given: Option<&Value>, cpus: u32) -> Result<Option<u32>> {
    let path = "machineTemplate.cpuShare";
    let share = match given {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    match share {
        Some(share) if share > 0.0 && share <= f64::from(cpus) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be small and positive"
            )]
            Ok(Some((share * 100.0).ceil() as u32))
        }
        _ => Err(CloudError::invalid(
            path,
            format!("must be a number above 0, at most the machine's {cpus} CPUs"),
        )),
    }
}

/// What the guest is told: the variables and user data as the commands encode them, and the credential's key.
fn guest_context(template: &Template, key: Option<String>) -> Result<ContextData> {
    let refused = |path: &str| {
        let path = format!("machineTemplate.{path}");
        move |error: ContextError| CloudError::invalid(path.clone(), error.to_string())
    };
    let variables = Variables::from_pairs(&template.context).map_err(refused("context"))?;
    let user = decoding::UserContext::from_variables(variables).map_err(refused("context"))?;
    let mut keys = AuthorizedKeys::none();
    if let Some(key) = key {
        context::check_public_keys(&key)
            .and_then(|()| keys.add(&key))
            .map_err(refused("credential.publicKey"))?;
    }
    for line in user.public_keys.lines() {
        keys.add(line).map_err(refused("context"))?;
    }
    // As it was sent: compressed user data stays small in the document, and is inflated on the way to the guest.
    let user_data = match &template.user_data {
        Some(text) => Some(decoding::sent_user_data(text).map_err(refused("userData"))?),
        None => user.sent_user_data,
    };
    let encode = |data| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
    let mut variables: BTreeMap<String, String> = user
        .variables
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if user.method == context::ContextMethod::CloudInit {
        variables.insert("CONTEXT_METHOD".to_owned(), "cloud-init".to_owned());
    }
    Ok(ContextData {
        public_keys: keys.lines().map(str::to_owned).collect(),
        variables,
        user_data: user_data.map(encode),
    })
}

/// Refuses images that failed or are on their way out; one that is still being fetched is waited for by the machine.
pub(super) fn usable_image(image: &Image, path: &str) -> Result<()> {
    match image.state {
        ImageState::Available | ImageState::Creating => Ok(()),
        ImageState::Deleting => Err(CloudError::invalid(
            path,
            format!("{} is being deleted", image.id),
        )),
        ImageState::Error => Err(CloudError::invalid(
            path,
            format!(
                "{} can't be used: {}",
                image.id,
                image.reason.as_deref().unwrap_or("its import failed")
            ),
        )),
    }
}

//! Creation of a machine: one transaction for the machine, its address lease, its new volumes, the volumes it takes,
//! the job and the event.

mod plan;
mod rehearse;

use std::net::IpAddr;

use cimi::{
    AddressId, Common, MachineId, Ref, Right, Timestamp,
    lifecycle::{Desired, MachineState, Observed, Phase, Power, Rest},
    resources::{
        AttachStage, AttachedVolume, Attachment, BootSource, Credential, DiskRole, Event, Image,
        Job, JobGoal, Machine, MachineConfiguration, MachineTemplate, Nic, Resource, Unknown,
        Volume, default_architecture,
    },
    size::ByteSize,
};
use documents::{Changes, OfType};
use serde_json::{Map, Value};

use self::plan::{Plan, usable_image};
use super::request::volume_reference;
use crate::{
    Cloud, CloudError, Created, OpContext, Result, access, address::leased, catalogue,
    leases::Reserved, network_port::plugged, quota::Place, resolve, security_group, volume,
};

/// Attempts against others who take the same address or volume at the same moment.
const ATTEMPTS: usize = 16;

impl Cloud {
    /// Makes a machine (MachineCreate). It is wanted on unless `initialState` is `STOPPED`; `PAUSED` leaves it before
    /// its first instruction.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what can't be, [`CloudError::Exhausted`] without a free address,
    /// [`CloudError::Conflict`] for an address or volume in use.
    pub async fn create_machine(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_unlimited(context)?;
        self.want_images(context, &body).await?;
        for attempt in 0..ATTEMPTS {
            context.in_time()?;
            // Anew each time: what a plan builds on may be what was changed.
            let plan = self.plan(context, body.clone())?;
            if attempt == 0 && self.looked_again(&plan).await {
                continue;
            }
            let place = self.place(context, &plan.amounts()).await?;
            match self.write_machine(context, &plan, &place).await {
                Err(CloudError::Raced(_)) => {}
                other => return other,
            }
        }
        Err(CloudError::Unavailable(
            "too many others want the same address or volume: try again".to_owned(),
        ))
    }

    /// Whether the Marketplaces were asked about images that it stands on, which may then not be usable any more.
    async fn looked_again(&self, plan: &Plan) -> bool {
        let images = &self.0.documents.images;
        let read_only = plan.disks.iter().filter_map(|disk| match &disk.role {
            DiskRole::ReadOnly { image } => images.get(image.local()),
            _ => None,
        });
        let mut is_anew = false;
        for image in plan.image.iter().cloned().chain(read_only) {
            is_anew |= self.0.intake.look_again(&image.document.0).await;
        }
        is_anew
    }

    async fn write_machine(
        &self,
        context: &OpContext,
        plan: &Plan,
        place: &Place,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let now = Timestamp::now();
        let id = MachineId::generate();
        let vmid = self.0.numbers.next(documents).await?;
        let initial = plan.template.initial_state.as_deref();
        let (on, paused) = (initial != Some("STOPPED"), initial == Some("PAUSED"));
        let mut machine = Machine {
            id: id.clone(),
            common: Common {
                name: Some(plan.name.clone().unwrap_or_else(|| format!("one-{vmid}"))),
                description: plan.description.clone(),
                properties: plan.properties.clone(),
                part_of: context.part_of.clone(),
                ..Common::new(plan.acl.clone(), now)
            },
            state: MachineState::Creating,
            phase: Phase::Pending,
            reason: None,
            vmid,
            cpu: plan.size.cpu,
            memory: plan.size.memory,
            cpu_arch: default_architecture(),
            cpu_share_percent: plan.share_percent,
            image: plan.image.as_ref().map(|image| Ref::to(image.id.clone())),
            disks: plan.disks.clone(),
            volumes: Vec::new(),
            nics: Vec::new(),
            security_groups: Vec::new(),
            context: plan.context.clone(),
            boot: plan
                .image
                .as_ref()
                .map_or(BootSource::Disk, |image| boot_of(image)),
            cpu_model: plan.template.cpu_model.clone(),
            keymap: plan.template.keymap.clone(),
            requirements: plan.template.requirements.clone(),
            placement: plan.placement.clone(),
            restart_policy: plan.template.restart_policy.unwrap_or_default(),
            host: None,
            left_on: Vec::new(),
            desired: Desired {
                power: if on { Power::On } else { Power::Off },
                run: u64::from(on),
                restart: 0,
                force: false,
                deleted: false,
                graceful: false,
                rest: paused.then_some(Rest::Pause),
                afresh: false,
                moving: None,
                since: now,
                unknown: Unknown::default(),
            },
            observed: Observed::nothing(now),
            unseen_since: None,
            accelerator: None,
            ssh: None,
            first_started: None,
            running_since: None,
            traffic_before: None,
            disks_since: None,
            save: plan.save.clone(),
            saved_as: None,
            unknown: Map::new(),
        };
        let mut changes = place.guard(documents.changes());
        let mut reserved: Vec<Reserved> = Vec::new();
        let mut kept_addresses = 0;
        for interface in &plan.interfaces {
            let network = self.usable_network(context, &interface.network)?;
            let mut nic = Nic {
                network: network.id.clone(),
                address: AddressId::of(&network.id, IpAddr::from([0, 0, 0, 0])),
                ip: IpAddr::from([0, 0, 0, 0]),
                mac: String::new(),
                model: interface.model.clone(),
                port: None,
            };
            changes = changes.unchanged(&network);
            if let Some(local) = &interface.port {
                let path = "machineTemplate.networkInterfaces.networkPort";
                let port = self.free_port(context, local, path)?;
                let (taken, at_it) = plugged(&port, &machine);
                nic.port = Some(at_it);
                changes = changes.replace(&port, taken);
            }
            let kept = match interface.ip {
                Some(ip) => self.kept_address(context, &network.id, ip)?,
                None => None,
            };
            if let Some(address) = kept {
                kept_addresses += 1;
                let mut taken = address.document.0.clone();
                taken.resource = Some(Ref::to(id.clone()));
                (nic.address, nic.ip, nic.mac) = (taken.id.clone(), taken.ip, taken.mac.clone());
                changes = changes.replace(&address, taken);
                machine.nics.push(nic);
                continue;
            }
            let lease = self
                .0
                .leases
                .reserve(documents, &network.document.0, interface.ip)?;
            let common = Common::new(machine.common.acl.clone(), now);
            changes = changes.create(&leased(&network.id, &lease, common, Some(&id)));
            (nic.address, nic.ip, nic.mac) = (lease.id.clone(), lease.ip, lease.mac.clone());
            machine.nics.push(nic);
            reserved.push(lease);
        }
        // They had room because they were had already.
        if kept_addresses < plan.kept_addresses {
            return Err(CloudError::Conflict(
                "an address that was kept has been given back meanwhile".to_owned(),
            ));
        }
        changes = self.take_volumes(context, plan, &mut machine, changes, now)?;
        changes = self.guard_images(&machine, changes)?;
        changes = self.guard_templates(plan, changes)?;
        changes = self.join_groups(context, plan, &mut machine, changes)?;
        machine.settle();
        catalogue::check_size(&machine)?;
        let goal = if paused {
            JobGoal::MachinePaused
        } else if on {
            JobGoal::MachineRuns { run: 1, restart: 0 }
        } else {
            JobGoal::MachineOff
        };
        let job = Job::creation(
            Machine::COLLECTION.to_owned(),
            machine.key(),
            goal,
            machine.common.acl.clone(),
            now,
        )
        .within(context.parent_job.as_ref());
        let event = Event::request(&machine, "add", context.user().unwrap_or_default(), now);
        let written = changes
            .create(&machine)
            .create(&job)
            .create(&event)
            .commit()
            .await;
        if let Err(error) = written {
            place.is_lost(&error).await;
            return Err(error.into());
        }
        drop(reserved);
        tracing::info!(machine = %id, %vmid, owner = context.user(), request_id = %context.request_id, "machine created");
        let read = access::find::<Machine>(documents, context, id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: Some(job.id.to_string()),
            existed: false,
        })
    }

    /// Adds the volumes the machine takes and makes to the transaction and to the machine.
    fn take_volumes<'a>(
        &self,
        context: &OpContext,
        plan: &Plan,
        machine: &mut Machine,
        mut changes: Changes<'a>,
        now: Timestamp,
    ) -> Result<Changes<'a>> {
        for entry in &plan.template.volumes {
            let path = "machineTemplate.volumes";
            let local = volume_reference(entry, path)?;
            let volume = resolve::at(
                path,
                access::find::<Volume>(&self.0.documents, context, &local, Right::View),
            )?;
            volume::may_attach(context, &volume)?;
            let location = entry
                .get("initialLocation")
                .and_then(Value::as_str)
                .map(str::to_owned);
            changes = changes.replace(
                &volume,
                volume::taken(&self.0.documents, context, &volume, machine, now)?,
            );
            machine.volumes.push(attached(&volume, location, now));
        }
        for new in &plan.new_volumes {
            let mut volume = volume::new_volume(
                ByteSize::from_capacity_kb(new.capacity_kb),
                plan.acl.clone(),
                now,
            );
            if let Some(origin) = &new.origin {
                volume.origin = Some(origin.document.id.clone());
                volume.bootable = origin.bootable;
                changes = changes.unchanged(origin);
            }
            self.check_volume_size(volume.size_bytes, "machineTemplate.volumeTemplates")?;
            volume.attachment = Some(Attachment {
                machine: machine.id.clone(),
                since: now,
            });
            machine
                .volumes
                .push(attached(&volume, new.location.clone(), now));
            changes = changes.create(&volume);
        }
        Ok(changes)
    }

    /// Puts the machine into its security groups. Read anew in every attempt: a group changes with those it is about.
    fn join_groups<'a>(
        &self,
        context: &OpContext,
        plan: &Plan,
        machine: &mut Machine,
        changes: Changes<'a>,
    ) -> Result<Changes<'a>> {
        let (named, path) = (
            &plan.template.security_groups,
            "machineTemplate.securityGroups",
        );
        let groups = self.joinable_groups(context, named, path)?;
        if !groups.is_empty() {
            self.can_be_filtered(&machine.nics, path)?;
        }
        let all = groups.iter();
        machine.security_groups = all.map(|group| Ref::to(group.id.clone())).collect();
        Ok(security_group::guard(&groups, changes))
    }

    /// Adds to the transaction that what the plan was made from is as it was.
    fn guard_templates<'a>(&self, plan: &Plan, changes: Changes<'a>) -> Result<Changes<'a>> {
        let href = |given: &'_ Option<Map<String, Value>>| {
            given.as_ref().and_then(resolve::href_of).map(str::to_owned)
        };
        let changes = self.guard::<MachineTemplate>(plan, plan.template_href.clone(), changes)?;
        let configuration = href(&plan.template.machine_config);
        let changes = self.guard::<MachineConfiguration>(plan, configuration, changes)?;
        self.guard::<Credential>(plan, href(&plan.template.credential), changes)
    }

    fn guard<'a, R: OfType>(
        &self,
        plan: &Plan,
        href: Option<String>,
        changes: Changes<'a>,
    ) -> Result<Changes<'a>> {
        let Some(href) = href else {
            return Ok(changes);
        };
        let local = resolve::local_part::<R>(&href, "machineTemplate")?;
        match self.0.documents.view::<R>().get(local) {
            Some(read) if read.revision <= plan.as_of => Ok(changes.unchanged(&read)),
            _ => Err(CloudError::Raced(format!(
                "{href} was changed by somebody else meanwhile: try again"
            ))),
        }
    }

    /// Adds to the transaction that every image the machine needs is still there and not on its way out. Read anew in
    /// every attempt: the progress of an import changes its document every second.
    fn guard_images<'a>(&self, machine: &Machine, mut changes: Changes<'a>) -> Result<Changes<'a>> {
        let mut needed = std::collections::BTreeSet::new();
        machine.images(&mut |image| {
            needed.insert(image.clone());
        });
        for id in needed {
            let image = self.0.documents.images.get(id.local()).ok_or_else(|| {
                let problem = format!("needs {id}, which does not exist any more");
                CloudError::invalid("machineTemplate", problem)
            })?;
            usable_image(&image, "machineTemplate")?;
            changes = changes.unchanged(&image);
        }
        Ok(changes)
    }
}

/// A volume at a machine that is being made: present from its first boot.
fn attached(volume: &Volume, initial_location: Option<String>, now: Timestamp) -> AttachedVolume {
    AttachedVolume {
        volume: volume.id.clone(),
        initial_location,
        hot: false,
        wanted: true,
        stage: AttachStage::Waiting,
        serial: volume::serial(&volume.id),
        taken: Some(now),
    }
}

fn boot_of(image: &Image) -> BootSource {
    match &image.kernel {
        None => BootSource::Disk,
        Some(kernel) => BootSource::Kernel {
            kernel: kernel.clone(),
            initrd: image.initrd.clone(),
            arguments: image.kernel_arguments.clone().unwrap_or_default(),
        },
    }
}

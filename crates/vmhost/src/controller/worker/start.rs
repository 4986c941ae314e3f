//! Starting: makes what the machine needs, plugs it in, starts its process, lets it run.

use std::time::Instant;

use cimi::{
    lifecycle::{Power, Stage},
    resources::{Endpoint, Machine},
};
use documents::Cached;
use network::Attachment;

use super::{Next, StepError, Worker, blocking};
use crate::{
    HypervisorError,
    controller::{
        Shared,
        prepare::{self, PrepareError},
        report::{enter, report},
        volume_disk,
        volumes::ASK_AGAIN,
    },
    launch_spec::NicSpec,
};

/// The interfaces of a machine, plugged in.
pub(in crate::controller) struct Plugged {
    pub(in crate::controller) nics: Vec<NicSpec>,
    /// Where its SSH is reached, if not at its own address.
    ssh: Option<Endpoint>,
    /// To be waited for before its guest runs.
    pub(in crate::controller) waits: Vec<network::Ready>,
}

/// Plugs all interfaces of a machine in.
pub(in crate::controller) async fn plug(
    shared: &Shared,
    machine: &Machine,
) -> Result<Plugged, StepError> {
    let (mut nics, mut ssh, mut waits) = (Vec::new(), None, Vec::new());
    for ((name, request), nic) in prepare::plug_requests(machine)
        .into_iter()
        .zip(&machine.nics)
    {
        let network = shared.documents.networks.get(&name).ok_or_else(|| {
            PrepareError::Missing(format!("network {name} does not exist any more"))
        })?;
        let host = shared.network(&network).await?;
        if !request.groups.is_empty() {
            // What they allow has to be known before the machine is held to them.
            shared.tell_groups(&name, &host).await?;
        }
        let plugged = host.plug(&request).await?;
        if let Attachment::User(user) = &plugged.attachment {
            ssh.get_or_insert(Endpoint {
                host: "127.0.0.1".to_owned(),
                port: user.ssh_port,
            });
        }
        waits.push(plugged.ready);
        let ifname = plugged.ifname.as_str().to_owned();
        nics.push(prepare::nic_spec(
            request.mac,
            nic.model.as_deref(),
            ifname,
            plugged.attachment,
        ));
    }
    Ok(Plugged { nics, ssh, waits })
}

impl Worker {
    /// Makes everything the machine needs, and starts its process.
    pub(super) async fn start(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        if let Some(image) = self.being_saved(machine).await? {
            report(&self.shared.documents, self.own(), |machine| {
                machine.reason = Some(format!("waits until its disk is saved as {}", image.id));
            })
            .await?;
            return Ok(Next::Wait);
        }
        match self.launch(machine).await {
            Ok(()) => Ok(Next::Again),
            Err(StepError::Prepare(
                error @ (PrepareError::NotYet(_) | PrepareError::NotNow(_)),
            )) => {
                let reason = error.to_string();
                report(&self.shared.documents, self.own(), |machine| {
                    machine.reason = Some(reason.clone());
                })
                .await?;
                self.settle_ports(machine).await?;
                Ok(match error {
                    PrepareError::NotNow(_) => Next::WaitUntil(Instant::now() + ASK_AGAIN),
                    _ => Next::Wait,
                })
            }
            Err(error @ (StepError::Documents(_) | StepError::Task(_))) => Err(error),
            Err(
                error @ (StepError::Hypervisor(HypervisorError::AlreadyRunning { .. })
                | StepError::Prepare(PrepareError::Hypervisor(
                    HypervisorError::AlreadyRunning { .. },
                ))),
            ) => {
                self.adopted = false;
                Err(error)
            }
            Err(StepError::Hypervisor(error @ HypervisorError::AcceleratorFailed { .. }))
                if self.shared.falls_back_to_tcg(&error) =>
            {
                self.quit().await?;
                self.seen_alive = false;
                Ok(Next::Again)
            }
            Err(error) => {
                tracing::warn!(vmid = %machine.vmid, %error, "machine could not be started");
                self.quit().await?;
                // What keeps it from being plugged in may keep it from being unplugged; the user is told all the same.
                if let Err(error) = self.unplug(machine).await {
                    tracing::warn!(vmid = %machine.vmid, %error, "its interfaces can't be given back yet");
                }
                let (run, restart) = (machine.desired.run, machine.desired.restart);
                let has_memory = self.could_not_load(machine).await?;
                let reason = if has_memory {
                    format!("its memory could not be read back, and is kept: {error}")
                } else {
                    error.to_string()
                };
                report(&self.shared.documents, self.own(), |machine| {
                    // It was tried, and is not tried again for that.
                    machine.observed.restart = restart;
                    enter(machine, Stage::Failed, run);
                    machine.observed.has_memory = has_memory;
                    machine.reason = Some(reason.clone());
                })
                .await?;
                Ok(Next::Again)
            }
        }
    }

    pub(super) async fn launch(&mut self, machine: &Cached<Machine>) -> Result<(), StepError> {
        self.seen_alive = false;
        let began = Instant::now();
        let shared = self.shared.clone();
        if machine.desired.afresh || machine.desired.restart > machine.observed.restart {
            self.forget_memory(machine).await?;
        }
        let document = machine.document.0.clone();
        let (begun, of) = (shared.clone(), document.clone());
        blocking(move || Ok(prepare::begin(&begun, &of)?)).await?;
        let mut places = prepare::Places::new();
        for attached in &machine.volumes {
            let place = prepare::ready(&shared, machine, attached).await?;
            places.insert(attached.volume.clone(), place);
        }
        let prepared = blocking(move || Ok(prepare::prepare(&shared, &document, &places)?));
        let mut spec = prepared.await?;
        let begins_with = |name: &str| spec.disks.iter().any(|disk| disk.id.as_str() == name);
        for attached in &machine.volumes {
            if begins_with(&volume_disk(attached)) {
                prepare::answers(&self.shared, machine, attached).await?;
            }
        }
        let Plugged { nics, ssh, waits } = plug(&self.shared, machine).await?;
        spec.nics = nics;
        let has_memory = spec.memory.is_some();
        metrics::histogram!("stratus_machine_prepare_seconds").record(began.elapsed());
        let (run, restart) = (machine.desired.run, machine.desired.restart);
        let mut stays_off = false;
        let booting = report(&self.shared.documents, self.own(), |machine| {
            let desired = &machine.desired;
            stays_off = machine.disk_is_left() && (desired.deleted || desired.power == Power::Off);
            if stays_off {
                return;
            }
            // A new process carries out every restart that was asked for before its memory was chosen.
            machine.observed.restart = restart;
            enter(machine, Stage::Booting, run);
            machine.observed.has_memory = has_memory;
            machine.reason = None;
            machine.ssh.clone_from(&ssh);
        });
        let hypervisor = &self.shared.hypervisor;
        let launched = if ssh == machine.ssh && !machine.disk_is_left() {
            let (launched, reported) = tokio::join!(hypervisor.launch(spec), booting);
            // Connected first: whatever happens to the report, the process is not to be lost.
            launched.map(|handle| (handle, reported))
        } else {
            // The port must be known before anybody listens on it, lest it be given to another machine after a crash. And from a disk
            // that was left an image may be made from now on, unless it is known that it is written again.
            booting.await?;
            if stays_off {
                return self.unplug(machine).await;
            }
            hypervisor
                .launch(spec)
                .await
                .map(|handle| (handle, Ok(true)))
        };
        let (handle, reported) = launched?;
        self.connect(handle);
        reported?;
        for ready in waits {
            ready.wait().await?;
        }
        // What rests from the start, or has its memory to read first, goes on by a later step.
        let rests = machine.desired.rest_as_seen(&machine.observed).is_some();
        if !rests && !has_memory {
            self.set_links(machine).await?;
            if let Some(live) = &self.live {
                live.handle.cont().await?;
            }
        }
        self.bound_logs(machine).await;
        metrics::histogram!("stratus_machine_start_seconds").record(began.elapsed());
        Ok(())
    }

    /// Started, but whoever started it died before letting it run.
    pub(super) async fn let_run(&mut self, machine: &Machine) -> Result<Next, StepError> {
        for (name, _) in prepare::plug_requests(machine) {
            if let Some(network) = self.shared.documents.networks.get(&name) {
                self.shared.network(&network).await?;
            }
        }
        self.set_links(machine).await?;
        if let Some(live) = &self.live {
            live.handle.cont().await?;
        }
        Ok(Next::Again)
    }
}

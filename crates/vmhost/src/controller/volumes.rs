//! A machine's volumes: brings what the guest has in line with what is wanted.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use cimi::{
    Timestamp, VolumeId,
    resources::{AttachStage, AttachedVolume, Machine},
};
use documents::{Cached, step};

use super::{
    VolumePlace,
    prepare::{self, Places, PrepareError},
    report::report,
    volume_disk,
    volume_files::VOLUME_DISK,
    worker::{Next, StepError, Worker, sooner},
};
use crate::{DiskId, HypervisorError, hypervisor::AttachedDisk, qmp::QmpError};

/// How often a guest that doesn't let go of a disk is asked again, and whether a volume that can't be used can be.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// One round over the volumes of a machine that stays as it is otherwise.
    pub(super) async fn settle_volumes(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Next, StepError> {
        let disks = match &self.live {
            None => return self.settle_cold(machine).await,
            Some(live) => live.handle.status().await?.disks,
        };
        let due = self
            .asked_to_detach
            .is_none_or(|at| at + ASK_AGAIN <= Instant::now());
        let mut next = self.give_up_taken(machine, &disks, due).await?;
        for attached in &machine.volumes {
            let id = DiskId::new(volume_disk(attached))?;
            let present = disks.iter().find(|disk| disk.id == id);
            // Also of what is there already, and of what is to go: what a guest has written goes there first.
            let ready = prepare::ready(&self.shared, machine, attached);
            let place = match self.unless_wanted_otherwise(machine, ready).await {
                None => return Ok(Next::Again),
                Some(Ok(place)) => place,
                Some(Err(error)) => {
                    tracing::warn!(volume = %attached.volume, %error, "the volume can't be used yet");
                    next = sooner(next, Next::WaitUntil(Instant::now() + ASK_AGAIN));
                    continue;
                }
            };
            let step = if attached.wanted {
                self.attach(machine, attached, &id, place, present).await?
            } else {
                self.detach(machine, attached, &id, present.is_some(), due)
                    .await?
            };
            let changed = step == Next::Again;
            next = sooner(next, step);
            if changed {
                // The document has changed: the rest is looked at anew.
                break;
            }
        }
        Ok(next)
    }

    /// Has the guest let go of volumes that were taken from the machine while nobody heard of it.
    async fn give_up_taken(
        &mut self,
        machine: &Cached<Machine>,
        disks: &[AttachedDisk],
        due: bool,
    ) -> Result<Next, StepError> {
        let known: HashSet<String> = machine.volumes.iter().map(volume_disk).collect();
        let taken = disks.iter().filter(|disk| {
            let id = disk.id.as_str();
            id.starts_with(VOLUME_DISK) && !known.contains(id)
        });
        let mut next = Next::Wait;
        for disk in taken {
            if let Some(live) = self.live.as_ref().filter(|_| due) {
                tracing::warn!(disk = %disk.id, vmid = %machine.vmid, "the guest is to let go of a volume that is its no more");
                self.asked_to_detach = Some(Instant::now());
                prepare::lost(&self.shared, machine, &disk.id);
                if let Err(error) = live.handle.begin_detach(&disk.id).await {
                    tracing::warn!(disk = %disk.id, %error, "the guest can't be asked to let go of it");
                }
            }
            next = Next::WaitUntil(Instant::now() + ASK_AGAIN);
        }
        Ok(next)
    }

    /// Without a process, volumes are there when it next starts, and gone at once.
    async fn settle_cold(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        for attached in &machine.volumes {
            if !attached.wanted {
                return self.release_volume(machine, attached).await;
            }
        }
        let mut there = Vec::new();
        for attached in &machine.volumes {
            if attached.stage != AttachStage::Waiting {
                continue;
            }
            match prepare::has_volume(&self.shared.documents, &attached.volume) {
                Ok(()) => there.push(attached.volume.clone()),
                Err(PrepareError::NotYet(_)) => {}
                Err(error) => return self.fail_attachment(attached, &error.to_string()).await,
            }
        }
        if !there.is_empty() {
            report(&self.shared.documents, self.own(), |machine| {
                for volume in &there {
                    now_attached(machine, volume);
                }
            })
            .await?;
        }
        Ok(Next::Wait)
    }

    async fn attach(
        &mut self,
        machine: &Cached<Machine>,
        attached: &AttachedVolume,
        id: &DiskId,
        place: VolumePlace,
        present: Option<&AttachedDisk>,
    ) -> Result<Next, StepError> {
        let known = matches!(attached.stage, AttachStage::Attached { .. });
        let failed = matches!(attached.stage, AttachStage::Failed { .. });
        if (present.is_some() && known) || (present.is_none() && failed) {
            return Ok(Next::Wait);
        }
        if present.is_none() {
            let documents = &self.shared.documents;
            let is_elsewhere = place != VolumePlace::Files;
            let places = Places::from([(attached.volume.clone(), place)]);
            let spec = match prepare::volume_spec(documents, &places, attached, 0) {
                Ok(spec) => spec,
                Err(PrepareError::NotYet(_)) => return Ok(Next::Wait),
                Err(error) => return self.fail_attachment(attached, &error.to_string()).await,
            };
            if let Err(error) = prepare::answers(&self.shared, machine, attached).await {
                tracing::warn!(volume = %attached.volume, %error, "the volume can't be attached yet");
                return Ok(Next::WaitUntil(Instant::now() + ASK_AGAIN));
            }
            let Some(live) = &self.live else {
                return Ok(Next::Again);
            };
            match live.handle.attach_disk(spec).await {
                Ok(()) | Err(HypervisorError::DiskAlreadyAttached { .. }) => {}
                // Nobody knows what became of it: the next look tells.
                Err(error @ HypervisorError::Ended) => return Err(error.into()),
                Err(HypervisorError::Monitor(
                    error @ (QmpError::Closed { .. } | QmpError::TimedOut { .. }),
                )) => return Err(HypervisorError::from(error).into()),
                // What answered a moment ago may be away again. If it is not, it is the hypervisor that refuses, and for good.
                Err(error)
                    if is_elsewhere
                        && prepare::answers(&self.shared, machine, attached)
                            .await
                            .is_err() =>
                {
                    tracing::warn!(volume = %attached.volume, %error, "the volume can't be attached yet");
                    return Ok(Next::WaitUntil(Instant::now() + ASK_AGAIN));
                }
                Err(error) => return self.fail_attachment(attached, &error.to_string()).await,
            }
        }
        tracing::info!(volume = %attached.volume, disk = %id, vmid = %machine.vmid, "volume attached");
        let volume = attached.volume.clone();
        report(&self.shared.documents, self.own(), |machine| {
            now_attached(machine, &volume);
        })
        .await?;
        Ok(Next::Again)
    }

    async fn fail_attachment(
        &mut self,
        attached: &AttachedVolume,
        reason: &str,
    ) -> Result<Next, StepError> {
        tracing::warn!(volume = %attached.volume, reason, "volume can't be attached");
        let (volume, reason) = (attached.volume.clone(), reason.to_owned());
        report(&self.shared.documents, self.own(), |machine| {
            if let Some(attached) = machine
                .volumes
                .iter_mut()
                .find(|attached| attached.volume == volume)
            {
                attached.stage = AttachStage::Failed {
                    reason: reason.clone(),
                };
            }
        })
        .await?;
        Ok(Next::Again)
    }

    async fn detach(
        &mut self,
        machine: &Cached<Machine>,
        attached: &AttachedVolume,
        id: &DiskId,
        present: bool,
        due: bool,
    ) -> Result<Next, StepError> {
        if !present {
            return self.release_volume(machine, attached).await;
        }
        // A guest that refuses at once must not be asked again at once.
        let first = !matches!(attached.stage, AttachStage::Detaching { .. });
        if (first || due)
            && let Some(live) = &self.live
        {
            self.asked_to_detach = Some(Instant::now());
            match live.handle.begin_detach(id).await {
                Ok(()) => {}
                Err(HypervisorError::UnknownDisk { .. }) => return Ok(Next::Again),
                // The other volumes of this machine don't wait for this one.
                Err(error) => {
                    tracing::warn!(volume = %attached.volume, %error, "the guest can't be asked to let go of it");
                }
            }
        }
        if let AttachStage::Attached { target } = &attached.stage {
            let (volume, target) = (attached.volume.clone(), target.clone());
            report(&self.shared.documents, self.own(), |machine| {
                if let Some(attached) = machine
                    .volumes
                    .iter_mut()
                    .find(|attached| attached.volume == volume)
                {
                    let since = Timestamp::now();
                    attached.stage = AttachStage::Detaching {
                        target: target.clone(),
                        since,
                    };
                }
            })
            .await?;
        }
        let asked = self.asked_to_detach.unwrap_or_else(Instant::now);
        Ok(Next::WaitUntil(asked + ASK_AGAIN))
    }

    /// The guest has let go of it, which the volume is told in the same transaction.
    async fn release_volume(
        &mut self,
        machine: &Cached<Machine>,
        attached: &AttachedVolume,
    ) -> Result<Next, StepError> {
        let documents = &self.shared.documents;
        let mut next = machine.document.0.clone();
        next.volumes.retain(|other| other.volume != attached.volume);
        match step::step(documents, machine, next).commit().await {
            Ok(_) => {
                tracing::info!(volume = %attached.volume, vmid = %machine.vmid, "volume released");
                Ok(Next::Again)
            }
            Err(error) if error.is_conflict() => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
    }
}

/// Marks a volume as being at the machine.
fn now_attached(machine: &mut Machine, volume: &VolumeId) {
    let boots = machine.boot_volume().map(|boot| &boot.volume);
    let target = if boots == Some(volume) {
        prepare::target(0)
    } else {
        free_target(machine)
    };
    let attached = machine.volumes.iter_mut().find(|v| v.volume == *volume);
    if let Some(attached) = attached
        && matches!(
            attached.stage,
            AttachStage::Waiting | AttachStage::Failed { .. }
        )
    {
        attached.stage = AttachStage::Attached { target };
    }
}

/// The first device name after the machine's own disks that no volume of it has.
fn free_target(machine: &Machine) -> String {
    let used = |target: &str| {
        machine
            .volumes
            .iter()
            .any(|attached| match &attached.stage {
                AttachStage::Attached { target: other }
                | AttachStage::Detaching { target: other, .. } => other == target,
                AttachStage::Waiting | AttachStage::Failed { .. } => false,
            })
    };
    let mut targets = (machine.place_of_disk(machine.disks.len())..).map(prepare::target);
    targets
        .by_ref()
        .take(26)
        .find(|target| !used(target))
        .unwrap_or_else(|| "vdz".to_owned())
}

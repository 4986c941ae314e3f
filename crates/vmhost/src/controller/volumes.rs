//! A machine's volumes: brings what the guest has in line with what is wanted.

use std::time::{Duration, Instant};

use cimi::{
    Timestamp,
    resources::{AttachStage, AttachedVolume, Machine, Volume},
};
use documents::Cached;

use super::{
    prepare::{self, PrepareError},
    report::report,
    worker::{Next, StepError, Worker},
};
use crate::{DiskId, hypervisor::AttachedDisk};

/// How often a guest that doesn't let go of a disk is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

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
        let mut next = Next::Wait;
        for attached in &machine.volumes {
            let id = DiskId::new(prepare::volume_disk(&attached.volume))?;
            let present = disks.iter().find(|disk| disk.id == id);
            let step = if attached.wanted {
                self.attach(machine, attached, &id, present).await?
            } else {
                self.detach(machine, attached, &id, present).await?
            };
            next = sooner(next, step);
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
        let waiting = machine
            .volumes
            .iter()
            .any(|attached| attached.stage == AttachStage::Waiting);
        if waiting && matches!(machine.observed.stage, cimi::lifecycle::Stage::Ended { .. }) {
            report(&self.shared.documents, &self.id, |machine| {
                for place in 0..machine.volumes.len() {
                    if machine
                        .volumes
                        .get(place)
                        .is_some_and(|v| v.wanted && v.stage == AttachStage::Waiting)
                    {
                        let target = free_target(machine);
                        if let Some(attached) = machine.volumes.get_mut(place) {
                            attached.stage = AttachStage::Attached { target };
                        }
                    }
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
        present: Option<&AttachedDisk>,
    ) -> Result<Next, StepError> {
        let known = matches!(attached.stage, AttachStage::Attached { .. });
        if present.is_some() && known {
            return Ok(Next::Wait);
        }
        if matches!(attached.stage, AttachStage::Failed { .. }) {
            return Ok(Next::Wait);
        }
        let mut failed = None;
        if present.is_none() {
            let spec = match prepare::volume_spec(
                &self.shared.documents,
                &attached.volume,
                &attached.serial,
                0,
            ) {
                Ok(spec) => spec,
                Err(PrepareError::NotYet(_)) => return Ok(Next::Wait),
                Err(error) => return self.fail_attachment(attached, &error.to_string()).await,
            };
            if let Some(live) = &self.live
                && let Err(error) = live.handle.attach_disk(spec).await
            {
                failed = Some(error.to_string());
            }
        }
        if let Some(reason) = failed {
            return self.fail_attachment(attached, &reason).await;
        }
        tracing::info!(volume = %attached.volume, disk = %id, vmid = %machine.vmid, "volume attached");
        let volume = attached.volume.clone();
        report(&self.shared.documents, &self.id, |machine| {
            let target = free_target(machine);
            if let Some(attached) = machine
                .volumes
                .iter_mut()
                .find(|attached| attached.volume == volume)
                && attached.stage == AttachStage::Waiting
            {
                attached.stage = AttachStage::Attached { target };
            }
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
        report(&self.shared.documents, &self.id, |machine| {
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
        present: Option<&AttachedDisk>,
    ) -> Result<Next, StepError> {
        let Some(disk) = present else {
            return self.release_volume(machine, attached).await;
        };
        let refused = self.take_refusal();
        let due = self
            .asked_to_detach
            .is_none_or(|at| at + ASK_AGAIN <= Instant::now());
        if !disk.detaching || refused || due {
            if let Some(live) = &self.live {
                live.handle.begin_detach(id).await?;
            }
            self.asked_to_detach = Some(Instant::now());
        }
        if let AttachStage::Attached { target } = &attached.stage {
            let (volume, target) = (attached.volume.clone(), target.clone());
            report(&self.shared.documents, &self.id, |machine| {
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
        Ok(Next::WaitUntil(Instant::now() + ASK_AGAIN))
    }

    /// The guest has let go of it: machine and volume are told in one transaction, so that nobody else can have the
    /// volume before, and nobody has to wait for it after.
    async fn release_volume(
        &mut self,
        machine: &Cached<Machine>,
        attached: &AttachedVolume,
    ) -> Result<Next, StepError> {
        let documents = &self.shared.documents;
        let mut next = machine.document.0.clone();
        next.volumes.retain(|other| other.volume != attached.volume);
        next.settle();
        let mut changes = documents.changes().replace(machine, next);
        if let Some(read) = documents.volumes.get(attached.volume.local()) {
            let ours = read
                .attachment
                .as_ref()
                .is_some_and(|attachment| attachment.machine == machine.document.id);
            if ours {
                let mut volume: Volume = read.document.0.clone();
                volume.attachment = None;
                changes = changes.replace(&read, volume);
            }
        }
        match changes.commit().await {
            Ok(_) => {
                tracing::info!(volume = %attached.volume, vmid = %machine.vmid, "volume released");
                self.asked_to_detach = None;
                Ok(Next::Again)
            }
            Err(error) if error.is_conflict() => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
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
    let mut targets = (machine.disks.len()..).map(prepare::target);
    targets
        .by_ref()
        .take(26)
        .find(|target| !used(target))
        .unwrap_or_else(|| "vdz".to_owned())
}

fn sooner(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::Again, _) | (_, Next::Again) => Next::Again,
        (Next::WaitUntil(a), Next::WaitUntil(b)) => Next::WaitUntil(a.min(b)),
        (until @ Next::WaitUntil(_), _) | (_, until @ Next::WaitUntil(_)) => until,
        (a, _) => a,
    }
}

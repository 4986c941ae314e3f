//! Wanted off or gone: asks the guest, then no longer, and gives everything back.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cimi::{
    Timestamp,
    lifecycle::{EndCause, Stage},
    resources::{Image, Machine},
};
use documents::Cached;
use storage::quarantine::Quarantine;
use uuid::Uuid;

use super::{Next, Pressed, StepError, Worker, blocking, sooner};
use crate::{
    HypervisorError, RunState,
    controller::{
        prepare::{self, PrepareError},
        report::{enter, report},
    },
};

/// How often the power button is pressed: a guest that was just booting when it was pressed first doesn't know of it.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// Why a machine that is removed is still there.
const LEFT_ELSEWHERE: &str = "waits until the host that had it before is back and has ended it there, or is removed from the cloud";

impl Worker {
    /// Presses the power button for this wish, again from time to time; says until when to wait. `None`: the guest had
    /// its time.
    pub(super) async fn press(&mut self, machine: &Machine) -> Result<Option<Instant>, StepError> {
        let desired = &machine.desired;
        let wish = (desired.run, desired.restart, desired.power, desired.deleted);
        let now = Instant::now();
        let known = self.pressed.as_ref().filter(|pressed| pressed.wish == wish);
        let until = match known {
            Some(pressed) if pressed.until <= now => return Ok(None),
            Some(pressed) if pressed.again > now => {
                return Ok(Some(pressed.until.min(pressed.again)));
            }
            Some(pressed) => pressed.until,
            None => {
                // A wish that is older than the limit (the daemon was away) had its time, too.
                let waited = Timestamp::now().since(desired.since);
                now + self
                    .shared
                    .settings
                    .power_button_limit
                    .saturating_sub(waited)
            }
        };
        if let Some(live) = &self.live {
            live.handle.power_button().await?;
        }
        let again = now + PRESS_AGAIN;
        self.pressed = Some(Pressed { wish, until, again });
        Ok((until > now).then_some(until.min(again)))
    }

    /// Lets a guest go on that was halted as asked, so that it can hear the power button. Whether it was one.
    async fn wakes(&self, machine: &Machine, state: RunState) -> Result<bool, StepError> {
        let held = state == RunState::Paused && machine.observed.stage == Stage::Held;
        if held && let Some(live) = &self.live {
            live.handle.cont().await?;
        }
        Ok(held)
    }

    /// Whether a guest in this state can obey a power button.
    pub(super) const fn listens(state: RunState) -> bool {
        matches!(state, RunState::Running | RunState::Suspended)
    }

    /// Removal: shut down if asked to, then release everything and finish with the document.
    pub(super) async fn remove(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        if let Some(state) = state {
            if machine.desired.graceful && self.wakes(machine, state).await? {
                return Ok(Next::Again);
            }
            if machine.desired.graceful
                && Self::listens(state)
                && let Some(until) = self.press(machine).await?
            {
                report(&self.shared.documents, self.own(), |machine| {
                    machine.reason = Some("waits for the guest to shut down".to_owned());
                })
                .await?;
                return Ok(Next::WaitUntil(until));
            }
            self.quit().await?;
        }
        if let Some(next) = self.wait_until_saved(machine).await? {
            return Ok(next);
        }
        self.release(machine).await?;
        if !machine.left_on.is_empty() {
            report(&self.shared.documents, self.own(), |machine| {
                machine.reason = Some(LEFT_ELSEWHERE.to_owned());
            })
            .await?;
            return Ok(Next::Wait);
        }
        let now = Timestamp::now();
        match documents::step::end(&self.shared.documents, machine, now)
            .commit()
            .await
        {
            Ok(_) => {
                tracing::info!(vmid = %machine.vmid, "machine removed");
                Ok(Next::End)
            }
            Err(error) if error.is_conflict() => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a machine that is removed until its disk is saved, if that was asked for. A kill doesn't wait.
    async fn wait_until_saved(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Option<Next>, StepError> {
        if !machine.desired.graceful {
            return Ok(None);
        }
        let Some(image) = self.being_saved(machine).await? else {
            return Ok(None);
        };
        // Whoever merges the disk waits for this.
        let ended = Stage::Ended {
            cause: EndCause::Requested,
        };
        if !matches!(machine.observed.stage, Stage::Ended { .. }) {
            self.unplug(machine).await?;
        }
        let run = machine.desired.run;
        let reason = match &image.reason {
            None => format!("its disk is being saved as {}", image.id),
            Some(reason) => format!(
                "its disk is to be saved as {}, which is tried again: {reason}",
                image.id
            ),
        };
        report(&self.shared.documents, self.own(), |machine| {
            if !matches!(machine.observed.stage, Stage::Ended { .. }) {
                enter(machine, ended.clone(), run);
                machine.accelerator = None;
            }
            machine.reason = Some(reason.clone());
        })
        .await?;
        Ok(Some(Next::Wait))
    }

    /// The image that this machine's disk is still to become. What the caches don't show yet is asked of the store: a
    /// disk that isn't saved yet must not go because of a cache that is behind.
    pub(super) async fn being_saved(&self, machine: &Machine) -> Result<Option<Image>, StepError> {
        let Some(id) = &machine.saved_as else {
            return Ok(None);
        };
        let local = id.href.local();
        let image = match self.shared.documents.images.get(local) {
            Some(read) => Some(read.document.0.clone()),
            None => self.shared.documents.stored::<Image>(local).await?,
        };
        Ok(image.filter(Image::is_on_its_way))
    }

    /// Gives back interfaces, disks and folder. What is gone already is fine.
    pub(super) async fn release(&mut self, machine: &Machine) -> Result<(), StepError> {
        if self.live.is_none() && self.shared.hypervisor.lives(&self.folder(machine))? {
            // Nobody holds it, and yet it is there: it is looked for anew, and ended then.
            self.adopted = false;
            return Err(HypervisorError::AlreadyRunning {
                folder: self.folder(machine),
            }
            .into());
        }
        self.unplug(machine).await?;
        let (folder, quarantine) = (self.folder(machine), self.shared.quarantine.clone());
        let uuid = prepare::uuid(machine)?;
        let ran = machine.first_started.is_some();
        // A disk that never ran holds nothing worth a look.
        blocking(move || clear(folder, ran.then_some((quarantine, uuid)))).await
    }

    pub(super) async fn unplug(&self, machine: &Machine) -> Result<(), StepError> {
        for (name, request) in prepare::plug_requests(machine) {
            let Some(network) = self.shared.documents.networks.get(&name) else {
                continue;
            };
            self.shared
                .network(&network)
                .await?
                .unplug(&request.nic, request.ip)
                .await?;
        }
        Ok(())
    }

    /// Wanted off.
    pub(super) async fn bring_down(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        // Who is wanted off is restarted no more, also if it is wanted on again before it is off.
        if machine.desired.restart > machine.observed.restart {
            return self.restarted(machine).await;
        }
        if let Some(state) = state {
            if !machine.desired.force && self.wakes(machine, state).await? {
                return Ok(Next::Again);
            }
            if !machine.desired.force
                && Self::listens(state)
                && let Some(until) = self.press(machine).await?
            {
                let next = self.settle_devices(machine).await?;
                return Ok(sooner(next, Next::WaitUntil(until)));
            }
            self.quit().await?;
        }
        self.restarts = 0;
        let ended = Stage::Ended {
            cause: EndCause::Requested,
        };
        let started = machine.observed.run > 0 || machine.desired.run > 0;
        if started && !matches!(machine.observed.stage, Stage::Ended { .. }) {
            self.unplug(machine).await?;
            self.forget_memory(machine).await?;
            let run = machine.desired.run;
            report(&self.shared.documents, self.own(), |machine| {
                enter(machine, ended.clone(), run);
                machine.reason = None;
                machine.accelerator = None;
            })
            .await?;
            return Ok(Next::Again);
        }
        self.settle_devices(machine).await
    }
}

/// Removes the folder of a machine, once its root disk is in the quarantine if it is to go there. What is gone already is fine;
/// whatever else is in the way keeps the folder as it is.
fn clear(folder: PathBuf, keep_disk: Option<(Quarantine, Uuid)>) -> Result<(), StepError> {
    if let Some((quarantine, machine)) = keep_disk {
        let root = folder.join("root.qcow2");
        quarantine.put(&root, machine, jiff::Timestamp::now())?;
    }
    match std::fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(PrepareError::File {
            path: folder,
            source,
        }
        .into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_until_its_disk_is_put_away() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, kept) = (dir.path().join("machine"), dir.path().join("quarantine"));
        let quarantine = Quarantine::open(&kept).unwrap();
        let clear = || clear(folder.clone(), Some((quarantine.clone(), Uuid::nil())));
        let disk = folder.join("root.qcow2");
        // Nobody can say what is there (ELOOP).
        std::os::unix::fs::symlink(&folder, &folder).unwrap();
        clear().unwrap_err();
        assert!(folder.is_symlink());
        std::fs::remove_file(&folder).unwrap();
        // There is no quarantine just now.
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&disk, b"precious").unwrap();
        let aside = kept.with_extension("aside");
        std::fs::rename(&kept, &aside).unwrap();
        clear().unwrap_err();
        assert_eq!(std::fs::read(&disk).unwrap(), b"precious");
        std::fs::rename(&aside, &kept).unwrap();
        clear().unwrap();
        assert!(!folder.exists());
        let entries = quarantine.list().unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(std::fs::read(&entries[0].path).unwrap(), b"precious");
        // All is gone already.
        clear().unwrap();
    }
}

//! Wanted on, but to rest: halts the guest, or writes its memory to disk and ends its process; and lets it go on.
//!
//! Each step looks at what is there. A save goes on in QEMU while this program is away; what it left is `memory` (whole)
//! or `memory.part` (to be thrown away), so a half-written memory is never read.

use std::time::{Duration, Instant};

use cimi::{
    Timestamp,
    lifecycle::{EndCause, Stage},
    resources::Machine,
};
use documents::Cached;

use super::{Next, StepError, Worker, blocking, on::restarting};
use crate::{
    RunState,
    controller::{
        memory::{self, MemoryRecord},
        prepare::PrepareError,
        report::{enter, report},
    },
    hypervisor::{RunFolder, Saving},
};

/// How often a save is looked at that tells nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a save may take, and how much longer for each MiB of memory: 8 MiB/s is a poor disk.
const SAVE_LIMIT: Duration = Duration::from_secs(60);
const SAVE_LIMIT_PER_MIB: Duration = Duration::from_millis(125);

/// QEMU is about to come to another state.
pub(super) fn in_a_moment() -> Next {
    Next::WaitUntil(Instant::now() + LOOK_AGAIN / 5)
}

impl Worker {
    pub(super) fn run_folder(&self, machine: &Machine) -> RunFolder {
        RunFolder(self.folder(machine))
    }

    /// To be paused.
    pub(super) async fn hold(
        &mut self,
        machine: &Cached<Machine>,
        state: RunState,
    ) -> Result<Next, StepError> {
        if !matches!(state, RunState::Prelaunch | RunState::Paused)
            && let Some(live) = &self.live
        {
            live.handle.pause().await?;
        }
        let run = machine.desired.run;
        if machine.observed.stage == Stage::Held && machine.observed.run == run {
            return self.settle_devices(machine).await;
        }
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Held, run);
            machine.reason = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// To be suspended, and its process lives: begins, waits, or finishes.
    pub(super) async fn save(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        let handle = live.handle.clone();
        let ours = machine.observed.stage == Stage::Saving;
        let begun = self.saving_since;
        match handle.saving().await? {
            Saving::GoesOn { written } if ours => {
                let began = *self.saving_since.get_or_insert_with(Instant::now);
                let limit = SAVE_LIMIT
                    + SAVE_LIMIT_PER_MIB
                        .saturating_mul(u32::try_from(machine.memory / 1024).unwrap_or(u32::MAX));
                if began.elapsed() > limit {
                    handle.cancel_save().await?;
                    return self
                        .refuse_rest(
                            machine,
                            format!("writing its memory took longer than {limit:?}"),
                        )
                        .await;
                }
                tracing::debug!(vmid = %machine.vmid, written, "memory is being written");
                Ok(Next::WaitUntil(Instant::now() + LOOK_AGAIN))
            }
            // It may have come to its end since its state was read.
            Saving::Complete if ours => match handle.status().await?.run_state {
                RunState::Saved => self.finish_save(machine).await,
                RunState::Saving => Ok(in_a_moment()),
                // An earlier save left this: the guest has run since.
                _ => self.begin_save(machine).await,
            },
            Saving::Failed(why) if ours && begun.is_some() => self.refuse_rest(machine, why).await,
            _ => self.begin_save(machine).await,
        }
    }

    async fn begin_save(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        let handle = live.handle.clone();
        let settings = &self.shared.settings;
        // Devices have memory, too.
        let bytes = (machine.memory * 1024).saturating_add(64 << 20);
        let room = storage::space::require(&settings.machines_dir, bytes, settings.reserve_bytes);
        if let Err(error) = room {
            return self.refuse_rest(machine, error.to_string()).await;
        }
        handle.pause().await?;
        let run = machine.desired.run;
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Saving, run);
            machine.reason = None;
        })
        .await?;
        let folder = self.run_folder(machine);
        let path = folder.unfinished_memory();
        let file = blocking(move || {
            memory::create(&folder).map_err(|source| PrepareError::File { path, source }.into())
        })
        .await;
        let begun = match file {
            Ok(file) => handle.begin_save(file).await.map_err(StepError::from),
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => {
                tracing::info!(vmid = %machine.vmid, "its memory is written to disk");
                self.saving_since = Some(Instant::now());
                Ok(Next::WaitUntil(Instant::now() + LOOK_AGAIN))
            }
            Err(error) => self.refuse_rest(machine, error.to_string()).await,
        }
    }

    /// All is written: makes it durable, ends the process, says so.
    async fn finish_save(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        let status = live.handle.status().await?;
        let folder = self.run_folder(machine);
        let path = folder.memory();
        let written = blocking(move || {
            if memory::is_there(&folder) {
                return Ok(());
            }
            let record = MemoryRecord::of(&folder, &status);
            memory::finish(&folder, &record)
                .map_err(|source| PrepareError::File { path, source }.into())
        })
        .await;
        if let Err(error) = written {
            return self.refuse_rest(machine, error.to_string()).await;
        }
        self.quit().await?;
        self.suspended(machine).await
    }

    async fn suspended(&mut self, machine: &Machine) -> Result<Next, StepError> {
        self.saving_since = None;
        self.unplug(machine).await?;
        let run = machine.desired.run;
        tracing::info!(vmid = %machine.vmid, "machine suspended");
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Suspended, run);
            machine.reason = None;
            machine.accelerator = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Its process ended while its memory was written, or right after.
    pub(super) async fn saved_or_lost(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Next, StepError> {
        let folder = self.run_folder(machine);
        let whole = blocking(move || Ok(memory::is_there(&folder))).await?;
        if whole {
            self.suspended(machine).await
        } else {
            self.forget_memory(machine).await?;
            self.ended(machine, EndCause::HypervisorDied).await
        }
    }

    /// It can't be done: it goes on, and its user is told why.
    async fn refuse_rest(
        &mut self,
        machine: &Cached<Machine>,
        why: String,
    ) -> Result<Next, StepError> {
        tracing::warn!(vmid = %machine.vmid, why, "machine can't be suspended");
        self.saving_since = None;
        let wish: Timestamp = machine.desired.since;
        report(&self.shared.documents, self.own(), |machine| {
            // It may be wanted no more.
            if machine.desired.since == wish {
                machine.observed.refused = Some(wish);
                machine.reason = Some(format!("it could not be suspended: {why}"));
            }
        })
        .await?;
        Ok(Next::Again)
    }

    /// Halted as it was asked, and now to go on.
    pub(super) async fn go_on(
        &mut self,
        machine: &Cached<Machine>,
        state: RunState,
    ) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        let handle = live.handle.clone();
        self.saving_since = None;
        if state != RunState::Saved && matches!(handle.saving().await?, Saving::GoesOn { .. }) {
            handle.cancel_save().await?;
            return Ok(in_a_moment());
        }
        self.forget_memory(machine).await?;
        if restarting(machine) {
            return self.reset(machine).await;
        }
        self.set_links(machine).await?;
        handle.cont().await?;
        if machine.observed.stage == Stage::Booting {
            tracing::info!(vmid = %machine.vmid, "machine goes on from its memory");
        }
        Ok(Next::Again)
    }

    /// Removes saved memory, so that nobody ever goes on from it.
    pub(super) async fn forget_memory(&self, machine: &Machine) -> Result<(), StepError> {
        let folder = self.run_folder(machine);
        let path = folder.memory();
        blocking(move || {
            memory::discard(&folder).map_err(|source| PrepareError::File { path, source }.into())
        })
        .await
    }

    /// Its memory is being read back: waits; QEMU ends if it can't.
    pub(super) async fn loading(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let run = machine.desired.run;
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Booting, run);
        })
        .await?;
        Ok(in_a_moment())
    }

    /// Whether memory is there that could not be read back by the process that has just ended.
    pub(super) async fn could_not_load(&self, machine: &Machine) -> Result<bool, StepError> {
        let folder = self.run_folder(machine);
        blocking(move || Ok(memory::is_there(&folder))).await
    }
}

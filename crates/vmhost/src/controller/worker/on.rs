//! Wanted on: lets it run, restarts it, and decides what follows an end that nobody asked for.

use std::time::{Duration, Instant};

use cimi::{
    Timestamp,
    lifecycle::{EndCause, Power, Rest, RestartPolicy, Stage},
    resources::Machine,
};
use documents::Cached;

use super::{Next, StepError, Worker, back_off, rest::in_a_moment, sooner};
use crate::{
    ExitCause, RunState,
    controller::{
        host::kind,
        report::{enter, reason_of, report},
    },
};

/// A run that lasted so long ends a series of failing restarts.
const STABLE: Duration = Duration::from_secs(300);
/// How often a machine that was halted by a full disk is tried again.
const RESUME_AGAIN: Duration = Duration::from_secs(5);

/// Whether its run is to begin anew, by a wish that nothing was done about yet.
pub(super) fn restarting(machine: &Machine) -> bool {
    machine.desired.restarts(&machine.observed)
}

impl Worker {
    /// Wanted on.
    pub(super) async fn bring_up(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        let (wanted, seen) = (machine.desired.run, &machine.observed);
        let new_run = seen.run < wanted;
        let rest = machine.desired.rest_as_seen(seen);
        let was_halted = new_run
            || matches!(
                seen.stage,
                Stage::Held | Stage::Saving | Stage::Booting | Stage::Crossing
            );
        match state {
            None => match &seen.stage {
                _ if new_run => {
                    self.restarts = 0;
                    self.start(machine).await
                }
                Stage::Waiting | Stage::Preparing => self.start(machine).await,
                // An earlier life of this controller was killed while it started it: nobody has seen it run yet.
                Stage::Booting if !self.seen_alive => self.start(machine).await,
                Stage::Booting if self.could_not_load(machine).await? => {
                    self.not_read_back(machine).await
                }
                Stage::Saving => self.saved_or_lost(machine).await,
                // Its devices are in its memory: nothing is changed about them.
                Stage::Suspended if rest == Some(Rest::Suspend) => {
                    self.settle_ports(machine).await?;
                    Ok(Next::Wait)
                }
                Stage::Suspended => self.start(machine).await,
                Stage::Booting | Stage::Running | Stage::Paused | Stage::Held | Stage::Crossing => {
                    self.ended(machine, EndCause::HypervisorDied).await
                }
                Stage::Ended { cause } => self.after_end(machine, *cause).await,
                Stage::Failed => self.after_failure(machine).await,
                Stage::Releasing => self.settle_devices(machine).await,
            },
            // It has executed nothing yet: every restart that was asked for is carried out by it.
            Some(RunState::Prelaunch) if machine.desired.restart > seen.restart => {
                self.restarted(machine).await
            }
            Some(state @ RunState::Prelaunch) if rest == Some(Rest::Pause) => {
                self.hold(machine, state).await
            }
            Some(RunState::Prelaunch) => self.let_run(machine).await,
            Some(RunState::ShutDown | RunState::Panicked) if restarting(machine) => {
                self.reset(machine).await
            }
            // It was asked to stop before it was asked to start again.
            Some(RunState::ShutDown | RunState::Panicked) if new_run => {
                self.quit().await?;
                self.unplug(machine).await?;
                Ok(Next::Again)
            }
            Some(RunState::ShutDown) => self.ended(machine, EndCause::GuestShutdown).await,
            Some(RunState::Panicked) => self.ended(machine, EndCause::GuestPanic).await,
            Some(RunState::Exited) => Ok(Next::Again),
            Some(RunState::Loading) => self.loading(machine).await,
            Some(RunState::Saving) => Ok(in_a_moment()),
            // A newer run than the one that was asked to stop begins when it has stopped, or has had its time.
            Some(RunState::Running)
                if new_run
                    && seen.stage == Stage::Running
                    && let Some(until) = self.stopping_until() =>
            {
                let next = self.settle_devices(machine).await?;
                Ok(sooner(next, Next::WaitUntil(until)))
            }
            Some(_) if rest == Some(Rest::Suspend) => self.save(machine).await,
            Some(state) if rest == Some(Rest::Pause) && !restarting(machine) => {
                self.hold(machine, state).await
            }
            Some(state @ (RunState::Paused | RunState::Other)) if was_halted => {
                self.go_on(machine, state).await
            }
            Some(state @ RunState::Saved) => self.go_on(machine, state).await,
            Some(RunState::Running | RunState::Suspended) => self.running(machine).await,
            Some(state @ (RunState::Paused | RunState::IoError | RunState::Other)) => {
                self.halted(machine, state).await
            }
        }
    }

    /// The guest runs as wanted: report it, restart it if asked to, look after its volumes.
    pub(super) async fn running(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        if machine.observed.stage != Stage::Running || machine.observed.run < machine.desired.run {
            let (run, accelerator) = (machine.desired.run, kind(self.shared.accelerator().kind));
            let stood_still = self.stood_still.take();
            report(&self.shared.documents, self.own(), |machine| {
                enter(machine, Stage::Running, run);
                if let (Some(passage), Some(stood_still)) =
                    (&mut machine.observed.passage, stood_still)
                {
                    let millis = u64::try_from(stood_still.as_millis());
                    passage.downtime_millis = Some(millis.unwrap_or(u64::MAX));
                }
                if machine.observed.refused != Some(machine.desired.since) {
                    machine.reason = None;
                }
                machine.accelerator = Some(accelerator);
                machine.first_started.get_or_insert_with(Timestamp::now);
            })
            .await?;
            return Ok(Next::Again);
        }
        if restarting(machine) {
            if !machine.desired.force
                && let Some(until) = self.press(machine).await?
            {
                let next = self.settle_devices(machine).await?;
                return Ok(sooner(next, Next::WaitUntil(until)));
            }
            return self.reset(machine).await;
        }
        self.settle_devices(machine).await
    }

    /// Until when a guest may obey the power button that this worker pressed to stop it.
    fn stopping_until(&self) -> Option<Instant> {
        let pressed = self.pressed.as_ref()?;
        let (.., power, _) = pressed.wish;
        (power == Power::Off && pressed.until > Instant::now()).then_some(pressed.until)
    }

    /// Its process ended while it read its memory back. The memory is kept.
    async fn not_read_back(&mut self, machine: &Machine) -> Result<Next, StepError> {
        self.quit().await?;
        self.unplug(machine).await?;
        let how = self.exit.take().unwrap_or(ExitCause::Unseen);
        let output = crate::hypervisor::RunFolder(self.folder(machine)).output();
        let words = super::blocking(move || Ok(crate::qemu::last_words(&output))).await?;
        let reason = format!(
            "its memory could not be read back ({how}): {words}; it is kept: start it again to try again, or restart \
             it to boot without it"
        );
        tracing::warn!(vmid = %machine.vmid, reason, "machine could not go on from its memory");
        let run = machine.desired.run;
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Failed, run);
            machine.observed.has_memory = true;
            machine.reason = Some(reason.clone());
            machine.accelerator = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Resets the guest for a restart that was asked for.
    pub(super) async fn reset(&mut self, machine: &Machine) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        live.handle.reset().await?;
        live.handle.cont().await?;
        self.pressed = None;
        self.restarted(machine).await
    }

    /// No restart that was asked for so far is still to be carried out.
    pub(super) async fn restarted(&self, machine: &Machine) -> Result<Next, StepError> {
        let restart = machine.desired.restart;
        report(&self.shared.documents, self.own(), |machine| {
            machine.observed.restart = restart;
            machine.reason = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Halted by somebody, or by a disk that could not be written.
    pub(super) async fn halted(
        &mut self,
        machine: &Cached<Machine>,
        state: RunState,
    ) -> Result<Next, StepError> {
        if restarting(machine) {
            // It can't obey a power button.
            return self.reset(machine).await;
        }
        let reason = match state {
            RunState::IoError => {
                "halted: a disk could not be written (is the host's disk full?); it goes on when it can"
            }
            RunState::Paused => "paused at the hypervisor",
            _ => "the hypervisor can't go on",
        };
        let run = machine.desired.run;
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Paused, run);
            machine.reason = Some(reason.to_owned());
        })
        .await?;
        if state != RunState::IoError {
            return self.settle_devices(machine).await;
        }
        let due = self
            .resumed_at
            .map_or_else(Instant::now, |at| at + RESUME_AGAIN);
        if due <= Instant::now() {
            self.resumed_at = Some(Instant::now());
            if self.enough_space()
                && let Some(live) = &self.live
            {
                live.handle.cont().await?;
                return Ok(Next::Again);
            }
        }
        Ok(Next::WaitUntil(due.max(Instant::now() + RESUME_AGAIN)))
    }

    pub(super) fn enough_space(&self) -> bool {
        let settings = &self.shared.settings;
        storage::space::require(&settings.machines_dir, 0, settings.reserve_bytes / 2).is_ok()
    }

    /// The run is over without anybody having asked for it.
    pub(super) async fn ended(
        &mut self,
        machine: &Machine,
        cause: EndCause,
    ) -> Result<Next, StepError> {
        self.quit().await?;
        self.unplug(machine).await?;
        let seen = &machine.observed;
        if seen.stage == Stage::Running && Timestamp::now().since(seen.since) > STABLE {
            self.restarts = 0;
        }
        let run = machine.desired.run.max(seen.run);
        let how = self.exit.take().filter(|how| {
            cause == EndCause::HypervisorDied
                && !matches!(how, ExitCause::Unseen | ExitCause::Requested)
        });
        let reason = reason_of(cause, how.map(|how| how.to_string()).as_deref());
        tracing::info!(vmid = %machine.vmid, ?cause, reason, "run ended");
        report(&self.shared.documents, self.own(), |machine| {
            enter(machine, Stage::Ended { cause }, run);
            machine.reason.clone_from(&reason);
            if restarting(machine)
                && let Some(reason) = &mut machine.reason
            {
                reason.push_str("; it is started again, for it was to be restarted");
            }
            machine.accelerator = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Ended, yet wanted on: begins again if the policy says so.
    pub(super) async fn after_end(
        &mut self,
        machine: &Cached<Machine>,
        cause: EndCause,
    ) -> Result<Next, StepError> {
        if restarting(machine) {
            return self.restart_anew(machine).await;
        }
        let again = match (machine.restart_policy, cause) {
            (RestartPolicy::Never, _) | (_, EndCause::Requested) => false,
            (RestartPolicy::OnFailure, EndCause::GuestShutdown) => false,
            (RestartPolicy::OnFailure | RestartPolicy::Always, _) => true,
        };
        // Nothing is wrong with a machine that ended with its host.
        let at_once = cause == EndCause::HostReboot && self.restarts == 0;
        self.begin_again(machine, again, at_once).await
    }

    /// Could not be started. Who has run before and is to be kept running is tried again; who never ran waits for somebody to look
    /// at it.
    pub(super) async fn after_failure(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Next, StepError> {
        if restarting(machine) {
            return self.restart_anew(machine).await;
        }
        let again =
            machine.restart_policy != RestartPolicy::Never && machine.first_started.is_some();
        self.begin_again(machine, again, false).await
    }

    /// Its run was over before it could be restarted as it was asked to be: whatever ended it, it begins anew.
    async fn restart_anew(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        tracing::info!(vmid = %machine.vmid, "started again: its run ended before it was restarted");
        self.restarts = 0;
        self.start(machine).await
    }

    /// Starts a machine whose run is over, if it is to be, after a wait that grows from time to time.
    pub(super) async fn begin_again(
        &mut self,
        machine: &Cached<Machine>,
        again: bool,
        at_once: bool,
    ) -> Result<Next, StepError> {
        if !again {
            return self.settle_devices(machine).await;
        }
        let end = machine.observed.since;
        match self.restart_at {
            Some((of, at)) if of == end && at > Instant::now() => {
                let next = self.settle_devices(machine).await?;
                return Ok(sooner(next, Next::WaitUntil(at)));
            }
            Some((of, _)) if of == end => {}
            _ => {
                let wait = if at_once {
                    Duration::ZERO
                } else {
                    back_off(self.restarts)
                };
                self.restarts += 1;
                self.restart_at = Some((end, Instant::now() + wait));
                return Ok(Next::Again);
            }
        }
        tracing::info!(vmid = %machine.vmid, restarts = self.restarts, "started again by its restart policy");
        self.start(machine).await
    }
}

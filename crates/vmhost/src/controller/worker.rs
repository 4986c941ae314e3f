//! One machine's worker: compares what is wanted with what is there, and takes the next step.
//!
//! [`Worker::step`] is the whole logic; it looks at the document and at the hypervisor anew each time and returns when
//! to look again. Steps are idempotent, so being killed between or within them does no harm.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cimi::{
    Timestamp,
    lifecycle::{EndCause, Power, RestartPolicy, Stage},
    resources::{Endpoint, Machine},
};
use documents::{Cached, DocumentsError};
use network::Attachment;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    host::kind,
    prepare::{self, PrepareError},
    report::{enter, reason_of, report},
};
use crate::{
    ExitCause, HypervisorError, MachineEvent, RunState, RunningMachine,
    hypervisor::{Adopted, EventStream},
    serial::SerialLog,
};

/// First and longest wait before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A run that lasted so long ends a series of failing restarts.
const STABLE: Duration = Duration::from_secs(300);
/// How often the power button is pressed: a guest that was just booting when it was pressed first doesn't know of it.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// How often a machine that was halted by a full disk is tried again.
const RESUME_AGAIN: Duration = Duration::from_secs(5);

/// What to do after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at once.
    Again,
    /// Look again when something happens.
    Wait,
    /// Look again when something happens, at the latest then.
    WaitUntil(Instant),
    /// The machine is no more, or not ours.
    End,
}

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The store.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// Disks, media.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Files.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A task of ours panicked or was ended.
    #[error("{0}")]
    Task(String),
}

/// A machine's process, and what it tells.
pub(super) struct Live {
    pub(super) handle: Arc<dyn RunningMachine>,
    /// `None` once it has told its last.
    events: Option<EventStream>,
    /// Held so that the console log stays within its bounds while the guest writes.
    _console: Option<Arc<SerialLog>>,
}

/// A power button that was pressed: for which wish, until when the guest may obey, and when it is pressed again.
struct Pressed {
    wish: (u64, u64, Power, bool),
    until: Instant,
    again: Instant,
}

/// See the module.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    bell: Arc<Notify>,
    stop: CancellationToken,
    pub(super) live: Option<Live>,
    /// Whether a process of an earlier life was looked for.
    adopted: bool,
    /// Whether the process of the present run was seen alive by this worker.
    seen_alive: bool,
    /// How the last process ended, as far as anybody saw.
    exit: Option<ExitCause>,
    pressed: Option<Pressed>,
    /// Steps that failed in a row.
    errors: u32,
    /// Starts by the restart policy in a row of which none lasted.
    restarts: u32,
    /// When the end of that moment is followed by a start.
    restart_at: Option<(Timestamp, Instant)>,
    resumed_at: Option<Instant>,
    pub(super) asked_to_detach: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: String,
        bell: Arc<Notify>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            id,
            bell,
            stop,
            live: None,
            adopted: false,
            seen_alive: false,
            exit: None,
            pressed: None,
            errors: 0,
            restarts: 0,
            restart_at: None,
            resumed_at: None,
            asked_to_detach: None,
        }
    }

    /// Works until the machine is no more or the controller stops.
    #[tracing::instrument(name = "machine", skip_all, fields(machine = %self.id))]
    pub(super) async fn run(mut self) {
        loop {
            if self.stop.is_cancelled() {
                return;
            }
            let next = match self.step().await {
                Ok(next) => {
                    self.errors = 0;
                    next
                }
                Err(error) => {
                    let wait = back_off(self.errors);
                    self.errors += 1;
                    tracing::warn!(%error, retry_in = ?wait, "step failed");
                    Next::WaitUntil(Instant::now() + wait)
                }
            };
            match next {
                Next::Again => {}
                Next::Wait => self.sleep(None).await,
                Next::WaitUntil(until) => self.sleep(Some(until)).await,
                Next::End => return,
            }
        }
    }

    /// Waits for a change of the document, an event of the hypervisor, or the time.
    async fn sleep(&mut self, until: Option<Instant>) {
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let event = async {
            match self.live.as_mut().and_then(|live| live.events.as_mut()) {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.bell.notified() => {}
            () = timer => {}
            event = event => self.note(event),
        }
    }

    /// Most events only say that it is time to look; what they say stands in the status, too.
    fn note(&mut self, event: Option<MachineEvent>) {
        match event {
            Some(MachineEvent::DetachRefused { disk }) => {
                tracing::info!(%disk, "the guest refused to let go of a disk; it will be asked again");
            }
            Some(MachineEvent::IoError {
                reason,
                no_space,
                halted,
                ..
            }) => {
                tracing::warn!(
                    reason,
                    no_space,
                    halted,
                    "a disk request of the guest failed"
                );
            }
            Some(event) => tracing::debug!(?event, "hypervisor event"),
            // Nothing more will come: a stream that has ended must not wake us again and again.
            None => {
                if let Some(live) = &mut self.live {
                    live.events = None;
                }
            }
        }
    }

    /// Looks at everything anew and takes one step.
    async fn step(&mut self) -> Result<Next, StepError> {
        let Some(machine) = self.shared.documents.machines.get(&self.id) else {
            return Ok(Next::End);
        };
        if machine.host.as_ref() != Some(&self.shared.host) {
            return Ok(Next::End);
        }
        if !self.adopted {
            self.adopt(&machine).await?;
            self.adopted = true;
        }
        let run_state = match self.run_state().await {
            Err(error) if self.may_use_force(&machine) => {
                tracing::warn!(%error, "its monitor doesn't answer: it will be ended by force");
                Some(RunState::Other)
            }
            other => other?,
        };
        if machine.desired.deleted {
            return self.remove(&machine, run_state).await;
        }
        match machine.desired.power {
            Power::Off => self.bring_down(&machine, run_state).await,
            Power::On => self.bring_up(&machine, run_state).await,
        }
    }

    /// Whether the machine is to be off or gone, and its guest needs not, or no longer, be asked.
    fn may_use_force(&self, machine: &Machine) -> bool {
        let desired = &machine.desired;
        let polite = if desired.deleted {
            desired.graceful
        } else {
            !desired.force
        };
        let waited = Timestamp::now().since(desired.since);
        (desired.deleted || desired.power == Power::Off)
            && (!polite || waited > self.shared.settings.power_button_limit)
    }

    /// Takes over the process of an earlier life of this controller, if there is one.
    async fn adopt(&mut self, machine: &Machine) -> Result<(), StepError> {
        match self.shared.hypervisor.adopt(&self.folder(machine)).await {
            Ok(Adopted::Running(handle)) => {
                tracing::info!(vmid = %machine.vmid, "took over a running machine");
                self.connect(machine, handle);
            }
            Ok(Adopted::Gone { how, .. }) => {
                tracing::debug!(?how, "its process is gone");
                self.exit = Some(how);
            }
            Ok(Adopted::Unreachable { process, why }) => {
                if !self.may_use_force(machine) {
                    return Err(why.into());
                }
                tracing::warn!(%why, pid = process.pid(), "it can't be taken over: it is ended by force");
                self.exit = Some(process.end().await?);
            }
            Err(HypervisorError::NeverStarted { .. }) => {}
            Err(error @ HypervisorError::Record { .. }) => {
                tracing::warn!(%error, "its process is gone");
                self.exit = Some(ExitCause::Unseen);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn connect(&mut self, machine: &Machine, handle: Arc<dyn RunningMachine>) {
        let events = handle.events();
        let console = self.shared.serial_log(machine);
        if let Err(error) = &console {
            tracing::warn!(%error, "the console log can't be watched; it may grow");
        }
        self.seen_alive = true;
        self.exit = None;
        self.live = Some(Live {
            handle,
            events: Some(events),
            _console: console.ok(),
        });
    }

    /// What the process says; `None` if there is none. A process that has ended is forgotten here.
    async fn run_state(&mut self) -> Result<Option<RunState>, StepError> {
        let Some(live) = &self.live else {
            return Ok(None);
        };
        let status = match live.handle.status().await {
            Ok(status) => status,
            Err(error) => {
                // A monitor that doesn't answer is not an end: only the end of the process is.
                tracing::debug!(%error, "the monitor doesn't answer");
                return Err(error.into());
            }
        };
        if status.run_state == RunState::Exited {
            // Clears up after it.
            let how = live.handle.quit().await?;
            tracing::info!(%how, "the process has ended");
            self.exit = Some(status.exit.unwrap_or(how));
            self.live = None;
            return Ok(None);
        }
        Ok(Some(status.run_state))
    }

    pub(super) fn folder(&self, machine: &Machine) -> PathBuf {
        prepare::folder(&self.shared.settings, machine)
    }

    /// Ends the process at once, if there is one.
    async fn quit(&mut self) -> Result<(), StepError> {
        if let Some(live) = self.live.take()
            && let Err(error) = live.handle.quit().await
        {
            self.live = Some(live);
            return Err(error.into());
        }
        self.pressed = None;
        Ok(())
    }

    /// Presses the power button for this wish, again from time to time; says until when to wait. `None`: the guest had
    /// its time.
    async fn press(&mut self, machine: &Machine) -> Result<Option<Instant>, StepError> {
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

    /// Whether a guest in this state can obey a power button.
    const fn listens(state: RunState) -> bool {
        matches!(state, RunState::Running | RunState::Suspended)
    }

    /// Removal: shut down if asked to, then release everything and finish with the document.
    async fn remove(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        if let Some(state) = state {
            if machine.desired.graceful
                && Self::listens(state)
                && let Some(until) = self.press(machine).await?
            {
                report(&self.shared.documents, &self.id, |machine| {
                    machine.reason = Some("waits for the guest to shut down".to_owned());
                })
                .await?;
                return Ok(Next::WaitUntil(until));
            }
            self.quit().await?;
        }
        self.release(machine).await?;
        let now = Timestamp::now();
        match documents::release::release_machine(&self.shared.documents, machine, now)
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

    /// Gives back interfaces, disks and folder. What is gone already is fine.
    async fn release(&mut self, machine: &Machine) -> Result<(), StepError> {
        self.unplug(machine).await?;
        let (folder, quarantine) = (self.folder(machine), self.shared.quarantine.clone());
        let uuid = prepare::uuid(machine)?;
        let ran = machine.first_started.is_some();
        blocking(move || {
            let root = folder.join("root.qcow2");
            // A disk that never ran holds nothing worth a look.
            if ran && root.exists() {
                quarantine.put(&root, uuid, jiff::Timestamp::now())?;
            }
            match std::fs::remove_dir_all(&folder) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    Err(PrepareError::File {
                        path: folder,
                        source,
                    }
                    .into())
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn unplug(&self, machine: &Machine) -> Result<(), StepError> {
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
    async fn bring_down(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        if let Some(state) = state {
            if !machine.desired.force
                && Self::listens(state)
                && let Some(until) = self.press(machine).await?
            {
                let next = self.settle_volumes(machine).await?;
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
            let run = machine.desired.run;
            report(&self.shared.documents, &self.id, |machine| {
                enter(machine, ended.clone(), run);
                machine.reason = None;
                machine.accelerator = None;
            })
            .await?;
            return Ok(Next::Again);
        }
        self.settle_volumes(machine).await
    }

    /// Wanted on.
    async fn bring_up(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Next, StepError> {
        let (wanted, seen) = (machine.desired.run, &machine.observed);
        let new_run = seen.run < wanted;
        match state {
            None => match &seen.stage {
                _ if new_run => {
                    self.restarts = 0;
                    self.start(machine).await
                }
                Stage::Waiting | Stage::Preparing => self.start(machine).await,
                // An earlier life of this controller was killed while it started it: nobody has seen it run yet.
                Stage::Booting if !self.seen_alive => self.start(machine).await,
                Stage::Booting | Stage::Running | Stage::Paused => {
                    self.ended(machine, EndCause::HypervisorDied).await
                }
                Stage::Ended { cause } => self.after_end(machine, *cause).await,
                Stage::Failed => self.after_failure(machine).await,
                Stage::Releasing | Stage::Lost => self.settle_volumes(machine).await,
            },
            Some(RunState::Prelaunch) => self.let_run(machine).await,
            Some(RunState::ShutDown | RunState::Panicked) if self.restarting(machine) => {
                self.reset(machine).await
            }
            Some(RunState::ShutDown) => self.ended(machine, EndCause::GuestShutdown).await,
            Some(RunState::Panicked) => self.ended(machine, EndCause::GuestPanic).await,
            Some(RunState::Exited) => Ok(Next::Again),
            Some(RunState::Running | RunState::Suspended) => self.running(machine).await,
            Some(state @ (RunState::Paused | RunState::IoError | RunState::Other)) => {
                self.halted(machine, state).await
            }
        }
    }

    fn restarting(&self, machine: &Machine) -> bool {
        machine.desired.restart > machine.observed.restart
            && machine.observed.run == machine.desired.run
    }

    /// The guest runs as wanted: report it, restart it if asked to, look after its volumes.
    async fn running(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        if machine.observed.stage != Stage::Running || machine.observed.run < machine.desired.run {
            let (run, accelerator) = (
                machine.desired.run,
                kind(self.shared.settings.accelerator.kind),
            );
            report(&self.shared.documents, &self.id, |machine| {
                // A new run begins with all restarts done.
                if machine.observed.run < run {
                    machine.observed.restart = machine.desired.restart;
                }
                enter(machine, Stage::Running, run);
                machine.reason = None;
                machine.accelerator = Some(accelerator);
                machine.first_started.get_or_insert_with(Timestamp::now);
            })
            .await?;
            return Ok(Next::Again);
        }
        if self.restarting(machine) {
            if !machine.desired.force
                && let Some(until) = self.press(machine).await?
            {
                return Ok(Next::WaitUntil(until));
            }
            return self.reset(machine).await;
        }
        self.settle_volumes(machine).await
    }

    /// Resets the guest for a restart that was asked for.
    async fn reset(&mut self, machine: &Machine) -> Result<Next, StepError> {
        let Some(live) = &self.live else {
            return Ok(Next::Again);
        };
        live.handle.reset().await?;
        live.handle.cont().await?;
        self.pressed = None;
        let restart = machine.desired.restart;
        report(&self.shared.documents, &self.id, |machine| {
            machine.observed.restart = restart;
            machine.reason = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Halted by somebody, or by a disk that could not be written.
    async fn halted(
        &mut self,
        machine: &Cached<Machine>,
        state: RunState,
    ) -> Result<Next, StepError> {
        if self.restarting(machine) {
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
        report(&self.shared.documents, &self.id, |machine| {
            enter(machine, Stage::Paused, run);
            machine.reason = Some(reason.to_owned());
        })
        .await?;
        if state != RunState::IoError {
            return self.settle_volumes(machine).await;
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

    fn enough_space(&self) -> bool {
        let settings = &self.shared.settings;
        storage::space::require(&settings.machines_dir, 0, settings.reserve_bytes / 2).is_ok()
    }

    /// The run is over without anybody having asked for it.
    async fn ended(&mut self, machine: &Machine, cause: EndCause) -> Result<Next, StepError> {
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
        report(&self.shared.documents, &self.id, |machine| {
            enter(machine, Stage::Ended { cause }, run);
            machine.reason.clone_from(&reason);
            machine.accelerator = None;
        })
        .await?;
        Ok(Next::Again)
    }

    /// Ended, yet wanted on: begins again if the policy says so.
    async fn after_end(
        &mut self,
        machine: &Cached<Machine>,
        cause: EndCause,
    ) -> Result<Next, StepError> {
        let again = match (machine.restart_policy, cause) {
            (RestartPolicy::Never, _) | (_, EndCause::Requested) => false,
            (RestartPolicy::OnFailure, EndCause::GuestShutdown) => false,
            (RestartPolicy::OnFailure | RestartPolicy::Always, _) => true,
        };
        // Nothing is wrong with a machine that ended with its host.
        let at_once = cause == EndCause::HostReboot && self.restarts == 0;
        self.begin_again(machine, again, at_once).await
    }

    /// Could not be started. Who has run before and is to be kept running is tried again; who never ran waits for
    /// somebody to look at it.
    async fn after_failure(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let again =
            machine.restart_policy != RestartPolicy::Never && machine.first_started.is_some();
        self.begin_again(machine, again, false).await
    }

    /// Starts a machine whose run is over, if it is to be, after a wait that grows from time to time.
    async fn begin_again(
        &mut self,
        machine: &Cached<Machine>,
        again: bool,
        at_once: bool,
    ) -> Result<Next, StepError> {
        if !again {
            return self.settle_volumes(machine).await;
        }
        let end = machine.observed.since;
        match self.restart_at {
            Some((of, at)) if of == end && at > Instant::now() => {
                let next = self.settle_volumes(machine).await?;
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

    /// Makes everything the machine needs, and starts its process.
    async fn start(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        match self.launch(machine).await {
            Ok(()) => Ok(Next::Again),
            Err(StepError::Prepare(PrepareError::NotYet(reason))) => {
                report(&self.shared.documents, &self.id, |machine| {
                    machine.reason = Some(reason.clone());
                })
                .await?;
                Ok(Next::Wait)
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
            Err(error) => {
                tracing::warn!(vmid = %machine.vmid, %error, "machine could not be started");
                self.quit().await?;
                // What keeps it from being plugged in may keep it from being unplugged; the user is told all the same.
                if let Err(error) = self.unplug(machine).await {
                    tracing::warn!(vmid = %machine.vmid, %error, "its interfaces can't be given back yet");
                }
                let (run, reason) = (machine.desired.run, error.to_string());
                report(&self.shared.documents, &self.id, |machine| {
                    enter(machine, Stage::Failed, run);
                    machine.reason = Some(reason.clone());
                })
                .await?;
                Ok(Next::Again)
            }
        }
    }

    async fn launch(&mut self, machine: &Cached<Machine>) -> Result<(), StepError> {
        self.seen_alive = false;
        let began = Instant::now();
        let shared = self.shared.clone();
        let document = machine.document.0.clone();
        let mut spec = blocking(move || {
            Ok(prepare::prepare(
                &shared.documents,
                &shared.settings,
                &*shared.hypervisor,
                &document,
            )?)
        })
        .await?;
        let mut waits = Vec::new();
        let mut ssh = None;
        for ((name, request), nic) in prepare::plug_requests(machine)
            .into_iter()
            .zip(&machine.nics)
        {
            let network = self.shared.documents.networks.get(&name).ok_or_else(|| {
                PrepareError::Missing(format!("network {name} does not exist any more"))
            })?;
            let plugged = self.shared.network(&network).await?.plug(&request).await?;
            if let Attachment::User(user) = &plugged.attachment {
                ssh.get_or_insert(Endpoint {
                    host: "127.0.0.1".to_owned(),
                    port: user.ssh_port,
                });
            }
            waits.push(plugged.ready);
            let ifname = plugged.ifname.as_str().to_owned();
            spec.nics.push(prepare::nic_spec(
                request.mac,
                nic.model.as_deref(),
                ifname,
                plugged.attachment,
            ));
        }
        metrics::histogram!("stratus_machine_prepare_seconds").record(began.elapsed());
        let run = machine.desired.run;
        let booting = report(&self.shared.documents, &self.id, |machine| {
            // A new process carries out every restart that was asked for so far.
            machine.observed.restart = machine.desired.restart;
            enter(machine, Stage::Booting, run);
            machine.reason = None;
            machine.ssh.clone_from(&ssh);
        });
        let hypervisor = &self.shared.hypervisor;
        let launched = if ssh == machine.ssh {
            let (launched, reported) = tokio::join!(hypervisor.launch(spec), booting);
            // Connected first: whatever happens to the report, the process is not to be lost.
            launched.map(|handle| (handle, reported))
        } else {
            // The port must be known before anybody listens on it, lest it be given to another machine after a crash.
            booting.await?;
            hypervisor
                .launch(spec)
                .await
                .map(|handle| (handle, Ok(true)))
        };
        let (handle, reported) = launched?;
        self.connect(machine, handle);
        reported?;
        for ready in waits {
            ready.wait().await?;
        }
        if let Some(live) = &self.live {
            live.handle.cont().await?;
        }
        metrics::histogram!("stratus_machine_start_seconds").record(began.elapsed());
        Ok(())
    }

    /// Started, but whoever started it died before letting it run.
    async fn let_run(&mut self, machine: &Machine) -> Result<Next, StepError> {
        for (name, _) in prepare::plug_requests(machine) {
            if let Some(network) = self.shared.documents.networks.get(&name) {
                self.shared.network(&network).await?;
            }
        }
        if let Some(live) = &self.live {
            live.handle.cont().await?;
        }
        Ok(Next::Again)
    }
}

/// How long to wait after so many failures before.
fn back_off(before: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << before.min(7)).min(BACKOFF.1)
}

/// Whichever looks again first.
pub(super) fn sooner(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::End, _) | (_, Next::End) => Next::End,
        (Next::Again, _) | (_, Next::Again) => Next::Again,
        (Next::WaitUntil(a), Next::WaitUntil(b)) => Next::WaitUntil(a.min(b)),
        (until @ Next::WaitUntil(_), Next::Wait) | (Next::Wait, until) => until,
    }
}

/// Runs what blocks on the disk where nobody waits for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StepError::Task(error.to_string()))?
}

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
    HypervisorError, MachineEvent, RunState, RunningMachine,
    hypervisor::{Adopted, EventStream},
    serial::SerialLog,
};

/// First and longest wait before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A run that lasted so long ends a series of failing restarts.
const STABLE: Duration = Duration::from_secs(300);

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
    events: EventStream,
    /// Held so that the console log stays within its bounds while the guest writes.
    _console: Option<Arc<SerialLog>>,
    /// What happened since the last step that a status can't tell any more.
    refused: bool,
}

/// A power button that was pressed: for which wish, and until when the guest may obey.
struct Pressed {
    wish: (u64, u64, bool),
    until: Instant,
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
    pressed: Option<Pressed>,
    failures: u32,
    retry_at: Option<Instant>,
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
            pressed: None,
            failures: 0,
            retry_at: None,
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
                    if next != Next::Again {
                        self.retry_at = None;
                    }
                    next
                }
                Err(error) => {
                    let wait = self.back_off();
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
            match &mut self.live {
                Some(live) => live.events.next().await,
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
                if let Some(live) = &mut self.live {
                    live.refused = true;
                }
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
            None => {}
        }
    }

    fn back_off(&mut self) -> Duration {
        let wait = BACKOFF
            .0
            .saturating_mul(1 << self.failures.min(7))
            .min(BACKOFF.1);
        self.failures += 1;
        self.retry_at = Some(Instant::now() + wait);
        wait
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
        let run_state = self.run_state().await?;
        if machine.desired.deleted {
            return self.remove(&machine, run_state).await;
        }
        match machine.desired.power {
            Power::Off => self.bring_down(&machine, run_state).await,
            Power::On => self.bring_up(&machine, run_state).await,
        }
    }

    /// Takes over the process of an earlier life of this controller, if there is one.
    async fn adopt(&mut self, machine: &Machine) -> Result<(), StepError> {
        let folder = self.folder(machine);
        if !folder.exists() {
            return Ok(());
        }
        match self.shared.hypervisor.adopt(&folder).await {
            Ok(Adopted::Running(handle)) => {
                tracing::info!(vmid = %machine.vmid, "took over a running machine");
                self.connect(machine, handle);
            }
            Ok(Adopted::Gone { how, .. }) => tracing::debug!(?how, "its process is gone"),
            // Made but never started.
            Err(HypervisorError::Record { .. }) => {}
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
        self.live = Some(Live {
            handle,
            events,
            _console: console.ok(),
            refused: false,
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
            let how = live.handle.quit().await;
            tracing::info!(?how, "the process has ended");
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
        if let Some(live) = self.live.take() {
            if let Err(error) = live.handle.quit().await {
                self.live = Some(live);
                return Err(error.into());
            }
        }
        self.pressed = None;
        Ok(())
    }

    /// Presses the power button once for this wish; says until when the guest may obey. `None`: it had its time.
    async fn press(&mut self, machine: &Machine) -> Result<Option<Instant>, StepError> {
        let wish = (
            machine.desired.run,
            machine.desired.restart,
            machine.desired.deleted,
        );
        if let Some(pressed) = &self.pressed
            && pressed.wish == wish
        {
            return Ok((pressed.until > Instant::now()).then_some(pressed.until));
        }
        let limit = self.shared.settings.power_button_limit;
        // A wish that is older than the limit (the daemon was away) had its time, too.
        let waited = Timestamp::now().since(machine.desired.since);
        let until = Instant::now() + limit.saturating_sub(waited);
        if let Some(live) = &self.live {
            live.handle.power_button().await?;
        }
        self.pressed = Some(Pressed { wish, until });
        Ok((waited < limit).then_some(until))
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
                self.settle_volumes(machine).await?;
                return Ok(Next::WaitUntil(until));
            }
            self.quit().await?;
        }
        self.unplug(machine).await?;
        let ended = Stage::Ended {
            cause: EndCause::Requested,
        };
        let started = machine.observed.run > 0 || machine.desired.run > 0;
        if started && !matches!(machine.observed.stage, Stage::Ended { .. }) {
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
                _ if new_run => self.start(machine).await,
                Stage::Waiting | Stage::Preparing => self.start(machine).await,
                // Between exec and the first report; or it ended while nobody looked.
                Stage::Booting | Stage::Running | Stage::Paused => {
                    let cause = if self.shared.rebooted {
                        EndCause::HostReboot
                    } else {
                        EndCause::HypervisorDied
                    };
                    self.ended(machine, cause).await
                }
                Stage::Ended { cause } => self.after_end(machine, *cause).await,
                Stage::Failed | Stage::Releasing | Stage::Lost => {
                    self.settle_volumes(machine).await
                }
            },
            Some(RunState::Prelaunch) => self.let_run(machine).await,
            Some(RunState::ShutDown) if self.restarting(machine) => self.reset(machine).await,
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
        if Timestamp::now().since(machine.observed.since) > STABLE {
            self.failures = 0;
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
        if state == RunState::IoError && self.enough_space() {
            if let Some(live) = &self.live {
                live.handle.cont().await?;
            }
        }
        Ok(Next::WaitUntil(Instant::now() + Duration::from_secs(5)))
    }

    fn enough_space(&self) -> bool {
        let settings = &self.shared.settings;
        storage::space::require(&settings.machines_dir, 0, settings.reserve_bytes / 2).is_ok()
    }

    /// The run is over without anybody having asked for it.
    async fn ended(&mut self, machine: &Machine, cause: EndCause) -> Result<Next, StepError> {
        self.quit().await?;
        self.unplug(machine).await?;
        let run = machine.desired.run.max(machine.observed.run);
        tracing::info!(vmid = %machine.vmid, ?cause, "run ended");
        report(&self.shared.documents, &self.id, |machine| {
            enter(machine, Stage::Ended { cause }, run);
            machine.reason = reason_of(cause, None);
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
        if !again {
            return self.settle_volumes(machine).await;
        }
        match self.retry_at {
            None => {
                let wait = self.back_off();
                Ok(Next::WaitUntil(Instant::now() + wait))
            }
            Some(at) if at > Instant::now() => Ok(Next::WaitUntil(at)),
            Some(_) => {
                tracing::info!(vmid = %machine.vmid, ?cause, "started again by its restart policy");
                self.start(machine).await
            }
        }
    }

    /// Makes everything the machine needs, and starts its process.
    async fn start(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        match self.launch(machine).await {
            Ok(()) => Ok(Next::Again),
            Err(StepError::Prepare(PrepareError::NotYet(reason))) => {
                report(&self.shared.documents, &self.id, |machine| {
                    machine.reason = Some(reason.clone())
                })
                .await?;
                Ok(Next::Wait)
            }
            Err(StepError::Documents(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(vmid = %machine.vmid, %error, "machine could not be started");
                self.quit().await?;
                self.unplug(machine).await?;
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
        let began = Instant::now();
        let shared = self.shared.clone();
        let document = machine.document.0.clone();
        let mut spec = blocking(move || {
            Ok(prepare::prepare(
                &shared.documents,
                &shared.settings,
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
            if machine.observed.run < run {
                machine.observed.restart = machine.desired.restart;
            }
            enter(machine, Stage::Booting, run);
            machine.reason = None;
            machine.ssh.clone_from(&ssh);
        });
        let (launched, reported) = tokio::join!(self.shared.hypervisor.launch(spec), booting);
        self.connect(machine, launched?);
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

    /// Whether the guest has refused to let go of a disk since this was last asked.
    pub(super) fn take_refusal(&mut self) -> bool {
        self.live
            .as_mut()
            .is_some_and(|live| std::mem::take(&mut live.refused))
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

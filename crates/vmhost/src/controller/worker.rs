//! One machine's worker: compares what is wanted with what is there, and takes the next step.
//!
//! [`Worker::step`] is the whole logic; it looks at the document and at the hypervisor anew each time and returns when
//! to look again. Steps are idempotent, so being killed between or within them does no harm. What it does for a machine
//! that is wanted [on](self::on) or [off](self::off), and how it [starts](self::start) one, stands in files of their own.

mod cross;
mod go;
mod leave;
mod off;
mod on;
mod rest;
mod start;
mod traffic;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cimi::{
    HostId, Timestamp,
    lifecycle::{Power, Stage},
    resources::Machine,
};
use documents::DocumentsError;
use futures::future;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(super) use self::start::{Plugged, plug};
use super::{
    Shared,
    console::BoundedLogs,
    crossing::{Come, Way},
    prepare::{self, PrepareError},
    report::report,
};
use crate::{
    ExitCause, HypervisorError, MachineEvent, RunState, RunningMachine, guard,
    hypervisor::{Adopted, EventStream},
};

/// First and longest wait before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

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
    /// What this worker has set of its links, by interface.
    pub(super) links: HashMap<usize, bool>,
    /// `None` once it has told its last.
    events: Option<EventStream>,
    /// None until they are watched.
    logs: Option<BoundedLogs>,
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
    /// What sends it to another host while its guest runs.
    going: Option<Way<()>>,
    /// What receives it from one.
    coming: Option<Way<Come>>,
    /// The machine that is to come so, as it was then.
    expected: Option<Machine>,
    /// Held while a process is started that receives it.
    launching: Arc<tokio::sync::Mutex<()>>,
    /// For how long its guest stood still when it came, until that is told.
    stood_still: Option<Duration>,
    /// When was told last how far it is.
    told: Option<Instant>,
    /// When this worker saw its memory being written first.
    saving_since: Option<Instant>,
    pub(super) asked_to_detach: Option<Instant>,
    /// Whether its folder says that it is guarded; none: not looked yet.
    marked: Option<bool>,
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
            going: None,
            coming: None,
            expected: None,
            launching: Arc::default(),
            stood_still: None,
            told: None,
            saving_since: None,
            asked_to_detach: None,
            marked: None,
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
            self.forget_arrival().await?;
            return Ok(Next::End);
        };
        let has_left = machine.left_on.contains(&self.shared.host);
        if has_left || machine.host.as_ref() != Some(&self.shared.host) {
            // Should it come back, then with other files: what is known of these says nothing of them.
            self.adopted = false;
            self.marked = None;
        }
        if has_left {
            return self.leave(&machine).await;
        }
        if machine.host.as_ref() != Some(&self.shared.host) {
            if machine.moving_to() == Some(&self.shared.host) {
                return self.arrive(&machine).await;
            }
            self.forget_arrival().await?;
            return Ok(Next::End);
        }
        if !self.adopted {
            self.take_in(&machine).await?;
            if self.is_to_be_guarded(&machine) {
                // Before its guest runs here.
                self.mark_guarded(&machine, true).await?;
            }
            self.go_on_here(&machine).await?;
            if let Err(error) = self.adopt(&machine).await {
                self.shared.note_silent(&self.id, Some(&error as _));
                return Err(error);
            }
            self.adopted = true;
        }
        if self.keep_guarded(&machine).await? {
            return Ok(Next::Again);
        }
        let run_state = self.run_state().await;
        let trouble = run_state.as_ref().err();
        self.shared
            .note_silent(&self.id, trouble.map(|error| error as _));
        let run_state = match run_state {
            Err(error) if self.may_use_force(&machine) => {
                tracing::warn!(%error, "its monitor doesn't answer: it will be ended by force");
                Some(RunState::Other)
            }
            other => other?,
        };
        if machine.desired.deleted {
            return self.remove(&machine, run_state).await;
        }
        if let Some(next) = self.cross(&machine, run_state).await? {
            return Ok(next);
        }
        if Self::stands_still(&machine, run_state) {
            return self.wait_to_go(&machine).await;
        }
        match machine.desired.power {
            Power::Off => self.bring_down(&machine, run_state).await,
            Power::On => self.bring_up(&machine, run_state).await,
        }
    }

    /// Whether it is to go on elsewhere if this host is lost, and there is a guard which ends it here then.
    fn is_to_be_guarded(&self, machine: &Machine) -> bool {
        let fence = self.shared.settings.fence.as_ref();
        fence.is_some_and(|fence| fence.guard.is_there()) && machine.goes_on_elsewhere()
    }

    /// Has the machine guarded or not, as it is to be; whether that was written. Its folder never says less than its document.
    async fn keep_guarded(&mut self, machine: &Machine) -> Result<bool, StepError> {
        let wanted = self.is_to_be_guarded(machine);
        if self.marked == Some(wanted) && machine.observed.guarded == wanted {
            return Ok(false);
        }
        if wanted {
            self.mark_guarded(machine, true).await?;
        }
        report(&self.shared.documents, self.own(), |machine| {
            machine.observed.guarded = wanted;
        })
        .await?;
        if !wanted && self.folder(machine).exists() {
            self.mark_guarded(machine, false).await?;
        }
        self.marked = Some(wanted);
        Ok(true)
    }

    async fn mark_guarded(&self, machine: &Machine, guarded: bool) -> Result<(), StepError> {
        let folder = self.folder(machine);
        blocking(move || {
            let marked = guard::mark(&folder, guarded);
            marked.map_err(|error| StepError::Task(format!("{}: {error}", folder.display())))
        })
        .await
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
                self.lead_to_volumes(machine).await?;
                // Who sent it to another host ended with who was here before.
                if !machine.has_left()
                    && machine.observed.stage != Stage::Crossing
                    && let Some(crossing) = handle.crossing()
                {
                    crossing.give_up().await?;
                    // Its way may have been given up meanwhile. One that it went to its end says nothing of who halted it.
                    let seen = &machine.observed;
                    let way = seen.passage.map(|passage| passage.way);
                    if machine.crossing().is_none() && way.is_some() && seen.left_for != way {
                        cross::let_run(machine, &*handle).await?;
                    }
                }
                self.connect(handle);
                self.bound_logs(machine).await;
            }
            Ok(Adopted::Gone { how, .. }) => {
                tracing::debug!(?how, "its process is gone");
                self.exit = Some(how);
            }
            Ok(Adopted::Unreachable { process, why }) => {
                if !self.may_use_force(machine) {
                    // It says nothing, either, while it waits for a volume: when its guest has switched itself off meanwhile.
                    self.lead_to_volumes(machine).await?;
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

    /// Opens the ways to its volumes, which ended with who was here before. Until they are there again QEMU doesn't even stop, unless
    /// it is ended by force: so nobody waits for them who wants something else of the machine.
    async fn lead_to_volumes(&self, machine: &Machine) -> Result<(), StepError> {
        let volumes = machine.volumes.iter();
        let ready = volumes.map(|attached| prepare::ready(&self.shared, machine, attached));
        let ready = futures::future::join_all(ready);
        let Some(ready) = self.unless_wanted_otherwise(machine, ready).await else {
            return match machine.observed.stage {
                Stage::Crossing => {
                    let why =
                        "its volumes were not at hand yet when something else was wanted of it";
                    Err(PrepareError::NotNow(why.to_owned()).into())
                }
                _ => Ok(()),
            };
        };
        for (attached, ready) in machine.volumes.iter().zip(ready) {
            let Err(error) = ready else { continue };
            if machine.observed.stage == Stage::Crossing {
                // It has come halted: nobody else may still write them when its guest goes on.
                return Err(error.into());
            }
            tracing::warn!(volume = %attached.volume, %error, "not at hand; tried again when it is looked at");
        }
        Ok(())
    }

    /// What comes of `work`, which can be given up at any point and begun again; none as soon as something else is wanted of the machine
    /// than when `machine` was read, or the controller stops.
    pub(super) async fn unless_wanted_otherwise<T>(
        &self,
        machine: &Machine,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let is_wanted_so = || {
            let now = self.shared.documents.machines.get(&self.id);
            now.is_some_and(|now| now.desired == machine.desired && now.host == machine.host)
        };
        let mut work = std::pin::pin!(work);
        let mut rung = false;
        let done = loop {
            tokio::select! {
                biased;
                // What needn't wait is done, whatever else is wanted.
                done = &mut work => break Some(done),
                () = self.stop.cancelled() => break None,
                () = future::ready(()), if !is_wanted_so() => break None,
                () = self.bell.notified() => rung = true,
            }
        };
        if rung {
            // Whatever has changed beside is for the next step.
            self.bell.notify_one();
        }
        done
    }

    fn connect(&mut self, handle: Arc<dyn RunningMachine>) {
        let events = handle.events();
        self.seen_alive = true;
        self.exit = None;
        self.shared.meters.follow(&self.id, &handle);
        self.live = Some(Live {
            handle,
            links: HashMap::new(),
            events: Some(events),
            logs: None,
        });
    }

    /// Keeps what the guest and its QEMU write within bounds from now on.
    async fn bound_logs(&mut self, machine: &Machine) {
        if let Some(live) = &mut self.live {
            live.logs = Some(self.shared.bound_logs(machine).await);
        }
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
            self.note_last_traffic().await;
            return Ok(None);
        }
        Ok(Some(status.run_state))
    }

    /// Of which machine it reports, as which host's.
    pub(super) fn own(&self) -> (&HostId, &str) {
        (&self.shared.host, &self.id)
    }

    pub(super) fn folder(&self, machine: &Machine) -> PathBuf {
        prepare::folder(&self.shared.settings, machine)
    }

    /// Ends the process at once, if there is one.
    async fn quit(&mut self) -> Result<(), StepError> {
        self.note_traffic().await;
        self.going = None;
        if let Some(live) = self.live.take()
            && let Err(error) = live.handle.quit().await
        {
            self.live = Some(live);
            return Err(error.into());
        }
        self.pressed = None;
        Ok(())
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

//! A machine that goes to another host: this one stands still for it, or receives it.

use std::{io, os::unix::fs::DirBuilderExt as _};

use cimi::{
    Timestamp,
    lifecycle::{Moving, Stage},
    resources::Machine,
};
use documents::{Cached, DocumentsError};

use super::{Next, StepError, Worker, blocking};
use crate::{
    RunState,
    controller::{
        arrival,
        prepare::{self, PrepareError},
        report::report,
    },
    moving,
};

/// Copies that fail in a row before the machine goes on where it is: it stands still for a minute then, as long as an entry may be
/// away.
const TRIES: u32 = 7;

impl Worker {
    /// Whether nothing of the machine is at work any more on this host, which it is to leave. Whatever else is wanted of it is done
    /// on the other one: its files stay as they are.
    pub(super) fn stands_still(machine: &Machine, state: Option<RunState>) -> bool {
        let rests = matches!(
            machine.observed.stage,
            Stage::Waiting | Stage::Suspended | Stage::Failed | Stage::Ended { .. }
        );
        let leaves = machine.desired.leaving();
        let leaves = leaves.is_some_and(|way| machine.observed.stays != Some(way.since));
        rests && state.is_none() && leaves
    }

    /// Lets go of all that isn't a file, and says that the other host may have those. Nothing is started any more until that is
    /// given up.
    pub(super) async fn wait_to_go(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Next, StepError> {
        if self.being_saved(machine).await?.is_some() {
            return Ok(Next::Wait);
        }
        // What the other host has of it is of a time at which it ran.
        if let Some(passage) = machine.passage().copied() {
            return self
                .stay(machine, passage.way, "it ended on the way".to_owned())
                .await;
        }
        let way = machine.desired.leaving().map(|moving| moving.since);
        if machine.observed.left_for != way {
            self.unplug(machine).await?;
            report(&self.shared.documents, self.own(), |machine| {
                // It may be given up by now.
                if machine.desired.leaving().map(|moving| moving.since) == way {
                    machine.observed.left_for = way;
                    machine.observed.since = Timestamp::now().max(machine.observed.since);
                }
            })
            .await?;
        }
        Ok(Next::Wait)
    }

    /// To come to this host: first all that it needs beside its files, then these.
    pub(super) async fn arrive(&mut self, machine: &Cached<Machine>) -> Result<Next, StepError> {
        let Some(moving) = &machine.desired.moving else {
            return Ok(Next::Again);
        };
        if moving.problem.is_some() {
            self.forget_arrival().await?;
            return Ok(Next::Wait);
        }
        if moving.arrived {
            return Ok(Next::Wait);
        }
        let way = moving.since;
        // Before it says that it is ready: what is seen of this way from then on is seen by who receives it.
        let receives = self.receive(machine).await?;
        if !moving.ready {
            // What lies here of a time before isn't thrown away for it, and would be in the way.
            let there = self.folder(machine);
            if there.exists() {
                let why = format!(
                    "{} is there on that host, of a time before: move it away",
                    there.display()
                );
                return self.cannot_come(way, why).await;
            }
            let (shared, document) = (self.shared.clone(), machine.document.0.clone());
            let room = blocking(move || Ok(prepare::require_for(&shared, &document)?));
            return match room.await {
                Ok(()) => self.say(way, |moving| moving.ready = true).await,
                Err(StepError::Prepare(PrepareError::NotYet(reason))) => {
                    tracing::debug!(reason, "is to come here, and waits");
                    Ok(Next::Wait)
                }
                Err(error @ (StepError::Prepare(_) | StepError::Storage(_))) => {
                    self.cannot_come(way, error.to_string()).await
                }
                Err(error) => Err(error),
            };
        }
        if let Some(next) = receives {
            return Ok(next);
        }
        if !machine.has_left() {
            return Ok(Next::Wait);
        }
        // It was noted, and couldn't be said.
        let (shared, id) = (self.shared.clone(), self.id.clone());
        let is_copied = move || Ok(arrival::is_copied(&shared.settings, &id, way));
        if blocking(is_copied).await? {
            return self.say(way, |moving| moving.arrived = true).await;
        }
        let Some(copied) = self.copy_while_wanted(machine, way).await else {
            return Ok(Next::Again);
        };
        match copied {
            Ok(bytes) => {
                tracing::info!(vmid = %machine.vmid, bytes, "its files have come");
                self.arrived(way, Some(way)).await
            }
            Err(error) => {
                let why = format!("its files don't come: {error}");
                // Room doesn't come by waiting for a minute.
                let is_full = error.kind() == io::ErrorKind::StorageFull;
                if is_full || self.errors >= TRIES {
                    return self.cannot_come(way, why).await;
                }
                Err(StepError::Task(why))
            }
        }
    }

    /// The same as [`copy`](Self::copy); none if it isn't to come any more, or the controller stops.
    async fn copy_while_wanted(
        &mut self,
        machine: &Machine,
        way: Timestamp,
    ) -> Option<io::Result<u64>> {
        let (shared, id) = (self.shared.clone(), self.id.clone());
        let (bell, stop) = (self.bell.clone(), self.stop.clone());
        let over = async {
            loop {
                bell.notified().await;
                let read = shared.documents.machines.get(&id);
                let moving = read.and_then(|read| read.desired.moving.clone());
                if moving.is_none_or(|moving| moving.since != way) {
                    return;
                }
            }
        };
        tokio::select! {
            copied = self.copy(machine) => Some(copied),
            () = over => None,
            () = stop.cancelled() => None,
        }
    }

    /// Copies the files of a machine that stands still.
    async fn copy(&mut self, machine: &Machine) -> io::Result<u64> {
        let settings = &self.shared.settings;
        let (folder, bounds) = (
            arrival::folder(settings, &self.id),
            arrival::bounds(settings, machine),
        );
        self.forget_arrival().await.map_err(io::Error::other)?;
        let packed = self.shared.moves.files(machine).await;
        let packed = packed.map_err(io::Error::other)?;
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        moving::unpack(packed, &folder, bounds).await
    }

    /// Throws away what was copied, or came.
    pub(super) async fn forget_arrival(&mut self) -> Result<(), StepError> {
        self.coming = None;
        // A process that was just being started is there after this, or isn't any more.
        drop(self.launching.lock().await);
        let cleared = arrival::clear(&self.shared, &self.id).await;
        cleared.map_err(|error| StepError::Task(error.to_string()))?;
        if let Some(machine) = self.expected.take() {
            self.unplug(&machine).await?;
        }
        Ok(())
    }

    /// All of it is here: says so. If its files were copied, of which way they are ([`arrival::note_whole`]).
    pub(super) async fn arrived(
        &mut self,
        way: Timestamp,
        copied: Option<Timestamp>,
    ) -> Result<Next, StepError> {
        let (shared, id) = (self.shared.clone(), self.id.clone());
        blocking(move || {
            let noted = arrival::note_whole(&shared.settings, &id, copied);
            noted.map_err(|error| StepError::Task(error.to_string()))
        })
        .await?;
        self.say(way, |moving| moving.arrived = true).await
    }

    /// The machine is this host's: its files come into place, if they came from another one.
    pub(super) async fn take_in(&self, machine: &Machine) -> Result<(), StepError> {
        let (shared, machine) = (self.shared.clone(), machine.clone());
        blocking(move || {
            let taken = arrival::take_in(&shared.settings, &machine);
            taken.map_err(|error| StepError::Task(error.to_string()))
        })
        .await
    }

    /// Says so. What came is cleared away after that: until it is said, its guest may stand still.
    pub(super) async fn cannot_come(
        &mut self,
        way: Timestamp,
        why: String,
    ) -> Result<Next, StepError> {
        tracing::warn!(why, "can't come here");
        let why: String = why.chars().take(1000).collect();
        self.say(way, |moving| moving.problem = Some(why.clone()))
            .await
    }

    /// What this host says of a machine that is to come by this way. It says nothing of another one.
    pub(super) async fn say(
        &self,
        way: Timestamp,
        mut what: impl FnMut(&mut Moving) + Send,
    ) -> Result<Next, StepError> {
        let own = self.shared.host.clone();
        let edit = |machine: &mut Machine| {
            let comes = machine.moving_to() == Some(&own);
            let moving = machine.desired.moving.as_mut();
            let moving = moving.filter(|moving| comes && moving.since == way);
            let is_it = moving.map(&mut what).is_some();
            machine.settle();
            Ok::<_, DocumentsError>(is_it)
        };
        match self.shared.documents.update(&self.id, edit).await {
            Ok(_) | Err(DocumentsError::Absent { .. }) => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
    }
}

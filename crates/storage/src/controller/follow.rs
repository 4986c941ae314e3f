//! Brings every changed document to a task that works on it: one task a document, several documents at once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use store::cache::{Changes, Document};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What is to happen with a document after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is as it should be, or waits for somebody else's change.
    Settled,
    /// Look again after this time.
    Again(Duration),
    /// The step failed for now: look again, later each time.
    Retry,
}

/// Long work must not hold up quick work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lane {
    Quick,
    /// On behalf of this owner.
    Long {
        /// Whose turn it takes.
        owner: Arc<str>,
        /// And that of the host which gives the content, if it comes from one.
        host: Option<Arc<str>>,
    },
}

impl Lane {
    /// Of this owner, from no host of the cloud.
    pub(super) fn of(owner: &str) -> Self {
        Self::Long {
            owner: owner.into(),
            host: None,
        }
    }
}

/// How many tasks each lane may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) quick: usize,
    pub(super) long: usize,
    /// And of the long ones, one owner.
    pub(super) long_per_owner: usize,
    /// And those of one host, so that a slow one doesn't have all others wait.
    pub(super) long_per_host: usize,
}

#[derive(Debug, Default)]
struct Slot {
    running: bool,
    /// In the queue, or (while running) changed meanwhile.
    dirty: bool,
    failures: u32,
}

#[derive(Default)]
struct Desk {
    slots: HashMap<Arc<str>, Slot>,
    queue: VecDeque<Arc<str>>,
    timers: BTreeSet<(Instant, Arc<str>)>,
    running: HashMap<Id, (Arc<str>, Lane)>,
}

impl Desk {
    fn mark(&mut self, local: &str) {
        let local: Arc<str> = local.into();
        let slot = self.slots.entry(local.clone()).or_default();
        if !slot.dirty && !slot.running {
            self.queue.push_back(local);
        }
        slot.dirty = true;
    }

    fn mark_due(&mut self, now: Instant) {
        while let Some((at, _)) = self.timers.first() {
            if *at > now {
                return;
            }
            if let Some((_, local)) = self.timers.pop_first() {
                self.mark(&local);
            }
        }
    }

    /// The first in the queue whose lane has room.
    fn take(
        &mut self,
        limits: Limits,
        lane_of: &impl Fn(&str) -> Lane,
    ) -> Option<(Arc<str>, Lane)> {
        let long_ones = || {
            self.running.values().filter_map(|(_, lane)| match lane {
                Lane::Quick => None,
                Lane::Long { owner, host } => Some((owner, host.as_ref())),
            })
        };
        let long = long_ones().count();
        let quick_has_room = self.running.len() - long < limits.quick;
        let long_has_room = long < limits.long;
        if !quick_has_room && !long_has_room {
            return None;
        }
        let room = |lane: &Lane| match lane {
            Lane::Quick => quick_has_room,
            Lane::Long { owner, host } => {
                let of_owner = long_ones().filter(|(other, _)| *other == owner).count();
                let of_host = long_ones().filter(|(_, other)| *other == host.as_ref());
                long_has_room
                    && of_owner < limits.long_per_owner
                    && (host.is_none() || of_host.count() < limits.long_per_host)
            }
        };
        let (place, lane) = self.queue.iter().enumerate().find_map(|(place, local)| {
            let lane = lane_of(local);
            room(&lane).then_some((place, lane))
        })?;
        let local = self.queue.remove(place)?;
        Some((local, lane))
    }

    fn ended(&mut self, task: Id, next: Next) {
        let Some((local, _)) = self.running.remove(&task) else {
            return;
        };
        let slot = self.slots.entry(local.clone()).or_default();
        slot.running = false;
        slot.failures = match next {
            Next::Retry => slot.failures.saturating_add(1),
            Next::Settled | Next::Again(_) => 0,
        };
        let pause = match next {
            Next::Settled => None,
            Next::Again(pause) => Some(pause),
            Next::Retry => Some(
                FIRST_PAUSE
                    .saturating_mul(2_u32.saturating_pow(slot.failures.min(16) - 1))
                    .min(LONGEST_PAUSE),
            ),
        };
        if let Some(pause) = pause {
            self.timers.insert((Instant::now() + pause, local.clone()));
        }
        if slot.dirty {
            self.queue.push_back(local);
        } else if pause.is_none() {
            self.slots.remove(&local);
        }
    }
}

/// Calls `step` with the id of every document that changed and with how often it failed in a row, until `shutdown`;
/// then the steps under way are dropped. `changed` is told of every change at once, also of documents being worked on.
/// Every `recheck`, and when the `bell` is rung, what `unsettled` names is looked at again.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one word of the sentence above; called twice"
)]
pub(super) async fn follow<D, F>(
    mut changes: Changes<D>,
    limits: Limits,
    lane_of: impl Fn(&str) -> Lane,
    changed: impl Fn(&str),
    step: impl Fn(Arc<str>, u32) -> F,
    unsettled: impl Fn() -> Vec<String>,
    recheck: Duration,
    bell: &Notify,
    shutdown: CancellationToken,
) where
    D: Document,
    F: Future<Output = Result<Next, Error>> + Send + 'static,
{
    let mut desk = Desk::default();
    let mut tasks = JoinSet::new();
    let mut ticks = tokio::time::interval(recheck);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some((local, lane)) = desk.take(limits, &lane_of) {
            let slot = desk.slots.entry(local.clone()).or_default();
            (slot.running, slot.dirty) = (true, false);
            let work = step(local.clone(), slot.failures);
            let name = local.clone();
            let task = tasks.spawn(async move { outcome(&name, work.await) });
            desk.running.insert(task.id(), (local, lane));
        }
        let next_timer = desk.timers.first().map(|(at, _)| *at);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => match ended {
                Ok((task, next)) => desk.ended(task, next),
                Err(error) => {
                    tracing::error!(%error, "work on a document ended abnormally");
                    desk.ended(error.id(), Next::Retry);
                }
            },
            change = changes.next() => {
                changed(change.id());
                desk.mark(change.id());
            }
            () = tokio::time::sleep_until(next_timer.unwrap_or_else(Instant::now)), if next_timer.is_some() => {
                desk.mark_due(Instant::now());
            }
            () = bell.notified() => unsettled().iter().for_each(|local| desk.mark(local)),
            _ = ticks.tick() => unsettled().iter().for_each(|local| desk.mark(local)),
        }
    }
    tasks.shutdown().await;
}

fn outcome(local: &str, result: Result<Next, Error>) -> Next {
    match result {
        Ok(next) => next,
        // Somebody else was faster: what they wrote decides.
        Err(Error::Document(error)) if error.is_conflict() => Next::Again(Duration::ZERO),
        Err(error) => {
            tracing::warn!(document = local, %error, "trying again later");
            Next::Retry
        }
    }
}

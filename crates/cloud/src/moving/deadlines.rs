//! Until when machines have to arrive that have left, by the clock of this process, which nobody sets: one that is started anew
//! counts anew.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cimi::{
    Timestamp,
    lifecycle::Stage,
    resources::{Machine, local_bytes},
};
use tokio::time::{Instant, sleep_until};

/// For a guest that is halted though all of it is on both hosts: the next one says so at once, or never.
const CROSSES_WITHIN: Duration = Duration::from_secs(60);
/// For one that has to be copied first, and the slowest that this is waited for, in bytes a second. The next host gives up by itself
/// before if nothing comes.
const ARRIVES_WITHIN: Duration = Duration::from_secs(600);
const SLOWEST: u64 = 256 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Deadlines(BTreeMap<Arc<str>, Deadline>);

struct Deadline {
    way: Timestamp,
    at: Instant,
    is_told: bool,
}

impl Deadlines {
    /// Notes how a machine is; none: it is no more.
    pub(super) fn note(&mut self, local: &Arc<str>, machine: Option<&Machine>, now: Instant) {
        let left = machine.filter(|machine| machine.has_left());
        let left = left.and_then(|machine| Some((machine, machine.observed.left_for?)));
        let Some((machine, way)) = left else {
            self.0.remove(local);
            return;
        };
        if self.0.get(local).is_none_or(|known| known.way != way) {
            let deadline = Deadline {
                way,
                at: now + patience(machine),
                is_told: false,
            };
            self.0.insert(local.clone(), deadline);
        }
    }

    /// The way on which this machine is late.
    pub(super) fn of(&self, local: &str, now: Instant) -> Option<Timestamp> {
        let deadline = self.0.get(local).filter(|deadline| deadline.at <= now);
        deadline.map(|deadline| deadline.way)
    }

    /// Waits for the next machine that is late. Each is told once.
    pub(super) async fn next(&mut self) -> Arc<str> {
        let waiting = self.0.iter_mut().filter(|(_, one)| !one.is_told);
        let Some((local, deadline)) = waiting.min_by_key(|(_, one)| one.at) else {
            return std::future::pending().await;
        };
        sleep_until(deadline.at).await;
        deadline.is_told = true;
        local.clone()
    }
}

fn patience(machine: &Machine) -> Duration {
    if machine.observed.stage == Stage::Crossing {
        return CROSSES_WITHIN;
    }
    let memory = machine.memory.saturating_mul(1024);
    let bytes = local_bytes(&machine.disks).saturating_add(memory);
    ARRIVES_WITHIN + Duration::from_secs(bytes / SLOWEST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use cimi::{lifecycle::Moving, testing};
    use futures::FutureExt as _;

    use super::*;

    fn left(stage: Stage) -> Machine {
        let mut machine = testing::machine(1);
        let since = Timestamp::now();
        machine.desired.moving = Some(Moving {
            ready: true,
            ..Moving::asked(since)
        });
        machine.observed.stage = stage;
        machine.observed.left_for = Some(since);
        machine
    }

    #[tokio::test(start_paused = true)]
    async fn each_that_has_left_is_told_once_when_it_is_late() {
        let (crossing, resting) = (left(Stage::Crossing), left(Stage::Suspended));
        let (here, there): (Arc<str>, Arc<str>) = ("here".into(), "there".into());
        let mut all = Deadlines::default();
        let began = Instant::now();
        all.note(&there, Some(&resting), began);
        all.note(&here, Some(&crossing), began);
        assert_eq!(all.of(&here, began), None);
        assert_eq!(all.next().await, here);
        assert_eq!(began.elapsed().as_secs(), CROSSES_WITHIN.as_secs());
        let late = Instant::now();
        assert_eq!(all.of(&here, late), crossing.observed.left_for);
        assert_eq!(all.of(&there, late), None);
        // Whatever else is written of it meanwhile.
        all.note(&here, Some(&crossing), late);
        assert_eq!(all.of(&here, late), crossing.observed.left_for);
        // Told once.
        assert_eq!(all.next().await, there);
        // It is on another way, and the other one has arrived.
        let mut again = crossing.clone();
        let next = Timestamp::from_millis(crossing.desired.since.as_millis() + 1_000_000);
        again.desired.moving.as_mut().unwrap().since = next;
        again.observed.left_for = Some(next);
        let late = Instant::now();
        all.note(&here, Some(&again), late);
        assert_eq!(all.of(&here, late), None);
        all.note(&there, None, late);
        assert_eq!(all.of(&there, late), None);
        assert_eq!(all.next().await, here);
        assert!(all.next().now_or_never().is_none());
    }

    #[test]
    fn what_is_copied_may_take_as_long_as_it_is_large() {
        let (crossing, mut resting) = (left(Stage::Crossing), left(Stage::Suspended));
        assert_eq!(patience(&crossing), CROSSES_WITHIN);
        resting.disks.clear();
        resting.memory = 1024 * 1024;
        let gibibyte = Duration::from_secs((1 << 30) / SLOWEST);
        assert_eq!(patience(&resting), ARRIVES_WITHIN + gibibyte);
    }
}

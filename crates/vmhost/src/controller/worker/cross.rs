//! A machine that goes to another host while its guest runs: when what [`crossing`](crate::controller::crossing) does is begun,
//! and what becomes of it.
//!
//! From the moment on at which all of it was sent (`leftFor`, [`Stage::Crossing`]) its guest is halted on both hosts, and the one that
//! the documents name lets it run. So a daemon that was killed in between, on either, finds it out.

use std::time::{Duration, Instant};

use cimi::{
    Timestamp,
    lifecycle::{Moving, Passage, Power, Stage},
    resources::Machine,
};
use documents::Cached;

use super::{Next, StepError, Worker};
use crate::{
    RunState, RunningMachine,
    controller::{
        crossing, prepare,
        report::{enter, report},
    },
    stop_points::{self, Point},
};

/// How often is told how far it is.
const TELL_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// One step on its way to another host, if its guest is to run on it; none: it does whatever else is wanted.
    pub(super) async fn cross(
        &mut self,
        machine: &Cached<Machine>,
        state: Option<RunState>,
    ) -> Result<Option<Next>, StepError> {
        let way = machine.crossing().cloned();
        let since = way.as_ref().map(|way| way.since);
        if self
            .going
            .as_ref()
            .is_some_and(|going| Some(going.since) != since)
        {
            tracing::info!(vmid = %machine.vmid, "its way to another host is given up");
            self.call_off(machine).await?;
        }
        let Some(way) = way else { return Ok(None) };
        // All of it is there, and here: whose it is is for others to say.
        if machine.has_left() && machine.observed.stage == Stage::Crossing {
            self.going = None;
            return Ok(Some(Next::Wait));
        }
        let Some(going) = &self.going else {
            return self.set_out(machine, &way, state).await;
        };
        match going.ended() {
            Some(Ok(())) => self.crossed(machine, way.since).await.map(Some),
            Some(Err(why)) => self.stay(machine, way.since, why).await.map(Some),
            None => match something_else(machine, state) {
                Some(why) => self
                    .stay(machine, way.since, why.to_owned())
                    .await
                    .map(Some),
                None => self.tell_how_far(way.since).await.map(Some),
            },
        }
    }

    /// Begins, if it can.
    async fn set_out(
        &mut self,
        machine: &Cached<Machine>,
        way: &Moving,
        state: Option<RunState>,
    ) -> Result<Option<Next>, StepError> {
        if machine.passage().is_some() {
            let why = "the daemon of its host was started anew on the way".to_owned();
            return self.stay(machine, way.since, why).await.map(Some);
        }
        let rests = matches!(
            machine.observed.stage,
            Stage::Held | Stage::Saving | Stage::Paused
        );
        let is_halted = matches!(
            state,
            Some(RunState::Paused | RunState::IoError | RunState::Suspended | RunState::Other)
        );
        if rests || (is_halted && machine.observed.stage == Stage::Running) {
            return self.only_at_rest(way, "its guest does not run").await;
        }
        // It ends, begins, or stands still already: that first.
        if machine.observed.stage != Stage::Running
            || state != Some(RunState::Running)
            || something_else(machine, state).is_some()
        {
            return Ok(None);
        }
        let why_not = if machine.ssh.is_some() {
            Some("its network is of this host alone")
        } else {
            let crossing = self.live.as_ref().map(|live| live.handle.crossing());
            let can = crossing.is_some_and(|crossing| crossing.is_some());
            (!can).then_some("its hypervisor can't send it")
        };
        if let Some(why) = why_not {
            return self.only_at_rest(way, why).await;
        }
        let Some(live) = &self.live else {
            return Ok(Some(Next::Again));
        };
        let handle = live.handle.clone();
        self.write_passage(way.since, 0, 0).await?;
        tracing::info!(vmid = %machine.vmid, to = ?way.to, "goes to another host, with its guest running");
        self.told = Some(Instant::now());
        self.going = crossing::go(
            self.shared.clone(),
            machine.document.0.clone(),
            handle,
            self.bell.clone(),
        );
        Ok(Some(Next::WaitUntil(Instant::now() + TELL_AGAIN)))
    }

    /// It is moved at rest, and its owner is told why.
    async fn only_at_rest(&mut self, way: &Moving, why: &str) -> Result<Option<Next>, StepError> {
        let since = way.since;
        report(&self.shared.documents, self.own(), |machine| {
            if machine.crossing().is_some_and(|way| way.since == since) {
                machine.observed.at_rest = Some(since);
                machine.reason = Some(format!("it is moved at rest: {why}"));
            }
        })
        .await?;
        Ok(Some(Next::Again))
    }

    /// All of it was sent, and its guest is halted: it is no more for this host to say who lets it run.
    async fn crossed(&mut self, machine: &Machine, since: Timestamp) -> Result<Next, StepError> {
        self.note_traffic().await;
        let run = machine.observed.run;
        let copied = self.how_far().map(|(copied, _)| copied);
        report(&self.shared.documents, self.own(), |machine| {
            if machine.crossing().is_some_and(|way| way.since == since) {
                enter(machine, Stage::Crossing, run);
                machine.observed.left_for = Some(since);
                if let (Some(passage), Some(copied)) = (&mut machine.observed.passage, copied) {
                    (passage.copied, passage.left) = (copied, 0);
                }
            }
        })
        .await?;
        tracing::info!(vmid = %machine.vmid, "all of it is at the host that it goes to");
        stop_points::pass(Point::Left).await;
        Ok(Next::Again)
    }

    /// It stays, and runs on. That is written first: from then on it never leaves by this way.
    pub(super) async fn stay(
        &mut self,
        machine: &Machine,
        since: Timestamp,
        why: String,
    ) -> Result<Next, StepError> {
        tracing::warn!(vmid = %machine.vmid, why, "machine can't go to another host: it stays");
        report(&self.shared.documents, self.own(), |machine| {
            if machine
                .desired
                .moving
                .as_ref()
                .is_some_and(|way| way.since == since)
            {
                machine.observed.stays = Some(since);
                machine.reason = Some(Machine::not_moved(&why));
            }
        })
        .await?;
        self.call_off(machine).await?;
        Ok(Next::Again)
    }

    /// Ends what sends it, and what QEMU does for that, and lets its guest run. One that was halted at the end of it is let run by a
    /// later step.
    async fn call_off(&mut self, machine: &Machine) -> Result<(), StepError> {
        self.going = None;
        if let Some(live) = &self.live
            && let Some(crossing) = live.handle.crossing()
        {
            crossing.give_up().await?;
            let_run(machine, &*live.handle).await?;
        }
        Ok(())
    }

    fn how_far(&self) -> Option<(u64, u64)> {
        let sent = self.going.as_ref()?.sent.borrow();
        sent.as_ref().map(|sent| (sent.copied, sent.left))
    }

    async fn tell_how_far(&mut self, since: Timestamp) -> Result<Next, StepError> {
        let due = self
            .told
            .map_or_else(Instant::now, |told| told + TELL_AGAIN);
        if due > Instant::now() {
            return Ok(Next::WaitUntil(due));
        }
        self.told = Some(Instant::now());
        if let Some((copied, left)) = self.how_far() {
            self.write_passage(since, copied, left).await?;
        }
        Ok(Next::WaitUntil(Instant::now() + TELL_AGAIN))
    }

    async fn write_passage(&self, way: Timestamp, copied: u64, left: u64) -> Result<(), StepError> {
        let passage = Passage {
            way,
            copied,
            left,
            downtime_millis: None,
        };
        report(&self.shared.documents, self.own(), |machine| {
            if machine.crossing().is_some_and(|one| one.since == way) {
                machine.observed.passage = Some(passage);
            }
        })
        .await?;
        Ok(())
    }

    /// To come to this host with its guest running: has it received. None: it comes at rest.
    pub(super) async fn receive(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Option<Next>, StepError> {
        let Some(moving) = machine.desired.moving.as_ref().filter(|moving| moving.live) else {
            return Ok(None);
        };
        let is_halted = machine.observed.stage == Stage::Crossing;
        let is_over = moving.ready && machine.crossing().is_none();
        if is_over || (machine.has_left() && !is_halted) {
            if self.coming.is_some() || self.expected.is_some() {
                self.forget_arrival().await?;
            }
            return Ok(None);
        }
        self.expected
            .get_or_insert_with(|| machine.document.0.clone());
        let way = moving.since;
        let ours = self.coming.as_ref().filter(|coming| coming.since == way);
        match ours.map(crossing::Way::ended) {
            Some(None) => Ok(Some(Next::Wait)),
            Some(Some(Ok(()))) => {
                let next = self.arrived(way, None).await?;
                stop_points::pass(Point::Arrived).await;
                Ok(Some(next))
            }
            Some(Some(Err(why))) => self.cannot_come(way, why).await.map(Some),
            None if machine.passage().is_some() => {
                let why = "the daemon of the host that it was to go to was started anew on the way";
                self.cannot_come(way, why.to_owned()).await.map(Some)
            }
            None => {
                self.forget_arrival().await?;
                self.expected = Some(machine.document.0.clone());
                self.coming = crossing::come(
                    self.shared.clone(),
                    machine.document.0.clone(),
                    self.bell.clone(),
                    self.launching.clone(),
                );
                Ok(Some(Next::Wait))
            }
        }
    }

    /// The machine is this host's, and has come here halted: lets it run.
    pub(super) async fn go_on_here(&mut self, machine: &Machine) -> Result<(), StepError> {
        self.expected = None;
        let is_halted = machine.observed.stage == Stage::Crossing;
        if self.coming.is_some() && is_halted {
            stop_points::pass(Point::Taken).await;
            // Before its guest runs here, nobody else writes them, and nothing stands in for them.
            for attached in &machine.volumes {
                prepare::ready(&self.shared, machine, attached).await?;
            }
        }
        let Some(come) = self.coming.take().and_then(|coming| coming.take()) else {
            return Ok(());
        };
        if !is_halted {
            return Ok(());
        }
        for (index, nic) in machine.nics.iter().enumerate() {
            if let Some(port) = nic.port.as_ref().filter(|port| !port.up) {
                come.handle.set_link(index, port.up).await?;
            }
        }
        come.handle.cont().await?;
        let stood_still = come.stands_still();
        self.stood_still = Some(stood_still);
        stop_points::pass(Point::Runs).await;
        tracing::info!(vmid = %machine.vmid, ?stood_still, "machine has come from another host, and goes on");
        metrics::histogram!("stratus_machine_downtime_seconds").record(stood_still);
        if let Some(crossing) = come.handle.crossing()
            && let Err(error) = crossing.announce().await
        {
            tracing::warn!(%error, "the network was not told where it is: it learns that by what the guest sends");
        }
        Ok(())
    }
}

/// Lets a guest run that was halted to be sent, and isn't: nobody else has halted it, as its document says.
pub(super) async fn let_run(
    machine: &Machine,
    handle: &dyn RunningMachine,
) -> Result<(), StepError> {
    let is_halted = handle.status().await?.run_state == RunState::Paused;
    if is_halted && machine.observed.stage == Stage::Running {
        handle.cont().await?;
    }
    Ok(())
}

/// What is wanted of a machine that can't be done on the way.
fn something_else(machine: &Machine, state: Option<RunState>) -> Option<&'static str> {
    let (desired, seen) = (&machine.desired, &machine.observed);
    if desired.power == Power::Off {
        Some("it was asked to stop")
    } else if desired.rest_as_seen(seen).is_some() {
        Some("it was asked to rest")
    } else if desired.run > seen.run || desired.restart > seen.restart {
        Some("it was asked to begin anew")
    } else if matches!(
        state,
        None | Some(RunState::Exited | RunState::ShutDown | RunState::Panicked)
    ) {
        Some("its guest has ended")
    } else {
        None
    }
}

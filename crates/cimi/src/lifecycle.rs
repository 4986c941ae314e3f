//! The life of a machine as a pure function.
//!
//! ```text
//!            create            host chosen        disks, media        QEMU runs
//!  (nothing) ──────▶ Waiting ─────────▶ Preparing ─────────▶ Booting ─────────▶ Running ──┐
//!                      ▲   cloud            vm host            vm host      vm host │     │
//!                      │                                                            │     │
//!                      │ start: desired.run + 1 (cloud)                             ▼     │
//!                      └──────────────────────────── Ended{cause} ◀── stop, guest halts, ─┘
//!                                                        │            panics, QEMU dies
//!                            delete: desired.deleted     ▼            (vm host)
//!                  (cloud, from any stage) ──────▶ Releasing ──▶ (document removed; MachineRecord)
//! ```
//!
//! A machine that is on may rest ([`Desired::rest`]): its guest does not execute, its memory stays.
//!
//! ```text
//!             pause: rest = pause                      suspend: rest = suspend
//!  Running ◀─────────────────────▶ Held      Running ──────▶ Saving ──────▶ Suspended     (vm host)
//!             start: run + 1                    ▲  ▲            │ start        │ start: run + 1,
//!                                               │  └────────────┘              │ memory is read back
//!                                               └──────────── Booting ◀────────┘
//! ```
//!
//! A machine that goes to another host without standing still does so for a moment, in which both hosts have its memory:
//!
//! ```text
//!  Running ─────▶ Crossing ─────▶ Running      (vm host; on the next host, or where it was if its way was given up)
//! ```
//!
//! `cloud` writes only [`Desired`], the host's controller only [`Observed`]; the CIMI state and the
//! StratusLab phase are never decided by anybody: they follow from the two by [`derive`]. While nothing is
//! heard of its host, what was seen last is no more than that, and a machine is shown as [`unseen`].

use serde::{Deserialize, Serialize};

use crate::{
    HostId, Timestamp,
    resources::{NetworkTraffic, Unknown},
};

/// States of a Machine as the API shows them (DSP0263 1.0.1 §5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MachineState {
    /// Being made, until its first goal state.
    Creating,
    /// On its way to `Started`.
    Starting,
    /// The hypervisor says it runs.
    Started,
    /// On its way to `Stopped`.
    Stopping,
    /// Off; its disks are kept.
    Stopped,
    /// On its way to `Paused`.
    Pausing,
    /// Not executing; memory kept in RAM.
    Paused,
    /// On its way to `Suspended`.
    Suspending,
    /// Not executing; memory kept on disk.
    Suspended,
    /// Being removed.
    Deleting,
    /// Something went wrong; the reason says what.
    Error,
}

/// Phases of a machine as StratusLab's commands show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, address leased, waits for a host.
    Pending,
    /// Made but not to be started yet.
    Hold,
    /// Host chosen; disks and context are being made.
    Prolog,
    /// The hypervisor is starting it.
    Boot,
    /// The hypervisor says it runs.
    Running,
    /// Power button pressed, waiting for the guest.
    Shutdown,
    /// Resources are being released.
    Epilog,
    /// Resources released.
    Done,
    /// A stage failed; the reason says why.
    Failed,
    /// It runs no more without anybody having asked for it, or its host is away. Its resources are kept.
    Unknown,
    /// Off because it was asked to stop; its resources are kept.
    Stopped,
    /// State saved on the host.
    Suspended,
}

/// Whether a machine is to be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It is to run.
    On,
    /// It is to be off.
    Off,
}

/// What happens to a machine that ended without being asked to, and after a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays off and is shown so.
    #[default]
    Never,
    /// It is started again after a crash or power cut, but not when the guest switched itself off.
    OnFailure,
    /// It is started again whatever ended it.
    Always,
}

/// How a machine that is on rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// Memory stays in RAM.
    Pause,
    /// Memory is written to disk, and nothing of the hypervisor is left.
    Suspend,
}

/// What is wanted of a machine. Written by `cloud` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// On or off.
    pub power: Power,
    /// Counts the starts asked for; a run that ended by itself is begun again when this rises, or for a restart that it hadn't had.
    pub run: u64,
    /// Counts the restarts asked for within runs.
    #[serde(default)]
    pub restart: u64,
    /// Don't wait for the guest when stopping or restarting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// It is to be removed with all that it holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The guest is to be asked to shut down before the removal (`stratus-shutdown-instance`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub graceful: bool,
    /// It is not to execute for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
    /// The wanted run begins with the guest's first instruction, though memory may have been saved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub afresh: bool,
    /// It is to go to another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// When this was last changed; also the name of the wish.
    pub since: Timestamp,
    /// Wishes of a newer version: a host of an older one writes them back as they are.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A machine's way to another host: its memory and disks are copied, and it goes on there. At rest its guest does not execute
/// meanwhile; live it does, but for a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moving {
    /// A guest that runs is to run on meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// Bytes a second that copying may take of the network at most, if it is live; none: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// The host that was asked for; none: any other than it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<HostId>,
    /// The host that has room for it. Written by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<HostId>,
    /// That host has all that it needs beside its own files, so that it has to rest now. Written by that host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// That host has its files; live, its memory, too. Written by that host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub arrived: bool,
    /// Why it can't come there. Written by that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it was asked for; also the name of this way.
    pub since: Timestamp,
    /// What a newer version says of it.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Moving {
    /// Asked for then, and nothing else yet: at rest, to whichever host has room.
    #[must_use]
    pub fn asked(since: Timestamp) -> Self {
        Self {
            live: false,
            bandwidth: None,
            wanted: None,
            to: None,
            ready: false,
            arrived: false,
            problem: None,
            since,
            unknown: Unknown::new(),
        }
    }
}

impl Desired {
    /// How it is to rest, if that isn't a wish that was seen to be impossible.
    #[must_use]
    pub fn rest_as_seen(&self, observed: &Observed) -> Option<Rest> {
        let at_rest = |moving: &&Moving| !moving.live || observed.at_rest == Some(moving.since);
        let leaves = self.leaving().filter(at_rest).map(|_| Rest::Suspend);
        leaves
            .or(self.rest)
            .filter(|_| self.power == Power::On && observed.refused != Some(self.since))
    }

    /// Whether a restart was asked for that the wanted run has not had yet. A run that ends before it has is begun anew.
    #[must_use]
    pub fn restarts(&self, observed: &Observed) -> bool {
        self.power == Power::On && self.run == observed.run && self.restart > observed.restart
    }

    /// Its way to another host, once that is ready for it.
    #[must_use]
    pub fn leaving(&self) -> Option<&Moving> {
        self.moving.as_ref().filter(|moving| moving.ready)
    }
}

/// How far the host's controller has come with the present run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "stage")]
pub enum Stage {
    /// Nothing was done yet.
    Waiting,
    /// Disks and media are being made.
    Preparing,
    /// The hypervisor is starting it.
    Booting,
    /// It runs.
    Running,
    /// It runs, but does not execute (paused by somebody at the hypervisor, or stopped by a disk error).
    Paused,
    /// It does not execute, as it was asked; its memory is in RAM.
    Held,
    /// Its memory is being written to disk.
    Saving,
    /// Its memory is on disk; nothing of the hypervisor is left.
    Suspended,
    /// It does not execute, for a moment: all of its memory is at the host that it goes to, and still where it was.
    Crossing,
    /// The run is over; nothing of the hypervisor is left, the disks are.
    Ended {
        /// Why.
        cause: EndCause,
    },
    /// It could not be started, or not go on.
    Failed,
    /// Disks, address and the rest are being released.
    Releasing,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// It was asked to stop.
    Requested,
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest's kernel panicked.
    GuestPanic,
    /// QEMU died.
    HypervisorDied,
    /// The host was switched off or lost power.
    HostReboot,
}

/// How far a machine is on a way to another host on which its guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passage {
    /// Which way, by its [`Moving::since`].
    pub way: Timestamp,
    /// Bytes of disks and memory that were copied.
    pub copied: u64,
    /// Bytes that are still to be copied, as far as that is known.
    pub left: u64,
    /// For how long its guest stood still in the end; none: it is not at its end, or nobody measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_millis: Option<u64>,
}

/// What the host's controller saw last. Written by it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// How far it is.
    #[serde(flatten)]
    pub stage: Stage,
    /// Which of the wanted runs this is about.
    pub run: u64,
    /// The last restart request that was carried out.
    #[serde(default)]
    pub restart: u64,
    /// The wish to rest that could not be fulfilled, by its [`Desired::since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Timestamp>,
    /// When the stage was entered.
    pub since: Timestamp,
    /// The way to another host, by its [`Moving::since`], for which nothing of it is at work on this one any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_for: Option<Timestamp>,
    /// The way to another host, by its [`Moving::since`], on which it can only be at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_rest: Option<Timestamp>,
    /// The way to another host, by its [`Moving::since`], that was begun with its guest running, and failed: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<Timestamp>,
    /// How far the last way is, or came, on which its guest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage: Option<Passage>,
    /// Its host ends it by itself once no entry has heard that host for a time ([`Host::fences_after`](crate::resources::Host)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guarded: bool,
    /// Its memory is on the disk of its host: it was suspended, and its guest has not gone on since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_memory: bool,
    /// What went over its network since its process began, as far as that was written down; none: nobody counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<NetworkTraffic>,
}

impl Observed {
    /// Of a machine nobody has looked at yet.
    #[must_use]
    pub const fn nothing(now: Timestamp) -> Self {
        Self {
            stage: Stage::Waiting,
            run: 0,
            restart: 0,
            refused: None,
            since: now,
            left_for: None,
            at_rest: None,
            stays: None,
            passage: None,
            guarded: false,
            has_memory: false,
            traffic: None,
        }
    }
}

/// The CIMI state and the StratusLab phase that follow from what is wanted, what was seen and
/// whether a host was chosen.
#[must_use]
pub fn derive(desired: &Desired, observed: &Observed, placed: bool) -> (MachineState, Phase) {
    use {MachineState as S, Phase as P};
    let has_process = matches!(
        observed.stage,
        Stage::Running | Stage::Paused | Stage::Held | Stage::Saving | Stage::Crossing
    );
    if desired.deleted {
        let phase = if has_process && desired.graceful {
            P::Shutdown
        } else {
            P::Epilog
        };
        return (S::Deleting, phase);
    }
    let wanted_on = desired.power == Power::On;
    let starting = if desired.run <= 1 && desired.restart == 0 {
        S::Creating
    } else {
        S::Starting
    };
    let waiting = || match (wanted_on, placed) {
        (true, false) => (starting, P::Pending),
        (true, true) => (starting, P::Prolog),
        (false, _) => (
            S::Stopped,
            if desired.run == 0 {
                P::Hold
            } else {
                P::Stopped
            },
        ),
    };
    // A newer run is wanted than the one that was seen: it is about to begin.
    if wanted_on && desired.run > observed.run && !has_process {
        return waiting();
    }
    let stopping = !wanted_on
        && (has_process
            || matches!(
                observed.stage,
                Stage::Preparing | Stage::Booting | Stage::Suspended
            ));
    if stopping {
        return (S::Stopping, P::Shutdown);
    }
    let rest = desired.rest_as_seen(observed);
    let again = desired.run > observed.run || desired.restart > observed.restart;
    match observed.stage {
        Stage::Waiting => waiting(),
        Stage::Preparing => (starting, P::Prolog),
        Stage::Booting => (starting, P::Boot),
        Stage::Running | Stage::Crossing => match rest {
            Some(Rest::Pause) => (S::Pausing, P::Running),
            Some(Rest::Suspend) => (S::Suspending, P::Running),
            None if desired.restart > observed.restart => (S::Starting, P::Boot),
            None => (S::Started, P::Running),
        },
        Stage::Paused if rest == Some(Rest::Suspend) => (S::Suspending, P::Suspended),
        Stage::Paused => (S::Paused, P::Suspended),
        Stage::Held => match rest {
            Some(Rest::Pause) if !again => (S::Paused, P::Suspended),
            Some(Rest::Pause) | None => (S::Starting, P::Boot),
            Some(Rest::Suspend) => (S::Suspending, P::Suspended),
        },
        Stage::Saving if rest == Some(Rest::Suspend) => (S::Suspending, P::Running),
        Stage::Saving => (S::Starting, P::Boot),
        Stage::Suspended if rest == Some(Rest::Suspend) => (S::Suspended, P::Suspended),
        Stage::Suspended => (S::Starting, P::Prolog),
        Stage::Ended { .. } | Stage::Failed if desired.restarts(observed) => waiting(),
        Stage::Ended { cause } => match cause {
            EndCause::Requested => (S::Stopped, P::Stopped),
            _ if !wanted_on => (S::Stopped, P::Stopped),
            EndCause::GuestShutdown | EndCause::HostReboot => (S::Stopped, P::Unknown),
            EndCause::GuestPanic | EndCause::HypervisorDied => (S::Error, P::Unknown),
        },
        Stage::Failed => (S::Error, P::Failed),
        Stage::Releasing => (S::Deleting, P::Epilog),
    }
}

/// What is shown of a machine of whose host nothing is heard, if all was `as_seen` last. That it is to be removed is known
/// whatever its host says.
#[must_use]
pub const fn unseen(as_seen: (MachineState, Phase)) -> (MachineState, Phase) {
    match as_seen {
        (MachineState::Deleting, _) => as_seen,
        _ => (MachineState::Error, Phase::Unknown),
    }
}

/// The actions offered in a state: the table of DSP0263 §6.1 as Sirocco has it, and, beside it, that a machine may be
/// stopped while it is being made. `stop` while stopping is for who doesn't want to wait any longer (`force`).
#[must_use]
pub const fn actions(state: MachineState) -> &'static [&'static str] {
    use MachineState as S;
    match state {
        S::Creating => &["stop"],
        S::Started => &["stop", "restart", "pause", "suspend"],
        S::Starting | S::Stopping | S::Paused | S::Suspended | S::Error => {
            &["start", "stop", "restart"]
        }
        S::Stopped | S::Pausing | S::Suspending => &["start", "restart"],
        S::Deleting => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stage: Stage, run: u64) -> Observed {
        Observed {
            stage,
            run,
            restart: 0,
            refused: None,
            since: Timestamp::default(),
            left_for: None,
            at_rest: None,
            stays: None,
            passage: None,
            guarded: false,
            has_memory: false,
            traffic: None,
        }
    }

    fn want(power: Power, run: u64) -> Desired {
        let since = Timestamp::default();
        Desired {
            power,
            run,
            restart: 0,
            force: false,
            deleted: false,
            graceful: false,
            rest: None,
            afresh: false,
            moving: None,
            since,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn wishes_of_a_newer_version_are_written_back() {
        let mut wanted = want(Power::On, 1);
        wanted.moving = Some(Moving::asked(Timestamp::default()));
        let mut newer = serde_json::to_value(&wanted).expect("JSON");
        newer["asleep"] = serde_json::json!({"until": 7});
        newer["moving"]["byNight"] = true.into();
        let read: Desired = serde_json::from_value(newer.clone()).expect("wishes");
        assert_eq!(serde_json::to_value(&read).expect("JSON"), newer);
        assert_ne!(read, wanted);
    }

    #[test]
    fn a_first_start_goes_through_the_documented_phases() {
        let on = want(Power::On, 1);
        let steps = [
            (
                seen(Stage::Waiting, 0),
                false,
                MachineState::Creating,
                Phase::Pending,
            ),
            (
                seen(Stage::Waiting, 0),
                true,
                MachineState::Creating,
                Phase::Prolog,
            ),
            (
                seen(Stage::Preparing, 1),
                true,
                MachineState::Creating,
                Phase::Prolog,
            ),
            (
                seen(Stage::Booting, 1),
                true,
                MachineState::Creating,
                Phase::Boot,
            ),
            (
                seen(Stage::Running, 1),
                true,
                MachineState::Started,
                Phase::Running,
            ),
        ];
        for (observed, placed, state, phase) in steps {
            assert_eq!(
                derive(&on, &observed, placed),
                (state, phase),
                "{observed:?}"
            );
        }
    }

    #[test]
    fn a_guest_that_halts_is_stopped_and_unknown_until_started_again() {
        let halted = seen(
            Stage::Ended {
                cause: EndCause::GuestShutdown,
            },
            1,
        );
        assert_eq!(
            derive(&want(Power::On, 1), &halted, true),
            (MachineState::Stopped, Phase::Unknown)
        );
        assert_eq!(
            derive(&want(Power::On, 2), &halted, true),
            (MachineState::Starting, Phase::Prolog)
        );
    }

    #[test]
    fn a_restart_that_a_run_has_not_had_when_it_ended_begins_it_anew() {
        let mut wanted = want(Power::On, 1);
        wanted.restart = 1;
        let died = seen(
            Stage::Ended {
                cause: EndCause::HypervisorDied,
            },
            1,
        );
        for ended in [died.clone(), seen(Stage::Failed, 1)] {
            let is = derive(&wanted, &ended, true);
            assert_eq!(is, (MachineState::Starting, Phase::Prolog), "{ended:?}");
            let had = Observed {
                restart: 1,
                ..ended
            };
            assert_eq!(derive(&wanted, &had, true).0, MachineState::Error);
        }
        // A later wish to be off wins.
        wanted.power = Power::Off;
        assert_eq!(derive(&wanted, &died, true).0, MachineState::Stopped);
    }

    #[test]
    fn deletion_wins_over_everything() {
        let mut desired = want(Power::On, 1);
        desired.deleted = true;
        for stage in [Stage::Waiting, Stage::Running, Stage::Failed] {
            let as_seen = derive(&desired, &seen(stage, 1), true);
            assert_eq!(as_seen.0, MachineState::Deleting);
            assert_eq!(unseen(as_seen), as_seen);
        }
    }

    #[test]
    fn resting_goes_through_the_documented_states() {
        use {MachineState as S, Phase as P};
        let mut desired = want(Power::On, 1);
        let mut is = |rest, run, stage: Stage, expected| {
            desired.rest = rest;
            desired.run = run;
            let observed = seen(stage.clone(), 1);
            let (state, _) = derive(&desired, &observed, true);
            assert_eq!(state, expected, "{stage:?}");
        };
        let (pause, suspend) = (Some(Rest::Pause), Some(Rest::Suspend));
        is(pause, 1, Stage::Running, S::Pausing);
        is(pause, 1, Stage::Held, S::Paused);
        is(None, 2, Stage::Held, S::Starting);
        is(suspend, 1, Stage::Running, S::Suspending);
        is(suspend, 1, Stage::Saving, S::Suspending);
        is(suspend, 1, Stage::Suspended, S::Suspended);
        is(None, 2, Stage::Saving, S::Starting);
        is(None, 2, Stage::Suspended, S::Starting);
        // Paused by nobody's wish.
        is(None, 1, Stage::Paused, S::Paused);
        // Made to be paused.
        is(pause, 1, Stage::Booting, S::Creating);

        desired.rest = suspend;
        let mut refused = seen(Stage::Running, 1);
        refused.refused = Some(desired.since);
        assert_eq!(derive(&desired, &refused, true), (S::Started, P::Running));
        desired.power = Power::Off;
        for stage in [Stage::Held, Stage::Saving, Stage::Suspended] {
            let (state, _) = derive(&desired, &seen(stage, 1), true);
            assert_eq!(state, S::Stopping);
        }
    }
}

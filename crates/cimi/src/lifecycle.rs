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
//! `cloud` writes only [`Desired`], the host's controller only [`Observed`]; the CIMI state and the
//! StratusLab phase are never decided by anybody: they follow from the two by [`derive`].

use serde::{Deserialize, Serialize};

use crate::Timestamp;

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

/// What is wanted of a machine. Written by `cloud` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// On or off.
    pub power: Power,
    /// Counts the starts asked for; a run that ended by itself is not begun again until this rises.
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
    /// When this was last changed.
    pub since: Timestamp,
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
    /// It runs, but does not execute (paused by somebody, or stopped by a disk error).
    Paused,
    /// The run is over; nothing of the hypervisor is left, the disks are.
    Ended {
        /// Why.
        cause: EndCause,
    },
    /// It could not be started, or not go on.
    Failed,
    /// Disks, address and the rest are being released.
    Releasing,
    /// Its host can't be reached.
    Lost,
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
    /// When the stage was entered.
    pub since: Timestamp,
}

impl Observed {
    /// Of a machine nobody has looked at yet.
    #[must_use]
    pub const fn nothing(now: Timestamp) -> Self {
        Self {
            stage: Stage::Waiting,
            run: 0,
            restart: 0,
            since: now,
        }
    }
}

/// The CIMI state and the StratusLab phase that follow from what is wanted, what was seen and
/// whether a host was chosen.
#[must_use]
pub fn derive(desired: &Desired, observed: &Observed, placed: bool) -> (MachineState, Phase) {
    use {MachineState as S, Phase as P};
    if desired.deleted {
        let phase = match observed.stage {
            Stage::Running | Stage::Paused if desired.graceful => P::Shutdown,
            _ => P::Epilog,
        };
        return (S::Deleting, phase);
    }
    let wanted_on = desired.power == Power::On;
    let starting = if desired.run <= 1 {
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
    if wanted_on
        && desired.run > observed.run
        && !matches!(observed.stage, Stage::Running | Stage::Paused)
    {
        return waiting();
    }
    match observed.stage {
        Stage::Waiting => waiting(),
        Stage::Preparing if !wanted_on => (S::Stopping, P::Shutdown),
        Stage::Preparing => (starting, P::Prolog),
        Stage::Booting if !wanted_on => (S::Stopping, P::Shutdown),
        Stage::Booting => (starting, P::Boot),
        Stage::Running | Stage::Paused if !wanted_on => (S::Stopping, P::Shutdown),
        Stage::Running if desired.restart > observed.restart => (S::Starting, P::Boot),
        Stage::Running => (S::Started, P::Running),
        Stage::Paused => (S::Paused, P::Suspended),
        Stage::Ended { cause } => match cause {
            EndCause::Requested => (S::Stopped, P::Stopped),
            _ if !wanted_on => (S::Stopped, P::Stopped),
            EndCause::GuestShutdown | EndCause::HostReboot => (S::Stopped, P::Unknown),
            EndCause::GuestPanic | EndCause::HypervisorDied => (S::Error, P::Unknown),
        },
        Stage::Failed => (S::Error, P::Failed),
        Stage::Releasing => (S::Deleting, P::Epilog),
        Stage::Lost => (S::Error, P::Unknown),
    }
}

/// The actions offered in a state (DSP0263 §6.1 as far as Stratus carries them out).
#[must_use]
pub const fn actions(state: MachineState) -> &'static [&'static str] {
    use MachineState as S;
    match state {
        S::Started | S::Starting => &["stop", "restart"],
        S::Paused => &["stop", "restart"],
        S::Creating | S::Stopping => &["stop"],
        S::Stopped => &["start", "restart"],
        S::Error => &["start", "stop", "restart"],
        S::Pausing | S::Suspending | S::Suspended | S::Deleting => &[],
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
            since: Timestamp::default(),
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
            since,
        }
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
    fn deletion_wins_over_everything() {
        let mut desired = want(Power::On, 1);
        desired.deleted = true;
        for stage in [Stage::Waiting, Stage::Running, Stage::Failed, Stage::Lost] {
            assert_eq!(
                derive(&desired, &seen(stage, 1), true).0,
                MachineState::Deleting
            );
        }
    }
}

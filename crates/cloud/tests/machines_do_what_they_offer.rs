//! In every state a machine does exactly what it offers (DSP0263 §6.1), and refuses the rest by naming its state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{World, alice, split};
use cimi::{
    Timestamp,
    lifecycle::{EndCause, MachineState as S, Power, Rest, Stage},
    model::Kind,
    resources::Machine,
};
use cloud::{CloudError, Rel};
use serde_json::json;

const ACTIONS: [&str; 5] = ["start", "stop", "restart", "pause", "suspend"];

/// A state, and how a machine comes to be in it: is it to be on, how is it to rest, which restart is wanted, which run,
/// and what was seen of the first run.
type Case = (
    S,
    Power,
    Option<Rest>,
    u64,
    u64,
    Stage,
    &'static [&'static str],
);

fn cases() -> Vec<Case> {
    use Power::{Off, On};
    let (pause, suspend) = (Some(Rest::Pause), Some(Rest::Suspend));
    let ended = Stage::Ended {
        cause: EndCause::Requested,
    };
    vec![
        (S::Creating, On, None, 0, 1, Stage::Booting, &["stop"]),
        (
            S::Starting,
            On,
            None,
            1,
            1,
            Stage::Running,
            &["start", "stop", "restart"],
        ),
        (
            S::Started,
            On,
            None,
            0,
            1,
            Stage::Running,
            &["stop", "restart", "pause", "suspend"],
        ),
        (
            S::Stopping,
            Off,
            None,
            0,
            1,
            Stage::Running,
            &["start", "stop", "restart"],
        ),
        (S::Stopped, Off, None, 0, 1, ended, &["start", "restart"]),
        (
            S::Pausing,
            On,
            pause,
            0,
            1,
            Stage::Running,
            &["start", "restart"],
        ),
        (
            S::Paused,
            On,
            pause,
            0,
            1,
            Stage::Held,
            &["start", "stop", "restart"],
        ),
        (
            S::Suspending,
            On,
            suspend,
            0,
            1,
            Stage::Saving,
            &["start", "restart"],
        ),
        (
            S::Suspended,
            On,
            suspend,
            0,
            1,
            Stage::Suspended,
            &["start", "stop", "restart"],
        ),
        (
            S::Error,
            On,
            None,
            0,
            1,
            Stage::Failed,
            &["start", "stop", "restart"],
        ),
    ]
}

#[tokio::test]
async fn what_is_offered_is_done_and_what_is_not_is_refused() {
    let world = World::start().await;
    let body = world.machine(json!({}));
    let id = world.made(&alice(), Kind::Machine, body).await;
    let (_, local) = split(&id);
    for (state, power, rest, restart, run, stage, offered) in cases() {
        let put = |machine: &mut Machine| {
            machine.desired.power = power;
            machine.desired.rest = rest;
            machine.desired.restart = restart;
            machine.desired.run = run;
            machine.desired.deleted = false;
            machine.desired.force = false;
            machine.desired.since = Timestamp::now();
            machine.observed.stage = stage.clone();
            machine.observed.run = 1;
            machine.observed.restart = 0;
            machine.settle();
            Ok::<_, CloudError>(true)
        };
        for action in ACTIONS {
            for force in [false, true] {
                // Who asks again for what is under way is told of its job, whatever the state.
                for job in world.documents.jobs.all() {
                    let forgotten = world.documents.changes().remove(&job);
                    forgotten.commit().await.unwrap();
                }
                world.documents.update(local, put).await.unwrap();
                let view = world.view(&alice(), &id);
                assert_eq!(world.get(&alice(), &id)["state"], json!(state));
                let offers = view
                    .document
                    .operations(view.right)
                    .contains(&Rel::Action(action));
                assert_eq!(offers, offered.contains(&action), "{state:?} {action}");
                let done = world
                    .cloud
                    .act_on_machine(&alice(), local, action, force)
                    .await;
                match done {
                    Ok(done) => {
                        assert!(offers, "{state:?} {action}");
                        assert!(done.job.is_some(), "{state:?} {action}");
                    }
                    Err(CloudError::Conflict(text)) => {
                        assert!(!offers, "{state:?} {action}: {text}");
                        let shown = serde_json::to_string(&state).unwrap();
                        assert!(text.contains(shown.trim_matches('"')), "{text}");
                    }
                    Err(error) => panic!("{state:?} {action}: {error}"),
                }
            }
        }
    }
}

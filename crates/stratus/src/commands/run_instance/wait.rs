//! Waiting until machines run, or answer SSH.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

use crate::cloud::{Api, ImageView, MachineView, Ssh};
use crate::failure::{Failure, Result};
use crate::progress::Waiting;
use crate::session::Session;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::commands) enum WaitFor {
    /// The hypervisor runs the machine.
    Running,
    /// The machine's SSH service answers.
    Ssh,
}

const PAUSE: Duration = Duration::from_millis(250);
/// How long one try to reach a machine may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest line that is read while looking for the banner.
const BANNER_MAX_BYTES: u64 = 512;

/// Waits for all machines, `limit` for all together; gives them as they are then.
///
/// # Errors
/// [`Failure::Work`] for a machine that failed or was not there in time.
pub(in crate::commands) async fn wait_for_all(session: &Session, api: &Api, machines: Vec<MachineView>, goal: WaitFor, limit: Duration) -> Result<Vec<MachineView>> {
    let deadline = Instant::now() + limit;
    let waiting = Waiting::start(&session.out, "waiting");
    let mut ready = Vec::new();
    for machine in machines {
        let id = machine.shown_id();
        let machine = until_running(api, machine, deadline, limit, &waiting).await?;
        if goal == WaitFor::Ssh {
            let place = machine.ssh_place().ok_or_else(|| Failure::Work(format!("machine {id} has no address to reach its SSH service at")))?;
            waiting.say(format!("machine {id}: waiting for SSH at {} port {}", place.host, place.port));
            while !answers_ssh(&place).await {
                if Instant::now() >= deadline {
                    return Err(Failure::Work(format!("machine {id} runs but did not answer SSH at {} port {} within {} s", place.host, place.port, limit.as_secs()))
                        .with_hint(format!("stratus console {id} shows what it says.")));
                }
                waiting.tick();
                tokio::time::sleep(PAUSE).await;
            }
        }
        ready.push(machine);
    }
    drop(waiting);
    for machine in &ready {
        match (goal, machine.ssh_place()) {
            (WaitFor::Ssh, Some(place)) => session.out.step(format_args!("The machine with vm ID {} answers SSH at {} port {}", machine.shown_id(), place.host, place.port)),
            _ => session.out.step(format_args!("The machine with vm ID {} is running", machine.shown_id())),
        }
    }
    Ok(ready)
}

async fn until_running(api: &Api, mut machine: MachineView, deadline: Instant, limit: Duration, waiting: &Waiting) -> Result<MachineView> {
    let path = machine.id.clone();
    loop {
        let id = machine.shown_id();
        match image_on_its_way(api, &machine).await {
            Some(image) => {
                waiting.say(format!("machine {id}: {}, {}", machine.shown_state(), image.on_its_way()));
                waiting.tell(image.why_not_here().map(|why| format!("machine {id} waits for its image: {why}")));
            }
            None => waiting.say(format!("machine {id}: {}", machine.shown_state())),
        }
        match machine.shown_state() {
            "Running" => return Ok(machine),
            "Failed" | "Done" | "Unknown" => {
                return Err(Failure::Work(format!(
                    "machine {id} is {}{}",
                    machine.shown_state(),
                    machine.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default()
                ))
                .with_hint(format!("stratus describe-instance -v {id} and stratus console {id} tell more; stratus kill-instance {id} removes it.")));
            }
            state if Instant::now() >= deadline => {
                return Err(Failure::Work(format!(
                    "machine {id} is still {state} after {} s{}; it goes on",
                    limit.as_secs(),
                    machine.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default()
                )));
            }
            _ => {}
        }
        waiting.tick();
        tokio::time::sleep(PAUSE).await;
        machine = api.view(&path).await?;
    }
}

/// The image that a machine waits for, if that is what it waits for.
async fn image_on_its_way(api: &Api, machine: &MachineView) -> Option<ImageView> {
    if !["Pending", "Prolog"].contains(&machine.shown_state()) {
        return None;
    }
    let path = &machine.machine_image.as_ref()?.href;
    // Only for show: what fails here fails again where it matters.
    let image: ImageView = api.view(path).await.ok()?;
    (image.state.as_deref() == Some("CREATING")).then_some(image)
}

/// Whether an SSH service says its banner there (RFC 4253 §4.2).
pub(in crate::commands) async fn answers_ssh(place: &Ssh) -> bool {
    let probe = async {
        let stream = TcpStream::connect((place.host.trim_matches(['[', ']']), place.port)).await.ok()?;
        let mut line = Vec::new();
        BufReader::new(stream).take(BANNER_MAX_BYTES).read_until(b'\n', &mut line).await.ok()?;
        Some(line.starts_with(b"SSH-"))
    };
    tokio::time::timeout(PROBE_TIMEOUT, probe).await.ok().flatten().unwrap_or(false)
}

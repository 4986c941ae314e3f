//! Waiting until machines run, or answer SSH.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
/// How long nothing at all answers before that is told: an address that isn't reached from here never will.
const SILENCE: Duration = Duration::from_secs(20);
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
            let mut heard = Instant::now();
            loop {
                match probe(&place).await {
                    Probe::Ssh => break,
                    Probe::Something => heard = Instant::now(),
                    Probe::Nothing => {}
                }
                let is_silent = heard.elapsed() >= SILENCE;
                if Instant::now() >= deadline {
                    let reached = if is_silent { " Is the network of that address reached from here?" } else { "" };
                    return Err(Failure::Work(format!("machine {id} runs but did not answer SSH at {} port {} within {} s", place.host, place.port, limit.as_secs()))
                        .with_hint(format!("stratus console {id} shows what it says.{reached}")));
                }
                waiting.tell(is_silent.then(|| {
                    format!("nothing answers at {}, not even that there is no SSH: if that address is not reached from here, this is in vain (stratus console {id} shows what it says)", place.host)
                }));
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

/// Whether an SSH service says its banner there.
pub(in crate::commands) async fn answers_ssh(place: &Ssh) -> bool {
    probe(place).await == Probe::Ssh
}

/// What is heard of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// The banner of an SSH service (RFC 4253 §4.2).
    Ssh,
    /// A connection, or its refusal.
    Something,
    /// No packet came back.
    Nothing,
}

async fn probe(place: &Ssh) -> Probe {
    let at = (place.host.trim_matches(['[', ']']), place.port);
    let stream = match timeout(PROBE_TIMEOUT, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Probe::Something,
        Ok(Err(_)) | Err(_) => return Probe::Nothing,
    };
    let mut line = Vec::new();
    let mut stream = BufReader::new(stream).take(BANNER_MAX_BYTES);
    let _ = timeout(PROBE_TIMEOUT, stream.read_until(b'\n', &mut line)).await;
    if line.starts_with(b"SSH-") { Probe::Ssh } else { Probe::Something }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_a_banner_is_ssh_and_a_refusal_is_something() {
        let at = |host: &str, port| Ssh { host: host.to_owned(), port };
        for (says, heard) in [(&b"SSH-2.0-x\r\n"[..], Probe::Ssh), (b"hello\n", Probe::Something)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let place = at("127.0.0.1", listener.local_addr().unwrap().port());
            let (found, ()) = tokio::join!(probe(&place), async {
                listener.accept().await.unwrap().0.write_all(says).await.unwrap();
            });
            assert_eq!(found, heard);
            drop(listener);
            assert_eq!(probe(&place).await, Probe::Something, "refused");
        }
    }
}

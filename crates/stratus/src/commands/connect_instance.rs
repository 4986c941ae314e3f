//! `stratus connect-instance`: SSH into machines.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cloud::{Api, MachineView, Ssh};
use crate::commands::machine_id::{MachineNumber, machines_named};
use crate::commands::run_instance::answers_ssh;
use crate::config::home;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common, PortTranslation};
use crate::progress::Waiting;
use crate::public_keys::private_key_file;
use crate::session::Session;

/// Log in to machines by SSH
///
/// Runs ssh as root with the private key that belongs to your public one, at the address and port by which the machine is reached.
/// A machine that does not answer yet is waited for (--timeout). Host keys are kept per machine in
/// ~/.stratuslab/known_hosts, so that an address that another machine had before is no obstacle.
///
/// What follows '--' is run in the machine instead of a shell. The exit status is that of ssh, which is that of the command; it is
/// 255 if the machine says nothing any more for a minute.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus connect-instance 7
  stratus connect-instance 7 -- uname -a
  stratus connect-instance -k ~/.ssh/cloud 7 -- sh -s < setup.sh")]
pub struct Arguments {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
    /// Command to run in the machine
    #[arg(last = true, value_name = "command")]
    command: Vec<String>,
    /// Private key [default: the public one's name without .pub; key: user_private_key_file]
    #[arg(short, long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// User in the machine [default: root]
    #[arg(short, long, value_name = "NAME", default_value = "root", hide_default_value = true)]
    login: String,
    /// Seconds to wait until the machine answers [default: 10]
    #[arg(long, value_name = "SECONDS", default_value_t = 10, hide_default_value = true)]
    timeout: u64,
    #[command(flatten)]
    ports: PortTranslation,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// A machine that is gone closes no connection: ssh asks after so many seconds of silence, and gives up after so many questions.
/// Together a minute, since a guest under TCG on a busy host may be away for long.
const ALIVE: [&str; 2] = ["ServerAliveInterval=15", "ServerAliveCountMax=4"];
/// Pause between two looks at a machine.
const PAUSE: Duration = Duration::from_millis(250);

/// Fails for a machine where no SSH service can answer, with what to do.
fn is_on(machine: &MachineView) -> Result {
    let (id, shown) = (machine.shown_id(), machine.shown_state());
    let hint = match (shown, machine.state.as_deref()) {
        // Of an Unknown one only the host may be away, and the machine may answer.
        ("Stopped" | "Hold", _) | ("Unknown", Some("STOPPED")) => format!("Start it with: stratus start-instance --wait {id}"),
        ("Failed", _) => format!("stratus start-instance --wait {id} tries again; stratus kill-instance {id} removes it."),
        ("Done" | "Epilog", _) => "It is gone for good; stratus run-instance starts a new one.".to_owned(),
        _ => return Ok(()),
    };
    let reason = machine.reason.as_deref().filter(|reason| !reason.is_empty()).map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(Failure::Work(format!("machine {id} is {shown}{reason}")).with_hint(hint))
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        if self.ids.is_empty() {
            return Err(Failure::Usage("Missing vm-id".to_owned()));
        }
        let key = private_key_file(&session.settings, self.key.as_deref());
        if !key.exists() {
            return Err(Failure::Usage(format!("Private key `{}` does not exist", key.display())));
        }
        if self.login.starts_with('-') || self.login.contains(['@', ' ']) {
            return Err(Failure::Usage(format!("'{}' is not a user name", self.login)));
        }
        let api = session.api(&self.cloud)?;
        for id in &machines_named(&api, &self.ids).await? {
            let machine = self.when_reachable(&session, &api, id).await?;
            let place = self.place(&session, &machine).ok_or_else(|| Failure::Check(format!("Couldn't find enough information to connect to VM '{id}'")))?;
            self.wait(&session, &place).await;
            let status = self.ssh(&session, &machine, &place, &key)?;
            if status != 0 {
                return Err(Failure::Exit(status));
            }
        }
        Ok(())
    }

    /// The machine once it is known where it is reached: a forwarded port is chosen when it is started.
    async fn when_reachable(&self, session: &Session, api: &Api, id: &MachineNumber) -> Result<MachineView> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let waiting = Waiting::start(&session.out, format!("waiting for machine {id}"));
        loop {
            let machine = id.look_up(api).await?;
            is_on(&machine)?;
            if machine.ssh.is_some() || machine.addresses.is_empty() || Instant::now() >= deadline {
                return Ok(machine);
            }
            waiting.tick();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Where the machine is reached; a gateway that the user names replaces the host of a translated port.
    fn place(&self, session: &Session, machine: &MachineView) -> Option<Ssh> {
        let mut place = machine.ssh_place()?;
        if place.port != 22
            && session.settings.switch(self.ports.enabled, "port_translation")
            && let Some(gateway) = session.settings.text(self.ports.pat_gateway_host.as_deref(), "pat_gateway_host")
        {
            place.host = gateway;
        }
        // A host that looks like an option would be one to ssh.
        (!place.host.is_empty() && !place.host.starts_with('-')).then_some(place)
    }

    /// Waits until SSH answers. When it does not, ssh is run all the same: the user's own configuration may know another way.
    async fn wait(&self, session: &Session, place: &Ssh) {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let waiting = Waiting::start(&session.out, format!("waiting for SSH at {} port {}", place.host, place.port));
        while !answers_ssh(place).await && Instant::now() < deadline {
            waiting.tick();
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn ssh(&self, session: &Session, machine: &MachineView, place: &Ssh, key: &std::path::Path) -> Result<u8> {
        let folder = home().join(".stratuslab");
        let _ = std::fs::create_dir_all(&folder);
        let mut command = Command::new("ssh");
        command.arg("-p").arg(place.port.to_string());
        for option in ["ConnectTimeout=5", "StrictHostKeyChecking=no", "NumberOfPasswordPrompts=3"] {
            command.args(["-o", option]);
        }
        // Known under the machine's own name: the same address may have been another machine's yesterday.
        command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", folder.join("known_hosts").display()));
        command.arg("-o").arg(format!("HostKeyAlias=stratus-{}", machine.id.rsplit('/').next().unwrap_or_default()));
        command.args(["-o", "CheckHostIP=no", "-o", "LogLevel=ERROR", "-o", ALIVE[0], "-o", ALIVE[1]]);
        command.arg("-i").arg(key).arg(format!("{}@{}", self.login, place.host.trim_matches(['[', ']'])));
        command.args(&self.command);
        session.out.detail(format_args!("{command:?}"));
        let status = command.status().map_err(|error| Failure::Work(format!("ssh cannot be run: {error}; is an SSH client installed?")))?;
        Ok(status.code().map_or(255, |code| u8::try_from(code).unwrap_or(255)))
    }
}

//! `stratus system …`: several resources as one.

mod parts;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloud::{Accepted, Api, ApiError, JobEnd, is_uuid, wait_for_job};
use crate::commands::each::each;
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::progress::Waiting;
use crate::session::Session;
use crate::table;
use parts::parts_of;

/// The largest file of components that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Make, show, start, stop and remove several resources as one
///
/// A system is made of components: machines, volumes, addresses, keys, systems. They refer to each other by '#NAME', and are
/// started, stopped and removed together.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    /// List the systems
    ///
    /// JSON: a list of {"id", "name", "state", "reason"}.
    List(Asking),
    Show(Show),
    /// Start all machines of systems; those that are paused or suspended go on
    Start(Ask),
    /// Stop all machines of systems and keep them
    Stop(Ask),
    /// Restart all machines of systems
    Restart(Ask),
    /// Halt all machines of systems where they are, their memory kept
    Pause(Ask),
    /// Write the memory of all machines of systems to disk and give their hosts back
    Suspend(Ask),
    /// Remove systems with all that was made for them
    ///
    /// What was added to a system later stays. JSON: a list of the ids.
    Delete(Ask),
}

/// Make a system
///
/// FILE has a SystemTemplate in JSON: {"componentDescriptors": [{"name", "type", "quantity", "machineTemplate": {…}}, …]}, or a
/// whole SystemCreate; '-' is standard input. Nothing is made if one of the components could not be.
/// Prints 'SYSTEM UUID' and returns; the components are made meanwhile (--wait waits for them). JSON: {"id", "name", "state"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus system create --name site site.json
  stratus system create --name site --template 01a1fbbd-a13f-756b-b6c8-e2ed8234f161 --wait")]
struct Create {
    /// File of the components
    #[arg(value_name = "FILE", required_unless_present = "template", conflicts_with = "template")]
    file: Option<PathBuf>,
    /// UUID of a SystemTemplate of the cloud, instead
    #[arg(long, value_name = "UUID")]
    template: Option<String>,
    /// Its name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Show a system and its parts
///
/// JSON: {"id", "name", "state", "reason", "parts": [{"type", "id", "name", "state"}]}.
#[derive(Debug, clap::Args)]
struct Show {
    /// UUID or name
    #[arg(value_name = "SYSTEM")]
    system: String,
    #[command(flatten)]
    asking: Asking,
}

/// What start, stop, restart, pause, suspend and delete understand. JSON: a list of the ids.
#[derive(Debug, clap::Args)]
struct Ask {
    /// UUIDs or names
    #[arg(value_name = "SYSTEM", required = true)]
    systems: Vec<String>,
    /// Do not ask the guests (stop and restart)
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Whether the end is waited for.
#[derive(Debug, clap::Args)]
struct Patience {
    /// Wait until it is done, for --timeout seconds at most
    #[arg(long)]
    wait: bool,
    /// Seconds to wait [default: 600]
    #[arg(long, value_name = "SECONDS", default_value_t = 600, hide_default_value = true)]
    timeout: u64,
}

/// A system as the cloud shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SystemView {
    id: String,
    name: Option<String>,
    state: Option<String>,
    reason: Option<String>,
}

impl SystemView {
    fn as_json(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "state": self.state, "reason": self.reason })
    }

    fn uuid(&self) -> &str {
        self.id.trim_start_matches("System/")
    }
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Create(create) => &create.common,
            Action::List(asking) => &asking.common,
            Action::Show(show) => &show.asking.common,
            Action::Start(ask) | Action::Stop(ask) | Action::Restart(ask) | Action::Pause(ask) | Action::Suspend(ask) | Action::Delete(ask) => &ask.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::List(asking) => list(&asking).await,
            Action::Show(show) => show.run().await,
            Action::Start(ask) => ask.run("start").await,
            Action::Stop(ask) => ask.run("stop").await,
            Action::Restart(ask) => ask.run("restart").await,
            Action::Pause(ask) => ask.run("pause").await,
            Action::Suspend(ask) => ask.run("suspend").await,
            Action::Delete(ask) => ask.run("delete").await,
        }
    }
}

impl Create {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let mut body = match (&self.file, &self.template) {
            (Some(file), _) => wrapped(read(file)?),
            (None, Some(template)) if is_uuid(template.trim_start_matches("SystemTemplate/")) => {
                let local = template.trim_start_matches("SystemTemplate/").to_lowercase();
                json!({ "systemTemplate": { "href": format!("SystemTemplate/{local}") } })
            }
            (None, template) => {
                let shown = template.as_deref().unwrap_or_default();
                return Err(Failure::Check(format!("'{shown}' is no UUID of a SystemTemplate")));
            }
        };
        if let Some(name) = &self.name {
            body["name"] = json!(name);
        }
        let api = session.api(&self.cloud)?;
        let made = api.post("System", &body).await?;
        let system: SystemView = api.viewed("System", made.body)?;
        if !session.out.is_json() {
            session.out.line(format_args!("SYSTEM {}", system.uuid()))?;
        }
        let ended = match self.patience.limit() {
            Some(limit) => finished(&session, &api, system.uuid(), made.job.as_deref(), "creation", limit).await?,
            None => None,
        };
        if session.out.is_json() {
            let now: SystemView = api.view(&system.id).await?;
            session.out.json(&now.as_json())?;
        }
        ended.map_or(Ok(()), |reason| Err(Failure::Work(reason)))
    }
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let systems: Vec<SystemView> = api.views("System").await?;
    if session.out.is_json() {
        return session.out.json(&systems.iter().map(SystemView::as_json).collect::<Vec<_>>());
    }
    let rows = systems.iter().map(|system| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![system.uuid().to_owned(), text(&system.name), text(&system.state), text(&system.reason)]
    });
    session.out.line(table::render(&["UUID", "NAME", "STATE", "REASON"], rows))
}

impl Show {
    async fn run(self) -> Result {
        let (session, api) = self.asking.begin()?;
        let id = system_named(&api, &self.system).await?;
        let system: SystemView = api.view(&format!("System/{id}")).await?;
        let parts = parts_of(&api, &system.id).await?;
        if session.out.is_json() {
            let mut shown = system.as_json();
            shown["parts"] = parts.iter().map(parts::Part::as_json).collect();
            return session.out.json(&shown);
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        session.out.line(format_args!("{} {} {}", system.uuid(), text(&system.name), text(&system.state)))?;
        if let Some(reason) = &system.reason {
            session.out.line(format_args!("{reason}"))?;
        }
        let rows = parts.into_iter().map(parts::Part::into_row);
        session.out.line(table::render(&["TYPE", "ID", "NAME", "STATE"], rows))
    }
}

impl Ask {
    async fn run(self, verb: &str) -> Result {
        if self.force && !["stop", "restart"].contains(&verb) {
            return Err(Failure::Usage(format!("--force: {verb} doesn't ask guests anyway")));
        }
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut outcome = each(&self.systems, async |named| {
            let id = system_named(&api, named).await?;
            session.out.detail(format_args!("Sending \"{verb}\" request for system {id}."));
            if verb == "delete" {
                let accepted = api.delete(&format!("System/{id}")).await?;
                return Ok((id, accepted));
            }
            let body = json!({ "action": format!("http://schemas.dmtf.org/cimi/1/action/{verb}"), "force": self.force });
            let accepted = api.post(&format!("System/{id}/{verb}"), &body).await?;
            Ok((id, accepted))
        })
        .await;
        if let Some(limit) = self.patience.limit() {
            let deadline = tokio::time::Instant::now() + limit;
            let until_done = async |_: &str, (id, accepted): &(String, Accepted)| {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                let reason = finished(&session, &api, id, accepted.job.as_deref(), verb, left).await?;
                reason.map_or(Ok(()), |reason| Err(Failure::Work(reason)))
            };
            outcome.then(until_done).await;
        }
        if session.out.is_json() {
            session.out.json(&outcome.done.iter().map(|(_, (id, _))| id).collect::<Vec<_>>())?;
        }
        outcome.result()
    }
}

impl Patience {
    fn limit(&self) -> Option<Duration> {
        self.wait.then(|| Duration::from_secs(self.timeout))
    }
}

/// Waits for a job; why it came to nothing.
async fn finished(session: &Session, api: &Api, id: &str, job: Option<&str>, verb: &str, limit: Duration) -> Result<Option<String>> {
    let waiting = Waiting::start(&session.out, format!("{verb} of system {id}"));
    // The job of a removal goes with what it was about, when nobody looks for long.
    let end = match wait_for_job(api, job, limit, &waiting).await {
        Err(ApiError::Refused { status: 404, .. }) if verb == "delete" => JobEnd::Success,
        end => end?,
    };
    Ok(match end {
        JobEnd::Success => None,
        JobEnd::Failed(reason) => Some(reason),
        JobEnd::StillRunning => Some(format!("{verb} of system {id} is not done after {} s; it goes on", limit.as_secs())),
    })
}

/// The UUID of the system that a user named.
async fn system_named(api: &Api, text: &str) -> Result<String> {
    let local = text.trim().trim_start_matches("System/");
    if is_uuid(local) {
        return Ok(local.to_lowercase());
    }
    let mut named: Vec<SystemView> = api.views("System").await?;
    named.retain(|system| system.name.as_deref() == Some(text));
    match named.as_slice() {
        [] => Err(Failure::Work(format!("there is no system '{text}'")).with_hint("stratus system list shows the systems that are there.")),
        [system] => Ok(system.uuid().to_owned()),
        several => {
            let ids: Vec<&str> = several.iter().map(SystemView::uuid).collect();
            Err(Failure::Work(format!("{} systems have the name '{text}'; take one of {}", ids.len(), ids.join(", "))))
        }
    }
}

fn read(file: &Path) -> Result<Value> {
    let mut text = String::new();
    let failed = |error: std::io::Error| Failure::file(file, &error);
    if file == Path::new("-") {
        std::io::stdin().take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file).map_err(failed)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    }
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(Failure::Check(format!("{} is larger than {FILE_MAX_BYTES} bytes", file.display())));
    }
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Failure::Check(format!("{} has no JSON object", file.display()))),
        Err(error) => Err(Failure::Check(format!("{} is not JSON: {error}", file.display()))),
    }
}

/// A SystemCreate, also of the template alone: names and texts are those of the system then.
fn wrapped(mut given: Value) -> Value {
    if given.get("systemTemplate").is_some() {
        return given;
    }
    let mut create = json!({});
    if let Some(template) = given.as_object_mut() {
        for name in ["name", "description", "properties"] {
            if let Some(value) = template.remove(name) {
                create[name] = value;
            }
        }
    }
    create["systemTemplate"] = given;
    create
}

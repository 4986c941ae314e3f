//! `stratus host move`, and how machines are moved.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cloud::{Api, Events};
use crate::commands::machine_id::MachineNumber;
use crate::failure::{Failure, Result};
use crate::memory_size::Megabytes;
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// How often a cloud is asked that doesn't tell.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two times at which is told how far a machine is.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Move a machine to another host
///
/// Its guest runs on meanwhile, and stands still for a moment in the end; its addresses and connections stay. Where that can't be (it
/// is paused, for one: its reason says why), or with --at-rest, it stands still while memory and disks are copied. If anything fails it goes on where it
/// was, and its reason says why. Without --wait it returns when the cloud has accepted. JSON: {"machine", "host"}, with --wait also
/// "lastMove".
#[derive(Debug, clap::Args)]
pub(super) struct Move {
    /// Number or UUID of the machine
    #[arg(value_name = "ID")]
    id: String,
    /// Host to go to [default: the one that suits it best]
    #[arg(value_name = "HOST", conflicts_with = "cancel")]
    host: Option<String>,
    #[command(flatten)]
    how: How,
    /// Return when it is there, or stays
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Give up that it is moved: it stays, or goes on, where it is
    #[arg(long, conflicts_with_all = ["at_rest", "bandwidth"])]
    cancel: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    pub(super) common: Common,
}

/// How machines are moved.
#[derive(Debug, Default, clap::Args)]
pub(super) struct How {
    /// Have guests stand still while memory and disks are copied
    #[arg(long)]
    at_rest: bool,
    /// What copying one that runs may take of the network, a second: a number of MB, or one with its unit [default: all there is]
    #[arg(long, value_name = "AMOUNT", conflicts_with = "at_rest")]
    bandwidth: Option<Megabytes>,
}

/// Asks for a machine to go to a host, or to any other one.
pub(super) async fn migrate(api: &Api, machine: &str, host: Option<&str>, how: &How) -> Result {
    let mut properties = serde_json::Map::new();
    if let Some(host) = host {
        properties.insert("host".to_owned(), json!(host));
    }
    if how.at_rest {
        properties.insert("atRest".to_owned(), json!("true"));
    }
    if let Some(Megabytes(mib)) = how.bandwidth {
        properties.insert("bandwidth".to_owned(), json!(mib.saturating_mul(1 << 20).to_string()));
    }
    ask(api, machine, &Value::Object(properties)).await
}

async fn ask(api: &Api, machine: &str, properties: &Value) -> Result {
    api.post(&format!("{machine}/migrate"), &json!({ "action": "migrate", "properties": properties })).await?;
    Ok(())
}

impl Move {
    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let machine = MachineNumber::read(&self.id).ok_or_else(|| Failure::Usage(format!("'{}' is neither a number nor a UUID of a machine", self.id)))?;
        let machine = machine.look_up(&api).await?;
        if self.cancel {
            ask(&api, &machine.id, &json!({ "cancel": "true" })).await?;
            session.out.step(format_args!("{} is not moved any more", self.id));
            return if session.out.is_json() { session.out.json(&json!({ "machine": machine.id, "host": null })) } else { Ok(()) };
        }
        let before = api.get(&machine.id).await?;
        migrate(&api, &machine.id, self.host.as_deref(), &self.how).await?;
        if !self.wait {
            session.out.step(format_args!("{} is being moved", self.id));
            return if session.out.is_json() { session.out.json(&json!({ "machine": machine.id, "host": self.host })) } else { Ok(()) };
        }
        let document = until_there(&session, &api, &before).await?;
        let (host, last) = (&document["hostname"], &document["lastMove"]);
        if session.out.is_json() {
            return session.out.json(&json!({ "machine": machine.id, "host": host, "lastMove": last }));
        }
        let host = host.as_str().unwrap_or("another host");
        match last["downtimeMilliseconds"].as_u64() {
            Some(millis) => session.out.step(format_args!("{} is on {host}; its guest stood still for {millis} ms", self.id)),
            None => session.out.step(format_args!("{} is on {host}", self.id)),
        }
        Ok(())
    }
}

/// Waits until a list of machines, which are those of one host, is empty.
///
/// # Errors
/// If some stay, with their reasons.
pub(super) async fn until_moved(session: &Session, api: &Api, there: &str) -> Result {
    let mut looks = Looks::begin(api, there).await?;
    loop {
        let left = api.list(there).await?;
        if left.is_empty() {
            return Ok(());
        }
        if !left.iter().any(is_on_its_way) {
            return Err(stays(&left));
        }
        looks.tell(session, &left);
        looks.next().await;
    }
}

/// Waits until a machine, which was so `before`, is on another host, and what is known of how it came there.
async fn until_there(session: &Session, api: &Api, before: &Value) -> Result<Value> {
    let id = before["id"].as_str().unwrap_or_default();
    let mut looks = Looks::begin(api, &format!("Machine?$filter=id='{id}'")).await?;
    let mut is_live = false;
    loop {
        let document = api.get(id).await?;
        let is_there = document["host"] != before["host"];
        // Once it runs there.
        let is_told = |document: &Value| document["lastMove"].is_object() && document["lastMove"] != before["lastMove"];
        if is_on_its_way(&document) {
            is_live = document["moving"]["live"] == true && document["moving"]["bytesCopied"].is_u64();
        } else if !is_there {
            return Err(stays(&[document]));
        } else if !is_live || document["state"] != "STARTED" || is_told(&document) {
            return Ok(document);
        }
        looks.tell(session, &[document]);
        looks.next().await;
    }
}

fn is_on_its_way(document: &Value) -> bool {
    document["moving"].is_object()
}

/// When to look at a list again.
struct Looks {
    /// None if this cloud doesn't tell.
    events: Option<Events>,
    told: tokio::time::Instant,
}

impl Looks {
    /// Before it is looked at, so that nothing is missed in between.
    async fn begin(api: &Api, list: &str) -> Result<Self> {
        Ok(Self { events: api.follow(list).await?, told: tokio::time::Instant::now() })
    }

    /// Waits until something has changed.
    async fn next(&mut self) {
        match &mut self.events {
            Some(followed) => {
                if followed.next().await.is_none() {
                    self.events = None;
                }
            }
            None => tokio::time::sleep(PAUSE).await,
        }
    }

    /// Tells now and then how far they are.
    fn tell(&mut self, session: &Session, documents: &[Value]) {
        if self.told.elapsed() < TELL_AGAIN {
            return;
        }
        self.told = tokio::time::Instant::now();
        for document in documents.iter().filter(|document| document["moving"]["bytesCopied"].is_u64()) {
            session.out.step(how_far(document));
        }
    }
}

fn how_far(document: &Value) -> String {
    let bytes = |name: &str| table::shown_bytes(document["moving"][name].as_u64().unwrap_or(0));
    format!("{}: {} copied, {} left", document["vmid"], bytes("bytesCopied"), bytes("bytesLeft"))
}

fn stays(left: &[Value]) -> Failure {
    let reasons: BTreeMap<u64, String> = left
        .iter()
        .map(|document| {
            let reason = document["reason"].as_str().unwrap_or("nobody has asked for it to be moved");
            (document["vmid"].as_u64().unwrap_or(0), reason.to_owned())
        })
        .collect();
    let reasons: Vec<String> = reasons.iter().map(|(vmid, reason)| format!("{vmid}: {reason}")).collect();
    Failure::Work(reasons.join("\n"))
}

//! Where a host that has joined has the files of machines from that come to it: any entry asks for them where they are.

use std::{error::Error as _, io, time::Duration};

use anyhow::Context as _;
use cimi::resources::Machine;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use reqwest::StatusCode;
use trust::{HostKey, MOVING_PATH};
use vmhost::{controller::MachineFiles, moving::Packed};

use crate::joining::{Believed, Kept};

/// How long nothing may come, though it isn't whole.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a connection on which nothing comes is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// By these entries, as good as a certificate is.
pub(super) struct Arrivals(Vec<Source>);

/// One of them.
struct Source {
    /// How operators know it.
    name: String,
    /// What stands before the local part of a machine's id.
    url: String,
    client: reqwest::Client,
}

impl Arrivals {
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(kept: &Kept, key: &HostKey) -> anyhow::Result<Self> {
        let believed = Believed::of_host(kept, key)?;
        let entries = kept.entries.iter().map(|entry| {
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(believed.config()?)
                .read_timeout(SILENCE)
                .http2_keep_alive_interval(PING.0)
                .http2_keep_alive_timeout(PING.1);
            let client = storage::import::client_of_server(client, entry.host())
                .context("preparing to receive machines")?;
            Ok(Source {
                name: entry.to_string(),
                url: entry.at_door(MOVING_PATH),
                client,
            })
        });
        Ok(Self(entries.collect::<anyhow::Result<_>>()?))
    }

    async fn files(&self, machine: &Machine) -> Result<Packed, String> {
        let mut why_not = Vec::new();
        for Source { name, url, client } in &self.0 {
            let asked = client.get(format!("{url}{}", machine.id.local()));
            let why = match asked.send().await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let pieces = answer.bytes_stream();
                    return Ok(Box::pin(
                        pieces.map(|piece| piece.map_err(io::Error::other)),
                    ));
                }
                Ok(answer) => refused(answer.status()),
                Err(error) => root_of(error),
            };
            why_not.push(format!("{name}: {why}"));
        }
        Err(format!(
            "no entry of the cloud gives them ({})",
            why_not.join("; ")
        ))
    }
}

impl MachineFiles for Arrivals {
    fn files<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<Packed, String>> {
        self.files(machine).boxed()
    }
}

/// What an entry that gives no files means by its answer.
fn refused(status: StatusCode) -> String {
    match status {
        StatusCode::NOT_FOUND => {
            "it knows of no way to this host for which the machine is at rest".to_owned()
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            "the host that has them can't be asked there just now; its log says why".to_owned()
        }
        other => format!("it answered {other}"),
    }
}

/// What is behind an error, without the address, which is said by the entry's name.
fn root_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let root = causes.last().map(ToString::to_string);
    root.unwrap_or_else(|| error.to_string())
}

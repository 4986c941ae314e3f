//! Where a host that has joined has the files of machines from that come to it: any entry asks for them where they are. And the
//! connections to the other host of a machine that goes from one to the other while its guest runs: both come to an entry.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use anyhow::Context as _;
use cimi::resources::Machine;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use reqwest::StatusCode;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use trust::{CROSSING_PROTOCOL, CROSSING_REQUEST_BYTES, HostKey, MET, MOVING_PATH};
use vmhost::{
    controller::{Channel, MachineFiles, WayEnd},
    moving::Packed,
};

use crate::{
    host_services::crossing_request,
    joining::{Believed, Entry, Kept},
};

/// How long an entry may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(4);
/// How long the other host is waited for at one entry, and how often all are tried: the one that comes stays so long that the other
/// one is at all of them meanwhile.
const fn meeting(end: WayEnd) -> (Duration, usize) {
    match end {
        WayEnd::Coming => (Duration::from_secs(10), 3),
        WayEnd::Leaving => (Duration::from_secs(2), 15),
    }
}

/// How long nothing may come, though it isn't whole.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a connection on which nothing comes is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// By these entries, as good as a certificate is.
pub(super) struct Arrivals {
    entries: Vec<Entry>,
    sources: Vec<Source>,
    config: Arc<ClientConfig>,
}

/// Where files come from.
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
        let mut config = believed.config().context("preparing to meet other hosts")?;
        config.alpn_protocols = vec![CROSSING_PROTOCOL.to_vec()];
        Ok(Self {
            sources: entries.collect::<anyhow::Result<_>>()?,
            entries: kept.entries.clone(),
            config: Arc::new(config),
        })
    }

    /// A connection to the other host by this entry.
    async fn meet_at(
        &self,
        entry: &Entry,
        request: [u8; CROSSING_REQUEST_BYTES],
    ) -> Result<Channel, String> {
        let connecting = timeout(CONNECTING, entry.connect(Arc::clone(&self.config)));
        let late = |_| format!("{entry}: it doesn't answer in time");
        let failed = |error: io::Error| format!("{entry}: {error}");
        let mut stream = connecting.await.map_err(late)?.map_err(failed)?;
        stream.write_all(&request).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        match stream.read_u8().await {
            Ok(MET) => Ok(Box::new(stream)),
            _ => Err(format!("{entry}: the other host can't be met there")),
        }
    }

    async fn files(&self, machine: &Machine) -> Result<Packed, String> {
        let mut why_not = Vec::new();
        for Source { name, url, client } in &self.sources {
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

    fn channel<'a>(
        &'a self,
        machine: &'a Machine,
        end: WayEnd,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Channel, String>> {
        async move {
            let request = crossing_request(machine, name)?.to_bytes();
            let request = request.ok_or("that is no way of a machine")?;
            let mut failed = "this host knows no entry".to_owned();
            // One after the other, as the other host does: at several at once each could meet at another one.
            let (patience, rounds) = meeting(end);
            for entry in self
                .entries
                .iter()
                .cycle()
                .take(self.entries.len() * rounds)
            {
                match timeout(patience, self.meet_at(entry, request)).await {
                    Ok(Ok(channel)) => return Ok(channel),
                    Ok(Err(why)) => failed = why,
                    Err(_) => failed = format!("{entry}: the other host didn't come there"),
                }
            }
            Err(failed)
        }
        .boxed()
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

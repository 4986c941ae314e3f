//! Where a host that has joined has the files of machines from that come to it: any entry asks for them where they are. And the
//! connections to the other host of a machine that goes from one to the other while its guest runs: both come to an entry.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use cimi::resources::Machine;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use reqwest::StatusCode;
use rustls::ClientConfig;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use trust::{CROSSING_PROTOCOL, CROSSING_REQUEST_BYTES, HostKey, MOVING_PATH};
use vmhost::{
    controller::{Channel, MachineFiles, WayEnd},
    moving::Packed,
};

use crate::{
    host_services::{agree, crossing_request, is_met},
    joining::{Believed, Entry, Kept, root_of},
};

/// How long an entry may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(4);
/// How long the host that a machine leaves waits for the other one at one entry, and that one for its word where they have met.
const VISIT: Duration = Duration::from_secs(2);
const AGREEING: Duration = Duration::from_secs(10);
/// Rest before an entry is tried again, and how long the host that a machine leaves tries all. The other one waits as long as the
/// machine is to come: its memory comes when its disks are there, whatever time these take.
const REST: Duration = Duration::from_millis(250);
const MEETING: Duration = Duration::from_secs(50);
const SILENT: &str = "it doesn't answer in time";

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

    /// A connection to an entry, which leads to the other host once that has come there, too: as long as there is `patience` for it.
    async fn come_to(
        &self,
        entry: &Entry,
        request: [u8; CROSSING_REQUEST_BYTES],
        patience: Duration,
    ) -> Result<TlsStream<TcpStream>, String> {
        let connecting = timeout(CONNECTING, entry.connect(Arc::clone(&self.config)));
        let failed = |error: io::Error| error.to_string();
        let stream = connecting.await.map_err(|_| SILENT.to_owned())?;
        let mut stream = stream.map_err(failed)?;
        stream.write_all(&request).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        // It closes the connection for any reason, of which its log tells.
        match timeout(patience, is_met(&mut stream)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(_)) => Err("the other host can't be met there now".to_owned()),
            Err(_) => Err("the other host didn't come there".to_owned()),
        }
    }

    /// The other host at this entry.
    async fn meet_at(
        &self,
        entry: &Entry,
        end: WayEnd,
        request: [u8; CROSSING_REQUEST_BYTES],
    ) -> Result<Channel, String> {
        let patience = match end {
            WayEnd::Coming => Duration::MAX,
            WayEnd::Leaving => VISIT,
        };
        let mut stream = self.come_to(entry, request, patience).await?;
        let agreed = timeout(AGREEING, agree(&mut stream, end)).await;
        match agreed {
            Ok(Ok(())) => Ok(Box::new(stream)),
            _ => Err("the other host came there, and went again".to_owned()),
        }
    }

    /// The other host, wherever both find an entry: the one that the machine comes to waits at all of them, and the one that it leaves
    /// goes from one to the next, so that it doesn't matter which of them each knows, and in what order, and which are there.
    async fn meet(
        &self,
        end: WayEnd,
        request: [u8; CROSSING_REQUEST_BYTES],
    ) -> Result<Channel, String> {
        let why_not = Mutex::new(
            vec!["it was not tried"; self.entries.len()]
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        );
        let at = async |number: usize, entry: &Entry| {
            let met = self.meet_at(entry, end, request).await;
            met.map_err(|why| {
                if let Some(last) = why_not.lock().get_mut(number) {
                    *last = why;
                }
            })
            .ok()
        };
        let meeting = async {
            match end {
                WayEnd::Leaving => loop {
                    for (number, entry) in self.entries.iter().enumerate() {
                        if let Some(channel) = at(number, entry).await {
                            return channel;
                        }
                    }
                    sleep(REST).await;
                },
                WayEnd::Coming => {
                    let waiting = self.entries.iter().enumerate().map(|(number, entry)| {
                        let at = &at;
                        Box::pin(async move {
                            loop {
                                if let Some(channel) = at(number, entry).await {
                                    return channel;
                                }
                                sleep(REST).await;
                            }
                        })
                    });
                    let mut waiting: FuturesUnordered<_> = waiting.collect();
                    match waiting.next().await {
                        Some(channel) => channel,
                        None => std::future::pending().await,
                    }
                }
            }
        };
        let limit = match end {
            WayEnd::Coming => Duration::MAX,
            WayEnd::Leaving => MEETING,
        };
        let met = timeout(limit, meeting).await;
        met.map_err(|_| {
            let named = self
                .entries
                .iter()
                .zip(why_not.lock().iter())
                .map(|(entry, why)| format!("{entry}: {why}"))
                .collect::<Vec<_>>();
            format!("no entry leads to the other host ({})", named.join("; "))
        })
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
            self.meet(end, request).await
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::pin::pin;

    use rustls::RootCertStore;

    use super::*;

    /// Of an entry that nobody answers at.
    fn nobody() -> Arrivals {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Arrivals {
            entries: vec!["https://127.0.0.1:1".parse().unwrap()],
            sources: Vec::new(),
            config: Arc::new(config),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_come_to_waits_as_long_as_disks_are_copied_and_who_leaves_does_not() {
        let arrivals = nobody();
        let request = [0; CROSSING_REQUEST_BYTES];
        let began = tokio::time::Instant::now();
        let left = arrivals.meet(WayEnd::Leaving, request).await;
        let why = left.err().unwrap();
        assert!(why.starts_with("no entry leads to the other host"), "{why}");
        assert!(began.elapsed() >= MEETING);
        let mut coming = pin!(arrivals.meet(WayEnd::Coming, request));
        let hours = timeout(Duration::from_secs(7200), &mut coming);
        assert!(hours.await.is_err(), "it gave up");
    }
}

//! Where a host that has joined has the files of machines from that come to it: any entry asks for them where they are. And the
//! connections to the other host of a machine that goes from one to the other while its guest runs: both come to an entry.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use cimi::resources::Machine;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, select_ok},
};
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

/// How long nothing may come, though it isn't whole.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a connection on which nothing comes is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// By these entries, as good as a certificate is.
pub(super) struct Arrivals {
    entries: Vec<Entry>,
    clients: Vec<(String, reqwest::Client)>,
    config: Arc<ClientConfig>,
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
            Ok((entry.at_door(MOVING_PATH), client))
        });
        let mut config = believed.config().context("preparing to meet other hosts")?;
        config.alpn_protocols = vec![CROSSING_PROTOCOL.to_vec()];
        Ok(Self {
            clients: entries.collect::<anyhow::Result<_>>()?,
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
        let mut failed = "this host knows no entry".to_owned();
        for (url, client) in &self.clients {
            let asked = client
                .get(format!("{url}{}", machine.id.local()))
                .send()
                .await;
            match asked.and_then(reqwest::Response::error_for_status) {
                Ok(answer) => {
                    let pieces = answer.bytes_stream();
                    return Ok(Box::pin(
                        pieces.map(|piece| piece.map_err(io::Error::other)),
                    ));
                }
                Err(error) => failed = format!("{error:?}"),
            }
        }
        Err(failed)
    }
}

impl MachineFiles for Arrivals {
    fn files<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<Packed, String>> {
        self.files(machine).boxed()
    }

    fn channel<'a>(
        &'a self,
        machine: &'a Machine,
        _end: WayEnd,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Channel, String>> {
        async move {
            let request = crossing_request(machine, name)?.to_bytes();
            let request = request.ok_or("that is no way of a machine")?;
            // At all of them, since the other host may be at any.
            let met = self
                .entries
                .iter()
                .map(|entry| self.meet_at(entry, request).boxed());
            let met = met.collect::<Vec<_>>();
            if met.is_empty() {
                return Err("this host knows no entry".to_owned());
            }
            select_ok(met).await.map(|(channel, _)| channel)
        }
        .boxed()
    }
}

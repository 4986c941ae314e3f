//! Where a host that has joined has the files of machines from that come to it: any entry asks for them where they are.

use std::{io, time::Duration};

use anyhow::Context as _;
use cimi::resources::Machine;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use trust::{HostKey, MOVING_PATH};
use vmhost::{controller::MachineFiles, moving::Packed};

use crate::joining::{Believed, Kept};

/// How long nothing may come, though it isn't whole.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a connection on which nothing comes is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// By these entries, as good as a certificate is.
pub(super) struct Arrivals(Vec<(String, reqwest::Client)>);

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
        Ok(Self(entries.collect::<anyhow::Result<_>>()?))
    }

    async fn files(&self, machine: &Machine) -> Result<Packed, String> {
        let mut failed = "this host knows no entry".to_owned();
        for (url, client) in &self.0 {
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
}

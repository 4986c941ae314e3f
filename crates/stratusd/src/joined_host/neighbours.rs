//! Images that a host has from other hosts of its cloud: an entry says which have them, and signs for each what it may give.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use cimi::ImageId;
use futures::{FutureExt as _, future::BoxFuture};
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName},
};
use rustls::pki_types::CertificateDer;
use storage::{
    import::{Fetcher, client_of_server},
    replicas,
};
use tokio::time::timeout;
use trust::{
    HostKey, IMAGES_PATH, NEIGHBOURS_AT_MOST, NEIGHBOURS_PATH, Neighbour, REPLICAS_PATH,
    SERVER_NAME, TICKET_HEADER,
};

use crate::joining::{Believed, Entry, Kept};

/// How long an entry may take to say who they are.
const SAYING: Duration = Duration::from_secs(4);
/// Bytes of what it says; ours have about 500 for each.
const SAID_BYTES: usize = 8 * 1024;

/// Entries are asked who has an image, as good as a certificate is.
pub(super) struct Asked {
    entries: Vec<(Entry, reqwest::Client)>,
    believed: Believed,
    authority: CertificateDer<'static>,
}

impl Asked {
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(kept: &Kept, key: &HostKey) -> anyhow::Result<Self> {
        let believed = Believed::of_host(kept, key)?;
        let entries = kept.entries.iter().map(|entry| {
            let builder = reqwest::Client::builder()
                .tls_backend_preconfigured(believed.config()?)
                .timeout(SAYING);
            let client = client_of_server(builder, entry.host());
            let client = client.with_context(|| format!("preparing to ask {entry}"))?;
            anyhow::Ok((entry.clone(), client))
        });
        Ok(Self {
            entries: entries.collect::<anyhow::Result<_>>()?,
            authority: kept.authority()?,
            believed,
        })
    }

    /// Those that the first entry names which answers.
    async fn named(&self, image: &ImageId) -> Vec<Neighbour> {
        for (entry, client) in &self.entries {
            let path = format!("{IMAGES_PATH}{}{NEIGHBOURS_PATH}", image.local());
            match timeout(SAYING, said(client, entry.at_door(&path))).await {
                Ok(Ok(named)) => return named,
                Ok(Err(error)) => {
                    tracing::debug!(%entry, "an entry doesn't say who has an image: {error:#}");
                }
                Err(_) => tracing::debug!(%entry, "an entry doesn't say in time who has an image"),
            }
        }
        Vec::new()
    }

    fn asked_for(&self, neighbour: Neighbour, file: &str) -> anyhow::Result<replicas::Neighbour> {
        let Neighbour {
            host,
            name,
            address,
            ticket,
        } = neighbour;
        let config = self.believed.config_of_host(&host, &self.authority)?;
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static(TICKET_HEADER), ticket.parse()?)]);
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .default_headers(headers);
        Ok(replicas::Neighbour {
            // People know it by its name; two may have the same.
            name: format!("{name} (Host/{host})"),
            url: url_at(address, file),
            fetcher: Fetcher::of_server(builder, &address.ip().to_string())?,
        })
    }
}

/// It is connected to by its address: nobody asks for this name.
fn url_at(address: SocketAddr, file: &str) -> String {
    format!(
        "https://{SERVER_NAME}:{}{REPLICAS_PATH}{file}",
        address.port()
    )
}

async fn said(client: &reqwest::Client, url: String) -> anyhow::Result<Vec<Neighbour>> {
    let mut answer = client.get(url).send().await?;
    anyhow::ensure!(
        answer.status() == StatusCode::OK,
        "it answers {}",
        answer.status()
    );
    let mut text = Vec::new();
    while let Some(part) = answer.chunk().await? {
        anyhow::ensure!(text.len() + part.len() <= SAID_BYTES, "it says too much");
        text.extend_from_slice(&part);
    }
    let mut named: Vec<Neighbour> = serde_json::from_slice(&text)?;
    named.truncate(NEIGHBOURS_AT_MOST);
    Ok(named)
}

impl replicas::Neighbours for Asked {
    fn with<'a>(
        &'a self,
        image: &'a ImageId,
        file: &'a str,
    ) -> BoxFuture<'a, Vec<replicas::Neighbour>> {
        async move {
            let named = self.named(image).await.into_iter();
            let asked = named.filter_map(|neighbour| {
                let asked = self.asked_for(neighbour, file);
                asked
                    .inspect_err(
                        |error| tracing::warn!(%image, "another host can't be asked: {error:#}"),
                    )
                    .ok()
            });
            asked.collect()
        }
        .boxed()
    }
}

//! The daemon that keeps the images and volumes of a cloud, and how entries reach it that don't.
//!
//! ```text
//!  the keeper ── StorageKeeper/own: its folder, where its door is ──▶ store ──▶ entries
//!  an entry   ── content of images, as its users send and ask for it ──▶ door for hosts of the keeper
//! ```
//!
//! They trust each other by the authority for hosts, whose key each of them reads in the store. There is one keeper: the [folder]
//! with the data is known by a file in it, and a daemon with another folder is told so before it takes images that aren't there
//! for lost. Of two with copies of the data one has the [pulse].

mod folder;
mod pulse;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use cimi::resources::{Image, StorageKeeper};
use cloud::{ByteStream, CloudError, Download, DownloadRequest, Relayed, Upload};
use documents::Documents;
use doors::{CONTENT_HEADER, SentContent};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, header};
use storage::controller::ExportFormat;
use store::Revision;
use tokio::time::{error::Elapsed, timeout};
use trust::{Authority, ENTRY_LIFE, IMAGES_PATH, LOOK_AGAIN_PATH, REVISION_HEADER};

use self::pulse::Myself;
pub(crate) use self::pulse::Pulse;
use crate::{
    config::{Config, StoreKind},
    joining::{Believed, Entry},
    settings,
};

/// How long nothing of content may come that is asked for: its door answers pings whatever its disk does.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a connection on which nothing comes is tried, and how long the answer may take. Nothing else bounds how long the answer to
/// an upload is waited for: it comes when all of it was taken and looked at, whatever its user's line is like.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How long somebody waits who would start a machine: the Marketplaces have a few seconds of it.
const LOOKING: Duration = Duration::from_secs(15);

/// The part of keeping the data in the folder that is configured.
///
/// # Errors
/// If that isn't the data of this cloud.
pub(crate) fn pulse(documents: &Documents, config: &Config) -> anyhow::Result<Pulse> {
    let name = settings::own_name(&config.state_dir());
    let instance = match config.store.kind {
        StoreKind::Sqlite => None,
        StoreKind::Etcd => Some(format!("{name} {}", vmhost::controller::boot_id())),
    };
    let myself = Myself {
        name,
        instance,
        computer: config.host_name(),
        address: address(config),
    };
    Pulse::of(documents.clone(), &config.storage_dir(), myself)
}

/// Where other daemons reach the door for hosts; none without TLS.
fn address(config: &Config) -> String {
    if !config.tls.enabled {
        return String::new();
    }
    match &*config.storage.address {
        "" => config.origin().trim_start_matches("https://").to_owned(),
        given => given.to_owned(),
    }
}

/// The keeper, for an entry that isn't. Clones are of the same.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Inner>);

struct Inner {
    documents: Documents,
    way: Mutex<Option<Way>>,
}

/// How it is reached, as long as nothing of it has changed.
#[derive(Clone)]
struct Way {
    address: String,
    authority: String,
    since: Instant,
    client: reqwest::Client,
    url: String,
}

impl Keeper {
    /// The one of this cloud, whoever that is.
    pub(crate) fn of(documents: Documents) -> Self {
        Self(Arc::new(Inner {
            documents,
            way: Mutex::default(),
        }))
    }

    /// As [`cloud::ImageIntake::take`].
    pub(crate) async fn take(&self, image: &Image, upload: Upload) -> cloud::Result<()> {
        let content = Body::wrap_stream(upload.content);
        let answer = self.ask(Method::PUT, image, "", |mut request| {
            if let Some(length) = upload.length {
                request = request.header(header::CONTENT_LENGTH, length);
            }
            request.body(content)
        });
        let answer = answer.await?;
        self.catch_up(&answer).await
    }

    /// As [`cloud::ImageIntake::open`].
    pub(crate) async fn open(
        &self,
        image: &Image,
        asked: DownloadRequest,
    ) -> cloud::Result<Download> {
        let answer = self.ask(Method::GET, image, "", |mut request| {
            if let Some(format) = &asked.format {
                request = request.query(&[("format", format)]);
            }
            match asked.part {
                None => request,
                Some((start, None)) => request.header(header::RANGE, format!("bytes={start}-")),
                Some((start, Some(end))) => {
                    let last = end.saturating_sub(1);
                    request.header(header::RANGE, format!("bytes={start}-{last}"))
                }
            }
        });
        let answer = timeout(SILENCE, answer).await.unwrap_or_else(late)?;
        let nonsense = || {
            CloudError::Internal(
                "the daemon that keeps the images says nothing of what it sends".to_owned(),
            )
        };
        let sent = answer.headers().get(CONTENT_HEADER).ok_or_else(nonsense)?;
        let sent: SentContent = serde_json::from_slice(sent.as_bytes()).map_err(|_| nonsense())?;
        let format: ExportFormat = sent.format.parse().map_err(|_| nonsense())?;
        let content = Box::pin(answer.bytes_stream().map_err(io::Error::other));
        Ok(Download {
            format: format.as_str(),
            length: sent.length,
            part: sent.part,
            identifier: sent.identifier,
            content: heard(content, SILENCE),
            tag: String::new(),
        })
    }

    /// As [`cloud::ImageIntake::look_again`].
    pub(crate) async fn look_again(&self, image: &Image) -> bool {
        let asked = self.ask(Method::POST, image, LOOK_AGAIN_PATH, |request| request);
        match timeout(LOOKING, asked).await.unwrap_or_else(late) {
            Ok(answer) if answer.status() == StatusCode::OK => self.catch_up(&answer).await.is_ok(),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(image = %image.id, %error, "the entry of a cached image can't be looked up; it is used as it is");
                false
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        image: &Image,
        behind: &str,
        complete: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> cloud::Result<Response> {
        let way = self.way()?;
        let url = format!("{}{}{behind}", way.url, image.id.local());
        let seen = self.0.documents.revision();
        let request = way.client.request(method, url);
        let request = complete(request.header(REVISION_HEADER, seen.0));
        let answer = request.send().await.map_err(|error| {
            let (address, why) = (&way.address, crate::joining::root_of(error));
            tracing::warn!(address, why, "the daemon that keeps the images can't be asked");
            CloudError::Unavailable(format!(
                "the daemon that keeps the images of this cloud ({address}) can't be asked just now: {why}; try again"
            ))
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let told = answer.json::<Relayed>().await;
        Err(told.map_or_else(
            |_| {
                CloudError::Unavailable(format!(
                    "the daemon that keeps the images of this cloud answers {status}; try again"
                ))
            },
            CloudError::from,
        ))
    }

    /// What it has written shows here, too.
    async fn catch_up(&self, answer: &Response) -> cloud::Result<()> {
        let shown = answer.headers().get(REVISION_HEADER);
        let shown = shown.and_then(|value| value.to_str().ok()?.parse().ok());
        cloud::catch_up(&self.0.documents, Revision(shown.unwrap_or_default())).await
    }

    fn way(&self) -> cloud::Result<Way> {
        let documents = &self.0.documents;
        let kept = documents.storage_keepers.get(StorageKeeper::OWN);
        let kept = kept.ok_or_else(|| {
            CloudError::Unavailable("no daemon of this cloud keeps images: one has to be started with the role `storage`".to_owned())
        })?;
        if kept.address.is_empty() {
            let name = kept.common.name.as_deref().unwrap_or_default();
            return Err(CloudError::Unavailable(format!(
                "the daemon that keeps the images of this cloud, on {name}, speaks no TLS, so that no other one reaches it"
            )));
        }
        let own = documents
            .host_authorities
            .get(cimi::resources::HostAuthority::OWN);
        let own = own.ok_or_else(|| {
            CloudError::Unavailable("this cloud has no authority for hosts yet".to_owned())
        })?;
        let mut way = self.0.way.lock();
        // Long before the certificate ends that it began with.
        let is_good = |way: &&Way| {
            way.address == kept.address
                && way.authority == own.certificate
                && way.since.elapsed() < ENTRY_LIFE / 2
        };
        if let Some(good) = way.as_ref().filter(is_good) {
            return Ok(good.clone());
        }
        let authority = Authority::from_pem(&own.certificate, &own.private_key);
        let made = authority
            .map_err(anyhow::Error::from)
            .and_then(|authority| {
                let (client, url) = client(&authority, &kept.address)?;
                Ok(Way {
                    address: kept.address.clone(),
                    authority: own.certificate.clone(),
                    since: Instant::now(),
                    client,
                    url,
                })
            });
        let made = made.map_err(|error| CloudError::Internal(format!("{error:#}")))?;
        *way = Some(made.clone());
        Ok(made)
    }
}

fn late<T>(_: Elapsed) -> cloud::Result<T> {
    Err(CloudError::Unavailable(
        "the daemon that keeps the images of this cloud doesn't answer in time; try again"
            .to_owned(),
    ))
}

/// The same content, which breaks off if nothing of it comes for so long.
fn heard(content: ByteStream, silence: Duration) -> ByteStream {
    let next = move |content: Option<ByteStream>| async move {
        let mut content = content?;
        match timeout(silence, content.next()).await {
            Ok(piece) => Some((piece?, Some(content))),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    };
    Box::pin(stream::unfold(Some(content), next))
}

fn client(authority: &Authority, address: &str) -> anyhow::Result<(reqwest::Client, String)> {
    let door: Entry = format!("https://{address}").parse()?;
    let believed = Believed::of_entry(authority, SystemTime::now())?;
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(believed.config()?)
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1)
        .http2_keep_alive_while_idle(true);
    let client = storage::import::client_of_server(builder, door.host())?;
    Ok((client, door.at_door(IMAGES_PATH)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn content_that_does_not_come_any_more_breaks_off() {
        let some = || stream::iter([Ok("some".into()), Ok("more".into())]);
        let whole: Vec<_> = heard(Box::pin(some()), SILENCE).collect().await;
        assert!(whole.len() == 2 && whole.iter().all(Result::is_ok));
        let stuck = Box::pin(some().chain(stream::pending()));
        let came: Vec<_> = heard(stuck, SILENCE).collect().await;
        assert_eq!(came.len(), 3);
        let last = came.into_iter().last().unwrap().unwrap_err();
        assert_eq!(last.kind(), io::ErrorKind::TimedOut);
    }
}

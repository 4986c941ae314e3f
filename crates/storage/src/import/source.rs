//! Where the bytes of an image come from: an upload, a local file, or a web server that may lose the connection.

mod outlet;

use std::error::Error as _;
use std::fmt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cimi::uri::plain;
use futures::StreamExt as _;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, redirect};
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio_util::io::ReaderStream;

use self::outlet::{Outlet, Stop};
use super::pipeline::Piece;
use super::reach::{OneServer, Reach, Resolver, Unreachable};
use super::{Limits, Progress};
use crate::disk::FlatQcow2;
use crate::error::Error;

const READ_BYTES: usize = 512 * 1024;
/// Parts of a disk that are read before they are needed.
const PARTS_AHEAD: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 5;
/// Wait before a broken download is taken up again; doubled each time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where an image is read from.
pub enum Source {
    /// An upload in progress, with its length if known.
    Stream {
        /// The bytes, possibly compressed.
        reader: Box<dyn AsyncRead + Send + Unpin>,
        /// How many there will be; for the progress only.
        length: Option<u64>,
    },
    /// A regular file of this machine.
    File(PathBuf),
    /// A file on a web server.
    Url {
        /// `http` or `https`.
        url: String,
        /// Knows whom to trust and what may be reached.
        fetcher: Fetcher,
    },
    /// What lies on a disk, merged into one file.
    Disk(FlatQcow2),
}

impl Source {
    /// The same once more, if it can be read from its beginning again.
    pub(super) fn again(&self) -> Option<Self> {
        match self {
            Self::Url { url, fetcher } => Some(Self::Url {
                url: url.clone(),
                fetcher: fetcher.clone(),
            }),
            Self::Stream { .. } | Self::File(_) | Self::Disk(_) => None,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { length, .. } => f
                .debug_struct("Stream")
                .field("length", length)
                .finish_non_exhaustive(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Disk(disk) => f.debug_tuple("Disk").field(disk).finish(),
            Self::Url { url, .. } => f.debug_tuple("Url").field(&plain(url)).finish(),
        }
    }
}

/// Fetches from web servers, with the manners an import needs: a limit on connecting, few redirects, none from `https`
/// back to `http`, no word to the next server about the last, and never from where [`Reach`] forbids, redirected or not.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Client,
    reach: Arc<Reach>,
}

impl Fetcher {
    /// A fetcher by a client of the caller's; whom to trust is the caller's business. Proxies of the environment are not
    /// used: they would resolve names for us.
    ///
    /// # Errors
    /// Of the builder.
    pub fn new(builder: ClientBuilder, reach: Reach) -> reqwest::Result<Self> {
        let reach = Arc::new(reach);
        let judge = reach.clone();
        let redirects = redirect::Policy::custom(move |attempt| {
            let downgraded = attempt.url().scheme() != "https"
                && attempt
                    .previous()
                    .last()
                    .is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if downgraded || !matches!(attempt.url().scheme(), "http" | "https") {
                attempt.error("redirected to a less safe kind of address")
            } else if let Err(unreachable) = judge.check_url(attempt.url()) {
                attempt.error(unreachable)
            } else {
                attempt.follow()
            }
        });
        let client = builder
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false)
            .redirect(redirects)
            .no_proxy()
            .dns_resolver(Resolver(reach.clone()))
            .build()?;
        Ok(Self { client, reach })
    }

    /// One that asks a single server, which is trusted: whatever name a URL has, it is `host` that is connected to. No redirects.
    ///
    /// # Errors
    /// Of the builder.
    pub fn of_server(builder: ClientBuilder, host: &str) -> reqwest::Result<Self> {
        let client = client_of_server(builder, host)?;
        let reach = Arc::new(Reach::everywhere());
        Ok(Self { client, reach })
    }
}

/// A client that speaks to this server alone, whatever the name in a URL is.
///
/// # Errors
/// Of the builder.
pub fn client_of_server(builder: ClientBuilder, host: &str) -> reqwest::Result<reqwest::Client> {
    builder
        .connect_timeout(CONNECT_TIMEOUT)
        .referer(false)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .dns_resolver(OneServer(host.into()))
        .build()
}

/// A file on a web server of which the beginning is here.
#[derive(Debug)]
pub(super) struct Rest {
    /// `http` or `https`.
    pub(super) url: String,
    pub(super) fetcher: Fetcher,
    /// How many bytes are here.
    pub(super) have: u64,
    /// How many there are in all.
    pub(super) total: u64,
}

/// Sends everything of `source` and then its end or error. A download that breaks off is taken up where it was if it `is_proven`
/// in the end, or if its server tells one version of the file from the next.
pub(super) async fn pump(
    source: Source,
    is_proven: bool,
    limits: Limits,
    progress: Arc<watch::Sender<Progress>>,
    to: mpsc::Sender<Piece>,
) {
    let mut outlet = Outlet::new(to, limits, progress, is_proven);
    let pumped = match source {
        Source::Stream { reader, length } => read(reader, length, &mut outlet).await,
        Source::File(path) => read_file(path, &mut outlet).await,
        Source::Disk(disk) => read_disk(disk, &mut outlet).await,
        Source::Url { url, fetcher } => download(&url, &fetcher, None, &mut outlet).await,
    };
    outlet.end(pumped).await;
}

/// The same for what is missing of a file, which is compared with a checksum in the end.
pub(super) async fn pump_rest(
    rest: Rest,
    limits: Limits,
    progress: Arc<watch::Sender<Progress>>,
    to: mpsc::Sender<Piece>,
) {
    let mut outlet = Outlet::new(to, limits, progress, true);
    outlet.received = rest.have;
    let pumped = if rest.have < rest.total {
        download(&rest.url, &rest.fetcher, Some(rest.total), &mut outlet).await
    } else {
        Ok(())
    };
    outlet.end(pumped).await;
}

async fn read(
    reader: impl AsyncRead + Send + Unpin,
    length: Option<u64>,
    outlet: &mut Outlet,
) -> Result<(), Stop> {
    outlet.expect(length)?;
    let mut stream = ReaderStream::with_capacity(reader, READ_BYTES);
    loop {
        match tokio::time::timeout(outlet.limits.stall, stream.next()).await {
            Err(_) => return Err(outlet.stalled().into()),
            Ok(None) => return Ok(()),
            Ok(Some(Ok(bytes))) => {
                outlet.give(bytes).await?;
                outlet.keeps_pace()?;
            }
            Ok(Some(Err(error))) => {
                let received_bytes = outlet.received;
                return Err(Error::Source {
                    received_bytes,
                    source: Arc::new(error),
                }
                .into());
            }
        }
    }
}

async fn read_file(path: PathBuf, outlet: &mut Outlet) -> Result<(), Stop> {
    let (file, length) = super::blocking(move || open_regular(&path)).await?;
    read(tokio::fs::File::from_std(file), Some(length), outlet).await
}

/// A thread of its own reads ahead, until nobody takes what it read any more.
async fn read_disk(mut disk: FlatQcow2, outlet: &mut Outlet) -> Result<(), Stop> {
    outlet.expect(Some(disk.length()))?;
    let (ahead, mut parts) = mpsc::channel(PARTS_AHEAD);
    let reading = super::blocking(move || {
        while let Some(part) = disk.next_part()?
            && ahead.blocking_send(part).is_ok()
        {}
        Ok(())
    });
    // Has the channel, so that its end is the end of the reading.
    let handing_on = async move {
        while let Some(part) = parts.recv().await {
            outlet.give(part).await?;
        }
        Ok(())
    };
    let (read, handed_on) = tokio::join!(reading, handing_on);
    handed_on.and(read.map_err(Stop::from))
}

fn open_regular(path: &Path) -> Result<(std::fs::File, u64), Error> {
    // A pipe would wait for a writer; without blocking it opens, and is refused below.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(Error::io("open", path))?;
    let metadata = file.metadata().map_err(Error::io("examine", path))?;
    if !metadata.is_file() {
        let value = path.display().to_string();
        return Err(Error::Invalid {
            what: "image file",
            value,
            reason: "it is not a regular file".to_owned(),
        });
    }
    Ok((file, metadata.len()))
}

/// Why one request did not bring the rest of the file.
enum Broken {
    /// Trying again is pointless.
    Final(Stop),
    /// It may go on later from where it was.
    Perhaps(Error),
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        Self::Final(stop)
    }
}

/// What tells one version of the file from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    validator: Option<String>,
    total: Option<u64>,
}

impl Version {
    /// Whether another version would be noticed: lengths may be equal.
    const fn is_told_apart(&self) -> bool {
        self.validator.is_some()
    }
}

/// All that is behind what was received. If it is known how long the whole is, it has to be that.
async fn download(
    text: &str,
    fetcher: &Fetcher,
    stated: Option<u64>,
    outlet: &mut Outlet,
) -> Result<(), Stop> {
    let invalid = |reason: &str| Error::Url {
        url: plain(text),
        reason: reason.to_owned(),
    };
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("only http and https URLs are read").into());
    }
    if let Err(unreachable) = fetcher.reach.check_url(&url) {
        return Err(not_allowed(text, &unreachable).into());
    }
    let mut version = None;
    let mut failures = 0;
    loop {
        let before = outlet.received;
        let broken = match request(&url, &fetcher.client, &mut version, stated, outlet).await {
            Ok(()) => return Ok(()),
            Err(Broken::Final(stop)) => return Err(stop),
            Err(Broken::Perhaps(error)) => error,
        };
        let is_known = version.as_ref().is_some_and(Version::is_told_apart);
        if outlet.received > 0 && !outlet.is_proven && !is_known {
            return Err(Error::BrokeOff {
                url: plain(text),
                received_bytes: outlet.received,
                reason: format!("{broken}, and the server doesn't tell versions of it apart"),
            }
            .into());
        }
        failures = if outlet.received > before {
            1
        } else {
            failures + 1
        };
        if failures > outlet.limits.resumes {
            return Err(broken.into());
        }
        tracing::info!(url = plain(text), received = outlet.received, error = %broken, "download broke off; taking it up again");
        tokio::time::sleep(FIRST_PAUSE * 2_u32.saturating_pow(failures.min(8) - 1)).await;
    }
}

/// One request: the whole file, or what is missing of it.
async fn request(
    url: &Url,
    client: &Client,
    version: &mut Option<Version>,
    stated: Option<u64>,
    outlet: &mut Outlet,
) -> Result<(), Broken> {
    let failed = |reason: String| Error::Url {
        url: plain(url.as_str()),
        reason,
    };
    let not_now = |reason: String| Error::Server {
        url: plain(url.as_str()),
        reason,
    };
    let have = outlet.received;
    let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
        if let Some(validator) = version
            .as_ref()
            .and_then(|version| version.validator.as_deref())
        {
            request = request.header(IF_RANGE, validator);
        }
    }
    let response = match tokio::time::timeout(outlet.limits.stall, request.send()).await {
        Err(_) => return Err(Broken::Perhaps(outlet.stalled())),
        Ok(Err(error)) => {
            return Err(match unreachable(&error) {
                Some(unreachable) => Stop::from(not_allowed(url.as_str(), unreachable)).into(),
                None if error.is_builder() || error.is_redirect() => {
                    Stop::from(failed(chain(&error))).into()
                }
                None => Broken::Perhaps(not_now(chain(&error))),
            });
        }
        Ok(Ok(response)) => response,
    };
    let skip = match response.status() {
        StatusCode::OK => have,
        StatusCode::PARTIAL_CONTENT
            if have > 0 && range_start(response.headers()) == Some(have) =>
        {
            0
        }
        status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
            return Err(Broken::Perhaps(not_now(format!(
                "the server answered {status}"
            ))));
        }
        status => return Err(Stop::from(failed(format!("the server answered {status}"))).into()),
    };
    let found = Version {
        // A weak one may stay when bytes change (RFC 9110 §8.8.1).
        validator: header(response.headers(), ETAG)
            .filter(|etag| !etag.starts_with("W/"))
            .or_else(|| header(response.headers(), LAST_MODIFIED)),
        total: response.content_length().map(|rest| rest + (have - skip)),
    };
    match version {
        Some(known) if *known != found => {
            let url = plain(url.as_str());
            return Err(Stop::from(Error::Changed { url }).into());
        }
        Some(_) => {}
        None => {
            if let (Some(stated), Some(total)) = (stated, found.total)
                && stated != total
            {
                return Err(Stop::from(Error::Mismatch {
                    what: "size of the file in bytes",
                    expected: stated.to_string(),
                    found: total.to_string(),
                })
                .into());
            }
            outlet.expect(found.total)?;
            *version = Some(found);
        }
    }
    receive(response, skip, outlet, not_now).await
}

/// Hands on the body, without its first `skip` bytes (a server that knows no ranges sends them again).
async fn receive(
    mut response: Response,
    mut skip: u64,
    outlet: &mut Outlet,
    failed: impl Fn(String) -> Error,
) -> Result<(), Broken> {
    loop {
        match tokio::time::timeout(outlet.limits.stall, response.chunk()).await {
            Err(_) => return Err(Broken::Perhaps(outlet.stalled())),
            Ok(Err(error)) => return Err(Broken::Perhaps(failed(chain(&error)))),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(mut bytes))) => {
                let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                drop(bytes.split_to(skipped));
                skip -= skipped as u64;
                if !bytes.is_empty() {
                    outlet.give(bytes).await?;
                }
                outlet.keeps_pace()?;
            }
        }
    }
}

fn header(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// `N` of `Content-Range: bytes N-M/TOTAL`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    header(headers, CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .trim()
        .parse()
        .ok()
}

fn not_allowed(url: &str, unreachable: &Unreachable) -> Error {
    Error::NotAllowed {
        url: plain(url),
        reason: unreachable.to_string(),
    }
}

/// That the address may not be reached, if that is why a request failed.
fn unreachable(error: &reqwest::Error) -> Option<&Unreachable> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(unreachable) = cause.downcast_ref() {
            return Some(unreachable);
        }
        next = cause.source();
    }
    None
}

/// An HTTP error with its causes; the URL is told once, by us.
fn chain(error: &reqwest::Error) -> String {
    if let Some(unreachable) = unreachable(error) {
        return unreachable.to_string();
    }
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    match causes.last() {
        Some(_) => causes.join(": "),
        None => "the request failed".to_owned(),
    }
}

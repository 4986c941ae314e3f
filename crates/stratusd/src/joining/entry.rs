//! An entry of a cloud, and what a host asks of it beside the store.

use std::{
    error::Error as _,
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::sockopt;
use rustls::{
    CertificateError, ClientConfig,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trust::{Authority, Fingerprint, HostKey, JoinToken, OfAuthority, OfHost, SERVER_NAME};

use super::Kept;

/// How long a connection may take, and with it an answer.
const CONNECTING: Duration = Duration::from_secs(10);
const ANSWERING: Duration = Duration::from_secs(30);
/// How long a connection may be quiet before the other end is asked whether it is there, and how long it may say nothing to what
/// it was sent.
const QUIET: Duration = Duration::from_secs(10);
const UNHEARD_MILLIS: u32 = 30_000;
/// Bytes of an answer; ours have 2 KiB.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where an entry is: `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    host: String,
    port: u16,
}

impl Entry {
    /// Its name, or its address.
    pub(crate) fn host(&self) -> &str {
        // Addresses of IPv6 stand in brackets in URLs.
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// A URL at its door for hosts, which goes by a name of its own.
    pub(crate) fn at_door(&self, path: &str) -> String {
        format!("https://{SERVER_NAME}:{}{path}", self.port)
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = || format!("`{text}` is no entry: write https://HOST:PORT");
        let uri: Uri = text.trim().parse().with_context(wrong)?;
        let only_path = matches!(uri.path(), "" | "/" | "/cimi" | "/cimi/");
        ensure!(
            uri.scheme_str() == Some("https") && only_path && uri.query().is_none(),
            wrong()
        );
        Ok(Self {
            host: uri
                .host()
                .filter(|host| !host.is_empty())
                .with_context(wrong)?
                .to_owned(),
            port: uri.port_u16().unwrap_or(443),
        })
    }
}

impl Entry {
    /// A connection to its door for hosts. Notices within a minute that nobody is there any more.
    pub(crate) async fn connect(
        &self,
        config: Arc<ClientConfig>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((self.host(), self.port)).await?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, QUIET)?;
        sockopt::set_tcp_keepintvl(&stream, QUIET)?;
        sockopt::set_tcp_user_timeout(&stream, UNHEARD_MILLIS)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }

    /// The first of its IPv4 addresses, if its name has one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let host = self.host.trim_matches(['[', ']']);
        let mut addresses = (host, self.port).to_socket_addrs().ok()?;
        addresses.find(SocketAddr::is_ipv4)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "https://{}:{}", self.host, self.port)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Whom we believe to be an entry, and who we are to it.
pub(crate) struct Believed {
    authority: Fingerprint,
    own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
}

impl Believed {
    /// For somebody who has a token and is nobody yet.
    pub(crate) const fn of_token(token: &JoinToken) -> Self {
        Self {
            authority: token.authority,
            own: None,
        }
    }

    /// For a host that has joined.
    ///
    /// # Errors
    /// If what it keeps can't be read.
    pub(crate) fn of_host(kept: &Kept, key: &HostKey) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(kept.joined.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes());
        Ok(Self {
            authority: Fingerprint::of(&kept.authority()?),
            own: Some((
                certificate
                    .ok()
                    .context("this host's certificate can't be read")?,
                key.ok().context("this host's key can't be read")?,
            )),
        })
    }

    /// For an entry that asks another daemon of its cloud.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub(crate) fn of_entry(authority: &Authority, now: SystemTime) -> anyhow::Result<Self> {
        let own = authority.entry(now)?;
        Ok(Self {
            authority: authority.fingerprint(),
            own: Some((own.certificate, own.key)),
        })
    }

    /// By which TLS is spoken with an entry.
    ///
    /// # Errors
    /// If the key doesn't fit the certificate.
    pub(crate) fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = OfAuthority::new(self.authority, Arc::clone(&provider));
        self.believing(Arc::new(verifier), provider)
    }

    /// By which TLS is spoken with another host of the cloud, which has this id (the part after the slash) and no other.
    ///
    /// # Errors
    /// If the key doesn't fit the certificate, or that of the authority is none.
    pub(crate) fn config_of_host(
        &self,
        host: &str,
        authority: &CertificateDer<'static>,
    ) -> Result<ClientConfig, trust::TrustError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = OfHost::new(host, authority, Arc::clone(&provider))?;
        Ok(self.believing(Arc::new(verifier), provider)?)
    }

    fn believing(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key())?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Why an entry gave no answer of use.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It said why.
    Said(String),
    /// It isn't the cloud's that is believed: nothing was sent.
    NotTrusted(String),
    /// Another entry may do it, or this one later.
    Unreachable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Said(text) | Self::NotTrusted(text) | Self::Unreachable(text)) = self;
        out.write_str(text)
    }
}

/// Asks an entry something, by POST.
///
/// # Errors
/// [`Refusal`]
pub(crate) async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
    entry: &Entry,
    believed: &Believed,
    path: &str,
    asked: &Q,
) -> Result<A, Refusal> {
    let unreachable = |error: &dyn fmt::Display| Refusal::Unreachable(error.to_string());
    let late = |_| Refusal::Unreachable("it doesn't answer in time".to_owned());
    let config = believed.config().map_err(|error| unreachable(&error))?;
    let connecting = entry.connect(Arc::new(config));
    let stream = timeout(CONNECTING, connecting).await.map_err(late)?;
    let stream = stream.map_err(|error| why_not(&error))?;
    let body = serde_json::to_vec(asked).map_err(|error| unreachable(&error))?;
    let exchange = async {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let request = Request::post(entry.at_door(path));
        let request = request.body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES);
        let body = body.collect().await;
        driving.abort();
        anyhow::Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    let answer = timeout(ANSWERING, exchange).await.map_err(late)?;
    let (status, body) = answer.map_err(|error| Refusal::Unreachable(format!("{error:#}")))?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&body)
            .map_err(|error| Refusal::Said(format!("the answer can't be read: {error}")));
    }
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    match serde_json::from_slice::<Said>(&body) {
        Ok(said) if status.is_server_error() => Err(Refusal::Unreachable(said.error)),
        Ok(said) => Err(Refusal::Said(said.error)),
        Err(_) => Err(Refusal::Said(format!("it answers with status {status}"))),
    }
}

/// What went wrong before anything was sent, in words.
fn why_not(error: &io::Error) -> Refusal {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(problem)) = tls else {
        return Refusal::Unreachable(error.to_string());
    };
    Refusal::NotTrusted(match problem {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => format!(
            "its certificate isn't good by this host's clock, which says {}: set the clock of this host, or of the entry. \
             Nothing was sent",
            cimi::Timestamp::now()
        ),
        _ => "this is not the cloud that the token is of (its certificate is by another authority), or something stands \
              between that ends TLS. Nothing was sent: look whether address and token belong together"
            .to_owned(),
    })
}

/// What is behind an error, without the address, which is said by a name.
pub(crate) fn root_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let root = causes.last().map(ToString::to_string);
    root.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_as_its_address() {
        for (text, shown) in [
            (
                "https://cloud.example.org:8443",
                "https://cloud.example.org:8443",
            ),
            (
                "https://cloud.example.org/",
                "https://cloud.example.org:443",
            ),
            ("https://[::1]:8443/cimi", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Entry>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "cloud",
            "http://cloud:80",
            "https://",
            "https://c/x",
            "https://c/?a",
        ] {
            assert!(text.parse::<Entry>().is_err(), "{text}");
        }
    }
}

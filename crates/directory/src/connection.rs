//! A connection to a server: one question after the other, each with its limits.

use std::{sync::Arc, time::Duration};

use accounts::methods::Host;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    ber::{self, Head},
    message::{self, Change, Entry, NO_SUCH_OBJECT, Outcome, Request, Response, SUCCESS, Search},
    tls,
};

/// Bytes of one message that is read.
const MESSAGE_AT_MOST: usize = 256 * 1024;
/// Messages that answer one question.
const MESSAGES_AT_MOST: usize = 2_000;

/// Results of RFC 4511 §4.1.9 that only reading has.
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;

/// Both ways of a connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    patience: Duration,
    last: u32,
}

/// How what is said is kept from others.
#[derive(Clone)]
pub(crate) enum Encryption {
    /// Not at all.
    None,
    /// TLS from the beginning.
    Tls(Arc<ClientConfig>),
    /// TLS from the first request on.
    StartTls(Arc<ClientConfig>),
}

impl Connection {
    /// To this server. Connecting, and each answer, take no longer than `patience`.
    pub(crate) async fn open(
        host: &Host,
        encryption: Encryption,
        patience: Duration,
    ) -> Result<Self, String> {
        let address = host.address.trim();
        let connecting = TcpStream::connect((address, host.port));
        let stream = match timeout(patience, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no connection within {} ms", patience.as_millis())),
        };
        let _ = stream.set_nodelay(true);
        let (stream, config): (Box<dyn Stream>, _) = match encryption {
            Encryption::None => return Ok(Self::over(stream, patience)),
            Encryption::Tls(config) => (Box::new(stream), config),
            Encryption::StartTls(config) => {
                let mut plain = Self::over(stream, patience);
                plain.start_tls().await?;
                (plain.stream, config)
            }
        };
        let agreed = tls::agree(stream, config, address);
        let agreed = timeout(patience, agreed).await;
        let stream = agreed.map_err(|_| format!("no TLS within {} ms", patience.as_millis()))??;
        Ok(Self::over(stream, patience))
    }

    fn over(stream: impl Stream + 'static, patience: Duration) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
            patience,
            last: 0,
        }
    }

    async fn start_tls(&mut self) -> Result<(), String> {
        self.send(&Request::StartTls).await?;
        match self.answer().await? {
            // What came in clear text must not be taken for what comes encrypted.
            Response::Extended(outcome) if outcome.code == SUCCESS && self.buffer.is_empty() => {
                Ok(())
            }
            Response::Extended(outcome) => Err(format!("no StartTLS: {}", told(&outcome))),
            _ => Err(NONSENSE.to_owned()),
        }
    }

    /// Whether this is the password of that entry. Without a password: as nobody.
    pub(crate) async fn bind(&mut self, dn: &str, password: &str) -> Result<bool, String> {
        let outcome = self.log_in(dn, password).await?;
        match outcome.code {
            SUCCESS => Ok(true),
            BUSY | UNAVAILABLE => Err(told(&outcome)),
            _ => {
                tracing::debug!(dn, code = outcome.code, text = outcome.text, "not bound");
                Ok(false)
            }
        }
    }

    /// What the server says to this login.
    pub(crate) async fn log_in(&mut self, dn: &str, password: &str) -> Result<Outcome, String> {
        self.send(&Request::Bind { dn, password }).await?;
        match self.answer().await? {
            Response::Bound(outcome) => Ok(outcome),
            _ => Err(NONSENSE.to_owned()),
        }
    }

    /// The entries, as many as were asked for at most.
    pub(crate) async fn search(&mut self, search: Search<'_>) -> Result<Vec<Entry>, String> {
        let most = usize::try_from(search.entries_at_most).unwrap_or(usize::MAX);
        self.send(&Request::Search(search)).await?;
        let mut entries = Vec::new();
        for _ in 0..MESSAGES_AT_MOST {
            match self.answer().await? {
                Response::Entry(entry) if entries.len() < most => entries.push(entry),
                Response::Entry(_) | Response::Other => {}
                Response::Done(outcome) => {
                    return match outcome.code {
                        SUCCESS | SIZE_LIMIT_EXCEEDED | NO_SUCH_OBJECT => Ok(entries),
                        _ => Err(format!("a search failed: {}", told(&outcome))),
                    };
                }
                Response::Bound(_) | Response::Extended(_) | Response::Written(_) => {
                    return Err(NONSENSE.to_owned());
                }
            }
        }
        Err(format!("a search has more than {MESSAGES_AT_MOST} results"))
    }

    /// Makes an entry; how the server took it.
    pub(crate) async fn add(
        &mut self,
        dn: &str,
        values: &[(&str, &str)],
    ) -> Result<Outcome, String> {
        self.write(Request::Add { dn, values }).await
    }

    /// Changes an entry, wholly or not at all; how the server took it.
    pub(crate) async fn modify(
        &mut self,
        dn: &str,
        changes: &[Change<'_>],
    ) -> Result<Outcome, String> {
        self.write(Request::Modify { dn, changes }).await
    }

    async fn write(&mut self, request: Request<'_>) -> Result<Outcome, String> {
        self.send(&request).await?;
        match self.answer().await? {
            Response::Written(outcome) => Ok(outcome),
            _ => Err(NONSENSE.to_owned()),
        }
    }

    /// Says goodbye; whether it is heard makes no difference.
    pub(crate) async fn close(mut self) {
        let _ = self.send(&Request::Unbind).await;
    }

    async fn send(&mut self, request: &Request<'_>) -> Result<(), String> {
        self.last += 1;
        let bytes = message::written(self.last, request);
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.patience, write).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err("it doesn't read what is sent".to_owned()),
        }
    }

    /// The next message that belongs to the last request.
    async fn answer(&mut self) -> Result<Response, String> {
        let patience = self.patience;
        let read = async {
            let (id, response) = self.message().await?;
            if id == self.last {
                return Ok(response);
            }
            // What comes unasked says that it ends.
            Err("it ended the connection, or answered what wasn't asked".to_owned())
        };
        match timeout(patience, read).await {
            Ok(read) => read,
            Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
        }
    }

    async fn message(&mut self) -> Result<(u32, Response), String> {
        loop {
            match ber::head(&self.buffer) {
                Head::Wrong => return Err(NONSENSE.to_owned()),
                Head::Element(ber::SEQUENCE, header, length) => {
                    if length > MESSAGE_AT_MOST {
                        return Err(format!("it sends a message of {length} bytes"));
                    }
                    if let Some(content) = self.buffer.get(header..header + length) {
                        let message = message::read(content);
                        self.buffer.drain(..header + length);
                        return message.ok_or_else(|| NONSENSE.to_owned());
                    }
                }
                Head::Element(..) => return Err(NONSENSE.to_owned()),
                Head::More => {}
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await {
                Ok(0) => return Err("it ended the connection".to_owned()),
                Ok(length) => self
                    .buffer
                    .extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

const NONSENSE: &str = "what it answers is not LDAP";

fn told(outcome: &Outcome) -> String {
    format!("result {} {}", outcome.code, outcome.text)
}

//! A mail server on loopback that takes letters and keeps them for tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what goes wrong here is a failed test"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::{Security, SmtpSettings};

/// How long a test waits for letters.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes letters.
    Takes,
    /// Answers each recipient with this status, such as 450 or 550.
    Refuses(u16),
    /// Takes connections and says nothing.
    IsSilent,
}

/// A letter as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Of the envelope.
    pub from: String,
    /// Of the envelope.
    pub to: Vec<String>,
    /// Headers and body.
    pub raw: String,
}

impl Received {
    /// The value of a header of the letter itself, unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.raw, name)
    }

    /// The text: the body, or its first part.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = self.parts();
        String::from_utf8(parts.first().unwrap().1.clone()).unwrap()
    }

    /// All parts, decoded: the headers of each, and its content.
    #[must_use]
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let kind = self.header("Content-Type").unwrap_or_default();
        let Some((_, boundary)) = kind.split_once("boundary=\"") else {
            return vec![part(&self.raw)];
        };
        let boundary = format!("--{}", boundary.trim_end_matches('"'));
        let (_, body) = self.raw.split_once("\r\n\r\n").unwrap();
        let mut parts: Vec<_> = body.split(&boundary).skip(1).collect();
        parts.pop();
        parts.iter().map(|text| part(text.trim_start())).collect()
    }

    /// The first link in the text that begins with `http`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn link(&self) -> String {
        let text = self.text();
        let link = text
            .split_whitespace()
            .find(|word| word.starts_with("http"));
        link.unwrap_or_else(|| panic!("no link in {text}"))
            .to_owned()
    }
}

fn header(text: &str, name: &str) -> Option<String> {
    let head = text.split_once("\r\n\r\n").map_or(text, |(head, _)| head);
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    unfolded.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

fn part(text: &str) -> (String, Vec<u8>) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let content = match header(text, "Content-Transfer-Encoding").as_deref() {
        Some("base64") => STANDARD.decode(body.replace(['\r', '\n'], "")).unwrap(),
        Some("quoted-printable") => unquote(body),
        _ => body.replace("\r\n", "\n").into_bytes(),
    };
    (head.to_owned(), content)
}

/// Undoes quoted-printable (RFC 2045 §6.7).
fn unquote(body: &str) -> Vec<u8> {
    let joined = body.replace("=\r\n", "").replace("\r\n", "\n");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.map(|hex| u8::from_str_radix(hex, 16)) {
            Some(Ok(byte)) if first == b'=' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

struct Shared {
    mood: Mutex<Mood>,
    received: watch::Sender<Vec<Received>>,
}

/// The server. Dropped, it is gone.
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sink")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Sink {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// If it can't.
    pub async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            mood: Mutex::new(mood),
            received: watch::Sender::new(Vec::new()),
        });
        let of_listener = Arc::clone(&shared);
        let address = listener.local_addr().unwrap();
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&of_listener);
                // Clients that go away end their conversation; nothing else can go wrong.
                tokio::spawn(async move { converse(stream, &shared).await.ok() });
            }
        });
        Self {
            address,
            shared,
            listening,
        }
    }

    /// From now on it behaves otherwise.
    pub fn becomes(&self, mood: Mood) {
        *self.shared.mood.lock() = mood;
    }

    /// How to reach it.
    #[must_use]
    pub fn settings(&self) -> SmtpSettings {
        SmtpSettings {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            security: Security::None,
            authorities: Vec::new(),
            login: None,
            from: "Stratus <cloud@example.org>".to_owned(),
        }
    }

    /// What came so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    /// Waits until `number` letters have come, and returns all.
    ///
    /// # Panics
    /// If they don't come.
    pub async fn wait_for(&self, number: usize) -> Vec<Received> {
        let mut received = self.shared.received.subscribe();
        let came = timeout(PATIENCE, received.wait_for(|all| all.len() >= number)).await;
        match came {
            Ok(all) => all.unwrap().clone(),
            Err(_) => panic!("{} of {number} letters came", self.received().len()),
        }
    }
}

/// One connection, as RFC 5321 wants it.
async fn converse(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if *shared.mood.lock() == Mood::IsSilent {
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {}
        return Ok(());
    }
    stream.write_all(b"220 sink ESMTP\r\n").await?;
    let (mut from, mut to) = (String::new(), Vec::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        let mood = *shared.mood.lock();
        let answer = match (verb.to_ascii_uppercase().as_str(), mood) {
            ("EHLO", _) => "250-sink\r\n250 8BITMIME".to_owned(),
            ("MAIL", _) => {
                from = address(line);
                to.clear();
                "250 sender".to_owned()
            }
            ("RCPT", Mood::Refuses(status)) => format!("{status} not this one"),
            ("RCPT", _) => {
                to.push(address(line));
                "250 recipient".to_owned()
            }
            ("DATA", _) => {
                stream.write_all(b"354 go on\r\n").await?;
                let raw = data(&mut stream).await?;
                let letter = Received {
                    from: std::mem::take(&mut from),
                    to: std::mem::take(&mut to),
                    raw,
                };
                // Kept before it is acknowledged, as a server has to.
                shared.received.send_modify(|all| all.push(letter));
                "250 taken".to_owned()
            }
            ("QUIT", _) => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            ("RSET" | "NOOP", _) => "250 done".to_owned(),
            _ => "502 what?".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(b"\r\n").await?;
    }
}

/// What is between `<` and `>`.
fn address(line: &str) -> String {
    let after = line.split_once('<').map_or(line, |(_, rest)| rest);
    after.split('>').next().unwrap_or_default().to_owned()
}

/// The letter, up to the lone dot.
async fn data(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut raw = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(raw);
        }
        raw.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

//! Plain bytes over TLS, and what comes back.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::World;

/// Nothing here takes that long, however busy the computer is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// An answer out of all bytes of a connection that was closed after it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..split]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes[split + 4..].to_vec();
        if headers
            .get("transfer-encoding")
            .is_some_and(|t| t == "chunked")
        {
            body = unchunked(&body);
        }
        Some(Self {
            status,
            headers,
            body,
        })
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 || bytes.len() < end + 2 + size {
            break;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[(end + 4 + size).min(bytes.len())..];
    }
    out
}

/// `Authorization: Basic …` of a user with the usual password.
pub fn login(user: &str) -> String {
    format!(
        "Authorization: Basic {}\r\n",
        BASE64_STANDARD.encode(format!("{user}:correct horse"))
    )
}

impl World {
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_from(Ipv4Addr::LOCALHOST).await
    }

    /// From one of the addresses of loopback.
    async fn connect_from(&self, address: Ipv4Addr) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(self.client.clone());
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let stream = socket.connect(self.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    /// Sends bytes as they are and reads until the server closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        read_to_end(self.connect().await, bytes).await
    }

    /// A request without a body, from one of the addresses of loopback.
    pub async fn ask_from(&self, address: Ipv4Addr, request: &str, headers: &str) -> Reply {
        let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let received = read_to_end(self.connect_from(address).await, text.as_bytes()).await;
        Reply::parse(&received).unwrap()
    }

    /// A request as `alice`.
    pub async fn ask(&self, request: &str, body: &str) -> Reply {
        self.ask_with(request, &login("alice"), body).await
    }

    /// A request with these header lines (each with its line end).
    pub async fn ask_with(&self, request: &str, headers: &str, body: &str) -> Reply {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let text = format!(
            "{request} HTTP/1.1\r\nHost: cloud.example:8443\r\nConnection: close\r\n{headers}{length}\r\n{body}"
        );
        let received = self.raw(text.as_bytes()).await;
        Reply::parse(&received)
            .unwrap_or_else(|| panic!("{request}: {}", String::from_utf8_lossy(&received)))
    }
}

/// Sends bytes as they are and reads until the server closes the connection.
async fn read_to_end(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    let work = async {
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let _ = stream.read_to_end(&mut received).await;
    };
    timeout(PATIENCE, work).await.unwrap();
    received
}

//! A cloud made of answers, behind real TLS, and the program run against it in a home folder of its own.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses its part; a test that panics has failed"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A request as the cloud saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET /cimi/Machine/7?x=1`
    pub line: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer: status, headers, body.
pub struct Reply(pub u16, pub Vec<(&'static str, String)>, pub Vec<u8>);

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self(
            status,
            vec![("content-type", "application/json".to_owned())],
            serde_json::to_vec(body).unwrap(),
        )
    }

    pub fn refusal(status: u16, message: &str) -> Self {
        Self::json(
            status,
            &json!({ "status": status, "detail": message, "message": message, "code": status }),
        )
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.1.push((name, value.to_owned()));
        self
    }
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

pub struct Cloud {
    pub port: u16,
    pub certificate_pem: String,
    pub home: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Owns every task; they end with it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A key pair and its self-signed certificate for localhost.
pub fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

impl Cloud {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(&certificate(), 0, answer)
    }

    pub fn start_with(
        certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
        port: u16,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certified.cert.der().to_vec())],
                PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", port)))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let record = seen.clone();
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (acceptor, answer, record) = (acceptor.clone(), answer.clone(), record.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service =
                        tower::service_fn(move |request: Request<hyper::body::Incoming>| {
                            let (answer, record) = (answer.clone(), record.clone());
                            async move {
                                Ok::<_, std::convert::Infallible>(
                                    respond(request.map(Body::new), &*answer, &record).await,
                                )
                            }
                        });
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                        .await;
                });
            }
        });
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".ssh")).unwrap();
        std::fs::write(
            home.path().join(".ssh/id_rsa.pub"),
            "Comment: x\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm user@host\n",
        )
        .unwrap();
        std::fs::write(home.path().join("ca.pem"), certified.cert.pem()).unwrap();
        Self {
            port,
            certificate_pem: certified.cert.pem(),
            home,
            seen,
            runtime: Some(runtime),
        }
    }

    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}/one-proxy/xmlrpc", self.port)
    }

    /// The requests so far, as lines.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|seen| seen.line).collect()
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The program with this cloud configured and trusted; the words are separated by blanks.
    pub fn run(&self, words: &str) -> Ended {
        let mut command = self.command();
        command
            .env("STRATUS_CA", self.home.path().join("ca.pem"))
            .args(words.split_whitespace());
        ended(command)
    }

    /// The program with this cloud configured, but without trust in its certificate.
    pub fn command(&self) -> Command {
        let mut command = program(self.home.path());
        command
            .env("STRATUSLAB_ENDPOINT", self.endpoint())
            .env("STRATUSLAB_USERNAME", "joe")
            .env("STRATUSLAB_PASSWORD", "pass:word");
        command
    }
}

async fn respond(request: Request, answer: &Answer, record: &Mutex<Vec<Seen>>) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 64 << 20)
        .await
        .unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let seen = Seen {
        line: format!("{} {path}", parts.method),
        headers: parts.headers,
        body: body.to_vec(),
    };
    let Reply(status, headers, body) = answer(&seen);
    record.lock().unwrap().push(seen);
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

/// The program in a home folder, with nothing of the environment of the tests but the search path.
pub fn program(home: &Path) -> Command {
    named_program(Path::new(env!("CARGO_BIN_EXE_stratus")), home)
}

pub fn named_program(file: &Path, home: &Path) -> Command {
    let mut command = Command::new(file);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Standard output of a run that must have been a success.
    pub fn success(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }
}

pub fn ended(mut command: Command) -> Ended {
    of(&command.output().unwrap())
}

pub fn ended_with_input(mut command: Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // The program may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    of(&child.wait_with_output().unwrap())
}

fn of(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A machine as the cloud gives it.
pub fn machine(vmid: u64) -> Value {
    json!({
        "resourceURI": "http://schemas.dmtf.org/cimi/1/Machine", "id": format!("Machine/0190c0de-0000-7000-8000-{vmid:012}"), "name": format!("one-{vmid}"),
        "vmid": vmid, "phase": "Running", "state": "STARTED", "cpu": 1, "memory": 1_572_864, "cpuPercent": 8.0,
        "addresses": [format!("192.0.2.{vmid}")], "networks": ["public"], "ssh": {"host": format!("192.0.2.{vmid}"), "port": 22},
    })
}

pub fn volume(uuid: &str, tag: &str) -> Value {
    json!({ "id": format!("Volume/{uuid}"), "name": tag, "state": "AVAILABLE", "size": 1, "visibility": "PRIVATE", "owner": "joe", "count": 0 })
}

pub fn collection(name: &str, members: &[Value]) -> Value {
    json!({ "resourceURI": "x", "id": "x", "count": members.len(), name: members })
}

pub fn path(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

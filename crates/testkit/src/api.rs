//! The API as any HTTP client would use it. Blocking, so that a test reads from top to bottom; its sockets are in the cloud's
//! namespace, on a thread of their own.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Client, Method, header::HeaderMap};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::Namespace;

/// How long an answer may take. Nothing of the API takes long; machines of CI may.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Location`, relative to the cloud: `Machine/…`.
    pub location: Option<String>,
    /// `CIMI-Job-URI`, likewise.
    pub job: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it is.
    pub bytes: Bytes,
    /// The body as JSON; null if it is none.
    pub body: Value,
    what: String,
}

impl Reply {
    /// The body, if the status is as expected.
    ///
    /// # Panics
    /// If it is another.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text());
        self.body
    }

    /// The body, if the status is one of 200 to 299.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {} {}",
            self.what,
            self.status,
            self.text()
        );
        self.body
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The members, if this is a collection.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Value>> {
        members(&self.body)
    }

    /// What the cloud says went wrong.
    #[must_use]
    pub fn detail(&self) -> String {
        self.body
            .get("detail")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }
}

struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    credentials: Option<(String, String)>,
    body: Option<Bytes>,
    answer: mpsc::Sender<Result<Reply, String>>,
}

/// A client of the cloud, as one user or as nobody.
#[derive(Clone)]
pub struct Api {
    base: Arc<str>,
    // Unbounded, but every sender waits for its answer.
    requests: UnboundedSender<Request>,
    credentials: Option<(String, String)>,
}

impl Api {
    /// A client without credentials that trusts the certificates of a PEM file.
    pub(crate) fn open(base: &str, ca: &Path, namespace: Option<&Namespace>) -> Self {
        let namespace = namespace
            .map(|namespace| File::open(Path::new("/run/netns").join(namespace.name())).unwrap());
        let (requests, mut queue) = unbounded_channel::<Request>();
        let tls = trusting(ca);
        std::thread::spawn(move || {
            if let Some(namespace) = namespace {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = Client::builder()
                    .tls_backend_preconfigured(tls)
                    .no_proxy()
                    .timeout(LIMIT)
                    .build()
                    .unwrap();
                while let Some(request) = queue.recv().await {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let answer = request.answer.clone();
                        let _ = answer.send(send(&client, request).await);
                    });
                }
            });
        });
        Self {
            base: base.into(),
            requests,
            credentials: None,
        }
    }

    /// Where the cloud is: what paths are added to.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same client as this user.
    #[must_use]
    pub fn as_user(&self, name: &str, password: &str) -> Self {
        Self {
            credentials: Some((name.to_owned(), password.to_owned())),
            ..self.clone()
        }
    }

    /// The same client as nobody.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self {
            credentials: None,
            ..self.clone()
        }
    }

    /// Sends a request; its answer whatever the status.
    ///
    /// # Errors
    /// If there was none.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Reply, String> {
        let (answer, receive) = mpsc::channel();
        let request = Request {
            method: method
                .parse()
                .map_err(|_| format!("{method:?} is no method"))?,
            url: self.url(path),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            credentials: self.credentials.clone(),
            body,
            answer,
        };
        self.requests
            .send(request)
            .map_err(|_| "the client has ended".to_owned())?;
        receive
            .recv()
            .map_err(|_| "the client has ended".to_owned())?
    }

    /// Sends a document.
    ///
    /// # Errors
    /// If there was no answer.
    pub fn try_json(&self, method: &str, path: &str, document: &Value) -> Result<Reply, String> {
        self.send(
            method,
            path,
            &[("content-type", "application/json")],
            Some(document.to_string().into()),
        )
    }

    /// `GET`.
    ///
    /// # Errors
    /// If there was no answer.
    pub fn get_any(&self, path: &str) -> Result<Reply, String> {
        self.send("GET", path, &[], None)
    }

    /// `GET`.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `POST` of a document.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    #[track_caller]
    pub fn post(&self, path: &str, document: &Value) -> Reply {
        self.try_json("POST", path, document)
            .unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// `PUT` of a document.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    #[track_caller]
    pub fn put(&self, path: &str, document: &Value) -> Reply {
        self.try_json("PUT", path, document)
            .unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    /// `DELETE`.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], None)
            .unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    /// The members of a collection.
    ///
    /// # Panics
    /// If they can't be listed.
    #[must_use]
    #[track_caller]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let body = self.get(kind).expect(200);
        members(&body).unwrap_or_else(|| panic!("{kind}: no members in {body}"))
    }

    /// Paths that begin with a slash are the server's, all others the API's.
    fn url(&self, path: &str) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.base)
        } else {
            format!("{}/cimi/{path}", self.base)
        }
    }
}

/// The array of a collection: its name is that of its members' type.
fn members(collection: &Value) -> Option<Vec<Value>> {
    let members = collection.as_object()?;
    let array = |name: &str| members.get(name).and_then(Value::as_array).cloned();
    let by_type = || {
        members.iter().find_map(|(name, value)| {
            (name != "operations")
                .then(|| value.as_array().cloned())
                .flatten()
        })
    };
    array("members")
        .or_else(by_type)
        .or_else(|| (members.get("count") == Some(&Value::from(0))).then(Vec::new))
}

async fn send(client: &Client, request: Request) -> Result<Reply, String> {
    let what = format!("{} {}", request.method, request.url);
    let mut builder = client.request(request.method, &request.url);
    if let Some((name, password)) = &request.credentials {
        builder = builder.basic_auth(name, Some(password));
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = request.body {
        builder = builder.body(body);
    }
    let told = |error: reqwest::Error| {
        let mut text = format!("{what}: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    };
    let response = builder.send().await.map_err(told)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.map_err(told)?;
    let relative = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(
            value
                .split_once("/cimi/")
                .map_or(value, |(_, path)| path)
                .to_owned(),
        )
    };
    Ok(Reply {
        status,
        location: relative("location"),
        job: relative("cimi-job-uri"),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
        headers: headers.clone(),
        bytes,
        what,
    })
}

fn trusting(ca: &Path) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user: BTreeMap<&str, &str> = self
            .credentials
            .iter()
            .map(|(name, _)| ("user", name.as_str()))
            .collect();
        write!(f, "Api {{ {} {user:?} }}", self.base)
    }
}

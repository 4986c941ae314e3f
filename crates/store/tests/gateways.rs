//! Gateways that listen, and clients of them.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use store::{Audience, EtcdOptions, EtcdStore, Gateway, Key, Peer, Permit, Rules, SharedStore};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// One that listens on a port for each peer. The real one asks peers for a certificate; here the port says who it is.
pub struct Entry {
    pub gateway: Arc<Gateway>,
    ports: JoinSet<()>,
}

impl Entry {
    pub async fn open(store: &SharedStore, rules: impl Rules) -> Self {
        let gateway = Gateway::open(store.clone(), Arc::new(rules)).await;
        Self {
            gateway: Arc::new(gateway.expect("a gateway")),
            ports: JoinSet::new(),
        }
    }

    /// Where `peer` finds it.
    pub async fn listen(&mut self, peer: Peer) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let gateway = Arc::clone(&self.gateway);
        self.ports.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let (gateway, peer) = (Arc::clone(&gateway), peer.clone());
                let answer = hyper::service::service_fn(move |request| {
                    let (gateway, peer) = (Arc::clone(&gateway), peer.clone());
                    async move { Ok::<_, Infallible>(gateway.answer(peer, request).await) }
                });
                connections.spawn(async move {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(connection), answer)
                        .await;
                });
            }
        });
        format!("http://{address}")
    }
}

/// A client of these endpoints.
pub async fn client(endpoints: Vec<String>) -> EtcdStore {
    let mut options = EtcdOptions::new(endpoints);
    options.history_revisions = None;
    EtcdStore::open(options).await.expect("a client")
}

/// Documents are `OWNER:TEXT`, or `OWNER:>KEY` if they refer to another; an owner sees and writes its own, and everybody sees those
/// of `all`. Nobody gives his own away, or writes in the collection `fixed`.
pub struct OwnersOnly;

/// Nobody but the cloud itself sees and writes anything.
pub struct TrustedOnly;

impl Rules for TrustedOnly {
    fn audience(&self, _key: &Key, _value: &[u8]) -> Audience {
        Audience::Nobody
    }

    fn may_write(
        &self,
        _peer: &str,
        _key: &Key,
        _now: Option<&Bytes>,
        _then: Option<&Bytes>,
    ) -> Result<Permit, String> {
        Err("nobody may".to_owned())
    }
}

pub fn owner(value: &[u8]) -> &str {
    let text = std::str::from_utf8(value).expect("a text");
    text.split_once(':').expect("an owner").0
}

impl Rules for OwnersOnly {
    fn audience(&self, _key: &Key, value: &[u8]) -> Audience {
        match owner(value) {
            "all" => Audience::Everybody,
            "nobody" => Audience::Nobody,
            name => Audience::peer(name),
        }
    }

    fn refers(&self, _key: &Key, value: &[u8]) -> Vec<Key> {
        let text = std::str::from_utf8(value).expect("a text");
        let referred = text.split_once(":>").map(|(_, key)| key);
        referred.into_iter().flat_map(str::parse).collect()
    }

    fn may_write(
        &self,
        peer: &str,
        key: &Key,
        now: Option<&Bytes>,
        then: Option<&Bytes>,
    ) -> Result<Permit, String> {
        let own = |value: Option<&Bytes>| value.is_none_or(|value| owner(value) == peer);
        match key.collection() != "fixed" && own(now) && own(then) {
            true => Ok(Permit::AsSaid),
            false => Err("that is for its owner".to_owned()),
        }
    }
}

/// Ends a task when the test does.
pub struct Ending(pub JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! Who sees and who writes what. The store knows no resource types: whoever makes a gateway does.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Entry, Key, Revision, Transaction};

/// Whose calls they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A part of the cloud itself: sees and writes everything.
    Trusted,
    /// Somebody by name, such as a host: what [`Rules`] say.
    Named(Arc<str>),
}

impl Peer {
    /// One by name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::Named(Arc::from(name))
    }

    /// Whether it sees what is for `audience`.
    pub(super) fn is_among(&self, audience: &Audience) -> bool {
        match (self, audience) {
            (Self::Trusted, _) | (_, Audience::Everybody) => true,
            (Self::Named(_), Audience::Nobody) => false,
            (Self::Named(name), Audience::Peers(names)) => names.contains(name),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trusted => out.write_str("the cloud"),
            Self::Named(name) => out.write_str(name),
        }
    }
}

/// Which named peers see a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// None of them.
    Nobody,
    /// All.
    Everybody,
    /// These.
    Peers(Arc<[Arc<str>]>),
}

impl Audience {
    /// One peer.
    #[must_use]
    pub fn peer(name: &str) -> Self {
        Self::Peers(Arc::new([Arc::from(name)]))
    }
}

/// A document that a peer writes or removes.
#[derive(Debug)]
pub struct Write<'a> {
    /// Its name.
    pub key: &'a Key,
    /// What is there; none: nothing.
    pub now: Option<&'a Entry>,
    /// What is to be there; none: nothing.
    pub then: Option<&'a Bytes>,
}

/// What becomes of a document that a peer may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit {
    /// It is written, or removed, as the peer says.
    AsSaid,
    /// This is written: what is the peer's of what it says, and of the rest what it is.
    Instead(Bytes),
}

/// Why what a peer asked for is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It may not. Why, for the log and for the peer.
    Denied(String),
    /// It can't be known now; another entry point may.
    Unavailable(String),
    /// It does so too often; what it wanted it can do later.
    TooMany(String),
}

/// What named peers may.
#[async_trait]
pub trait Rules: Send + Sync + 'static {
    /// Who sees the document `value` at `key`. Pure: the same question has the same answer.
    fn audience(&self, key: &Key, value: &[u8]) -> Audience;

    /// The documents that whoever sees this one by name sees as well, as long as it does. Pure.
    fn refers(&self, _key: &Key, _value: &[u8]) -> Vec<Key> {
        Vec::new()
    }

    /// Whether `peer` may make `then` of `now` (`None`: there is, or will be, no document), and what is written then. Pure.
    ///
    /// # Errors
    /// Why not, for the log and for the peer.
    fn may_write(
        &self,
        peer: &str,
        key: &Key,
        now: Option<&Bytes>,
        then: Option<&Bytes>,
    ) -> Result<Permit, String>;

    /// What is written in the same transaction with what a peer may write, in documents that it can't. Of what that depends on,
    /// it looks at nothing older than `newest`, and demands that it still is as it was.
    ///
    /// # Errors
    /// Why nothing is to be written.
    async fn follows(
        &self,
        _writes: &[Write<'_>],
        _newest: Revision,
    ) -> Result<Transaction, Refusal> {
        Ok(Transaction::new())
    }
}

//! Who sees and who writes what. The store knows no resource types: whoever makes a gateway does.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::Key;

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

/// What named peers may. Pure: the same question has the same answer.
pub trait Rules: Send + Sync + 'static {
    /// Who sees the document `value` at `key`.
    fn audience(&self, key: &Key, value: &[u8]) -> Audience;

    /// Whether `peer` may make `then` of `now` (`None`: there is, or will be, no document).
    ///
    /// # Errors
    /// Why not, for the log and for the peer.
    fn may_write(
        &self,
        peer: &str,
        key: &Key,
        now: Option<&Bytes>,
        then: Option<&Bytes>,
    ) -> Result<(), String>;
}

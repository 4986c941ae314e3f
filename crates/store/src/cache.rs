//! Typed documents in memory: what all reads are served from.
//!
//! A [`CacheSet`] runs one watch over the whole store and feeds every [`Cache`] from it, so that
//! [`CacheSet::wait_for`] holds for all of them: whoever committed at a revision waits for it and then reads what they
//! wrote. Controllers follow [`Cache::changes`], which never queues up and never loses the last state.
//!
//! ```no_run
//! # use store::cache::*; use store::*; use bytes::Bytes;
//! struct Machine { owner: String }
//! impl Document for Machine {
//!     const COLLECTION: &'static str = "Machine";
//!     fn decode(value: &[u8]) -> Result<Self, DocumentError> {
//!         Ok(Self { owner: std::str::from_utf8(value)?.to_owned() })
//!     }
//!     fn encode(&self) -> Result<Bytes, DocumentError> { Ok(self.owner.clone().into()) }
//!     fn index(&self, terms: &mut IndexTerms) { terms.add("owner", &self.owner); }
//! }
//! # async fn example(store: SharedStore) -> Result<(), Box<dyn std::error::Error>> {
//! let mut builder = CacheSet::builder();
//! let machines = builder.cache::<Machine>();
//! let caches = builder.start(store.clone()).await?;
//!
//! let written = store.commit(Transaction::new().put(Key::new("Machine", "7")?, "alice")).await?;
//! if let Outcome::Committed(revision) = written {
//!     caches.wait_for(revision).await?;
//! }
//! assert_eq!(machines.by_index("owner", "alice").len(), 1);
//! # Ok(()) }
//! ```

mod changes;
mod content;
mod document;
mod set;
mod typed;

pub use changes::{Changed, Changes};
pub use document::{Document, DocumentError, IndexTerms, Versioned};
pub use set::{CacheSet, CacheSetBuilder, CacheStopped, Following};
pub use typed::{Cache, Direction};

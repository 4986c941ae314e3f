//! The Marketplace as a service: takes signed descriptions of images, has them confirmed by letter, keeps them, finds them, and
//! follows other Marketplaces.
//!
//! The crate promises:
//!
//! - what is kept was verified: document, signature, endorser; and it is kept byte for byte as it came;
//! - nobody changes or removes an entry; a correction is a newer entry, a withdrawal a deprecation, and of one image and endorser
//!   nothing is taken that is older than what is there (except from a Marketplace that is followed, as history);
//! - an endorser who isn't known to be trusted confirms each upload by a link in a letter, which acts on POST, once, and for some days;
//! - the entry, and the end of what was uploaded, are one transaction: killed anywhere, either both are there or none;
//! - searches are answered from memory ([`marketplace::catalogue`]), which follows the store.
//!
//! | module | holds |
//! |---|---|
//! | [`service`](Marketplace) | the service itself: reading, and following the store |
//! | `upload` | taking documents, and what endorsers do with them |
//! | `account` | who signs in, and what they do then |
//! | `asking` | queries in SPARQL |
//! | `letters` | what is written to endorsers |
//! | `reminders` | what endorsers are reminded of |
//! | [`follow`](Follower) | another Marketplace, entry by entry |
//! | [`tree`](Moved) | the tree of files of StratusLab's Marketplace, in and out |
//! | `stored` | the documents in the store |

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod account;
mod asking;
mod error;
mod follow;
mod letters;
mod reminders;
mod service;
mod settings;
mod stored;
mod tree;
mod upload;
mod waiting;

pub use account::{Account, Opened};
pub use error::Refused;
pub use follow::{FollowError, Follower};
pub use service::Marketplace;
pub use settings::{Settings, Temporary, Trusted};
pub use stored::{Confirmation, Session, Waiting, Way};
pub use tree::{Moved, TreeError};
pub use upload::{Described, Uploaded};

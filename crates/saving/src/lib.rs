//! What follows when a machine's disk was saved as an image (`--save`): others can learn of it.
//!
//! ```text
//! MachineImage AVAILABLE, saved for somebody, not announced
//!      │ draft of its description          [`draft`]
//!      │ signed by the cloud, uploaded     [`upload`]: tried again for a while, if a Marketplace is configured
//!      ▼
//! one transaction: `announced` in its document, and the letter to its author with the draft   [`letter`]
//! ```
//!
//! The letter is queued if and only if the document says so, so an author is told once, whenever the daemon dies. An entry
//! may be uploaded twice: it is the same one then, by its identifier, its endorser and its time.

//!
//! When the image goes, the entry that the cloud's own Marketplace has of it is deprecated.

#![forbid(unsafe_code)]

mod announcer;
pub mod draft;
pub mod letter;
pub mod upload;

pub use announcer::{Announcer, Settings, images_of};
pub use upload::{OwnMarketplace, UploadError};

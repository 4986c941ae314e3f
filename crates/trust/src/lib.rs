//! By what hosts and the cloud trust each other, before anything is said and afterwards.
//!
//! ```text
//!  token = SHA-256 of the authority's certificate + secret        on paper, or by whatever way the operator trusts
//!
//!  host ── TLS, name SERVER_NAME ──▶ entry     the entry shows a certificate by that authority, or nothing is sent
//!  host ── secret, key to be signed ─▶ entry   the secret is used up; the host gets its certificate
//!  host ── TLS with that certificate ▶ entry   from then on
//! ```
//!
//! A man in the middle has no certificate by the authority, so it learns nothing. A host has one, but that is for clients and
//! carries no name of a server, so no host can play the entry for another one. Hosts have images from each other, too: there both
//! show theirs, and one gives what an entry has signed that the other may have.
//!
//! No I/O here, and no clock of its own: times are arguments.

#![forbid(unsafe_code)]

mod authority;
mod crossing;
mod error;
mod fingerprint;
mod join;
mod key;
mod neighbour;
mod peer;
mod target;
mod token;
mod verifier;
mod volume;

pub use authority::{Authority, CERTIFICATE_LIFE, ENTRY_LIFE, EntryCertificate, HostCertificate};
pub use crossing::{CROSSING_PROTOCOL, CROSSING_REQUEST_BYTES, CrossingRequest, HERE, MET};
pub use error::TrustError;
pub use fingerprint::Fingerprint;
pub use join::{
    CLOCKS_APART_AT_MOST, JOIN_PATH, JoinRequest, Joined, REMOVED, RENEW_PATH, RenewRequest,
};
pub use key::{HostKey, PublicKey};
pub use neighbour::{
    NEIGHBOURS_AT_MOST, NEIGHBOURS_PATH, Neighbour, OfHost, REPLICAS_PATH, TICKET_HEADER,
    TICKET_LIFE, Ticket, certificates_of,
};
pub use peer::{HostPeer, Peer};
pub use target::{
    Asking, TARGET_LENGTH_BYTES, TARGET_PROTOCOL, TARGET_REQUEST_BYTES, TargetAnswer,
    TargetRequest, VolumeTarget,
};
pub use token::{JoinSecret, JoinToken};
pub use verifier::OfAuthority;
pub use volume::{VOLUME_PROTOCOL, VOLUME_REQUEST_BYTES, VolumeRequest};

/// The name by which hosts ask for the entry's door for hosts, and that its certificate there has: nobody's in any DNS.
pub const SERVER_NAME: &str = "hosts.stratus.internal";

/// Where an entry gives a host the files of a machine that comes to it, by GET: behind it stands the local part of the machine's id.
pub const MOVING_PATH: &str = "/moving/";
/// What is spoken on the connection by which an entry asks a host: HTTP/2, in which the host that has connected answers.
pub const CALL_PROTOCOL: &[u8] = b"stratus-calls";
/// Where an entry gives hosts the file of an image, by GET: behind it stands the local part of the image's id. Ranges are taken.
pub const IMAGES_PATH: &str = "/images/";
/// Where a daemon that keeps the images has the Marketplaces asked anew for an entry, by POST: behind [`IMAGES_PATH`] and the image.
pub const LOOK_AGAIN_PATH: &str = "/look-again";
/// The header by which daemons of one cloud tell each other what of the store they have seen.
pub const REVISION_HEADER: &str = "x-stratus-revision";

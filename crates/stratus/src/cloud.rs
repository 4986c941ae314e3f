//! The client's side of the cloud's HTTP interface.

mod api;
mod digest_text;
mod endpoint;
mod error;
mod events;
mod fingerprint;
mod known_clouds;
mod market_search;
mod marketplace;
mod own_certificate;
mod sources;
mod verifier;
mod views;
mod waiting;

pub use api::{Accepted, Api, Body, Login, RawBody};
pub use digest_text::{hex, is_image_identifier, is_local_id, is_uuid};
pub use endpoint::Endpoint;
pub use error::{ApiError, ShownBy};
pub use events::{Events, Told};
pub use fingerprint::Fingerprint;
pub use known_clouds::KnownClouds;
pub use market_search::{Found, Search};
pub use marketplace::{Marketplace, Uploaded};
pub use own_certificate::OwnCertificate;
pub use sources::Source;
pub use verifier::{Trust, Witness};
pub use views::{
    GroupView, HostView, ImageView, MachineView, Reference, Ssh, TokenView, UserView, VolumeView,
    text_of,
};
pub use waiting::{JobEnd, wait_for_job};

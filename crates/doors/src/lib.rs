//! The front doors: thin translators between a dialect and the calls of [`CloudApi`].
//!
//! - [`Server`]: listens, speaks TLS, HTTP/1.1 and HTTP/2, bounds what clients can use up, and ends
//!   without cutting anybody off.
//! - [`Doors`]: answers requests: who asks (`auth`), what is asked (`routes`), CIMI (`cimi`), and
//!   what stands beside it (`console`, `upload`, `health`, `metrics`, `openapi`), and what pages for
//!   browsers have in common (`pages`).
//!
//! [`HostDoor`] is what hosts that have joined get at, behind the same port.
//!
//! Pages for people (`people`) stand on the layout of `pages`.
//!
//! No rules of the cloud and no state live here, but for a cache of rendered representations.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod audit;
mod auth;
mod body;
mod budget;
mod cimi;
mod cloud_api;
mod console;
mod doors;
mod download;
mod health;
mod hosts;
mod limits;
mod load;
mod manual;
mod marketplace;
pub mod metrics;
mod openapi;
mod origin;
mod pages;
mod people;
mod plain_http;
mod problem;
mod routes;
mod rules;
mod server;
mod showing;
mod stall;
pub mod tls;
mod upload;

pub use audit::{AuditLog, Audited, NoAudit};
pub use body::ResponseBody;
pub use cloud_api::{Body, CloudApi};
pub use doors::{Doors, Serving, Settings};
pub use hosts::{
    CONTENT_HEADER, CallError, CrossingEnd, HostCalls, HostDoor, Meetings, SentContent,
};
pub use origin::{TrustedProxy, TrustedProxyError};
pub use people::People;
pub use routes::{Listed, all_routes};
pub use server::{Limits, Running, Server, ServerError};

//! The CIMI resource model: what the documents of the cloud are, and how they look to the outside.
//!
//! - [`resources`]: one typed document a resource, as it is stored.
//! - [`model`]: the table of every type's public attributes, from which JSON and XML in and out,
//!   validation, metadata and schemas follow.
//! - [`query`]: filters, orders and pages of lists.
//! - [`lifecycle`]: the state machines (DSP0263 §6), as pure functions.
//! - [`wording`]: what is wrong with a value, in the words of who wrote it.
//! - `testing`: documents for tests (feature `testing`).
//!
//! This crate does no I/O and knows no clock, no store and no HTTP.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod common;
pub mod dn;
mod email;
pub mod ids;
pub mod lifecycle;
pub mod model;
pub mod query;
pub mod resources;
pub mod size;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod timestamp;
pub mod uri;
pub mod wording;

pub use common::{Acl, AclRule, Common, Operation, PrincipalType, Ref, Right};
pub use email::{EmailAddress, NoEmailAddress};
pub use ids::{
    AddressId, CredentialId, EventId, GroupId, HostAuthorityId, HostId, HostIdentityId,
    HostPulseId, HostTokenId, ImageId, JobId, MachineId, MailLinkId, NetworkId,
    OrganisationMemberId, RegistrationId, ServiceConfigurationId, SessionId, StorageKeeperId,
    TokenId, UserId, VmId, VolumeId,
};
pub use timestamp::Timestamp;

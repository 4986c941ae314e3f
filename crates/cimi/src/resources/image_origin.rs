//! How an image that is fetched by name came here, and how long it stays.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What is wanted of an image that came because somebody started it by a name: it is the cloud's, shared by all who may
/// see it, and goes when nobody needs it for long. Written by `cloud`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnDemand {
    /// Who asked for it first: whose turn its fetching takes.
    pub requested_by: String,
    /// When a machine was last seen to need it; before, when it was asked for.
    pub last_used: Timestamp,
    /// An operator wants it to stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

/// Where an image's description was found, and what it says. Written by the storage controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageOrigin {
    /// Marketplace or catalogue, as the operator calls it.
    pub found_in: String,
    /// Title for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Who vouches for it: the endorser's address, or whose key signed the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorser: Option<String>,
    /// Version of the product in its catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the description was last looked up.
    pub checked: Timestamp,
    /// The signed entry as it came, so that it can be judged again without its Marketplace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Why the content may not be used any more although it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// It is so by what was found when it was looked up, not by the policy and the entry kept here: only another look takes it
    /// back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

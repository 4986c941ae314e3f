//! ServiceMessage: what the operators have to say to everybody.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, ids::ServiceMessageId};

/// A message to everybody; its title is the name, its text the description.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMessage {
    /// Its id.
    pub id: ServiceMessageId,
    /// Title, text, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(ServiceMessage, "ServiceMessage");

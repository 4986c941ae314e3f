//! ForwardingGroup: networks whose machines reach each other (DSP0263 §5.31).

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, ids::ForwardingGroupId};

/// A group of networks that the hosts of their machines forward between. Which those are stands in the networks
/// ([`Network::forwarding_group`](super::Network)).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardingGroup {
    /// Its id.
    pub id: ForwardingGroupId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(ForwardingGroup, "ForwardingGroup");

//! Members of virtual organisations, who have no account here.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, OrganisationMemberId};

/// Somebody who has made something here as a member of a virtual organisation: what all of them have together is bounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrganisationMember {
    /// Its id, a digest of both names.
    pub id: OrganisationMemberId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// The organisation, e.g. `atlas`.
    pub organisation: String,
    /// The subject of the member's certificate: the name by which they own things.
    pub member: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(OrganisationMember, "OrganisationMember", |this, add| {
    add("organisation", &this.organisation);
    add("member", &this.member);
});

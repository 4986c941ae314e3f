//! System: several resources as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, JobId, ids::SystemId};

/// A system (DSP0263 §5.13): what it is made of, and what was asked of all of it. Written by `cloud` alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct System {
    /// Its id.
    pub id: SystemId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// What is to be made for it, in the order in which it can be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
    /// What belongs to it: what was made for it, and what users added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The creation, until all of it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<JobId>,
    /// What was asked of all its parts last, until all of them have done it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<SystemOperation>,
    /// What keeps it from going on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Its removal was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(System, "System", |system, add| {
    if system.creation.is_some() || system.operation.is_some() || system.deleted {
        add("busy", "yes");
    }
    for member in &system.members {
        add("member", &member.href);
    }
});

/// Something to be made for a system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Its name, unlike those of all others of the system; `#name` in templates refers to it.
    pub name: String,
    /// Its type: `Machine`.
    pub kind: String,
    /// What creates it, as a client would send it; references to other components still stand in it as `#name`.
    pub body: Unknown,
    /// What became of it.
    #[serde(default)]
    pub made: Made,
}

/// What became of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "made")]
pub enum Made {
    /// It is still to be made.
    #[default]
    NotYet,
    /// It was made; it may be gone since.
    As {
        /// `<collection>/<id>`.
        href: String,
    },
    /// It could not be made.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A part of a system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The last part of its id in the system's own collection.
    pub key: String,
    /// `<collection>/<id>` of the resource.
    pub href: String,
    /// It was made for the system, and goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

/// Something asked of all parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemOperation {
    /// `start`, `stop`, `restart`, `pause`, `suspend`.
    pub action: String,
    /// Don't wait for guests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The job that tells of it.
    pub job: JobId,
    /// Who asked. None in operations that were asked before this was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asker: Option<Asker>,
    /// Parts that were not asked yet are not asked any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// What came of it, by the part's `<collection>/<id>`; a part that isn't here is still to be asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<String, Asked>,
}

/// In whose name the parts are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asker {
    /// The user name.
    pub user: String,
    /// The roles held when asking; of an account, those count that it still has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// What came of an operation on one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Asked {
    /// This job tells of it.
    Job {
        /// `Job/<uuid>`.
        href: String,
    },
    /// It was so already, or at once.
    Done,
    /// It can't be done.
    Refused {
        /// Why.
        reason: String,
    },
}

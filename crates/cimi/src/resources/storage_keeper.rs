//! Who keeps the images and volumes of a cloud. Never shown.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, StorageKeeperId};

/// The one storage of a cloud: known by what lies beside its data, and where daemons of the cloud reach it. There is one,
/// [`OWN`](Self::OWN).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageKeeper {
    /// Its id.
    pub id: StorageKeeperId,
    /// Times and access. The name is that of the computer.
    #[serde(flatten)]
    pub common: Common,
    /// What its folder is known by, wherever that is mounted.
    pub folder: String,
    /// Which daemon has that folder: of its computer and its state directory. When another one takes its place, the folder is
    /// known by another name, so that copies of it which stayed behind are told from it. Empty: an older version didn't say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// `HOST:PORT` of its door for hosts, where other entries of the cloud ask for content, too. Empty: it has none.
    pub address: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(StorageKeeper, "StorageKeeper");

impl StorageKeeper {
    /// The part of its id after the slash.
    pub const OWN: &'static str = "own";
}

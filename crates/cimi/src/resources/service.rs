//! ServiceConfiguration.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, ServiceConfigurationId};

/// How a service of the cloud is configured. What there is to configure is the service's affair: it reads
/// [`further`](Self::further) whenever that changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceConfiguration {
    /// `ServiceConfiguration/<service>` or `ServiceConfiguration/<service>.<instance>`.
    pub id: ServiceConfigurationId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// Which service; can't be changed.
    pub service: String,
    /// Which of several of it; can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// All else, secrets included.
    #[serde(flatten)]
    pub further: Unknown,
}
resource!(ServiceConfiguration, "ServiceConfiguration");

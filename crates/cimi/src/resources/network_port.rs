//! NetworkPort: a place in a network that a machine is plugged into, and that is switched on and off.
//!
//! ```text
//!            stop                        start
//!  STARTED ───────▶ STOPPING ─▶ STOPPED ───────▶ STARTING ─▶ STARTED
//! ```
//!
//! `cloud` writes the wish, together with that in the machine's interface ([`NicPort`](super::NicPort)); the machine's
//! host writes that it is carried out, in both at once. A port that no machine is plugged into is as it is wanted.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, MachineId, NetworkId, Ref, ids::NetworkPortId};

/// States of a NetworkPort (DSP0263 §5.30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortState {
    /// To carry frames; its machine's host was not there yet.
    Starting,
    /// Carries frames.
    Started,
    /// To carry none; its machine's host was not there yet.
    Stopping,
    /// Carries none: the guest sees a cable that is not plugged in.
    Stopped,
}

impl PortState {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Started => "STARTED",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
        }
    }

    /// Whether it is wanted to carry frames.
    #[must_use]
    pub const fn is_wanted_up(self) -> bool {
        matches!(self, Self::Starting | Self::Started)
    }

    /// The state in which a wish is carried out.
    #[must_use]
    pub const fn settled(up: bool) -> Self {
        if up { Self::Started } else { Self::Stopped }
    }

    /// The state in which it is to be carried out.
    #[must_use]
    pub const fn on_its_way(up: bool) -> Self {
        if up { Self::Starting } else { Self::Stopping }
    }
}

/// A place in a network, kept by a user for machines.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPort {
    /// Its id.
    pub id: NetworkPortId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: PortState,
    /// Its network.
    pub network: Ref<NetworkId>,
    /// The machine that is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Ref<MachineId>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(NetworkPort, "NetworkPort", |port, add| {
    add("network", port.network.href.local());
    if let Some(machine) = &port.machine {
        add("machine", machine.href.local());
    }
});

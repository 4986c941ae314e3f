//! What a machine is to be told.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{ContextError, Result};
use crate::keys::AuthorizedKeys;
use crate::names::{HostName, MacAddress};
use crate::user_data::UserData;
use crate::variables::Variables;

/// How the user's tools expect the context to be given (`CONTEXT_METHOD`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContextMethod {
    /// The HEPiX/OpenNebula CD: the default, and whatever is not known.
    #[default]
    OpenNebula,
    /// cloud-init.
    CloudInit,
}

impl ContextMethod {
    /// Reads the variable's value; the client's option calls the default `one`.
    #[must_use]
    pub fn from_variable(value: Option<&str>) -> Self {
        if value == Some("cloud-init") {
            Self::CloudInit
        } else {
            Self::OpenNebula
        }
    }
}

/// Everything one machine is told, from which [`context_medium::files`](crate::context_medium::files) and
/// [`nocloud::files`](crate::nocloud::files) are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The machine's small number.
    pub vmid: u64,
    /// The machine's name as users see it (any text).
    pub machine_name: String,
    /// cloud-init treats a changed value as a new machine: constant over reboots, new for a clone.
    pub instance_id: String,
    /// The name the guest gives itself.
    pub hostname: HostName,
    /// How the user's tools expect the context.
    pub method: ContextMethod,
    /// Who may log in.
    pub public_keys: AuthorizedKeys,
    /// The user's variables.
    pub variables: Variables,
    /// Plain user data.
    pub user_data: Option<UserData>,
    /// The network cards, in the order the guest sees them: the first is `eth0`.
    pub nics: Vec<Nic>,
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Guests find the card by this.
    pub mac: MacAddress,
    /// The leased address; without it the guest asks DHCP.
    pub ipv4: Option<Ipv4Settings>,
    /// Its IPv6 address, if the network has any: the one that the guest would make of its MAC.
    pub ipv6: Option<Ipv6Settings>,
    /// The largest packet in bytes, where it isn't the usual 1500.
    pub mtu_bytes: Option<u16>,
}

/// The IPv6 settings that a router's advertisements give too. All prefixes have 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// The machine's address.
    pub address: Ipv6Addr,
    /// The way out.
    pub gateway: Ipv6Addr,
}

/// The IPv4 settings that DHCP gives too, for guests that configure themselves without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4Settings {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix; see [`Ipv4Settings::new`].
    prefix_length: u8,
    /// The way out, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, best first.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain that short names are looked up in.
    pub domain: Option<HostName>,
}

impl Ipv4Settings {
    /// An address in a network, without gateway, name servers and domain yet.
    ///
    /// # Errors
    /// [`ContextError::InvalidPrefixLength`] above 32.
    pub fn new(address: Ipv4Addr, prefix_length: u8) -> Result<Self> {
        if prefix_length > 32 {
            return Err(ContextError::InvalidPrefixLength { prefix_length });
        }
        Ok(Self {
            address,
            prefix_length,
            gateway: None,
            name_servers: Vec::new(),
            domain: None,
        })
    }

    /// Length of the network's prefix, 0 to 32.
    #[must_use]
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The network mask, such as 255.255.255.0.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix_length.min(32));
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// The network's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        self.address & self.mask()
    }
}

//! The network family (DSP0263 1.0.1 §5.28 to §5.32), as far as it is offered: networks of the configuration, and
//! addresses that are leased or kept. Users make no networks, ports or forwarding groups of their own.

use super::{Shape::*, a, seen, standard};
use crate::model::{Creation, Kind, Limit, Type};

pub(super) const NETWORK: Type = Type {
    attributes: &[
        seen("state", String),
        seen("networkType", String),
        seen("mtu", Integer),
        seen("class", String).stratuslab(),
        seen("subnet", String).stratuslab(),
        seen("gateway", String).stratuslab(),
        seen("first", String).stratuslab(),
        seen("last", String).stratuslab(),
        seen("domain", String).stratuslab(),
        seen("nameServers", Array(&String)).stratuslab(),
        seen("nat", Boolean).stratuslab(),
        seen("leases", Integer).stratuslab(),
    ],
    ..standard(Kind::Network, "networks", "networks")
};

pub(super) const ADDRESS: Type = Type {
    creation: Creation::Template {
        member: "addressTemplate",
        kind: Kind::AddressTemplate,
        beside: &[],
    },
    attributes: &[
        a("ip", String).at_creation(),
        seen("hostname", String),
        seen("allocation", String),
        seen("defaultGateway", String),
        seen("dns", Array(&String)),
        seen("protocol", String),
        seen("mask", String),
        a("network", Ref(&[Kind::Network])).at_creation(),
        seen("resource", Ref(&[Kind::Machine])),
        seen("macAddress", String).stratuslab(),
    ],
    ..standard(Kind::Address, "addresses", "addresses")
};

pub(super) const ADDRESS_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("ip", String),
        a("allocation", String).limit(Limit::OneOf(&["static"])),
        a("protocol", String).limit(Limit::OneOf(&["IPv4"])),
        a("network", Ref(&[Kind::Network])).required(),
    ],
    ..standard(
        Kind::AddressTemplate,
        "addressTemplates",
        "addressTemplates",
    )
};

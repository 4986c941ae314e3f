//! The network family (DSP0263 1.0.1 §5.28 to §5.32), as far as it is offered: networks of the configuration, and
//! addresses and ports that are leased or kept, and groups of networks. Users make no networks of their own.

use super::{Shape::*, a, can, seen, standard};
use crate::model::{Attribute, Creation, Kind, Limit, Type};

pub(super) const NETWORK: Type = Type {
    attributes: &[
        seen("state", String),
        seen("networkType", String),
        seen("mtu", Integer),
        seen("class", String).stratuslab(),
        seen("subnet", String).stratuslab(),
        seen("subnet6", String).stratuslab(),
        seen("bridge", String).stratuslab(),
        seen("gateway", String).stratuslab(),
        seen("first", String).stratuslab(),
        seen("last", String).stratuslab(),
        seen("domain", String).stratuslab(),
        seen("nameServers", Array(&String)).stratuslab(),
        seen("nat", Boolean).stratuslab(),
        seen("leases", Integer).stratuslab(),
        seen("networkPorts", Collection(Kind::NetworkNetworkPort)),
        seen("forwardingGroup", Ref(&[Kind::ForwardingGroup])),
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
        seen("ip6", String).stratuslab(),
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

/// The only type of ports that machines are plugged into: frames of one network, without tags.
const PORT_TYPE: Attribute = a("portType", String).limit(Limit::OneOf(&["ACCESS"]));

pub(super) const NETWORK_PORT: Type = Type {
    creation: Creation::Template {
        member: "networkPortTemplate",
        kind: Kind::NetworkPortTemplate,
        beside: &[],
    },
    actions: &["start", "stop"],
    capabilities: &[
        can(
            "DefaultInitialState",
            "STARTED",
            "the state of a port that was just made",
        ),
        can(
            "NetworkPortConfigByValue",
            "true",
            "networkPortConfig may be a value",
        ),
    ],
    attributes: &[
        seen("state", String),
        seen("network", Ref(&[Kind::Network])),
        seen("portType", String),
        seen("machine", Ref(&[Kind::Machine])).stratuslab(),
    ],
    ..standard(Kind::NetworkPort, "networkPorts", "networkPorts")
};

pub(super) const NETWORK_PORT_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("network", Ref(&[Kind::Network])).required(),
        a(
            "networkPortConfig",
            RefOrValue(Kind::NetworkPortConfiguration),
        ),
    ],
    ..standard(
        Kind::NetworkPortTemplate,
        "networkPortTemplates",
        "networkPortTemplates",
    )
};

pub(super) const NETWORK_PORT_CONFIGURATION: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[PORT_TYPE],
    ..standard(
        Kind::NetworkPortConfiguration,
        "networkPortConfigs",
        "networkPortConfigurations",
    )
};

pub(super) const NETWORK_NETWORK_PORT: Type = Type {
    collection: None,
    attributes: &[seen("networkPort", Ref(&[Kind::NetworkPort]))],
    ..standard(Kind::NetworkNetworkPort, "", "networkNetworkPorts")
};

pub(super) const FORWARDING_GROUP: Type = Type {
    creation: Creation::Template {
        member: "forwardingGroupTemplate",
        kind: Kind::ForwardingGroupTemplate,
        beside: &[],
    },
    attributes: &[seen("networks", Collection(Kind::ForwardingGroupNetwork))],
    ..standard(
        Kind::ForwardingGroup,
        "forwardingGroups",
        "forwardingGroups",
    )
};

pub(super) const FORWARDING_GROUP_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[a("networks", Array(&Ref(&[Kind::Network])))],
    ..standard(
        Kind::ForwardingGroupTemplate,
        "forwardingGroupTemplates",
        "forwardingGroupTemplates",
    )
};

pub(super) const FORWARDING_GROUP_NETWORK: Type = Type {
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[a("network", Ref(&[Kind::Network])).at_creation().required()],
    ..standard(Kind::ForwardingGroupNetwork, "", "forwardingGroupNetworks")
};

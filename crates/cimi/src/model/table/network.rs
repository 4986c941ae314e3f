//! The network family (DSP0263 1.0.1 §5.28 to §5.32). Types without a collection are not offered: no host sets up yet
//! what they describe.

use super::{Shape::*, a, seen, standard};
use crate::model::{Attribute, Creation, Kind, Limit, Type};

const REASON: Attribute = super::REASON;
const NETWORK_TYPE: Attribute = a("networkType", String).limit(Limit::OneOf(&["PRIVATE"]));
/// What the kernel, dnsmasq and guests can all do.
const MTU: Attribute = a("mtu", Integer).limit(Limit::Range(576, 9216));
/// Told, and kept as told: nothing is slower for it.
const PORT_TYPE: Attribute = a("portType", String).limit(Limit::OneOf(&["ACCESS"]));

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
        REASON,
    ],
    ..standard(Kind::Network, "networks", "networks")
};

pub(super) const NETWORK_TEMPLATE: Type = Type {
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("networkConfig", RefOrValue(Kind::NetworkConfiguration)).required(),
        a("forwardingGroup", Ref(&[Kind::ForwardingGroup])),
    ],
    ..standard(
        Kind::NetworkTemplate,
        "networkTemplates",
        "networkTemplates",
    )
};

pub(super) const NETWORK_CONFIGURATION: Type = Type {
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[NETWORK_TYPE.required(), MTU],
    ..standard(
        Kind::NetworkConfiguration,
        "networkConfigs",
        "networkConfigurations",
    )
};

pub(super) const NETWORK_PORT: Type = Type {
    collection: None,
    creation: Creation::Template {
        member: "networkPortTemplate",
        kind: Kind::NetworkPortTemplate,
        beside: &[],
    },
    attributes: &[
        seen("state", String),
        seen("network", Ref(&[Kind::Network])),
        seen("portType", String),
        seen("attachedTo", Ref(&[Kind::Machine])).stratuslab(),
    ],
    ..standard(Kind::NetworkPort, "networkPorts", "networkPorts")
};

pub(super) const NETWORK_PORT_TEMPLATE: Type = Type {
    collection: None,
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
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[PORT_TYPE.required()],
    ..standard(
        Kind::NetworkPortConfiguration,
        "networkPortConfigs",
        "networkPortConfigurations",
    )
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

pub(super) const FORWARDING_GROUP: Type = Type {
    collection: None,
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
    collection: None,
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

pub(super) const NETWORK_NETWORK_PORT: Type = Type {
    collection: None,
    attributes: &[seen("networkPort", Ref(&[Kind::NetworkPort]))],
    ..standard(Kind::NetworkNetworkPort, "", "networkNetworkPorts")
};

//! Security groups, which Stratus adds to the standard's types.

use super::{
    super::{Creation, Kind, Limit, Namespace, Type},
    Own, Ref, String, a, seen, standard,
};
use crate::model::Shape::Integer;

/// A port of TCP or UDP.
const PORT: Limit = Limit::Range(0, 65_535);
/// A type or code of ICMP.
const OCTET: Limit = Limit::Range(0, 255);

pub(super) const SECURITY_GROUP: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        seen("rules", Own(Kind::SecurityGroupRule)),
        seen("problem", String),
    ],
    ..standard(Kind::SecurityGroup, "securityGroups", "securityGroups")
};

pub(super) const SECURITY_GROUP_RULE: Type = Type {
    namespace: Namespace::StratusLab,
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("direction", String)
            .limit(Limit::OneOf(&["in", "out"]))
            .at_creation()
            .required(),
        a("protocol", String).at_creation(),
        a("firstPort", Integer).limit(PORT).at_creation(),
        a("lastPort", Integer).limit(PORT).at_creation(),
        a("icmpType", Integer).limit(OCTET).at_creation(),
        a("icmpCode", Integer).limit(OCTET).at_creation(),
        a("addresses", String).at_creation(),
        a("group", Ref(&[Kind::SecurityGroup])).at_creation(),
    ],
    ..standard(Kind::SecurityGroupRule, "", "securityGroupRules")
};

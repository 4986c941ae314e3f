//! How services are configured: open, since each service has attributes of its own.

use super::{
    super::{
        Creation, FURTHER, Kind, Limit, Namespace,
        Shape::{Map, String},
        Type,
    },
    a, standard,
};

pub(super) const SERVICE_CONFIGURATION: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("service", String).at_creation().required(),
        a("instance", String).at_creation(),
        a(FURTHER, Map).limit(Limit::Text(64 * 1024)),
    ],
    is_open: true,
    ..standard(
        Kind::ServiceConfiguration,
        "serviceConfigurations",
        "serviceConfigurations",
    )
};

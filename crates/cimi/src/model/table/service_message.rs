//! ServiceMessage: what the operators have to say to everybody (StratusLab).

use super::{Shape::*, a, standard};
use crate::model::{Creation, Kind, Limit, Namespace, Type};

/// `title` and `message` are what other versions call `name` and `description`; both are read and shown.
pub(super) const SERVICE_MESSAGE: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("title", String),
        a("message", String).limit(Limit::Text(4096)),
    ],
    ..standard(Kind::ServiceMessage, "serviceMessages", "serviceMessages")
};

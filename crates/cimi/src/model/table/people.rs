//! Sessions and registrations, which Stratus adds.

use super::{
    super::{
        Kind, Namespace,
        Shape::{DateTime, String},
        Type,
    },
    seen, standard,
};

pub(super) const SESSION: Type = Type {
    namespace: Namespace::StratusLab,
    attributes: &[
        seen("user", String),
        seen("method", String),
        seen("expires", DateTime),
        seen("lastUsed", DateTime),
        seen("lastAddress", String),
        seen("agent", String),
    ],
    ..standard(Kind::Session, "sessions", "sessions")
};

pub(super) const REGISTRATION: Type = Type {
    namespace: Namespace::StratusLab,
    actions: &["approve", "reject"],
    attributes: &[
        seen("username", String),
        seen("first-name", String),
        seen("last-name", String),
        seen("email", String),
        seen("x500dn", String),
        seen("message", String),
        seen("state", String),
        seen("expires", DateTime),
        seen("decided-by", String),
        seen("reason", String),
    ],
    ..standard(Kind::Registration, "registrations", "registrations")
};

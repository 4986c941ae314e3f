//! What tests of the rules begin with, here and in other crates (feature `testing`): settings, callers, bodies.

use std::{sync::Arc, time::Duration};

use accounts::{Cost, Hashing, Identity};
use cimi::resources::NetworkClass;
use serde_json::{Map, Value};

use crate::{Caller, MachineType, NetworkSettings, OpContext, PerUser, Settings};

/// How long an operation of a test may take: longer than anything does on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One machine type, `m1.tiny`, and one network, `local`; volumes of at most 10 GiB; passwords checked with little work.
#[must_use]
pub fn settings() -> Settings {
    Settings {
        machine_types: vec![machine_type("m1.tiny", 64)],
        default_machine_type: "m1.tiny".into(),
        default_network: "local".into(),
        networks: vec![network("local", NetworkClass::Local)],
        per_user: PerUser::default(),
        spare_ports: 8,
        placement: placement::Policy::default(),
        largest_volume_gib: 10,
        passwords: Hashing::with_cost(Cost::NONE),
        people: crate::people::PeopleSettings::default(),
    }
}

/// A type with one CPU and without swap.
#[must_use]
pub fn machine_type(name: &str, memory_mib: u64) -> MachineType {
    MachineType {
        name: name.into(),
        cpus: 1,
        memory_mib,
        swap_mib: 0,
    }
}

/// 10.99.0.0/16 behind the host's address: more leases than a test needs.
#[must_use]
pub fn network(name: &str, class: NetworkClass) -> NetworkSettings {
    NetworkSettings {
        name: name.into(),
        class,
        subnet: "10.99.0.0/16".into(),
        subnet6: None,
        bridge: None,
        gateway: [10, 99, 0, 1].into(),
        first: [10, 99, 0, 10].into(),
        last: [10, 99, 250, 250].into(),
        domain: "test.internal".into(),
        name_servers: Vec::new(),
        nat: true,
        forwarded: false,
        tag: "0".into(),
        mtu: None,
    }
}

/// A request of a user with these roles, from nowhere, that is of use for [`PATIENCE`].
#[must_use]
pub fn caller(user: &str, roles: &[&str]) -> OpContext {
    let identity = Identity {
        user: user.into(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        token: None,
        session: None,
        method: accounts::Method::default(),
        is_limited: false,
        generation: None,
    };
    OpContext::new(Caller::User(Arc::new(identity)), "test".into(), PATIENCE)
}

/// The members of a JSON object.
///
/// # Panics
/// If it is none.
#[must_use]
#[allow(clippy::panic, reason = "a test that panics has failed")]
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is not an object"),
    }
}

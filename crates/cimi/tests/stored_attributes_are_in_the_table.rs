//! Every public attribute that a stored document serialises is in the table: what the table lacks
//! would silently be missing from representations.

#![allow(clippy::unwrap_used, missing_docs)]

use cimi::{
    model::{Kind, strangers},
    resources::{
        Address, Credential, Event, Host, Image, Job, Machine, MachineConfiguration, MachineRecord,
        Network, Resource, User, Volume, VolumeConfiguration,
    },
};
use serde_json::{Value, json};

/// The strangers among a document's members, but for those that are Stratus's own.
fn public_strangers<R: Resource>(kind: Kind, document: Value, own: &[&str]) -> Vec<String> {
    let document: R = serde_json::from_value(document).unwrap();
    let Value::Object(members) = serde_json::to_value(document).unwrap() else {
        return vec!["not an object".into()];
    };
    strangers(kind, &members)
        .filter(|name| !own.contains(name))
        .map(str::to_owned)
        .collect()
}

/// A document with these members and the common ones.
fn document(id: &str, members: &Value) -> Value {
    let mut all = json!({"id": id, "name": "n", "description": "d", "properties": {"k": "v"},
        "created": "2014-08-01T10:20:30.000Z", "updated": "2014-08-01T10:20:30.000Z",
        "acl": {"owner": {"principal": "alice", "type": "USER"}}});
    let target = all.as_object_mut().unwrap();
    target.extend(members.as_object().unwrap().clone());
    all
}

#[test]
fn simple_documents_have_no_strangers() {
    let time = "2014-08-01T10:20:30.000Z";
    let none: &[String] = &[];
    let configuration = json!({"cpu": 1, "memory": 1024, "cpuArch": "x86_64",
        "disks": [{"capacity": 1, "format": "raw"}]});
    assert_eq!(
        public_strangers::<MachineConfiguration>(
            Kind::MachineConfiguration,
            document("MachineConfiguration/a", &configuration),
            &[]
        ),
        none
    );
    let configuration = json!({"type": "t", "format": "raw", "capacity": 1});
    assert_eq!(
        public_strangers::<VolumeConfiguration>(
            Kind::VolumeConfiguration,
            document("VolumeConfiguration/a", &configuration),
            &[]
        ),
        none
    );
    assert_eq!(
        public_strangers::<Credential>(
            Kind::Credential,
            document("Credential/a", &json!({"publicKey": "k"})),
            &[]
        ),
        none
    );
    let event = json!({"timestamp": time, "type": "state", "content": {}, "outcome": "Success",
        "severity": "low"});
    assert_eq!(
        public_strangers::<Event>(Kind::Event, document("Event/a", &event), &[]),
        none
    );
    let job = json!({"state": "QUEUED", "targetResource": {"href": "Machine/a"},
        "affectedResources": [{"href": "Machine/a"}], "action": "add", "returnCode": 0,
        "progress": 0, "statusMessage": "m", "timeOfStatusChange": time, "goal": {"kind": "gone"},
        "parentJob": {"href": "Job/b"}, "nestedJobs": [{"href": "Job/c"}], "stoppedBy": "alice"});
    assert_eq!(
        public_strangers::<Job>(Kind::Job, document("Job/a", &job), &["goal", "stoppedBy"]),
        none
    );
    let user = json!({"username": "a", "enabled": true, "roles": ["r"], "generation": 1});
    assert_eq!(
        public_strangers::<User>(Kind::User, document("User/a", &user), &["generation"]),
        none
    );
    let network = json!({"state": "STARTED", "class": "public", "subnet": "10.0.0.0/8", "subnet6": "fd00::/64", "bridge": "br-eth1",
        "gateway": "10.0.0.1", "first": "10.0.0.2", "last": "10.0.0.9", "domain": "d",
        "nameServers": ["10.0.0.1"], "nat": true, "mtu": 1500});
    assert_eq!(
        public_strangers::<Network>(Kind::Network, document("Network/a", &network), &[]),
        none
    );
    let volume = json!({"state": "AVAILABLE", "reason": "r", "type": "t", "sizeBytes": 1,
        "bootable": true});
    assert_eq!(
        public_strangers::<Volume>(Kind::Volume, document("Volume/a", &volume), &[]),
        none
    );
}

/// The types whose stored form differs from what is shown: here the shown names stand in the
/// table; that their views make no others is checked whenever they are rendered in a test build.
#[test]
fn every_stored_type_has_a_row() {
    for (kind, collection) in [
        (Kind::Machine, Machine::COLLECTION),
        (Kind::MachineImage, Image::COLLECTION),
        (Kind::MachineRecord, MachineRecord::COLLECTION),
        (Kind::Host, Host::COLLECTION),
        (Kind::Address, Address::COLLECTION),
    ] {
        assert_eq!(kind.name(), collection);
    }
}

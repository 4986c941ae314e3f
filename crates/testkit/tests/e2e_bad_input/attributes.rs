//! The attributes of documents, each with values that it can't have. They follow from the interface's own table.

use cimi::model::{Access, Attribute, COMMON, Creation, Kind, Shape, describe};
use serde_json::{Value, json};
use testkit::{TestCloud, firmware_only_image, skip_unless};

use super::{collections, judge, remove, survived};

/// Values that are wrong for most attributes, and dangerous for some programs.
fn hostile_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("x".repeat(70_000)),
        json!("../../../etc/passwd"),
        json!("a\u{0}b\nc\u{1b}[2J"),
        json!("$(reboot)`reboot`;'\"<script>"),
        json!([]),
        json!([[[null]]]),
        json!({}),
        json!({"href": "Machine/../../secrets"}),
        json!({"href": 7}),
        json!([{"href": "http://127.0.0.1:1/x"}]),
    ]
}

/// The paths of all attributes that a client may write, those of parts included.
fn paths(attributes: &[Attribute], within: &[String], depth: usize, found: &mut Vec<Vec<String>>) {
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.access != Access::ReadOnly)
    {
        let mut path = within.to_vec();
        path.push(attribute.name.to_owned());
        if depth < 4 {
            inner(&attribute.shape, &path, depth + 1, found);
        }
        found.push(path);
    }
}

fn inner(shape: &Shape, path: &[String], depth: usize, found: &mut Vec<Vec<String>>) {
    match shape {
        Shape::Struct(parts) | Shape::Flattened(parts, _) => paths(parts, path, depth, found),
        Shape::RefOrValue(kind) => paths(describe(*kind).attributes, path, depth, found),
        Shape::Array(element) => {
            let path = [path, &["0".to_owned()]].concat();
            inner(element, &path, depth, found);
        }
        _ => {}
    }
}

/// The document with the value at the path; what is on the way there and of another kind is replaced.
fn with(mut document: Value, path: &[String], value: Value) -> Value {
    let mut at = &mut document;
    for step in path {
        if step == "0" {
            if at.as_array().is_none_or(Vec::is_empty) {
                *at = json!([{}]);
            }
            at = &mut at[0];
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            at = &mut at[step.as_str()];
        }
    }
    *at = value;
    document
}

/// What creates one of this kind, if it is right.
fn right_document(cloud: &TestCloud, kind: Kind, image: &str) -> Value {
    let component =
        || json!({"type": "Credential", "credentialTemplate": {"publicKey": cloud.public_key()}});
    match kind {
        Kind::Machine => {
            let mut document = cloud.machine_document(image);
            document["machineTemplate"]["initialState"] = json!("STOPPED");
            document
        }
        Kind::MachineConfiguration => {
            json!({"name": "c", "cpu": 1, "memory": 65536, "cpuArch": "x86_64"})
        }
        Kind::MachineTemplate => json!({"name": "t", "machineImage": {"href": image}}),
        Kind::MachineImage => json!({"name": "i", "imageLocation": "upload:"}),
        Kind::Credential => json!({"name": "k", "publicKey": cloud.public_key()}),
        Kind::Volume => {
            json!({"name": "v", "volumeTemplate": {"volumeConfig": {"capacity": 1000}}})
        }
        Kind::VolumeConfiguration => json!({"name": "c", "capacity": 1000}),
        Kind::VolumeTemplate => json!({"name": "t", "volumeConfig": {"capacity": 1000}}),
        Kind::User => json!({"username": "somebody", "password": "some-password"}),
        Kind::Group => json!({"groupname": "physicists"}),
        Kind::ServiceConfiguration => json!({"service": "pdisk"}),
        Kind::Address => json!({"addressTemplate": {"network": {"href": "Network/public"}}}),
        Kind::NetworkPort => {
            json!({"networkPortTemplate": {"network": {"href": "Network/public"}}})
        }
        Kind::ForwardingGroup => json!({"forwardingGroupTemplate": {"networks": []}}),
        Kind::ForwardingGroupTemplate => json!({"networks": []}),
        Kind::NetworkPortTemplate => json!({"network": {"href": "Network/public"}}),
        Kind::NetworkPortConfiguration => json!({"portType": "ACCESS"}),
        Kind::AddressTemplate => json!({"network": {"href": "Network/public"}}),
        Kind::ServiceMessage => json!({"title": "Tonight", "message": "at eight"}),
        Kind::CredentialTemplate => json!({"publicKey": cloud.public_key()}),
        Kind::SystemTemplate => json!({"componentDescriptors": [component()]}),
        Kind::System => json!({"systemTemplate": {"componentDescriptors": [component()]}}),
        Kind::VolumeImage => {
            json!({"volumeImageTemplate": {"imageLocation": {"href": cloud.volume(&cloud.api(), 1)}}})
        }
        _ => json!({"name": "x"}),
    }
}

#[test]
fn every_attribute_refuses_nonsense() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let api = cloud.api();
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let mut wrong = Vec::new();
    for kind in collections().filter(|kind| !matches!(describe(*kind).creation, Creation::Never)) {
        let right = right_document(&cloud, kind, &image);
        // What is tried below is wrong in one thing only: without it, it is accepted. Else nothing would be tested.
        let is_right = || {
            // Made anew: what was accepted meanwhile may have used up what the former one refers to.
            let made = api.post(kind.name(), &right_document(&cloud, kind, &image));
            assert_eq!(made.status, 201, "{kind}: {}", made.text());
            remove(&api, &made.location.unwrap());
        };
        is_right();
        let mut accepted = Vec::new();
        let mut all = Vec::new();
        paths(COMMON, &[], 0, &mut all);
        match describe(kind).creation {
            Creation::Template {
                member,
                kind,
                beside,
            } => {
                paths(beside, &[], 0, &mut all);
                paths(describe(kind).attributes, &[member.to_owned()], 0, &mut all);
            }
            _ => paths(describe(kind).attributes, &[], 0, &mut all),
        }
        for path in &all {
            for value in hostile_values() {
                let shown: String = value.to_string().chars().take(60).collect();
                let what = format!("POST {} with {} = {shown}", kind.name(), path.join("."));
                let document = with(right.clone(), path, value);
                let reply = api.try_json("POST", kind.name(), &document);
                accepted.push(reply.as_ref().is_ok_and(|reply| reply.status == 201));
                judge(&cloud, &what, reply, &mut wrong);
            }
        }
        // And it still is after all this: it was the values that were refused, and most of them were.
        is_right();
        let taken = accepted.iter().filter(|accepted| **accepted).count();
        let all = accepted.len();
        println!("{kind}: {taken} of {all} values were accepted");
        assert!(
            taken * 2 < all,
            "{kind}: {taken} of {all} hostile values were accepted"
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    survived(&cloud);
    for machine in api.list("Machine") {
        cloud.known_machine(&api, &machine).kill();
    }
    for volume in api.list("Volume") {
        let _ = api.delete(volume["id"].as_str().unwrap());
    }
    cloud.assert_clean();
}

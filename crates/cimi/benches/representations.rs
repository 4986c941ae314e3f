//! What XML costs beside JSON: writing a machine and a list of a hundred, reading the body that makes one.
//!
//! `cargo bench -p cimi --bench representations`. The budget is 1.5 × JSON.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cimi::{
    model::{self, Kind, Representation, xml},
    query::Select,
};
use serde_json::{Map, Value, json};

/// The shortest of several rounds, for one call.
fn best(mut work: impl FnMut()) -> Duration {
    const CALLS: u32 = 400;
    let round = || {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| work());
        begun.elapsed() / CALLS
    };
    std::iter::repeat_with(round).take(40).min().unwrap()
}

fn compare(what: &str, json: Duration, xml: Duration) {
    println!(
        "{what:<32} JSON {json:>9.2?}   XML {xml:>9.2?}   ratio {:.2}",
        xml.as_secs_f64() / json.as_secs_f64()
    );
}

fn machine() -> Map<String, Value> {
    let Value::Object(attributes) = json!({"name": "web-1", "description": "front end <1>",
        "created": "2014-08-01T10:20:30.000Z", "updated": "2014-08-01T10:24:00.000Z",
        "properties": {"group": "prod", "owner-mail": "ops@example.org"}, "owner": "alice",
        "state": "STARTED", "cpu": 2, "memory": 2_097_152, "cpuArch": "x86_64", "vmid": 4710,
        "phase": "Running", "machineImage": {"href": "MachineImage/0190a5c8-5f6e-7000-8000-0123456789ab"},
        "imageIdentifier": "GgFQn0Kv3Lw0aZ8m4h0bq5xYt2c", "addresses": ["10.77.0.9"], "networks": ["public"],
        "host": {"href": "Host/node-7"}, "hostname": "node-7", "ssh": {"host": "10.77.0.9", "port": 22},
        "accelerator": "kvm", "swap": 1024, "cpuModel": "host", "keymap": "en-us", "restartPolicy": "never",
        "started": "2014-08-01T10:20:31.000Z",
        "acl": {"owner": {"principal": "alice", "type": "USER"},
            "rules": [{"principal": "::USER", "type": "ROLE", "right": "VIEW"}]}})
    else {
        unreachable!()
    };
    attributes
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let attributes = machine();
    let id = "Machine/0190a5c8-5f6e-7000-8000-0123456789ab";
    let operations: Vec<_> = ["edit", "delete", "stop", "restart", "shutdown", "kill"]
        .map(|rel| (rel.to_owned(), format!("{id}/{rel}")))
        .into();
    let representation = Representation {
        kind: Kind::Machine,
        id,
        attributes: &attributes,
        select: &Select::All,
        operations: &operations,
    };
    let (mut in_json, mut in_xml) = (Vec::new(), Vec::new());
    let json = best(|| {
        in_json.clear();
        model::render(black_box(&representation), &mut in_json);
    });
    let xml = best(|| {
        in_xml.clear();
        xml::render(black_box(&representation), &mut in_xml);
    });
    println!(
        "a machine: {} bytes of JSON, {} of XML",
        in_json.len(),
        in_xml.len()
    );
    compare("write a machine", json, xml);

    let mut out = Vec::new();
    let json = best(|| {
        out.clear();
        let members = std::iter::repeat_n(&in_json[..], 100);
        model::render_collection(Kind::Machine, "Machine", 100, members, true, &mut out);
    });
    let xml = best(|| {
        out.clear();
        let members = std::iter::repeat_n(&in_xml[..], 100);
        xml::render_collection(Kind::Machine, "Machine", 100, members, true, &mut out);
    });
    compare("write a list of 100 at hand", json, xml);

    let in_json = r#"{"resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate", "name": "web-2",
        "properties": {"group": "prod"}, "machineTemplate": {"href": "MachineTemplate/small",
        "machineConfig": {"href": "MachineConfiguration/small", "memory": 1048576},
        "machineImage": {"href": "MachineImage/debian"}, "initialState": "STOPPED",
        "volumeTemplates": [{"initialLocation": "/dev/vdb", "volumeTemplate": {"volumeConfig": {"capacity": 5000000}}}],
        "userData": "IyEvYmluL3NoCg=="}}"#;
    let in_xml = r#"<MachineCreate xmlns="http://schemas.dmtf.org/cimi/1"><name>web-2</name>
        <property key="group">prod</property><machineTemplate href="MachineTemplate/small">
        <initialState>STOPPED</initialState><machineConfig href="MachineConfiguration/small"><memory>1048576</memory>
        </machineConfig><machineImage href="MachineImage/debian"/><volumeTemplate><initialLocation>/dev/vdb</initialLocation>
        <volumeTemplate><volumeConfig><capacity>5000000</capacity></volumeConfig></volumeTemplate></volumeTemplate>
        <userData>IyEvYmluL3NoCg==</userData></machineTemplate></MachineCreate>"#;
    let checked = |value: &Value| model::check(Kind::Machine, value).unwrap();
    let json = best(|| {
        let value = serde_json::from_slice(black_box(in_json.as_bytes())).unwrap();
        black_box(checked(&value));
    });
    let xml = best(|| {
        let value = xml::read(black_box(in_xml), xml::Expected::Creation(Kind::Machine)).unwrap();
        black_box(checked(&value));
    });
    compare("read and check a MachineCreate", json, xml);
}

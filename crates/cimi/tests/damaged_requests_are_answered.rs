//! Bodies and queries that are right but for some damage: read or refused, never worse; and what is read, is in normal form.
//! A plain mutation with a seed, since it runs with every compiler; `fuzz/` goes further.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::time::{Duration, Instant};

use cimi::{
    model::{
        self, Kind,
        xml::{self, Expected},
    },
    query::{Query, Select},
};
use serde_json::Value;

const ROUNDS: u32 = 20_000;
/// Nothing this small takes longer, however busy the computer is.
const PATIENCE: Duration = Duration::from_secs(5);

const BODIES: &[(Kind, &str)] = &[
    (
        Kind::Machine,
        r#"{"resourceURI":"http://schemas.dmtf.org/cimi/1/MachineCreate","name":"web","properties":{"k":"v"},"machineTemplate":{"href":"MachineTemplate/a","initialState":"STOPPED","machineConfig":{"cpu":2,"memory":1048576,"disks":[{"capacity":5,"format":"swap"}]},"machineImage":{"href":"MachineImage/x"},"volumes":[{"volume":{"href":"Volume/v"},"initialLocation":"/dev/vdc"}],"networkInterfaces":[{"network":{"href":"Network/a"},"addresses":[{"ip":"10.0.0.1"}]}],"userData":"aGk=","context":{"A":"B\nC"}}}"#,
    ),
    (
        Kind::Machine,
        "<MachineCreate xmlns=\"http://schemas.dmtf.org/cimi/1\"><name>web</name><property key=\"k\">v &amp; &#x20;</property><machineTemplate href=\"MachineTemplate/a\"><machineConfig><cpu>2</cpu><memory>1048576</memory></machineConfig><machineImage href=\"MachineImage/x\"/><volumeTemplate><volumeTemplate><volumeConfig><capacity>5</capacity></volumeConfig></volumeTemplate></volumeTemplate><userData><![CDATA[aGk=]]></userData></machineTemplate></MachineCreate>",
    ),
    (
        Kind::System,
        r##"{"name":"s","systemTemplate":{"componentDescriptors":[{"name":"a","type":"Machine","quantity":2,"machineTemplate":{"machineImage":{"href":"MachineImage/x"},"credential":{"href":"#key"}}},{"name":"key","type":"Credential","credentialTemplate":{"publicKey":"ssh-rsa AAAA"}}]}}"##,
    ),
    (
        Kind::Volume,
        "<VolumeCreate><name>v</name><volumeTemplate><volumeConfig><type>http://schemas.dmtf.org/cimi/1/mapped</type><capacity>1000000</capacity></volumeConfig></volumeTemplate></VolumeCreate>",
    ),
    (
        Kind::ServiceConfiguration,
        r#"{"service":"authn","localdb":{"password-enabled":true},"deep":[1,{"a":[null,"x"]}]}"#,
    ),
    (
        Kind::User,
        r#"{"username":"joe","first-name":"J","last-name":"D","password":"secret words","roles":["a"],"acl":{"owner":{"principal":"joe","type":"USER"},"rules":[{"principal":"::ANON","type":"ROLE","right":"VIEW"}]}}"#,
    ),
];

const QUERIES: &[(&str, &str)] = &[
    (
        "$filter",
        "alpha=3 and (beta='x\\'y' or 2012-01-02T13:14:25.6-01:15<=gamma) and property['k']!=\"v\"",
    ),
    ("$filter", "((true=a or b=9223372036854775807) and c>='ü')"),
    ("$orderby", "name,created:desc,vmid:asc"),
    ("$first", "1844674407370955161"),
    ("$last", "20"),
    ("$select", "name,cpu,*,first-name"),
    ("$expand", "volumes,machineImage,*"),
];

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    ":",
    ",",
    "null",
    "-1e999",
    "18446744073709551616",
    "<",
    "</",
    "/>",
    "<!DOCTYPE a [<!ENTITY b \"c\">]>",
    "&b;",
    "&#0;",
    "<![CDATA[",
    "]]>",
    "<!--",
    "<?xml?>",
    " xmlns:a=\"b\"",
    "href",
    "#",
    "\u{0}",
    "\u{feff}",
    "\u{1F600}",
    "'",
    "(",
    ")",
    " and ",
    " or ",
    "!=",
    "$",
    "property[",
    "..",
    "//",
    "https://h/cimi/",
];

/// xorshift64*: the same on every computer.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % bound.max(1)
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let (a, b) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 60));
            match self.below(6) {
                0 if !bytes.is_empty() => {
                    let place = self.below(bytes.len());
                    bytes[place] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(from..to)),
                2 => {
                    let copy = bytes[from..to].to_vec();
                    let place = self.below(bytes.len() + 1);
                    bytes.splice(place..place, copy);
                }
                3 => bytes.truncate(a),
                4 => {
                    let piece = PIECES[self.below(PIECES.len())].repeat(1 + self.below(3));
                    bytes.splice(from..from, piece.into_bytes());
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(from..to, piece.bytes());
                }
            }
        }
    }
}

fn check(kind: Kind, body: &Value) {
    if let Ok(normal) = model::check(kind, body) {
        let again = model::check(kind, &Value::Object(normal.clone()));
        assert_eq!(again, Ok(normal));
    }
    let _ = model::check_changes(kind, body, &Select::All);
    let _ = model::check_action("stop", body);
}

#[test]
fn damaged_bodies_are_read_or_refused() {
    let mut chance = Chance(0x5eed_0001);
    let mut read = 0;
    for round in 0..ROUNDS {
        let (kind, text) = BODIES[round as usize % BODIES.len()];
        let mut bytes = text.as_bytes().to_vec();
        chance.damage(&mut bytes);
        let begun = Instant::now();
        if let Ok(body) = serde_json::from_slice::<Value>(&bytes) {
            read += 1;
            check(kind, &body);
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            for expected in [
                Expected::Creation(kind),
                Expected::Change(kind),
                Expected::Action,
            ] {
                if let Ok(body) = xml::read(text, expected) {
                    read += 1;
                    check(kind, &body);
                }
            }
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    // Some damage does no harm; otherwise only parsers of others would have been tried.
    assert!(read > ROUNDS / 20, "{read}");
}

#[test]
fn damaged_queries_are_read_or_refused() {
    let mut chance = Chance(0x5eed_0002);
    let mut read = 0;
    for round in 0..ROUNDS {
        let (name, value) = QUERIES[round as usize % QUERIES.len()];
        let mut bytes = value.as_bytes().to_vec();
        chance.damage(&mut bytes);
        let value = String::from_utf8_lossy(&bytes);
        let begun = Instant::now();
        if let Ok(query) = Query::from_parameters([(name, value.as_ref())]) {
            read += 1;
            for kind in Kind::ALL {
                let _ = model::check_query(*kind, &query);
            }
            if let Some(filter) = &query.filter {
                let printed = filter.to_string();
                let again = Query::from_parameters([("$filter", printed.as_str())]);
                assert_eq!(again.unwrap().filter.as_ref(), Some(filter), "{printed}");
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{value}");
    }
    assert!(read > ROUNDS / 20, "{read}");
}

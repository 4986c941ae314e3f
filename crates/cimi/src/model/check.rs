//! Checking of what comes in: known attributes, right kinds, bounded size, in one normal form.
//!
//! The normal form: numbers and booleans as such, references as `{"href": "Type/id"}`, flattened
//! members nested, names as the table spells them; nothing that only the provider writes, no empty
//! texts, maps and arrays.
//!
//! Here are whole bodies, of creations and actions; what they consist of is in `value`.

mod value;
mod wording;

use serde_json::{Map, Value};

use super::{
    Attribute, COMMON, Creation, Kind, Shape, Type, Violation, describe, scalar::found,
    table::ACTION,
};

pub(super) use wording::{join, one, unknown};

/// No more violations than these are told.
const VIOLATIONS_AT_MOST: usize = 20;

/// Checks the body of a creation and brings it to the normal form: for a Machine and a Volume that
/// of the `…Create` with its template, for others the resource's attributes (taken out of a
/// `…Create` if that was sent).
///
/// # Errors
/// Everything that is wrong with it, at most twenty things.
pub fn check(kind: Kind, body: &Value) -> Result<Map<String, Value>, Vec<Violation>> {
    let described = describe(kind);
    let mut checker = Checker::default();
    let result = checker.creation(described, body);
    checker.finish(result)
}

/// Checks the body of an action: `force`, `properties`, and that `action`, if it is given, is the
/// one of the URL. An empty body is `null`.
///
/// # Errors
/// What is wrong with it.
pub fn check_action(action: &str, body: &Value) -> Result<Map<String, Value>, Vec<Violation>> {
    let mut checker = Checker::default();
    let mut result = match body {
        Value::Null => Map::new(),
        Value::Object(object) => {
            let object = without(object, &["resourceURI", "name", "description"]);
            checker.members("Action", ACTION, &object, "", true)
        }
        other => {
            checker.complain("", format!("must be an Action, but is {}", found(other)));
            Map::new()
        }
    };
    if let Some(Value::String(named)) = result.remove("action")
        && crate::uri::action_name(&named) != action
    {
        checker.complain(
            "action",
            format!("is `{named}`, but the URL names the action `{action}`"),
        );
    }
    checker.finish(result)
}

fn without(object: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let mut object = object.clone();
    for name in names {
        object.remove(*name);
    }
    object
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Checker {
    violations: Vec<Violation>,
    /// Within what stands beside a reference: what is missing there may be what the reference has.
    beside_reference: bool,
    /// Within the components of a system: `#name` refers to another one.
    among_components: bool,
}

impl Checker {
    pub(super) fn complain(&mut self, path: &str, problem: impl Into<String>) {
        if self.violations.len() < VIOLATIONS_AT_MOST {
            self.violations.push(Violation::new(path, problem));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.violations.len()
    }

    pub(super) fn finish<T>(self, result: T) -> Result<T, Vec<Violation>> {
        if self.violations.is_empty() {
            Ok(result)
        } else {
            Err(self.violations)
        }
    }

    fn creation(&mut self, described: &Type, body: &Value) -> Map<String, Value> {
        let empty = Map::new();
        let object = match body {
            Value::Null => &empty,
            Value::Object(object) => object,
            other => {
                self.complain("", format!("must be an object, but is {}", found(other)));
                return Map::new();
            }
        };
        self.resource_uri(described, object);
        match described.creation {
            Creation::Never => {
                self.complain(
                    "",
                    format!("{} is not created by request", one(described.kind)),
                );
                Map::new()
            }
            Creation::Plain { wrapper } => {
                let unwrapped = wrapper.and_then(|member| unwrap(object, member));
                self.resource(described, unwrapped.as_ref().unwrap_or(object), "", true)
            }
            Creation::Either { member, .. } if !object.contains_key(member) => {
                self.resource(described, object, "", true)
            }
            Creation::Either { member, kind } => self.create(described, object, member, kind, &[]),
            Creation::Template {
                member,
                kind,
                beside,
            } => self.create(described, object, member, kind, beside),
        }
    }

    /// A `…Create`: common attributes, those beside the template, and the template.
    fn create(
        &mut self,
        described: &Type,
        object: &Map<String, Value>,
        member: &'static str,
        kind: Kind,
        beside: &[Attribute],
    ) -> Map<String, Value> {
        let mut rest = object.clone();
        let template = rest.remove(member).filter(|value| !value.is_null());
        let name = format!("a {}Create", described.kind);
        let fields: Vec<Attribute> = COMMON.iter().chain(beside).copied().collect();
        let mut result = self.members(&name, &fields, &rest, "", true);
        match template {
            Some(template) => {
                let by_reference = Attribute::new(member, Shape::RefOrValue(kind));
                if let Some(value) =
                    self.value(&by_reference, &by_reference.shape, &template, member)
                {
                    result.insert(member.to_owned(), value);
                }
            }
            None => self.complain(member, format!("is missing; {name} must have it")),
        }
        result
    }

    /// A body that says what it is must be it, or its `…Create`.
    fn resource_uri(&mut self, described: &Type, object: &Map<String, Value>) {
        let Some(Value::String(uri)) = object.get("resourceURI") else {
            return;
        };
        let name = uri.trim().rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix("Create").unwrap_or(name);
        if !name.is_empty() && !name.eq_ignore_ascii_case(described.kind.name()) {
            self.complain(
                "resourceURI",
                format!(
                    "is `{}`, but here a `{}` is created",
                    uri.chars().take(200).collect::<String>(),
                    described.uri()
                ),
            );
        }
    }
}

/// The attributes of a `…Create` that wraps the resource: those of the wrapper win.
fn unwrap(object: &Map<String, Value>, member: &str) -> Option<Map<String, Value>> {
    let Some(Value::Object(template)) = object.get(member) else {
        return None;
    };
    let mut result = template.clone();
    for (name, value) in object {
        if name != member {
            result.insert(name.clone(), value.clone());
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn problems(kind: Kind, body: &Value) -> Vec<String> {
        check(kind, body)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_machine_creation_comes_out_in_normal_form() {
        let body = json!({
            "resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate",
            "name": "web", "description": "", "properties": {},
            "created": "whenever", "operations": [1],
            "machineTemplate": {
                "machineConfig": {"cpu": "2", "memory": 1572864.0, "cpuArch": "x86_64",
                                  "disks": [{"capacity": 1610613, "format": "swap"}]},
                "machineImage": "https://cloud:8443/cimi/MachineImage/Abc_-1",
                "credential": {"key": "ssh-ed25519 AAAA"},
                "volumes": [{"href": "/cimi/Volume/v", "initialLocation": "/dev/vdc"}],
                "volumeTemplates": [
                    {"volumeConfig": {"capacity": 5}, "initialLocation": "/dev/vdd"},
                    {"volumeTemplate": {"href": "VolumeTemplate/x"}}],
                "userData": "aGk=\n",
                "context": {"KEY": "VALUE\nline", "EMPTY": ""},
            }
        });
        let expected = json!({
            "name": "web",
            "machineTemplate": {
                "machineConfig": {"cpu": 2, "memory": 1572864, "cpuArch": "x86_64",
                                  "disks": [{"capacity": 1610613, "format": "swap"}]},
                "machineImage": {"href": "MachineImage/Abc_-1"},
                "credential": {"publicKey": "ssh-ed25519 AAAA"},
                "volumes": [{"volume": {"href": "Volume/v"}, "initialLocation": "/dev/vdc"}],
                "volumeTemplates": [
                    {"volumeTemplate": {"volumeConfig": {"capacity": 5}},
                     "initialLocation": "/dev/vdd"},
                    {"volumeTemplate": {"href": "VolumeTemplate/x"}}],
                "userData": "aGk=",
                "context": {"KEY": "VALUE\nline", "EMPTY": ""},
            }
        });
        let checked = check(Kind::Machine, &body);
        assert_eq!(checked.map(Value::Object), Ok(expected));
    }

    #[test]
    fn a_value_beside_a_reference_need_not_be_complete() {
        let body = json!({"machineTemplate": {
            "href": "MachineTemplate/small",
            "machineConfig": {"href": "MachineConfiguration/m1", "memory": 2048}}});
        assert!(check(Kind::Machine, &body).is_ok());
        let body = json!({"machineTemplate": {"machineConfig": {"memory": 2048}}});
        assert_eq!(
            problems(Kind::Machine, &body),
            ["`machineTemplate.machineConfig.cpu` is missing; a MachineConfiguration must have it"]
        );
    }

    #[test]
    fn each_violation_says_where_what_and_what_else() {
        for (kind, body, expected) in [
            (
                Kind::MachineConfiguration,
                json!({"cpu": "two", "memory": 1024, "cpu_arch": "x86_64", "colour": 1}),
                vec![
                    "`colour` is not an attribute of a MachineConfiguration",
                    "`cpu` must be a whole number, but is the text \"two\"",
                    "`cpu_arch` is not an attribute of a MachineConfiguration; did you mean `cpuArch`?",
                ],
            ),
            (
                Kind::MachineConfiguration,
                json!({"cpu": 0, "memory": 1.5, "disks": [{"capacity": -1}, {}, 3]}),
                vec![
                    "`cpu` must be at least 1, but is 0",
                    "`disks[0].capacity` must be at least 1, but is -1",
                    "`disks[1].capacity` is missing; each of `disks` must have it",
                    "`disks[2]` must be an object, but is the number 3",
                    "`memory` must be a whole number, but is the number 1.5",
                ],
            ),
            (
                Kind::Volume,
                json!({"capacity": 5}),
                vec![
                    "`capacity` is not an attribute of a VolumeCreate",
                    "`volumeTemplate` is missing; a VolumeCreate must have it",
                ],
            ),
            (
                Kind::Machine,
                json!({"machineTemplate": {"volumes": null, "created": "whenever"}}),
                vec![
                    "`machineTemplate` is empty; give {\"href\": \"MachineTemplate/…\"} or the \
                     attributes of a MachineTemplate",
                ],
            ),
            (
                Kind::Machine,
                json!({"machineTemplate": {}}),
                vec![
                    "`machineTemplate` is empty; give {\"href\": \"MachineTemplate/…\"} or the \
                     attributes of a MachineTemplate",
                ],
            ),
            (
                Kind::Machine,
                json!({"machineTemplate": {"machineImage": {"href": "Volume"},
                       "initialState": "ASLEEP", "userData": "!"}}),
                vec![
                    "`machineTemplate.initialState` must be one of STARTED, STOPPED, PAUSED, but is \
                     the text \"ASLEEP\"",
                    "`machineTemplate.machineImage` refers to `Volume`, which is no resource of \
                     this cloud",
                    "`machineTemplate.userData` is not base64",
                ],
            ),
            (
                Kind::Credential,
                json!({"publicKey": 5, "name": "a\nb", "properties": {"a": 1}}),
                vec![
                    "`name` must be one line of printable text, but has the control character \
                     U+000A",
                    "`properties.a` must be a text, but is the number 1",
                    "`publicKey` must be a text, but is the number 5",
                ],
            ),
            (
                Kind::Job,
                json!({}),
                vec!["a Job is not created by request"],
            ),
            (
                Kind::User,
                json!([1]),
                vec!["must be an object, but is an array"],
            ),
        ] {
            assert_eq!(problems(kind, &body), expected);
        }
        let wrong_uri = json!({"resourceURI": "http://schemas.dmtf.org/cimi/1/VolumeCreate",
                               "publicKey": "k"});
        assert!(problems(Kind::Credential, &wrong_uri)[0].contains("here a"));
    }

    #[test]
    fn wrapped_creations_are_taken_apart() {
        let body = json!({"name": "mine", "credentialTemplate": {"name": "x", "publicKey": "k"}});
        let expected =
            json!({"name": "mine", "credentialTemplate": {"name": "x", "publicKey": "k"}});
        assert_eq!(
            check(Kind::Credential, &body).map(Value::Object),
            Ok(expected)
        );
        let body = json!({"name": "mine", "volumeImageTemplate": {"imageLocation": "Volume/a"}});
        let expected = json!({"name": "mine", "imageLocation": {"href": "Volume/a"}});
        assert_eq!(
            check(Kind::VolumeImage, &body).map(Value::Object),
            Ok(expected)
        );
    }

    #[test]
    fn actions_must_agree_with_their_url() {
        let body = json!({"resourceURI": "http://schemas.dmtf.org/cimi/1/Action",
                          "action": "http://http://schemas.dmtf.org/cimi/1/Action/Stop",
                          "force": "true"});
        assert_eq!(
            check_action("stop", &body).map(Value::Object),
            Ok(json!({"force": true}))
        );
        assert!(check_action("start", &body).is_err());
        assert_eq!(check_action("start", &Value::Null), Ok(Map::new()));
        assert!(check_action("start", &json!({"speed": 3})).is_err());
    }

    fn anything() -> impl Strategy<Value = Value> {
        let names = prop_oneof![
            Just("machineTemplate".to_owned()),
            Just("machineConfig".to_owned()),
            Just("href".to_owned()),
            Just("volumes".to_owned()),
            Just("properties".to_owned()),
            Just("acl".to_owned()),
            "[a-z]{0,6}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn anything_is_answered_and_normal_forms_are_stable(body in anything()) {
            for kind in Kind::ALL {
                if let Ok(normal) = check(*kind, &body) {
                    let again = check(*kind, &Value::Object(normal.clone()));
                    prop_assert_eq!(again, Ok(normal));
                }
            }
        }
    }
}

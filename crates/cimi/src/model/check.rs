//! Checking of what comes in: known attributes, right kinds, bounded size, in one normal form.
//!
//! The normal form: numbers and booleans as such, references as `{"href": "Type/id"}`, flattened
//! members nested, names as the table spells them; nothing that only the provider writes, no empty
//! texts, maps and arrays.

use serde_json::{Map, Value};

use super::{
    Access, Attribute, COMMON, Creation, Kind, Limit, Shape, Type, Violation, describe,
    reference::{kind_of, relative},
    scalar::{self, found},
};

/// No more violations than these are told.
const VIOLATIONS_AT_MOST: usize = 20;
/// Members of one array, entries of one map.
const ENTRIES_AT_MOST: usize = 256;
/// Bytes of a map's key.
const KEY_AT_MOST: usize = 255;
/// Nesting of objects that are not looked into.
const DEPTH_AT_MOST: usize = 12;

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
    const FIELDS: &[Attribute] = &[
        Attribute::new("action", Shape::Uri),
        Attribute::new("force", Shape::Boolean),
        Attribute::new("properties", Shape::Map).limit(Limit::Text(4096)),
        Attribute::new("image", Shape::Uri),
        Attribute::new("format", Shape::String),
        Attribute::new("destination", Shape::Uri),
    ];
    let mut checker = Checker::default();
    let mut result = match body {
        Value::Null => Map::new(),
        Value::Object(object) => {
            let object = without(object, &["resourceURI", "name", "description"]);
            checker.members("Action", FIELDS, &object, "", true)
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
            Creation::Template {
                member,
                kind,
                beside,
            } => {
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
        }
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

    /// The attributes of a resource; `complete` if the required ones must be there.
    fn resource(
        &mut self,
        described: &Type,
        object: &Map<String, Value>,
        path: &str,
        complete: bool,
    ) -> Map<String, Value> {
        let fields: Vec<Attribute> = COMMON.iter().chain(described.attributes).copied().collect();
        self.members(&one(described.kind), &fields, object, path, complete)
    }

    /// The members of a structure called `what`.
    fn members(
        &mut self,
        what: &str,
        fields: &[Attribute],
        object: &Map<String, Value>,
        path: &str,
        complete: bool,
    ) -> Map<String, Value> {
        let mut result = Map::new();
        for (name, value) in object {
            let at = join(path, name);
            let Some(field) = fields.iter().find(|field| field.is_called(name)) else {
                self.complain(&at, unknown(what, fields, name));
                continue;
            };
            if field.access == Access::ReadOnly {
                continue;
            }
            if let Some(value) = self.value(field, &field.shape, value, &at) {
                result.insert(field.name.to_owned(), value);
            }
        }
        if complete {
            for field in fields {
                let complained = |violation: &Violation| violation.path == join(path, field.name);
                if field.required
                    && !result.contains_key(field.name)
                    && !self.violations.iter().any(complained)
                {
                    self.complain(
                        &join(path, field.name),
                        format!("is missing; {what} must have it"),
                    );
                }
            }
        }
        result
    }

    /// One value; `None` if there is none, or it is wrong.
    pub(super) fn value(
        &mut self,
        attribute: &Attribute,
        shape: &Shape,
        value: &Value,
        path: &str,
    ) -> Option<Value> {
        if value.is_null() {
            return None;
        }
        match shape {
            Shape::Ref(kinds) => self.reference(kinds, value, path),
            Shape::RefOrValue(kind) => self.reference_or_value(*kind, value, path),
            Shape::Map => self.map(attribute.limit, value, path),
            Shape::Object => self.object(value, path),
            Shape::Struct(fields) => self.structure(attribute.name, fields, value, path),
            Shape::Flattened(fields, member) => {
                let value = nested(fields, member, value);
                self.structure(attribute.name, fields, &value, path)
            }
            Shape::Array(inner) => self.array(attribute, inner, value, path),
            Shape::Collection(_) => None,
            single => match scalar::normalise(attribute, single, value) {
                Ok(value) => value,
                Err(problem) => {
                    self.complain(path, problem);
                    None
                }
            },
        }
    }

    fn reference(&mut self, kinds: &[Kind], value: &Value, path: &str) -> Option<Value> {
        let href = match value {
            Value::String(href) => href,
            Value::Object(object) => match object.get("href") {
                Some(Value::String(href)) => href,
                _ => {
                    self.complain(path, "must be a reference: {\"href\": \"…\"}");
                    return None;
                }
            },
            other => {
                self.complain(
                    path,
                    format!(
                        "must be a reference: {{\"href\": \"…\"}}, but is {}",
                        found(other)
                    ),
                );
                return None;
            }
        };
        self.href(kinds, href, path)
            .map(|href| serde_json::json!({ "href": href }))
    }

    fn href(&mut self, kinds: &[Kind], href: &str, path: &str) -> Option<String> {
        let shown: String = href.chars().take(200).collect();
        let Some(reference) = relative(href) else {
            self.complain(
                path,
                format!("refers to `{shown}`, which is no resource of this cloud"),
            );
            return None;
        };
        if !kinds.is_empty() && !kind_of(reference).is_some_and(|kind| kinds.contains(&kind)) {
            let names: Vec<_> = kinds.iter().map(|kind| one(*kind)).collect();
            self.complain(
                path,
                format!("must refer to {}, not to `{shown}`", names.join(" or ")),
            );
            return None;
        }
        Some(reference.to_owned())
    }

    fn reference_or_value(&mut self, kind: Kind, value: &Value, path: &str) -> Option<Value> {
        let object = match value {
            Value::Object(object) if object.is_empty() => {
                self.complain(
                    path,
                    format!(
                        "is empty; give {{\"href\": \"{kind}/…\"}} or the attributes of a {kind}"
                    ),
                );
                return None;
            }
            Value::Object(object) => object,
            _ => return self.reference(&[kind], value, path),
        };
        if !object.contains_key("href") {
            let complete = !self.beside_reference;
            return Some(Value::Object(self.resource(
                describe(kind),
                object,
                path,
                complete,
            )));
        }
        let reference = self.reference(&[kind], value, path);
        let attributes = without(object, &["href"]);
        let outer = std::mem::replace(&mut self.beside_reference, true);
        let mut result = self.resource(describe(kind), &attributes, path, false);
        self.beside_reference = outer;
        if let Some(Value::Object(reference)) = reference {
            result.extend(reference);
        }
        Some(Value::Object(result))
    }

    fn map(&mut self, limit: Limit, value: &Value, path: &str) -> Option<Value> {
        let Value::Object(object) = value else {
            self.complain(
                path,
                format!("must be an object of texts, but is {}", found(value)),
            );
            return None;
        };
        if object.len() > ENTRIES_AT_MOST {
            self.complain(
                path,
                format!(
                    "has {} entries, at most {ENTRIES_AT_MOST} are allowed",
                    object.len()
                ),
            );
            return None;
        }
        let mut result = Map::new();
        for (key, value) in object {
            let at = join(path, key);
            if key.is_empty() || key.len() > KEY_AT_MOST || key.contains('\0') {
                self.complain(
                    &at,
                    format!("is not a key: it needs 1 to {KEY_AT_MOST} bytes"),
                );
                continue;
            }
            match scalar::text(value, limit) {
                // Kept verbatim, blank or not: the map is the user's own.
                Ok(_) => {
                    result.insert(key.clone(), value.clone());
                }
                Err(problem) => self.complain(&at, problem),
            }
        }
        (!result.is_empty()).then_some(Value::Object(result))
    }

    fn object(&mut self, value: &Value, path: &str) -> Option<Value> {
        if depth(value) > DEPTH_AT_MOST {
            self.complain(path, format!("is nested deeper than {DEPTH_AT_MOST}"));
            return None;
        }
        Some(value.clone())
    }

    fn structure(
        &mut self,
        name: &str,
        fields: &[Attribute],
        value: &Value,
        path: &str,
    ) -> Option<Value> {
        let Value::Object(object) = value else {
            self.complain(path, format!("must be an object, but is {}", found(value)));
            return None;
        };
        let result = self.members(&format!("each of `{name}`"), fields, object, path, true);
        (!result.is_empty()).then_some(Value::Object(result))
    }

    fn array(
        &mut self,
        attribute: &Attribute,
        inner: &Shape,
        value: &Value,
        path: &str,
    ) -> Option<Value> {
        let Value::Array(members) = value else {
            self.complain(path, format!("must be an array, but is {}", found(value)));
            return None;
        };
        if members.len() > ENTRIES_AT_MOST {
            self.complain(
                path,
                format!(
                    "has {} members, at most {ENTRIES_AT_MOST} are allowed",
                    members.len()
                ),
            );
            return None;
        }
        let mut result = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            result.extend(self.value(attribute, inner, member, &format!("{path}[{index}]")));
        }
        (!result.is_empty()).then_some(Value::Array(result))
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

/// `{"href": …, "initialLocation": …}` as `{"volume": {"href": …}, "initialLocation": …}`.
fn nested(fields: &[Attribute], member: &str, value: &Value) -> Value {
    let Value::Object(object) = value else {
        return value.clone();
    };
    if object.contains_key(member) {
        return value.clone();
    }
    let (beside, inside): (Map<_, _>, Map<_, _>) = object
        .clone()
        .into_iter()
        .partition(|(name, _)| fields.iter().any(|field| field.is_called(name)));
    let mut result = beside;
    if !inside.is_empty() {
        result.insert(member.to_owned(), Value::Object(inside));
    }
    Value::Object(result)
}

/// `a Machine`, `an Address`
pub(super) fn one(kind: Kind) -> String {
    let article = match kind.name().bytes().next() {
        Some(b'A' | b'E' | b'I' | b'O') => "an",
        _ => "a",
    };
    format!("{article} {kind}")
}

pub(super) fn join(path: &str, name: &str) -> String {
    // A name may be anything at all when it is not known: shown in part.
    let name: String = name.chars().take(100).collect();
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

pub(super) fn unknown(what: &str, fields: &[Attribute], name: &str) -> String {
    let close =
        |field: &&Attribute| field.access != Access::ReadOnly && alike(field.name) == alike(name);
    match fields.iter().find(close) {
        Some(field) => format!(
            "is not an attribute of {what}; did you mean `{}`?",
            field.name
        ),
        None => format!("is not an attribute of {what}"),
    }
}

/// Letters only, so that `CPU_arch`, `cpu-arch` and `cpuArch` are alike, and plurals too.
fn alike(name: &str) -> String {
    let mut letters: String = name
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    if letters.ends_with('s') {
        letters.pop();
    }
    letters
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(members) => 1 + members.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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
                json!({"machineTemplate": {}}),
                vec![
                    "`machineTemplate` is empty; give {\"href\": \"MachineTemplate/…\"} or the \
                     attributes of a MachineTemplate",
                ],
            ),
            (
                Kind::Machine,
                json!({"machineTemplate": {"machineImage": {"href": "Volume"},
                       "initialState": "PAUSED", "userData": "!"}}),
                vec![
                    "`machineTemplate.initialState` must be one of STARTED, STOPPED, but is the \
                     text \"PAUSED\"",
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
        let expected = json!({"name": "mine", "publicKey": "k"});
        assert_eq!(
            check(Kind::Credential, &body).map(Value::Object),
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

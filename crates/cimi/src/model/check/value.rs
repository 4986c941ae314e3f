//! One value against the shape that the table gives it, and what is within it.

use serde_json::{Map, Value};

use super::{
    Checker,
    wording::{join, one, unknown},
};
use crate::model::{
    Access, Attribute, COMMON, COMPONENTS, Kind, Limit, Shape, Type, Violation, describe, further,
    reference::{kind_of, relative},
    render::is_empty,
    scalar::{self, found},
};

/// Members of one array, entries of one map.
const ENTRIES_AT_MOST: usize = 256;
/// Bytes of a map's key.
const KEY_AT_MOST: usize = 255;

impl Checker {
    /// The attributes of a resource; `complete` if the required ones must be there.
    pub(super) fn resource(
        &mut self,
        described: &Type,
        object: &Map<String, Value>,
        path: &str,
        complete: bool,
    ) -> Map<String, Value> {
        let fields: Vec<Attribute> = COMMON.iter().chain(described.attributes).copied().collect();
        let kind = described.kind;
        if !described.is_open {
            return self.members(&one(kind), &fields, object, path, complete);
        }
        let unfolded = further::unfolded(kind, object);
        let mut known = unfolded.as_ref().unwrap_or(object).clone();
        let others: Vec<String> = further::of(kind, &known)
            .map(|(name, _)| name.clone())
            .collect();
        let others: Vec<_> = others
            .iter()
            .filter_map(|name| known.remove_entry(name))
            .collect();
        let mut result = self.members(&one(kind), &fields, &known, path, complete);
        for (name, value) in others {
            if !is_empty(&value) && further::is_kept(self, &name, &value) {
                result.insert(name, value);
            }
        }
        result
    }

    /// The members of a structure called `what`.
    pub(super) fn members(
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
    pub(in crate::model) fn value(
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
        if self.among_components
            && let Some(name) = href.strip_prefix('#')
            && !name.is_empty()
            && name.len() <= KEY_AT_MOST
        {
            return Some(href.to_owned());
        }
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
        let empty =
            || format!("is empty; give {{\"href\": \"{kind}/…\"}} or the attributes of a {kind}");
        // A group of no networks yet is one; of the others nothing says what is wanted.
        let may_be_empty = kind == Kind::ForwardingGroupTemplate;
        let object = match value {
            Value::Object(object) if object.is_empty() && !may_be_empty => {
                self.complain(path, empty());
                return None;
            }
            Value::Object(object) => object,
            _ => return self.reference(&[kind], value, path),
        };
        if !object.contains_key("href") {
            let (complete, before) = (!self.beside_reference, self.count());
            let result = self.resource(describe(kind), object, path, complete);
            // Of nothing but nulls and what isn't the client's to say.
            if result.is_empty() && !may_be_empty && self.count() == before {
                self.complain(path, empty());
            }
            return Some(Value::Object(result));
        }
        let reference = self.reference(&[kind], value, path);
        let attributes = super::without(object, &["href"]);
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
            if key.is_empty() || key.len() > KEY_AT_MOST || !key.chars().all(scalar::is_character) {
                self.complain(
                    &at,
                    format!("is not a key: it needs 1 to {KEY_AT_MOST} bytes, none of them a control character"),
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
        let outer = self.among_components;
        self.among_components |= attribute.name == COMPONENTS;
        for (index, member) in members.iter().enumerate() {
            result.extend(self.value(attribute, inner, member, &format!("{path}[{index}]")));
        }
        self.among_components = outer;
        (!result.is_empty()).then_some(Value::Array(result))
    }
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

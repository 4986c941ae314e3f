//! What a host says of a document of which only a part is its own: the rest is put in by the entry, whatever the host knows of it.
//!
//! A host of an older version leaves out what it doesn't know, and makes of what it knows a state by its own rules; that
//! erases nothing. What it says to be otherwise than it is, it wasn't to say.

use cimi::resources::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use store::Key;

use crate::rules;

/// A document as a host sends it.
pub(crate) struct Said<R> {
    /// As this version understands it.
    pub(crate) document: R,
    sent: Value,
}

impl<R: Resource + DeserializeOwned> Said<R> {
    pub(crate) fn read(key: &Key, value: &[u8]) -> Result<Self, String> {
        let sent: Value = rules::read(key, value)?;
        let document = serde_json::from_value(sent.clone());
        let document = document.map_err(|error| format!("{key} can't be read: {error}"))?;
        Ok(Self { document, sent })
    }

    /// What is written of it: `allowed`, which is what is there with the host's part of what it says; none if it says anything
    /// else. What follows from the rest, by these names, it may say as it likes.
    pub(crate) fn written(&self, allowed: &R, derived: &[&str]) -> Option<Vec<u8>> {
        let whole = serde_json::to_value(allowed).ok()?;
        let says = |(name, one): (&String, &Value)| {
            derived.contains(&name.as_str())
                || whole.get(name).is_some_and(|other| is_part(one, other))
        };
        let agrees = self.sent.as_object()?.iter().all(says);
        agrees.then(|| serde_json::to_vec(allowed).ok()).flatten()
    }
}

/// Whether all that is in `one` is so in `whole`.
fn is_part(one: &Value, whole: &Value) -> bool {
    match (one, whole) {
        (Value::Object(one), Value::Object(whole)) => one.iter().all(|(name, one)| {
            let other = whole.get(name);
            other.is_some_and(|other| is_part(one, other))
        }),
        (Value::Array(one), Value::Array(whole)) => {
            one.len() == whole.len()
                && one
                    .iter()
                    .zip(whole)
                    .all(|(one, other)| is_part(one, other))
        }
        _ => one == whole,
    }
}

//! What an edit changes.

use std::collections::BTreeMap;

use serde_json::Value;

/// Attribute names with their new value; `None` removes the attribute. Only attributes that a
/// consumer may write, with checked values. What is not named stays.
pub type Changes = BTreeMap<&'static str, Option<Value>>;

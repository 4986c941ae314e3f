//! The words of violations: how types and places are called, and what was probably meant.

use crate::model::{Access, Attribute, Kind};

/// `a Machine`, `an Address`
pub(in crate::model) fn one(kind: Kind) -> String {
    let article = match kind.name().bytes().next() {
        Some(b'A' | b'E' | b'I' | b'O') => "an",
        _ => "a",
    };
    format!("{article} {kind}")
}

pub(in crate::model) fn join(path: &str, name: &str) -> String {
    // A name may be anything at all when it is not known: shown in part.
    let name: String = name.chars().take(100).collect();
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

pub(in crate::model) fn unknown(what: &str, fields: &[Attribute], name: &str) -> String {
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

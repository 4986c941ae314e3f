//! Which keys there are: a typing error must not silently leave a default in force.

use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError, MachineType, NetworkEntry};

/// Keys that may be left out and have no default value to be seen in the defaults.
const OPTIONAL: [&str; 7] = [
    "subnet6",
    "bridge",
    "gateway",
    "first",
    "last",
    "name_servers",
    "mtu",
];

/// Refuses keys that don't exist. What exists follows from the defaults.
pub(super) fn check(given: &Table, path: &Path) -> Result<(), ConfigError> {
    let Ok(known) = Table::try_from(Config::default()) else {
        // The other parser refuses unknown keys, too, if less helpfully.
        return Ok(());
    };
    unknown(given, &known, "").map_or(Ok(()), |(key, nearest)| {
        Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            key,
            nearest,
        })
    })
}

/// The first key of `given` that is not in `known`, and what may have been meant.
fn unknown(given: &Table, known: &Table, within: &str) -> Option<(String, Option<String>)> {
    given.iter().find_map(|(name, value)| {
        let key = format!("{within}{name}");
        let Some(like) = known.get(name) else {
            return Some((key, nearest(name, known.keys())));
        };
        let (Value::Table(value), Value::Table(like)) = (value, like) else {
            return None;
        };
        if within.is_empty() && (name == "networks" || name == "machine_types") {
            return unknown_in_named(value, name);
        }
        unknown(value, like, &format!("{key}."))
    })
}

/// The same within tables whose names are the operator's.
fn unknown_in_named(given: &Table, what: &str) -> Option<(String, Option<String>)> {
    let defaults = Config::default();
    let mut known = if what == "networks" {
        defaults
            .networks
            .values()
            .next()
            .and_then(|network: &NetworkEntry| Table::try_from(network).ok())?
    } else {
        defaults
            .machine_types
            .values()
            .next()
            .and_then(|kind: &MachineType| Table::try_from(kind).ok())?
    };
    if what == "networks" {
        known.extend(OPTIONAL.map(|name| (name.to_owned(), Value::Boolean(true))));
    }
    given.iter().find_map(|(name, value)| match value {
        Value::Table(value) => unknown(value, &known, &format!("{what}.{name}.")),
        _ => None,
    })
}

/// The candidate that is spelled most like `name`, if any is near enough to be meant.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> Option<String> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 2)
        .min()
        .map(|(_, candidate)| candidate.clone())
}

/// How many letters have to be changed, added or removed to make one text of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((y, &above), &diagonal) in b.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or(0);
            next.push(
                (diagonal + usize::from(x != *y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        for (a, b, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("listen", "listne", 2),
            ("port", "ports", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}

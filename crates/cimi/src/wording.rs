//! What readers of JSON and TOML say of a value, in the words of who wrote it: nobody outside knows a `usize`.

/// Types of ours as readers name them, and what they are.
const TYPES: [(&str, &str); 9] = [
    ("usize", "a whole number that is not negative"),
    ("u64", "a whole number that is not negative"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u16", "a whole number from 0 to 65535"),
    ("u8", "a whole number from 0 to 255"),
    ("i64", "a whole number"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("f64", "a number"),
    ("f32", "a number"),
];
const BEFORE: &str = "expected ";

/// The same message, with `expected usize` and the like said plainly.
#[must_use]
pub fn plainly(message: &str) -> String {
    let mut parts = message.split(BEFORE);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(BEFORE);
        let end = part
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(part.len());
        let (word, rest) = part.split_at(end);
        let known = TYPES.iter().find(|(name, _)| *name == word);
        plain.push_str(known.map_or(word, |(_, words)| words));
        plain.push_str(rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Numbers {
        #[serde(rename = "many")]
        _many: usize,
        #[serde(rename = "port")]
        _port: u16,
    }

    #[test]
    fn no_type_of_ours_is_named() {
        for (text, told) in [
            (
                r#"{"many": -1, "port": 1}"#,
                "invalid value: integer `-1`, expected a whole number that is not negative",
            ),
            (
                r#"{"many": 1, "port": "x"}"#,
                "invalid type: string \"x\", expected a whole number from 0 to 65535 at line 1",
            ),
        ] {
            let error = serde_json::from_str::<Numbers>(text).unwrap_err();
            let plain = plainly(&error.to_string());
            assert!(plain.starts_with(told), "{plain}");
        }
        for other in ["expected", "expected a string", "was expected u", ""] {
            assert_eq!(plainly(other), other);
        }
    }
}

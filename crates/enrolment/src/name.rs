//! Names of entries (RFC 4514), made of what people chose.

use std::fmt::Write as _;

/// `attribute=value,base`, whatever the value holds.
pub(crate) fn below(base: &str, attribute: &str, value: &str) -> String {
    let mut name = format!("{attribute}=");
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            ' ' if at == 0 || at == last => name.push_str("\\ "),
            '#' if at == 0 => name.push_str("\\#"),
            '"' | '+' | ',' | ';' | '<' | '=' | '>' | '\\' => {
                name.push('\\');
                name.push(character);
            }
            // Bytes as two digits each.
            character if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(name, "\\{byte:02x}");
                }
            }
            character => name.push(character),
        }
    }
    name.push(',');
    name.push_str(base);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        for (value, name) in [
            ("alice", "uid=alice,o=c"),
            ("a,ou=b", "uid=a\\,ou\\=b,o=c"),
            (" a b ", "uid=\\ a b\\ ,o=c"),
            (" ", "uid=\\ ,o=c"),
            ("#1", "uid=\\#1,o=c"),
            ("a\\b\0", "uid=a\\\\b\\00,o=c"),
            ("Zoë", "uid=Zoë,o=c"),
        ] {
            assert_eq!(below("o=c", "uid", value), name);
        }
    }
}

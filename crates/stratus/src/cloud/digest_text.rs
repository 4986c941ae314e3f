//! Digests and identifiers as text.

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the text has the form of an image's identifier.
#[must_use]
pub fn is_image_identifier(text: &str) -> bool {
    text.len() == 27
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Whether the text can follow the slash of an id, such as the name of a user or a group: nothing in it has another meaning in a URL.
#[must_use]
pub fn is_local_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@:+=,~".contains(&byte);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
}

/// Whether the text is a UUID in its usual form, in either case.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_their_form() {
        assert!(is_image_identifier(&"A".repeat(27)));
        assert!(!is_image_identifier("short") && !is_image_identifier(&"é".repeat(14)));
        assert!(
            is_uuid("08f59022-463a-4662-8136-c0cee5517f17")
                && !is_uuid("08f59022463a46628136c0cee5517f17")
        );
    }
}

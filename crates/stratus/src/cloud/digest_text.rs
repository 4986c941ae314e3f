//! Digests and identifiers as text.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 27-character identifier of an image: URL-safe base64 of a zero byte and the SHA-1, without the first character.
#[must_use]
pub fn image_identifier(sha1: &[u8; 20]) -> String {
    let mut bytes = vec![0];
    bytes.extend_from_slice(sha1);
    URL_SAFE_NO_PAD.encode(bytes).split_off(1)
}

/// Whether the text has the form of an image's identifier.
#[must_use]
pub fn is_image_identifier(text: &str) -> bool {
    text.len() == 27
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
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
    fn the_identifier_is_the_sha1_in_27_characters() {
        assert_eq!(image_identifier(&[0; 20]), "A".repeat(27));
        assert_eq!(
            image_identifier(&[0xff; 20]),
            format!("P{}", "_".repeat(26))
        );
        assert!(is_image_identifier(&image_identifier(&[7; 20])));
        assert!(!is_image_identifier("short") && !is_image_identifier(&"é".repeat(14)));
        assert!(
            is_uuid("08f59022-463a-4662-8136-c0cee5517f17")
                && !is_uuid("08f59022463a46628136c0cee5517f17")
        );
    }
}

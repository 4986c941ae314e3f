//! Strings in POSIX shell that no value can break out of.

/// `text` in single quotes, as it is, line breaks included. A quote in it is written `'\''`.
pub(crate) fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

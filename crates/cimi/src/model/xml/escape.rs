//! Texts in XML.

use super::super::scalar::is_character;

/// Appends a text as the content of an element. Blanks at both ends are written as references, so
/// that a reader that trims keeps them. Characters that XML hasn't become U+FFFD.
pub fn escape_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let last = bytes.len().saturating_sub(1);
    escape(text, out, |at, byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\r' => Some("&#13;"),
        b' ' if at == 0 || at == last => Some("&#32;"),
        b'\t' if at == 0 || at == last => Some("&#9;"),
        b'\n' if at == 0 || at == last => Some("&#10;"),
        _ => None,
    });
}

/// Appends a text as the value of an attribute in double quotes. Characters that XML hasn't become
/// U+FFFD.
pub fn escape_attribute(text: &str, out: &mut Vec<u8>) {
    escape(text, out, |_, byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'"' => Some("&quot;"),
        b'\t' => Some("&#9;"),
        b'\n' => Some("&#10;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
}

fn escape(text: &str, out: &mut Vec<u8>, reference: impl Fn(usize, u8) -> Option<&'static str>) {
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let (instead, length) = if let Some(instead) = reference(at, byte) {
            (instead, 1)
        } else if byte < b' ' && !is_character(char::from(byte)) {
            ("\u{fffd}", 1)
        } else if matches!(bytes.get(at..at + 3), Some([0xef, 0xbf, 0xbe | 0xbf])) {
            ("\u{fffd}", 3)
        } else {
            continue;
        };
        out.extend_from_slice(bytes.get(written..at).unwrap_or_default());
        out.extend_from_slice(instead.as_bytes());
        written = at + length;
    }
    out.extend_from_slice(bytes.get(written..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_xml_is_written_otherwise() {
        let text = |text: &str| {
            let mut out = Vec::new();
            escape_text(text, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text("a <b> & 'c' \"d\" ]]>"),
            "a &lt;b&gt; &amp; 'c' \"d\" ]]&gt;"
        );
        assert_eq!(text(" a\tb\n"), "&#32;a\tb&#10;");
        assert_eq!(text(" "), "&#32;");
        assert_eq!(
            text("ü\u{1}\u{ffff}\u{fffd}x\r"),
            "ü\u{fffd}\u{fffd}\u{fffd}x&#13;"
        );
        let mut out = Vec::new();
        escape_attribute("a\"b<c>\n&", &mut out);
        assert_eq!(out, b"a&quot;b&lt;c>&#10;&amp;");
    }
}

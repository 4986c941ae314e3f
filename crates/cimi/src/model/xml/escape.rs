//! Texts in XML.

use super::super::scalar::is_character;

/// Appends a text as the content of an element. Blanks at both ends are written as references, so
/// that a reader that trims keeps them. Characters that XML hasn't become U+FFFD.
pub fn escape_text(text: &str, out: &mut Vec<u8>) {
    let mut bytes = text.as_bytes();
    if let [first, rest @ ..] = bytes
        && let Some(reference) = blank(*first)
    {
        out.extend_from_slice(reference);
        bytes = rest;
    }
    let last = match bytes {
        [rest @ .., last] => blank(*last).inspect(|_| bytes = rest),
        [] => None,
    };
    escape(bytes, out, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
    out.extend_from_slice(last.unwrap_or_default());
}

/// A blank that a reader may trim, so that it doesn't.
fn blank(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b' ' => Some(b"&#32;"),
        b'\t' => Some(b"&#9;"),
        b'\n' => Some(b"&#10;"),
        _ => None,
    }
}

/// Appends a text as the value of an attribute in double quotes. Characters that XML hasn't become
/// U+FFFD.
pub fn escape_attribute(text: &str, out: &mut Vec<u8>) {
    escape(text.as_bytes(), out, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'"' => Some("&quot;"),
        b'\t' => Some("&#9;"),
        b'\n' => Some("&#10;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
}

/// Bytes that must be looked at closely: few texts have any.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'&' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'"' as usize] = true;
    // The first byte of U+FFFE and U+FFFF.
    special[0xef] = true;
    special
};

/// Appends UTF-8 with some bytes written otherwise.
fn escape(bytes: &[u8], out: &mut Vec<u8>, reference: impl Fn(u8) -> Option<&'static str>) {
    let is_special = |byte: &u8| {
        SPECIAL
            .get(usize::from(*byte))
            .is_some_and(|special| *special)
    };
    let mut written = 0;
    for (at, &byte) in bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| is_special(byte))
    {
        let (instead, length) = if let Some(instead) = reference(byte) {
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

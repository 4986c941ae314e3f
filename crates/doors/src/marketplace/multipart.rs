//! Files sent by forms (RFC 7578), as much of it as an upload needs.

use memchr::memmem;

/// Longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_AT_MOST: usize = 70;
/// Parts that are looked at.
const PARTS_AT_MOST: usize = 32;

/// The boundary that a `Content-Type` names, if it is that of a form.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';');
    let media = parts.next()?.trim();
    if !media.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parts.find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    })?;
    let value = value.trim_matches('"');
    (1..=BOUNDARY_AT_MOST)
        .contains(&value.len())
        .then(|| value.to_owned())
}

/// The content of the first part that has a file name.
pub(crate) fn first_file<'b>(body: &'b [u8], boundary: &str) -> Option<&'b [u8]> {
    let delimiter = format!("--{boundary}");
    let mut rest = body;
    let at = memmem::find(rest, delimiter.as_bytes())?;
    rest = rest.get(at + delimiter.len()..)?;
    // Between parts the delimiter has a line of its own.
    let delimiter = format!("\r\n{delimiter}");
    for _ in 0..PARTS_AT_MOST {
        rest = rest.strip_prefix(b"\r\n")?;
        let end = memmem::find(rest, delimiter.as_bytes())?;
        let part = rest.get(..end)?;
        rest = rest.get(end + delimiter.len()..)?;
        let head = memmem::find(part, b"\r\n\r\n")?;
        let (headers, content) = (part.get(..head)?, part.get(head + 4..)?);
        if has_file_name(headers) {
            return Some(content);
        }
    }
    None
}

fn has_file_name(headers: &[u8]) -> bool {
    String::from_utf8_lossy(headers).lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-disposition:")
            && (line.contains("filename=\"")
                || line.contains("filename*=")
                || line.contains("filename="))
            && !line.contains("filename=\"\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_taken_whatever_it_holds() {
        let body = b"preamble\r\n--x\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--x\r\n\
            Content-Disposition: form-data; name=\"Metadata File\"; filename=\"a.xml\"\r\nContent-Type: text/xml\r\n\r\n<a>\r\n--y</a>\r\n--x--\r\n";
        assert_eq!(
            boundary("multipart/form-data; boundary=x").as_deref(),
            Some("x")
        );
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"x\"").as_deref(),
            Some("x")
        );
        assert_eq!(first_file(body, "x"), Some(&b"<a>\r\n--y</a>"[..]));
        assert_eq!(boundary("application/xml"), None);
        assert_eq!(boundary("multipart/form-data"), None);
        for nothing in [
            &b""[..],
            b"--x",
            b"--x--",
            b"--x\r\nA: b\r\n\r\n",
            b"--x\r\n\r\n--x--",
        ] {
            assert_eq!(first_file(nothing, "x"), None);
        }
        // A form that was sent without choosing a file.
        let empty = b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\"\r\n\r\n\r\n--x--\r\n";
        assert_eq!(first_file(empty, "x"), None);
    }
}

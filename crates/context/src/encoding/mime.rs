//! MIME `multipart/mixed` as cloud-init reads it (RFC 2046).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One file of a multipart text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The subtype of `text/…`, such as `x-shellscript`.
    pub subtype: String,
    /// The file's name, without folders.
    pub file_name: String,
    /// What is in the file.
    pub content: Vec<u8>,
}

/// RFC 5322 §2.1.1: longer lines may be cut by whoever handles a 7bit part.
const LINE_MAX_BYTES: usize = 998;

/// Puts `parts` into one text; the same parts always give the same text.
///
/// A part of plain ASCII stands as it is (`7bit`, `us-ascii`), any other is encoded in base64; so is one with carriage returns,
/// which Python's reader drops.
#[must_use]
pub fn multipart(parts: &[Part]) -> Vec<u8> {
    let boundary = unused_boundary(parts);
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n")
            .into_bytes();
    for part in parts {
        let is_plain = is_seven_bit(&part.content);
        let (charset, encoding) = if is_plain {
            ("us-ascii", "7bit")
        } else {
            ("utf-8", "base64")
        };
        text.extend_from_slice(
            format!(
                "--{boundary}\nContent-Type: text/{}; charset=\"{charset}\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: {encoding}\n\
                 Content-Disposition: attachment; {}\n\n",
                part.subtype,
                file_name_parameter(&part.file_name)
            )
            .as_bytes(),
        );
        if is_plain {
            text.extend_from_slice(&part.content);
        } else {
            for line in STANDARD.encode(&part.content).as_bytes().chunks(76) {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
        text.push(b'\n');
    }
    text.extend_from_slice(format!("--{boundary}--\n").as_bytes());
    text
}

fn is_seven_bit(content: &[u8]) -> bool {
    content
        .iter()
        .all(|&byte| byte.is_ascii() && byte != 0 && byte != b'\r')
        && content
            .split(|&byte| byte == b'\n')
            .all(|line| line.len() <= LINE_MAX_BYTES)
}

/// A boundary that occurs in none of the parts, found by counting: there is always one, since contents are finite.
fn unused_boundary(parts: &[Part]) -> String {
    let mut number = 0_u32;
    loop {
        let boundary = format!("==============={number:010}==");
        let occurs = parts.iter().any(|part| {
            part.content
                .windows(boundary.len())
                .any(|window| window == boundary.as_bytes())
        });
        if !occurs {
            return boundary;
        }
        number += 1;
    }
}

/// `filename="…"`, or RFC 2231 for names that cannot stand between quotes.
fn file_name_parameter(file_name: &str) -> String {
    if file_name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        format!(
            "filename=\"{}\"",
            file_name.replace('\\', "\\\\").replace('"', "\\\"")
        )
    } else {
        let mut encoded = String::from("filename*=utf-8''");
        for byte in file_name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    }
}

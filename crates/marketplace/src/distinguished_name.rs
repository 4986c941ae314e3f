//! Names of certificates as text, in the form of RFC 2253 as Java writes it: endorsements hold these strings, and they are compared
//! exactly.
//!
//! The parts are in the reverse order of the certificate, joined by `,` without a space. Nine attribute types have keywords; every other one is its
//! dotted number, `=#` and the DER of its value in hexadecimal.

use x509_parser::der_parser::asn1_rs::{Tag, ToDer as _};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Attribute types with a keyword.
const KEYWORDS: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Types of values that are written as text.
const TEXTS: [Tag; 6] = [
    Tag::Utf8String,
    Tag::PrintableString,
    Tag::Ia5String,
    Tag::T61String,
    Tag::GeneralString,
    Tag::BmpString,
];

/// The name as text.
pub fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|relative| {
            let attributes: Vec<_> = relative.iter().map(attribute).collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    let keyword = KEYWORDS.iter().find(|(oid, _)| *oid == number);
    if let Some((_, keyword)) = keyword
        && TEXTS.contains(&value.tag())
    {
        return format!(
            "{keyword}={}",
            escaped(&String::from_utf8_lossy(value.data))
        );
    }
    let name = keyword.map_or(number.as_str(), |(_, keyword)| keyword);
    let mut text = format!("{name}=#");
    for byte in value.to_der_vec().unwrap_or_default() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn escaped(text: &str) -> String {
    let is_blank = |character: char| character == ' ' || character == '\r';
    let leading = text.chars().take_while(|one| is_blank(*one)).count();
    let trailing = text.chars().rev().take_while(|one| is_blank(*one)).count();
    let length = text.chars().count();
    let mut out = String::with_capacity(text.len());
    for (index, character) in text.chars().enumerate() {
        match character {
            '\0' => out.push_str("\\00"),
            _ if ",=+<>#;\"\\".contains(character) => {
                out.push('\\');
                out.push(character);
            }
            _ => {
                if index < leading || index >= length - trailing {
                    out.push('\\');
                }
                out.push(character);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escaped(" a, b "), "\\ a\\, b\\ ");
        assert_eq!(escaped("#x=y+<z>;\"\\"), "\\#x\\=y\\+\\<z\\>\\;\\\"\\\\");
        assert_eq!(escaped("  "), "\\ \\ ");
        assert_eq!(escaped("é"), "é");
    }
}

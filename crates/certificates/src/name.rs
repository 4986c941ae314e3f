//! Names in certificates.

use cimi::dn::DistinguishedName;
use x509_parser::{
    asn1_rs::{Tag, ToDer as _},
    certificate::X509Certificate,
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// A name as its parts. `None` of an empty one.
#[must_use]
pub fn name_of(name: &X509Name<'_>) -> Option<DistinguishedName> {
    DistinguishedName::of(
        name.iter_rdn()
            .map(|part| part.iter().map(attribute).collect::<Vec<_>>()),
    )
}

/// A name out of its DER form.
pub(crate) fn name_of_der(der: &[u8]) -> Option<DistinguishedName> {
    let (_, name) = X509Name::from_der(der).ok()?;
    name_of(&name)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> (String, String) {
    let value = attribute.attr_value();
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // In practice, what is called so is Latin-1.
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => utf16(value.data),
        _ => None,
    };
    let text = text.unwrap_or_else(|| {
        let der = value.to_der_vec().unwrap_or_default();
        let digits: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("#{digits}")
    });
    (attribute.attr_type().to_id_string(), text)
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks(2).map(|pair| match pair {
        [high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    });
    String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
}

/// Whose a certificate is, for messages.
pub(crate) fn who(certificate: &X509Certificate<'_>) -> String {
    shown(certificate.subject())
}

/// A name for messages.
pub(crate) fn shown(name: &X509Name<'_>) -> String {
    let text = name_of(name).map_or_else(|| "nobody".to_owned(), |name| name.to_string());
    text.chars().take(300).collect()
}

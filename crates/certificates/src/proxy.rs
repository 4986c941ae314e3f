//! Proxy certificates: signed not by an authority but by whom they stand for. RFC 3820, and what there was before it.

use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension};

use crate::{
    Refusal,
    der::{self, Elements},
    name::{name_of, who as who_is},
    signature::is_signed,
};

/// proxyCertInfo of RFC 3820.
const PROXY_CERT_INFO: &str = "1.3.6.1.5.5.7.1.14";
/// The same in the draft, as Globus Toolkit 3 wrote it.
const DRAFT_PROXY_CERT_INFO: &str = "1.3.6.1.4.1.3536.1.222";

const INHERIT_ALL: &str = "1.3.6.1.5.5.7.21.1";
const INDEPENDENT: &str = "1.3.6.1.5.5.7.21.2";
const LIMITED: &str = "1.3.6.1.4.1.3536.1.1.1.9";

/// Critical extensions that a proxy may have.
const KNOWN: [&str; 6] = [
    PROXY_CERT_INFO,
    DRAFT_PROXY_CERT_INFO,
    // Key usage, basic constraints, extended key usage.
    "2.5.29.15",
    "2.5.29.19",
    "2.5.29.37",
    // Authority key identifier: never critical where it is right.
    "2.5.29.35",
];

/// The ways that proxies have been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    Rfc3820,
    Draft,
    /// Without an extension: the last common name says it.
    Legacy,
}

/// What a proxy says of itself.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) generation: Generation,
    /// How many more proxies may follow it.
    pub(crate) path_length: Option<u32>,
    language: Language,
}

#[derive(Debug, PartialEq, Eq)]
enum Language {
    InheritAll,
    Independent,
    Limited,
    Other,
}

impl Proxy {
    pub(crate) const fn is_limited(&self) -> bool {
        matches!(self.language, Language::Limited)
    }
}

/// What kind of proxy a certificate is; `None`: none at all.
///
/// # Errors
/// If it says that it is one, and in a way that nobody can understand.
pub(crate) fn read(certificate: &X509Certificate<'_>) -> Result<Option<Proxy>, Refusal> {
    let who = || who_is(certificate);
    let mut infos = certificate.extensions().iter().filter_map(|extension| {
        match extension.oid.to_id_string().as_str() {
            PROXY_CERT_INFO => Some((Generation::Rfc3820, extension)),
            DRAFT_PROXY_CERT_INFO => Some((Generation::Draft, extension)),
            _ => None,
        }
    });
    let Some((generation, extension)) = infos.next() else {
        return Ok(legacy(certificate));
    };
    if infos.next().is_some() {
        return Err(Refusal::Proxy(who(), "it has proxyCertInfo twice"));
    }
    if generation == Generation::Rfc3820 && !extension.critical {
        return Err(Refusal::Proxy(who(), "proxyCertInfo is not critical"));
    }
    let wrong = || Refusal::Proxy(who(), "proxyCertInfo can't be read");
    let content = der::only(extension.value, der::SEQUENCE).ok_or_else(wrong)?;
    let (mut path_length, mut language) = (None, None);
    for element in Elements(content) {
        match element.tag {
            der::INTEGER => path_length = Some(der::number(element.content).ok_or_else(wrong)?),
            // The draft's way.
            tag if tag == der::context(1) => {
                let number = der::only(element.content, der::INTEGER).and_then(der::number);
                path_length = Some(number.ok_or_else(wrong)?);
            }
            der::SEQUENCE => language = Some(policy(element.content).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    let (language, has_policy) = language.ok_or_else(wrong)?;
    if has_policy && matches!(language, Language::InheritAll | Language::Independent) {
        return Err(Refusal::Proxy(
            who(),
            "it has a policy that its language doesn't allow",
        ));
    }
    Ok(Some(Proxy {
        generation,
        path_length,
        language,
    }))
}

/// The language of a policy, and whether there is a policy in it.
fn policy(content: &[u8]) -> Option<(Language, bool)> {
    let mut elements = Elements(content);
    let language = match der::oid(elements.next_if(der::OID)?.content)?.as_str() {
        INHERIT_ALL => Language::InheritAll,
        INDEPENDENT => Language::Independent,
        LIMITED => Language::Limited,
        _ => Language::Other,
    };
    let policy = elements.next_if(der::OCTET_STRING);
    elements
        .0
        .is_empty()
        .then_some((language, policy.is_some()))
}

/// A proxy of Globus Toolkit 2: its issuer's name and one of two more.
fn legacy(certificate: &X509Certificate<'_>) -> Option<Proxy> {
    let subject = name_of(certificate.subject())?;
    let (parent, added) = subject.parent()?;
    let language = match added {
        "proxy" => Language::InheritAll,
        "limited proxy" => Language::Limited,
        _ => return None,
    };
    let issuer = name_of(certificate.issuer())?;
    issuer.is_same(&parent).then_some(Proxy {
        generation: Generation::Legacy,
        path_length: None,
        language,
    })
}

/// Whether the rules between a proxy and who signed it hold.
///
/// # Errors
/// The rule that doesn't.
pub(crate) fn check(
    certificate: &X509Certificate<'_>,
    proxy: &Proxy,
    issuer: &X509Certificate<'_>,
) -> Result<(), Refusal> {
    let who = who_is(certificate);
    let wrong = |rule| Err(Refusal::Proxy(who.clone(), rule));
    if issuer.is_ca() {
        return wrong("it is signed by an authority");
    }
    if !is_signed(certificate, issuer.public_key()) {
        return Err(Refusal::Signature(who));
    }
    let names = name_of(certificate.subject()).zip(name_of(issuer.subject()));
    let is_named = names.is_some_and(|(own, issuer)| {
        own.parent()
            .is_some_and(|(parent, _)| parent.is_same(&issuer))
    });
    if !is_named {
        return wrong("its name is not its issuer's and one more common name");
    }
    if certificate.is_ca() {
        return wrong("it says that it is an authority");
    }
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::IssuerAlternativeName(_) => {
                return wrong("it has alternative names");
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() => {
                return wrong("its key is one to sign certificates of others");
            }
            _ if extension.critical && !KNOWN.contains(&oid.as_str()) => {
                return wrong("it has a critical extension that isn't known");
            }
            _ => {}
        }
    }
    if let Ok(Some(usage)) = issuer.key_usage()
        && !usage.value.digital_signature()
    {
        return wrong("the key of its issuer is not for signatures");
    }
    match proxy.language {
        Language::InheritAll | Language::Limited => Ok(()),
        Language::Independent => Err(Refusal::Powerless(
            who,
            "is independent: it carries none of its user's rights",
        )),
        Language::Other => Err(Refusal::Powerless(
            who,
            "restricts its user's rights in a language that this cloud doesn't understand",
        )),
    }
}

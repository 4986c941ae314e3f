//! What virtual organisations say of somebody: attribute certificates (RFC 5755, as VOMS makes them) inside proxies.
//!
//! The proxy has the extension [`EXTENSION`], a sequence of sequences of attribute certificates. One is believed if its
//! server is one of the organisation's (by an `.lsc` file: the names of the server's certificate and of its authority), its
//! signature is right, it is of this holder, and its time is now.

use cimi::dn::DistinguishedName;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use x509_parser::{
    asn1_rs::BitString, certificate::X509Certificate, prelude::FromDer as _, time::ASN1Time,
    x509::AlgorithmIdentifier,
};

use crate::{
    Authorities,
    chain::Chain,
    der::{self, Elements},
    holder::Attribute,
    name::{name_of, name_of_der, who},
    signature::is_signature,
};

/// Where they are in a proxy.
const EXTENSION: &str = "1.3.6.1.4.1.8005.100.100.5";
/// The attribute that has the FQANs.
const FQANS: &str = "1.3.6.1.4.1.8005.100.100.4";
/// The extension that has the certificates of the server.
const SERVER_CERTIFICATES: &str = "1.3.6.1.4.1.8005.100.100.10";
/// Authority key identifier, no revocation, targets: what VOMS writes beside.
const KNOWN: [&str; 5] = [
    SERVER_CERTIFICATES,
    "1.3.6.1.4.1.8005.100.100.11",
    "2.5.29.35",
    "2.5.29.56",
    "2.5.29.14",
];
/// Attribute certificates that are looked at.
const CERTIFICATES_AT_MOST: usize = 16;
/// FQANs of one of them.
const FQANS_AT_MOST: usize = 256;
/// Bytes of one.
const LENGTH_AT_MOST: usize = 255;

/// The servers of virtual organisations, as a folder like `/etc/grid-security/vomsdir` has them.
#[derive(Clone, Debug, Default)]
pub struct Servers(Vec<Server>);

#[derive(Clone, Debug)]
struct Server {
    organisation: String,
    /// The chain: the server's own name first, its authority's last.
    names: Vec<DistinguishedName>,
}

impl Servers {
    /// Adds `<organisation>/<host>.lsc`: the names of a chain, one a line, `/C=…` or RFC 2253.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn add(&mut self, organisation: &str, content: &str) -> Result<(), String> {
        let mut names = Vec::new();
        for line in content.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("---") {
                self.push(organisation, &mut names)?;
                continue;
            }
            let name =
                DistinguishedName::parse(line).ok_or_else(|| format!("`{line}` is no name"))?;
            names.push(name);
        }
        self.push(organisation, &mut names)
    }

    fn push(
        &mut self,
        organisation: &str,
        names: &mut Vec<DistinguishedName>,
    ) -> Result<(), String> {
        if names.len() < 2 {
            return Err("the names of the server's certificate and of its authority are expected, a line each".to_owned());
        }
        self.0.push(Server {
            organisation: organisation.to_owned(),
            names: std::mem::take(names),
        });
        Ok(())
    }

    /// The organisations of which there are any.
    pub fn organisations(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|server| server.organisation.as_str())
    }

    fn has(&self, organisation: &str, chain: &[DistinguishedName]) -> bool {
        self.0.iter().any(|server| {
            server.organisation == organisation
                && server.names.len() <= chain.len()
                && server.names.iter().zip(chain).all(|(a, b)| a.is_same(b))
        })
    }
}

/// What the proxies of a chain have, and what of it isn't believed.
pub(crate) fn attributes(
    chain: &Chain<'_>,
    authorities: &Authorities,
    servers: &Servers,
    now: UnixTime,
) -> (Vec<Attribute>, Vec<String>) {
    let (mut believed, mut not) = (Vec::new(), Vec::new());
    let extensions = chain.proxies.iter().flat_map(|proxy| proxy.extensions());
    let all = extensions
        .filter(|extension| extension.oid.to_id_string() == EXTENSION)
        .filter_map(|extension| der::only(extension.value, der::SEQUENCE));
    // Mostly a sequence of a sequence of them.
    let all = all.flat_map(|outer| {
        let mut inner = Elements(outer);
        let nested = Elements(outer).next_if(der::SEQUENCE).is_some_and(|first| {
            Elements(first.content)
                .next_if(der::SEQUENCE)
                .is_some_and(|deeper| Elements(deeper.content).next_if(der::SEQUENCE).is_some())
        });
        if nested && let Some(first) = inner.next_if(der::SEQUENCE) {
            return Elements(first.content).collect::<Vec<_>>();
        }
        Elements(outer).collect()
    });
    for element in all.take(CERTIFICATES_AT_MOST) {
        match read(element.whole)
            .ok_or("it can't be read".to_owned())
            .and_then(|read| {
                verify(&read, chain, authorities, servers, now)?;
                Ok(read)
            }) {
            Ok(read) => {
                for fqan in read.fqans {
                    let attribute = Attribute {
                        organisation: read.organisation.clone(),
                        fqan,
                    };
                    if !believed.contains(&attribute) {
                        believed.push(attribute);
                    }
                }
            }
            Err(problem) => not.push(problem),
        }
    }
    (believed, not)
}

/// An attribute certificate, as far as it counts.
struct Read<'a> {
    signed: &'a [u8],
    algorithm: AlgorithmIdentifier<'a>,
    signature: BitString<'a>,
    holder_issuer: DistinguishedName,
    holder_serial: &'a [u8],
    issuer: DistinguishedName,
    from: u64,
    until: u64,
    organisation: String,
    fqans: Vec<String>,
    server: Vec<CertificateDer<'a>>,
    has_unknown: bool,
}

fn read(whole: &[u8]) -> Option<Read<'_>> {
    let mut outer = Elements(der::only(whole, der::SEQUENCE)?);
    let info = outer.next_if(der::SEQUENCE)?;
    let (rest, algorithm) = AlgorithmIdentifier::from_der(outer.0).ok()?;
    let (rest, signature) = BitString::from_der(rest).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut info_elements = Elements(info.content);
    // v2: 1.
    let version = info_elements.next_if(der::INTEGER)?;
    if version.content != [1] {
        return None;
    }
    let holder = info_elements.next_if(der::SEQUENCE)?;
    let base = Elements(holder.content).next_if(der::context(0))?;
    let mut base = Elements(base.content);
    let holder_issuer = directory_name(base.next_if(der::SEQUENCE)?.content)?;
    let holder_serial = base.next_if(der::INTEGER)?.content;
    // [0] issuerName of v2Form.
    let issuer = info_elements.next_if(der::context(0))?;
    let issuer = directory_name(Elements(issuer.content).next_if(der::SEQUENCE)?.content)?;
    let _signature_algorithm = info_elements.next_if(der::SEQUENCE)?;
    let _serial = info_elements.next_if(der::INTEGER)?;
    let mut validity = Elements(info_elements.next_if(der::SEQUENCE)?.content);
    let (from, until) = (time(&mut validity)?, time(&mut validity)?);
    let attributes = info_elements.next_if(der::SEQUENCE)?;
    let (organisation, fqans) = fqans(attributes.content)?;
    // issuerUniqueID
    let _ = info_elements.next_if(der::BIT_STRING);
    let (mut server, mut has_unknown) = (Vec::new(), false);
    if let Some(extensions) = info_elements.next_if(der::SEQUENCE) {
        for extension in Elements(extensions.content) {
            let mut parts = Elements(extension.content);
            let oid = der::oid(parts.next_if(der::OID)?.content)?;
            let critical = parts
                .next_if(der::BOOLEAN)
                .is_some_and(|value| value.content != [0]);
            let value = parts.next_if(der::OCTET_STRING)?.content;
            has_unknown |= critical && !KNOWN.contains(&oid.as_str());
            if oid == SERVER_CERTIFICATES {
                server = certificates(value);
            }
        }
    }
    Some(Read {
        signed: info.whole,
        algorithm,
        signature,
        holder_issuer,
        holder_serial,
        issuer,
        from,
        until,
        organisation,
        fqans,
        server,
        has_unknown,
    })
}

/// The certificates in the extension: a sequence of a sequence of them.
fn certificates(value: &[u8]) -> Vec<CertificateDer<'_>> {
    let outer = der::only(value, der::SEQUENCE).unwrap_or_default();
    let inner = der::only(outer, der::SEQUENCE).unwrap_or(outer);
    let all = |bytes| {
        Elements(bytes)
            .take(10)
            .filter(|element| X509Certificate::from_der(element.whole).is_ok())
            .map(|element| CertificateDer::from(element.whole))
            .collect::<Vec<_>>()
    };
    let found = all(inner);
    if found.is_empty() { all(outer) } else { found }
}

/// The first directory name of several general names.
fn directory_name(content: &[u8]) -> Option<DistinguishedName> {
    let name = Elements(content).find(|element| element.tag == der::context(4))?;
    name_of_der(name.content)
}

fn time(elements: &mut Elements<'_>) -> Option<u64> {
    let time = elements.next_if(der::GENERALIZED_TIME)?;
    let (_, time) = ASN1Time::from_der(time.whole).ok()?;
    u64::try_from(time.timestamp()).ok()
}

/// The organisation and its FQANs, the primary one first.
fn fqans(attributes: &[u8]) -> Option<(String, Vec<String>)> {
    let mut found = None;
    for attribute in Elements(attributes) {
        let mut parts = Elements(attribute.content);
        if der::oid(parts.next_if(der::OID)?.content)? != FQANS {
            continue;
        }
        let values = parts.next_if(der::SET)?;
        let mut syntax = Elements(Elements(values.content).next_if(der::SEQUENCE)?.content);
        // [0] policyAuthority: `vo://host:port` as a URI.
        let authority = syntax.next_if(der::context(0))?;
        let authority =
            Elements(authority.content).find(|name| name.tag == der::context_primitive(6))?;
        let authority = std::str::from_utf8(authority.content).ok()?;
        let organisation = authority
            .split_once("://")
            .map_or(authority, |(name, _)| name);
        let mut all = Vec::new();
        for value in Elements(syntax.next_if(der::SEQUENCE)?.content).take(FQANS_AT_MOST) {
            let text = std::str::from_utf8(value.content).ok()?;
            all.push(fqan(text, organisation)?);
        }
        found = Some((organisation.to_owned(), all));
    }
    found
}

/// `/atlas/analysis/Role=production`: without what says nothing. `None` for one that isn't of the organisation.
fn fqan(text: &str, organisation: &str) -> Option<String> {
    if text.len() > LENGTH_AT_MOST || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return None;
    }
    let text = text.strip_suffix("/Capability=NULL").unwrap_or(text);
    let text = text.strip_suffix("/Role=NULL").unwrap_or(text);
    let rest = text.strip_prefix('/')?.strip_prefix(organisation)?;
    (!organisation.is_empty() && (rest.is_empty() || rest.starts_with('/')))
        .then(|| text.to_owned())
}

fn verify(
    read: &Read<'_>,
    chain: &Chain<'_>,
    authorities: &Authorities,
    servers: &Servers,
    now: UnixTime,
) -> Result<(), String> {
    let of = |problem: &str| {
        Err(format!(
            "what {} says of {}: {problem}",
            read.organisation, chain.subject
        ))
    };
    if read.has_unknown {
        return of("it has a critical extension that isn't known");
    }
    if now.as_secs() < read.from {
        return of("its time has not come yet");
    }
    if now.as_secs() > read.until {
        return of("its time is over");
    }
    let (_, holder) = &chain.end_entity;
    // By the issuer and number of their certificate; some servers write its subject in the place of the issuer.
    let names = [holder.issuer(), holder.subject()].map(name_of);
    let is_named = names
        .iter()
        .flatten()
        .any(|name| name.is_same(&read.holder_issuer));
    let is_holder = is_named && trimmed(holder.raw_serial()) == trimmed(read.holder_serial);
    if !is_holder {
        return of("it is of somebody else");
    }
    let Some((der, others)) = read.server.split_first() else {
        return of("it came without the certificate of its server");
    };
    let Ok((_, server)) = X509Certificate::from_der(der) else {
        return of("the certificate of its server can't be read");
    };
    let named = name_of(server.subject());
    if !named
        .as_ref()
        .is_some_and(|name| name.is_same(&read.issuer))
    {
        return of("the server that signed it is another one than it says");
    }
    let mut names: Vec<DistinguishedName> = named.into_iter().collect();
    names.extend(name_of(server.issuer()));
    for other in others {
        if let Ok((_, other)) = X509Certificate::from_der(other)
            && other.subject() != other.issuer()
        {
            names.extend(name_of(other.issuer()));
        }
    }
    if !servers.has(&read.organisation, &names) {
        return Err(format!(
            "what {} says of {}: there is no file vomsdir/{}/<host>.lsc that names {} and its authority",
            read.organisation, chain.subject, read.organisation, read.issuer
        ));
    }
    let path = authorities
        .path(der, &server, others, now, KeyUsage::server_auth())
        .or_else(|_| authorities.path(der, &server, others, now, KeyUsage::client_auth()));
    if let Err(refusal) = path {
        return of(&refusal.to_string());
    }
    if !is_signature(
        read.signed,
        &read.algorithm,
        &read.signature,
        server.public_key(),
    ) {
        return of(&format!(
            "it isn't signed by {}, or in a way that is no longer safe",
            who(&server)
        ));
    }
    Ok(())
}

fn trimmed(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fqans_are_of_their_organisation_and_short() {
        assert_eq!(
            fqan("/atlas/Role=NULL/Capability=NULL", "atlas").as_deref(),
            Some("/atlas")
        );
        assert_eq!(
            fqan("/atlas/x/Role=production", "atlas").as_deref(),
            Some("/atlas/x/Role=production")
        );
        for (text, organisation) in [
            ("/atlasx", "atlas"),
            ("atlas", "atlas"),
            ("/cms", "atlas"),
            ("/a b", "a"),
            ("/", ""),
        ] {
            assert_eq!(fqan(text, organisation), None, "{text}");
        }
    }

    #[test]
    fn servers_are_named_by_their_chain() {
        let mut servers = Servers::default();
        servers
            .add("atlas", "/C=EU/CN=host/voms.example\n/C=EU/CN=CA\n")
            .unwrap();
        servers.add("atlas", "/C=EU/CN=a\n").unwrap_err();
        servers.add("atlas", "nothing\n").unwrap_err();
        let chain = |texts: &[&str]| -> Vec<_> {
            texts
                .iter()
                .map(|text| DistinguishedName::parse(text).unwrap())
                .collect()
        };
        let right = chain(&["CN=host/voms.example,C=EU", "CN=CA,C=EU"]);
        assert!(servers.has("atlas", &right) && !servers.has("cms", &right));
        assert!(!servers.has(
            "atlas",
            &chain(&["CN=host/voms.example,C=EU", "CN=other,C=EU"])
        ));
        assert!(!servers.has("atlas", &right[..1]));
    }
}

//! Chains of certificates, attribute certificates in them, and names, as strangers send them.
#![no_main]

use certificates::{Authorities, CertificateDer, Revocation, UnixTime, voms::Servers};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let authorities = Authorities::read([("a.0", data), ("a.r0", data)], Revocation::IfPresent, Servers::default()).0;
    let chain: Vec<_> = data.split(|byte| *byte == 0xff).map(CertificateDer::from).collect();
    let _ = authorities.verify(&chain, UnixTime::now());
    let _ = authorities.verify(&[CertificateDer::from(data)], UnixTime::now());
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(name) = cimi::dn::DistinguishedName::parse(text) {
            let _ = (name.canonical(), name.slashed(), name.parent());
        }
        let _ = Servers::default().add("vo", text);
    }
});

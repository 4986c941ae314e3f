//! Expired, not yet valid, revoked, signed by nobody, by itself, by another user, for something else.

use std::time::Duration;

use certificates::{CertificateDer, Refusal, Revocation, UnixTime};

use crate::site::{Site, needs};

#[test]
fn each_is_refused_for_its_reason() {
    if needs(&["openssl"]).is_none() {
        return;
    }
    let site = Site::new();
    let authorities = site.authorities(Revocation::IfPresent);
    let chain = site.chain(&["alice.pem"]);
    let now = UnixTime::now().as_secs();
    let at = |seconds| {
        authorities.verify(
            &chain,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        )
    };
    at(now).unwrap();
    assert!(matches!(at(now + 11 * 86_400), Err(Refusal::Expired(_))));
    assert!(matches!(at(now - 86_400), Err(Refusal::NotYetValid(_))));

    site.self_signed("alone", "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser");
    let refused = site.verify(&["alone.pem"]).unwrap_err();
    assert!(matches!(refused, Refusal::SelfSigned(_)), "{refused}");
    // The authority's own certificate is nobody's.
    site.verify(&["ca.pem"]).unwrap_err();

    site.self_signed("other", "/C=EU/O=Example Org/CN=Test CA");
    site.sign_by(
        "other",
        "pretended",
        "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser",
        "user",
    );
    let refused = site.verify(&["pretended.pem"]).unwrap_err();
    assert!(
        matches!(
            refused,
            Refusal::Signature(_) | Refusal::UnknownIssuer { .. }
        ),
        "{refused}"
    );
    site.verify(&["pretended.pem", "other.pem"]).unwrap_err();
    site.self_signed("unknown", "/CN=Unknown CA");
    site.sign_by("unknown", "strange", "/CN=Alice", "user");
    let refused = site.verify(&["strange.pem", "unknown.pem"]).unwrap_err();
    assert!(
        matches!(refused, Refusal::UnknownIssuer { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("Unknown CA"), "{refused}");

    // Authorities sign names of their own only, where a policy says which.
    site.sign("foreign", "/C=FR/O=Example Org/CN=Alice", "user");
    let refused = site.verify(&["foreign.pem"]).unwrap_err();
    assert!(matches!(refused, Refusal::Namespace { .. }), "{refused}");

    // A user is no authority.
    site.sign_by("alice", "below", "/C=EU/O=Example Org/CN=Bob", "user");
    site.verify(&["below.pem", "alice.pem"]).unwrap_err();
    site.sign("mail", "/C=EU/O=Example Org/CN=Mail", "mail");
    let refused = site.verify(&["mail.pem"]).unwrap_err();
    assert!(matches!(refused, Refusal::Purpose(..)), "{refused}");

    // An authority below another one, with its certificate sent along.
    site.sign_by(
        "ca",
        "middle",
        "/C=EU/O=Example Org/CN=Middle CA",
        "authority",
    );
    site.sign_by("middle", "carol", "/C=EU/O=Example Org/CN=Carol", "user");
    assert_eq!(
        site.verify(&["carol.pem", "middle.pem"]).unwrap().proxies,
        0
    );
    site.verify(&["carol.pem"]).unwrap_err();
    // It signs no more than the one above it may, and has itself a name that that one may sign.
    let outside = "/C=FR/O=Example Org/CN=Alice";
    site.sign_by("middle", "stranger", outside, "user");
    site.sign_by("ca", "outer", "/C=FR/O=Other/CN=Outer CA", "authority");
    site.sign_by("outer", "dave", "/C=EU/O=Example Org/CN=Dave", "user");
    site.sign_by("middle", "lower", "/C=EU/O=Example Org/CN=Low", "authority");
    site.sign_by("lower", "lowest", outside, "user");
    for (chain, signer) in [
        (&["stranger.pem", "middle.pem"][..], "Middle CA"),
        (&["dave.pem", "outer.pem"], "Test CA"),
        (&["lowest.pem", "lower.pem", "middle.pem"], "Low"),
    ] {
        let refused = site.verify(chain).unwrap_err();
        let issuer = match &refused {
            Refusal::Namespace { issuer, .. } => issuer.as_str(),
            _ => "",
        };
        assert!(issuer.contains(signer), "{chain:?}: {refused}");
    }

    for rubbish in [vec![], vec![0; 10], b"\x30\x80".to_vec(), vec![0x30; 5000]] {
        let refused = authorities.verify(&[CertificateDer::from(rubbish)], UnixTime::now());
        assert!(matches!(refused, Err(Refusal::Unreadable(_))));
    }
    assert_eq!(
        authorities.verify(&[], UnixTime::now()),
        Err(Refusal::Length)
    );
    let many = vec![chain[0].clone(); 100];
    assert_eq!(
        authorities.verify(&many, UnixTime::now()),
        Err(Refusal::Length)
    );
}

#[test]
fn revoked_certificates_are_refused_and_missing_lists_too_where_they_are_required() {
    if needs(&["openssl"]).is_none() {
        return;
    }
    let site = Site::new();
    let chain = site.chain(&["alice.pem"]);
    let verify = |revocation, days: u64| {
        let authorities = site.authorities(revocation);
        let now = UnixTime::now().as_secs() + days * 86_400;
        authorities.verify(&chain, UnixTime::since_unix_epoch(Duration::from_secs(now)))
    };
    let refused = verify(Revocation::Required, 0).unwrap_err();
    assert!(
        matches!(refused, Refusal::NoRevocationList { .. }),
        "{refused}"
    );
    verify(Revocation::IfPresent, 0).unwrap();
    site.revocation_list();
    verify(Revocation::Required, 0).unwrap();
    // The list is good for five days, the certificate for ten.
    let refused = verify(Revocation::Required, 7).unwrap_err();
    assert!(
        matches!(refused, Refusal::NoRevocationList { .. }),
        "{refused}"
    );
    site.openssl(&["ca", "-config", "x.cnf", "-revoke", "alice.pem"]);
    verify(Revocation::Required, 0).unwrap();
    site.revocation_list();
    for revocation in [Revocation::Required, Revocation::IfPresent] {
        let refused = verify(revocation, 0).unwrap_err();
        assert!(matches!(refused, Refusal::Revoked(_)), "{refused}");
    }
}

//! A policy takes the first entry that nothing speaks against, and says of each other one what does.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use crate::support::{SIGNED, at, authority, endorser, endorser_of, entry, parameters, signed_by};
use marketplace::SigningKey;
use marketplace::policy::{Authorities, Lists, Policy, Refusal, Revocation};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};

const NOW: &str = "2030-03-01T00:00:00Z";

fn white(items: &[&str]) -> Lists {
    Lists {
        white: items.iter().map(ToString::to_string).collect(),
        ..Lists::default()
    }
}

fn black(items: &[&str]) -> Lists {
    Lists {
        black: items.iter().map(ToString::to_string).collect(),
        ..Lists::default()
    }
}

#[test]
fn time_and_deprecation_count_without_any_rule() {
    let policy = Policy::default();
    let reference = entry(SIGNED);
    assert_eq!(policy.check(&reference, at(NOW)), Ok(()));
    assert!(matches!(
        policy.check(&reference, at("2030-07-12T08:00:00Z")),
        Err(Refusal::Expired { .. })
    ));
    assert!(matches!(
        policy.check(&reference, at("2030-01-15T07:59:00Z")),
        Err(Refusal::NotYet { .. })
    ));
    assert_eq!(
        policy.check(&reference, at("2030-01-15T08:01:00Z")),
        Ok(()),
        "clocks differ"
    );
    let draft = marketplace::draft::deprecated(SIGNED.as_bytes(), "a hole").unwrap();
    let key = endorser("A", Some("a@example.org"));
    let deprecated = marketplace::draft::endorsed(
        draft.as_bytes(),
        &key,
        marketplace::signature::Hash::Sha256,
        None,
        at("2030-02-01T00:00:00Z"),
    )
    .unwrap();
    let refusal = policy.check(&entry(&deprecated), at(NOW)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the image Dtx9D_zD0sVtc2F3Z6V68foTrWj is deprecated by a@example.org: a hole"
    );
}

#[test]
fn lists_let_through_and_hold_back() {
    let reference = entry(SIGNED);
    let sha1 = "3B71F43FF30F4B15B5CD85DD9E95EBC7E84EB5A3";
    let fingerprint = format!("sha256:{}", reference.certificate().fingerprint());
    for (policy, reason) in [
        (
            Policy {
                endorsers: white(&["alice@example.org"]),
                ..Policy::default()
            },
            None,
        ),
        (
            Policy {
                endorsers: white(&["CN=Alice Endorser,OU=Images,O=Example Org,C=EU"]),
                ..Policy::default()
            },
            None,
        ),
        (
            Policy {
                endorsers: white(&[&fingerprint]),
                ..Policy::default()
            },
            None,
        ),
        (
            Policy {
                endorsers: white(&["bob@example.org"]),
                ..Policy::default()
            },
            Some("email endorser alice@example.org is not whitelisted, rejecting entry"),
        ),
        (
            Policy {
                endorsers: black(&["alice@example.org"]),
                ..Policy::default()
            },
            Some("email endorser alice@example.org is blacklisted, rejecting entry"),
        ),
        (
            Policy {
                endorsers: black(&[&fingerprint]),
                ..Policy::default()
            },
            Some("email endorser alice@example.org is blacklisted, rejecting entry"),
        ),
        (
            Policy {
                checksums: white(&[sha1]),
                ..Policy::default()
            },
            None,
        ),
        (
            Policy {
                checksums: black(&["b6d81b360a5672d80c27430f39153e2c"]),
                ..Policy::default()
            },
            Some(
                "MD5 checksum image b6d81b360a5672d80c27430f39153e2c is blacklisted, rejecting entry",
            ),
        ),
        (
            Policy {
                checksums: white(&["00"]),
                ..Policy::default()
            },
            Some(
                "SHA-1 checksum image 3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3 is not whitelisted, rejecting entry",
            ),
        ),
        (
            Policy {
                images: white(&["Dtx9D_zD0sVtc2F3Z6V68foTrWj"]),
                ..Policy::default()
            },
            None,
        ),
        (
            Policy {
                images: black(&["Dtx9D_zD0sVtc2F3Z6V68foTrWj"]),
                ..Policy::default()
            },
            Some("image identifier Dtx9D_zD0sVtc2F3Z6V68foTrWj is blacklisted, rejecting entry"),
        ),
        (
            Policy {
                accepts_sha1: false,
                ..Policy::default()
            },
            Some("the signature of alice@example.org uses SHA-1, rejecting entry"),
        ),
    ] {
        let found = policy
            .check(&reference, at(NOW))
            .err()
            .map(|refusal| refusal.to_string());
        assert_eq!(found.as_deref(), reason, "{policy:?}");
    }
}

#[test]
fn an_address_that_only_the_endorser_claims_is_on_no_white_list() {
    let claimed = entry(&signed_by(&endorser("Mallory", None)));
    let mut policy = Policy {
        endorsers: white(&["claimed@example.org"]),
        ..Policy::default()
    };
    assert_eq!(
        policy.check(&claimed, at(NOW)),
        Err(Refusal::UncertifiedEmail("claimed@example.org".to_owned()))
    );
    policy.accepts_uncertified_email = true;
    assert_eq!(policy.check(&claimed, at(NOW)), Ok(()));
    assert_eq!(Policy::default().check(&claimed, at(NOW)), Ok(()));
}

#[test]
fn authorities_can_be_demanded() {
    let (issuer, pem) = authority("Good");
    let (other_issuer, other_pem) = authority("Other");
    let certified = entry(&signed_by(&endorser_of(
        &issuer,
        "Alice",
        "alice@example.org",
    )));
    let other = entry(&signed_by(&endorser_of(
        &other_issuer,
        "Bob",
        "bob@example.org",
    )));
    let own = entry(&signed_by(&endorser("Mallory", Some("alice@example.org"))));
    let policy = Policy {
        authorities: Authorities::from_pem(&pem).unwrap(),
        ..Policy::default()
    };
    assert_eq!(policy.check(&certified, at(NOW)), Ok(()));
    for refused in [&other, &own] {
        assert!(matches!(
            policy.check(refused, at(NOW)),
            Err(Refusal::UnknownAuthority { .. })
        ));
    }
    let both = Policy {
        authorities: Authorities::from_pem(&format!("{pem}{other_pem}")).unwrap(),
        ..Policy::default()
    };
    assert_eq!(both.check(&other, at(NOW)), Ok(()));
    assert!(Authorities::from_pem("").is_err());

    // The first that is accepted counts, and every entry is looked at.
    let entries = [&own, &other, &certified];
    assert_eq!(
        policy
            .first_accepted(entries, at(NOW))
            .unwrap()
            .endorsement()
            .email,
        "alice@example.org"
    );
    let none = Policy {
        endorsers: black(&["alice@example.org", "bob@example.org"]),
        ..Policy::default()
    };
    assert_eq!(none.first_accepted(entries, at(NOW)).unwrap_err().len(), 3);
}

/// The list of an authority, in PEM, that counts until a year begins.
fn revoked(issuer: &Issuer<'_, KeyPair>, serials: &[u64], number: u64, year: i32) -> String {
    let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: rcgen::date_time_ymd(2030, 2, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2030, 1, u8::try_from(number).unwrap()),
        next_update: rcgen::date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().pem().unwrap()
}

#[test]
fn a_revoked_endorser_is_not_believed_whenever_it_says_to_have_signed() {
    let (issuer, pem) = authority("Good");
    let with_serial = |serial: u64, name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut parameters = parameters(name, Some("alice@example.org"));
        parameters.serial_number = Some(SerialNumber::from(serial));
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        let text = format!("{}{}", certificate.pem(), key.serialize_pem());
        entry(&signed_by(&SigningKey::from_pem(&text, None).unwrap()))
    };
    let (alice, mallory) = (with_serial(7, "Alice"), with_serial(8, "Mallory"));
    let of_file = |text: &str| Policy {
        authorities: Authorities::from_pem(text).unwrap(),
        ..Policy::default()
    };
    // Endorsed in January, revoked in February: the time of an endorsement is what its endorser says.
    let policy = of_file(&format!("{pem}{}", revoked(&issuer, &[8], 1, 2040)));
    assert_eq!(policy.check(&alice, at(NOW)), Ok(()));
    let refused = policy.check(&mallory, at(NOW)).unwrap_err();
    assert!(matches!(refused, Refusal::Revoked(_)), "{refused}");
    assert_eq!(policy.trusts(&mallory, at(NOW)), Err(refused));
    // Of two lists the newer counts, wherever it stands.
    let (old, new) = (
        revoked(&issuer, &[7], 2, 2040),
        revoked(&issuer, &[8], 3, 2040),
    );
    for text in [format!("{pem}{old}{new}"), format!("{new}{old}{pem}")] {
        assert_eq!(of_file(&text).check(&alice, at(NOW)), Ok(()));
        assert!(of_file(&text).check(&mallory, at(NOW)).is_err());
    }
    // A list that nobody renews is none: what was revoked since isn't known.
    let stale = of_file(&format!("{pem}{}", revoked(&issuer, &[], 1, 2031)));
    assert_eq!(stale.check(&alice, at(NOW)), Ok(()));
    let later = at("2031-02-01T00:00:00Z");
    let refused = stale.trusts(&alice, later).unwrap_err().to_string();
    assert!(refused.contains("no current revocation list"), "{refused}");
    // Somebody else's list says nothing.
    let (other, _) = authority("Good");
    let foreign = of_file(&format!("{pem}{}", revoked(&other, &[7], 1, 2040)));
    assert!(foreign.check(&alice, at(NOW)).is_err());

    // In folders lists can be demanded.
    let of_folder = |files: &[(&str, &str)], revocation| Policy {
        authorities: Authorities::from_files(
            files.iter().map(|(name, text)| (*name, text.as_bytes())),
            revocation,
        )
        .unwrap()
        .0,
        ..Policy::default()
    };
    let without = [("a.pem", pem.as_str())];
    assert!(
        of_folder(&without, Revocation::Required)
            .check(&alice, at(NOW))
            .is_err()
    );
    assert_eq!(
        of_folder(&without, Revocation::IfPresent).check(&alice, at(NOW)),
        Ok(())
    );
    let list = revoked(&issuer, &[8], 1, 2040);
    let with = [("a.pem", pem.as_str()), ("a.crl", list.as_str())];
    let demanding = of_folder(&with, Revocation::Required);
    assert_eq!(demanding.check(&alice, at(NOW)), Ok(()));
    assert!(demanding.check(&mallory, at(NOW)).is_err());
}

//! A policy takes the first entry that nothing speaks against, and says of each other one what does.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use crate::support::{SIGNED, at, authority, endorser, endorser_of, entry, signed_by};
use marketplace::policy::{Authority, Lists, Policy, Refusal};

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
                "SHA-1 checksum image 3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3 is blacklisted, rejecting entry",
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
        authorities: Authority::from_pem(&pem).unwrap(),
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
        authorities: Authority::from_pem(&format!("{pem}{other_pem}")).unwrap(),
        ..Policy::default()
    };
    assert_eq!(both.check(&other, at(NOW)), Ok(()));
    assert!(Authority::from_pem("").is_err());

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

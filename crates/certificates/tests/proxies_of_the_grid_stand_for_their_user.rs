//! What `grid-proxy-init` makes, of all kinds and of itself.

use std::time::Duration;

use certificates::{Refusal, Revocation, UnixTime};

use crate::site::{Site, needs};

const ALICE: &str = "CN=Alice Endorser,OU=Images,O=Example Org,C=EU";

#[test]
fn every_kind_of_proxy_leads_to_its_user() {
    if needs(&["openssl", "grid-proxy-init"]).is_none() {
        return;
    }
    let site = Site::new();
    let direct = site.verify(&["alice.pem"]).unwrap();
    assert_eq!(
        (
            direct.subject.to_string().as_str(),
            direct.proxies,
            direct.is_limited
        ),
        (ALICE, 0, false)
    );
    for (name, options, is_limited) in [
        ("rfc", &["-rfc"][..], false),
        ("draft", &["-draft"], false),
        ("old", &["-old"], false),
        ("rfc-limited", &["-rfc", "-limited"], true),
        ("draft-limited", &["-draft", "-limited"], true),
        ("old-limited", &["-old", "-limited"], true),
    ] {
        site.grid_proxy("alice", name, options);
        let holder = site
            .verify(&[name])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(holder.subject.to_string(), ALICE, "{name}");
        assert_eq!(
            (holder.proxies, holder.is_limited),
            (1, is_limited),
            "{name}"
        );
        // A proxy of a proxy of a proxy.
        let kind = options.first().copied().unwrap();
        let (second, third) = (format!("{name}-2"), format!("{name}-3"));
        site.grid_proxy(name, &second, &[kind]);
        site.grid_proxy(&second, &third, &[kind, "-limited"]);
        let holder = site
            .verify(&[&second])
            .unwrap_or_else(|error| panic!("{second}: {error}"));
        assert_eq!(
            (holder.proxies, holder.is_limited),
            (2, is_limited),
            "{second}"
        );
        let holder = site
            .verify(&[&third])
            .unwrap_or_else(|error| panic!("{third}: {error}"));
        assert_eq!((holder.proxies, holder.is_limited), (3, true), "{third}");
        assert_eq!(holder.subject.to_string(), ALICE);
        // Clients may send the certificates in any order but for the first.
        let mut chain = site.chain(&[&third]);
        chain[1..].reverse();
        let authorities = site.authorities(Revocation::IfPresent);
        authorities.verify(&chain, UnixTime::now()).unwrap();
    }
}

#[test]
fn proxies_against_the_rules_are_refused() {
    if needs(&["openssl", "grid-proxy-init"]).is_none() {
        return;
    }
    let site = Site::new();
    site.grid_proxy("alice", "independent", &["-rfc", "-independent"]);
    let refused = site.verify(&["independent"]).unwrap_err();
    assert!(matches!(refused, Refusal::Powerless(..)), "{refused}");

    std::fs::write(site.path().join("policy"), "read only, please\n").unwrap();
    site.grid_proxy(
        "alice",
        "restricted",
        &["-rfc", "-policy", "policy", "-pl", "1.2.3.4"],
    );
    let refused = site.verify(&["restricted"]).unwrap_err();
    assert!(matches!(refused, Refusal::Powerless(..)), "{refused}");

    site.grid_proxy("alice", "one-more", &["-rfc", "-path-length", "1"]);
    site.grid_proxy("one-more", "one-more-2", &["-rfc"]);
    site.verify(&["one-more-2"]).unwrap();
    site.grid_proxy("one-more-2", "one-more-3", &["-rfc"]);
    let refused = site.verify(&["one-more-3"]).unwrap_err();
    assert!(matches!(refused, Refusal::Proxy(..)), "{refused}");

    site.grid_proxy("alice", "rfc", &["-rfc"]);
    let chain = site.chain(&["rfc"]);
    let authorities = site.authorities(Revocation::IfPresent);
    let now = UnixTime::now();
    let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verify = |time| authorities.verify(&chain, time);
    assert!(matches!(
        verify(at(now.as_secs() + 2 * 3600)),
        Err(Refusal::Expired(_))
    ));
    assert!(matches!(
        verify(at(now.as_secs() - 3600)),
        Err(Refusal::NotYetValid(_))
    ));
    let alone = authorities.verify(&chain[..1], now).unwrap_err();
    assert!(matches!(alone, Refusal::IncompleteChain(_)), "{alone}");

    // Somebody else who calls himself a proxy of alice's.
    site.sign(
        "mallory",
        "/C=EU/O=Example Org/OU=Images/CN=Mallory",
        "user",
    );
    for name in [
        "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser/CN=proxy",
        "/C=EU/O=Example Org/OU=Images/CN=Mallory/CN=proxy",
    ] {
        site.sign_by("mallory", "forged", name, "user");
        for chain in [
            &["forged.pem", "mallory.pem"][..],
            &["forged.pem", "alice.pem"],
            &["forged.pem", "mallory.pem", "alice.pem"],
        ] {
            if let Ok(holder) = site.verify(chain) {
                assert!(
                    holder.subject.to_string().contains("Mallory"),
                    "{name} {chain:?}"
                );
            }
        }
    }
    // One whose last byte of the signature was changed.
    let mut damaged = site.chain(&["rfc"]);
    let mut bytes = damaged[0].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    damaged[0] = bytes.into();
    let refused = authorities.verify(&damaged, now).unwrap_err();
    assert!(matches!(refused, Refusal::Signature(_)), "{refused}");
}

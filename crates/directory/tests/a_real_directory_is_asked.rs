//! OpenLDAP: binds, groups, odd names, encryption, and that it is away.

use std::{fs, process::Command};

use accounts::directory::Directory as _;
use cimi::dn::DistinguishedName;
use directory::LdapDirectory;
use serde_json::json;

use super::{settings::ldap, slapd::Slapd};

#[tokio::test]
async fn names_passwords_groups_and_subjects_are_what_the_directory_says() {
    let Some(slapd) = Slapd::start("") else {
        return;
    };
    let directory = LdapDirectory::default();
    let plain = ldap(slapd.port, json!({}));
    let alice = directory
        .by_password(&plain, "alice", "correct horse")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(alice.login, "alice");
    assert_eq!(alice.dn, "uid=alice,ou=users,o=cloud");
    assert_eq!(alice.first_name.as_deref(), Some("Alice"));
    assert_eq!(alice.email.as_deref(), Some("alice@example.org"));
    // A directory gives none of the cloud's own roles by itself.
    assert_eq!(alice.roles, ["cloud-access", "operators"]);
    assert!(plain.admits(&alice.roles));
    let other_spelling = directory
        .by_password(&plain, "ALICE", "correct horse")
        .await;
    assert_eq!(other_spelling.unwrap().unwrap(), alice);
    assert_eq!(
        directory.by_login(&plain, "alice").await.unwrap().unwrap(),
        alice
    );

    let bob = directory.by_password(&plain, "bob", "correct horse").await;
    let bob = bob.unwrap().unwrap();
    assert!(!plain.admits(&bob.roles), "{:?}", bob.roles);

    for (login, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "correct horse"),
        ("*", "correct horse"),
        ("a*", "correct horse"),
        ("alice)(uid=*", "correct horse"),
        ("alice\0", "correct horse"),
        ("", "correct horse"),
        // Two have this name: it is nobody's.
        ("twin", "correct horse"),
    ] {
        let found = directory.by_password(&plain, login, password).await;
        assert_eq!(found.unwrap(), None, "{login:?} {password:?}");
    }
    let odd = directory
        .by_password(&plain, "odd(*)name", "correct horse")
        .await;
    assert_eq!(odd.unwrap().unwrap().roles, ["cloud-access"]);

    for (subject, is_known) in [
        ("CN=Alice Endorser,OU=Images,O=Example Org,C=EU", true),
        ("/C=EU/O=Example Org/OU=Images/CN=Alice Endorser", true),
        ("cn=alice endorser, ou=images, o=example org, c=eu", true),
        ("CN=Alice,OU=Images,O=Example Org,C=EU", false),
        ("CN=*,OU=Images,O=Example Org,C=EU", false),
    ] {
        let name = DistinguishedName::parse(subject).unwrap();
        let found = directory.by_subject(&plain, &name).await.unwrap();
        assert_eq!(found.is_some(), is_known, "{subject}");
    }

    let mapped = ldap(
        slapd.port,
        json!({"role-map": {"operators": "::ADMIN"}, "bind-dn": "cn=admin,o=cloud",
        "bind-password": "geheim"}),
    );
    let alice = directory.by_login(&mapped, "alice").await.unwrap().unwrap();
    assert_eq!(alice.roles, ["::ADMIN", "cloud-access"]);
    let wrong = ldap(
        slapd.port,
        json!({"bind-dn": "cn=admin,o=cloud", "bind-password": "falsch"}),
    );
    let error = directory
        .by_login(&wrong, "alice")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bind-dn") && !error.contains("falsch"),
        "{error}"
    );
    let file = slapd.path("password");
    fs::write(&file, "geheim\n").unwrap();
    let by_file = ldap(
        slapd.port,
        json!({"bind-dn": "cn=admin,o=cloud", "bind-password-file": file}),
    );
    let directory = LdapDirectory::default();
    assert!(
        directory
            .by_login(&by_file, "alice")
            .await
            .unwrap()
            .is_some()
    );

    slapd.modify("dn: uid=alice,ou=users,o=cloud\nchangetype: delete\n");
    assert_eq!(directory.by_login(&plain, "alice").await.unwrap(), None);
}

#[tokio::test]
async fn a_directory_that_is_away_is_told_and_another_one_asked() {
    let Some(mut slapd) = Slapd::start("") else {
        return;
    };
    let directory = LdapDirectory::default();
    let settings = ldap(slapd.port, json!({}));
    slapd.stop();
    let error = directory.by_login(&settings, "alice").await.unwrap_err();
    assert!(
        error.to_string().contains(&slapd.port.to_string()),
        "{error}"
    );
    slapd.run();
    // A server that failed rests for a moment; others are asked meanwhile.
    assert!(directory.by_login(&settings, "alice").await.is_err());
    let fresh = LdapDirectory::default();
    let others = json!({"connection": {"host": {"address": "127.0.0.1", "port": 1},
        "others": [{"address": "127.0.0.1", "port": slapd.port}]}});
    let both = ldap(slapd.port, others);
    assert!(fresh.by_login(&both, "alice").await.unwrap().is_some());
}

fn openssl(arguments: &[&str]) -> bool {
    let done = Command::new("openssl").args(arguments).output();
    match done {
        Ok(done) => {
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            true
        }
        Err(error) => {
            assert!(std::env::var_os("STRATUS_REQUIRE_ALL").is_none(), "{error}");
            println!("skipped: openssl: {error}");
            false
        }
    }
}

#[tokio::test]
async fn starttls_encrypts_and_its_certificate_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let extensions = file("ext");
    fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
    let (ca, ca_key, key, request, certificate) = (
        file("ca.pem"),
        file("ca.key"),
        file("key"),
        file("csr"),
        file("crt"),
    );
    let made = openssl(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=CA",
        "-keyout", &ca_key, "-out", &ca,
    ]) && openssl(&[
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ldap", "-keyout", &key, "-out",
        &request,
    ]) && openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &certificate,
    ]);
    if !made {
        return;
    }
    let tls =
        format!("TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\nsecurity ssf=1");
    let Some(slapd) = Slapd::start(&tls) else {
        return;
    };
    let trusted = fs::read_to_string(&ca).unwrap();
    let settings = ldap(
        slapd.port,
        json!({"connection": {"start-tls": true, "ca": trusted}}),
    );
    let directory = LdapDirectory::default();
    let found = directory
        .by_password(&settings, "alice", "correct horse")
        .await;
    assert_eq!(found.unwrap().unwrap().login, "alice");
    assert!(
        directory
            .by_password(&settings, "alice", "wrong")
            .await
            .unwrap()
            .is_none()
    );
    // It takes nothing in clear text, and we nothing from whom we don't trust.
    let clear = LdapDirectory::default()
        .by_login(&ldap(slapd.port, json!({})), "alice")
        .await;
    assert!(clear.is_err());
    let distrusted =
        json!({"connection": {"start-tls": true, "ca": fs::read_to_string(&certificate).unwrap()}});
    let error = LdapDirectory::default()
        .by_login(&ldap(slapd.port, distrusted), "alice")
        .await;
    assert!(error.unwrap_err().to_string().contains("TLS"));
    let wrong = json!({"connection": {"ssl?": true, "ca": trusted}});
    let error = LdapDirectory::default()
        .by_login(&ldap(slapd.port, wrong), "alice")
        .await;
    assert!(error.is_err());
}

//! Attribute certificates that `voms-proxy-fake` makes with the key of a server of ours.

use certificates::{Holder, Revocation, UnixTime, voms::Servers};

use crate::site::{Site, needs};

fn proxy(
    site: &Site,
    of: &str,
    server: &str,
    organisation: &str,
    fqans: &[&str],
    name: &str,
    more: &[&str],
) {
    let (certificate, key) = (format!("{of}.pem"), format!("{of}.key"));
    let (host, host_key) = (format!("{server}.pem"), format!("{server}.key"));
    let mut arguments = vec![
        "-q",
        "-rfc",
        "-hours",
        "1",
        "-bits",
        "2048",
        "-certdir",
        "trusted",
        "-uri",
        "voms.example.org:15000",
        "-cert",
        &certificate,
        "-key",
        &key,
        "-hostcert",
        &host,
        "-hostkey",
        &host_key,
        "-voms",
        organisation,
        "-out",
        name,
    ];
    for fqan in fqans {
        arguments.extend(["-fqan", fqan]);
    }
    arguments.extend(more);
    site.run("voms-proxy-fake", &arguments);
}

fn servers(files: &[(&str, &str)]) -> Servers {
    let mut servers = Servers::default();
    for (organisation, content) in files {
        servers.add(organisation, content).unwrap();
    }
    servers
}

const LSC: &str = "/C=EU/O=Example Org/CN=voms.example.org\n/C=EU/O=Example Org/CN=Test CA\n";

fn verify(site: &Site, name: &str, files: &[(&str, &str)]) -> Holder {
    let authorities = site.authorities_with(Revocation::IfPresent, servers(files));
    authorities
        .verify(&site.chain(&[name]), UnixTime::now())
        .unwrap()
}

fn fqans(holder: &Holder) -> Vec<&str> {
    holder
        .attributes
        .iter()
        .map(|attribute| attribute.fqan.as_str())
        .collect()
}

#[test]
fn only_who_is_named_for_an_organisation_is_believed() {
    if needs(&["openssl", "voms-proxy-fake"]).is_none() {
        return;
    }
    let site = Site::new();
    let all = [
        "/atlas/Role=NULL/Capability=NULL",
        "/atlas/analysis/Role=production/Capability=NULL",
    ];
    proxy(&site, "alice", "host", "atlas", &all, "voms", &[]);
    let holder = verify(&site, "voms", &[("atlas", LSC)]);
    assert_eq!(holder.disbelieved, Vec::<String>::new());
    assert_eq!(
        fqans(&holder),
        ["/atlas", "/atlas/analysis/Role=production"]
    );
    assert!(
        holder
            .attributes
            .iter()
            .all(|attribute| attribute.organisation == "atlas")
    );
    assert_eq!(
        holder.subject.to_string(),
        "CN=Alice Endorser,OU=Images,O=Example Org,C=EU"
    );

    for (what, files) in [
        ("no organisation", &[][..]),
        ("another one", &[("cms", LSC)]),
        (
            "another server",
            &[(
                "atlas",
                "/C=EU/O=Example Org/CN=other\n/C=EU/O=Example Org/CN=Test CA\n",
            )],
        ),
        (
            "another authority",
            &[(
                "atlas",
                "/C=EU/O=Example Org/CN=voms.example.org\n/CN=Other CA\n",
            )],
        ),
    ] {
        let holder = verify(&site, "voms", files);
        assert_eq!(fqans(&holder), Vec::<&str>::new(), "{what}");
        assert_eq!(holder.disbelieved.len(), 1, "{what}");
    }

    // A user can't be a server, whatever the certificate says.
    site.sign("mallory", "/C=EU/O=Example Org/CN=Mallory", "user");
    proxy(
        &site,
        "mallory",
        "mallory",
        "atlas",
        &["/atlas"],
        "own",
        &[],
    );
    assert!(fqans(&verify(&site, "own", &[("atlas", LSC)])).is_empty());
    // Nor somebody with another authority's server of the same name.
    site.self_signed("fake-ca", "/C=EU/O=Example Org/CN=Test CA");
    site.sign_by(
        "fake-ca",
        "fake",
        "/C=EU/O=Example Org/CN=voms.example.org",
        "host",
    );
    proxy(&site, "mallory", "fake", "atlas", &["/atlas"], "faked", &[]);
    assert!(fqans(&verify(&site, "faked", &[("atlas", LSC)])).is_empty());
    // FQANs of other organisations don't come along.
    proxy(
        &site,
        "alice",
        "host",
        "atlas",
        &["/atlas", "/cms"],
        "two",
        &[],
    );
    assert!(!fqans(&verify(&site, "two", &[("atlas", LSC)])).contains(&"/cms"));
}

#[test]
fn what_is_said_of_somebody_else_or_another_time_does_not_count() {
    if needs(&["openssl", "voms-proxy-fake", "grid-proxy-init"]).is_none() {
        return;
    }
    let site = Site::new();
    proxy(
        &site,
        "alice",
        "host",
        "atlas",
        &["/atlas"],
        "past",
        &["-pastac", "5:00", "-vomslife", "1"],
    );
    let holder = verify(&site, "past", &[("atlas", LSC)]);
    assert!(fqans(&holder).is_empty());
    assert!(
        holder.disbelieved[0].contains("time is over"),
        "{:?}",
        holder.disbelieved
    );
    // A proxy of a proxy still has it.
    proxy(&site, "alice", "host", "atlas", &["/atlas"], "voms", &[]);
    site.grid_proxy("voms", "voms-2", &["-rfc"]);
    assert_eq!(
        fqans(&verify(&site, "voms-2", &[("atlas", LSC)])),
        ["/atlas"]
    );
}

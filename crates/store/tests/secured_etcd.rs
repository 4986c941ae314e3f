//! A cluster of etcd as an operator should have it: members and clients know each other by certificates, and clients log in as a user
//! that has the cloud's keys alone.

#![allow(clippy::panic)] // a test that panics has failed

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use store::conformance::etcd_cluster::{EtcdCluster, MemberTls};
use store::{EtcdLogin, EtcdOptions, EtcdTls};

const PASSWORD: &str = "only for a test";

/// Starts three members below `folder`. Blocks.
pub(crate) fn start(folder: &Path) -> (EtcdCluster, EtcdOptions) {
    let (tls, of_client) = certificates(folder);
    let cluster = EtcdCluster::start(folder, 3, Some(tls));
    let user = format!("stratus:{PASSWORD}");
    for told in [
        &["user", "add", "root:root"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "stratus"],
        &[
            "role",
            "grant-permission",
            "stratus",
            "--prefix=true",
            "readwrite",
            "/stratus/",
        ],
        &["user", "add", &user],
        &["user", "grant-role", "stratus", "stratus"],
        &["auth", "enable"],
    ] {
        cluster
            .ctl(told)
            .unwrap_or_else(|error| panic!("{told:?}: {error}"));
    }
    let mut options = EtcdOptions::new(cluster.endpoints());
    options.tls = of_client;
    options.login = Some(EtcdLogin {
        user: "stratus".to_owned(),
        password: PASSWORD.to_owned(),
    });
    (cluster, options)
}

/// Of the members, in files, and of the client.
fn certificates(folder: &Path) -> (MemberTls, EtcdTls) {
    let of_authority = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&of_authority).expect("an authority");
    let issuer = Issuer::from_params(&authority, &of_authority);
    let signed = |names: &[&str], purposes: &[ExtendedKeyUsagePurpose]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.extended_key_usages = purposes.to_vec();
        let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let (server, client) = (
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let member = signed(&["127.0.0.1", "localhost"], &[server, client.clone()]);
    let of_client = signed(&["cloud.example.org"], &[client]);
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let tls = MemberTls {
        certificate: file("member.pem", &member.0),
        key: file("member.key", &member.1),
        authority: file("authority.pem", &root.pem()),
    };
    let of_client = EtcdTls {
        authority: Some(root.pem().into_bytes()),
        identity: Some((of_client.0.into_bytes(), of_client.1.into_bytes())),
        server_name: None,
    };
    (tls, of_client)
}

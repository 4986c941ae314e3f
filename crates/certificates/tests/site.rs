//! A site with an authority, users and servers, made with the usual tools in a folder of its own.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const CONFIGURATION: &str = "
[req]
distinguished_name = dn
x509_extensions = authority
[dn]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
[user]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = clientAuth
[host]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth,clientAuth
[restricted]
proxyCertInfo = critical,language:1.2.3.4,pathlen:1,policy:text:read only
[mail]
keyUsage = critical,keyEncipherment
extendedKeyUsage = emailProtection
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 10
default_crl_days = 5
policy = any
unique_subject = no
copy_extensions = none
[any]
countryName = optional
organizationName = optional
organizationalUnitName = optional
commonName = supplied
";

pub struct Site {
    folder: tempfile::TempDir,
}

/// `None`, with the reason printed, if a tool is missing.
pub fn needs(programs: &[&str]) -> Option<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
            assert!(
                std::env::var_os("STRATUS_REQUIRE_ALL").is_none(),
                "{program} is missing"
            );
            println!("skipped: {program} is missing");
            return None;
        }
    }
    Some(())
}

impl Site {
    /// With an authority `/C=EU/O=Example Org/CN=Test CA` that has signed `alice` and `host`.
    pub fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(site.path().join("x.cnf"), CONFIGURATION).unwrap();
        for (file, content) in [
            ("index.txt", ""),
            ("serial", "1000\n"),
            ("crlnumber", "01\n"),
        ] {
            fs::write(site.path().join(file), content).unwrap();
        }
        site.self_signed("ca", "/C=EU/O=Example Org/CN=Test CA");
        site.sign(
            "alice",
            "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser",
            "user",
        );
        site.sign("host", "/C=EU/O=Example Org/CN=voms.example.org", "host");
        fs::create_dir(site.path().join("trusted")).unwrap();
        let hash = site.openssl(&["x509", "-in", "ca.pem", "-noout", "-hash"]);
        let hash = String::from_utf8(hash.stdout).unwrap();
        let anchor = format!("trusted/{}.0", hash.trim());
        fs::copy(site.path().join("ca.pem"), site.path().join(anchor)).unwrap();
        let policy = "access_id_CA X509 '/C=EU/O=Example Org/CN=Test CA'\npos_rights globus CA:sign\n\
            cond_subjects globus '\"/C=EU/O=Example Org/*\"'\n";
        let file = format!("trusted/{}.signing_policy", hash.trim());
        fs::write(site.path().join(file), policy).unwrap();
        site
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn openssl(&self, arguments: &[&str]) -> Output {
        self.run("openssl", arguments)
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.path())
            .env("X509_CERT_DIR", self.path().join("trusted"))
            .env("X509_VOMS_DIR", self.path().join("vomsdir"))
            .env("HOME", self.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    pub fn self_signed(&self, name: &str, subject: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-config",
            "x.cnf",
            "-subj",
            subject,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    }

    /// A certificate of the authority.
    pub fn sign(&self, name: &str, subject: &str, extensions: &str) {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req", "-newkey", "rsa:2048", "-nodes", "-config", "x.cnf", "-subj", subject,
            "-keyout", &key, "-out", &request,
        ]);
        let certificate = format!("{name}.pem");
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "x.cnf",
            "-extensions",
            extensions,
            "-preserveDN",
            "-in",
            &request,
            "-out",
            &certificate,
        ]);
    }

    /// A certificate signed by another one's key, whatever that may do.
    pub fn sign_by(&self, signer: &str, name: &str, subject: &str, extensions: &str) {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req", "-newkey", "rsa:2048", "-nodes", "-config", "x.cnf", "-subj", subject,
            "-keyout", &key, "-out", &request,
        ]);
        let (ca, ca_key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let certificate = format!("{name}.pem");
        self.openssl(&[
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
            "5",
            "-extfile",
            "x.cnf",
            "-extensions",
            extensions,
            "-out",
            &certificate,
        ]);
    }

    pub fn revocation_list(&self) {
        self.openssl(&["ca", "-config", "x.cnf", "-gencrl", "-out", "trusted/ca.r0"]);
    }

    pub fn grid_proxy(&self, of: &str, name: &str, options: &[&str]) {
        let (certificate, key) = if self.path().join(format!("{of}.key")).exists() {
            (format!("{of}.pem"), format!("{of}.key"))
        } else {
            (of.to_owned(), of.to_owned())
        };
        let mut arguments = vec![
            "-q",
            "-cert",
            &certificate,
            "-key",
            &key,
            "-out",
            name,
            "-valid",
            "1:00",
        ];
        arguments.extend(options);
        self.run("grid-proxy-init", &arguments);
    }
}

//! What endorsers have and do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::TestMarketplace;

/// Somebody with a certificate of their own making, in a folder with their images.
#[derive(Debug)]
pub struct TestEndorser {
    email: String,
    folder: TempDir,
}

impl TestEndorser {
    /// The password of their PKCS#12 file.
    const PASSWORD: &'static str = "XYZXYZ";

    /// Makes an authority, a key, a certificate for `email`, and the PKCS#12 file of both, by OpenSSL.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(name: &str, email: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl")
                .args(arguments)
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let (subject, san) = (
            format!("/CN={name}"),
            format!("subjectAltName=email:{email}"),
        );
        let key = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ];
        let authority = [
            "-subj",
            "/CN=Authority for tests",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ];
        openssl(&[&key[..], &authority].concat());
        let own = [
            "-subj",
            &subject,
            "-addext",
            &san,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ];
        openssl(&[&key[..], &own].concat());
        let password = format!("pass:{}", Self::PASSWORD);
        openssl(&[
            "pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "me.p12",
            "-passout", &password,
        ]);
        Self {
            email: email.to_owned(),
            folder,
        }
    }

    /// Their address.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    /// Where their files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority that issued their certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The options that make commands sign in their name.
    #[must_use]
    pub fn signing(&self) -> [&str; 4] {
        ["--p12-cert", "me.p12", "--p12-password", Self::PASSWORD]
    }

    /// Describes an image of theirs and signs that, by the commands. Gives the file.
    ///
    /// # Panics
    /// If the commands fail.
    #[must_use]
    #[track_caller]
    pub fn describe(&self, marketplace: &TestMarketplace, os: &str, content: &[u8]) -> PathBuf {
        let image = format!("{os}.img");
        fs::write(self.folder.path().join(&image), content).unwrap();
        let location = format!("https://images.example.org/{image}");
        let title = format!("{os} for tests");
        marketplace.run(
            "stratus-build-metadata",
            self.folder(),
            &[
                "--author",
                "Somebody",
                "--os",
                os,
                "--os-version",
                "1",
                "--os-arch",
                "x86_64",
                "--image-version",
                "1.0",
                "--comment",
                "An image of a test",
                "--title",
                &title,
                "--tag",
                os,
                "--location",
                &location,
                &image,
            ],
        );
        let file = format!("{os}-1-x86_64-base-1.0.xml");
        marketplace.run(
            "stratus-sign-metadata",
            self.folder(),
            &[&self.signing(), &[file.as_str()][..]].concat(),
        );
        self.folder.path().join(file)
    }
}

/// A key with a certificate that it signed itself, of alice@example.org, in one file of the folder.
///
/// # Panics
/// If OpenSSL fails.
#[must_use]
pub fn self_signed(folder: &Path) -> PathBuf {
    let (key, pem) = (folder.join("key.pem"), folder.join("me.pem"));
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Alice",
        ])
        .args([
            "-addext",
            "subjectAltName=email:alice@example.org",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let both = format!(
        "{}{}",
        fs::read_to_string(&pem).unwrap(),
        fs::read_to_string(&key).unwrap()
    );
    fs::write(&pem, both).unwrap();
    pem
}

/// The identifier that a description is about.
///
/// # Panics
/// If the file is no description.
#[must_use]
pub fn identifier_of(entry: &Path) -> String {
    let text = fs::read_to_string(entry).unwrap();
    let (_, rest) = text.split_once("rdf:about=\"#").unwrap();
    rest.chars().take(27).collect()
}

/// Makes an authority, and `NAME.pem` with a key and a certificate that it issued; the file of the authority.
///
/// # Panics
/// If OpenSSL fails.
#[must_use]
pub fn certified(folder: &Path, name: &str, subject: &str, email: &str) -> PathBuf {
    let line = format!(
        "set -e\nopenssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Authority -keyout authority.key -out authority.pem\n\
         openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject} -keyout {name}.key -out {name}.csr\n\
         printf 'subjectAltName=email:{email}\n' >{name}.ext\n\
         openssl x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt\n\
         cat {name}.crt {name}.key >{name}.pem"
    );
    let output = Command::new("sh")
        .args(["-c", &line])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    folder.join("authority.pem")
}

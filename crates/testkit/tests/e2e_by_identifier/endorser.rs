//! What endorsers have and do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Key and certificate of an endorser.
pub(crate) fn endorser(folder: &Path) -> PathBuf {
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
pub(crate) fn identifier_of(entry: &Path) -> String {
    let text = fs::read_to_string(entry).unwrap();
    let (_, rest) = text.split_once("rdf:about=\"#").unwrap();
    rest.chars().take(27).collect()
}

/// Makes an authority, and `NAME.pem` with a key and a certificate that it issued; the file of the authority.
pub(crate) fn certified(folder: &Path, name: &str, subject: &str, email: &str) -> PathBuf {
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

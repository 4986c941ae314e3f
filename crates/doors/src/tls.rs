//! The server's certificate: made on first start, or the operator's own.
//!
//! In the folder given: `ca.crt` (what clients trust), `ca.key`, `server.crt`, `server.key`. A
//! server certificate that lacks a name, or is good for less than another year and a quarter, is made
//! anew from the same authority, so that clients need not trust anew.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::showing::Showing;

/// A certificate that can't be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file isn't what it should be.
    #[error("{path} holds no usable {what}: {reason}")]
    Content {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Certificate and key don't fit, or the key's kind isn't supported.
    #[error("the certificate can't be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// The server's certificate on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, the server's own first.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// What clients are to trust, if we made it.
    pub authority: Option<PathBuf>,
}

/// How long a new certificate is good. Some systems refuse server certificates that are good for
/// longer than 825 days.
const LIFETIME: Duration = Duration::from_secs(820 * 24 * 3600);
/// A certificate that isn't good for so long any more is replaced at a start: after a year.
const GOOD_FOR_AT_LEAST: Duration = Duration::from_secs(455 * 24 * 3600);

/// Makes authority and server certificate in `folder` unless they are there and good for `names`
/// (host names and addresses; `localhost`, `127.0.0.1` and `::1` are always in). Blocks.
///
/// # Errors
/// If files can't be read or written.
pub fn ensure_self_signed(folder: &Path, names: &[String]) -> Result<CertificateFiles, TlsError> {
    ensure(folder, names, LIFETIME)
}

/// The same with certificates that are good for another time.
fn ensure(
    folder: &Path,
    names: &[String],
    lifetime: Duration,
) -> Result<CertificateFiles, TlsError> {
    let files = CertificateFiles {
        certificate: folder.join("server.crt"),
        key: folder.join("server.key"),
        authority: Some(folder.join("ca.crt")),
    };
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in names {
        if ServerName::try_from(name.as_str()).is_ok() && !all.contains(name) {
            all.push(name.clone());
        }
    }
    if is_good(&files, &all) {
        return Ok(files);
    }
    create_folder(folder)?;
    let authority_key = authority_key(&folder.join("ca.key"))?;
    let (authority, authority_certificate) = authority(authority_key)?;
    let authority_file = folder.join("ca.crt");
    if !authority_file.exists() {
        write_new(&authority_file, &authority_certificate)?;
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(all)?;
    params.distinguished_name = named("Stratus server");
    params.not_before = (SystemTime::now() - CLOCK_SKEW).into();
    params.not_after = (SystemTime::now() + lifetime).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &authority)?;
    write_new(&files.key, &key.serialize_pem())?;
    write_new(&files.certificate, &certificate.pem())?;
    Ok(files)
}

/// Clients whose clock is slow must not refuse a certificate just made.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

/// Whether clients that trust the authority accept the certificate for all names, now and for long
/// enough, by what it says itself.
fn is_good(files: &CertificateFiles, names: &[String]) -> bool {
    let (Ok(chain), Ok(_)) = (read_chain(&files.certificate), read_key(&files.key)) else {
        return false;
    };
    let Some(authority) = files
        .authority
        .as_ref()
        .and_then(|file| read_chain(file).ok())
    else {
        return false;
    };
    let (Some((own, others)), Some(verifier)) = (chain.split_first(), verifier(authority)) else {
        return false;
    };
    let now = UnixTime::now();
    let later = UnixTime::since_unix_epoch(
        Duration::from_secs(now.as_secs()).saturating_add(GOOD_FOR_AT_LEAST),
    );
    names.iter().all(|name| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| {
            [now, later].into_iter().all(|time| {
                let verified = verifier.verify_server_cert(own, others, &name, &[], time);
                verified.is_ok()
            })
        })
    })
}

/// What a client does that trusts these.
fn verifier(authorities: Vec<CertificateDer<'static>>) -> Option<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    let provider = Arc::new(ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .ok()
}

fn authority_key(file: &Path) -> Result<KeyPair, TlsError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(KeyPair::from_pem(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            write_new(file, &key.serialize_pem())?;
            Ok(key)
        }
        Err(source) => Err(TlsError::File {
            path: file.into(),
            source,
        }),
    }
}

/// The authority of a key, and its certificate. The name follows from the key, so that the same
/// key always makes the same authority, and clients can tell several clouds' apart.
fn authority(key: KeyPair) -> Result<(Issuer<'static, KeyPair>, String), TlsError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    let identifier: String = params
        .key_identifier(&key)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = named(&format!("Stratus authority {identifier}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - CLOCK_SKEW).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(20 * 365 * 24 * 3600)).into();
    let certificate = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), certificate))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "Stratus");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn create_folder(folder: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|source| TlsError::File {
            path: folder.into(),
            source,
        })
}

/// Writes a file whole or not at all; only `*.crt` are readable by others.
fn write_new(file: &Path, text: &str) -> Result<(), TlsError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let temporary = file.with_extension("new");
    let mode = if file.extension().is_some_and(|e| e == "crt") {
        0o644
    } else {
        0o600
    };
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut handle = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        fs::rename(&temporary, file)
    };
    write().map_err(|source| TlsError::File {
        path: file.into(),
        source,
    })
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Content {
        path: file.into(),
        what: "certificate",
        reason,
    };
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("there is no PEM certificate in it".to_owned()));
    }
    Ok(chain)
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| TlsError::Content {
        path: file.into(),
        what: "private key",
        reason: error.to_string(),
    })
}

/// The certificate that clients are shown; it can be read anew while the server runs.
#[derive(Debug)]
pub struct Certificate(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    /// Reads it, and its key. Blocks.
    ///
    /// # Errors
    /// If the files can't be read, or don't fit each other.
    pub fn read(files: &CertificateFiles) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(read_pair(files)?))))
    }

    /// Reads it anew, for connections from now on. Blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read); then nothing changes.
    pub fn renew(&self, files: &CertificateFiles) -> Result<(), TlsError> {
        let pair = Arc::new(read_pair(files)?);
        *self.0.write() = pair;
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

fn read_pair(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = (read_chain(&files.certificate)?, read_key(&files.key)?);
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &ring::default_provider(),
    )?)
}

/// What the server needs to speak TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1: without asking clients for a certificate, and so
/// that they may show one.
pub struct Speech {
    certificate: Arc<Certificate>,
    plain: Arc<ServerConfig>,
    asking: RwLock<Arc<ServerConfig>>,
}

impl Speech {
    /// With this certificate of the server.
    ///
    /// # Errors
    /// If this program's cryptography lacks something.
    pub fn new(certificate: Arc<Certificate>) -> Result<Arc<Self>, TlsError> {
        let plain = server_config(Arc::clone(&certificate), None)?;
        let asking = server_config(Arc::clone(&certificate), Some(&[]))?;
        Ok(Arc::new(Self {
            certificate,
            plain,
            asking: RwLock::new(asking),
        }))
    }

    /// From now on clients that are asked for a certificate are told that these authorities (names, DER) are trusted.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn ask_for(&self, authorities: &[Vec<u8>]) -> Result<(), TlsError> {
        let asking = server_config(Arc::clone(&self.certificate), Some(authorities))?;
        *self.asking.write() = asking;
        Ok(())
    }

    /// What a connection is accepted with; `asks` for a certificate.
    #[must_use]
    pub fn config(&self, asks: bool) -> Arc<ServerConfig> {
        if asks {
            Arc::clone(&self.asking.read())
        } else {
            Arc::clone(&self.plain)
        }
    }
}

fn server_config(
    certificate: Arc<Certificate>,
    authorities: Option<&[Vec<u8>]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(names) => builder.with_client_cert_verifier(Arc::new(Showing::new(&provider, names))),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The names by which this computer is usually known, for a certificate: its host name.
#[must_use]
pub fn host_names() -> Vec<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let usable =
        !name.is_empty() && name.parse::<IpAddr>().is_err() && ServerName::try_from(name).is_ok();
    usable.then(|| name.to_owned()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_while_it_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let files = |name: &str| {
            let names = [format!("{name}.example")];
            ensure_self_signed(&folder.path().join(name), &names).unwrap()
        };
        let (first, second) = (files("first"), files("second"));
        let certificate = Certificate::read(&first).unwrap();
        let shown = || certificate.0.read().cert.clone();
        let before = shown();
        certificate.renew(&second).unwrap();
        assert_ne!(shown(), before);
        let mixed = CertificateFiles {
            key: second.key,
            ..first
        };
        certificate.renew(&mixed).unwrap_err();
        assert_ne!(shown(), before, "what can't be used changes nothing");
    }

    #[test]
    fn a_certificate_is_made_once_and_again_for_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let files = ensure_self_signed(&folder, &["cloud.example".into()]).unwrap();
        Certificate::read(&files).unwrap();
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(mode(&folder.join("ca.key")), 0o600);
        assert_eq!(mode(&files.certificate), 0o644);

        let authority = fs::read(folder.join("ca.crt")).unwrap();
        let first = fs::read(&files.certificate).unwrap();
        ensure_self_signed(&folder, &["cloud.example".into()]).unwrap();
        assert_eq!(fs::read(&files.certificate).unwrap(), first);

        ensure_self_signed(&folder, &["other.example".into(), "192.0.2.7".into()]).unwrap();
        assert_ne!(fs::read(&files.certificate).unwrap(), first);
        assert_eq!(fs::read(folder.join("ca.crt")).unwrap(), authority);
        Certificate::read(&files).unwrap();
    }

    #[test]
    fn a_certificate_that_ends_too_soon_is_replaced_however_new_its_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let files = ensure(folder.path(), &[], GOOD_FOR_AT_LEAST - day).unwrap();
        let first = fs::read(&files.certificate).unwrap();
        ensure_self_signed(folder.path(), &[]).unwrap();
        let second = fs::read(&files.certificate).unwrap();
        assert_ne!(second, first);
        // As after a restore that kept no times: the file is old, what it says counts.
        let file = fs::File::options().append(true).open(&files.certificate);
        let long_ago = SystemTime::UNIX_EPOCH;
        file.unwrap().set_modified(long_ago).unwrap();
        ensure_self_signed(folder.path(), &[]).unwrap();
        assert_eq!(fs::read(&files.certificate).unwrap(), second);
    }

    #[test]
    fn wrong_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.crt");
        fs::write(&file, "nothing").unwrap();
        let files = CertificateFiles {
            certificate: file,
            key: folder.path().join("missing.key"),
            authority: None,
        };
        let error = Certificate::read(&files).unwrap_err().to_string();
        assert!(
            error.contains("x.crt") && error.contains("certificate"),
            "{error}"
        );
    }
}

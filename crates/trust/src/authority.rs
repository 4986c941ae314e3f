//! The cloud's own authority for hosts: what it signs, and for how long.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::{Fingerprint, PublicKey, SERVER_NAME, TrustError, peer};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the certificate of a host is good.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long that of an entry is.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long that of an entry is which asks another daemon.
pub const ENTRY_LIFE: Duration = Duration::from_secs(2 * 24 * 3600);
/// How long the authority itself is.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Key and certificate of the authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

/// The certificate of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCertificate {
    /// PEM.
    pub certificate: String,
    /// When it ends.
    pub expires: SystemTime,
}

/// By which an entry shows another daemon of its cloud that it is one.
#[derive(Debug)]
pub struct EntryCertificate {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn generate(now: SystemTime) -> Result<Self, TrustError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(&key, now)?;
        let certificate = params.self_signed(&key)?;
        Self::of(key, certificate.der().clone(), certificate.pem())
    }

    /// As it was kept.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TrustError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_unreadable| TrustError::Kept("authority's certificate"))?;
        let key =
            KeyPair::from_pem(key).map_err(|_unreadable| TrustError::Kept("authority's key"))?;
        Self::of(key, der, certificate.to_owned())
    }

    fn of(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        certificate_pem: String,
    ) -> Result<Self, TrustError> {
        let key_pem = key.serialize_pem();
        // Of these, only the name is used: it follows from the key.
        let params = authority_params(&key, UNIX_EPOCH + AUTHORITY_LIFE)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            certificate_pem,
            key_pem,
        })
    }

    /// What hosts trust, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, PEM: for the store alone.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What tokens name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// What a server asks hosts for a certificate of.
    ///
    /// # Errors
    /// If the certificate is none of an authority.
    pub fn roots(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(roots)
    }

    /// A key and a certificate for an entry's door for hosts, with the authority's own behind it.
    ///
    /// # Errors
    /// If they can't be made.
    pub fn server(
        &self,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<Arc<CertifiedKey>, TrustError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        params.distinguished_name = named("Stratus entry for hosts");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        good(&mut params, now, SERVER_LIFE)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
    }

    /// A key and a certificate for an entry that asks another daemon of the cloud.
    ///
    /// # Errors
    /// If they can't be made.
    pub fn entry(&self, now: SystemTime) -> Result<EntryCertificate, TrustError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Stratus entry");
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(peer::ENTRY)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        good(&mut params, now, ENTRY_LIFE)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(EntryCertificate {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    /// The certificate of a host: `host` is the part of its id after the slash, `name` what people call it.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn admit(
        &self,
        key: &PublicKey,
        host: &str,
        name: &str,
        now: SystemTime,
    ) -> Result<HostCertificate, TrustError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        let id = Ia5String::try_from(peer::uri_of(host))?;
        params.subject_alt_names = vec![SanType::URI(id)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        good(&mut params, now, CERTIFICATE_LIFE)?;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(HostCertificate {
            certificate: certificate.pem(),
            expires: now + CERTIFICATE_LIFE,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Authority({:?}, …)", self.fingerprint())
    }
}

fn authority_params(key: &KeyPair, now: SystemTime) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    let identifier = params.key_identifier(key);
    let identifier = crate::fingerprint::hexadecimal(identifier.get(..4).unwrap_or_default());
    params.distinguished_name = named(&format!("Stratus authority for hosts {identifier}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = (now - DAY).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// From a day before now on: clocks of hosts that are slow by less must not refuse it.
fn good(params: &mut CertificateParams, now: SystemTime, life: Duration) -> Result<(), TrustError> {
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    let filled = SystemRandom::new().fill(&mut serial);
    filled.map_err(|_unspecified| TrustError::Kept("source of random numbers"))?;
    // Positive, and never zero (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "Stratus");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

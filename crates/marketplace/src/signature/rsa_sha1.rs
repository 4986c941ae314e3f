//! RSA signatures with SHA-1 (RFC 8017 §8.2.1), for Marketplaces of StratusLab, which take no others. The cryptography library still
//! verifies them and makes none any more.

use num_bigint::BigUint;
use pkcs8::der::asn1::UintRef;
use pkcs8::der::{Reader as _, SliceReader};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::error::Error;

/// `DigestInfo` of a SHA-1, up to the digest (RFC 8017 §9.2, note 1).
const DIGEST_INFO: [u8; 15] = [
    0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14,
];

/// Signs a message with a key in its PKCS #1 form. The exponentiation is blinded: its time says nothing about the key.
///
/// # Errors
/// [`Error::UnusableKey`].
pub fn sign(pkcs1: &[u8], message: &[u8]) -> Result<Vec<u8>, Error> {
    let unusable = || Error::UnusableKey("the RSA key can't be read".to_owned());
    let (modulus, public, private) = numbers(pkcs1).map_err(|_| unusable())?;
    let length = usize::try_from(modulus.bits().div_ceil(8)).map_err(|_| unusable())?;

    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, message);
    let padding = length
        .checked_sub(3 + DIGEST_INFO.len() + digest.as_ref().len())
        .filter(|padding| *padding >= 8)
        .ok_or_else(unusable)?;
    let mut encoded = vec![0, 1];
    encoded.resize(2 + padding, 0xff);
    encoded.push(0);
    encoded.extend_from_slice(&DIGEST_INFO);
    encoded.extend_from_slice(digest.as_ref());
    let encoded = BigUint::from_bytes_be(&encoded);

    let mut random = vec![0; length];
    let (blind, unblind) = loop {
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Error::UnusableKey("there are no random numbers".to_owned()))?;
        let blind = BigUint::from_bytes_be(&random) % &modulus;
        // All but a factor of the modulus has an inverse.
        if let Some(unblind) = blind.modinv(&modulus) {
            break (blind, unblind);
        }
    };
    let blinded = (encoded * blind.modpow(&public, &modulus)) % &modulus;
    let signature = (blinded.modpow(&private, &modulus) * unblind) % &modulus;

    let digits = signature.to_bytes_be();
    let mut out = vec![0; length.saturating_sub(digits.len())];
    out.extend_from_slice(&digits);
    Ok(out)
}

/// Modulus, public and private exponent (RFC 8017 §A.1.2).
fn numbers(pkcs1: &[u8]) -> pkcs8::der::Result<(BigUint, BigUint, BigUint)> {
    let number = |integer: UintRef<'_>| BigUint::from_bytes_be(integer.as_bytes());
    SliceReader::new(pkcs1)?.sequence(|reader| {
        let _version: u8 = reader.decode()?;
        let modulus = number(reader.decode()?);
        let public = number(reader.decode()?);
        let private = number(reader.decode()?);
        // Primes and what is computed from them.
        while !reader.is_finished() {
            let _: UintRef<'_> = reader.decode()?;
        }
        Ok((modulus, public, private))
    })
}

//! The service's side: from variables and request fields to what a guest is given.

use std::io::Read as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use flate2::read::MultiGzDecoder;

use crate::encoding::{
    CLOUD_INIT_AUTHORIZED_KEYS, CLOUD_INIT_USER_DATA, CONTEXT_METHOD, PUBLIC_KEY,
};
use crate::error::{ContextError, Result};
use crate::guest::ContextMethod;
use crate::keys::AuthorizedKeys;
use crate::limits;
use crate::user_data::UserData;
use crate::variables::Variables;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Clients differ in padding; a missing one is no reason to refuse.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a user asks a machine to be told, in plain form. Built from the variables of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserContext {
    /// How the user's tools expect it to be given; all media are made in any case.
    pub method: ContextMethod,
    /// The keys of `PUBLIC_KEY`, `SSH_PUBLIC_KEY` and `CLOUD_INIT_AUTHORIZED_KEYS`.
    pub public_keys: AuthorizedKeys,
    /// The inflated user data of `CLOUD_INIT_USER_DATA`, else of `USER_DATA` or `USERDATA`.
    pub user_data: Option<UserData>,
    /// The same as it was sent: still compressed if it was. For keeping, since it is much smaller.
    pub sent_user_data: Option<Vec<u8>>,
    /// All variables but the keys and user data taken out above.
    pub variables: Variables,
}

impl UserContext {
    /// Takes keys and user data out of `variables`. Keys given otherwise (the user's default key) can be added afterwards.
    ///
    /// # Errors
    /// Whatever in the encoded values is not what it should be: see [`decode_user_data`] and [`AuthorizedKeys::parse`].
    pub fn from_variables(mut variables: Variables) -> Result<Self> {
        let method = ContextMethod::from_variable(variables.get(CONTEXT_METHOD));

        let mut public_keys = AuthorizedKeys::none();
        for name in [PUBLIC_KEY, "SSH_PUBLIC_KEY"] {
            if let Some(text) = variables.remove(name) {
                public_keys.add(&text)?;
            }
        }
        if let Some(encoded) = variables.remove(CLOUD_INIT_AUTHORIZED_KEYS) {
            let not_text = |_| ContextError::InvalidKeys {
                problem: format!("{CLOUD_INIT_AUTHORIZED_KEYS} is not text"),
            };
            public_keys.add(
                &String::from_utf8(decode_base64(&encoded, CLOUD_INIT_AUTHORIZED_KEYS)?)
                    .map_err(not_text)?,
            )?;
        }

        let from_client = variables
            .remove(CLOUD_INIT_USER_DATA)
            .map(|text| sent_user_data(&text))
            .transpose()?;
        let encodings = [
            variables.remove("USERDATA_ENCODING"),
            variables.remove("USER_DATA_ENCODING"),
        ];
        let is_base64 = encodings
            .iter()
            .flatten()
            .any(|encoding| encoding == "base64");
        let mut from_template = None;
        for name in ["USERDATA", "USER_DATA"] {
            if let Some(text) = variables.remove(name) {
                from_template = Some(if is_base64 {
                    sent_user_data(&text)?
                } else {
                    text.into_bytes()
                });
            }
        }

        let sent_user_data = from_client.or(from_template);
        Ok(Self {
            method,
            public_keys,
            user_data: sent_user_data.clone().map(accept_user_data).transpose()?,
            sent_user_data,
            variables,
        })
    }
}

/// User data as the doors receive it: base64 of the text, or of its gzip.
///
/// Blanks and line breaks in the base64 are skipped. At most [`limits::USER_DATA_MAX_BYTES`] as sent and
/// [`limits::INFLATED_USER_DATA_MAX_BYTES`] inflated; a compression bomb is given up at that size.
///
/// # Errors
/// [`ContextError::InvalidBase64`], [`ContextError::InvalidGzip`], [`ContextError::UserDataTooLarge`].
pub fn decode_user_data(text: &str) -> Result<UserData> {
    accept_user_data(unpacked(text)?)
}

/// User data as the doors receive it, checked as by [`decode_user_data`], but still compressed if it was.
///
/// # Errors
/// Those of [`decode_user_data`].
pub fn sent_user_data(text: &str) -> Result<Vec<u8>> {
    let sent = unpacked(text)?;
    accept_user_data(sent.clone())?;
    Ok(sent)
}

fn unpacked(text: &str) -> Result<Vec<u8>> {
    // Four characters carry three bytes; line breaks may add to that. Far longer text is not worth decoding.
    if text.len() > limits::USER_DATA_MAX_BYTES * 2 {
        return Err(too_large_as_sent());
    }
    decode_base64(text, "user data")
}

/// User data as raw bytes: inflated if it is gzip, with the limits of [`decode_user_data`].
///
/// # Errors
/// [`ContextError::InvalidGzip`], [`ContextError::UserDataTooLarge`].
pub fn accept_user_data(data: Vec<u8>) -> Result<UserData> {
    if data.len() > limits::USER_DATA_MAX_BYTES {
        return Err(too_large_as_sent());
    }
    if !data.starts_with(&GZIP_MAGIC) {
        return Ok(UserData(data));
    }
    let mut inflated = Vec::new();
    let read_limit = limits::INFLATED_USER_DATA_MAX_BYTES as u64 + 1;
    MultiGzDecoder::new(data.as_slice())
        .take(read_limit)
        .read_to_end(&mut inflated)
        .map_err(|source| ContextError::InvalidGzip { source })?;
    if inflated.len() > limits::INFLATED_USER_DATA_MAX_BYTES {
        return Err(ContextError::UserDataTooLarge {
            stage: "inflated",
            max: limits::INFLATED_USER_DATA_MAX_BYTES,
        });
    }
    Ok(UserData(inflated))
}

fn too_large_as_sent() -> ContextError {
    ContextError::UserDataTooLarge {
        stage: "as sent",
        max: limits::USER_DATA_MAX_BYTES,
    }
}

fn decode_base64(text: &str, what: &'static str) -> Result<Vec<u8>> {
    let packed: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    LENIENT
        .decode(packed)
        .map_err(|source| ContextError::InvalidBase64 { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_compressed_user_data_arrive_alike() {
        for sent in [b"#!/bin/sh\n".to_vec(), gzip(b"#!/bin/sh\n")] {
            let mut text = STANDARD.encode(sent);
            text.insert_str(4, "\r\n ");
            assert_eq!(
                decode_user_data(text.trim_end_matches('=')).unwrap(),
                UserData(b"#!/bin/sh\n".to_vec())
            );
        }
        assert_eq!(decode_user_data("").unwrap(), UserData::default());
    }

    #[test]
    fn a_compression_bomb_is_given_up() {
        let bomb = gzip(&vec![0; limits::INFLATED_USER_DATA_MAX_BYTES + 1]);
        assert!(bomb.len() < limits::USER_DATA_MAX_BYTES);
        assert!(matches!(
            accept_user_data(bomb),
            Err(ContextError::UserDataTooLarge {
                stage: "inflated",
                ..
            })
        ));
        // Several members are one stream.
        let half = gzip(&vec![0; limits::INFLATED_USER_DATA_MAX_BYTES / 2 + 1]);
        assert!(accept_user_data([half.clone(), half].concat()).is_err());
        assert_eq!(
            accept_user_data(gzip(&vec![7; limits::INFLATED_USER_DATA_MAX_BYTES]))
                .unwrap()
                .len(),
            limits::INFLATED_USER_DATA_MAX_BYTES
        );
    }

    #[test]
    fn what_is_not_what_it_claims_is_refused() {
        assert!(matches!(
            decode_user_data("a*b"),
            Err(ContextError::InvalidBase64 { .. })
        ));
        assert!(matches!(
            accept_user_data(vec![0x1f, 0x8b, 8]),
            Err(ContextError::InvalidGzip { .. })
        ));
        assert!(matches!(
            accept_user_data(vec![1; limits::USER_DATA_MAX_BYTES + 1]),
            Err(ContextError::UserDataTooLarge {
                stage: "as sent",
                ..
            })
        ));
        assert!(decode_user_data(&"A".repeat(limits::USER_DATA_MAX_BYTES * 2 + 4)).is_err());
    }

    #[test]
    fn keys_and_user_data_are_taken_out_of_the_variables() {
        let variables = Variables::from_pairs([
            ("public_key", "ssh-rsa A a\n"),
            ("SSH_PUBLIC_KEY", "ssh-rsa A a\nssh-rsa B b"),
            ("USER_DATA", "IyEvYmluL3No"),
            ("USERDATA_ENCODING", "base64"),
            ("TARGET", "hdd"),
        ])
        .unwrap();
        let context = UserContext::from_variables(variables).unwrap();
        assert_eq!(context.public_keys.to_string(), "ssh-rsa A a\nssh-rsa B b");
        assert_eq!(context.user_data.as_deref(), Some(b"#!/bin/sh".as_slice()));
        assert_eq!(context.sent_user_data, Some(b"#!/bin/sh".to_vec()));
        assert_eq!(
            context.variables.iter().collect::<Vec<_>>(),
            [("TARGET", "hdd")]
        );
        assert_eq!(context.method, ContextMethod::OpenNebula);
    }

    proptest! {
        #[test]
        fn any_text_decodes_or_is_refused(text in any::<String>(), packed in "[A-Za-z0-9+/=]{0,64}") {
            let _ = decode_user_data(&text);
            let _ = decode_user_data(&packed);
        }

        #[test]
        fn damaged_gzip_never_gives_more_than_allowed(data: Vec<u8>, place: prop::sample::Index, byte: u8) {
            let mut damaged = gzip(&data);
            *place.get_mut(&mut damaged) = byte;
            if let Ok(inflated) = accept_user_data(damaged) {
                prop_assert!(inflated.len() <= limits::INFLATED_USER_DATA_MAX_BYTES);
            }
        }

        #[test]
        fn any_variables_are_understood_or_refused(values in proptest::collection::vec((0..8_usize, any::<String>()), 0..8)) {
            const NAMES: [&str; 8] = ["PUBLIC_KEY", "CLOUD_INIT_AUTHORIZED_KEYS", "CLOUD_INIT_USER_DATA", "USER_DATA",
                "USERDATA", "USER_DATA_ENCODING", "CONTEXT_METHOD", "OTHER"];
            let pairs = values.into_iter().map(|(name, value)| (NAMES[name], value));
            if let Ok(variables) = Variables::from_pairs(pairs) {
                let _ = UserContext::from_variables(variables);
            }
        }
    }
}

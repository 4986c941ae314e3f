//! `--cloud-init 'TYPE,FILE#TYPE,FILE'` and the arguments of `stratus-prepare-context`.

use std::io::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::mime::{Part, multipart};
use super::{CLOUD_INIT_AUTHORIZED_KEYS, CLOUD_INIT_USER_DATA, CONTEXT_METHOD};
use crate::error::{ContextError, Result, excerpt};
use crate::keys;
use crate::limits;
use crate::variables::Variables;

/// One `TYPE,FILE` pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MimePair {
    /// `ssh`, `none`, or the subtype of a `text/…` part.
    pub kind: String,
    /// The file, as the user named it.
    pub file: String,
}

/// What cloud-init is given: the values of the three variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudInit {
    /// base64 of the `authorized_keys` text, if there is any key.
    pub authorized_keys: Option<String>,
    /// base64 of the gzip of the user data, if there is any.
    pub user_data: Option<String>,
}

/// Reads the value of `--cloud-init`: pairs separated by `#`, empty ones skipped. The empty text has no pairs and asks for the
/// user's key alone.
///
/// # Errors
/// [`ContextError::InvalidMimePair`].
pub fn parse_cloud_init_option(text: &str) -> Result<Vec<MimePair>> {
    parse_cloud_init_arguments(text.split('#'))
}

/// Reads pairs that are arguments of their own.
///
/// # Errors
/// [`ContextError::InvalidMimePair`].
pub fn parse_cloud_init_arguments<S: AsRef<str>>(
    pairs: impl IntoIterator<Item = S>,
) -> Result<Vec<MimePair>> {
    pairs
        .into_iter()
        .filter(|pair| !pair.as_ref().trim().is_empty())
        .map(|pair| parse_pair(pair.as_ref().trim()))
        .collect()
}

fn parse_pair(pair: &str) -> Result<MimePair> {
    // The type becomes part of a MIME header: only characters of an RFC 2045 token.
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!$%&'*+-.^_`|~".contains(&byte);
    let pair_of = |kind: &str, file: &str| {
        let (kind, file) = (kind.trim(), file.trim());
        let kind = kind.strip_prefix("text/").unwrap_or(kind);
        let is_valid = !kind.is_empty()
            && kind.bytes().all(is_token_byte)
            && !file.is_empty()
            && !file.contains(',');
        is_valid.then(|| MimePair {
            kind: kind.to_owned(),
            file: file.to_owned(),
        })
    };
    pair.split_once(',')
        .and_then(|(kind, file)| pair_of(kind, file))
        .ok_or_else(|| ContextError::InvalidMimePair {
            pair: pair.to_owned(),
        })
}

/// Reads the files of `pairs` and encodes them.
///
/// Keys are those of all `ssh` pairs, or of `default_key_file` if there is none (`stratus-run-instance` gives the user's key file,
/// `stratus-prepare-context` gives nothing). The first `none` pair's file is the whole user data; otherwise the other pairs become one
/// multipart text in their order.
///
/// # Errors
/// [`ContextError::UnreadableFile`], [`ContextError::PrivateKey`], [`ContextError::InvalidKeys`] and
/// [`ContextError::UserDataTooLargeToSend`].
pub fn encode_cloud_init(
    pairs: &[MimePair],
    default_key_file: Option<&str>,
    mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<CloudInit> {
    let mut read = |file: &str| {
        read(Path::new(file)).map_err(|source| ContextError::UnreadableFile {
            file: file.to_owned(),
            source,
        })
    };

    let mut key_files: Vec<&str> = pairs
        .iter()
        .filter(|pair| pair.kind == "ssh")
        .map(|pair| pair.file.as_str())
        .collect();
    if key_files.is_empty() {
        key_files.extend(default_key_file);
    }
    let mut authorized_keys = String::new();
    for file in key_files {
        let not_text = || ContextError::InvalidKeys {
            problem: format!("'{}' is not text; give a .pub file", excerpt(file)),
        };
        let text = String::from_utf8(read(file)?).map_err(|_| not_text())?;
        keys::refuse_private_key(&text, file)?;
        authorized_keys.push_str(&keys::key_lines(&text).collect::<Vec<_>>().join("\n"));
        authorized_keys.push('\n');
    }

    let user_data = match pairs.iter().find(|pair| pair.kind == "none") {
        Some(pair) => Some(read(&pair.file)?),
        None => {
            let mut parts = Vec::new();
            for pair in pairs.iter().filter(|pair| pair.kind != "ssh") {
                parts.push(Part {
                    subtype: pair.kind.clone(),
                    file_name: base_name(&pair.file),
                    content: read(&pair.file)?,
                });
            }
            (!parts.is_empty()).then(|| multipart(&parts))
        }
    };

    Ok(CloudInit {
        authorized_keys: (!authorized_keys.is_empty()).then(|| STANDARD.encode(authorized_keys)),
        user_data: user_data
            .map(|data| compress(&data))
            .transpose()?
            .map(|gzip| STANDARD.encode(gzip)),
    })
}

impl CloudInit {
    /// The variables to send.
    ///
    /// # Errors
    /// [`ContextError::InvalidVariableValue`] when the keys are too long for a variable.
    pub fn variables(&self) -> Result<Variables> {
        let mut variables = Variables::new();
        variables.set(CONTEXT_METHOD, "cloud-init")?;
        for (name, value) in [
            (CLOUD_INIT_AUTHORIZED_KEYS, &self.authorized_keys),
            (CLOUD_INIT_USER_DATA, &self.user_data),
        ] {
            if let Some(value) = value {
                variables.set(name, value.as_str())?;
            }
        }
        Ok(variables)
    }

    /// The text of `cloud-init.txt`, to be passed as `--context-file`. With user data it ends in an empty line, as the original's did.
    #[must_use]
    pub fn file_text(&self) -> String {
        let mut text = format!("{CONTEXT_METHOD}=cloud-init\n");
        if let Some(keys) = &self.authorized_keys {
            text.push_str(&format!("{CLOUD_INIT_AUTHORIZED_KEYS}={keys}\n"));
        }
        if let Some(user_data) = &self.user_data {
            text.push_str(&format!("{CLOUD_INIT_USER_DATA}={user_data}\n\n"));
        }
        text
    }
}

fn base_name(file: &str) -> String {
    Path::new(file).file_name().map_or_else(
        || file.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// gzip level 9 without a time stamp, so that the same files give the same text.
fn compress(data: &[u8]) -> Result<Vec<u8>> {
    // Only a Vec is written to, so an error here would be the compressor's own.
    let failed = |source| ContextError::InvalidGzip { source };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).map_err(failed)?;
    let gzip = encoder.finish().map_err(failed)?;
    if gzip.len() > limits::ENCODED_USER_DATA_MAX_BYTES {
        return Err(ContextError::UserDataTooLargeToSend { bytes: gzip.len() });
    }
    Ok(gzip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoding::{UserContext, decode_user_data};
    use proptest::prelude::*;

    const KEY: &str = "Comment: mine\nssh-rsa AAAA me@here\n";

    fn read_fake(path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("/k/id.pub") => Ok(KEY.into()),
            Some("second.pub") => Ok(" ssh-ed25519 BBBB x \r\n".into()),
            Some("d/run.sh") => Ok("#!/bin/sh\necho hi\n".into()),
            Some("cfg.yaml") => Ok("#cloud-config\n{}\n".into()),
            Some("raw") => Ok("#!/bin/sh\ntrue\n".into()),
            Some("utf8") => Ok("#cloud-config\nname: é\n".into()),
            Some("noise") => {
                let mut state = 1_u32;
                Ok((0..40_000)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 24) as u8
                    })
                    .collect())
            }
            Some("private") => Ok("-----BEGIN OPENSSH PRIVATE KEY-----\n".into()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn encode(option: &str, default_key_file: Option<&str>) -> Result<CloudInit> {
        encode_cloud_init(
            &parse_cloud_init_option(option)?,
            default_key_file,
            read_fake,
        )
    }

    fn text_of(base64: Option<&String>) -> String {
        String::from_utf8(STANDARD.decode(base64.unwrap()).unwrap()).unwrap()
    }

    fn user_data_of(encoded: &CloudInit) -> String {
        String::from_utf8(
            decode_user_data(encoded.user_data.as_ref().unwrap())
                .unwrap()
                .into_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn wrong_pairs_are_named() {
        for wrong in ["ssh", "ssh,a,b", ",file", "ssh,", "a b,f", "x\ny,f"] {
            let error = parse_cloud_init_option(wrong).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("invalid CloudInit mimetype pair: '{wrong}'")
            );
        }
        let pairs =
            parse_cloud_init_option(" ssh , /k/id.pub # ## x-shellscript,d/run.sh#").unwrap();
        assert_eq!(
            pairs[0],
            MimePair {
                kind: "ssh".into(),
                file: "/k/id.pub".into()
            }
        );
        assert_eq!(pairs.len(), 2);
    }

    #[test]
    fn the_users_key_is_taken_without_an_ssh_pair_and_replaced_by_one() {
        assert_eq!(
            text_of(
                encode("", Some("/k/id.pub"))
                    .unwrap()
                    .authorized_keys
                    .as_ref()
            ),
            "ssh-rsa AAAA me@here\n"
        );
        assert_eq!(encode("", None).unwrap(), CloudInit::default());
        let both = encode("ssh,second.pub#ssh,/k/id.pub", Some("missing")).unwrap();
        assert_eq!(
            text_of(both.authorized_keys.as_ref()),
            "ssh-ed25519 BBBB x\nssh-rsa AAAA me@here\n"
        );
        assert_eq!(both.user_data, None);
    }

    #[test]
    fn parts_become_one_multipart_text() {
        let encoded = encode("x-shellscript,d/run.sh#cloud-config,cfg.yaml", None).unwrap();
        assert_eq!(
            user_data_of(&encoded),
            "Content-Type: multipart/mixed; boundary=\"===============0000000000==\"\nMIME-Version: 1.0\n\n\
             --===============0000000000==\nContent-Type: text/x-shellscript; charset=\"us-ascii\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename=\"run.sh\"\n\n#!/bin/sh\necho hi\n\n\
             --===============0000000000==\nContent-Type: text/cloud-config; charset=\"us-ascii\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename=\"cfg.yaml\"\n\n#cloud-config\n{}\n\n\
             --===============0000000000==--\n"
        );
        let gzip = STANDARD
            .decode(encoded.user_data.as_ref().unwrap())
            .unwrap();
        assert_eq!(&gzip[..4], [0x1f, 0x8b, 8, 0]);
        assert_eq!(
            gzip[8], 2,
            "the gzip header says that compression was the best"
        );
        assert_eq!(
            encoded,
            encode("x-shellscript,d/run.sh#cloud-config,cfg.yaml", None).unwrap()
        );
    }

    #[test]
    fn the_first_none_is_the_whole_user_data_and_keys_stay() {
        let encoded = encode(
            "cloud-config,missing#none,raw#none,cfg.yaml#ssh,second.pub",
            None,
        )
        .unwrap();
        assert_eq!(user_data_of(&encoded), "#!/bin/sh\ntrue\n");
        assert_eq!(
            text_of(encoded.authorized_keys.as_ref()),
            "ssh-ed25519 BBBB x\n"
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let error = encode("none,noise", None).unwrap_err();
        let ContextError::UserDataTooLargeToSend { bytes } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            error.to_string(),
            format!("multipart size ({bytes}) exceeds limit (16384)")
        );
        assert!(*bytes > 40_000);
        assert!(matches!(
            encode("none,missing", None),
            Err(ContextError::UnreadableFile { .. })
        ));
        assert!(matches!(
            encode("ssh,private", None),
            Err(ContextError::PrivateKey { .. })
        ));
        assert!(matches!(
            encode("ssh,noise", None),
            Err(ContextError::InvalidKeys { .. })
        ));
    }

    #[test]
    fn the_file_has_the_original_shape() {
        let keys_only = encode("ssh,second.pub", None).unwrap();
        assert_eq!(
            keys_only.file_text(),
            "CONTEXT_METHOD=cloud-init\nCLOUD_INIT_AUTHORIZED_KEYS=c3NoLWVkMjU1MTkgQkJCQiB4Cg==\n"
        );
        let both = encode("ssh,second.pub#none,raw", None).unwrap();
        let (keys, data) = (
            both.authorized_keys.as_ref().unwrap(),
            both.user_data.as_ref().unwrap(),
        );
        assert_eq!(
            both.file_text(),
            format!(
                "CONTEXT_METHOD=cloud-init\nCLOUD_INIT_AUTHORIZED_KEYS={keys}\nCLOUD_INIT_USER_DATA={data}\n\n"
            )
        );
        // What was written is read back as a context file.
        assert_eq!(
            crate::encoding::parse_context_file(&both.file_text()).unwrap(),
            both.variables().unwrap()
        );
    }

    #[test]
    fn the_service_gets_back_what_the_client_sent() {
        let sent = encode("ssh,/k/id.pub#cloud-config,utf8", None).unwrap();
        let received = UserContext::from_variables(sent.variables().unwrap()).unwrap();
        assert_eq!(received.public_keys.to_string(), "ssh-rsa AAAA me@here");
        assert_eq!(received.method, crate::ContextMethod::CloudInit);
        let user_data = String::from_utf8(received.user_data.unwrap().into_bytes()).unwrap();
        assert!(
            user_data.contains("charset=\"utf-8\"")
                && user_data.contains(&STANDARD.encode("#cloud-config\nname: é\n"))
        );
    }

    proptest! {
        #[test]
        fn any_option_is_parsed_or_refused(option in "[a-z,# /\\n\"é]{0,100}") {
            if let Ok(pairs) = parse_cloud_init_option(&option) {
                for pair in pairs {
                    prop_assert!(!pair.file.is_empty() && !pair.kind.contains(char::is_whitespace));
                }
            }
        }

        #[test]
        fn any_file_arrives_unchanged(content in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let pairs = parse_cloud_init_option("none,f").unwrap();
            let encoded = encode_cloud_init(&pairs, None, |_| Ok(content.clone())).unwrap();
            // Content that is itself gzip would be inflated again by the service.
            prop_assume!(!content.starts_with(&[0x1f, 0x8b]));
            prop_assert_eq!(decode_user_data(&encoded.user_data.unwrap()).unwrap().into_bytes(), content);
        }
    }
}

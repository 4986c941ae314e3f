//! What is to be sent, and how it is kept until then.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::{
    Address, Message,
    message::{Attachment as Part, Mailbox, MultiPart, SinglePart, header::ContentType},
};
use serde::{Deserialize, Serialize};
use store::{Key, KeyError};
use thiserror::Error;
use uuid::Uuid;

/// Where letters are in the store.
pub(crate) const COLLECTION: &str = "Letter";
/// Most bytes of a stored letter: less than a transaction may have, so that it fits beside what it tells of.
const MAX_BYTES: usize = 640 * 1024;
/// Longest subject, in characters.
const MAX_SUBJECT: usize = 200;

/// Why a letter can't be one.
#[derive(Debug, Error)]
pub enum LetterError {
    /// The address isn't one.
    #[error("`{0}` is no e-mail address")]
    Address(String),
    /// It is too large.
    #[error("the letter to {to} has {bytes} bytes, at most {MAX_BYTES} are possible")]
    TooLarge {
        /// Whom it is for.
        to: String,
        /// Its size with attachments, as it is stored.
        bytes: usize,
    },
    /// The stored form can't be read, or the message not be put together.
    #[error("{0}")]
    Form(String),
}

/// A file that goes with a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name, without a folder.
    pub name: String,
    /// Such as `application/rdf+xml`.
    pub media_type: String,
    /// Its content, in Base64.
    content: String,
}

impl Attachment {
    /// A file of these bytes.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        media_type: impl Into<String>,
        content: impl AsRef<[u8]>,
    ) -> Self {
        Self {
            name: name.into(),
            media_type: media_type.into(),
            content: STANDARD.encode(content),
        }
    }
}

/// A letter to one person, in plain text.
///
/// ```
/// # fn example() -> Result<(), mail::LetterError> {
/// let letter = mail::Letter::new("ann@example.org", "Confirm your address", "Open https://…\n")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    to: String,
    subject: String,
    text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment>,
}

impl Letter {
    /// To the address `to`. Control characters of the subject become spaces, and a long one is cut.
    ///
    /// # Errors
    /// [`LetterError::Address`].
    pub fn new(to: &str, subject: &str, text: impl Into<String>) -> Result<Self, LetterError> {
        let address: Address = to
            .trim()
            .parse()
            .map_err(|_| LetterError::Address(to.to_owned()))?;
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Ok(Self {
            to: address.to_string(),
            subject: subject.chars().take(MAX_SUBJECT).map(plain).collect(),
            text: text.into(),
            attachments: Vec::new(),
        })
    }

    /// With a file.
    #[must_use]
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Whom it is for.
    #[must_use]
    pub fn to(&self) -> &str {
        &self.to
    }

    /// A name for it in the store, new at each call, and what is to be written there. The key must be absent.
    ///
    /// # Errors
    /// [`LetterError::TooLarge`].
    pub fn stored(&self) -> Result<(Key, Vec<u8>), LetterError> {
        let queued = Queued {
            letter: self.clone(),
            queued_ms: now_ms(),
            attempts: 0,
            due_ms: 0,
            claimed_by: None,
            trouble: None,
        };
        let value = queued.encode()?;
        if value.len() > MAX_BYTES {
            return Err(LetterError::TooLarge {
                to: self.to.clone(),
                bytes: value.len(),
            });
        }
        let key = Key::new(COLLECTION, &Uuid::now_v7().to_string());
        Ok((
            key.map_err(|error: KeyError| LetterError::Form(error.to_string()))?,
            value,
        ))
    }

    /// The message as the mail server gets it. The same `id` makes the same `Message-ID`.
    pub(crate) fn message(&self, from: &Mailbox, id: &str) -> Result<Message, LetterError> {
        let form = |error: &dyn std::error::Error| LetterError::Form(error.to_string());
        let to: Address = self
            .to
            .parse()
            .map_err(|_| LetterError::Address(self.to.clone()))?;
        let builder = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(self.subject.clone())
            .message_id(Some(format!("<{id}@{}>", from.email.domain())));
        let text = SinglePart::plain(self.text.clone());
        if self.attachments.is_empty() {
            return builder.singlepart(text).map_err(|error| form(&error));
        }
        let mut parts = MultiPart::mixed().singlepart(text);
        for attachment in &self.attachments {
            let content = STANDARD
                .decode(&attachment.content)
                .map_err(|error| form(&error))?;
            let media_type =
                ContentType::parse(&attachment.media_type).map_err(|error| form(&error))?;
            parts = parts.singlepart(Part::new(attachment.name.clone()).body(content, media_type));
        }
        builder.multipart(parts).map_err(|error| form(&error))
    }
}

/// A letter on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Queued {
    #[serde(flatten)]
    pub letter: Letter,
    /// When it was queued, milliseconds since 1970.
    pub queued_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is to be tried next, likewise. Who tries puts it off first: that is the claim.
    pub due_ms: u64,
    /// Who tries at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// Why it wasn't delivered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Queued {
    pub(crate) fn decode(value: &[u8]) -> Result<Self, LetterError> {
        serde_json::from_slice(value).map_err(|error| LetterError::Form(error.to_string()))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, LetterError> {
        serde_json::to_vec(self).map_err(|error| LetterError::Form(error.to_string()))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )]

    use super::*;

    fn from() -> Mailbox {
        "Stratus <cloud@example.org>".parse().unwrap()
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "ann",
            "ann@",
            "@example.org",
            "a b@example.org",
            "ann@example.org, bob@example.org",
            "ann@example.org\r\nBcc: all@example.org",
            "Ann <ann@example.org>",
        ] {
            let error = Letter::new(bad, "Hello", "").unwrap_err();
            assert!(matches!(error, LetterError::Address(_)), "{bad:?}: {error}");
        }
    }

    #[test]
    fn nobody_adds_headers_by_a_subject_or_a_file_name() {
        let letter = Letter::new("ann@example.org", "Hi\r\nBcc: all@example.org", "text")
            .unwrap()
            .attach(Attachment::new("a\"\r\nX-Bad: 1.xml", "text/xml", b"<a/>"));
        let bytes = letter.message(&from(), "7").unwrap().formatted();
        let text = String::from_utf8(bytes).unwrap();
        for line in text.lines() {
            assert!(
                !line.starts_with("Bcc") && !line.starts_with("X-Bad"),
                "{text}"
            );
        }
        assert!(text.contains("Message-ID: <7@example.org>"), "{text}");
    }

    #[test]
    fn a_letter_survives_the_store() {
        let letter = Letter::new(" ann@example.org ", "Grüße", "Text\n")
            .unwrap()
            .attach(Attachment::new(
                "entry.xml",
                "application/rdf+xml",
                b"\x00\xff",
            ));
        let (_, value) = letter.stored().unwrap();
        assert_eq!(Queued::decode(&value).unwrap().letter, letter);
    }

    #[test]
    fn too_large_a_letter_is_refused() {
        let huge = Attachment::new("disk", "application/octet-stream", vec![0; MAX_BYTES]);
        let letter = Letter::new("ann@example.org", "Disk", "")
            .unwrap()
            .attach(huge);
        let error = letter.stored().unwrap_err();
        assert!(matches!(error, LetterError::TooLarge { .. }), "{error}");
    }
}

//! The one error type of this crate.

use crate::limits;

/// What can be wrong with a context, with the value at fault and what to do about it.
///
/// The messages of [`InvalidMimePair`](Self::InvalidMimePair), [`SyntaxErrorInLine`](Self::SyntaxErrorInLine) and
/// [`UserDataTooLargeToSend`](Self::UserDataTooLargeToSend) are part of the command-line contract and must stay as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A `--cloud-init` pair that is not `TYPE,FILE`.
    #[error("invalid CloudInit mimetype pair: '{pair}'")]
    InvalidMimePair {
        /// The pair as given, without blanks around it.
        pair: String,
    },

    /// A line of a context file, or a pair of `--context`, without `=`.
    #[error("Error while parsing contextualization file.\nSyntax error in line `{line}`")]
    SyntaxErrorInLine {
        /// The line as given.
        line: String,
    },

    /// The compressed user data is larger than what StratusLab clouds accept.
    #[error(
        "multipart size ({bytes}) exceeds limit ({})",
        limits::ENCODED_USER_DATA_MAX_BYTES
    )]
    UserDataTooLargeToSend {
        /// Size of the gzip.
        bytes: usize,
    },

    /// A file named in a pair could not be read.
    #[error("cannot read '{file}' for contextualization: {source}")]
    UnreadableFile {
        /// The file as named by the user.
        file: String,
        /// Why.
        source: std::io::Error,
    },

    /// A file given as public key is the private one.
    #[error("{file} holds a private key; give the public one (its file usually ends in .pub)")]
    PrivateKey {
        /// The file, or the place in a request, that held it.
        file: String,
    },

    /// Public keys that cannot go into an `authorized_keys` file.
    #[error("public keys: {problem}")]
    InvalidKeys {
        /// What is wrong.
        problem: String,
    },

    /// A variable name that is refused.
    #[error("context variable name '{name}' {problem}")]
    InvalidVariableName {
        /// The name, in upper case, shortened.
        name: String,
        /// Which rule it breaks.
        problem: &'static str,
    },

    /// A variable whose value is refused.
    #[error("context variable {name}: {problem}")]
    InvalidVariableValue {
        /// The name.
        name: String,
        /// Which rule the value breaks.
        problem: String,
    },

    /// Too many variables, or too much in all of them together.
    #[error("context has {what}: {found}, at most {max} are allowed")]
    TooManyVariables {
        /// What was counted.
        what: &'static str,
        /// How many there would be.
        found: usize,
        /// The limit.
        max: usize,
    },

    /// A value that should be base64 is not.
    #[error("{what} is not valid base64: {source}")]
    InvalidBase64 {
        /// Which value.
        what: &'static str,
        /// Where decoding stopped.
        source: base64::DecodeError,
    },

    /// User data that starts like gzip and is not.
    #[error(
        "user data starts as gzip but cannot be inflated: {source}; send it uncompressed or compress it again"
    )]
    InvalidGzip {
        /// What the decoder said.
        source: std::io::Error,
    },

    /// User data above the service's limit.
    #[error(
        "user data {stage} is larger than {max} bytes; let it fetch the rest by itself (#include, a script)"
    )]
    UserDataTooLarge {
        /// "as sent" or "inflated".
        stage: &'static str,
        /// The limit.
        max: usize,
    },

    /// A host or domain name against RFC 1123.
    #[error(
        "'{name}' is not a host name: letters, digits and '-' in parts of 1 to 63 characters joined by '.', 253 at most"
    )]
    InvalidHostName {
        /// The name, shortened.
        name: String,
    },

    /// Not six bytes in hexadecimal joined by `:`.
    #[error(
        "'{text}' is not a MAC address: write six bytes in hexadecimal, such as 02:00:0a:00:00:05"
    )]
    InvalidMacAddress {
        /// The text, shortened.
        text: String,
    },

    /// An IPv4 prefix length above 32.
    #[error("{prefix_length} is not an IPv4 prefix length (0 to 32)")]
    InvalidPrefixLength {
        /// The number.
        prefix_length: u8,
    },

    /// A volume label that some reader would not find.
    #[error("'{label}' is not a medium label: 1 to 16 letters, digits, '_', '-' or '.'")]
    InvalidLabel {
        /// The label, shortened.
        label: String,
    },

    /// A path that cannot stand on a medium.
    #[error("'{path}' cannot be a file of a medium: {problem}")]
    InvalidPath {
        /// The path, shortened.
        path: String,
        /// Which rule it breaks.
        problem: &'static str,
    },

    /// The finished medium would be too large.
    #[error(
        "the medium would have {bytes} bytes, at most {} are allowed; shorten the user data or the files",
        limits::MEDIUM_MAX_BYTES
    )]
    MediumTooLarge {
        /// Its size (at least).
        bytes: usize,
    },
}

/// The result of every function here that can fail.
pub type Result<T, E = ContextError> = std::result::Result<T, E>;

/// The start of `text`, short enough and plain enough for a message.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

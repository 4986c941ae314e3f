//! Letters to people: written into the store with whatever they tell of, delivered by SMTP when the mail server takes them.
//!
//! The crate promises:
//!
//! - a [`Letter`] put into a transaction is queued if and only if the transaction happens;
//! - a queued letter is delivered at least once, or given up after days with a line in the log that says why. One that is
//!   delivered twice (the daemon died after the server took it) has the same `Message-ID` both times;
//! - a mail server that is down, slow or answers nonsense delays letters and nothing else;
//! - what people write (names, subjects, addresses) can't add headers or recipients.
//!
//! | module | holds |
//! |---|---|
//! | [`letter`](Letter) | what is to be sent, and its stored form |
//! | [`outbox`](Outbox) | queueing |
//! | [`postman`](Postman) | delivery: claims, retries, back-off, giving up |
//! | `smtp` | the connection to the mail server |
//! | `testing` | a mail server that tests read letters from (feature `testing`) |
//!
//! Several daemons may deliver from one store: a letter is claimed before it is sent.
//!
//! Metrics: `mail_delivered_total`, `mail_delayed_total`, `mail_given_up_total`.

#![forbid(unsafe_code)]

mod letter;
mod outbox;
mod postman;
mod smtp;
#[cfg(feature = "testing")]
pub mod testing;

pub use letter::{Attachment, Letter, LetterError};
pub use outbox::{Outbox, OutboxError};
pub use postman::Postman;
pub use smtp::{Login, Security, SmtpError, SmtpSettings};

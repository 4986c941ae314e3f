//! Who is logged in by a browser, and who wants an account.
//!
//! - `session`: sessions of browsers.
//! - `link`: secrets that somebody was given to do one thing once.
//! - `command`: how a command gets its token by way of the browser.
//! - `fields`: what people write into forms, checked.
//! - `registration`: from the form to the account.
//! - `profile`: what users change of themselves; `provided`: who comes from a provider of identities; `newcomer`: what who
//!   comes from elsewhere can be called.
//! - `letters`: what is written to whom.
//! - `pace`: how often somebody may ask for what costs others something.
//! - `directory`: the seam to a directory where accounts are kept, if not here.

mod command;
mod directory;
mod fields;
mod letters;
mod link;
pub(crate) mod newcomer;
mod pace;
mod profile;
mod provided;
mod registration;
mod session;

use std::time::Duration;

use accounts::session::Lasting;

pub use command::Grant;
pub use directory::{Directory, DirectoryEntry, DirectoryError};
pub(crate) use fields::email_address;
pub use fields::{Application, ProfileChange, new_password};
pub use letters::Letters;
pub use link::{Link, LinkKind};
pub(crate) use pace::Pace;
pub use profile::ProfileOutcome;
pub(crate) use profile::elsewhere;
pub(crate) use registration::{address_of, is_over};
pub use session::NewSession;

/// What the operator decided about people.
#[derive(Clone, Debug, Default)]
pub struct PeopleSettings {
    /// How long sessions of browsers last.
    pub sessions: Lasting,
    /// How accounts are asked for; none: the administrators make them.
    pub registration: Option<RegistrationSettings>,
}

/// How accounts are asked for.
#[derive(Clone, Debug)]
pub struct RegistrationSettings {
    /// Who decides: where letters about registrations go.
    pub administrator: String,
    /// Where links in letters lead: `https://cloud.example.org:8443`, never what a request says.
    pub url: String,
    /// The role that a new account gets, and the group it joins in a directory.
    pub role: String,
    /// How long the link of a confirmation works.
    pub confirm_within: Duration,
    /// How long a password can be reset by a letter.
    pub reset_within: Duration,
    /// How long a refused registration is kept.
    pub rejected_kept: Duration,
    /// How often a directory that doesn't answer is tried again.
    pub directory_again: Duration,
    /// Where accounts are kept, if not in the cloud's own database.
    pub directory: Option<std::sync::Arc<dyn Directory>>,
}

impl RegistrationSettings {
    /// With the usual times.
    #[must_use]
    pub fn new(administrator: &str, url: &str) -> Self {
        Self {
            administrator: administrator.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
            role: "cloud-access".to_owned(),
            confirm_within: Duration::from_secs(3 * 86_400),
            reset_within: Duration::from_secs(3600),
            rejected_kept: Duration::from_secs(30 * 86_400),
            directory_again: Duration::from_secs(15),
            directory: None,
        }
    }
}

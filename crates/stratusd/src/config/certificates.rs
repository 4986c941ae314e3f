//! `[certificates]`: whom to believe when clients show certificates. Whether that counts is
//! `ServiceConfiguration/authn`'s to say.

use serde::{Deserialize, Serialize};

/// The table; the reference file explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Certificates {
    pub authorities: String,
    pub revocation_lists: RevocationLists,
    pub organisations: String,
    pub proxy_header: String,
}

/// What to make of authorities without a revocation list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationLists {
    /// Whom they signed isn't let in.
    #[default]
    Required,
    /// A list counts if it is there.
    IfPresent,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            authorities: "/etc/grid-security/certificates".to_owned(),
            revocation_lists: RevocationLists::default(),
            organisations: "/etc/grid-security/vomsdir".to_owned(),
            proxy_header: String::new(),
        }
    }
}

impl Certificates {
    /// Which key can't be as it is, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let header = &self.proxy_header;
        let is_header = header
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_header || header.eq_ignore_ascii_case("authorization") {
            let problem =
                format!("is `{header}`, which is no header for this; write X-Client-Certificate");
            return Some(("certificates.proxy_header", problem));
        }
        None
    }
}

//! `stratus logout`: the end of what `stratus login` began.

use serde_json::json;

use crate::cloud::{ApiError, Login};
use crate::failure::Result;
use crate::kept_logins::KeptLogins;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Forget the login of 'stratus login', here and at the cloud
///
/// If the cloud can't be reached, the token is forgotten here and works on until it ends or is revoked ('stratus token revoke').
/// JSON: {"endpoint", "revoked"}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let endpoint = session.endpoint(&self.cloud)?;
        let mut kept = KeptLogins::load()?;
        let Some(login) = kept.of(&endpoint).cloned() else {
            if session.out.is_json() {
                return session.out.json(&json!({ "endpoint": endpoint.to_string(), "revoked": false }));
            }
            return session.out.line(format_args!("There is no login to {endpoint} to forget"));
        };
        // Forgotten here whatever the cloud says.
        let token = kept.token(&endpoint);
        kept.forget(&endpoint)?;
        let revoked = match token {
            Ok(Some(token)) => {
                let api = session.connect(endpoint.clone(), Some(Login::Token(token)), &self.cloud)?;
                match api.delete(&format!("Token/{}", login.id)).await {
                    Ok(_) => true,
                    // It ended before.
                    Err(ApiError::TokenRefused | ApiError::Refused { status: 401 | 404, .. }) => true,
                    Err(error) => {
                        session.out.warning(format_args!("{error}: the token {} works on until it ends", login.id));
                        false
                    }
                }
            }
            _ => false,
        };
        if session.out.is_json() {
            return session.out.json(&json!({ "endpoint": endpoint.to_string(), "revoked": revoked }));
        }
        session.out.line(format_args!("Logged out of {endpoint}"))
    }
}

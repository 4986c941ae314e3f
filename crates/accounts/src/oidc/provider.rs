//! What the provider says of itself, and its keys: fetched, bounded, kept for a while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    ANSWER_AT_MOST, ANSWER_WITHIN, OidcError, OidcSettings, id_token::KeySet, settings::is_safe,
};

/// How long what the provider says of itself is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// How often its keys are fetched anew at most, whoever comes with whatever token.
const KEYS_EVERY: Duration = Duration::from_secs(10);

/// What a provider says of itself (OpenID Connect Discovery §3).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    pub(super) token_endpoint_auth_methods_supported: Vec<String>,
}

/// The provider, as far as it is known.
pub(super) struct Provider {
    client: Client,
    issuer: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Instant, Arc<Metadata>)>,
    keys: Option<(Instant, Arc<KeySet>)>,
}

impl Provider {
    pub(super) fn new(settings: &OidcSettings) -> Result<Self, OidcError> {
        let mut builder = Client::builder()
            .user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(ANSWER_WITHIN)
            .timeout(ANSWER_WITHIN)
            // Secrets go where they were meant to go, or nowhere.
            .redirect(reqwest::redirect::Policy::none());
        if !settings.ca.is_empty() {
            let authority = reqwest::Certificate::from_pem(settings.ca.as_bytes());
            let authority = authority.map_err(|error| {
                OidcError::Provider(format!("can't be reached: `ca` is no certificate: {error}"))
            })?;
            builder = builder.add_root_certificate(authority);
        }
        let client = builder.build();
        Ok(Self {
            client: client.map_err(|error| unreachable(&error))?,
            issuer: settings.issuer.clone(),
            known: Mutex::default(),
        })
    }

    /// What it says of itself.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, OidcError> {
        if let Some((since, metadata)) = &self.known.lock().metadata
            && since.elapsed() < KEPT
        {
            return Ok(Arc::clone(metadata));
        }
        let url = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.trim_end_matches('/')
        );
        let metadata: Metadata = answer(self.client.get(url)).await?;
        if metadata.issuer != self.issuer {
            return Err(OidcError::Provider(format!(
                "calls itself another issuer than `{}`",
                self.issuer
            )));
        }
        let endpoints = [
            &metadata.authorization_endpoint,
            &metadata.token_endpoint,
            &metadata.jwks_uri,
        ];
        if !endpoints.into_iter().all(|url| is_safe(url)) {
            return Err(OidcError::Provider(
                "names addresses that aren't https://".to_owned(),
            ));
        }
        let metadata = Arc::new(metadata);
        self.known.lock().metadata = Some((Instant::now(), Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// Its keys; `anew`: a token is of none of those that are known.
    pub(super) async fn keys(&self, anew: bool) -> Result<Arc<KeySet>, OidcError> {
        if let Some((since, keys)) = &self.known.lock().keys {
            let kept = if anew { KEYS_EVERY } else { KEPT };
            if since.elapsed() < kept {
                return Ok(Arc::clone(keys));
            }
        }
        let metadata = self.metadata().await?;
        let keys: KeySet = answer(self.client.get(&metadata.jwks_uri)).await?;
        let keys = Arc::new(keys);
        self.known.lock().keys = Some((Instant::now(), Arc::clone(&keys)));
        Ok(keys)
    }

    /// What it says of a person beside the token, if it says anything (OpenID Connect Core §5.3).
    pub(super) async fn user_info(
        &self,
        access_token: &str,
    ) -> Result<Option<Map<String, Value>>, OidcError> {
        let metadata = self.metadata().await?;
        let Some(url) = metadata
            .userinfo_endpoint
            .as_deref()
            .filter(|url| is_safe(url))
        else {
            return Ok(None);
        };
        let request = self.client.get(url).bearer_auth(access_token);
        answer(request.header("accept", "application/json"))
            .await
            .map(Some)
    }

    /// Sends a form to one of its addresses.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        url: &str,
        form: String,
        authorization: Option<String>,
    ) -> Result<T, OidcError> {
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(form);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        answer(request).await
    }
}

/// The JSON that a provider answers: whole, soon, not too much of it.
async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, OidcError> {
    let exchange = async {
        let mut response = request.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&error))?
        {
            if body.len() + chunk.len() > ANSWER_AT_MOST {
                return Err(OidcError::Provider("answers far too much".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let said: Option<Said> = serde_json::from_slice(&body).ok();
            return Err(match said {
                Some(said) if status.is_client_error() => OidcError::Refused(said.shown()),
                _ => OidcError::Provider(format!("answers with status {}", status.as_u16())),
            });
        }
        serde_json::from_slice(&body)
            .map_err(|_| OidcError::Provider("answers something that makes no sense".to_owned()))
    };
    timeout(ANSWER_WITHIN, exchange)
        .await
        .unwrap_or_else(|_| Err(OidcError::Provider("doesn't answer in time".to_owned())))
}

/// How a provider says no (RFC 6749 §5.2).
#[derive(Deserialize)]
struct Said {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Said {
    fn shown(&self) -> String {
        shown(&self.error, &self.error_description)
    }
}

/// What the outside says, for people: short, one line.
pub(super) fn shown(error: &str, description: &str) -> String {
    let text = if description.is_empty() {
        error
    } else {
        description
    };
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn unreachable(error: &reqwest::Error) -> OidcError {
    // The whole of it names the URL only; the causes say more than users need.
    tracing::warn!(error = %causes(error), "the login provider can't be reached");
    OidcError::Provider(if error.is_timeout() {
        "doesn't answer in time".to_owned()
    } else {
        "can't be reached".to_owned()
    })
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

//! The two ends of a login: off to the provider, and back from it.
//!
//! What belongs to a login that is under way (state, nonce, PKCE verifier) is in a cookie of the browser that began it, and
//! nowhere else: the server keeps nothing, and nobody else can end it. The code that the provider gives works once.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64},
};
use cimi::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{session, token};

use super::{
    OidcError, OidcSettings,
    id_token::{self, Expected, Refused},
    provider::{Provider, shown},
};

/// How long somebody has at the provider.
const UNDER_WAY_SECONDS: i64 = 600;
/// Groups of a person that are looked at, and their length.
const GROUPS_AT_MOST: usize = 1_000;

/// Logins by a provider.
pub struct Oidc {
    settings: OidcSettings,
    provider: Provider,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(out)
    }
}

/// A login that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where the browser goes.
    pub url: String,
    /// What it brings back, as the value of a cookie.
    pub cookie: String,
}

/// Somebody whom the provider vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// `ISSUER SUB`: who it is, whatever else changes.
    pub subject: String,
    /// The name wished for.
    pub username: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// The address, if the provider has verified it.
    pub email: Option<String>,
    /// The roles that follow from the groups.
    pub roles: Vec<String>,
    /// Where the browser wants to go.
    pub next: String,
}

/// What the provider added to the address that the browser comes back to.
#[derive(Clone, Debug, Default)]
pub struct Returned {
    /// `code`
    pub code: Option<String>,
    /// `state`
    pub state: Option<String>,
    /// `iss`
    pub issuer: Option<String>,
    /// `error`
    pub error: Option<String>,
    /// `error_description`
    pub error_description: Option<String>,
}

/// What the cookie of a login that is under way says.
#[derive(Serialize, Deserialize)]
struct UnderWay {
    state: String,
    nonce: String,
    verifier: String,
    next: String,
    /// Seconds since 1970.
    until: i64,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: Option<String>,
}

impl Oidc {
    /// With a provider. Asks it nothing yet.
    ///
    /// # Errors
    /// [`OidcError::Provider`] for settings that can't work.
    pub fn new(settings: OidcSettings) -> Result<Self, OidcError> {
        settings
            .check()
            .map_err(|error| OidcError::Provider(format!("is not configured right: {error}")))?;
        Ok(Self {
            provider: Provider::new(&settings)?,
            settings,
        })
    }

    /// What the login page calls it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.settings.label
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &OidcSettings {
        &self.settings
    }

    /// Off to the provider.
    ///
    /// # Errors
    /// [`OidcError::Provider`].
    pub async fn begin(&self, next: &str) -> Result<Begun, OidcError> {
        let metadata = self.provider.metadata().await?;
        // 43 characters at least (RFC 7636 §4.1).
        let verifier = format!("{}{}", session::secret(), session::secret());
        let under_way = UnderWay {
            state: session::secret(),
            nonce: session::secret(),
            verifier,
            next: next.to_owned(),
            until: now() + UNDER_WAY_SECONDS,
        };
        let scope = std::iter::once("openid")
            .chain(self.settings.scopes.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ");
        let challenge = BASE64.encode(token::sha256(&under_way.verifier));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &self.settings.client_id),
            ("redirect_uri", &self.settings.redirect_url),
            ("scope", &scope),
            ("state", &under_way.state),
            ("nonce", &under_way.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let endpoint = &metadata.authorization_endpoint;
        let separator = if endpoint.contains('?') { '&' } else { '?' };
        let cookie = serde_json::to_vec(&under_way)
            .map_err(|error| OidcError::Provider(error.to_string()))?;
        Ok(Begun {
            url: format!("{endpoint}{separator}{query}"),
            cookie: BASE64.encode(cookie),
        })
    }

    /// Back from the provider, with the cookie of the beginning and what the provider added to the address.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn finish(&self, cookie: &str, returned: Returned) -> Result<Person, OidcError> {
        let under_way: UnderWay = BASE64
            .decode(cookie)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or(OidcError::NotBegun)?;
        let state = returned.state.unwrap_or_default();
        let is_same: bool = {
            use subtle::ConstantTimeEq as _;
            state.as_bytes().ct_eq(under_way.state.as_bytes()).into()
        };
        if !is_same || now() >= under_way.until {
            return Err(OidcError::NotBegun);
        }
        // Which provider this comes from, where that is said (RFC 9207).
        if returned
            .issuer
            .is_some_and(|issuer| issuer != self.settings.issuer)
        {
            return Err(OidcError::Token("it is of another issuer"));
        }
        if let Some(error) = returned.error {
            let description = returned.error_description.unwrap_or_default();
            return Err(OidcError::Refused(shown(&error, &description)));
        }
        let code = returned.code.ok_or(OidcError::NotBegun)?;
        let tokens = self.exchange(&code, &under_way.verifier).await?;
        let claims = self.verify(&tokens.id_token, &under_way.nonce).await?;
        let claims = self
            .with_user_info(claims, tokens.access_token.as_deref())
            .await?;
        self.person(&claims, under_way.next)
    }

    /// The claims of the token, with those that the provider gives only when asked for them.
    async fn with_user_info(
        &self,
        mut claims: Map<String, Value>,
        access_token: Option<&str>,
    ) -> Result<Map<String, Value>, OidcError> {
        let wanted = [&self.settings.username_claim, &self.settings.groups_claim];
        let Some(access_token) = access_token else {
            return Ok(claims);
        };
        if wanted.into_iter().all(|name| claims.contains_key(name)) {
            return Ok(claims);
        }
        let Some(more) = self.provider.user_info(access_token).await? else {
            return Ok(claims);
        };
        if more.get("sub") != claims.get("sub") {
            return Err(OidcError::Token("what it says beside is of somebody else"));
        }
        for (name, value) in more {
            // What is signed counts more.
            claims.entry(name).or_insert(value);
        }
        Ok(claims)
    }

    async fn exchange(&self, code: &str, verifier: &str) -> Result<Tokens, OidcError> {
        let metadata = self.provider.metadata().await?;
        let settings = &self.settings;
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &settings.redirect_url),
            ("code_verifier", verifier),
        ];
        let methods = &metadata.token_endpoint_auth_methods_supported;
        let by_post = methods.iter().any(|method| method == "client_secret_post")
            && !methods.iter().any(|method| method == "client_secret_basic");
        let mut authorization = None;
        if settings.client_secret.is_empty() {
            pairs.push(("client_id", &settings.client_id));
        } else if by_post {
            pairs.push(("client_id", &settings.client_id));
            pairs.push(("client_secret", &settings.client_secret));
        } else {
            // RFC 6749 §2.3.1: both parts as in forms.
            let both = format!(
                "{}:{}",
                encoded(&settings.client_id),
                encoded(&settings.client_secret)
            );
            authorization = Some(format!("Basic {}", BASE64_STANDARD.encode(both)));
        }
        self.provider
            .post(&metadata.token_endpoint, form(&pairs), authorization)
            .await
    }

    async fn verify(&self, id_token: &str, nonce: &str) -> Result<Map<String, Value>, OidcError> {
        let expected = Expected {
            issuer: &self.settings.issuer,
            audience: &self.settings.client_id,
            nonce,
            now: now(),
        };
        let keys = self.provider.keys(false).await?;
        match id_token::verify(id_token, &keys, &expected) {
            Ok(claims) => Ok(claims),
            Err(Refused::Bad(error)) => Err(error),
            Err(Refused::UnknownKey) => {
                // It may have new keys since they were fetched.
                let keys = self.provider.keys(true).await?;
                id_token::verify(id_token, &keys, &expected).map_err(|refused| match refused {
                    Refused::Bad(error) => error,
                    Refused::UnknownKey => OidcError::Token("it is signed by nobody we know of"),
                })
            }
        }
    }

    /// Who it is, by the claims.
    fn person(&self, claims: &Map<String, Value>, next: String) -> Result<Person, OidcError> {
        let settings = &self.settings;
        let text = |name: &str| {
            let text = claims.get(name)?.as_str()?.trim();
            let fits = !text.is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        };
        let groups = groups(claims.get(&settings.groups_claim));
        let required = &settings.required_groups;
        if !required.is_empty() && !groups.iter().any(|group| required.contains(group)) {
            return Err(OidcError::Unwelcome(format!(
                "only members of {} may use this cloud; ask its administrators",
                required.join(", ")
            )));
        }
        let mut roles = settings.default_roles.clone();
        roles.extend(
            groups
                .iter()
                .filter_map(|group| settings.roles.get(group).cloned()),
        );
        roles.sort_unstable();
        roles.dedup();
        // Only if it says so: letters to the address are as good as the account. Some write it as a text.
        let verified = match claims.get("email_verified") {
            Some(Value::Bool(verified)) => *verified,
            Some(Value::String(verified)) => verified == "true",
            _ => false,
        };
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Ok(Person {
            subject: format!("{} {subject}", settings.issuer),
            username: text(&settings.username_claim),
            first_name: text("given_name"),
            last_name: text("family_name"),
            email: text("email").filter(|_| verified),
            roles,
            next,
        })
    }
}

/// The groups that a claim lists.
fn groups(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all
            .iter()
            .take(GROUPS_AT_MOST)
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn now() -> i64 {
    Timestamp::now().as_millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn oidc(change: impl FnOnce(&mut OidcSettings)) -> Oidc {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut settings = OidcSettings {
            issuer: "http://127.0.0.1:1".to_owned(),
            client_id: "stratus".to_owned(),
            redirect_url: "https://cloud/cimi/oidc/callback".to_owned(),
            roles: [
                ("physics".to_owned(), "phys".to_owned()),
                ("root".to_owned(), "::ADMIN".to_owned()),
            ]
            .into(),
            default_roles: vec!["users".to_owned()],
            ..OidcSettings::default()
        };
        change(&mut settings);
        Oidc::new(settings).unwrap()
    }

    #[test]
    fn only_groups_that_are_named_become_roles() {
        let person = |claims: Value| {
            oidc(|_| ())
                .person(claims.as_object().unwrap(), "/".to_owned())
                .unwrap()
        };
        let alice = person(
            json!({"sub": "1", "groups": ["physics", "::ADMIN", "x"], "email": "a@b", "email_verified": true, "preferred_username": "alice"}),
        );
        assert_eq!(alice.roles, ["phys", "users"]);
        assert_eq!(alice.subject, "http://127.0.0.1:1 1");
        assert_eq!(alice.email.as_deref(), Some("a@b"));
        for (verified, counts) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!(1), false),
            (Value::Null, false),
        ] {
            let claims = json!({"sub": "1", "email": "a@b", "email_verified": verified});
            assert_eq!(person(claims).email.is_some(), counts, "{verified}");
        }
        let unverified = person(json!({"sub": "1", "email": "a@b", "given_name": "a\nb"}));
        assert_eq!((unverified.email, unverified.first_name), (None, None));
        let closed = oidc(|settings| settings.required_groups = vec!["staff".to_owned()]);
        let refused = closed.person(
            json!({"sub": "1", "groups": "physics"})
                .as_object()
                .unwrap(),
            "/".to_owned(),
        );
        assert!(matches!(refused, Err(OidcError::Unwelcome(_))));
    }

    #[tokio::test]
    async fn what_was_not_begun_here_is_not_finished() {
        let oidc = oidc(|_| ());
        for cookie in ["", "!", "e30", &BASE64.encode(r#"{"state":"a"}"#)] {
            let finished = oidc
                .finish(
                    cookie,
                    Returned {
                        state: Some("x".to_owned()),
                        ..Returned::default()
                    },
                )
                .await;
            assert_eq!(finished, Err(OidcError::NotBegun), "{cookie}");
        }
        let cookie = |until| {
            let under_way = UnderWay {
                state: "s".into(),
                nonce: "n".into(),
                verifier: "v".into(),
                next: "/".into(),
                until,
            };
            BASE64.encode(serde_json::to_vec(&under_way).unwrap())
        };
        let state = |state: &str| Returned {
            state: Some(state.to_owned()),
            ..Returned::default()
        };
        let other = state("t");
        assert_eq!(
            oidc.finish(&cookie(now() + 60), other).await,
            Err(OidcError::NotBegun)
        );
        let same = state("s");
        assert_eq!(
            oidc.finish(&cookie(now() - 1), same).await,
            Err(OidcError::NotBegun)
        );
        let refused = Returned {
            error: Some("access_denied".to_owned()),
            ..state("s")
        };
        assert_eq!(
            oidc.finish(&cookie(now() + 60), refused).await,
            Err(OidcError::Refused("access_denied".to_owned()))
        );
        // Nobody is there.
        let code = Returned {
            code: Some("s".to_owned()),
            ..state("s")
        };
        assert!(matches!(
            oidc.finish(&cookie(now() + 60), code).await,
            Err(OidcError::Provider(_))
        ));
        assert!(matches!(oidc.begin("/").await, Err(OidcError::Provider(_))));
    }
}

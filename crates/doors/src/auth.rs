//! Who asks: HTTP Basic, a token, or a client certificate.

use std::{net::IpAddr, sync::Arc};

use accounts::{Accounts, Identity, LoginError, Shown, token};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header};

use crate::problem::Problem;

/// What asks a client for credentials.
pub(crate) const CHALLENGE: &str = "Basic realm=\"StratusLab\", charset=\"UTF-8\"";
/// Bytes of user name, colon and password that are read.
const CREDENTIALS_AT_MOST: usize = 600;

/// Who asks, as far as is known.
pub(crate) enum Asking {
    Known(Arc<Identity>),
    /// Nobody known. With the reason, if a certificate was shown that is refused: for what needs no login it makes no
    /// difference.
    Unknown(Option<String>),
}

impl Asking {
    pub(crate) fn split(self) -> (Option<Arc<Identity>>, Option<String>) {
        match self {
            Self::Known(identity) => (Some(identity), None),
            Self::Unknown(reason) => (None, reason),
        }
    }
}

/// Who a request's credentials belong to. Those in its header count more than a certificate that was shown.
///
/// # Errors
/// 401 if they are wrong or not understood, 429 after too many wrong ones, 503 if too many others
/// are being verified.
pub(crate) async fn identify(
    accounts: &Accounts,
    headers: &HeaderMap,
    shown: Option<&Shown>,
    address: Option<IpAddr>,
) -> Result<Asking, Problem> {
    if let Some(identity) = recognised(accounts, headers) {
        return Ok(Asking::Known(identity));
    }
    if shown.is_none() && !headers.contains_key(header::AUTHORIZATION) {
        return Ok(Asking::Unknown(None));
    }
    // Boxed: with all ways to prove it in it, it is large, and the future of every request would carry that.
    Box::pin(proven(accounts, headers, shown, address)).await
}

/// Who sent a password that was right a short while ago.
fn recognised(accounts: &Accounts, headers: &HeaderMap) -> Option<Arc<Identity>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let mut buffer = [0; CREDENTIALS_AT_MOST];
    match credentials(value.as_bytes(), &mut buffer)? {
        Credentials::Password(login, password) => accounts.recognise(login, password),
        Credentials::Token(..) => None,
    }
}

async fn proven(
    accounts: &Accounts,
    headers: &HeaderMap,
    shown: Option<&Shown>,
    address: Option<IpAddr>,
) -> Result<Asking, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let Some(shown) = shown else {
            return Ok(Asking::Unknown(None));
        };
        return match accounts.by_certificate(shown, address).await {
            Ok(identity) => Ok(Asking::Known(identity)),
            Err(LoginError::Busy) => Err(busy()),
            Err(error) => Ok(Asking::Unknown(Some(error.to_string()))),
        };
    };
    let mut buffer = [0; CREDENTIALS_AT_MOST];
    let (login, password) = match credentials(value.as_bytes(), &mut buffer) {
        Some(Credentials::Token(token, login)) => {
            return match accounts.by_token(token, login, address).await {
                Ok(identity) => Ok(Asking::Known(identity)),
                Err(error) => {
                    tracing::warn!(?login, ?address, "a token was refused");
                    Err(unauthorized(headers, error.to_string()))
                }
            };
        }
        Some(Credentials::Password(login, password)) => (login, password),
        None => {
            return Err(unauthorized(
                headers,
                "the Authorization header is not understood; it must be HTTP Basic with user name \
                 and password, or Bearer with a token",
            ));
        }
    };
    match accounts.verify(login, password, address).await {
        Ok(identity) => Ok(Asking::Known(identity)),
        Err(
            error @ (LoginError::Wrong
            | LoginError::Unsure
            | LoginError::Token
            | LoginError::Certificate(_)),
        ) => {
            tracing::warn!(login, ?address, "login failed");
            let mut told = error.to_string();
            if password.starts_with(token::PREFIX) {
                told.push_str("; if the password is meant as a token: it isn't a whole one");
            }
            Err(unauthorized(headers, told))
        }
        Err(LoginError::Blocked(wait)) => {
            let seconds = wait.as_secs().max(1);
            let problem = Problem::new(429, LoginError::Blocked(wait).to_string());
            Err(problem.with(header::RETRY_AFTER, HeaderValue::from(seconds)))
        }
        Err(LoginError::Busy) => Err(busy()),
    }
}

fn busy() -> Problem {
    Problem::new(503, LoginError::Busy.to_string())
        .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// 401, with a challenge unless it would open a dialogue in a browser's background request.
pub(crate) fn unauthorized(headers: &HeaderMap, detail: impl Into<String>) -> Problem {
    let problem = Problem::new(401, detail);
    if headers.contains_key("x-requested-with") {
        problem
    } else {
        problem.with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(CHALLENGE),
        )
    }
}

/// What a client says of itself.
#[derive(Debug, PartialEq, Eq)]
enum Credentials<'h> {
    /// User name and password.
    Password(&'h str, &'h str),
    /// A token, and whose it should be if that was said, too: many tools know passwords only.
    Token(&'h str, Option<&'h str>),
}

fn credentials<'b>(value: &'b [u8], buffer: &'b mut [u8]) -> Option<Credentials<'b>> {
    if let Some((scheme, rest)) = value.split_at_checked(7)
        && scheme.eq_ignore_ascii_case(b"bearer ")
    {
        let token = std::str::from_utf8(rest.trim_ascii()).ok()?;
        return Some(Credentials::Token(token, None));
    }
    let (login, password) = basic(value, buffer)?;
    Some(if token::looks_like_one(password) {
        Credentials::Token(password, Some(login))
    } else {
        Credentials::Password(login, password)
    })
}

/// The name that was sent with a password, right or wrong.
pub(crate) fn claimed(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?;
    let mut buffer = [0; CREDENTIALS_AT_MOST];
    match credentials(value.as_bytes(), &mut buffer)? {
        Credentials::Password(login, _) => Some(login.to_owned()),
        Credentials::Token(..) => None,
    }
}

/// User name and password out of `Basic <base64>` (RFC 7617).
fn basic<'b>(value: &[u8], buffer: &'b mut [u8]) -> Option<(&'b str, &'b str)> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let length = BASE64_STANDARD
        .decode_slice(encoded.trim_ascii(), buffer)
        .ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    let (login, password) = text.split_once(':')?;
    let control = |part: &str| part.chars().any(char::is_control);
    (!login.is_empty() && !control(login) && !password.contains('\0')).then_some((login, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        let mut buffer = [0; CREDENTIALS_AT_MOST];
        basic(value.as_bytes(), &mut buffer).map(|(a, b)| (a.to_owned(), b.to_owned()))
    }

    #[test]
    fn tokens_come_by_themselves_or_as_passwords() {
        let token = token::generate();
        let mut buffer = [0; CREDENTIALS_AT_MOST];
        for scheme in ["Bearer", "bearer", "BEARER "] {
            let value = format!("{scheme} {token}");
            let read = credentials(value.as_bytes(), &mut buffer);
            assert_eq!(read, Some(Credentials::Token(&token, None)));
        }
        let encoded = BASE64_STANDARD.encode(format!("alice:{token}"));
        let value = format!("Basic {encoded}");
        let read = credentials(value.as_bytes(), &mut buffer);
        assert_eq!(read, Some(Credentials::Token(&token, Some("alice"))));
        let read = credentials(b"Basic YWxpY2U6b3BlbiBzZXNhbWU=", &mut buffer);
        assert_eq!(read, Some(Credentials::Password("alice", "open sesame")));
        assert_eq!(credentials(b"Bearer", &mut buffer), None);
        assert_eq!(credentials(b"Bearer \xff", &mut buffer), None);
    }

    #[test]
    fn credentials_are_read_and_rubbish_is_not() {
        let both = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(
            read("Basic YWxpY2U6b3BlbiBzZXNhbWU="),
            both("alice", "open sesame")
        );
        assert_eq!(read("basic  YTpiOmM="), both("a", "b:c"));
        let encoded = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        assert_eq!(read(&encoded("a:")), both("a", ""));
        for value in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Bearer abc",
            &encoded("nocolon"),
            &encoded(":x"),
            &encoded("a\nb:x"),
            &encoded("a:x\0"),
            &encoded(&"x".repeat(2000)),
            "Basic //79", // not UTF-8
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}

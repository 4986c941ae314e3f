//! What browsers are given to be known by. The names begin with `__Host-`: no other host, and no page that isn't
//! encrypted, can set them.

use http::{HeaderMap, HeaderValue, Response, header};

use crate::body::ResponseBody;

/// The secret of a session.
const SESSION: &str = "__Host-stratus-session";
/// What belongs to a login that is under way at a provider.
const OIDC: &str = "__Host-stratus-oidc";
/// What an endorser is signed in by at the Marketplace.
const ENDORSER: &str = "__Host-stratus-endorser";
/// Cookies that are looked at.
const COOKIES_AT_MOST: usize = 100;

/// The secret of the session that a request comes with.
pub(crate) fn session_secret(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, SESSION)
}

/// What belongs to the login that a request comes back from.
pub(super) fn login_under_way(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, OIDC)
}

/// The secret that an endorser's browser comes with.
pub(crate) fn endorser_secret(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, ENDORSER)
}

/// Of several cookies of one name, none counts: one of them isn't ours.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .take(COOKIES_AT_MOST)
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(given, _)| *given == name)
        .map(|(_, value)| value);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Gives a browser its session, until it is closed or the session ends.
pub(super) fn set_session(response: &mut Response<ResponseBody>, secret: &str) {
    set(response, SESSION, secret, "");
}

pub(super) fn clear_session(response: &mut Response<ResponseBody>) {
    set(response, SESSION, "", "; Max-Age=0");
}

/// Gives a browser what it has to bring back from the provider within ten minutes.
pub(super) fn set_login_under_way(response: &mut Response<ResponseBody>, value: &str) {
    set(response, OIDC, value, "; Max-Age=600");
}

pub(super) fn clear_login_under_way(response: &mut Response<ResponseBody>) {
    set(response, OIDC, "", "; Max-Age=0");
}

/// Gives an endorser's browser what it is known by.
pub(crate) fn set_endorser(response: &mut Response<ResponseBody>, secret: &str) {
    set(response, ENDORSER, secret, "");
}

pub(crate) fn clear_endorser(response: &mut Response<ResponseBody>) {
    set(response, ENDORSER, "", "; Max-Age=0");
}

fn set(response: &mut Response<ResponseBody>, name: &str, value: &str, how_long: &str) {
    let cookie = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{how_long}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others_and_doubles_count_for_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=b; __Host-stratus-session=xyz;c"),
        );
        assert_eq!(session_secret(&headers), Some("xyz"));
        assert_eq!(login_under_way(&headers), None);
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("__Host-stratus-session=abc"),
        );
        assert_eq!(session_secret(&headers), None);
    }
}

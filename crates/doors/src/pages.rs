//! Pages for browsers: what all of them have in common.
//!
//! A page is an askama template in `templates/` that extends `base.html` and has a field `page: Page`. [`html`] makes an answer of
//! it. Everything a page needs comes from this program ([`assets`]), and nothing else may be loaded ([`POLICY`]): no script or style
//! inside a page, nothing from elsewhere. Pages work without scripts.

pub(crate) mod assets;
mod layout;

pub(crate) use layout::{Link, Page, Status};

use askama::Template;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{body::ResponseBody, problem::Problem};

/// The program's version, as pages show it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What pages may load and do (CSP level 3): only from here, and in nobody's frame.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page as an answer. Nobody keeps it unless the caller says otherwise.
///
/// # Errors
/// 500 if the template can't be filled.
pub(crate) fn html(
    status: StatusCode,
    template: &impl Template,
) -> Result<Response<ResponseBody>, Problem> {
    let text = template
        .render()
        .map_err(|error| Problem::internal(format!("filling a page: {error}")))?;
    let mut response = Response::new(ResponseBody::Whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_escape_what_they_show_and_hold_no_script_of_their_own() {
        let links = vec![Link::to("/a", "A"), Link::to("/b", "B")];
        let status = Status {
            page: Page::new("<Done>", "Stratus", "/").with_links(links, "/b"),
            is_error: false,
            heading: "<script>alert(1)</script>".to_owned(),
            paragraphs: vec!["a & b".to_owned()],
            onward: Some(Link::to("/?a=\"b\"", "On")),
        };
        let text = status.render().unwrap();
        assert!(
            !text.contains("<script>") && text.contains("a &#38; b"),
            "{text}"
        );
        assert!(
            text.contains(r#"<a href="/b" aria-current="page">"#),
            "{text}"
        );
        // The policy forbids them.
        assert!(!text.contains("style=") && !text.contains("onclick"));
        for asset in assets::ALL {
            assert!(text.contains(&asset.href()), "{asset:?}");
        }
        let answer = html(StatusCode::OK, &status).unwrap();
        assert_eq!(
            answer
                .headers()
                .get(header::CONTENT_SECURITY_POLICY)
                .unwrap(),
            POLICY
        );
    }
}

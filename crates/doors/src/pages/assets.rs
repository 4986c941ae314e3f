//! The files that pages load: stylesheet, script, icon. All are in the program.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::body::ResponseBody;

/// A file that pages load, at `/assets/<name>`.
#[derive(Debug)]
pub(crate) struct Asset {
    name: &'static str,
    media: &'static str,
    content: &'static [u8],
    /// Of the content: a changed one has another address, so that nobody shows the old one.
    mark: LazyLock<String>,
}

/// How all pages look.
pub(crate) static STYLESHEET: Asset = Asset {
    name: "stratus.css",
    media: "text/css; charset=utf-8",
    content: include_bytes!("assets/stratus.css"),
    mark: LazyLock::new(|| mark(STYLESHEET.content)),
};

/// What pages can do beyond links and forms.
pub(crate) static SCRIPT: Asset = Asset {
    name: "stratus.js",
    media: "text/javascript; charset=utf-8",
    content: include_bytes!("assets/stratus.js"),
    mark: LazyLock::new(|| mark(SCRIPT.content)),
};

/// The sign of Stratus.
pub(crate) static ICON: Asset = Asset {
    name: "icon.svg",
    media: "image/svg+xml",
    content: include_bytes!("assets/icon.svg"),
    mark: LazyLock::new(|| mark(ICON.content)),
};

/// All there are.
pub(crate) static ALL: [&Asset; 3] = [&STYLESHEET, &SCRIPT, &ICON];

/// FNV-1a: tells versions of a file from one another, nothing more.
fn mark(content: &[u8]) -> String {
    let hash = content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

impl PartialEq for Asset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Asset {}

impl Asset {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|asset| asset.name == name)
    }

    /// Its address, for pages.
    pub(crate) fn href(&self) -> String {
        format!("/assets/{}?v={}", self.name, *self.mark)
    }

    /// Its path, without the mark.
    pub(crate) fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }

    /// The file itself. Under the address that pages have it may be kept for ever.
    pub(crate) fn answer(
        &self,
        request: &HeaderMap,
        query: Option<&str>,
    ) -> Response<ResponseBody> {
        let tag = format!("\"{}\"", *self.mark);
        let is_known = request
            .get(header::IF_NONE_MATCH)
            .is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let content = if is_known { &[][..] } else { self.content };
        let mut response = Response::new(ResponseBody::Whole(Bytes::from_static(content)));
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let is_marked = query.and_then(|query| query.strip_prefix("v=")) == Some(&*self.mark);
        let keep = if is_marked {
            "public, max-age=31536000, immutable"
        } else {
            "public, max-age=300"
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

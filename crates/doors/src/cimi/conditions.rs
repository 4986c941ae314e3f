//! Entity tags: which state of what was seen, and in which form (RFC 9110 §8.8.3, §13).
//!
//! A tag has two parts: what the representation is *of* (the same in every form), and which form it is. `If-None-Match`
//! compares both; `If-Match` the first only, so that a client may read XML and write JSON. That nobody else was faster
//! between the comparison and the change is made sure by [`cloud::Unchanged`].

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use cloud::{Page, View};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::negotiation::Format;
use crate::problem::Problem;

/// What an entity tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    content: u64,
    form: u64,
}

/// A form of a representation: JSON or XML, and which part of it.
pub(super) fn form(format: Format, part: &impl Hash) -> u64 {
    hashed(&(format, part))
}

/// The same in all processes of one version.
pub(super) fn hashed(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

/// Names what a view shows, whatever its form, if it can be named without looking.
pub(super) fn content(view: &View) -> Option<u64> {
    view.stamp
        .map(|stamp| hashed(&(&view.id, stamp, view.right as u8)))
}

impl Tag {
    /// Of a view's representation with these bytes.
    pub(super) fn of(view: &View, form: u64, bytes: &Bytes) -> Self {
        Self {
            content: content(view).unwrap_or_else(|| hashed(bytes)),
            form,
        }
    }

    /// Of a list's, which is `None` if a member has no name.
    pub(super) fn of_page(page: &Page, form: u64) -> Option<Self> {
        let members: Option<Vec<u64>> = page.members.iter().map(content).collect();
        Some(Self {
            content: hashed(&(page.count, page.can_add, members?)),
            form,
        })
    }

    /// Of bytes of which nothing else is known.
    pub(super) fn of_bytes(bytes: &Bytes, form: u64) -> Self {
        Self {
            content: hashed(bytes),
            form,
        }
    }

    /// `"CONTENT-FORM"`, in digits of a fixed number. Every answer has one: the machinery of formatting would be a tenth
    /// of what the answer costs.
    fn text(self) -> [u8; 35] {
        let mut text = *b"\"0000000000000000-0000000000000000\"";
        let (content, form) = text[1..34].split_at_mut(17);
        for (digits, number) in [(&mut content[..16], self.content), (form, self.form)] {
            for (digit, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
                digit[0] = HEX[usize::from(byte >> 4)];
                digit[1] = HEX[usize::from(byte & 15)];
            }
        }
        text
    }

    pub(super) fn header(self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(&self.text()).ok()
    }

    /// Whether a client that asks has it already (`If-None-Match`).
    pub(super) fn is_known(self, headers: &HeaderMap) -> bool {
        let mut tags = tags(headers, &header::IF_NONE_MATCH).peekable();
        tags.peek().is_some() && {
            let this = self.text();
            tags.any(|tag| tag == "*" || weak(tag).as_bytes() == this)
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{:016x}-{:016x}\"", self.content, self.form)
    }
}

/// Whether a request depends on what is there.
pub(super) fn are_there(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH)
}

/// Whether a change of what has this content is wanted.
///
/// # Errors
/// 412 if it isn't.
pub(super) fn allow(headers: &HeaderMap, content: u64) -> Result<(), Problem> {
    let content = format!("{content:016x}-");
    // A tag that only says "about the same" is none to change something by.
    let is_it = |tag: &str| {
        tag == "*"
            || tag
                .strip_prefix('"')
                .is_some_and(|tag| tag.starts_with(&content))
    };
    if headers.contains_key(header::IF_MATCH) && !tags(headers, &header::IF_MATCH).any(is_it) {
        return Err(Problem::new(
            412,
            "it is not what If-Match names: somebody changed it since; read it again",
        ));
    }
    if tags(headers, &header::IF_NONE_MATCH).any(|tag| is_it(weak(tag))) {
        return Err(Problem::new(
            412,
            "it is there already, as If-None-Match names it",
        ));
    }
    Ok(())
}

fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The tags of a header. Ours hold no commas, so others may be cut in pieces.
fn tags<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_tag_has_its_digits_in_order() {
        let tag = Tag {
            content: 0x0123_4567_89ab_cdef,
            form: 0xfed0_0000_0000_0042,
        };
        assert_eq!(
            tag.header().unwrap(),
            "\"0123456789abcdef-fed0000000000042\""
        );
        assert_eq!(tag.header().unwrap(), tag.to_string());
    }

    #[test]
    fn reads_compare_the_whole_tag_and_changes_what_it_is_of() {
        let json = Tag {
            content: 1,
            form: 2,
        };
        let xml = Tag {
            content: 1,
            form: 3,
        };
        let newer = Tag {
            content: 4,
            form: 2,
        };
        let known = |text: &str| json.is_known(&headers(header::IF_NONE_MATCH, text));
        assert!(known(&json.to_string()) && known(&format!("\"a\", W/{json}")) && known("*"));
        assert!(!known(&xml.to_string()) && !known(&newer.to_string()) && !known(""));

        let status = |name: HeaderName, text: &str| {
            allow(&headers(name, text), 1).map_err(|problem| problem.status().as_u16())
        };
        for text in [
            json.to_string(),
            xml.to_string(),
            "*".into(),
            format!("\"x\",{xml}"),
        ] {
            assert_eq!(status(header::IF_MATCH, &text), Ok(()), "{text}");
            assert_eq!(status(header::IF_NONE_MATCH, &text), Err(412), "{text}");
        }
        for text in [
            newer.to_string(),
            format!("W/{json}"),
            String::new(),
            "x".into(),
        ] {
            assert_eq!(status(header::IF_MATCH, &text), Err(412), "{text}");
        }
        assert_eq!(status(header::IF_NONE_MATCH, &newer.to_string()), Ok(()));
    }
}

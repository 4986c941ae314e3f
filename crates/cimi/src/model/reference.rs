//! References as clients write them.

use super::Kind;

/// A reference to one of our own resources in its stored form, `Machine/0190…`: clients also send
/// `/cimi/Machine/…`, absolute URLs under `baseURI`, and those by another name of the same host
/// (which name that is can't be told here, so every host counts). `None` if it can't be one of ours.
#[must_use]
pub fn relative(href: &str) -> Option<&str> {
    let href = href.trim();
    let path = match href.split_once("://") {
        Some((scheme, rest)) => {
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return None;
            }
            rest.split_once('/')?.1.strip_prefix("cimi/")?
        }
        None => match href.strip_prefix('/') {
            Some(path) => path.strip_prefix("cimi/")?,
            None => href,
        },
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    let (kind, local) = path.split_once('/')?;
    Kind::from_name(kind)?;
    is_local(local).then_some(path)
}

/// What may follow the type: the characters of our ids, and the slashes of members.
fn is_local(local: &str) -> bool {
    (1..=400).contains(&local.len())
        && local.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.@:+=,~".contains(&b))
        })
}

/// Which type a stored reference refers to; `None` for members of a resource's own collection.
pub(super) fn kind_of(reference: &str) -> Option<Kind> {
    let (kind, local) = reference.split_once('/')?;
    if local.contains('/') {
        return None;
    }
    Kind::from_name(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_reference_are_the_same() {
        for href in [
            "Machine/7",
            "/cimi/Machine/7",
            "https://cloud.example:8443/cimi/Machine/7",
            "HTTP://127.0.0.1/cimi/Machine/7/",
            " Machine/7 ",
        ] {
            assert_eq!(relative(href), Some("Machine/7"), "{href}");
        }
        assert_eq!(relative("Machine/7/volumes/x"), Some("Machine/7/volumes/x"));
    }

    #[test]
    fn what_is_not_ours_is_none() {
        for href in [
            "",
            "Machine",
            "Machine/",
            "machine/7",
            "Nothing/7",
            "Machine/..",
            "Machine/a b",
            "Machine//7",
            "../Machine/7",
            "https://cloud.example/Machine/7",
            "file:///cimi/Machine/7",
            "/Machine/7",
            "Machine/7?x",
            "Machine/%2e",
        ] {
            assert_eq!(relative(href), None, "{href}");
        }
    }
}

//! Distinguished names of certificates and directories as text: RFC 2253 (`CN=Alice,O=Example,C=EU`, the most specific
//! part first) and the older form with slashes (`/C=EU/O=Example/CN=Alice`). Compared by their parts: types by whatever
//! keyword, values without regard to white space around and within them.

use std::fmt;

/// Keywords, with the attribute types they stand for. Of several of one type the first is written.
const KEYWORDS: [(&str, &str); 19] = [
    ("CN", "2.5.4.3"),
    ("SERIALNUMBER", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("S", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("T", "2.5.4.12"),
    ("TITLE", "2.5.4.12"),
    ("SN", "2.5.4.4"),
    ("GN", "2.5.4.42"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("USERID", "0.9.2342.19200300.100.1.1"),
    ("EMAILADDRESS", "1.2.840.113549.1.9.1"),
    ("EMAIL", "1.2.840.113549.1.9.1"),
    ("E", "1.2.840.113549.1.9.1"),
];

/// Bytes of a name that is read.
const LENGTH_AT_MOST: usize = 2_000;

/// The common name's type.
const COMMON_NAME: &str = "2.5.4.3";

/// A name, never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DistinguishedName {
    /// The most general part first, as in certificates; a part has mostly one attribute.
    parts: Vec<Vec<Attribute>>,
}

/// One attribute of a part: its type as a dotted number, and its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Attribute {
    kind: String,
    value: String,
}

impl DistinguishedName {
    /// Of parts, the most general first; types are dotted numbers. `None` of nothing.
    pub fn of<P>(parts: impl IntoIterator<Item = P>) -> Option<Self>
    where
        P: IntoIterator<Item = (String, String)>,
    {
        let part = |part: P| -> Vec<Attribute> {
            part.into_iter()
                .map(|(kind, value)| Attribute { kind, value })
                .collect()
        };
        let parts: Vec<_> = parts.into_iter().map(part).collect();
        let is_whole = !parts.is_empty() && parts.iter().all(|part| !part.is_empty());
        is_whole.then_some(Self { parts })
    }

    /// Reads either form. `None` for what is no name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // What is escaped at the end is part of the name.
        let text = text.trim_start();
        if text.is_empty() || text.len() > LENGTH_AT_MOST {
            return None;
        }
        match text.strip_prefix('/') {
            Some(rest) => slashes(rest.trim_end()),
            None => rfc2253(text),
        }
    }

    /// The same for all spellings of one name, different for different names; for indexes and comparisons.
    #[must_use]
    pub fn canonical(&self) -> String {
        let part = |part: &Vec<Attribute>| {
            let mut all: Vec<String> = part
                .iter()
                .map(|one| format!("{}={}", one.kind, collapsed(&one.value)))
                .collect();
            all.sort_unstable();
            all.join("\u{1e}")
        };
        let parts: Vec<String> = self.parts.iter().map(part).collect();
        parts.join("\u{1f}")
    }

    /// Whether both are the same name.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self == other || self.canonical() == other.canonical()
    }

    /// The name without its most specific part, and the common name that this is, if it is just that.
    #[must_use]
    pub fn parent(&self) -> Option<(Self, &str)> {
        let (last, rest) = self.parts.split_last()?;
        match (last.as_slice(), rest) {
            ([one], [_, ..]) if one.kind == COMMON_NAME => Some((
                Self {
                    parts: rest.to_vec(),
                },
                &one.value,
            )),
            _ => None,
        }
    }

    /// The most specific common name.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        let all = self.parts.iter().rev().flatten();
        let mut named = all.filter(|one| one.kind == COMMON_NAME);
        named.next().map(|one| one.value.as_str())
    }

    /// `/C=EU/O=Example/CN=Alice`, as grid tools write it.
    #[must_use]
    pub fn slashed(&self) -> String {
        let all = self.parts.iter().flatten();
        all.map(|one| format!("/{}={}", written(&one.kind, true), one.value))
            .collect()
    }
}

impl fmt::Display for DistinguishedName {
    /// In the form of RFC 2253.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().rev().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            for (index, one) in part.iter().enumerate() {
                if index > 0 {
                    f.write_str("+")?;
                }
                write!(f, "{}={}", written(&one.kind, false), escaped(&one.value))?;
            }
        }
        Ok(())
    }
}

fn written(kind: &str, slashed: bool) -> &str {
    match KEYWORDS.iter().find(|(_, number)| *number == kind) {
        Some(("EMAILADDRESS", _)) if slashed => "emailAddress",
        Some((keyword, _)) => keyword,
        None => kind,
    }
}

/// White space at the ends doesn't count, and several of it within count as one.
fn collapsed(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let at_end = index == 0 || index == last;
        if ",+\"\\<>;=".contains(c) || (c == ' ' && at_end) || (c == '#' && index == 0) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The dotted number of a type; `None` if there is none of that name.
fn number(keyword: &str) -> Option<String> {
    let keyword = keyword.trim();
    let keyword = keyword
        .strip_prefix("OID.")
        .or_else(|| keyword.strip_prefix("oid."))
        .unwrap_or(keyword);
    let known = KEYWORDS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(keyword));
    if let Some((_, number)) = known {
        return Some((*number).to_owned());
    }
    let dotted = keyword.contains('.')
        && keyword
            .split('.')
            .all(|arc| !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit()));
    dotted.then(|| keyword.to_owned())
}

/// `C=EU/O=Example/CN=host/www.example.org`: a slash begins a part only if a known type and `=` follow.
fn slashes(text: &str) -> Option<DistinguishedName> {
    let mut parts: Vec<Vec<Attribute>> = Vec::new();
    for piece in text.split('/') {
        let attribute = piece
            .split_once('=')
            .and_then(|(kind, value)| Some((number(kind)?, value)));
        match (attribute, parts.last_mut().and_then(|part| part.last_mut())) {
            (Some((kind, value)), _) => parts.push(vec![Attribute {
                kind,
                value: value.to_owned(),
            }]),
            (None, Some(before)) => {
                before.value.push('/');
                before.value.push_str(piece);
            }
            (None, None) => return None,
        }
    }
    let is_whole = parts
        .iter()
        .flatten()
        .all(|one| !one.value.trim().is_empty());
    is_whole.then_some(DistinguishedName { parts })
}

fn rfc2253(text: &str) -> Option<DistinguishedName> {
    let mut rest = text.chars().peekable();
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    loop {
        let mut kind = String::new();
        loop {
            match rest.next()? {
                '=' => break,
                c => kind.push(c),
            }
        }
        let kind = number(&kind)?;
        let (value, end) = value(&mut rest)?;
        part.push(Attribute { kind, value });
        match end {
            Some('+') => {}
            Some(_) => parts.push(std::mem::take(&mut part)),
            None => {
                parts.push(part);
                parts.reverse();
                return Some(DistinguishedName { parts });
            }
        }
    }
}

/// A value, and what ended it.
fn value(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<(String, Option<char>)> {
    let mut bytes: Vec<u8> = Vec::new();
    // How much of it can't be white space to be cut off.
    let mut solid = 0;
    while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
    let quoted = rest.next_if_eq(&'"').is_some();
    let hexadecimal = !quoted && rest.peek() == Some(&'#');
    let mut closed = false;
    let end = loop {
        let Some(c) = rest.next() else { break None };
        match c {
            '\\' => {
                let escaped = rest.next()?;
                match escaped.to_digit(16) {
                    Some(high) if rest.peek().is_some_and(char::is_ascii_hexdigit) => {
                        let low = rest.next()?.to_digit(16)?;
                        bytes.push(u8::try_from(high * 16 + low).ok()?);
                    }
                    _ => push(&mut bytes, escaped),
                }
                solid = bytes.len();
            }
            '"' if quoted && !closed => closed = true,
            ',' | ';' | '+' if !quoted || closed => break Some(c),
            c if closed => {
                if !c.is_ascii_whitespace() {
                    return None;
                }
            }
            c => {
                push(&mut bytes, c);
                if quoted || !c.is_ascii_whitespace() {
                    solid = bytes.len();
                }
            }
        }
    };
    bytes.truncate(solid);
    if (quoted && !closed) || bytes.is_empty() {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    let text = if hexadecimal { decoded(&text)? } else { text };
    Some((text, end))
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// `#` and a DER value in hexadecimal: of the string types what they say, of others the digits themselves.
fn decoded(text: &str) -> Option<String> {
    let digits = text.strip_prefix('#')?;
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect();
    let bytes = bytes?;
    match bytes.as_slice() {
        // UTF8String, PrintableString, IA5String with a short length.
        [12 | 19 | 22, length, content @ ..]
            if *length < 128 && content.len() == usize::from(*length) =>
        {
            String::from_utf8(content.to_vec()).ok()
        }
        _ => Some(format!("#{}", digits.to_ascii_lowercase())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        DistinguishedName::parse(text).map(|name| name.canonical())
    }

    #[test]
    fn spellings_of_one_name_are_one_name() {
        let name = canonical("CN=Alice Endorser,OU=Images,O=Example Org,C=EU").unwrap();
        for text in [
            "cn=Alice Endorser, ou=Images, o=Example Org, c=EU",
            "CN = Alice  Endorser ; OU=Images;O=\"Example Org\",C=EU",
            "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser",
            "2.5.4.3=Alice Endorser,OID.2.5.4.11=Images,O=#130B4578616D706C65204F7267,C=E\\55",
        ] {
            assert_eq!(canonical(text).as_ref(), Some(&name), "{text}");
        }
        for text in [
            "CN=alice endorser,OU=Images,O=Example Org,C=EU",
            "CN=Alice Endorser,O=Example Org,OU=Images,C=EU",
            "CN=Alice Endorser,OU=Images,O=Example Org",
        ] {
            assert_ne!(canonical(text).as_ref(), Some(&name), "{text}");
        }
        let email = canonical("/C=EU/CN=x/emailAddress=a@example.org");
        assert_eq!(
            email,
            canonical("1.2.840.113549.1.9.1=#160D61406578616D706C652E6F7267,CN=x,C=EU")
        );
        assert_eq!(canonical("OU=a+CN=b,O=c"), canonical("CN=b+OU=a,O=c"));
    }

    #[test]
    fn slashes_and_special_characters_are_part_of_values() {
        let host = DistinguishedName::parse("/C=EU/CN=host/www.example.org").unwrap();
        assert_eq!(host.to_string(), "CN=host/www.example.org,C=EU");
        assert_eq!(host.slashed(), "/C=EU/CN=host/www.example.org");
        let odd = DistinguishedName::parse("CN=a\\, b\\+\\\"\\#\\ ,O=x").unwrap();
        assert_eq!(odd.common_name(), Some("a, b+\"# "));
        assert_eq!(odd.to_string(), "CN=a\\, b\\+\\\"#\\ ,O=x");
        let (parent, name) = odd.parent().unwrap();
        assert_eq!((parent.to_string().as_str(), name), ("O=x", "a, b+\"# "));
        assert!(parent.parent().is_none());
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "",
            "alice",
            "/",
            "/x",
            "CN=",
            "CN=a,",
            "CN=a,b",
            "nothing=a",
            "CN=\"a",
            "CN=a\\",
            "=a",
            "vo:x",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(text in "[/,=+\\\\\"# CNOUa-c0-9.é]{0,40}") {
            if let Some(name) = DistinguishedName::parse(&text) {
                let _ = (name.slashed(), name.canonical());
                let again = DistinguishedName::parse(&name.to_string()).map(|name| name.canonical());
                prop_assert_eq!(again, Some(name.canonical()));
            }
        }

        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec("[ -~é]{1,12}", 1..4)) {
            prop_assume!(values.iter().all(|value| !value.trim().is_empty()));
            let parts = values.into_iter().map(|value| [("2.5.4.3".to_owned(), value)]);
            let name = DistinguishedName::of(parts).unwrap();
            prop_assert_eq!(DistinguishedName::parse(&name.to_string()), Some(name));
        }
    }
}

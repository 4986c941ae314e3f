//! The Basic Encoding Rules as LDAP uses them (RFC 4511 §5.1): tags of one byte, definite lengths.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Appends an element with this content.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or_default());
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let significant = bytes.get(zeros..).unwrap_or_default();
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
}

/// Appends an element that consists of others.
pub(crate) fn put_all(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    fill(&mut content);
    put(out, tag, &content);
}

/// Appends a number that isn't negative.
pub(crate) fn put_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let bytes = number.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(3);
    let mut content = bytes.get(zeros..).unwrap_or_default().to_vec();
    if content.first().is_some_and(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    put(out, tag, &content);
}

/// What the beginning of some bytes is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Not enough bytes to know.
    More,
    /// Nothing that this can be.
    Wrong,
    /// An element: its tag, the length of its header, and of its content.
    Element(u8, usize, usize),
}

pub(crate) fn head(bytes: &[u8]) -> Head {
    let [tag, first, rest @ ..] = bytes else {
        return Head::More;
    };
    if tag & 0x1f == 0x1f {
        return Head::Wrong;
    }
    if *first < 0x80 {
        return Head::Element(*tag, 2, usize::from(*first));
    }
    let octets = usize::from(first & 0x7f);
    if !(1..=4).contains(&octets) {
        return Head::Wrong;
    }
    let Some(length) = rest.get(..octets) else {
        return Head::More;
    };
    let length = length
        .iter()
        .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
    Head::Element(*tag, 2 + octets, length)
}

/// Elements one after the other; ends at the first that isn't whole.
#[derive(Clone, Copy)]
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Elements<'a> {
    /// The content of the next, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let Head::Element(tag, header, length) = head(self.0) else {
            return None;
        };
        let content = self.0.get(header..header.checked_add(length)?)?;
        self.0 = self.0.get(header + length..).unwrap_or_default();
        Some((tag, content))
    }
}

/// A number that isn't negative.
pub(crate) fn number(content: &[u8]) -> Option<u32> {
    match content {
        [first, ..] if content.len() <= 5 && first & 0x80 == 0 => {
            let sum = content
                .iter()
                .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
            u32::try_from(sum).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(tag in 0u8..31, length in 0usize..70_000, value in any::<u32>()) {
            let content = vec![7; length];
            let mut out = Vec::new();
            put(&mut out, tag, &content);
            put_number(&mut out, INTEGER, value);
            let mut all = Elements(&out);
            prop_assert_eq!(all.expect(tag), Some(&content[..]));
            prop_assert_eq!(all.expect(INTEGER).and_then(number), Some(value));
            prop_assert!(all.next().is_none());
            prop_assert_eq!(head(&out[..1]), Head::More);
        }

        #[test]
        fn nothing_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for (_, content) in Elements(&bytes) {
                let _ = (number(content), Elements(content).count());
            }
        }
    }
}

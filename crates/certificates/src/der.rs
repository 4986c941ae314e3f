//! The little of DER that is read by hand: what no library has a type for.

/// A value with its tag, and what follows it.
pub(crate) struct Element<'a> {
    /// The identifier octet; only those of one byte are read.
    pub(crate) tag: u8,
    /// What is in it.
    pub(crate) content: &'a [u8],
    /// All of it, header included.
    pub(crate) whole: &'a [u8],
}

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// A context-specific tag of something constructed.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// A context-specific tag of something primitive.
pub(crate) const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// The elements one after the other; ends at the first that isn't one.
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Elements<'a> {
    /// The next, if it has this tag; else nothing is taken.
    pub(crate) fn next_if(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() != Some(&tag) {
            return None;
        }
        self.next()
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            short if short < 0x80 => usize::from(short),
            long => {
                let octets = usize::from(long & 0x7f);
                if !(1..=4).contains(&octets) {
                    return None;
                }
                let (length, after) = rest.split_at_checked(octets)?;
                rest = after;
                length
                    .iter()
                    .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte))
            }
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - after.len())?;
        self.0 = after;
        Some(Element {
            tag,
            content,
            whole,
        })
    }
}

/// The one element of this tag that there is.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let mut elements = Elements(bytes);
    let element = elements.next_if(tag)?;
    elements.0.is_empty().then_some(element.content)
}

/// A number that fits.
pub(crate) fn number(content: &[u8]) -> Option<u32> {
    match content {
        [] => None,
        [first, ..] if first & 0x80 != 0 => None,
        _ if content.len() > 5 => None,
        _ => {
            let sum = content
                .iter()
                .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
            u32::try_from(sum).ok()
        }
    }
}

/// An object identifier as a dotted number.
pub(crate) fn oid(content: &[u8]) -> Option<String> {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0u64;
    for byte in content {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let first = arcs.first_mut()?;
    let head = (*first / 40).min(2);
    *first -= head * 40;
    let rest: Vec<String> = arcs.iter().map(u64::to_string).collect();
    (content.last()? & 0x80 == 0).then(|| format!("{head}.{}", rest.join(".")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_numbers_and_identifiers_are_read() {
        let bytes = [0x30, 3, 2, 1, 5, 4, 0];
        let mut all = Elements(&bytes);
        assert_eq!(
            only(all.next_if(SEQUENCE).unwrap().content, INTEGER).and_then(number),
            Some(5)
        );
        assert!(all.next_if(SEQUENCE).is_none());
        assert_eq!(all.next().unwrap().tag, OCTET_STRING);
        assert!(all.next().is_none());
        assert_eq!(number(&[0, 0xff]), Some(255));
        assert_eq!(number(&[0xff]), None);
        assert_eq!(
            oid(&[0x2b, 6, 1, 5, 5, 7, 1, 14]).as_deref(),
            Some("1.3.6.1.5.5.7.1.14")
        );
        assert_eq!(oid(&[0x55, 4, 3]).as_deref(), Some("2.5.4.3"));
        assert_eq!(oid(&[0x2b, 0x86]), None);
        assert_eq!(oid(&[]), None);
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for element in Elements(&bytes) {
                let _ = (number(element.content), oid(element.content));
                let _ = Elements(element.content).count();
            }
        }
    }
}

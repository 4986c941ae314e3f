//! The messages: a few of those of RFC 4511 §4.

use crate::ber::{
    self, BOOLEAN, ENUMERATED, Elements, INTEGER, OCTET_STRING, SEQUENCE, SET, put, put_all,
    put_number,
};

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const MODIFY_REQUEST: u8 = 0x66;
const MODIFY_RESPONSE: u8 = 0x67;
const ADD_REQUEST: u8 = 0x68;
const ADD_RESPONSE: u8 = 0x69;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
/// RFC 4511 §4.14.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// What is asked.
pub(crate) enum Request<'a> {
    Bind {
        dn: &'a str,
        password: &'a str,
    },
    Search(Search<'a>),
    /// A new entry with these values.
    Add {
        dn: &'a str,
        values: &'a [(&'a str, &'a str)],
    },
    Modify {
        dn: &'a str,
        changes: &'a [Change<'a>],
    },
    StartTls,
    Unbind,
}

/// Entries of a subtree that have all of these values.
pub(crate) struct Search<'a> {
    pub(crate) base: &'a str,
    pub(crate) equal: &'a [(&'a str, &'a str)],
    pub(crate) attributes: &'a [&'a str],
    pub(crate) entries_at_most: u32,
    pub(crate) seconds_at_most: u32,
}

/// What is changed of an entry (RFC 4511 §4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Another value of an attribute beside those there are.
    Add(&'a str, &'a str),
    /// This value in place of all that an attribute has.
    Replace(&'a str, &'a str),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Response {
    Bound(Outcome),
    Entry(Entry),
    Done(Outcome),
    /// Of what was to be added or changed.
    Written(Outcome),
    Extended(Outcome),
    /// References to other servers, and what is sent unasked.
    Other,
}

/// Results of RFC 4511 §4.1.9.
pub(crate) const SUCCESS: u32 = 0;
pub(crate) const NO_SUCH_OBJECT: u32 = 32;

/// How something ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: u32,
    /// For people.
    pub(crate) text: String,
}

/// An entry, with those of its values that are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub dn: String,
    /// Its attributes with their values.
    pub attributes: Vec<(String, Vec<String>)>,
}

impl Entry {
    /// The values of an attribute.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.attributes.iter();
        named
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values.iter().map(String::as_str))
    }
}

/// The bytes of a request.
pub(crate) fn written(id: u32, request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_all(&mut out, SEQUENCE, |out| {
        put_number(out, INTEGER, id);
        match request {
            Request::Bind { dn, password } => put_all(out, BIND_REQUEST, |out| {
                put_number(out, INTEGER, 3);
                put(out, OCTET_STRING, dn.as_bytes());
                put(out, 0x80, password.as_bytes());
            }),
            Request::Search(search) => put_all(out, SEARCH_REQUEST, |out| search.put(out)),
            Request::Add { dn, values } => put_all(out, ADD_REQUEST, |out| {
                put(out, OCTET_STRING, dn.as_bytes());
                put_all(out, SEQUENCE, |out| {
                    for (name, value) in *values {
                        put_attribute(out, name, value);
                    }
                });
            }),
            Request::Modify { dn, changes } => put_all(out, MODIFY_REQUEST, |out| {
                put(out, OCTET_STRING, dn.as_bytes());
                put_all(out, SEQUENCE, |out| {
                    for change in *changes {
                        let (operation, name, value) = match change {
                            Change::Add(name, value) => (0, name, value),
                            Change::Replace(name, value) => (2, name, value),
                        };
                        put_all(out, SEQUENCE, |out| {
                            put_number(out, ENUMERATED, operation);
                            put_attribute(out, name, value);
                        });
                    }
                });
            }),
            Request::StartTls => put_all(out, EXTENDED_REQUEST, |out| put(out, 0x80, START_TLS)),
            Request::Unbind => put(out, UNBIND_REQUEST, &[]),
        }
    });
    out
}

/// An attribute with one value.
fn put_attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    put_all(out, SEQUENCE, |out| {
        put(out, OCTET_STRING, name.as_bytes());
        put_all(out, SET, |out| put(out, OCTET_STRING, value.as_bytes()));
    });
}

impl Search<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put(out, OCTET_STRING, self.base.as_bytes());
        // The whole subtree; aliases are not followed.
        put_number(out, ENUMERATED, 2);
        put_number(out, ENUMERATED, 0);
        put_number(out, INTEGER, self.entries_at_most);
        put_number(out, INTEGER, self.seconds_at_most);
        put(out, BOOLEAN, &[0]);
        put_all(out, 0xa0, |out| {
            for (attribute, value) in self.equal {
                put_all(out, 0xa3, |out| {
                    put(out, OCTET_STRING, attribute.as_bytes());
                    put(out, OCTET_STRING, value.as_bytes());
                });
            }
        });
        put_all(out, SEQUENCE, |out| {
            for attribute in self.attributes {
                put(out, OCTET_STRING, attribute.as_bytes());
            }
        });
    }
}

/// A message's number and answer, out of the content of its sequence. `None` for what is none.
pub(crate) fn read(content: &[u8]) -> Option<(u32, Response)> {
    let mut elements = Elements(content);
    let id = ber::number(elements.expect(INTEGER)?)?;
    let (tag, content) = elements.next()?;
    let response = match tag {
        BIND_RESPONSE => Response::Bound(outcome(content)?),
        SEARCH_ENTRY => Response::Entry(entry(content)?),
        SEARCH_DONE => Response::Done(outcome(content)?),
        ADD_RESPONSE | MODIFY_RESPONSE => Response::Written(outcome(content)?),
        EXTENDED_RESPONSE => Response::Extended(outcome(content)?),
        _ => Response::Other,
    };
    Some((id, response))
}

fn outcome(content: &[u8]) -> Option<Outcome> {
    let mut elements = Elements(content);
    let code = ber::number(elements.expect(ENUMERATED)?)?;
    let _matched = elements.expect(OCTET_STRING)?;
    let text = String::from_utf8_lossy(elements.expect(OCTET_STRING)?);
    let text = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(Outcome { code, text })
}

fn entry(content: &[u8]) -> Option<Entry> {
    let mut elements = Elements(content);
    let dn = String::from_utf8(elements.expect(OCTET_STRING)?.to_vec()).ok()?;
    let mut attributes = Vec::new();
    for (_, attribute) in Elements(elements.expect(SEQUENCE)?) {
        let mut parts = Elements(attribute);
        let name = String::from_utf8(parts.expect(OCTET_STRING)?.to_vec()).ok()?;
        let values = Elements(parts.expect(SET)?)
            .filter_map(|(_, value)| String::from_utf8(value.to_vec()).ok())
            .collect();
        attributes.push((name, values));
    }
    Some(Entry { dn, attributes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bind_is_written_as_the_standard_has_it() {
        let request = Request::Bind {
            dn: "cn=a",
            password: "x",
        };
        assert_eq!(
            written(1, &request),
            [
                0x30, 0x11, 2, 1, 1, 0x60, 0x0c, 2, 1, 3, 4, 4, b'c', b'n', b'=', b'a', 0x80, 1,
                b'x'
            ]
        );
        assert_eq!(written(2, &Request::Unbind), [0x30, 5, 2, 1, 2, 0x42, 0]);
    }

    #[test]
    fn changes_are_written_as_the_standard_has_them() {
        let values = [("cn", "a")];
        let request = Request::Add {
            dn: "cn=a",
            values: &values,
        };
        assert_eq!(
            written(1, &request),
            [
                0x30, 0x18, 2, 1, 1, 0x68, 0x13, 4, 4, b'c', b'n', b'=', b'a', 0x30, 0x0b, 0x30, 9,
                4, 2, b'c', b'n', 0x31, 3, 4, 1, b'a'
            ]
        );
        let changes = [Change::Replace("sn", "b")];
        let request = Request::Modify {
            dn: "",
            changes: &changes,
        };
        assert_eq!(
            written(1, &request),
            [
                0x30, 0x19, 2, 1, 1, 0x66, 0x14, 4, 0, 0x30, 0x10, 0x30, 0x0e, 0x0a, 1, 2, 0x30, 9,
                4, 2, b's', b'n', 0x31, 3, 4, 1, b'b'
            ]
        );
    }

    #[test]
    fn answers_are_read() {
        let done = [2, 1, 7, 0x65, 7, 0x0a, 1, 4, 4, 0, 4, 0];
        let outcome = Outcome {
            code: 4,
            text: String::new(),
        };
        assert_eq!(read(&done), Some((7, Response::Done(outcome))));
        let mut content = Vec::new();
        put_number(&mut content, INTEGER, 9);
        put_all(&mut content, SEARCH_ENTRY, |out| {
            put(out, OCTET_STRING, b"uid=a");
            put_all(out, SEQUENCE, |out| {
                put_all(out, SEQUENCE, |out| {
                    put(out, OCTET_STRING, b"mail");
                    put_all(out, SET, |out| {
                        put(out, OCTET_STRING, b"a@example.org");
                        put(out, OCTET_STRING, b"\xff");
                    });
                });
            });
        });
        let Some((9, Response::Entry(entry))) = read(&content) else {
            unreachable!("it is an entry")
        };
        assert_eq!(entry.dn, "uid=a");
        assert_eq!(entry.values("MAIL").collect::<Vec<_>>(), ["a@example.org"]);
        assert_eq!(read(&done[..5]), None);
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes);
            let mut content = vec![2, 1, 1, 0x64];
            content.push(u8::try_from(bytes.len()).unwrap());
            content.extend(bytes);
            let _ = read(&content);
        }
    }
}

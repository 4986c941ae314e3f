//! What a guest writes to its console, made harmless for the reader's terminal.
//!
//! A guest may be hostile, and a terminal does what escape sequences say. Colours pass; every other sequence and
//! every control character but newline, carriage return, tab and backspace is dropped.

/// Keeps its place within a sequence from one piece of text to the next.
#[derive(Debug, Default)]
pub struct ConsoleFilter {
    state: State,
    sequence: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC `[`: parameters until a final byte.
    Control,
    /// After ESC and one of `]PX^_`: text until BEL or ESC.
    Quoted,
    /// After ESC and an intermediate byte (character sets): one byte more.
    OneMore,
}

/// Longer colour sequences are nothing that a program writes.
const SEQUENCE_MAX_BYTES: usize = 32;

impl ConsoleFilter {
    /// The harmless part of `input`.
    #[must_use]
    pub fn harmless(&mut self, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::with_capacity(input.len());
        for &byte in input {
            self.state = match self.state {
                State::Text => match byte {
                    0x1b => State::Escape,
                    b'\n' | b'\r' | b'\t' | 0x08 | 0x20..=0x7e | 0x80.. => {
                        output.push(byte);
                        State::Text
                    }
                    _ => State::Text,
                },
                State::Escape => match byte {
                    b'[' => {
                        self.sequence.clear();
                        State::Control
                    }
                    b']' | b'P' | b'X' | b'^' | b'_' => State::Quoted,
                    0x20..=0x2f => State::OneMore,
                    0x1b => State::Escape,
                    _ => State::Text,
                },
                State::Control => match byte {
                    0x20..=0x3f => {
                        if self.sequence.len() < SEQUENCE_MAX_BYTES {
                            self.sequence.push(byte);
                        }
                        State::Control
                    }
                    b'm' if self.sequence.len() < SEQUENCE_MAX_BYTES
                        && self
                            .sequence
                            .iter()
                            .all(|byte| byte.is_ascii_digit() || *byte == b';') =>
                    {
                        output.extend_from_slice(b"\x1b[");
                        output.append(&mut self.sequence);
                        output.push(b'm');
                        State::Text
                    }
                    0x1b => State::Escape,
                    _ => State::Text,
                },
                State::Quoted => match byte {
                    0x07 | b'\n' => State::Text,
                    0x1b => State::Escape,
                    _ => State::Quoted,
                },
                State::OneMore => State::Text,
            };
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_pass_and_the_rest_is_dropped() {
        let mut filter = ConsoleFilter::default();
        assert_eq!(
            filter.harmless(b"\x1b[1;31mred\x1b[0m\x1b[2Jx\x1b]0;title\x07y\x1b(Bz\x07\x00\r\n"),
            b"\x1b[1;31mred\x1b[0mxyz\r\n"
        );
        assert_eq!(filter.harmless(b"a\x1b["), b"a");
        assert_eq!(filter.harmless(b"32mb"), b"\x1b[32mb");
    }

    proptest! {
        #[test]
        fn no_sequence_but_colours_gets_through(input in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b'm'), Just(b'1'), any::<u8>()], 0..200)) {
            let output = ConsoleFilter::default().harmless(&input);
            let mut rest = output.as_slice();
            while let Some(start) = rest.iter().position(|byte| *byte == 0x1b) {
                let sequence = &rest[start + 1..];
                prop_assert_eq!(sequence.first(), Some(&b'['));
                let end = sequence.iter().position(|byte| *byte == b'm');
                prop_assert!(end.is_some_and(|end| sequence[1..end].iter().all(|byte| byte.is_ascii_digit() || *byte == b';')));
                rest = sequence;
            }
        }
    }
}

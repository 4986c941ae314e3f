//! The reference entry, spoilt in some thousand ways, the same each time: nothing that reads it panics, and whatever still verifies says what
//! was signed.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that panics has failed"
)]

use marketplace::{Entry, Metadata};

use crate::support::{DRAFT, SIGNED};

const ROUNDS: u64 = 3000;

/// What is put in: things that mean something to one of the readers.
const PIECES: [&[u8]; 28] = [
    b"<",
    b">",
    b"</rdf:RDF>",
    b"<rdf:Description>",
    b"</rdf:Description>",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"]]>",
    b"&#0;",
    b"&#x41;",
    b"&amp;",
    b"&lol;",
    b"<!DOCTYPE a [<!ENTITY lol 'x'>]>",
    b"<?pi ?>",
    b" xmlns:dcterms=\"http://other/\"",
    b" Id=\"a\"",
    b"#a",
    b"\xff\xfe",
    b"\0",
    b"\r",
    b"\xef\xbb\xbf",
    b"<Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/>",
    b"<Object/>",
    b"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256",
    b"99999999999999999999",
    b"-1",
    b"<slterms:deprecated/>",
];

/// Numbers that look random and are the same every time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % bound.max(1)
    }
}

/// One change.
fn spoil(text: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(text.len());
    let end = (at + 1 + dice.below(200)).min(text.len());
    match dice.below(8) {
        0 => {
            if let Some(byte) = text.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => drop(text.drain(at..end)),
        2 => text.truncate(at),
        3 => {
            let copy = text[at..end].to_vec();
            let to = dice.below(text.len() + 1);
            text.splice(to..to, copy);
        }
        4 => {
            let piece = PIECES[dice.below(PIECES.len())];
            text.splice(at..at, piece.iter().copied());
        }
        5 => {
            let piece = PIECES[dice.below(PIECES.len())];
            text.splice(at..end, piece.iter().copied());
        }
        // A whole element once more, or somewhere else.
        _ => {
            let starts: Vec<usize> = (0..text.len())
                .filter(|place| text[*place] == b'<')
                .collect();
            let (Some(from), Some(to)) = (
                starts.get(dice.below(starts.len())),
                starts.get(dice.below(starts.len())),
            ) else {
                return;
            };
            let (from, to) = (*from.min(to), *from.max(to));
            let piece = text[from..to].to_vec();
            if dice.below(2) == 0 {
                text.drain(from..to);
            }
            let place = dice.below(text.len() + 1);
            text.splice(place..place, piece);
        }
    }
}

#[test]
fn in_some_thousand_ways() {
    let original = Entry::verify(SIGNED.as_bytes()).unwrap();
    let mut dice = Dice(20_300_115);
    let mut verified = 0;
    for round in 0..ROUNDS {
        let source = if round % 8 == 0 { DRAFT } else { SIGNED };
        let mut text = source.as_bytes().to_vec();
        for _ in 0..=dice.below(3) {
            spoil(&mut text, &mut dice);
        }
        let _ = Metadata::parse(&text);
        let _ = marketplace::list::documents(&text);
        let _ = marketplace::rdf::json(&text);
        if let Ok(entry) = Entry::verify(&text) {
            verified += 1;
            assert_eq!(entry.metadata(), original.metadata(), "round {round}");
            assert_eq!(entry.certificate(), original.certificate(), "round {round}");
        }
    }
    println!("{verified} of {ROUNDS} still say what was signed");
}

//! What an initiator and a target say to each other until the one has logged in to the other (RFC 7143 §6.3, 11.12, 11.13).
//!
//! One request, one answer, each passed on whole, and nothing else: an initiator that says more meanwhile isn't heard before it is in.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Bytes of the header of what is said, where it tells how much follows, and how much may follow.
const HEADER_BYTES: usize = 48;
const MORE_HEADERS_AT: usize = 4;
const DATA_BYTES_AT: usize = 5;
const WORDS_BYTES: usize = 8192;
/// A request to log in, which comes at once, and its answer.
const LOGIN: u8 = 0x43;
const ANSWER: u8 = 0x23;
/// Where an answer says what comes next, and that it goes on to what isn't the login any more.
const STAGE_AT: usize = 1;
const TRANSIT: u8 = 0x80;
const NEXT_STAGE: u8 = 0x03;
const ALL_FEATURES: u8 = 3;
/// Where an answer says whether the initiator may go on.
const STATUS_CLASS_AT: usize = 36;

/// Of an initiator to a target, by their names.
pub(super) type Pair = (String, String);

/// The first request of an initiator.
pub(super) async fn first_words(initiator: &mut TcpStream) -> io::Result<Vec<u8>> {
    whole(initiator, LOGIN).await
}

/// Has an initiator log in to a process: the answer that says that it is in, which it hasn't heard yet.
pub(super) async fn log_in(
    initiator: &mut TcpStream,
    process: &mut TcpStream,
    mut words: Vec<u8>,
) -> io::Result<Vec<u8>> {
    loop {
        process.write_all(&words).await?;
        let answer = whole(process, ANSWER).await?;
        match says(&answer) {
            Says::In => return Ok(answer),
            Says::GoOn => initiator.write_all(&answer).await?,
            Says::No => {
                initiator.write_all(&answer).await?;
                return Err(io::Error::other("it isn't let in"));
            }
        }
        words = whole(initiator, LOGIN).await?;
    }
}

/// What the answer to a request to log in says.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    In,
    GoOn,
    No,
}

fn says(answer: &[u8]) -> Says {
    let at = |place: usize| answer.get(place).copied().unwrap_or_default();
    let stage = at(STAGE_AT);
    if at(STATUS_CLASS_AT) != 0 {
        Says::No
    } else if stage & TRANSIT != 0 && stage & NEXT_STAGE == ALL_FEATURES {
        Says::In
    } else {
        Says::GoOn
    }
}

/// A request or answer of this kind, whole.
async fn whole(stream: &mut TcpStream, kind: u8) -> io::Result<Vec<u8>> {
    let mut words = vec![0; HEADER_BYTES];
    stream.read_exact(&mut words).await?;
    let more = length_of(&words, kind).ok_or_else(|| io::Error::other("it doesn't log in"))?;
    words.resize(HEADER_BYTES + more, 0);
    let rest = words.get_mut(HEADER_BYTES..).unwrap_or_default();
    stream.read_exact(rest).await?;
    Ok(words)
}

/// How many bytes follow the header of a request or answer of this kind; none for anything else.
fn length_of(header: &[u8], kind: u8) -> Option<usize> {
    let is_login = header.first() == Some(&kind) && header.get(MORE_HEADERS_AT) == Some(&0);
    let &[a, b, c] = header.get(DATA_BYTES_AT..)?.first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    (is_login && length <= WORDS_BYTES).then_some(length.next_multiple_of(4))
}

/// Whom a request to log in names: the target and the initiator.
pub(super) fn named(words: &[u8]) -> Option<Pair> {
    let text = words.get(HEADER_BYTES..)?;
    let of = |key: &str| {
        let mut pairs = text.split(|byte| *byte == 0);
        let value = pairs.find_map(|pair| pair.strip_prefix(key.as_bytes()))?;
        String::from_utf8(value.to_vec()).ok()
    };
    Some((of("TargetName=")?, of("InitiatorName=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_logs_in_says_whom_it_wants() {
        let text = b"InitiatorName=iqn.a\0TargetName=iqn.b\0SessionType=Normal\0\0\0";
        let mut words = vec![0; HEADER_BYTES];
        words[0] = LOGIN;
        words[7] = 57;
        words.extend_from_slice(text);
        assert_eq!(length_of(&words, LOGIN), Some(60));
        let pair = ("iqn.b".to_owned(), "iqn.a".to_owned());
        assert_eq!(named(&words), Some(pair));
        words[MORE_HEADERS_AT] = 1;
        assert_eq!(length_of(&words, LOGIN), None, "more headers");
        words[MORE_HEADERS_AT] = 0;
        words[5] = 1;
        assert_eq!(length_of(&words, LOGIN), None, "too long");
        assert_eq!(length_of(b"GET / HTTP/1.1\r\n", LOGIN), None);
        assert_eq!(length_of(&[], LOGIN), None);
        assert_eq!(named(b"short"), None);
        let discovery = [
            &[0; HEADER_BYTES][..],
            b"InitiatorName=iqn.a\0SessionType=Discovery\0",
        ];
        assert_eq!(
            named(&discovery.concat()),
            None,
            "nobody is told what there is"
        );
    }

    #[test]
    fn who_is_in_is_so_by_the_last_answer_only() {
        let mut answer = vec![0; HEADER_BYTES];
        answer[0] = ANSWER;
        assert_eq!(says(&answer), Says::GoOn);
        // To negotiate, once it is known who it is.
        answer[STAGE_AT] = 0x81;
        assert_eq!(says(&answer), Says::GoOn);
        // It would go on, and the target wouldn't yet.
        answer[STAGE_AT] = 0x07;
        assert_eq!(says(&answer), Says::GoOn);
        answer[STAGE_AT] = 0x87;
        assert_eq!(says(&answer), Says::In);
        answer[STATUS_CLASS_AT] = 2;
        assert_eq!(says(&answer), Says::No);
        assert_eq!(length_of(&answer, LOGIN), None, "not what initiators say");
    }
}

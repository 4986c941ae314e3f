//! Asking dnsmasq itself whether it has read its files: SIGHUP has no answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

const PORT: u16 = 53;
const PAUSE: Duration = Duration::from_millis(1);
const REPEAT: Duration = Duration::from_millis(200);

/// A question for the A record of `name` (RFC 1035 §4.1).
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // a plain query, one question
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]); // end of name, A, IN
    bytes
}

/// Whether a message answers the question of that id with a record.
fn is_found(message: &[u8], id: u16) -> bool {
    let field = |at: usize| {
        message
            .get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u16::from_be_bytes)
    };
    let refused = message.get(3).is_none_or(|flags| flags & 0x0f != 0);
    field(0) == Some(id) && !refused && field(6).is_some_and(|answers| answers > 0)
}

/// Waits until the server knows `name`; `false` when it does not until the deadline.
pub(crate) async fn known(server: Ipv4Addr, name: &str, deadline: Instant) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(SocketAddr::from((server, PORT))).await?;
    let mut answer = [0; 512];
    let mut id: u16 = 1;
    while Instant::now() < deadline {
        socket.send(&question(name, id)).await?;
        match timeout_at(
            deadline.min(Instant::now() + REPEAT),
            socket.recv(&mut answer),
        )
        .await
        {
            Ok(Ok(length)) if is_found(answer.get(..length).unwrap_or_default(), id) => {
                return Ok(true);
            }
            // Not yet, or nobody listens for the moment.
            Ok(_) => sleep(PAUSE).await,
            Err(_) => {}
        }
        id = id.wrapping_add(1);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_an_answer_with_a_record_counts() {
        let mut message = question("a.b", 7);
        assert_eq!(&message[12..], b"\x01a\x01b\0\0\x01\0\x01");
        assert!(!is_found(&message, 7), "no record");
        message[7] = 1;
        assert!(is_found(&message, 7) && !is_found(&message, 8));
        message[3] = 3;
        assert!(!is_found(&message, 7), "no such name");
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>, id: u16) {
            let _ = is_found(&bytes, id);
        }
    }
}

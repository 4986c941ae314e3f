//! Servers that are slow, or answer something else: bounded in time and space, and told.

use std::time::{Duration, Instant};

use accounts::directory::Directory as _;
use directory::LdapDirectory;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::settings::ldap;

/// A server that answers everything with these bytes, again and again if `endless`.
async fn server(answer: Vec<u8>, endless: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 1000];
                let _ = stream.read(&mut request).await;
                loop {
                    if stream.write_all(&answer).await.is_err() || !endless {
                        break;
                    }
                }
                // Stays open until the other end has enough of it.
                let _ = stream.read(&mut request).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn nonsense_is_told_and_nothing_goes_on_for_ever() {
    let entry = {
        // uid=a without attributes, as the answer to the first question.
        let mut entry = vec![0x30, 14, 2, 1, 1, 0x64, 9, 4, 5];
        entry.extend_from_slice(b"uid=a");
        entry.extend_from_slice(&[0x30, 0]);
        entry
    };
    for (what, answer, endless) in [
        ("silence", Vec::new(), false),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
        (
            "a long message",
            vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff],
            false,
        ),
        (
            "an impossible length",
            vec![0x30, 0x88, 1, 1, 1, 1, 1, 1, 1, 1],
            false,
        ),
        ("zeros for ever", vec![0; 4096], true),
        (
            "a message within a message within …",
            vec![0x30, 0x80],
            true,
        ),
        ("entries for ever", entry, true),
        (
            "an answer to something else",
            vec![0x30, 12, 2, 1, 9, 0x65, 7, 10, 1, 0, 4, 0, 4, 0],
            false,
        ),
        (
            "half an answer",
            vec![0x30, 12, 2, 1, 1, 0x65, 7, 10],
            false,
        ),
        (
            "the wrong kind of answer",
            vec![0x30, 12, 2, 1, 1, 0x61, 7, 10, 1, 0, 4, 0, 4, 0],
            false,
        ),
        (
            "a goodbye",
            vec![0x30, 12, 2, 1, 0, 0x78, 7, 10, 1, 52, 4, 0, 4, 0],
            false,
        ),
    ] {
        let port = server(answer, endless).await;
        let settings = ldap(port, json!({"connection": {"timeout-ms": 300}}));
        let directory = LdapDirectory::default();
        let begun = Instant::now();
        let answer = directory
            .by_password(&settings, "alice", "correct horse")
            .await;
        let took = begun.elapsed();
        assert!(answer.is_err(), "{what}: {answer:?}");
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        // And the next one hears so at once.
        let begun = Instant::now();
        assert!(directory.by_login(&settings, "bob").await.is_err());
        assert!(begun.elapsed() < Duration::from_millis(200), "{what}");
    }
}

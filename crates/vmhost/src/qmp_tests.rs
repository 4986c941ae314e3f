use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream as StdStream;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"], "new": 1}}"#;

/// A pretended QEMU that has answered the handshake; the test plays on.
async fn connected() -> (Qmp, mpsc::Receiver<QmpEvent>, Peer) {
    let (ours, theirs) = StdStream::pair().expect("a socket pair");
    let mut peer = Peer { socket: theirs };
    let handshake = std::thread::spawn(move || {
        peer.say(GREETING);
        let request = peer.hear();
        assert_eq!(request["execute"], "qmp_capabilities");
        peer.say(&format!(r#"{{"return": {{}}, "id": {}}}"#, request["id"]));
        peer
    });
    let (qmp, events) = Qmp::start(ours).await.expect("a handshake");
    (qmp, events, handshake.join().expect("the peer lives"))
}

struct Peer {
    socket: StdStream,
}

impl Peer {
    fn say(&mut self, line: &str) {
        self.socket.write_all(line.as_bytes()).expect("written");
        self.socket.write_all(b"\r\n").expect("written");
    }

    fn hear(&mut self) -> Value {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != [b'\n'] {
            self.socket.read_exact(&mut byte).expect("a line");
            line.push(byte[0]);
        }
        serde_json::from_slice(&line).expect("JSON")
    }
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let (qmp, _events, mut peer) = connected().await;
    assert_eq!(qmp.version().to_string(), "7.2.22");
    let play = std::thread::spawn(move || {
        let (first, second) = (peer.hear(), peer.hear());
        peer.say(&format!(
            r#"{{"return": "{}", "id": {}}}"#,
            second["execute"].as_str().expect("text"),
            second["id"]
        ));
        peer.say(&format!(
            r#"{{"error": {{"class": "DeviceNotFound", "desc": "Device 'x' not found", "more": 1}}, "id": {}}}"#,
            first["id"]
        ));
        peer
    });
    let (first, second) = tokio::join!(
        qmp.execute("device_del", Some(json!({"id": "x"}))),
        qmp.execute("query-name", None)
    );
    assert_eq!(second.expect("answered"), "query-name");
    let error = first.expect_err("refused");
    assert!(error.is_device_not_found());
    assert_eq!(error.refusal(), Some("Device 'x' not found"));
    drop(play.join());
    assert!(matches!(
        qmp.execute("query-name", None).await,
        Err(QmpError::Closed { .. })
    ));
}

#[tokio::test]
async fn events_are_told_and_those_nobody_reads_are_counted_as_lost() {
    let (qmp, mut events, mut peer) = connected().await;
    let play = std::thread::spawn(move || {
        for number in 0..EVENT_QUEUE + 10 {
            peer.say(&format!(
                r#"{{"event": "RESUME", "data": {{"n": {number}}}, "timestamp": {{"seconds": 1}}}}"#
            ));
        }
        let request = peer.hear();
        peer.say(&format!(r#"{{"return": null, "id": {}}}"#, request["id"]));
        peer
    });
    // The answer comes behind the events, so all of them were taken.
    qmp.execute("query-name", None).await.expect("answered");
    let mut peer = play.join().expect("the peer lives");
    for number in 0..EVENT_QUEUE {
        let event = events.recv().await.expect("an event");
        assert_eq!(
            event,
            QmpEvent::Happened {
                name: "RESUME".to_owned(),
                data: json!({"n": number})
            }
        );
    }
    peer.say(r#"{"event": "STOP"}"#);
    assert_eq!(events.recv().await, Some(QmpEvent::Lost));
    assert_eq!(
        events.recv().await,
        Some(QmpEvent::Happened {
            name: "STOP".to_owned(),
            data: Value::Null
        })
    );
}

#[tokio::test]
async fn a_monitor_that_is_taken_gives_no_greeting() {
    let (ours, _theirs) = StdStream::pair().expect("a socket pair");
    let outcome = Qmp::start_within(ours, Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(QmpError::TimedOut { .. })));
}

#[tokio::test]
async fn what_is_not_qmp_is_refused_or_skipped() {
    let (ours, mut theirs) = StdStream::pair().expect("a socket pair");
    theirs.write_all(b"SSH-2.0-OpenSSH\r\n").expect("written");
    assert!(matches!(
        Qmp::start(ours).await,
        Err(QmpError::Protocol { .. })
    ));

    let (qmp, _events, mut peer) = connected().await;
    let play = std::thread::spawn(move || {
        let request = peer.hear();
        peer.say("not JSON");
        peer.say(r#"{"return": 1, "id": 999}"#);
        peer.say(r#"{"return": 1, "id": "text"}"#);
        peer.say(r#"["an array"]"#);
        peer.say(&format!(r#"{{"return": 2, "id": {}}}"#, request["id"]));
        peer
    });
    assert_eq!(qmp.execute("query-name", None).await.expect("answered"), 2);
    drop(play.join());
}

#[tokio::test]
async fn an_endless_line_ends_the_connection_not_our_memory() {
    let (qmp, mut events, mut peer) = connected().await;
    let play = std::thread::spawn(move || {
        let block = [b'x'; 65536];
        let mut written = 0usize;
        while peer.socket.write_all(&block).is_ok() {
            written += block.len();
        }
        written
    });
    assert!(matches!(
        qmp.execute("query-name", None).await,
        Err(QmpError::Closed { .. })
    ));
    assert_eq!(events.recv().await, None);
    assert!(play.join().expect("the peer lives") < 2 * LINE_LIMIT);
}

#[tokio::test]
async fn a_descriptor_travels_with_its_command() {
    let (qmp, _events, peer) = connected().await;
    let play = std::thread::spawn(move || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let received = rustix::net::recvmsg(
            &peer.socket,
            &mut [io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            rustix::net::RecvFlags::empty(),
        )
        .expect("received");
        let request: Value = serde_json::from_slice(&bytes[..received.bytes]).expect("JSON");
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let rustix::net::RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let mut peer = peer;
        peer.say(&format!(
            r#"{{"return": {}, "id": {}}}"#,
            descriptors.len(),
            request["id"]
        ));
        let mut file = std::fs::File::from(descriptors.pop().expect("a descriptor"));
        let mut text = String::new();
        file.read_to_string(&mut text).expect("readable");
        (peer, text)
    });
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(b"passed").expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let answer = qmp
        .execute_with_descriptor("add-fd", json!({"fdset-id": 1}), file.into())
        .await;
    assert_eq!(answer.expect("answered"), 1);
    assert_eq!(play.join().expect("the peer lives").1, "passed");
}

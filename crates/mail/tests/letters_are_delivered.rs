//! What is queued is delivered once the server takes it, whatever happens in between.

use std::{sync::Arc, time::Duration};

use mail::{
    Attachment, Letter, Outbox, Postman, SmtpSettings,
    testing::{Mood, Sink},
};
use store::{
    Outcome, Prefix, Range, Revision, SharedStore, SqliteOptions, SqliteStore, Transaction,
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    store: SharedStore,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let store = SqliteStore::open_with(path, SqliteOptions::default()).unwrap();
        Self {
            store: Arc::new(store),
            _folder: folder,
        }
    }

    fn postman(&self, settings: &SmtpSettings) -> Running {
        let stop = CancellationToken::new();
        let postman = Postman::new(self.store.clone(), settings).unwrap();
        let task = tokio::spawn(postman.run(stop.clone()));
        Running { stop, task }
    }

    async fn queue(&self, subject: &str) {
        let letter = Letter::new("ann@example.org", subject, "Hello.\n").unwrap();
        Outbox::new(self.store.clone())
            .queue(&letter)
            .await
            .unwrap();
    }

    async fn waiting(&self) -> Vec<serde_json::Value> {
        let range = Range::prefix(&Prefix::collection("Letter").unwrap());
        let page = self.store.range(range).await.unwrap();
        let value = |entry: &store::Entry| serde_json::from_slice(&entry.value).unwrap();
        page.entries.iter().map(value).collect()
    }

    /// Follows the letters until `is_so` holds of them.
    async fn until(&self, is_so: impl Fn(&[serde_json::Value]) -> bool) {
        let prefix = Prefix::collection("Letter").unwrap();
        let mut watch = self.store.watch(prefix, Revision::ZERO).await.unwrap();
        let reached = async {
            while !is_so(&self.waiting().await) {
                watch.next().await.unwrap();
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("still waiting: {:?}", self.waiting().await);
        }
    }
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_letter_comes_as_it_was_written() {
    let (world, sink) = (World::new(), Sink::start(Mood::Takes).await);
    let text = "Grüße, Ann.\n\nOpen https://cloud.example.org/confirm/0123456789abcdef?a=b&c=d\n.\nA line of more than seventy-six characters, which has to come through as it is, dots and all.\n";
    let letter = Letter::new("ann@example.org", "Neues Gerät", text)
        .unwrap()
        .attach(Attachment::new(
            "entry.xml",
            "application/rdf+xml",
            b"<a>\r\n\xc3\xa9</a>",
        ));
    Outbox::new(world.store.clone())
        .queue(&letter)
        .await
        .unwrap();
    let running = world.postman(&sink.settings());
    let received = sink.wait_for(1).await.remove(0);
    assert_eq!(received.from, "cloud@example.org");
    assert_eq!(received.to, ["ann@example.org"]);
    assert_eq!(received.text().trim_end(), text.trim_end());
    assert_eq!(
        received.link(),
        "https://cloud.example.org/confirm/0123456789abcdef?a=b&c=d"
    );
    let parts = received.parts();
    assert!(parts[1].0.contains("entry.xml"), "{parts:?}");
    assert_eq!(parts[1].1, b"<a>\r\n\xc3\xa9</a>");
    world.until(<[_]>::is_empty).await;
    running.end().await;
}

#[tokio::test]
async fn a_letter_is_queued_if_and_only_if_its_transaction_happens() {
    let world = World::new();
    let key = store::Key::new("Thing", "1").unwrap();
    let letter = Letter::new("ann@example.org", "Thing 1", "").unwrap();
    for expected in [1, 1] {
        let transaction = Transaction::new().absent(&key).put(key.clone(), "{}");
        let transaction = Outbox::add(&letter, transaction).unwrap();
        let outcome = world.store.commit(transaction).await.unwrap();
        assert_eq!(world.waiting().await.len(), expected, "{outcome:?}");
        let Outcome::Committed(_) = outcome else {
            return;
        };
    }
    panic!("the second transaction should have been refused");
}

#[tokio::test]
async fn a_server_that_is_down_or_busy_gets_them_later() {
    let world = World::new();
    let sink = Sink::start(Mood::Refuses(450)).await;
    let running = world.postman(&sink.settings());
    world.queue("first").await;
    world
        .until(|all| all.iter().any(|letter| letter["trouble"].is_string()))
        .await;
    assert!(sink.received().is_empty());
    sink.becomes(Mood::Takes);
    // A second one is not held up by the first, which waits for its turn.
    world.queue("second").await;
    let subjects: Vec<_> = sink
        .wait_for(2)
        .await
        .iter()
        .map(|l| l.header("Subject").unwrap())
        .collect();
    assert_eq!(subjects, ["second", "first"]);
    world.until(<[_]>::is_empty).await;
    running.end().await;
}

#[tokio::test]
async fn what_the_server_never_takes_is_given_up() {
    let world = World::new();
    let sink = Sink::start(Mood::Refuses(550)).await;
    let running = world.postman(&sink.settings());
    world.queue("nobody there").await;
    world
        .until(|all| all.iter().any(|letter| letter["attempts"] == 1))
        .await;
    world.until(<[_]>::is_empty).await;
    assert!(sink.received().is_empty());
    running.end().await;
}

#[tokio::test]
async fn many_postmen_deliver_each_letter_once() {
    let (world, sink) = (World::new(), Sink::start(Mood::Takes).await);
    let running: Vec<_> = (0..4).map(|_| world.postman(&sink.settings())).collect();
    for number in 0..40 {
        world.queue(&number.to_string()).await;
    }
    world.until(<[_]>::is_empty).await;
    let mut subjects: Vec<u32> = sink
        .received()
        .iter()
        .map(|l| l.header("Subject").unwrap().parse().unwrap())
        .collect();
    subjects.sort_unstable();
    assert_eq!(subjects, (0..40).collect::<Vec<_>>());
    for postman in running {
        postman.end().await;
    }
}

#[tokio::test]
async fn a_silent_server_does_not_keep_the_daemon_from_ending() {
    let world = World::new();
    let sink = Sink::start(Mood::IsSilent).await;
    let running = world.postman(&sink.settings());
    world.queue("hello?").await;
    world
        .until(|all| all.iter().any(|letter| letter["attempts"] == 1))
        .await;
    running.end().await;
    // It is still there, and nobody's but for the time of a claim.
    assert_eq!(world.waiting().await.len(), 1);
}

/// A server that says this to whoever comes, again and again if `endless`.
async fn says(answer: &'static [u8], endless: bool) -> (u16, tokio::task::JoinHandle<()>) {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while stream.write_all(answer).await.is_ok() && endless {}
        }
    });
    (port, serving)
}

#[tokio::test]
async fn a_server_that_talks_nonsense_loses_no_letter_and_holds_nobody_up() {
    let sink = Sink::start(Mood::Takes).await;
    for (answer, endless) in [
        (&b""[..], false),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", false),
        (b"hello\r\n", false),
        (b"\xff\xfe\xfd\r\n", false),
        (b"999999 what\r\n", false),
        (b"220-and so on\r\n", true),
        (b"\0\0\0\0\r\n", true),
    ] {
        let world = World::new();
        let (port, serving) = says(answer, endless).await;
        let settings = SmtpSettings {
            port,
            ..sink.settings()
        };
        let running = world.postman(&settings);
        world.queue("stays").await;
        world
            .until(|all| all.iter().any(|letter| letter["trouble"].is_string()))
            .await;
        running.end().await;
        assert_eq!(world.waiting().await.len(), 1, "{answer:?}");
        serving.abort();
    }
    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn a_letter_under_way_goes_on_at_once_when_its_daemon_is_back() {
    let world = World::new();
    let sink = Sink::start(Mood::IsSilent).await;
    let begin = |name: &str| {
        let stop = CancellationToken::new();
        let postman = Postman::new(world.store.clone(), &sink.settings()).unwrap();
        let task = tokio::spawn(postman.named(name).run(stop.clone()));
        Running { stop, task }
    };
    let running = begin("one");
    world.queue("hello?").await;
    world
        .until(|all| all.iter().any(|letter| letter["claimed_by"] == "one"))
        .await;
    running.end().await;
    sink.becomes(Mood::Takes);
    // It is not another one's to take: what that one queues goes, and this stays.
    let other = begin("other");
    world.queue("by the other").await;
    world.until(|all| all.len() == 1).await;
    assert_eq!(sink.received().len(), 1);
    other.end().await;
    // Sooner than a claim ends, which takes five minutes.
    let again = begin("one");
    world.until(<[_]>::is_empty).await;
    let subjects: Vec<_> = sink
        .received()
        .iter()
        .map(|letter| letter.header("Subject").unwrap())
        .collect();
    assert_eq!(subjects, ["by the other", "hello?"]);
    again.end().await;
}

#[tokio::test]
async fn settings_that_would_show_a_password_are_refused() {
    let (world, sink) = (World::new(), Sink::start(Mood::Takes).await);
    let login = mail::Login {
        user: "ann".to_owned(),
        password: "secret-7".to_owned(),
    };
    let settings = SmtpSettings {
        login: Some(login),
        ..sink.settings()
    };
    assert!(!format!("{settings:?}").contains("secret-7"));
    let error = Postman::new(world.store.clone(), &settings).unwrap_err();
    assert!(
        matches!(error, mail::SmtpError::ClearPassword(_)),
        "{error}"
    );
}

//! Following a Marketplace that works only in part.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use marketplace::UtcTime;
use marketplace::catalogue::Name;
use marketplace_service::{Follower, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{World, after, endorser, image, signed, until};

/// What the other one has and does.
#[derive(Default)]
struct Other {
    /// Newest first, with the documents.
    entries: Vec<(Name, Vec<u8>)>,
    /// What its table doesn't list any more.
    superseded: Vec<(Name, Vec<u8>)>,
    /// Statuses of what is asked for, by a part of the path, and how often; otherwise it is answered.
    fails: Vec<(String, &'static str, usize)>,
    asked: HashMap<String, usize>,
    /// The same, in order.
    paths: Vec<String>,
    /// What it has in addition, once a path with this part was asked for so many times.
    then: Option<(String, usize, (Name, Vec<u8>))>,
}

impl Other {
    fn answer(&mut self, path: &str) -> (&'static str, Vec<u8>) {
        *self.asked.entry(path.to_owned()).or_default() += 1;
        self.paths.push(path.to_owned());
        if let Some((part, times, _)) = &self.then
            && self.asked(part) >= *times
        {
            let new = self.then.take().map(|(_, _, new)| new);
            self.entries.splice(0..0, new);
        }
        for (part, status, left) in &mut self.fails {
            if *left > 0 && path.contains(part.as_str()) {
                *left -= 1;
                return (status, Vec::new());
            }
        }
        if let Some(rest) = path.strip_prefix("/endorsers") {
            return self.endorsers(rest);
        }
        if let Some((_, query)) = path.split_once("metadata?") {
            let number = |key: &str| -> usize {
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs
                    .find(|(name, _)| *name == key)
                    .unwrap()
                    .1
                    .parse()
                    .unwrap()
            };
            let page = self.entries.iter().skip(number("iDisplayStart"));
            let rows: Vec<_> = page
                .take(number("iDisplayLength"))
                .map(|((id, email, created), _)| {
                    format!("[\"\",\"\",\"\",\"\",\"{email}\",\"\",\"{created}\",\"{id}\"]")
                })
                .collect();
            return (
                "200 OK",
                format!("{{\"aaData\":[{}]}}", rows.join(",")).into(),
            );
        }
        let path = path.replace("%3A", ":").replace("%40", "@");
        let mut all = self.entries.iter().chain(&self.superseded);
        let found = all
            .find(|((id, email, created), _)| path.ends_with(&format!("/{id}/{email}/{created}")));
        found.map_or(("404 Not Found", Vec::new()), |(_, document)| {
            ("200 OK", document.clone())
        })
    }

    /// As StratusLab's Marketplace answers: who there is, and all that one of them said.
    fn endorsers(&self, rest: &str) -> (&'static str, Vec<u8>) {
        let all = self.entries.iter().chain(&self.superseded);
        let rows: String = all
            .map(|((id, email, created), _)| {
                let bound = |name: &str, value: &dyn std::fmt::Display| {
                    format!("<binding name='{name}'><literal>{value}</literal></binding>")
                };
                let (id, created) = (bound("identifier", id), bound("created", created));
                if rest.is_empty() {
                    format!("<result>{}</result>", bound("email", email))
                } else {
                    format!("<result>{id}{created}{}</result>", bound("email", email))
                }
            })
            .collect();
        let text = format!(
            "<sparql xmlns='http://www.w3.org/2005/sparql-results#'><head/><results>{rows}</results></sparql>"
        );
        ("200 OK", text.into_bytes())
    }

    fn asked(&self, part: &str) -> usize {
        let asked = self.asked.iter().filter(|(path, _)| path.contains(part));
        asked.map(|(_, times)| times).sum()
    }
}

async fn serve(other: Arc<Mutex<Other>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, body) = other.lock().unwrap().answer(path);
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    address
}

struct Scene {
    site: World,
    other: Arc<Mutex<Other>>,
    key: marketplace::SigningKey,
    stop: CancellationToken,
}

impl Scene {
    async fn new() -> Self {
        Self {
            site: World::start(Settings::default()).await,
            other: Arc::default(),
            key: endorser("Alice", Some("alice@example.org")),
            stop: CancellationToken::new(),
        }
    }

    fn entry(&self, number: u8, created: UtcTime, is_spoilt: bool) -> (Name, Vec<u8>) {
        let mut document = signed(&image(number), &self.key, "alice@example.org", created);
        if is_spoilt {
            let text = String::from_utf8(document).unwrap();
            document = text.replace("An image", "No image").into_bytes();
        }
        let name = (
            image(number).identifier,
            "alice@example.org".into(),
            created,
        );
        (name, document)
    }

    /// A newer entry than all before; the part of its address that is its own.
    fn add(&self, number: u8, seconds: i64, is_spoilt: bool) -> String {
        let entry = self.entry(number, after(seconds), is_spoilt);
        self.other.lock().unwrap().entries.insert(0, entry);
        format!("/metadata/{}/", image(number).identifier)
    }

    fn fails(&self, part: &str, status: &'static str, times: usize) {
        let mut other = self.other.lock().unwrap();
        other.fails.push((part.to_owned(), status, times));
    }

    fn asked(&self, part: &str) -> usize {
        self.other.lock().unwrap().asked(part)
    }

    async fn follow(&self) {
        self.follow_every(Duration::from_millis(50)).await;
    }

    async fn follow_every(&self, every: Duration) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://{}/", serve(Arc::clone(&self.other)).await);
        let client = reqwest::Client::builder().build().unwrap();
        let follower = Follower::new(self.site.marketplace.clone(), client, &url, every);
        tokio::spawn(follower.unwrap().run(self.stop.clone()));
    }

    /// How many documents by this endorser were asked for until this one was.
    fn asked_before(&self, part: &str) -> usize {
        let paths = &self.other.lock().unwrap().paths;
        let until = paths.iter().position(|path| path.contains(part)).unwrap();
        paths[..until]
            .iter()
            .filter(|path| !path.contains("metadata?"))
            .count()
    }

    async fn has(&self, count: usize) {
        let what = format!("{count} entries are here");
        until(&what, || self.site.marketplace.len() == count).await;
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn entries_that_cannot_be_fetched_hold_up_no_newer_ones_and_come_later() {
    let scene = Scene::new().await;
    // More than it takes for the other one to be thought down.
    let broken: Vec<_> = (1..=7)
        .map(|number| scene.add(number, -100 + i64::from(number), false))
        .collect();
    for path in &broken {
        scene.fails(path, "500 Internal Server Error", usize::MAX);
    }
    scene.add(8, -50, false);
    scene.add(9, -49, false);
    scene.follow().await;
    scene.has(2).await;
    scene.other.lock().unwrap().fails.clear();
    scene.has(9).await;
}

#[tokio::test]
async fn after_a_pass_that_was_cut_off_between_pages_nothing_is_missing() {
    let scene = Scene::new().await;
    scene.add(1, -1000, false);
    scene.follow().await;
    scene.has(1).await;
    // The first pass, which looks at all, is over.
    let lists = scene.asked("metadata?");
    until("it is asked again", || scene.asked("metadata?") > lists + 1).await;
    scene.fails("iDisplayStart=200", "503 Service Unavailable", 1);
    // Signing takes time, and no two may be of one second.
    let first = after(-900).unix_seconds();
    let mut new: Vec<_> = (0..203)
        .map(|number| UtcTime::from_unix_seconds(first + number).unwrap())
        .map(|created| scene.entry(1, created, false))
        .rev()
        .collect();
    {
        let entries = &mut scene.other.lock().unwrap().entries;
        new.append(entries);
        *entries = new;
    }
    scene.has(204).await;
}

#[tokio::test]
async fn what_was_refused_is_not_fetched_again_and_the_future_is_not_taken() {
    let scene = Scene::new().await;
    let altered = scene.add(1, -100, true);
    let early = scene.add(2, 3600, false);
    scene.follow().await;
    until("it is asked several times", || scene.asked("metadata?") > 4).await;
    assert_eq!((scene.asked(&altered), scene.asked(&early)), (1, 0));
    assert!(scene.site.marketplace.is_empty());
}

/// The table lists the newest of each image and endorser only; what was before comes from the pages of the endorsers.
#[tokio::test]
async fn what_was_superseded_comes_too_and_stays_history() {
    let scene = Scene::new().await;
    let newest = scene.add(1, -50, false);
    let before: Vec<_> = [-400, -300, -200]
        .map(|seconds| scene.entry(1, after(seconds), false))
        .into();
    let spoilt = scene.entry(2, after(-100), true);
    scene.other.lock().unwrap().superseded = before.iter().cloned().chain([spoilt]).collect();
    scene.follow().await;
    scene.has(4).await;
    let name = &before[0].0;
    let (kept, newest_here) = scene.site.marketplace.ask(|catalogue| {
        let newest = catalogue
            .newest(name.0, &name.1)
            .map(|record| record.created);
        (catalogue.named(name).is_some(), newest)
    });
    assert!(kept && newest_here.is_some_and(|newest| newest > before[2].0.2));
    let document = scene
        .site
        .marketplace
        .document(name)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(document.as_bytes(), before[0].1);
    // Once: other passes look at what is new.
    let asked = scene.asked("metadata?");
    until("it is asked again", || scene.asked("metadata?") > asked + 2).await;
    assert_eq!(scene.asked("range=36500"), 1);
    assert_eq!(scene.asked(&newest), 4);
    assert_eq!(scene.site.marketplace.len(), 4);
}

#[tokio::test]
async fn an_endorser_whose_page_cannot_be_had_holds_up_no_other() {
    let scene = Scene::new().await;
    scene.add(1, -50, false);
    let before = scene.entry(1, after(-400), false);
    let somebody = (image(3).identifier, "aaa@example.org".into(), after(-300));
    let unread = (somebody, b"<nothing/>".to_vec());
    scene.other.lock().unwrap().superseded = vec![before, unread];
    scene.fails("/endorsers/aaa", "500 Internal Server Error", usize::MAX);
    scene.follow_every(Duration::from_secs(3600)).await;
    scene.has(2).await;
    assert_eq!(scene.asked("/endorsers/aaa"), 1);
}

/// One that tells no endorsers is followed as far as its table goes.
#[tokio::test]
async fn one_without_pages_of_endorsers_is_followed_all_the_same() {
    let scene = Scene::new().await;
    scene.add(1, -50, false);
    scene.fails("/endorsers", "404 Not Found", usize::MAX);
    scene.follow().await;
    scene.has(1).await;
    scene.add(2, -40, false);
    scene.has(2).await;
}

/// Only one pass is waited for: the next would come in an hour.
#[tokio::test]
async fn a_long_run_of_lost_documents_holds_up_neither_news_nor_what_is_behind_it_in_one_pass() {
    const AN_HOUR: Duration = Duration::from_secs(3600);
    const LOST: usize = 250;
    let scene = Scene::new().await;
    for number in 1..=3 {
        scene.add(number, -2000 + i64::from(number), false);
    }
    // More than a page of them, and then a page of the list.
    let first = after(-900).unix_seconds();
    let (_, document) = scene.entry(9, after(-900), false);
    {
        let mut other = scene.other.lock().unwrap();
        for second in 0..LOST {
            let created = first + i64::try_from(second).unwrap();
            let created = UtcTime::from_unix_seconds(created).unwrap();
            let name = (image(9).identifier, "alice@example.org".into(), created);
            other.entries.insert(0, (name, document.clone()));
        }
    }
    let lost = format!("/metadata/{}/", image(9).identifier);
    scene.fails(&lost, "500 Internal Server Error", usize::MAX);
    let news = scene.entry(4, after(-10), false);
    let path = format!("/metadata/{}/", image(4).identifier);
    scene.other.lock().unwrap().then = Some((lost.clone(), 20, news));
    scene.follow_every(AN_HOUR).await;
    scene.has(4).await;
    let before = scene.asked_before(&path);
    assert!((20..=30).contains(&before), "{before} before the news");
    // Each again at the end of the pass.
    until("what is owed is tried", || scene.asked(&lost) == 2 * LOST).await;
}

#[tokio::test]
async fn a_page_of_the_list_that_is_lost_holds_up_no_other() {
    let scene = Scene::new().await;
    scene.add(1, -2000, false);
    let first = after(-1500).unix_seconds();
    for second in 0..400 {
        let created = UtcTime::from_unix_seconds(first + second).unwrap();
        let name = (image(2).identifier, "alice@example.org".into(), created);
        // Here they needn't be documents.
        let entry = (name, b"<nothing/>".to_vec());
        scene.other.lock().unwrap().entries.insert(0, entry);
    }
    scene.fails("iDisplayStart=200", "500 Internal Server Error", usize::MAX);
    scene.follow_every(Duration::from_secs(3600)).await;
    scene.has(1).await;
}

#[tokio::test]
async fn a_document_that_is_not_there_yet_comes_soon_and_one_that_never_comes_is_left_alone() {
    let scene = Scene::new().await;
    let late = scene.add(1, -100, false);
    let hidden = scene.add(2, -99, false);
    let never = scene.add(3, -98, false);
    scene.fails(&late, "404 Not Found", 3);
    scene.fails(&hidden, "403 Forbidden", 2);
    scene.fails(&never, "404 Not Found", usize::MAX);
    // A page for people in place of a document.
    let page = scene.add(4, -97, false);
    let document = {
        let entries = &mut scene.other.lock().unwrap().entries;
        std::mem::replace(
            &mut entries[0].1,
            b"\n<!DOCTYPE HTML><title>Soon</title>".to_vec(),
        )
    };
    scene.follow().await;
    scene.has(2).await;
    until("the page is met twice", || scene.asked(&page) >= 2).await;
    scene.other.lock().unwrap().entries[0].1 = document;
    until("the others were asked for often", || {
        scene.asked(&never) == 6
    })
    .await;
    let lists = scene.asked("metadata?");
    until("it is asked again", || scene.asked("metadata?") > lists + 3).await;
    assert_eq!(scene.asked(&never), 6);
}

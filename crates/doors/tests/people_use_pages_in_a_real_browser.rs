//! The pages for people as Chromium shows them, over TLS, with letters through a real SMTP conversation.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing};
use cimi::model::Kind;
use cloud::{
    Cloud, NoServices,
    people::{PeopleSettings, RegistrationSettings},
    testing::{self, caller, object},
};
use documents::Documents;
use doors::{Doors, Limits, People, Running, Server, Settings, tls};
use mail::{
    Postman,
    testing::{Mood, Sink},
};
use serde_json::json;
use store::SqliteStore;
use testkit::Browser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct World {
    running: Running,
    documents: Documents,
    sink: Sink,
    stop: CancellationToken,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store.clone()).await.unwrap();
        // Known before the server listens: letters name it.
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = format!("https://127.0.0.1:{port}");
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let settings = cloud::Settings {
            passwords: hashing.clone(),
            people: PeopleSettings {
                registration: Some(RegistrationSettings::new("root@example.org", &url)),
                ..PeopleSettings::default()
            },
            ..testing::settings()
        };
        let cloud = Cloud::open(documents.clone(), settings, services.clone(), services)
            .await
            .unwrap();
        let root = caller("root", &["::ADMIN"]);
        let body = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"], "email": "root@example.org"});
        cloud.create(&root, Kind::User, object(body)).await.unwrap();
        let accounts = Arc::new(Accounts::new(
            Arc::new(cloud.clone()),
            hashing,
            accounts::Settings::default(),
        ));
        let people = People::new(cloud.clone(), accounts.clone());
        let doors = Doors::new(Arc::new(cloud), accounts, Settings::default()).with_people(people);
        let files = tls::ensure_self_signed(folder.path(), &["127.0.0.1".to_owned()]).unwrap();
        let certificate = tls::Certificate::read(&files).unwrap();
        let tls = tls::Speech::new(certificate.into()).unwrap();
        let server = Server::new(Arc::new(doors), Limits::default(), Some(tls));
        let running = server
            .start(format!("127.0.0.1:{port}").parse().unwrap())
            .await
            .unwrap();
        let sink = Sink::start(Mood::Takes).await;
        let stop = CancellationToken::new();
        let postman = Postman::new(store, &sink.settings()).unwrap();
        tokio::spawn(postman.run(stop.clone()));
        Self {
            running,
            documents,
            sink,
            stop,
            url,
            _folder: folder,
        }
    }

    async fn letter(&self, number: usize, to: &str) -> String {
        let letters = self.sink.wait_for(number).await;
        let letter = letters.last().unwrap();
        assert!(letter.header("To").unwrap().contains(to), "{letter:?}");
        letter.text()
    }

    async fn link(&self, number: usize, to: &str) -> String {
        let text = self.letter(number, to).await;
        let link = text
            .split_whitespace()
            .find(|word| word.contains("/register/action/"));
        link.unwrap_or_else(|| panic!("{text}")).to_owned()
    }
}

async fn log_in(browser: &Browser, world: &World, user: &str, password: &str) {
    browser.open(&format!("{}/cimi/login", world.url)).await;
    browser.fill("username", user).await;
    browser.fill("password", password).await;
    browser.click("main button[type=submit]").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_registers_is_approved_logs_in_and_forgets_the_password() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let world = World::start().await;
    let at = |path: &str| format!("{}{path}", world.url);
    // Nothing of it needs a script.
    browser.scripts(false).await;
    // Who opens the address of the cloud is led to the first page.
    browser.open(&at("/")).await;
    browser.wait_for("ask for an account").await;
    assert_eq!(browser.url().await, at("/register/"));
    browser.picture("home").await;
    browser.open(&at("/register/register")).await;
    browser.picture("register").await;
    for (field, text) in [
        ("uid", "alice"),
        ("mail", "alice@example.org"),
        ("givenName", "Alice"),
        ("sn", "Endorser"),
        ("newUserPassword", "open sesame 1"),
        ("newUserPasswordCheck", "open sesame 2"),
        ("message", "<script>alert(1)</script> let me in"),
    ] {
        browser.fill(field, text).await;
    }
    browser.click("[name=agreement]").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("mismatched passwords").await;
    browser.picture("register-refused").await;
    browser.fill("newUserPassword", "open sesame 1").await;
    browser.fill("newUserPasswordCheck", "open sesame 1").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("Almost done").await;
    browser.picture("register-success").await;

    let link = world.link(1, "alice@example.org").await;
    browser.open(&link).await;
    browser.wait_for("Is this your e-mail address?").await;
    browser.picture("confirm").await;
    browser.click("button[value=yes]").await;
    browser.wait_for("Thank you").await;
    browser.open(&link).await;
    browser.wait_for("used already").await;
    browser.picture("link-used").await;

    browser.scripts(true).await;
    // The administrator decides on the page.
    let text = world.letter(2, "root@example.org").await;
    assert!(text.contains("let me in"));
    log_in(&browser, &world, "root", "correct horse").await;
    browser.wait_for("You are logged in as root").await;
    browser.open(&at("/register/requests")).await;
    browser.wait_for("waits for you").await;
    browser.wait_for("<script>alert(1)</script>").await;
    browser.picture("requests").await;
    browser.dark(true).await;
    browser.resize(420, 900).await;
    browser.picture("requests-narrow-dark").await;
    browser.dark(false).await;
    browser.resize(1100, 1000).await;
    browser.click("button[value=approve]").await;
    browser.wait_for("Nobody waits.").await;
    browser.open(&at("/cimi/logout")).await;
    browser.wait_for("Log in to use the cloud").await;
    assert!(
        world
            .letter(3, "alice@example.org")
            .await
            .contains("was approved")
    );

    // Alice is sent back to where she wanted to go.
    browser.open(&at("/register/profile")).await;
    browser.wait_for("Log in").await;
    browser.picture("login").await;
    browser.fill("username", "alice").await;
    browser.fill("password", "guess").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("is wrong").await;
    browser.picture("login-failed").await;
    browser.fill("username", "alice").await;
    browser.fill("password", "open sesame 1").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("Your profile").await;
    assert!(browser.url().await.ends_with("/register/profile"));
    browser.picture("profile").await;
    browser.resize(420, 900).await;
    browser.picture("profile-narrow").await;
    browser.dark(true).await;
    browser.picture("profile-narrow-dark").await;
    browser.resize(1100, 1000).await;
    browser.picture("profile-dark").await;
    browser.dark(false).await;
    // The page's scripts don't see the cookie.
    assert_eq!(browser.run("return document.cookie").await, json!(""));
    browser.fill("mail", "new@example.org").await;
    browser.fill("userPassword", "open sesame 1").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("A letter is on its way").await;
    let letters = world.sink.wait_for(5).await;
    let to_new = letters
        .iter()
        .find(|letter| letter.header("To").unwrap().contains("new@"))
        .unwrap();
    let text = to_new.text();
    let link = text
        .split_whitespace()
        .find(|word| word.contains("/register/action/"))
        .unwrap();
    browser.open(link).await;
    browser.click("button[value=yes]").await;
    browser
        .wait_for("new@example.org is the address of alice now")
        .await;
    world.sink.wait_for(6).await;
    browser.open(&at("/register/sessions")).await;
    browser.wait_for("this one").await;
    browser.picture("sessions").await;

    // She forgets her password.
    browser.open(&at("/cimi/logout")).await;
    browser.open(&at("/register/reset")).await;
    browser.fill("uid", "alice").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("If there is such an account").await;
    let link = world.link(7, "new@example.org").await;
    browser.open(&link).await;
    browser.wait_for("Choose a new password").await;
    browser.picture("reset").await;
    browser.fill("newUserPassword", "battery staple").await;
    browser.fill("newUserPasswordCheck", "battery staple").await;
    browser.click("main button[type=submit]").await;
    browser.wait_for("Log in with your new password").await;
    log_in(&browser, &world, "alice", "battery staple").await;
    browser.wait_for("You are logged in as alice").await;
    // A command is let in.
    browser.open(&at("/cimi/command?challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&name=stratus+login+on+here")).await;
    browser.wait_for("Let a command log in?").await;
    browser.picture("command").await;
    browser.click("button[value=yes]").await;
    browser.wait_for("Give this code to the command").await;
    browser.picture("command-code").await;
    // All ends from here.
    browser.open(&at("/register/sessions")).await;
    browser.click(".actions button.danger").await;
    browser.wait_for("Log in").await;
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while world
        .documents
        .count_owned::<cimi::resources::Session>("alice")
        > 0
    {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!world.running.address.ip().is_unspecified());
}

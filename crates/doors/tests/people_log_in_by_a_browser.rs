//! What a browser and a server say to each other: sessions by cookie, forms with tokens, links of letters.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod commands;
mod registration;

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing};
use cimi::{Timestamp, model::Kind, resources::Session};
use cloud::{
    Cloud, NoServices,
    people::{PeopleSettings, RegistrationSettings},
    testing::{self, caller, object},
};
use documents::{Documents, DocumentsError};
use doors::{Doors, Limits, People, Running, Server, Settings};
use serde_json::json;
use store::SqliteStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::client::{PATIENCE, Reply};

struct World {
    running: Running,
    documents: Documents,
    audit: Arc<Recorder>,
    _folder: tempfile::TempDir,
}

/// Remembers what was written down.
#[derive(Default)]
struct Recorder(std::sync::Mutex<Vec<doors::Audited>>);

#[async_trait::async_trait]
impl doors::AuditLog for Recorder {
    async fn record(&self, what: doors::Audited) {
        self.0.lock().unwrap().push(what);
    }

    async fn last(
        &self,
        _most: usize,
        _user: Option<&str>,
    ) -> std::io::Result<Vec<serde_json::Value>> {
        Ok(Vec::new())
    }
}

const HTML: &str = "Accept: text/html,*/*;q=0.8\r\n";
const OURS: &str = "Origin: https://x\r\nSec-Fetch-Site: same-origin\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let settings = cloud::Settings {
            passwords: hashing.clone(),
            people: PeopleSettings {
                registration: Some(RegistrationSettings::new("root@example.org", "https://x")),
                ..PeopleSettings::default()
            },
            ..testing::settings()
        };
        let cloud = Cloud::open(documents.clone(), settings, services.clone(), services)
            .await
            .unwrap();
        let root = caller("root", &["::ADMIN"]);
        for (name, roles) in [("alice", vec![]), ("root", vec!["::ADMIN"])] {
            let body = json!({"username": name, "password": "correct horse", "roles": roles, "email": "a@example.org"});
            cloud.create(&root, Kind::User, object(body)).await.unwrap();
        }
        let accounts = Arc::new(Accounts::new(
            Arc::new(cloud.clone()),
            hashing,
            accounts::Settings {
                refused_after: Duration::ZERO,
                ..accounts::Settings::default()
            },
        ));
        let people = People::new(cloud.clone(), accounts.clone());
        let audit = Arc::new(Recorder::default());
        let doors = Doors::new(Arc::new(cloud), accounts, Settings::default())
            .audited_by(audit.clone())
            .with_people(people);
        let server = Server::new(Arc::new(doors), Limits::default(), None);
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            documents,
            audit,
            _folder: folder,
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut received = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(self.running.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.read_to_end(&mut received).await.unwrap();
        };
        timeout(PATIENCE, exchange).await.unwrap();
        Reply::parse(&received).unwrap()
    }

    /// The header that brings the session of a new login.
    async fn log_in(&self, user: &str) -> String {
        let body = format!("username={user}&password=correct+horse&next=%2Fregister%2Fprofile");
        let reply = self
            .ask("POST", "/cimi/login", &format!("{FORM}{HTML}{OURS}"), &body)
            .await;
        assert_eq!(
            (reply.status, reply.header("location")),
            (303, "/register/profile")
        );
        let cookie = reply.header("set-cookie");
        for part in [
            "__Host-stratus-session=",
            "; Path=/",
            "; Secure",
            "; HttpOnly",
            "; SameSite=Lax",
        ] {
            assert!(cookie.contains(part), "{cookie}");
        }
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

/// The token of the forms of a page.
fn form_token(reply: &Reply) -> String {
    let text = text(reply);
    let (_, rest) = text
        .split_once("name=\"form-token\" value=\"")
        .unwrap_or_else(|| panic!("{text}"));
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_browser_is_led_to_pages_and_not_asked_by_its_own_dialogue() {
    let world = World::start().await;
    let get = async |path: &str, headers: &str| world.ask("GET", path, headers, "").await;
    // The interface of programs is none for people.
    for path in ["/", "/cimi", "/cimi/"] {
        let reply = get(path, HTML).await;
        assert_eq!(
            (reply.status, reply.header("location")),
            (303, "/register/"),
            "{path}"
        );
        assert!(reply.header("vary").contains("Accept"));
    }
    assert_eq!(get("/cimi?$format=json", HTML).await.status, 200);
    let java = "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2\r\n";
    for program in ["", "Accept: */*\r\n", "Accept: application/xml\r\n", java] {
        assert_eq!(get("/cimi", program).await.status, 200, "{program}");
    }

    // What needs a login is behind the login page; what is there is not told before.
    for path in ["/cimi/Machine", "/cimi/Machine/7", "/stratus/status"] {
        let reply = get(path, HTML).await;
        assert_eq!(reply.status, 303, "{path}");
        let back = path.replace('/', "%2F");
        assert_eq!(
            reply.header("location"),
            format!("/cimi/login?next={back}"),
            "{path}"
        );
        assert!(!reply.headers.contains_key("www-authenticate"));
        // Programs are asked as ever, and so is who shows something that is wrong.
        let wrong = format!("{HTML}Authorization: Bearer strat_x\r\n");
        for headers in ["", wrong.as_str()] {
            let reply = get(path, headers).await;
            assert_eq!(reply.status, 401, "{path}");
            assert!(reply.headers.contains_key("www-authenticate"));
        }
    }
    let session = world.log_in("alice").await;
    for who in ["", session.as_str()] {
        let reply = get("/no/such/<page>", &format!("{HTML}{who}")).await;
        assert_eq!(reply.status, 400, "not a path at all");
        let reply = get("/no/such/%3Cpage%3E", &format!("{HTML}{who}")).await;
        assert_eq!(reply.status, 404);
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.contains("There is nothing here"), "{text}");
    }
    assert_eq!(get("/no/such/page", "").await.status, 401);
}

#[tokio::test]
async fn a_login_makes_a_session_that_the_api_knows_and_a_logout_ends() {
    let world = World::start().await;
    let cookie = world.log_in("alice").await;
    let who = world.ask("GET", "/cimi/authn", &cookie, "").await;
    assert_eq!(who.json()["identity"], "alice");
    assert!(
        who.json()["session"]["href"]
            .as_str()
            .unwrap()
            .starts_with("Session/")
    );
    let again = world.log_in("alice").await;
    assert_ne!(cookie, again);
    let listed = world.ask("GET", "/cimi/Session", &cookie, "").await;
    assert_eq!(listed.json()["count"], 2);
    let left = world.ask("GET", "/cimi/logout", &cookie, "").await;
    assert_eq!(left.status, 303);
    assert!(left.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(
        world.ask("GET", "/cimi/Volume", &cookie, "").await.status,
        401
    );
    assert_eq!(
        world.ask("GET", "/cimi/Volume", &again, "").await.status,
        200
    );
    // Another site's page can't log anybody out.
    let sent = format!("{again}Sec-Fetch-Site: cross-site\r\n");
    world.ask("GET", "/cimi/logout", &sent, "").await;
    assert_eq!(
        world.ask("GET", "/cimi/Volume", &again, "").await.status,
        200
    );
}

#[tokio::test]
async fn the_address_of_the_cloud_leads_people_to_a_page_and_programs_to_the_interface() {
    let world = World::start().await;
    for method in ["GET", "HEAD"] {
        let led = world.ask(method, "/", HTML, "").await;
        assert_eq!((led.status, led.header("location")), (303, "/register/"));
        assert_eq!(led.header("vary"), "Accept");
    }
    for (path, headers) in [
        ("/", ""),
        ("/", "Accept: application/json\r\n"),
        ("/?$format=json", HTML),
        ("/cimi?$format=json", HTML),
    ] {
        let entry = world.ask("GET", path, headers, "").await;
        assert_eq!(entry.status, 200, "{path} {headers}");
        assert!(entry.json()["baseURI"].is_string(), "{path} {headers}");
    }
    let home = world.ask("GET", "/register/", HTML, "").await;
    let home = text(&home);
    assert!(home.contains("href=\"/api\""), "{home}");
    assert!(!home.contains("/marketplace/"), "there is none: {home}");
}

#[tokio::test]
async fn a_wrong_login_goes_back_to_the_form_and_never_elsewhere() {
    let world = World::start().await;
    let headers = format!("{FORM}{HTML}{OURS}");
    let wrong = world
        .ask("POST", "/cimi/login", &headers, "username=alice&password=x")
        .await;
    assert_eq!(wrong.status, 303);
    assert!(
        wrong
            .header("location")
            .starts_with("/cimi/login?msg=login_failed")
    );
    assert_eq!(wrong.header("set-cookie"), "");
    let form = world
        .ask("GET", "/cimi/login?msg=login_failed", HTML, "")
        .await;
    assert!(text(&form).contains("is wrong"));
    assert!(
        form.header("content-security-policy")
            .contains("default-src 'none'")
    );
    for elsewhere in ["https://evil.example", "//evil.example", "/\\evil.example"] {
        let body = format!("username=alice&password=correct+horse&next={elsewhere}");
        let reply = world.ask("POST", "/cimi/login", &headers, &body).await;
        assert_eq!(reply.header("location"), "/register/", "{elsewhere}");
    }
    // Nor is anybody logged in as somebody else by another site's form.
    let forged = format!("{FORM}{HTML}Origin: https://evil.example\r\n");
    let reply = world
        .ask(
            "POST",
            "/cimi/login",
            &forged,
            "username=alice&password=correct+horse",
        )
        .await;
    assert_eq!(reply.status, 403);
    // Who guesses waits.
    let mut blocked = 0;
    for _ in 0..8 {
        let reply = world
            .ask("POST", "/cimi/login", &headers, "username=root&password=x")
            .await;
        blocked += usize::from(reply.status == 429 && !reply.header("retry-after").is_empty());
    }
    assert!(blocked >= 1, "{blocked}");
}

#[tokio::test]
async fn with_a_cookie_alone_only_pages_of_the_cloud_change_anything() {
    let world = World::start().await;
    let cookie = world.log_in("alice").await;
    let make = json!({"publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a"}).to_string();
    for (headers, status) in [
        ("", 403),
        ("Content-Type: text/plain\r\n", 403),
        (
            "Origin: https://evil.example\r\nContent-Type: application/json\r\n",
            403,
        ),
        ("Origin: null\r\nContent-Type: application/json\r\n", 403),
        (
            "Sec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n",
            403,
        ),
        ("Content-Type: application/json\r\n", 201),
        ("Origin: https://x\r\n", 201),
    ] {
        let reply = world
            .ask(
                "POST",
                "/cimi/Credential",
                &format!("{cookie}{headers}"),
                &make,
            )
            .await;
        assert_eq!(reply.status, status, "{headers}: {}", text(&reply));
    }
    let page = world
        .ask("GET", "/register/sessions", &format!("{cookie}{HTML}"), "")
        .await;
    let token = form_token(&page);
    let headers = format!("{cookie}{FORM}{HTML}{OURS}");
    let without = world
        .ask("POST", "/register/sessions", &headers, "session=all")
        .await;
    assert_eq!(without.status, 403);
    let other = world.log_in("alice").await;
    let stolen = format!("{other}{FORM}{HTML}{OURS}");
    let reply = world
        .ask(
            "POST",
            "/register/sessions",
            &stolen,
            &format!("session=all&form-token={token}"),
        )
        .await;
    assert_eq!(reply.status, 403, "the token is of another session");
    let reply = world
        .ask(
            "POST",
            "/register/sessions",
            &headers,
            &format!("session=all&form-token={token}"),
        )
        .await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, "/cimi/login")
    );
    assert!(world.documents.sessions.is_empty());
}

/// A browser takes a stream up again whenever it ended, as long as its page is open: nobody need be there for that.
#[tokio::test]
async fn whoever_only_looks_on_is_logged_out_as_idle() {
    let world = World::start().await;
    let cookie = world.log_in("alice").await;
    let session = world.documents.sessions.all().pop().unwrap();
    let used = world
        .documents
        .update(session.id(), |session: &mut Session| {
            session.last_used = Timestamp::from_millis(session.last_used.as_millis() - 600_000);
            Ok::<_, DocumentsError>(true)
        });
    let before = used.await.unwrap().last_used;
    let last_used = || {
        world
            .documents
            .sessions
            .get(session.id())
            .unwrap()
            .last_used
    };

    let mut stream = TcpStream::connect(world.running.address).await.unwrap();
    let request = format!(
        "GET /cimi/Machine HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{cookie}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let begun = async {
        while !String::from_utf8_lossy(&received).contains("event: current") {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    timeout(PATIENCE, begun).await.unwrap();
    assert_eq!(last_used(), before);

    let page = world.ask("GET", "/cimi/Machine", &cookie, "").await;
    assert_eq!(page.status, 200);
    assert!(last_used() > before);
}

/// As the commands for groups and quotas do it: read whole, and a part of it changed.
#[tokio::test]
async fn a_part_is_changed_by_the_tag_of_the_whole() {
    let world = World::start().await;
    // root:correct horse
    let root = "Authorization: Basic cm9vdDpjb3JyZWN0IGhvcnNl\r\nAccept: application/json\r\n";
    let made = world
        .ask("POST", "/cimi/Group", root, r#"{"groupname": "physics"}"#)
        .await;
    assert_eq!(made.status, 201, "{}", text(&made));
    for (path, first, second) in [
        (
            "User/alice",
            r#"{"roles": ["physics"]}"#,
            r#"{"roles": []}"#,
        ),
        (
            "Group/physics",
            r#"{"quota": {"machines": 1}}"#,
            r#"{"quota": {}}"#,
        ),
    ] {
        let seen = world.ask("GET", &format!("/cimi/{path}"), root, "").await;
        let headers = format!("{root}If-Match: {}\r\n", seen.header("etag"));
        let attribute = first.split('"').nth(1).unwrap();
        let part = format!("/cimi/{path}?$select={attribute}");
        for (body, status) in [(first, 200), (second, 412)] {
            let reply = world.ask("PUT", &part, &headers, body).await;
            assert_eq!(reply.status, status, "{path}: {}", text(&reply));
        }
    }
}

#[tokio::test]
async fn a_profile_is_changed_with_the_current_password_only() {
    let world = World::start().await;
    let cookie = world.log_in("alice").await;
    let page = world
        .ask("GET", "/register/profile", &format!("{cookie}{HTML}"), "")
        .await;
    let token = form_token(&page);
    let headers = format!("{cookie}{FORM}{HTML}{OURS}");
    let post = async |fields: &str| {
        let body = format!("form-token={token}&{fields}");
        world
            .ask("POST", "/register/profile?method=put", &headers, &body)
            .await
    };
    let missing = post("sn=New").await;
    assert!(text(&missing).contains("Your current password must be provided."));
    let wrong = post("sn=New&userPassword=guess").await;
    assert_eq!(wrong.status, 401);
    assert!(text(&wrong).contains("incorrect password"));
    let other = post("uid=root&sn=New&userPassword=correct+horse").await;
    assert_eq!(other.status, 401);
    assert!(text(&other).contains("You cannot update another user"));
    let done = post("sn=New&userPassword=correct+horse").await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/register/profile_updated")
    );
    assert_eq!(
        world
            .documents
            .users
            .get("alice")
            .unwrap()
            .last_name
            .as_deref(),
        Some("New")
    );
    let basic = "Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==\r\n";
    let put = world
        .ask(
            "PUT",
            "/register/profile",
            &format!("{basic}{FORM}"),
            "givenName=A&userPassword=correct+horse",
        )
        .await;
    assert_eq!(put.status, 303, "{}", text(&put));
    let done = post("newUserPassword=battery+staple&newUserPasswordCheck=battery+staple&userPassword=correct+horse").await;
    assert_eq!(done.status, 303);
    assert_eq!(
        world.ask("GET", "/cimi/Volume", &cookie, "").await.status,
        401,
        "the session ended"
    );
    // Anonymous readers of pages are sent to the login, and back.
    let sent = world.ask("GET", "/register/profile", HTML, "").await;
    assert_eq!(
        sent.header("location"),
        "/cimi/login?next=%2Fregister%2Fprofile"
    );
}

/// cimi-client-py calls everything JSON; other programs say nothing.
#[tokio::test]
async fn a_login_is_what_its_body_looks_like() {
    let world = World::start().await;
    let form = "username=alice&password=correct+horse";
    let object = json!({"username": "alice", "password": "correct horse"}).to_string();
    for headers in [
        "Content-Type: application/json\r\nAccept: */*\r\n",
        FORM,
        "",
    ] {
        for body in [form, &object] {
            let reply = world.ask("POST", "/cimi/login", headers, body).await;
            assert_eq!(reply.status, 303, "{headers} {body}: {}", text(&reply));
            let cookie = reply.header("set-cookie");
            let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
            let who = world.ask("GET", "/cimi/authn", &cookie, "").await;
            assert_eq!(who.json()["identity"], "alice", "{headers} {body}");
        }
        for body in ["username=alice&password=wrong", "[1]"] {
            let reply = world.ask("POST", "/cimi/login", headers, body).await;
            let to = reply.header("location").to_owned();
            assert!(
                to.starts_with("/cimi/login?msg=login_failed"),
                "{body}: {to}"
            );
        }
        let broken = world
            .ask("POST", "/cimi/login", headers, "{\"username\"")
            .await;
        assert_eq!(broken.status, 400);
    }
}

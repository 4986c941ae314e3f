//! `stratus login` and `logout`: what is kept where, who can read it, and what counts more.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::json;

use crate::support::{Cloud, Ended, Reply, Seen, collection, ended, ended_with_input, program};

const TOKEN: &str = "strat_0123456789012345678901234567890123456789";
const ID: &str = "0199c5a2-7f1e-7d30-b1c4-5c6f2d9f8a10";

fn answer(seen: &Seen) -> Reply {
    let made = json!({ "id": format!("Token/{ID}"), "token": TOKEN, "user": "ann", "scope": "full", "expires": "2030-01-02T03:04:05Z" });
    match seen.line.as_str() {
        "POST /cimi/Token"
            if seen.headers["authorization"]
                .to_str()
                .unwrap()
                .starts_with("Basic ") =>
        {
            Reply::json(201, &made)
        }
        "POST /cimi/command/token" => Reply::json(200, &made),
        "GET /cimi/Token" => Reply::json(200, &collection("tokens", &[])),
        line if line == format!("DELETE /cimi/Token/{ID}") => Reply(204, Vec::new(), Vec::new()),
        _ => Reply::refusal(401, "log in first"),
    }
}

/// The program for this cloud, with no user and no password configured.
fn bare(cloud: &Cloud, words: &str) -> Command {
    let mut command = program(cloud.home.path());
    command
        .env("STRATUSLAB_ENDPOINT", cloud.endpoint())
        .env("STRATUS_CA", cloud.home.path().join("ca.pem"))
        .args(words.split_whitespace());
    command
}

fn authorization(cloud: &Cloud) -> String {
    let last = cloud.requests().last().unwrap().clone();
    last.headers["authorization"].to_str().unwrap().to_owned()
}

#[test]
fn a_login_is_kept_closed_and_used_until_the_logout() {
    let cloud = Cloud::start(answer);
    let before = ended(bare(&cloud, "token list"));
    assert!(before.stderr.contains("stratus login"), "{before:?}");
    let login = ended_with_input(bare(&cloud, "login -u ann"), "s3cret\n").success();
    assert!(
        login.contains("as ann, until 2030-01-02T03:04:05Z"),
        "{login}"
    );
    let file = cloud.home.path().join(".stratuslab/logins");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("s3cret"));
    ended(bare(&cloud, "token list")).success();
    assert_eq!(authorization(&cloud), format!("Bearer {TOKEN}"));
    // Who is named is meant; a whole login of the configuration, too.
    ended(bare(&cloud, "token list -u joe -p pw"));
    assert!(authorization(&cloud).starts_with("Basic "));
    cloud.run("token list");
    assert!(authorization(&cloud).starts_with("Basic "));
    let out = ended(bare(&cloud, "logout")).success();
    assert!(out.contains("Logged out"), "{out}");
    assert_eq!(
        cloud.lines().last().unwrap(),
        &format!("DELETE /cimi/Token/{ID}")
    );
    assert!(!std::fs::read_to_string(&file).unwrap().contains("strat_"));
    assert_ne!(ended(bare(&cloud, "token list")).status, 0);
    ended(bare(&cloud, "logout")).success();
    let empty = ended_with_input(bare(&cloud, "login -u ann"), "\n");
    assert_eq!(empty.status, 1, "{empty:?}");
}

#[test]
fn a_login_takes_the_place_of_the_one_before() {
    const OTHERS: [(&str, &str, &str); 4] = [
        // Of the same person on the same computer; called otherwise, but kept here; made for a program; somebody else's.
        (
            "0199c5a2-0000-7d30-b1c4-000000000001",
            "ann",
            "stratus login of me on here",
        ),
        ("0199c5a2-0000-7d30-b1c4-000000000002", "ann", "an old name"),
        ("0199c5a2-0000-7d30-b1c4-000000000003", "ann", "monitoring"),
        (
            "0199c5a2-0000-7d30-b1c4-000000000004",
            "joe",
            "stratus login of me on here",
        ),
    ];
    let token = |id: &str, user: &str, name: &str| json!({ "id": format!("Token/{id}"), "user": user, "name": name, "scope": "full" });
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/Token" => {
            let mut made = token(ID, "ann", seen.json()["name"].as_str().unwrap());
            made["token"] = json!(TOKEN);
            Reply::json(201, &made)
        }
        "GET /cimi/Token" => {
            let mut all: Vec<_> = OTHERS
                .iter()
                .map(|(id, user, name)| token(id, user, name))
                .collect();
            all.push(token(ID, "ann", "stratus login of me on here"));
            Reply::json(200, &collection("tokens", &all))
        }
        line if line.starts_with("DELETE /cimi/Token/") => Reply(204, Vec::new(), Vec::new()),
        _ => Reply::refusal(404, "not here"),
    });
    let folder = cloud.home.path().join(".stratuslab");
    std::fs::create_dir_all(&folder).unwrap();
    let endpoint = cloud.endpoint();
    let peer = endpoint.split('/').nth(2).unwrap();
    let kept = format!("{peer} ann {} strat_old\n", OTHERS[1].0);
    std::fs::write(folder.join("logins"), kept).unwrap();
    let mut login = bare(&cloud, "login -u ann --password-stdin");
    login.env("USER", "me").env("HOSTNAME", "here");
    ended_with_input(login, "s3cret\n").success();
    let mut ended: Vec<_> = cloud.lines();
    ended.retain(|line| line.starts_with("DELETE"));
    let expected: Vec<_> = OTHERS[..2]
        .iter()
        .map(|(id, ..)| format!("DELETE /cimi/Token/{id}"))
        .collect();
    assert_eq!(ended, expected);
    assert_eq!(authorization(&cloud), format!("Bearer {TOKEN}"));
}

#[test]
fn a_keyring_has_the_token_if_there_is_one() {
    let cloud = Cloud::start(answer);
    let folder = cloud.home.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    // As secret-tool does: the secret comes on standard input and goes out on standard output.
    let script = "#!/bin/sh\ncase $1 in store) cat > \"$HOME/ring\";; lookup) cat \"$HOME/ring\";; clear) rm \"$HOME/ring\";; esac\n";
    std::fs::write(folder.join("secret-tool"), script).unwrap();
    std::fs::set_permissions(
        folder.join("secret-tool"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let with_ring = |words: &str| {
        let mut command = bare(&cloud, words);
        command
            .env("PATH", &path)
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere");
        command
    };
    let login = ended_with_input(with_ring("login -u ann --format json"), "s3cret\n").success();
    assert!(login.contains("\"keyring\": true"), "{login}");
    let file = std::fs::read_to_string(cloud.home.path().join(".stratuslab/logins")).unwrap();
    assert!(file.contains("keyring") && !file.contains(TOKEN), "{file}");
    ended(with_ring("token list")).success();
    assert_eq!(authorization(&cloud), format!("Bearer {TOKEN}"));
    // A keyring that doesn't answer is said to be the reason.
    let without: Ended = ended(bare(&cloud, "token list"));
    assert!(without.stdout.contains("keyring"), "{without:?}");
    ended(with_ring("logout")).success();
    assert!(!cloud.home.path().join("ring").exists());
}

#[test]
fn the_browser_brings_a_code_that_becomes_the_login() {
    let cloud = Cloud::start(answer);
    let mut child = bare(&cloud, "login --browser --no-open").spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("/cimi/command?") {
        line.clear();
        assert!(
            told.read_line(&mut line).unwrap() > 0,
            "no address was told"
        );
    }
    let value = |name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
        rest.trim().split('&').next().unwrap().to_owned()
    };
    assert_eq!(value("challenge").len(), 43);
    let ask = |target: &str| {
        let mut stream =
            TcpStream::connect(("127.0.0.1", value("port").parse::<u16>().unwrap())).unwrap();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/?code=forged&state=guessed").contains("404"));
    assert!(ask(&format!("/?code=thecode&state={}", value("state"))).contains("Done"));
    let mut out = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert!(
        child.wait().unwrap().success() && out.contains("as ann"),
        "{out}"
    );
    let mut all = cloud.requests().into_iter();
    let sent = all.rfind(|seen| seen.line == "POST /cimi/command/token");
    let sent = sent.unwrap();
    assert!(!sent.headers.contains_key("authorization"));
    assert_eq!(sent.json()["code"], "thecode");
    assert!(sent.json()["verifier"].as_str().unwrap().len() >= 43);
    ended(bare(&cloud, "token list")).success();
    assert_eq!(authorization(&cloud), format!("Bearer {TOKEN}"));
}

#[test]
fn registrations_are_listed_and_decided() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Registration" => Reply::json(
            200,
            &collection(
                "registrations",
                &[
                    json!({ "id": "Registration/ann", "username": "ann", "first-name": "Ann", "last-name": "A", "email": "a@example.org", "state": "APPROVAL_PENDING", "created": "2030-01-02T03:04:05Z", "message": "please\nme" }),
                    json!({ "id": "Registration/zoe", "username": "zoe", "first-name": "Zoe", "last-name": "Z", "email": "z@example.org", "state": "EMAIL_PENDING", "created": "2030-01-02T03:04:05Z" }),
                ],
            ),
        ),
        "POST /cimi/Registration/ann/approve" | "POST /cimi/Registration/zoe/reject" => {
            Reply(204, Vec::new(), Vec::new())
        }
        _ => Reply::refusal(404, "there is no such registration"),
    });
    let listed = cloud.run("registration list");
    assert!(
        listed.stderr.contains("1 more didn't confirm") && listed.stderr.contains("--all"),
        "{listed:?}"
    );
    let listed = listed.success();
    assert!(
        listed.contains("ann   Ann A") && listed.contains("please me") && !listed.contains("zoe"),
        "{listed}"
    );
    assert!(
        cloud
            .run("registration list --all")
            .success()
            .contains("zoe")
    );
    cloud.run("registration approve ann").success();
    cloud.run("registration reject zoe").success();
    assert_eq!(cloud.run("registration approve bob").status, 255);
    assert_eq!(cloud.run("registration approve a/b").status, 1);
}

#[test]
fn what_a_token_does_not_do_is_done_with_the_password_of_the_kept_login() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/User/boss" => {
            Reply::json(200, &json!({ "username": "boss", "roles": ["::ADMIN"] }))
        }
        "GET /cimi/User/joe" => Reply::json(200, &json!({ "username": "joe", "roles": ["phys"] })),
        "POST /cimi/User" => Reply::json(201, &json!({ "username": "eve" })),
        line if line.starts_with("PUT /cimi/User/") => Reply::json(200, &json!({})),
        _ => answer(seen),
    });
    ended_with_input(bare(&cloud, "login -u ann"), "s3cret\n").success();
    for (words, is_in_person) in [
        ("user password --password-stdin", true),
        ("user password --password-stdin ann", true),
        ("user password --password-stdin boss", true),
        ("user password --password-stdin joe", false),
        ("user add --password-stdin --admin eve", true),
        ("user add --password-stdin eve", false),
        ("user enable boss", true),
        ("user enable joe", false),
        ("user disable boss", false),
    ] {
        let mut command = bare(&cloud, words);
        // In place of a terminal to ask at.
        command.env("STRATUSLAB_PASSWORD", "s3cret");
        ended_with_input(command, "battery staple\n").success();
        let by_password = authorization(&cloud).starts_with("Basic ");
        assert_eq!(by_password, is_in_person, "{words}");
    }
}

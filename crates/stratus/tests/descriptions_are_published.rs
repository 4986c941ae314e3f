//! Descriptions of images at a Marketplace: uploaded, deprecated, and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use crate::images_are_described_and_signed::{DRAFT, SIGNED, ZEROS_ID, read, run, write_key};
use crate::support::{Cloud, Ended, Reply, ended, path, program};
use marketplace::Entry;

/// A Marketplace that keeps the last upload, below a path.
fn marketplace(base: &'static str, upload: impl Fn() -> Reply + Send + Sync + 'static) -> Cloud {
    let kept = std::sync::Mutex::new(Vec::new());
    Cloud::start(move |seen| {
        let xml = |status, body: Vec<u8>| {
            Reply(
                status,
                vec![("content-type", "application/xml".to_owned())],
                body,
            )
        };
        let Some(place) = seen
            .line
            .split_once(' ')
            .and_then(|(_, place)| place.strip_prefix(base))
            .map(|place| place.strip_suffix("?status=all").unwrap_or(place))
        else {
            // As a cloud does whose Marketplace is elsewhere: what is posted needs a login.
            if seen.line.starts_with("POST ") {
                let told = b"<error status=\"401\"><code>401</code><message>log in first</message></error>";
                return xml(401, told.to_vec());
            }
            let status = 404;
            return Reply(
                status,
                vec![("content-type", "text/html".to_owned())],
                b"<html>nothing</html>".to_vec(),
            );
        };
        if seen.line.starts_with("POST ") && place == "/metadata" {
            let reply = upload();
            if reply.0 < 300 {
                *kept.lock().unwrap() = seen.body.clone();
            }
            return reply;
        }
        let document = kept.lock().unwrap().clone();
        let Ok(entry) = Entry::verify(&document) else {
            return xml(
                404,
                b"<?xml version=\"1.0\"?><error>no metadata matching query found</error>".to_vec(),
            );
        };
        let wanted = format!("/metadata/{}", entry.path());
        if wanted == place {
            return xml(200, document);
        }
        if wanted.starts_with(&format!("{place}/")) {
            // One that was signed anew has no declaration.
            let document = String::from_utf8(document).unwrap();
            let bare = document
                .split_once("?>")
                .map_or(document.as_str(), |(_, bare)| bare);
            return xml(
                200,
                format!("<?xml version=\"1.0\"?><metadata>{bare}</metadata>").into_bytes(),
            );
        }
        xml(404, b"<error>metadata entry not found.</error>".to_vec())
    })
}

fn run_at(server: &Cloud, path: &str, words: &str) -> Ended {
    let mut command = program(server.home.path());
    command
        .env("STRATUS_CA", server.home.path().join("ca.pem"))
        .env(
            "STRATUSLAB_MARKETPLACE_ENDPOINT",
            format!("https://localhost:{}{path}", server.port),
        )
        .args(words.split_whitespace());
    ended(command)
}

#[test]
fn entries_are_published_and_deprecated() {
    for (base, path) in [
        ("", ""),
        ("/marketplace", "/marketplace/"),
        ("/marketplace", ""),
    ] {
        let server = marketplace(base, || {
            Reply(201, Vec::new(), b"metadata entry created".to_vec())
        });
        let home = server.home.path();
        write_key(home, Some("me@example.org"));
        std::fs::write(home.join("x.xml"), DRAFT).unwrap();
        run(home, "sign-metadata --pem-cert me.pem x.xml").success();
        let signed = read(home, "x.xml");
        let entry = Entry::verify(signed.as_bytes()).unwrap();
        let url = |entry: &Entry| {
            format!(
                "https://localhost:{}{}/metadata/{}\n",
                server.port,
                // Where it was found.
                base,
                entry.path()
            )
        };
        assert_eq!(
            run_at(&server, path, "upload-metadata x.xml").success(),
            url(&entry)
        );
        let upload = server.requests().pop().unwrap();
        assert_eq!(upload.body, signed.as_bytes());
        assert_eq!(upload.headers["content-type"], "application/xml");
        assert_eq!(upload.headers["accept"], "application/xml");

        // The latest entry first, as a list; then one by its time, alone.
        let mut latest = entry;
        for (reason, is_latest) in [("hole", true), ("gone", false)] {
            let before = latest.endorsement().created;
            let words = match is_latest {
                // The address is that of the certificate.
                true => String::new(),
                false => format!("--email me@example.org --created {before}"),
            };
            let said = run_at(
                &server,
                path,
                &format!(
                    "deprecate-metadata --pem-cert me.pem {words} --reason {reason} {ZEROS_ID}"
                ),
            )
            .success();
            latest = Entry::verify(&server.requests().pop().unwrap().body).unwrap();
            assert_eq!(said, url(&latest));
            // They are told apart by the second, however quick one is.
            assert!(latest.endorsement().created > before);
            if is_latest {
                // Also of an entry that expired, which lists show only when they are asked for all.
                let asked: Vec<_> = server
                    .requests()
                    .into_iter()
                    .map(|seen| seen.line)
                    .collect();
                let all = format!("/metadata/{ZEROS_ID}/me@example.org?status=all");
                assert!(asked.iter().any(|line| line.ends_with(&all)), "{asked:?}");
            }
            assert_eq!(latest.metadata().deprecated.as_deref(), Some(reason));
        }
    }
}

#[test]
fn what_a_marketplace_refuses_is_told() {
    let server = marketplace("", || {
        Reply(
            400,
            vec![("content-type", "application/xml".to_owned())],
            b"<error>invalid metadata: no signature</error>".to_vec(),
        )
    });
    let home = server.home.path();
    // What it would refuse for what is in the file isn't sent at all: it may be anything.
    for (name, text) in [
        ("draft.xml", DRAFT),
        ("key.pem", "-----BEGIN PRIVATE KEY-----\n"),
    ] {
        std::fs::write(home.join(name), text).unwrap();
        let result = run_at(&server, "", &format!("upload-metadata {name}"));
        assert!(
            result.status == 255 && result.stdout.contains("was not sent"),
            "{result:?}"
        );
    }
    assert!(server.requests().is_empty());
    std::fs::write(home.join("x.xml"), SIGNED).unwrap();
    let result = run_at(&server, "", "upload-metadata x.xml");
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!(
                "Error: Failed to upload: Failed calling method POST on url https://localhost:{}/metadata, with reason: 400: Bad Request. Error: : invalid metadata: no signature\n",
                server.port
            )
        )
    );
    let result = run_at(
        &server,
        "",
        &format!("deprecate-metadata --email me@example.org --reason x {ZEROS_ID}"),
    );
    assert!(
        result.status == 255
            && result
                .stdout
                .starts_with("Error: certificate file not found: "),
        "{result:?}"
    );
    write_key(home, Some("me@example.org"));
    let result = run_at(
        &server,
        "",
        &format!(
            "deprecate-metadata --pem-cert me.pem --email me@example.org --reason x {ZEROS_ID}"
        ),
    );
    assert!(
        result.status == 255
            && result
                .stdout
                .contains("404: Not Found. Error: : no metadata matching query found"),
        "{result:?}"
    );
    assert!(
        result.stderr.contains("me@example.org has no such entry"),
        "{result:?}"
    );
    let result = run_at(
        &server,
        "",
        &format!(
            "deprecate-metadata --pem-cert me.pem --email you@example.org --reason x {ZEROS_ID}"
        ),
    );
    assert!(
        result.status == 255 && result.stdout.contains("is that of me@example.org"),
        "{result:?}"
    );
    for (words, message) in [
        ("upload-metadata", "Please specify an image manifest"),
        (
            "upload-metadata nothing.xml",
            "Image manifest does not exist: nothing.xml",
        ),
        ("deprecate-metadata", "Please specify an image identifier"),
        (
            &format!("deprecate-metadata --pem-cert me.pem {ZEROS_ID}"),
            "Please say why, with --reason",
        ),
        (
            &format!("deprecate-metadata --pem-cert me.pem --email me@example.org {ZEROS_ID}"),
            "Please say why, with --reason",
        ),
        (
            &format!("deprecate-metadata {ZEROS_ID}"),
            "Missing email address. Please provide email of endorser",
        ),
        (
            "deprecate-metadata --email a@b short",
            "an image identifier has 27 characters",
        ),
        (
            &format!("deprecate-metadata --email a@b --created today {ZEROS_ID}"),
            "today is not a date",
        ),
    ] {
        let result = run_at(&server, "", words);
        assert!(
            result.status == 2 && result.stderr.contains(&format!("error: {message}")),
            "{result:?}"
        );
    }

    let waiting = marketplace("", || {
        Reply(
            202,
            Vec::new(),
            b"confirmation email sent for new metadata entry".to_vec(),
        )
    });
    std::fs::write(waiting.home.path().join("x.xml"), SIGNED).unwrap();
    let said = run_at(&waiting, "", "upload-metadata x.xml").success();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "https://localhost:{}/metadata/{ZEROS_ID}/alice@example.org/2030-01-15T08:05:00Z",
            waiting.port
        )
    );
    assert!(lines[1].contains("mail to alice@example.org"), "{said}");
    assert!(path(&waiting.home, "x.xml").exists());
}

#[test]
fn what_was_there_before_is_told() {
    let server = marketplace("", || {
        Reply(
            200,
            Vec::new(),
            b"metadata entry exists, and its endorser has withdrawn it: hole\n".to_vec(),
        )
    });
    std::fs::write(server.home.path().join("x.xml"), SIGNED).unwrap();
    let said = run_at(&server, "", "upload-metadata x.xml").success();
    assert!(
        said.contains("there already") && said.contains("withdrawn it: hole"),
        "{said}"
    );
}

#[test]
fn an_entry_that_is_deprecated_is_not_deprecated_again() {
    let server = marketplace("", || {
        Reply(201, Vec::new(), b"metadata entry created".to_vec())
    });
    let home = server.home.path();
    write_key(home, Some("me@example.org"));
    std::fs::write(home.join("x.xml"), DRAFT).unwrap();
    run(home, "sign-metadata --pem-cert me.pem x.xml").success();
    run_at(&server, "", "upload-metadata x.xml").success();
    let words = format!(
        "deprecate-metadata --pem-cert me.pem --email me@example.org --reason hole {ZEROS_ID}"
    );
    run_at(&server, "", &words).success();
    let sent = server.requests().len();
    let result = run_at(&server, "", &words);
    assert!(
        result.status == 255 && result.stdout.contains("is deprecated already: hole"),
        "{result:?}"
    );
    // It asked, and posted nothing.
    let after = server.requests();
    assert!(
        after[sent..]
            .iter()
            .all(|seen| !seen.line.starts_with("POST")),
        "{after:?}"
    );
}

#[test]
fn of_several_addresses_of_a_marketplace_the_next_is_asked_when_one_does_not_answer() {
    let server = marketplace("/marketplace", || {
        Reply(201, Vec::new(), b"metadata entry created".to_vec())
    });
    let home = server.home.path();
    std::fs::write(home.join("x.xml"), SIGNED).unwrap();
    let upload = |addresses: String| {
        let mut command = program(home);
        command
            .env("STRATUS_CA", home.join("ca.pem"))
            .env("STRATUSLAB_MARKETPLACE_ENDPOINT", addresses)
            .args(["upload-metadata", "x.xml"]);
        ended(command)
    };
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let there = format!("https://localhost:{}", server.port);
    upload(format!(
        "https://127.0.0.1:{nobody}/marketplace, {there}/marketplace/"
    ))
    .success();
    let asked = server.requests();
    assert_eq!(asked.last().unwrap().body, SIGNED.as_bytes());

    // They are of one Marketplace, and differ by nothing else.
    let refused = upload(format!("{there}/marketplace,{there}/other"));
    assert_eq!(refused.status, 255, "{refused:?}");
    assert!(
        refused.stdout.contains("no addresses of one Marketplace"),
        "{refused:?}"
    );
    assert_eq!(server.requests().len(), asked.len(), "nobody was asked");
}

#[test]
fn a_marketplace_where_nothing_listens_is_looked_for_by_its_own_options() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.xml"), SIGNED).unwrap();
    let result = run(
        folder.path(),
        &format!("upload-metadata --marketplace-endpoint https://127.0.0.1:{port} x.xml"),
    );
    assert_eq!(result.status, 255, "{result:?}");
    assert!(
        result.stderr.contains(&format!(
            "No Marketplace listens at https://127.0.0.1:{port}: check --marketplace-endpoint"
        )),
        "{result:?}"
    );
    assert!(
        !result.stderr.contains("the cloud does not run"),
        "{result:?}"
    );
}

#[test]
fn a_server_that_is_no_marketplace_is_called_so() {
    let server = marketplace("/elsewhere", || Reply(201, Vec::new(), Vec::new()));
    let home = server.home.path();
    write_key(home, Some("me@example.org"));
    std::fs::write(home.join("x.xml"), DRAFT).unwrap();
    run(home, "sign-metadata --pem-cert me.pem x.xml").success();
    let there = format!(
        "There is no Marketplace at https://localhost:{}:",
        server.port
    );
    for words in [
        "upload-metadata x.xml",
        &format!(
            "deprecate-metadata --pem-cert me.pem --email me@example.org --reason x {ZEROS_ID}"
        ),
    ] {
        let result = run_at(&server, "", words);
        assert_eq!(result.status, 255, "{result:?}");
        assert!(
            result.stdout.contains(&there) && !result.stdout.contains("html"),
            "{result:?}"
        );
    }
}

#[test]
fn a_description_of_a_compressed_file_elsewhere_is_refused_before_anything_is_sent() {
    let server = marketplace("", || Reply(201, Vec::new(), Vec::new()));
    let home = server.home.path();
    write_key(home, Some("me@example.org"));
    std::fs::write(home.join("zero.img"), vec![0; 1 << 20]).unwrap();
    std::fs::write(home.join("zero.xml"), DRAFT).unwrap();
    assert!(DRAFT.contains("<dcterms:compression>gz<") && DRAFT.contains("<slterms:location>"));
    let result = run_at(&server, "", "upload-image -C none zero.img");
    assert_eq!(result.status, 1, "{result:?}");
    assert!(result.stderr.contains("Nothing was sent."), "{result:?}");
    assert!(server.requests().is_empty());
}

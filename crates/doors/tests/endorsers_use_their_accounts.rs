//! Accounts of endorsers over HTTP: what is answered to whom, and from where.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use doors::{Limits, Settings};

use crate::support::client::Reply;
use crate::support::market::{Door, EMAIL, World, after, alice, endorser_pem, image, signed};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n";
const OURS: &str = "Origin: http://m.example.org\r\n";

async fn send(world: &World, path: &str, more: &str, form: &str) -> Reply {
    let headers = format!("{FORM}{more}");
    world
        .ask(&format!("POST {path}"), &headers, form.as_bytes())
        .await
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

/// `Cookie: NAME=VALUE` of an answer that sets it, with all that keeps it from others.
fn cookie(reply: &Reply) -> String {
    let set = reply.header("set-cookie");
    for part in [
        "__Host-stratus-endorser=",
        "; Path=/",
        "; Secure",
        "; HttpOnly",
        "; SameSite=Lax",
    ] {
        assert!(set.contains(part), "{set}");
    }
    format!("Cookie: {}\r\n", set.split(';').next().unwrap())
}

/// What the forms of a page carry.
fn form_token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"form-token\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// The name of the upload that a page shows.
fn upload(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"upload\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_comes_by_a_letter_and_acts_only_from_its_own_pages() {
    let world = World::asking().await;
    let key = alice();
    for number in 1..=2 {
        let document = signed(&image(number), &key, after(-60));
        assert_eq!(world.post(&document).await.status, 202);
    }
    let (reply, page) = world.get("/account", "User-Agent: Mozilla/5.0\r\n").await;
    assert_eq!((reply.status, reply.header("set-cookie")), (200, ""));
    assert!(
        page.contains("There is no password") && page.contains("came without encryption"),
        "{page}"
    );

    // Nobody learns who is known; what isn't an address is told; other sites ask for nothing.
    let mut answers = Vec::new();
    for address in [EMAIL, "nobody@example.org"] {
        let reply = send(&world, "/account/letter", OURS, &format!("email={address}")).await;
        answers.push((reply.status, text(&reply).replace(address, "X")));
    }
    assert_eq!(answers[0].0, 202);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(
        send(&world, "/account/letter", OURS, "email=none")
            .await
            .status,
        400
    );
    for elsewhere in [
        "Origin: http://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        let reply = send(
            &world,
            "/account/letter",
            elsewhere,
            &format!("email={EMAIL}"),
        )
        .await;
        assert_eq!(reply.status, 403, "{elsewhere}");
    }

    let path = world.link(2, "sign-in").await;
    let (reply, page) = world.get(&path, "User-Agent: Mozilla/5.0\r\n").await;
    assert!(
        reply.status == 200 && page.contains(&format!("Sign in as {EMAIL}?")),
        "{page}"
    );
    assert_eq!(
        send(&world, &path, "Origin: http://evil.example\r\n", "")
            .await
            .status,
        403
    );
    let reply = send(&world, &path, OURS, "").await;
    assert_eq!((reply.status, reply.header("location")), (303, "/account"));
    let cookie = cookie(&reply);
    assert_eq!(
        send(&world, &path, OURS, "").await.status,
        404,
        "it works once"
    );

    let (_, page) = world.get("/account", &cookie).await;
    assert!(
        page.contains(EMAIL) && page.matches("Confirm and publish").count() == 2,
        "{page}"
    );
    let confirm = format!("upload={}&do=confirm", upload(&page));
    let token = format!("form-token={}&", form_token(&page));
    for (more, form, status) in [
        // Without a session one is led to sign in.
        (OURS.to_owned(), format!("{token}{confirm}"), 303),
        (format!("{OURS}{cookie}"), confirm.clone(), 403),
        (
            format!("{OURS}{cookie}"),
            format!("form-token=0&{confirm}"),
            403,
        ),
        (
            format!("Origin: http://evil.example\r\n{cookie}"),
            format!("{token}{confirm}"),
            403,
        ),
        (cookie.clone(), format!("{token}{confirm}"), 403),
        (
            format!("{OURS}{cookie}"),
            format!("{token}upload=00&do=confirm"),
            404,
        ),
        (format!("{OURS}{cookie}"), format!("{token}do=other"), 400),
    ] {
        let reply = send(&world, "/account/uploads", &more, &form).await;
        assert_eq!(reply.status, status, "{more}{form}");
        assert_eq!(world.marketplace.len(), 0, "{more}{form}");
    }
    let ours = format!("{OURS}{cookie}");
    let reply = send(
        &world,
        "/account/uploads",
        &ours,
        &format!("{token}{confirm}"),
    )
    .await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    let (_, page) = world.get("/account", &cookie).await;
    let discard = format!("{token}upload={}&do=discard", upload(&page));
    assert_eq!(
        send(&world, "/account/uploads", &ours, &discard)
            .await
            .status,
        303
    );
    assert_eq!(
        send(
            &world,
            "/account/reminders",
            &ours,
            &format!("{token}do=off")
        )
        .await
        .status,
        303
    );
    let (_, page) = world.get("/account", &cookie).await;
    assert!(
        page.contains("Nothing.") && page.contains("Switch reminders on"),
        "{page}"
    );
    assert_eq!(world.marketplace.len(), 1);
    // What programs read is as it was.
    let (reply, _) = world.get("/metadata", "Accept: application/xml\r\n").await;
    assert_eq!(reply.status, 200);
    assert_eq!(world.ask("GET /account/uploads", "", b"").await.status, 405);

    let reply = send(
        &world,
        "/account/sign-out",
        &ours,
        &format!("{token}do=here"),
    )
    .await;
    assert!(reply.header("set-cookie").contains("Max-Age=0"));
    let (_, page) = world.get("/account", &cookie).await;
    assert!(page.contains("There is no password"), "{page}");
}

#[tokio::test]
async fn a_certificate_that_is_known_signs_in_to_look_and_discard() {
    let settings = marketplace_service::Settings {
        sends_letters: true,
        ..marketplace_service::Settings::default()
    };
    let door = Door {
        limits: Limits {
            trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
            ..Limits::default()
        },
        settings: Settings {
            certificate_header: Some("x-client-cert".parse().unwrap()),
            ..Settings::default()
        },
        ..Door::default()
    };
    let world = World::behind_door(settings, door).await;
    let key = alice();
    for number in 1..=2 {
        let document = signed(&image(number), &key, after(-60));
        assert_eq!(world.post(&document).await.status, 202);
    }
    let shown = |key: &marketplace::SigningKey| {
        let coded =
            base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key.certificate().der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{coded}\n-----END CERTIFICATE-----\n");
        let escaped =
            percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC);
        format!("X-Client-Cert: {escaped}\r\n")
    };
    let button = format!("value=\"{EMAIL}\"");
    let (_, page) = world.get("/account", &shown(&key)).await;
    assert!(
        !page.contains(&button),
        "nothing is confirmed by it: {page}"
    );
    let confirm = world.link(0, "confirm").await;
    assert_eq!(send(&world, &confirm, "", "").await.status, 201);
    for (key, is_offered) in [(&key, true), (&alice(), false)] {
        let (_, page) = world.get("/account", &shown(key)).await;
        assert_eq!(page.contains(&button), is_offered, "{page}");
        let more = format!("{OURS}{}", shown(key));
        let reply = send(
            &world,
            "/account/certificate",
            &more,
            &format!("email={EMAIL}"),
        )
        .await;
        assert_eq!(reply.status, if is_offered { 303 } else { 403 });
        if is_offered {
            let (_, page) = world.get("/account", &cookie(&reply)).await;
            assert!(
                page.contains("by a certificate") && page.contains("Discard"),
                "{page}"
            );
            assert!(!page.contains("Confirm and publish"), "{page}");
            let more = format!("{OURS}{}", cookie(&reply));
            let form = format!(
                "form-token={}&upload={}&do=confirm",
                form_token(&page),
                upload(&page)
            );
            assert_eq!(
                send(&world, "/account/uploads", &more, &form).await.status,
                403
            );
        }
    }
    assert_eq!(
        send(
            &world,
            "/account/certificate",
            OURS,
            &format!("email={EMAIL}")
        )
        .await
        .status,
        403
    );
}

/// Without a proxy before it, and without users who might log in so.
#[tokio::test(flavor = "multi_thread")]
async fn a_marketplace_alone_asks_browsers_for_a_certificate_and_goes_on_without_one() {
    let settings = marketplace_service::Settings {
        sends_letters: true,
        ..marketplace_service::Settings::default()
    };
    let door = Door {
        is_encrypted: true,
        ..Door::default()
    };
    let world = World::behind_door(settings, door).await;
    let files = tempfile::tempdir().unwrap();
    let base = format!("https://{}", world.address());
    let kept = |name: &str| {
        let (pem, file) = (endorser_pem("Alice", EMAIL), files.path().join(name));
        std::fs::write(&file, &pem).unwrap();
        let key = marketplace::SigningKey::from_pem(&pem, None).unwrap();
        (key, file.display().to_string())
    };
    let ((key, known), (_, strange)) = (kept("known.pem"), kept("strange.pem"));
    let curl = async |path: &str, more: &[&str]| {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sSki", "-m", "60", &format!("{base}{path}")]);
        let output = command.args(more).output().await.unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let document = signed(&image(1), &key, after(-60));
    let upload = world
        .marketplace
        .upload(document.as_bytes(), [127, 0, 0, 1].into());
    upload.await.unwrap();
    let confirm = world.link(0, "confirm").await;
    let button = format!("value=\"{EMAIL}\"");
    let page = curl("/account", &["--cert", &known]).await;
    assert!(
        !page.contains(&button),
        "nothing is confirmed by it: {page}"
    );
    let told = curl(&confirm, &["-X", "POST"]).await;
    assert!(
        told.contains(" 201 "),
        "whoever shows none is served: {told}"
    );
    for (more, is_offered) in [
        (&["--cert", &known][..], true),
        (&["--cert", &strange], false),
        (&[], false),
    ] {
        let page = curl("/account", more).await;
        assert!(page.contains(" 200 "), "{page}");
        assert_eq!(page.contains(&button), is_offered, "{page}");
        let (form, origin) = (format!("email={EMAIL}"), format!("Origin: {base}"));
        let form = ["-d", &form, "-H", &origin, "-H", "Accept: text/html"];
        let reply = curl("/account/certificate", &[more, &form].concat()).await;
        let expected = if is_offered { " 303 " } else { " 403 " };
        assert!(reply.contains(expected), "{reply}");
        assert_eq!(reply.contains("__Host-stratus-endorser="), is_offered);
    }
}

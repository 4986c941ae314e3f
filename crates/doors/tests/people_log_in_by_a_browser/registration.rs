//! Accounts that people ask for, and what letters lead to.

use serde_json::json;

use super::{FORM, HTML, OURS, World, form_token, text};

#[tokio::test]
async fn people_register_by_form_and_by_rest_and_links_act_on_post() {
    let world = World::start().await;
    let page = world.ask("GET", "/register/register", HTML, "").await;
    assert!(text(&page).contains("name=\"newUserPasswordCheck\""));
    let fields = "uid=carol&mail=carol%40example.org&givenName=Carol&sn=C&newUserPassword=open+sesame+1&newUserPasswordCheck=open+sesame+1";
    let headers = format!("{FORM}{HTML}{OURS}");
    let missing = world
        .ask("POST", "/register/users/", &headers, fields)
        .await;
    assert_eq!(missing.status, 400);
    let shown = text(&missing);
    assert!(
        shown.contains("You must agree")
            && shown.contains("value=\"carol\"")
            && !shown.contains("sesame"),
        "{shown}"
    );
    // All at once: nobody chooses another password first, and hears of the name then.
    let weak = fields
        .replace("carol&", "alice&")
        .replace("open+sesame+1", "password");
    let wrong = world.ask("POST", "/register/users/", &headers, &weak).await;
    for told in [
        "username (alice) already exists",
        "invalid new password",
        "You must agree",
    ] {
        assert!(text(&wrong).contains(told), "{told}: {}", text(&wrong));
    }
    let taken = world
        .ask(
            "POST",
            "/register/users/",
            &headers,
            &format!("{}&agreement=on", fields.replace("carol&", "alice&")),
        )
        .await;
    assert!(text(&taken).contains("username (alice) already exists"));
    let done = world
        .ask(
            "POST",
            "/register/users/",
            &headers,
            &format!("{fields}&agreement=on"),
        )
        .await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, "/register/success")
    );
    let rest = json!({"uid": "dave", "mail": "dave@example.org", "givenName": "D", "sn": "D", "newUserPassword": "open sesame 1",
        "newUserPasswordCheck": "open sesame 1", "agreement": true});
    let json = "Content-Type: application/json\r\nAccept: application/json\r\n";
    let done = world
        .ask("POST", "/register/users", json, &rest.to_string())
        .await;
    assert_eq!(done.status, 202, "{}", text(&done));
    let bad = world
        .ask("POST", "/register/users", json, "{\"uid\": \"x\"}")
        .await;
    assert_eq!(bad.status, 400);
    assert!(
        bad.json()["detail"]
            .as_str()
            .unwrap()
            .contains("invalid username")
    );
    for (kind, body) in [
        ("text/xml", "<a/>"),
        ("application/json", "[1]"),
        ("application/json", "{\"uid\": [1]}"),
    ] {
        let reply = world
            .ask(
                "POST",
                "/register/users",
                &format!("Content-Type: {kind}\r\n"),
                body,
            )
            .await;
        assert!([400, 415].contains(&reply.status), "{kind}");
    }

    let root = world.log_in("root").await;
    let confirm = secrets(&world).await.remove(0);
    let path = format!("/register/action/{confirm}");
    // Whatever looks at links changes nothing.
    for _ in 0..3 {
        assert!(
            text(&world.ask("GET", &path, HTML, "").await).contains("Is this your e-mail address?")
        );
    }
    let reply = world.ask("POST", &path, &headers, "choice=yes").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        world
            .ask("POST", &path, &headers, "choice=yes")
            .await
            .status,
        404
    );
    let refused = world
        .ask(
            "GET",
            "/register/requests",
            &format!("{}{HTML}", world.log_in("alice").await),
            "",
        )
        .await;
    assert_eq!(refused.status, 403);
    let page = world
        .ask("GET", "/register/requests", &format!("{root}{HTML}"), "")
        .await;
    assert!(text(&page).contains("carol@example.org"));
    let body = format!(
        "username=carol&choice=approve&form-token={}",
        form_token(&page)
    );
    let reply = world
        .ask(
            "POST",
            "/register/requests",
            &format!("{root}{headers}"),
            &body,
        )
        .await;
    assert_eq!(reply.status, 303, "{}", text(&reply));
    assert!(world.documents.users.get("carol").unwrap().enabled);
}

#[tokio::test]
async fn a_decision_by_the_link_of_a_letter_is_written_down_without_the_link() {
    let world = World::start().await;
    let headers = format!("{FORM}{HTML}{OURS}");
    for (name, choice) in [("carol", "yes"), ("dave", "no")] {
        let form = format!(
            "uid={name}&mail={name}%40example.org&givenName=N&sn=N&newUserPassword=open+sesame+1\
             &newUserPasswordCheck=open+sesame+1&agreement=on"
        );
        let before = secrets(&world).await;
        let asked = world.ask("POST", "/register/users/", &headers, &form);
        assert_eq!(asked.await.status, 303);
        let new = async |known: &[String]| {
            let mut all = secrets(&world).await;
            all.retain(|secret| !known.contains(secret));
            all.remove(0)
        };
        let confirm = new(&before).await;
        let known = secrets(&world).await;
        let path = format!("/register/action/{confirm}");
        let confirmed = world.ask("POST", &path, &headers, "choice=yes").await;
        assert_eq!(confirmed.status, 200);
        let decide = new(&known).await;
        let path = format!("/register/action/{decide}");
        // Nothing is decided by looking, nor twice.
        assert_eq!(world.ask("GET", &path, HTML, "").await.status, 200);
        let body = format!("choice={choice}");
        assert_eq!(world.ask("POST", &path, &headers, &body).await.status, 200);
        assert_eq!(world.ask("POST", &path, &headers, &body).await.status, 404);
    }
    assert!(world.documents.users.get("carol").is_some());
    assert!(world.documents.users.get("dave").is_none());
    let entries = world.audit.0.lock().unwrap().clone();
    let decisions: Vec<_> = entries
        .iter()
        .filter(|entry| entry.about.is_some())
        .collect();
    let about: Vec<_> = decisions
        .iter()
        .filter_map(|entry| entry.about.as_deref())
        .collect();
    assert_eq!(
        about,
        ["Registration/carol/approve", "Registration/dave/reject"]
    );
    for entry in decisions {
        assert_eq!(
            (entry.user.as_deref(), entry.claimed.as_deref()),
            (None, None)
        );
        assert_eq!((entry.authenticated_by, entry.status), (Some("link"), 200));
        assert_eq!(entry.path, "/register/action/…");
        assert!(entry.address.is_loopback());
    }
}

/// The secrets of all links in letters.
async fn secrets(world: &World) -> Vec<String> {
    let prefix = store::Prefix::collection("Letter").unwrap();
    let page = world
        .documents
        .store()
        .range(store::Range::prefix(&prefix))
        .await
        .unwrap();
    page.entries
        .iter()
        .filter_map(|entry| {
            let text = String::from_utf8_lossy(&entry.value).into_owned();
            let (_, rest) = text.split_once("/register/action/")?;
            Some(
                rest.chars()
                    .take_while(char::is_ascii_alphanumeric)
                    .collect(),
            )
        })
        .collect()
}

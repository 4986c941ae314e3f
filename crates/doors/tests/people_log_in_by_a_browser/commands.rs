//! A command that gets its token by way of the browser.

use serde_json::json;

use super::{FORM, HTML, OURS, World, form_token, text};

#[tokio::test]
async fn a_command_gets_its_token_by_a_code_that_works_once_and_for_it_alone() {
    let world = World::start().await;
    let cookie = world.log_in("alice").await;
    // RFC 7636, appendix B.
    let (verifier, challenge) = (
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    );
    let url = format!("/cimi/command?challenge={challenge}&name=here&port=40000&state=s");
    let sent = world.ask("GET", &url, HTML, "").await;
    assert!(
        sent.header("location")
            .starts_with("/cimi/login?next=%2Fcimi%2Fcommand%3Fchallenge")
    );
    let page = world.ask("GET", &url, &format!("{cookie}{HTML}"), "").await;
    assert!(
        page.header("content-security-policy")
            .contains("form-action 'self' http://127.0.0.1:40000;")
    );
    let token = form_token(&page);
    let headers = format!("{cookie}{FORM}{HTML}{OURS}");
    let code = async || {
        let body = format!(
            "challenge={challenge}&name=here&port=40000&state=s&choice=yes&form-token={token}"
        );
        let reply = world.ask("POST", "/cimi/command", &headers, &body).await;
        let location = reply.header("location").to_owned();
        let rest = location
            .strip_prefix("http://127.0.0.1:40000/?code=")
            .unwrap_or_else(|| panic!("{location}"));
        rest.strip_suffix("&state=s").unwrap().to_owned()
    };
    let json = "Content-Type: application/json\r\n";
    let first = code().await;
    let guessed = json!({"code": first, "verifier": "x".repeat(43)}).to_string();
    assert_eq!(
        world
            .ask("POST", "/cimi/command/token", json, &guessed)
            .await
            .status,
        403
    );
    let right = json!({"code": first, "verifier": verifier}).to_string();
    assert_eq!(
        world
            .ask("POST", "/cimi/command/token", json, &right)
            .await
            .status,
        404,
        "used up"
    );
    let body = json!({"code": code().await, "verifier": verifier}).to_string();
    let reply = world.ask("POST", "/cimi/command/token", json, &body).await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    let who = world
        .ask(
            "GET",
            "/cimi/authn",
            &format!("Authorization: Bearer {token}\r\n"),
            "",
        )
        .await;
    assert_eq!(who.json()["identity"], "alice");
    // It is written down that a code was used in vain, and which token came to be, without the secrets.
    let entries = world.audit.0.lock().unwrap().clone();
    let fetched: Vec<_> = entries
        .iter()
        .filter(|entry| entry.path == "/cimi/command/token")
        .map(|entry| {
            (
                entry.status,
                entry.user.as_deref(),
                entry.claimed.as_deref(),
                entry.authenticated_by,
                entry.made.as_deref(),
            )
        })
        .collect();
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("Token/"), "{id}");
    assert_eq!(
        fetched,
        [
            (403, None, Some("alice"), Some("command"), None),
            (200, Some("alice"), None, Some("command"), Some(&*id))
        ]
    );
    // What is told to everybody isn't a way in, either.
    for url in ["/cimi/command?challenge=abc", "/cimi/command"] {
        assert_eq!(
            world
                .ask("GET", url, &format!("{cookie}{HTML}"), "")
                .await
                .status,
            400
        );
    }
}

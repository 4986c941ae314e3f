//! `stratus login`: once, and then no command needs a password.

use std::io::IsTerminal as _;
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::cloud::{Api, ApiError, Endpoint, Login, TokenView};
use crate::failure::{Failure, Result};
use crate::kept_logins::KeptLogins;
use crate::options::{Cloud, Common};
use crate::output::write_stderr;
use crate::session::{Session, ask_password};

/// How long the user has in the browser.
const BROWSER_WITHIN: Duration = Duration::from_secs(300);
/// How long one request of the browser may take, and how much of it is read.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
const REQUEST_AT_MOST: u64 = 16 << 10;
/// The longest line that is read from standard input.
const LINE_AT_MOST: u64 = 4096;

/// Log in once, so that commands need no password
///
/// By user name and password, or by the browser (--browser), which is the way if the cloud's users log in by a provider of
/// identities. What is kept is a token of this computer alone: in the system's keyring if there is one (secret-tool), else in
/// ~/.stratuslab/logins, which only you can read. It ends by itself, by 'stratus logout', or with the password.
/// It takes the place of the one that an earlier login as the same user on this computer left: that one ends.
/// What is named by options, STRATUS_TOKEN, or a user name and a password of the configuration counts more than what is kept.
/// JSON: {"endpoint", "username", "expires", "keyring"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus login --endpoint https://cloud.example.org:8443 -u joe
  stratus login -u joe --password-stdin < password
  stratus login --browser
  stratus login --browser --paste       (the browser is on another computer)")]
pub struct Arguments {
    /// By the browser
    #[arg(long, conflicts_with = "password_stdin")]
    browser: bool,
    /// Read the password from the first line of standard input
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// Show the address, and ask for the code that the page shows in the end
    #[arg(long, requires = "browser")]
    paste: bool,
    /// Show the address only, and open no browser
    #[arg(long, requires = "browser")]
    no_open: bool,
    /// Days until it ends; by the browser it is 30
    #[arg(long, value_name = "NUMBER", default_value_t = 30, conflicts_with = "browser", value_parser = clap::value_parser!(u16).range(1..=366))]
    days: u16,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let endpoint = session.endpoint(&self.cloud)?;
        let mut kept = KeptLogins::load()?;
        let before = kept.of(&endpoint).cloned();
        let made = if self.browser {
            self.by_browser(&session, &endpoint).await?
        } else {
            self.by_password(&session, &endpoint).await?
        };
        let lacks = |what: &str| Failure::Work(format!("the cloud answered without {what}"));
        let token = made.token.clone().ok_or_else(|| lacks("the token"))?;
        let username = made.user.clone().ok_or_else(|| lacks("the user's name"))?;
        let in_keyring = kept.keep(&endpoint, &username, made.local_id(), &token)?;
        let before = before.filter(|before| before.username == username).map(|before| before.id);
        let api = session.connect(endpoint.clone(), Some(Login::Token(token)), &self.cloud)?;
        if let Err(error) = end_earlier(&api, &made, before.as_deref()).await {
            session.out.warning(format_args!("{error}: the token of the login before works on until it ends; 'stratus token list' shows it"));
        }
        if session.out.is_json() {
            return session.out.json(&json!({ "endpoint": endpoint.to_string(), "username": username, "expires": made.expires, "keyring": in_keyring }));
        }
        let place = if in_keyring { "the keyring".to_owned() } else { kept.path().display().to_string() };
        session.out.detail(format_args!("kept in {place}"));
        session.out.line(format_args!("Logged in to {endpoint} as {username}, until {}", made.expires.as_deref().unwrap_or_default()))
    }

    async fn by_password(&self, session: &Session, endpoint: &Endpoint) -> Result<TokenView> {
        let username = session.settings.text(self.cloud.username.as_deref(), "username");
        let username = match username {
            Some(username) => username,
            None if std::io::stdin().is_terminal() => ask("User name: ")?,
            None => {
                return Err(Failure::Usage("Missing user name (-u), or use --browser".to_owned()));
            }
        };
        // A password of the configuration is of the user of the configuration.
        let password = match &self.cloud.password {
            _ if self.password_stdin => None,
            Some(password) => Some(password.clone()),
            None if self.cloud.username.is_none() => session.settings.text(None, "password"),
            None => None,
        };
        let password = match password {
            Some(password) => password,
            None if !self.password_stdin && std::io::stdin().is_terminal() => ask_password(&format!("'{username}' at '{endpoint}' password: "))?,
            None => {
                let mut line = String::new();
                let mut input = std::io::Read::take(std::io::stdin().lock(), LINE_AT_MOST);
                std::io::BufRead::read_line(&mut input, &mut line).map_err(|error| Failure::Work(format!("standard input: {error}")))?;
                line.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        if password.is_empty() {
            return Err(Failure::Check("the password is empty".to_owned()));
        }
        let api = session.connect(endpoint.clone(), Some(Login::Password(username, password)), &self.cloud)?;
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * i64::from(self.days));
        let body = json!({ "name": name(), "scope": "full", "expires": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() });
        let made = api.post("Token", &body).await?;
        Ok(api.viewed("Token", made.body)?)
    }

    /// RFC 8252 and RFC 7636: the browser brings a code, and only who began this knows what makes a token of it.
    async fn by_browser(&self, session: &Session, endpoint: &Endpoint) -> Result<TokenView> {
        let verifier = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let state = uuid::Uuid::new_v4().simple().to_string();
        let encoded = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut url = format!("{}/command?challenge={challenge}&name={}", endpoint.cimi_url(), encoded(&name()));
        let code = if self.paste {
            write_stderr(&format!("Open this address, log in, and let the command in:\n\n  {url}\n\n"));
            ask("Code: ")?
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.map_err(|error| Failure::Work(format!("nothing can be listened at on this computer: {error}; use --paste")))?;
            let port = listener.local_addr().map_err(|error| Failure::Work(error.to_string()))?.port();
            url.push_str(&format!("&port={port}&state={state}"));
            write_stderr(&format!("Log in with the browser; if none opens, open this address:\n\n  {url}\n\n"));
            if !self.no_open {
                open(&url);
            }
            let waiting = wait(&listener, &state);
            timeout(BROWSER_WITHIN, waiting)
                .await
                .map_err(|_| Failure::Work(format!("nobody logged in within {} minutes", BROWSER_WITHIN.as_secs() / 60)))??
        };
        let api = session.connect(endpoint.clone(), None, &self.cloud)?;
        let body = json!({ "code": code.trim(), "verifier": verifier });
        let made = api.post("command/token", &body).await?;
        Ok(api.viewed::<TokenView>("command/token", made.body)?)
    }
}

/// Ends what earlier logins left: the tokens of the same user and name, and the one that was kept here.
async fn end_earlier(api: &Api, made: &TokenView, before: Option<&str>) -> std::result::Result<(), ApiError> {
    let all: Vec<TokenView> = api.views("Token").await?;
    let is_earlier = |token: &&TokenView| {
        let is_same = token.user == made.user && token.local_id() != made.local_id();
        is_same && (before == Some(token.local_id()) || (made.name.is_some() && token.name == made.name))
    };
    for token in all.iter().filter(is_earlier) {
        match api.delete(&format!("Token/{}", token.local_id())).await {
            // Somebody else ended it meanwhile.
            Ok(_) | Err(ApiError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the token is called at the cloud: what a later login of the same person on the same computer calls it, too.
fn name() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    let host = host.as_deref().unwrap_or("this computer");
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    match user {
        Some(user) => format!("stratus login of {user} on {host}"),
        None => format!("stratus login on {host}"),
    }
}

fn ask(prompt: &str) -> Result<String> {
    write_stderr(prompt);
    let mut line = String::new();
    let mut input = std::io::Read::take(std::io::stdin().lock(), LINE_AT_MOST);
    let read = std::io::BufRead::read_line(&mut input, &mut line);
    read.map_err(|error| Failure::Work(format!("standard input: {error}")))?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty()).ok_or_else(|| Failure::Check("nothing was entered".to_owned()))
}

/// Opens a browser, if there is one.
fn open(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = std::process::Stdio::null;
    let _ = std::process::Command::new(program).arg(url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
}

/// Waits until the browser comes back with the code of this login. What else comes is told that it is wrong here.
async fn wait(listener: &TcpListener, state: &str) -> Result<String> {
    loop {
        let accepted = listener.accept().await;
        let (stream, _) = accepted.map_err(|error| Failure::Work(format!("waiting for the browser: {error}")))?;
        match timeout(REQUEST_WITHIN, one(stream, state)).await {
            Ok(Ok(Some(Ok(code)))) => return Ok(code),
            Ok(Ok(Some(Err(said)))) => return Err(Failure::Work(format!("the browser says: {said}"))),
            _ => {}
        }
    }
}

/// The code, or why there is none, if this request is of this login.
async fn one(stream: TcpStream, state: &str) -> std::io::Result<Option<Result<String, String>>> {
    let mut stream = BufReader::new(stream.take(REQUEST_AT_MOST));
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    // The whole head, so that the browser comes to reading.
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
    }
    let parameter = |name: &str| {
        let query = target.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(given, _)| *given == name)).map(|(_, value)| value.to_owned())
    };
    let outcome = match (parameter("code"), parameter("error")) {
        (Some(code), _) if parameter("state").as_deref() == Some(state) => {
            let is_code = !code.is_empty() && code.len() <= 100 && code.bytes().all(|b| b.is_ascii_alphanumeric());
            is_code.then_some(Ok(code))
        }
        (_, Some(error)) => Some(Err(error.chars().filter(char::is_ascii_graphic).take(100).collect())),
        _ => None,
    };
    let (status, text) = match &outcome {
        Some(Ok(_)) => ("200 OK", "Done. You can close this page and go back to the command."),
        Some(Err(_)) => ("200 OK", "The command was not let in. You can close this page."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let body = format!("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>stratus login</title><p>{text}</p></html>");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = stream.into_inner().into_inner();
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(outcome)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    async fn ask_for(address: std::net::SocketAddr, target: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_the_browser_of_this_login_brings_the_code() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = tokio::spawn(async move { wait(&listener, "s").await });
        for target in ["/favicon.ico", "/?code=abc&state=other", "/?code=../x&state=s", "/?code=abc"] {
            assert!(ask_for(address, target).await.starts_with("HTTP/1.1 404"), "{target}");
        }
        // Who says nothing keeps nobody waiting for ever.
        drop(TcpStream::connect(address).await.unwrap());
        assert!(ask_for(address, "/?code=abc&state=s").await.contains("Done"));
        assert_eq!(waiting.await.unwrap().unwrap(), "abc");
    }

    #[tokio::test]
    async fn a_no_in_the_browser_ends_the_command() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = tokio::spawn(async move { wait(&listener, "s").await });
        ask_for(address, "/?error=refused").await;
        assert!(waiting.await.unwrap().unwrap_err().to_string().contains("refused"));
    }
}

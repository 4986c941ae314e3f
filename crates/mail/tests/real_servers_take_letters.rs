//! A mail server that nobody here wrote: Debian's aiosmtpd, with STARTTLS and login.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use mail::{Letter, Login, Outbox, Postman, Security, SmtpSettings};
use store::{Prefix, Range, Revision, SharedStore, SqliteOptions, SqliteStore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Prints its port, then each letter's envelope and subject; ends with its standard input.
const SERVER: &str = r#"
import ssl, sys
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
import email

class Handler:
    async def handle_DATA(self, server, session, envelope):
        subject = email.message_from_bytes(envelope.content)['Subject']
        print(envelope.mail_from, envelope.rcpt_tos, subject, session.ssl is not None, flush=True)
        return '250 taken'

def login(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b'ann' and data.password == b'secret', handled=False)

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
controller = Controller(Handler(), hostname='127.0.0.1', port=int(sys.argv[3]), tls_context=context,
                        require_starttls=True, authenticator=login, auth_required=True)
controller.start()
print('ready', flush=True)
sys.stdin.read()
controller.stop()
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn openssl(folder: &Path) -> Option<()> {
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    assert!(done.status.success(), "{done:?}");
    Some(())
}

fn start(folder: &Path, port: u16) -> Result<(Server, BufReader<ChildStdout>), String> {
    fs::write(folder.join("server.py"), SERVER).unwrap();
    // The distribution's own Python has the distribution's package.
    let mut child = Command::new("/usr/bin/python3")
        .args(["server.py", "cert.pem", "key.pem", &port.to_string()])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("/usr/bin/python3: {error}"))?;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut server = Server(child);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    if line.trim_end() == "ready" {
        return Ok((server, output));
    }
    let mut text = String::new();
    server
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    Err(text)
}

#[tokio::test]
async fn starttls_and_login_work_with_aiosmtpd() {
    let folder = tempfile::tempdir().unwrap();
    if openssl(folder.path()).is_none() {
        println!("skipped: openssl is not installed");
        return;
    }
    let port = testkit::free_port();
    let (_server, mut output) = match start(folder.path(), port) {
        Ok(started) => started,
        Err(text) if text.contains("No module named") || text.contains("No such file") => {
            println!("skipped: python3-aiosmtpd is not installed");
            return;
        }
        Err(text) => panic!("{text}"),
    };
    let options = SqliteOptions::default();
    let store: SharedStore =
        Arc::new(SqliteStore::open_with(folder.path().join("db"), options).unwrap());
    let settings = |password: &str, authority: bool| SmtpSettings {
        host: "localhost".to_owned(),
        port,
        security: Security::StartTls,
        authorities: authority
            .then(|| fs::read(folder.path().join("cert.pem")).unwrap())
            .into_iter()
            .collect(),
        login: Some(Login {
            user: "ann".to_owned(),
            password: password.to_owned(),
        }),
        from: "cloud@example.org".to_owned(),
    };
    let letter = Letter::new("bob@example.org", "Hello", "Hi.\n").unwrap();
    let outbox = Outbox::new(store.clone());
    outbox.queue(&letter).await.unwrap();
    // A wrong password, and a certificate that nobody vouches for, delay the letter.
    for (password, authority, told) in [("wrong", true, "535"), ("secret", false, "certificate")] {
        let stop = CancellationToken::new();
        let postman = Postman::new(store.clone(), &settings(password, authority)).unwrap();
        let running = tokio::spawn(postman.run(stop.clone()));
        let trouble = trouble(&store).await;
        assert!(trouble.contains(told), "{trouble}");
        stop.cancel();
        running.await.unwrap();
        outbox_due_again(&store).await;
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn(
        Postman::new(store, &settings("secret", true))
            .unwrap()
            .run(stop.clone()),
    );
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    });
    let line = timeout(Duration::from_secs(30), read)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        line.trim_end(),
        "cloud@example.org ['bob@example.org'] Hello True"
    );
    stop.cancel();
    running.await.unwrap();
}

/// Why the only letter isn't delivered, once that is known.
async fn trouble(store: &SharedStore) -> String {
    let prefix = Prefix::collection("Letter").unwrap();
    let mut watch = store.watch(prefix.clone(), Revision::ZERO).await.unwrap();
    let told = async {
        loop {
            let page = store.range(Range::prefix(&prefix)).await.unwrap();
            let letter: serde_json::Value = serde_json::from_slice(&page.entries[0].value).unwrap();
            if let Some(trouble) = letter["trouble"].as_str() {
                return trouble.to_owned();
            }
            watch.next().await.unwrap();
        }
    };
    timeout(Duration::from_secs(30), told).await.unwrap()
}

/// Makes the letter due now, as if its pause were over, and forgets its trouble.
async fn outbox_due_again(store: &SharedStore) {
    let range = Range::prefix(&Prefix::collection("Letter").unwrap());
    let entry = store.range(range).await.unwrap().entries.remove(0);
    let mut letter: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    letter["due_ms"] = 0.into();
    letter.as_object_mut().unwrap().remove("trouble");
    let transaction = store::Transaction::new()
        .revision_is(&entry.key, entry.revision)
        .put(entry.key.clone(), serde_json::to_vec(&letter).unwrap());
    let outcome = store.commit(transaction).await.unwrap();
    assert!(
        matches!(outcome, store::Outcome::Committed(_)),
        "{outcome:?}"
    );
}

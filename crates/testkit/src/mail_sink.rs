//! A real mail server that keeps what it is given: Debian's aiosmtpd.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use crate::waiting::wait_until;

/// How long it may take to start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Says which port it has, then a line of JSON for each letter. Ends with its standard input.
const SERVER: &str = r#"
import asyncio, email, email.policy, json, sys, threading
from aiosmtpd.smtp import SMTP

class Handler:
    async def handle_DATA(self, server, session, envelope):
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(json.dumps({'id': str(letter['Message-ID']), 'to': envelope.rcpt_tos, 'subject': str(letter['Subject']),
                          'text': letter.get_body(('plain',)).get_content()}), flush=True)
        return '250 taken'

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), hostname='localhost'), '127.0.0.1', int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    def wait():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)
    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()

asyncio.run(main())
"#;

/// A letter as it arrived.
#[derive(Clone, Debug)]
pub struct SentLetter {
    /// Whom the envelope names.
    pub to: Vec<String>,
    /// Its subject.
    pub subject: String,
    /// Its text.
    pub text: String,
}

/// The server. Ends when dropped.
#[derive(Debug)]
pub struct MailSink {
    process: Child,
    port: u16,
    letters: Arc<Mutex<Vec<SentLetter>>>,
}

impl MailSink {
    /// Starts one on a port of its own. `None` if there is none here, which is said, unless `STRATUS_REQUIRE_ALL` demands it.
    ///
    /// # Panics
    /// If it doesn't start though it is installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_on(0)
    }

    /// The same on this port.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_on(port: u16) -> Option<Self> {
        // The distribution's own Python has the distribution's package.
        let process = Command::new("/usr/bin/python3")
            .args(["-c", SERVER, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) => return missing(&format!("/usr/bin/python3: {error}")),
        };
        let output = BufReader::new(process.stdout.take().unwrap());
        let letters = Arc::new(Mutex::new(Vec::new()));
        let (told, tell) = mpsc::channel();
        let kept = letters.clone();
        std::thread::spawn(move || {
            let mut ids = HashSet::new();
            for line in output.lines().map_while(Result::ok) {
                if let Ok(port) = line.parse::<u16>() {
                    let _ = told.send(port);
                } else if let Some((id, letter)) = read(&line)
                    && ids.insert(id)
                {
                    kept.lock().unwrap().push(letter);
                }
            }
        });
        if let Ok(port) = tell.recv_timeout(START_LIMIT) {
            return Some(Self {
                process,
                port,
                letters,
            });
        }
        let mut text = String::new();
        let _ = process.kill();
        let mut errors = process.stderr.take().unwrap();
        errors.read_to_string(&mut text).unwrap();
        let _ = process.wait();
        assert!(text.contains("No module named"), "aiosmtpd: {text}");
        missing("python3-aiosmtpd is not installed")
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came so far. One that came twice, as it may from a daemon that was killed before it noted that it was taken, counts once, as it
    /// does for readers of mail: both have the same `Message-ID`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn letters(&self) -> Vec<SentLetter> {
        self.letters.lock().unwrap().clone()
    }

    /// The letter of this number, from 0, once it came.
    ///
    /// # Panics
    /// If it doesn't come.
    #[must_use]
    #[track_caller]
    pub fn letter(&self, number: usize) -> SentLetter {
        // Who could not deliver at first tries again after some seconds.
        wait_until("the letter", Duration::from_secs(90), || {
            self.letters().get(number).cloned()
        })
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn missing(text: &str) -> Option<MailSink> {
    assert!(std::env::var_os("STRATUS_REQUIRE_ALL").is_none(), "{text}");
    println!("SKIPPED: {text}");
    None
}

/// A letter with its `Message-ID`.
fn read(line: &str) -> Option<(String, SentLetter)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let to = value.get("to")?.as_array()?.iter();
    let letter = SentLetter {
        to: to
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect(),
        subject: text("subject")?,
        text: text("text")?,
    };
    Some((text("id")?, letter))
}

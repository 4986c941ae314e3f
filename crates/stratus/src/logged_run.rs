//! Programs that are run, often on other computers: all they say goes into a log, which is there for a look at what failed.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::failure::{Failure, Result};
use crate::output::{Output, printable};

/// Most lines that are shown of what failed; the log has all.
const SHOWN_LINES: usize = 15;

/// The whole story.
#[derive(Debug, Clone)]
pub struct Log {
    file: Arc<Mutex<File>>,
    path: PathBuf,
    /// What each line begins with, where several are at work.
    of: String,
}

impl Log {
    /// Begins one; what was in the file goes.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(path: &Path) -> Result<Self> {
        Self::of(
            path,
            OpenOptions::new().write(true).create(true).truncate(true),
        )
    }

    /// Goes on with one, or begins it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn append(path: &Path) -> Result<Self> {
        Self::of(path, OpenOptions::new().append(true).create(true))
    }

    fn of(path: &Path, options: &OpenOptions) -> Result<Self> {
        let file = options
            .open(path)
            .map_err(|error| Failure::file(path, &error))?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            path: path.to_owned(),
            of: String::new(),
        })
    }

    /// The same log, in which each line begins with where it is from.
    #[must_use]
    pub fn of_place(&self, place: &impl std::fmt::Display) -> Self {
        Self {
            of: format!("{place}: "),
            ..self.clone()
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line. That the log can't be written is no reason to end the work.
    pub fn line(&self, text: &str) {
        self.write(&format!("{}{text}", self.of));
    }

    fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{line}");
    }

    /// Writes a line with the time.
    pub fn step(&self, text: &str) {
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
            .map_or_else(|_| String::new(), |now| now.to_string());
        self.write(&format!("=== {now} {}{text}", self.of));
    }
}

/// Runs a program with that on its standard input; gives what it printed. It ends when this is dropped.
///
/// # Errors
/// [`Failure::Work`] if it can't be run or fails, after its last lines were shown.
pub async fn run(
    log: &Log,
    out: &Output,
    what: &str,
    command: &mut Command,
    input: &[u8],
) -> Result<String> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let hint = if program == "ssh" {
            "; is an SSH client installed?"
        } else {
            ""
        };
        Failure::Work(format!("{program} cannot be run: {error}{hint}"))
    })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let send = async {
        if let Some(mut stdin) = stdin {
            // A command that doesn't read ends the pipe; its status tells how it went.
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let shown = Mutex::new(Vec::new());
    let (_, printed, _, status) = tokio::join!(
        send,
        follow(log, out, stdout, &shown),
        follow(log, out, stderr, &shown),
        child.wait()
    );
    let status = status.map_err(|error| Failure::Work(format!("{program}: {error}")))?;
    log.step(&format!("{what}: {status}"));
    if status.success() {
        return Ok(printed);
    }
    for line in shown.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        out.error(format_args!("\t{}{line}", log.of));
    }
    let code = status
        .code()
        .map_or_else(|| status.to_string(), |code| format!("status {code}"));
    Err(Failure::Work(format!(
        "{what} failed with {code}; the whole output is in {}",
        log.path().display()
    )))
}

/// Writes what comes into the log, shows it with `-v`, keeps the last lines in `shown`; gives all, up to a limit.
async fn follow(
    log: &Log,
    out: &Output,
    stream: Option<impl AsyncRead + Unpin>,
    shown: &Mutex<Vec<String>>,
) -> String {
    const KEPT_BYTES: usize = 64 * 1024;
    let mut all = String::new();
    let Some(stream) = stream else {
        return all;
    };
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = printable(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        log.line(&line);
        out.detail(format_args!("\t{}{line}", log.of));
        if all.len() < KEPT_BYTES {
            all.push_str(&line);
            all.push('\n');
        }
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() == SHOWN_LINES {
            shown.remove(0);
        }
        shown.push(line);
    }
    all
}

/// A word as the shell reads it as one.
#[must_use]
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

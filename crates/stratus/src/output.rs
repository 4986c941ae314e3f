//! Everything that is said to the user: results on standard output, messages by level.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// What a command's result looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people, as StratusLab's commands print it.
    #[default]
    Table,
    /// JSON for programs; its members are described in the help of each command.
    Json,
    /// Lines of fields, for spreadsheets: of what can be exported.
    #[value(hide = true)]
    Csv,
    /// XML: of what can be exported.
    #[value(hide = true)]
    Xml,
}

/// Where results and messages go, and which messages are shown.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// How often `-v` was given.
    pub verbose: u8,
    /// How often `-q` was given; wins over `-v`.
    pub quiet: u8,
    /// How results are printed.
    pub format: Format,
}

impl Output {
    /// Whether results are to be JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a line of the result. `-q` has no say in it.
    ///
    /// # Errors
    /// [`Failure::ClosedOutput`] when nobody reads any more; [`Failure::Check`] when standard output cannot be written (disk full).
    pub fn line(&self, text: impl Display) -> Result {
        write_stdout(format!("{text}\n").as_bytes())
    }

    /// Prints a result as JSON.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn json(&self, value: &impl Serialize) -> Result {
        let text = serde_json::to_string_pretty(value).map_err(|error| {
            Failure::Check(format!("the result cannot be written as JSON: {error}"))
        })?;
        self.line(text)
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn bytes(&self, bytes: &[u8]) -> Result {
        write_stdout(bytes)
    }

    /// Shown with `-v`.
    pub fn detail(&self, text: impl Display) {
        if self.verbose > 0 && self.quiet == 0 {
            self.message(text);
        }
    }

    /// Shown without `-q`.
    pub fn info(&self, text: impl Display) {
        if self.quiet == 0 {
            self.message(text);
        }
    }

    /// ` :: TEXT`, shown without `-q`.
    pub fn step(&self, text: impl Display) {
        self.info(format_args!(" :: {text}"));
    }

    /// The framed headline of a command's work, shown without `-q`.
    pub fn banner(&self, text: &str) {
        let frame = ":".repeat(text.chars().count() + 6);
        self.info(format_args!("\n {frame}\n :: {text} ::\n {frame}"));
    }

    /// `  [WARNING] TEXT`, shown up to `-q`.
    pub fn warning(&self, text: impl Display) {
        if self.quiet <= 1 {
            self.message(format_args!("  [WARNING] {text}"));
        }
    }

    /// An error that does not end the command, shown up to `-qq`.
    pub fn error(&self, text: impl Display) {
        if self.quiet <= 2 {
            self.message(text);
        }
    }

    /// Messages share standard output with the result, as the contract wants it, except with JSON, which they would spoil.
    /// A message that cannot be written is not worth ending a piece of work for.
    fn message(&self, text: impl Display) {
        let line = format!("{text}\n");
        if self.is_json() {
            write_stderr(&line);
        } else {
            let _ = write_stdout(line.as_bytes());
        }
    }
}

/// Writes to standard error; failures are ignored, there is nowhere left to tell them.
pub fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output and flushes.
///
/// # Errors
/// [`Failure::ClosedOutput`] for a closed pipe, [`Failure::Check`] for everything else.
pub fn write_stdout(bytes: &[u8]) -> Result {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::ClosedOutput,
            _ => Failure::Check(format!("standard output cannot be written: {error}")),
        })
}

/// Text from outside as it may be shown on a terminal: control characters become `?`, so that nobody's machine name moves the cursor.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() && character != '\n' && character != '\t' {
                '?'
            } else {
                character
            }
        })
        .collect()
}

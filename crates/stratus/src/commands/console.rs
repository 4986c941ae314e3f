//! `stratus console`: what a machine says on its serial console.

use std::io::IsTerminal as _;

use crate::cloud::Api;
use crate::commands::machine_id::machine_named;
use crate::console_filter::ConsoleFilter;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::Output;
use crate::session::Session;

/// Show what a machine says on its serial console
///
/// With --follow also what it says from now on, until the machine ends or ctrl-C. On a terminal, control sequences other than
/// colours are left out, since a guest may be hostile; --raw, files and pipes get every byte.
///
/// JSON: {"id", "text"} (not with --follow).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus console 7
  stratus console -f --last 20 7")]
pub struct Arguments {
    /// Number or name of the machine
    #[arg(value_name = "vm-id")]
    id: String,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    last: Option<usize>,
    /// Every byte as it is
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// How much is asked for so that a number of lines is in it.
const BYTES_PER_LINE: usize = 400;
/// The longest console text that is kept for cutting.
const TEXT_MAX_BYTES: usize = 64 << 20;

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let out = session.out;
        if self.follow && out.is_json() {
            return Err(Failure::Usage("--follow has no end that JSON could have; leave one of them away".to_owned()));
        }
        let api = session.api(&self.cloud)?;
        let machine = machine_named(&api, &self.id).await?;
        let base = format!("{}/console", machine.path());
        let query = self.last.map(|lines| format!("?last={}", lines.saturating_mul(BYTES_PER_LINE).clamp(1 << 16, TEXT_MAX_BYTES))).unwrap_or_default();
        let (start, text) = read_all(&api, &format!("{base}{query}")).await?;
        let next = start + text.len() as u64;
        let shown = self.last.map_or(text.as_slice(), |lines| last_lines(&text, lines));
        if out.is_json() {
            return out.json(&serde_json::json!({ "id": machine.to_string(), "text": String::from_utf8_lossy(shown) }));
        }
        let mut printer = Printer::new(out, self.raw);
        printer.print(shown)?;
        if !self.follow {
            return if std::io::stdout().is_terminal() && !shown.is_empty() && !shown.ends_with(b"\n") { out.line("") } else { Ok(()) };
        }
        let mut response = api.open(&format!("{base}?offset={next}&follow=true")).await?;
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::Network(format!("the console broke off: {error}")))? {
            printer.print(&chunk)?;
        }
        Ok(())
    }
}

/// The whole text and the offset of its first byte.
async fn read_all(api: &Api, path: &str) -> Result<(u64, Vec<u8>)> {
    let mut response = api.open(path).await?;
    let start = response.headers().get("x-console-start").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::Network(format!("the console broke off: {error}")))? {
        text.extend_from_slice(&chunk);
        if text.len() > TEXT_MAX_BYTES {
            return Err(Failure::Work(format!("the console is longer than {TEXT_MAX_BYTES} bytes; ask for less with --last LINES")));
        }
    }
    Ok((start, text))
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return &[];
    }
    match body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines - 1) {
        Some((index, _)) => text.get(index + 1..).unwrap_or_default(),
        None => text,
    }
}

struct Printer {
    out: Output,
    filter: Option<ConsoleFilter>,
}

impl Printer {
    fn new(out: Output, is_raw: bool) -> Self {
        Self { out, filter: (!is_raw && std::io::stdout().is_terminal()).then(ConsoleFilter::default) }
    }

    fn print(&mut self, text: &[u8]) -> Result {
        match &mut self.filter {
            Some(filter) => self.out.bytes(&filter.harmless(text)),
            None => self.out.bytes(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nlogin: ", 1), b"login: ");
        assert_eq!(last_lines(b"a\nb\n", 9), b"a\nb\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}

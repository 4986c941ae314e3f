//! What is shown while something takes its time: a live line on a terminal, dots elsewhere, nothing when quiet.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{Output, printable, write_stderr};

/// A wait without known length.
#[derive(Debug)]
pub struct Waiting {
    bar: ProgressBar,
    /// When the last dot was written, if dots are written.
    dots: Option<Mutex<Dots>>,
    /// The last reason that was told, without its digits: free bytes and seconds differ each time.
    told: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Dots {
    last: Instant,
    any: bool,
}

impl Waiting {
    /// Shows nothing.
    #[must_use]
    pub fn silently() -> Self {
        Self::with(ProgressBar::hidden(), None)
    }

    fn with(bar: ProgressBar, dots: Option<Mutex<Dots>>) -> Self {
        Self {
            bar,
            dots,
            told: Mutex::default(),
        }
    }

    /// Begins to show `what`.
    #[must_use]
    pub fn start(out: &Output, what: impl Into<String>) -> Self {
        if out.quiet > 0 {
            return Self::silently();
        }
        if !std::io::stderr().is_terminal() {
            let dots = Dots {
                last: Instant::now(),
                any: false,
            };
            return Self::with(ProgressBar::hidden(), Some(Mutex::new(dots)));
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what.into());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::with(bar, None)
    }

    /// Says what is waited for now.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(printable(&what.into()));
    }

    /// Tells on standard error why it takes so long, if there is a reason and it was not told last, but for its numbers. It may come
    /// from outside.
    pub fn tell(&self, reason: Option<String>) {
        let Ok(mut told) = self.told.lock() else {
            return;
        };
        let reason = reason.map(|reason| printable(&reason));
        let Some(reason) = reason else {
            return;
        };
        let without_numbers = reason.replace(|c: char| c.is_ascii_digit(), "");
        if told.as_ref() == Some(&without_numbers) {
            return;
        }
        match self.dots.as_ref().map(Mutex::lock) {
            Some(Ok(mut dots)) => {
                let line_end = if std::mem::take(&mut dots.any) {
                    "\n"
                } else {
                    ""
                };
                write_stderr(&format!("{line_end}{reason}\n"));
            }
            // Shows nothing where nothing is shown.
            _ => self.bar.println(&reason),
        }
        *told = Some(without_numbers);
    }

    /// Called at every look: a dot a second where there is no terminal.
    pub fn tick(&self) {
        if let Some(Ok(mut dots)) = self.dots.as_ref().map(Mutex::lock)
            && dots.last.elapsed() >= Duration::from_secs(1)
        {
            dots.last = Instant::now();
            dots.any = true;
            write_stderr(".");
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(Ok(dots)) = self.dots.as_ref().map(Mutex::lock)
            && dots.any
        {
            write_stderr("\n");
        }
    }
}

/// A bar for bytes; hidden when quiet or without a terminal.
#[must_use]
pub fn byte_bar(out: &Output, what: &str, total_bytes: u64) -> ProgressBar {
    if out.quiet > 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total_bytes);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

//! What the probe's child tells its parent: lines of text on its standard output.
//!
//! ```text
//! kvm-probe letter A
//! kvm-probe letter B
//! kvm-probe unusable guest probe stopped after 'AB' with KVM_EXIT_INTERNAL_ERROR suberror 1
//! ```
//!
//! Letters come as the guest writes them, so that a parent which has to kill the child knows how far the guest came.
//! Other lines are skipped.

use std::io::{self, Write};

use super::{ProbeResult, probe_in_this_process};
use crate::launch_spec::Credentials;

const PREFIX: &str = "kvm-probe ";
const LETTER: &str = "letter ";
const USABLE: &str = "usable";
const UNUSABLE: &str = "unusable ";

/// The whole of `stratusd probe-kvm`: takes on the rights of a machine's QEMU, runs the probe in this process, and writes
/// the report to `output`.
///
/// **May never return**, see [`probe_in_this_process`]. Start nothing else in that process.
///
/// # Errors
/// When the report cannot be written; the parent then takes KVM as unusable.
pub fn run_as_probe_child(
    credentials: Option<Credentials>,
    mut output: impl Write,
) -> io::Result<ProbeResult> {
    // The first letters must not be glued to something that this process wrote before.
    writeln!(output)?;
    let mut written = Ok(());
    let result = match credentials.map_or(Ok(()), Credentials::take_on) {
        Err(error) => ProbeResult::Unusable(format!("can't become a machine's user: {error}")),
        Ok(()) => probe_in_this_process(|letter| {
            if written.is_ok() {
                written =
                    writeln!(output, "{PREFIX}{LETTER}{letter}").and_then(|()| output.flush());
            }
        }),
    };
    written?;
    match &result {
        ProbeResult::Usable => writeln!(output, "{PREFIX}{USABLE}")?,
        ProbeResult::Unusable(reason) => {
            writeln!(output, "{PREFIX}{UNUSABLE}{}", one_line(reason))?;
        }
    }
    output.flush()?;
    Ok(result)
}

/// What was understood of a report, which may have been cut off anywhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Letters that the guest wrote.
    pub letters: String,
    /// The child's judgement, if it came to one.
    pub result: Option<ProbeResult>,
}

pub(super) fn read_report(text: &[u8]) -> Report {
    const REASON_MAX_CHARS: usize = 300;
    let text = String::from_utf8_lossy(text);
    let mut report = Report::default();
    for line in text.lines().filter_map(|line| line.strip_prefix(PREFIX)) {
        if let Some(letter) = line.strip_prefix(LETTER) {
            report
                .letters
                .extend(letter.chars().filter(char::is_ascii_graphic).take(1));
        } else if line == USABLE {
            report.result = Some(ProbeResult::Usable);
        } else if let Some(reason) = line.strip_prefix(UNUSABLE) {
            report.result = Some(ProbeResult::Unusable(
                one_line(reason).chars().take(REASON_MAX_CHARS).collect(),
            ));
        }
    }
    report
}

fn one_line(reason: &str) -> String {
    reason.replace(char::is_control, " ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_report_is_understood_among_other_lines_and_cut_off() {
        let report = read_report(
            b"running 1 test\ntest x ... \nkvm-probe letter A\nkvm-probe letter B\nkvm-probe lett",
        );
        assert_eq!(
            report,
            Report {
                letters: "AB".to_owned(),
                result: None
            }
        );
        let report = read_report(b"\nkvm-probe letter A\nkvm-probe unusable because\nok\n");
        assert_eq!(
            report.result,
            Some(ProbeResult::Unusable("because".to_owned()))
        );
        assert_eq!(
            read_report(b"kvm-probe usable\n").result,
            Some(ProbeResult::Usable)
        );
        assert_eq!(read_report(b"kvm-probe usable, nearly\n").result, None);
    }

    #[test]
    fn what_a_child_writes_is_what_a_parent_reads() {
        // The probe itself runs in a child in `tests/`, never here: it may hang.
        let reason = "stopped\nby";
        let text = format!("{PREFIX}{UNUSABLE}{}\n", one_line(reason));
        assert_eq!(
            read_report(text.as_bytes()).result,
            Some(ProbeResult::Unusable("stopped by".to_owned()))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, lines in "(kvm-probe (letter|usable|unusable)?.{0,9}\n){0,5}") {
            let report = read_report(&[bytes, lines.into_bytes()].concat());
            prop_assert!(report.letters.is_ascii());
            if let Some(ProbeResult::Unusable(reason)) = report.result {
                prop_assert!(!reason.contains(char::is_control));
            }
        }
    }
}

//! Runs the probe in a child process with a limit.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::ProbeResult;
use super::report::{Report, read_report};
use crate::launch_spec::Credentials;

/// A KVM that works answers in 50 ms even when it is itself emulated.
pub const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// How long a killed child may take to be gone, before it is left behind.
const REAP_LIMIT: Duration = Duration::from_secs(1);

/// A report has some two hundred bytes.
const REPORT_MAX_BYTES: usize = 64 * 1024;

/// How the probe's child is started: a program that calls [`run_as_probe_child`](super::run_as_probe_child) on its standard
/// output when it gets these arguments.
#[derive(Debug, Clone)]
pub struct ProbeCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// When it is killed; [`PROBE_LIMIT`] unless a test says otherwise.
    pub limit: Duration,
}

impl ProbeCommand {
    /// The same with the rights of a machine's QEMU, which is who will open `/dev/kvm`. The child gives up its own when it
    /// has begun: others might not be allowed to execute this program.
    #[must_use]
    pub fn with_rights_of(mut self, credentials: Credentials) -> Self {
        let Credentials {
            uid,
            gid,
            supplementary_group,
        } = credentials;
        let mut add = |option: &str, number: u32| {
            self.arguments.push(option.into());
            self.arguments.push(number.to_string().into());
        };
        add("--uid", uid);
        add("--gid", gid);
        if let Some(group) = supplementary_group {
            add("--group", group);
        }
        self
    }

    /// `program argument`, such as `/usr/bin/stratusd probe-kvm`, with the usual limit.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, argument: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: vec![argument.into()],
            limit: PROBE_LIMIT,
        }
    }
}

/// Runs the probe in a child and gives its result; returns at the latest a second after the command's limit, even when the
/// child cannot be killed. Does not look at `/proc/cpuinfo`.
pub async fn probe_in_child(command: &ProbeCommand) -> ProbeResult {
    let child = Command::new(&command.program)
        .args(&command.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            return ProbeResult::Unusable(format!(
                "cannot start the guest probe '{}': {error}",
                command.program.display()
            ));
        }
    };

    let mut text = Vec::new();
    let in_time = timeout(command.limit, read_output(&mut child, &mut text))
        .await
        .is_ok();
    let status = end(&mut child, in_time).await;
    judge(read_report(&text), in_time, command.limit, status)
}

/// Until the child closes its output, or has written more than any report.
async fn read_output(child: &mut Child, text: &mut Vec<u8>) {
    let Some(mut output) = child.stdout.take() else {
        return;
    };
    while text.len() < REPORT_MAX_BYTES {
        match output.read_buf(text).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Waits for the child, which is about to end if it closed its output in time; kills it otherwise. None if it is still there
/// after that, stuck in the kernel.
async fn end(child: &mut Child, in_time: bool) -> Option<ExitStatus> {
    if in_time && let Ok(Ok(status)) = timeout(REAP_LIMIT / 4, child.wait()).await {
        return Some(status);
    }
    child.start_kill().ok()?;
    timeout(REAP_LIMIT, child.wait()).await.ok()?.ok()
}

fn judge(
    report: Report,
    in_time: bool,
    limit: Duration,
    status: Option<ExitStatus>,
) -> ProbeResult {
    if let Some(result) = report.result {
        return result;
    }
    let letters = report.letters;
    ProbeResult::Unusable(match (in_time, status) {
        (false, Some(_)) => {
            format!("guest probe stopped after '{letters}' and gave no answer within {limit:?}")
        }
        (_, None) => format!(
            "guest probe stopped after '{letters}', gave no answer within {limit:?} and cannot be killed"
        ),
        (true, Some(status)) => {
            format!("guest probe stopped after '{letters}' when its process ended with {status}")
        }
    })
}

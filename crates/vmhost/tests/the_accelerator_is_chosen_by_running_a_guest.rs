//! The probe of the accelerator, run for real against this machine's KVM, in a child process that can be killed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use vmhost::accel::{
    AcceleratorKind, AcceleratorPolicy, ProbeCommand, ProbeResult, decide, probe_in_child,
    run_as_probe_child,
};

/// Not a test of its own: what the child runs when another test starts this program again.
#[test]
#[ignore = "runs only as a child of the other tests, since it may hang on a broken KVM"]
fn probe_child() {
    run_as_probe_child(None, std::io::stdout()).unwrap();
}

/// This test program again, as the child.
fn real_probe() -> ProbeCommand {
    let mut command = ProbeCommand::new(std::env::current_exe().unwrap(), "--exact");
    command.arguments.extend(
        [
            "the_accelerator_is_chosen_by_running_a_guest::probe_child",
            "--ignored",
            "--nocapture",
        ]
        .map(Into::into),
    );
    // A busy machine needs time to start the program; a KVM that hangs is noticed all the same.
    command.limit = Duration::from_secs(20);
    command
}

fn shell(script: &str) -> ProbeCommand {
    let mut command = ProbeCommand::new("sh", "-c");
    command.arguments.push(script.into());
    command
}

fn cpu_has_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo
        .split_ascii_whitespace()
        .any(|word| word == "vmx" || word == "svm")
}

/// Ignores what `/proc/cpuinfo` says, so it shows what the guest alone finds out.
#[tokio::test]
async fn the_guest_shows_whether_kvm_works() {
    let result = probe_in_child(&real_probe()).await;
    println!("on this machine: {result:?}");
    match &result {
        ProbeResult::Usable => assert!(
            cpu_has_virtualization(),
            "a KVM without hardware support ran the whole guest"
        ),
        ProbeResult::Unusable(reason) => {
            assert!(
                !reason.contains("ended with"),
                "the child broke instead of answering: {reason}"
            );
            if std::fs::File::open("/dev/kvm").is_ok() {
                assert!(
                    reason.contains("guest probe stopped after 'A"),
                    "the guest did not even start: {reason}"
                );
            } else {
                assert!(reason.contains("cannot open /dev/kvm"), "{reason}");
            }
        }
    }
}

#[tokio::test]
async fn without_hardware_support_auto_is_tcg_and_says_why() {
    let chosen = decide(AcceleratorPolicy::Auto, &real_probe()).await;
    println!("on this machine: {chosen:?}");
    if cpu_has_virtualization() {
        println!("skipped: this processor has virtualization");
        return;
    }
    assert_eq!(chosen.kind, AcceleratorKind::Tcg);
    assert_eq!(chosen.reason, "no vmx or svm in /proc/cpuinfo");
}

#[tokio::test]
async fn the_administrator_has_the_last_word_and_sees_the_probe() {
    let broken = shell("echo 'kvm-probe letter A'; echo 'kvm-probe unusable it broke'");
    let chosen = decide(AcceleratorPolicy::Kvm, &broken).await;
    assert_eq!(
        (chosen.kind, chosen.reason.as_str()),
        (
            AcceleratorKind::Kvm,
            "set by configuration, although: it broke"
        )
    );
    let chosen = decide(AcceleratorPolicy::Kvm, &shell("echo kvm-probe usable")).await;
    assert_eq!(
        chosen.reason,
        "set by configuration, and the guest probe ran to its end"
    );
    let chosen = decide(AcceleratorPolicy::Tcg, &shell("exit 1")).await;
    assert_eq!(
        (chosen.kind, chosen.reason.as_str()),
        (AcceleratorKind::Tcg, "set by configuration")
    );
}

#[tokio::test]
async fn a_probe_that_hangs_is_killed_and_its_progress_is_told() {
    let mut hanging = shell(
        "echo 'kvm-probe letter A'; echo 'kvm-probe letter B'; echo $$ > \"$0\"; exec sleep 1000",
    );
    let pid_file = tempfile::NamedTempFile::new().unwrap();
    hanging.arguments.push(pid_file.path().into());
    let started = Instant::now();
    let ProbeResult::Unusable(reason) = probe_in_child(&hanging).await else {
        panic!("a hanging probe is usable")
    };
    assert_eq!(
        reason,
        "guest probe stopped after 'AB' and gave no answer within 2s"
    );
    assert!(started.elapsed() >= hanging.limit);
    let pid = std::fs::read_to_string(pid_file.path()).unwrap();
    assert!(
        !std::path::Path::new("/proc").join(pid.trim()).exists(),
        "the child is still there"
    );
}

#[tokio::test]
async fn a_probe_that_breaks_speaks_for_tcg() {
    for (script, said) in [
        (
            "echo 'kvm-probe letter A'; kill -SEGV $$",
            "guest probe stopped after 'A' when its process ended with signal: 11",
        ),
        (
            "exit 3",
            "guest probe stopped after '' when its process ended with exit status: 3",
        ),
        (
            "while :; do echo noise; done",
            "guest probe stopped after '' when its process ended with signal: ",
        ),
    ] {
        let ProbeResult::Unusable(reason) = probe_in_child(&shell(script)).await else {
            panic!("{script} is usable")
        };
        assert!(reason.starts_with(said), "{script}: {reason}");
    }
    let ProbeResult::Unusable(reason) =
        probe_in_child(&ProbeCommand::new("/nonexistent/probe", "x")).await
    else {
        panic!("a missing probe is usable")
    };
    assert!(
        reason.starts_with("cannot start the guest probe '/nonexistent/probe': "),
        "{reason}"
    );
}

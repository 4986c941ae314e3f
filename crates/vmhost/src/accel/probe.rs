//! Runs the probe's guest and judges what it did.

use super::ProbeResult;

/// Runs the probe's guest in this process and calls `on_letter` with each letter as it is written.
///
/// **May never return** on a broken KVM, and only a signal then ends it: call it in a process made for that, as
/// [`run_as_probe_child`](super::run_as_probe_child) does.
pub fn probe_in_this_process(on_letter: impl FnMut(char)) -> ProbeResult {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        run_guest(on_letter)
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = on_letter;
        ProbeResult::Unusable(
            "the guest probe is made for x86-64; to use KVM here, set it by configuration"
                .to_owned(),
        )
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn run_guest(mut on_letter: impl FnMut(char)) -> ProbeResult {
    use super::guest_program::{
        EXPECTED_OUTPUT, MEMORY_BYTES, OUTPUT_PORT, memory_pieces, start_state,
    };
    use super::kvm::{Exit, GuestMachine};

    let mut machine = match GuestMachine::new(MEMORY_BYTES, &memory_pieces(), &start_state()) {
        Ok(machine) => machine,
        Err(error) => return ProbeResult::Unusable(error.to_string()),
    };
    let mut output = String::new();
    let stopped_by = loop {
        match machine.run() {
            Ok(Exit::PortWrite {
                port: OUTPUT_PORT,
                byte,
            }) => {
                let letter = char::from(byte);
                output.push(letter);
                on_letter(letter);
                // A guest that repeats itself would never end.
                if !EXPECTED_OUTPUT.starts_with(&output) {
                    break "a letter out of order".to_owned();
                }
            }
            Ok(Exit::PortWrite { port, .. }) => break format!("a write to port {port:#x}"),
            Ok(Exit::Halt) if output == EXPECTED_OUTPUT => return ProbeResult::Usable,
            Ok(Exit::Halt) => break "an early end (KVM_EXIT_HLT)".to_owned(),
            Ok(Exit::InternalError { suberror }) => {
                break format!("KVM_EXIT_INTERNAL_ERROR suberror {suberror}");
            }
            Ok(Exit::FailEntry { hardware_reason }) => {
                break format!("KVM_EXIT_FAIL_ENTRY reason {hardware_reason:#x}");
            }
            Ok(Exit::Other(8)) => {
                break "KVM_EXIT_SHUTDOWN (an exception in an exception)".to_owned();
            }
            Ok(Exit::Other(number)) => break format!("KVM exit {number}"),
            Err(error) => break error.to_string(),
        }
    };
    ProbeResult::Unusable(format!(
        "guest probe stopped after '{output}' with {stopped_by}"
    ))
}

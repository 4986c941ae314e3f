//! Which accelerator QEMU gets on this host: KVM, or TCG where KVM cannot run a guest.
//!
//! That `/dev/kvm` is there, opens and makes a virtual machine says little: a software KVM does all that, runs
//! real-mode code, and then hangs every real kernel. So a small 64-bit guest with page tables, exceptions and
//! model-specific registers is run through the KVM interface ([`probe_in_this_process`]), in a child process that is
//! killed after [`PROBE_LIMIT`], since a broken KVM may never return ([`probe_in_child`]).
//!
//! The child is the program itself: `stratusd probe-kvm` calls [`run_as_probe_child`] and does nothing else. That is
//! safer than a fork of a daemon with many threads, where a child may call next to nothing.

mod guest_program;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
mod probe;
mod report;
mod supervise;

use std::fmt;
use std::str::FromStr;

pub use probe::probe_in_this_process;
pub use report::run_as_probe_child;
pub use supervise::{PROBE_LIMIT, ProbeCommand, probe_in_child};

/// What the administrator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AcceleratorPolicy {
    /// KVM if the probe's guest runs, else TCG.
    #[default]
    Auto,
    /// KVM whatever the probe says.
    Kvm,
    /// TCG without a probe.
    Tcg,
}

/// The text is not `auto`, `kvm` or `tcg`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("accelerator '{0}' is not known: write auto, kvm or tcg")]
pub struct UnknownPolicy(String);

impl FromStr for AcceleratorPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(UnknownPolicy(other.chars().take(40).collect())),
        }
    }
}

/// QEMU's accelerators that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorKind {
    /// The processor's own virtualization.
    Kvm,
    /// Translation in software: everywhere, slower.
    Tcg,
}

/// As QEMU's `-accel` wants it.
impl fmt::Display for AcceleratorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The decision, and why, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// What QEMU gets.
    pub kind: AcceleratorKind,
    /// Such as `no vmx or svm in /proc/cpuinfo`.
    pub reason: String,
}

/// What running the probe's guest showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeResult {
    /// It ran to its end.
    Usable,
    /// It did not; the text says how far it came and what stopped it.
    Unusable(String),
}

/// Decides by `policy`; takes at most the command's limit and a second, whatever state KVM is in. Never fails: what cannot
/// be found out speaks for TCG, and the reason says so. Logs the decision.
///
/// With [`AcceleratorPolicy::Kvm`] the probe is run for its reason alone.
pub async fn decide(policy: AcceleratorPolicy, probe: &ProbeCommand) -> Accelerator {
    let accelerator = match policy {
        AcceleratorPolicy::Tcg => Accelerator {
            kind: AcceleratorKind::Tcg,
            reason: "set by configuration".to_owned(),
        },
        AcceleratorPolicy::Kvm => Accelerator {
            kind: AcceleratorKind::Kvm,
            reason: match probe_in_child(probe).await {
                ProbeResult::Usable => {
                    "set by configuration, and the guest probe ran to its end".to_owned()
                }
                ProbeResult::Unusable(reason) => {
                    format!("set by configuration, although: {reason}")
                }
            },
        },
        AcceleratorPolicy::Auto => decide_by_probe(probe).await,
    };
    tracing::info!(accelerator = %accelerator.kind, reason = %accelerator.reason, "accelerator chosen");
    accelerator
}

async fn decide_by_probe(probe: &ProbeCommand) -> Accelerator {
    // An unreadable file is no answer; the probe gives one.
    if let Ok(cpuinfo) = tokio::fs::read_to_string("/proc/cpuinfo").await
        && !has_virtualization_flag(&cpuinfo)
    {
        return Accelerator {
            kind: AcceleratorKind::Tcg,
            reason: "no vmx or svm in /proc/cpuinfo".to_owned(),
        };
    }
    match probe_in_child(probe).await {
        ProbeResult::Usable => Accelerator {
            kind: AcceleratorKind::Kvm,
            reason: "the guest probe ran to its end".to_owned(),
        },
        ProbeResult::Unusable(reason) => Accelerator {
            kind: AcceleratorKind::Tcg,
            reason,
        },
    }
}

/// The group that may use `/dev/kvm`, if there is one that means nothing else (Debian: `kvm`).
#[must_use]
pub fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    const READ_AND_WRITE: u32 = 0o060;
    let metadata = std::fs::metadata("/dev/kvm").ok()?;
    let may = metadata.mode() & READ_AND_WRITE == READ_AND_WRITE;
    // Root's group owns far more than this.
    (may && metadata.gid() != 0).then(|| metadata.gid())
}

/// Whether a processor of `/proc/cpuinfo` has Intel's or AMD's virtualization.
fn has_virtualization_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim_end() == "flags")
        .any(|(_, flags)| {
            flags
                .split_ascii_whitespace()
                .any(|flag| matches!(flag, "vmx" | "svm"))
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_whole_flags_of_the_flags_line_count() {
        assert!(has_virtualization_flag(
            "processor\t: 0\nflags\t\t: fpu svm sse\n"
        ));
        assert!(has_virtualization_flag("flags : vmx"));
        for without in [
            "",
            "flags\t: fpu svm_lock\n",
            "vmx flags\t: vnmi\n",
            "model name\t: vmx\n",
            "flags vmx",
        ] {
            assert!(!has_virtualization_flag(without), "{without:?}");
        }
    }

    #[test]
    fn policies_are_read_by_name() {
        assert_eq!(
            "auto".parse::<AcceleratorPolicy>().unwrap(),
            AcceleratorPolicy::Auto
        );
        assert_eq!(
            "KVM".parse::<AcceleratorPolicy>().unwrap_err().to_string(),
            "accelerator 'KVM' is not known: write auto, kvm or tcg"
        );
    }

    proptest! {
        #[test]
        fn any_cpuinfo_is_read(text in any::<String>()) {
            let _ = has_virtualization_flag(&text);
        }
    }
}

//! The VM host controller's hypervisor layer: QEMU processes that outlive this program.
//!
//! Begin with [`hypervisor`]: the seam, and the states of a machine. It starts machines from a [`launch_spec`], in memory
//! ([`simulated`]) or for real ([`qemu`]), and takes over those it finds running. It decides no policy and reads no document.

#![deny(unsafe_code)]

pub mod accel;
pub mod adopt;
pub mod block_nodes;
pub mod cgroup;
pub mod command_line;
pub mod controller;
pub mod error;
pub mod guard;
pub mod hypervisor;
mod iscsi_driver;
pub mod launch_spec;
pub mod machine;
pub mod moving;
pub mod ports;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod record;
pub mod serial;
pub mod simulated;
pub mod spawn;
mod stop_points;
pub mod usage;

pub use error::HypervisorError;
pub use hypervisor::{
    Adopted, ExitCause, Hypervisor, MachineEvent, MachineStatus, RunState, RunningMachine,
};
pub use launch_spec::{DiskId, DiskSpec, LaunchSpec};

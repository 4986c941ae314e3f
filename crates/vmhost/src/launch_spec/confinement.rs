//! What a QEMU may do and use on its host: as whom it runs, the bounds of its control group.

use crate::error::HypervisorError;

/// Whom QEMU runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The only supplementary group, such as that of `/dev/kvm`; none: none at all.
    pub supplementary_group: Option<u32>,
}

impl Credentials {
    /// Makes the calling thread one of these, for ever. Other threads of the process stay what they are: call it where there
    /// is one thread only, as in a child before it becomes another program.
    ///
    /// # Errors
    /// If this process may not take on others' rights, or they don't exist here.
    pub fn take_on(self) -> std::io::Result<()> {
        use rustix::process::{Gid, Uid};
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // On the stack: a child between fork and exec must not allocate.
        match self.supplementary_group {
            Some(number) => rustix::thread::set_thread_groups(&[Gid::from_raw(number)])?,
            None => rustix::thread::set_thread_groups(&[])?,
        }
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        Ok(())
    }
}

/// Limits of a machine's control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupSpec {
    /// Group that holds all machines, below the root of each hierarchy (`stratus`).
    pub parent: String,
    /// Relative weight of the CPU, 1024 = one ordinary share.
    pub cpu_shares: u32,
    /// Most CPU time, in per cent of one CPU. `None`: no limit.
    pub cpu_limit_percent: Option<u32>,
    /// What QEMU needs beyond guest memory (translation cache comes on top by itself). `None`: no memory limit.
    pub memory_headroom_mib: Option<u64>,
    /// Most threads.
    pub tasks_max: u32,
}

impl Default for CgroupSpec {
    fn default() -> Self {
        Self {
            parent: "stratus".to_owned(),
            cpu_shares: 1024,
            cpu_limit_percent: None,
            memory_headroom_mib: Some(384),
            tasks_max: 512,
        }
    }
}

impl CgroupSpec {
    pub(super) fn check(&self) -> Result<(), HypervisorError> {
        let fits = !self.parent.is_empty()
            && self.parent.len() <= 100
            && self
                .parent
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && !self.parent.starts_with('.');
        if fits {
            Ok(())
        } else {
            Err(HypervisorError::invalid(
                "the cgroup's parent",
                &self.parent,
                "must be one folder name",
            ))
        }
    }
}

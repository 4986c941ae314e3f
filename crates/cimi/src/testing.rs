//! Documents for tests, here and in other crates (feature `testing`): as plain as can be. A test says what it is about by
//! the fields it changes.

use crate::{
    Acl, Common, HostId, ImageId, MachineId, Ref, Right, Timestamp, VmId,
    common::USER_ROLE,
    lifecycle::{Desired, MachineState, Observed, Phase, Power, RestartPolicy},
    resources::{
        AcceleratorKind, BootSource, Capacity, ContextData, Digests, Host, Image, ImageDesired,
        ImageSource, ImageState, Machine, Unknown, default_architecture,
    },
};

/// A machine of `alice` that is wanted on, and of which nothing was seen yet: one CPU, 1 GiB, one disk, no host.
#[must_use]
pub fn machine(vmid: u32) -> Machine {
    let now = Timestamp::now();
    Machine {
        id: MachineId::generate(),
        common: Common::new(Acl::owned_by_user("alice"), now),
        state: MachineState::Creating,
        phase: Phase::Pending,
        reason: None,
        vmid: VmId(vmid),
        cpu: 1,
        memory: 1 << 20,
        cpu_arch: default_architecture(),
        cpu_share_percent: None,
        image: Ref::to(ImageId::generate()),
        disks: Vec::new(),
        volumes: Vec::new(),
        nics: Vec::new(),
        context: ContextData::default(),
        boot: BootSource::default(),
        cpu_model: None,
        keymap: None,
        requirements: None,
        restart_policy: RestartPolicy::Never,
        host: None,
        desired: Desired {
            power: Power::On,
            run: 1,
            restart: 0,
            force: false,
            deleted: false,
            graceful: false,
            rest: None,
            afresh: false,
            since: now,
        },
        observed: Observed::nothing(now),
        accelerator: None,
        ssh: None,
        first_started: None,
        running_since: None,
        disks_since: None,
        save: None,
        saved_as: None,
        unknown: Unknown::new(),
    }
}

/// A host without machines and troubles: four CPUs, 4 GiB of memory, 1 TiB of disk of which half is free.
#[must_use]
pub fn host() -> Host {
    let now = Timestamp::now();
    Host {
        id: HostId::generate(),
        common: Common::new(everybodys(), now),
        capacity: Capacity {
            cpus: 4,
            memory_kib: 1 << 22,
            disk_bytes: 1 << 40,
            disk_free_bytes: 1 << 39,
        },
        accelerator: AcceleratorKind::Tcg,
        accelerator_reason: "none".into(),
        cpu_model: "any".into(),
        version: "1".into(),
        qemu_version: "9".into(),
        started: now,
        boot_id: "b".into(),
        troubles: Vec::new(),
        unknown: Unknown::new(),
    }
}

/// An image that all users may use once its content has been sent.
#[must_use]
pub fn image() -> Image {
    Image {
        id: ImageId::generate(),
        common: Common::new(everybodys(), Timestamp::now()),
        state: ImageState::Creating,
        reason: None,
        kind: "IMAGE".into(),
        desired: ImageDesired {
            source: ImageSource::Upload,
            expected: Digests::default(),
            attempt: 1,
            deleted: false,
        },
        progress: None,
        file: None,
        kernel: None,
        initrd: None,
        kernel_arguments: None,
        announced: None,
        unknown: Unknown::new(),
    }
}

/// The administrator's, for all users to see.
fn everybodys() -> Acl {
    Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View)
}

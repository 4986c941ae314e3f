//! Documents for tests, here and in other crates (feature `testing`): as plain as can be. A test says what it is about by
//! the fields it changes.

use crate::{
    Acl, Common, HostId, ImageId, MachineId, Ref, Right, Timestamp, VmId,
    common::USER_ROLE,
    lifecycle::{Desired, MachineState, Observed, Phase, Power, RestartPolicy},
    resources::{
        AcceleratorKind, BootSource, Capacity, ContextData, Digests, Host, HostDesired, Image,
        ImageDesired, ImageSource, ImageState, Machine, Placement, Registration, RegistrationState,
        Unknown, default_architecture,
    },
};

/// A registration that waits for the administrators.
#[must_use]
pub fn registration(username: &str) -> Registration {
    Registration {
        id: crate::RegistrationId::from_local(username)
            .unwrap_or_else(|_| crate::RegistrationId::generate()),
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
        username: username.to_owned(),
        first_name: "Joe".to_owned(),
        last_name: "Doe".to_owned(),
        email: crate::EmailAddress::parse("joe@example.org").expect("an address"),
        x500dn: None,
        message: None,
        password: "$argon2id$".to_owned(),
        state: RegistrationState::ApprovalPending,
        expires: None,
        decided_by: None,
        reason: None,
        unknown: Unknown::new(),
    }
}

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
        image: Some(Ref::to(ImageId::generate())),
        disks: Vec::new(),
        volumes: Vec::new(),
        nics: Vec::new(),
        security_groups: Vec::new(),
        context: ContextData::default(),
        boot: BootSource::default(),
        cpu_model: None,
        keymap: None,
        requirements: None,
        placement: Placement::default(),
        restart_policy: RestartPolicy::Never,
        host: None,
        left_on: Vec::new(),
        desired: Desired {
            power: Power::On,
            run: 1,
            restart: 0,
            force: false,
            deleted: false,
            graceful: false,
            rest: None,
            afresh: false,
            moving: None,
            since: now,
            unknown: Unknown::default(),
        },
        observed: Observed::nothing(now),
        unseen_since: None,
        accelerator: None,
        ssh: None,
        first_started: None,
        running_since: None,
        traffic_before: None,
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
        cpu_flags: vec!["fpu".into()],
        version: "1".into(),
        qemu_version: "9".into(),
        started: now,
        boot_id: "b".into(),
        runs_machines: false,
        uses_volumes: false,
        features: Vec::new(),
        bridges: Vec::new(),
        fences_after: Some(60),
        tunnel: None,
        images_port: None,
        load: None,
        cached: Vec::new(),
        troubles: Vec::new(),
        desired: HostDesired::default(),
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
            on_demand: None,
        },
        progress: None,
        file: None,
        needs_space: false,
        provenance: None,
        kernel: None,
        initrd: None,
        kernel_arguments: None,
        announced: None,
        uncleaned: Vec::new(),
        stands_for: Vec::new(),
        used_since: None,
        unknown: Unknown::new(),
    }
}

/// The administrator's, for all users to see.
fn everybodys() -> Acl {
    Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View)
}

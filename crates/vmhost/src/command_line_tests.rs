use std::net::Ipv4Addr;

use super::*;
use crate::launch_spec::{
    Accelerator, DiskFormat, DiskId, DiskSpec, ImageFile, MacAddress, NicModel, NicSpec,
    PortForward, SavedMemory, UserNetwork, VncSpec,
};

fn spec() -> LaunchSpec {
    let mut spec = LaunchSpec::new(uuid::Uuid::from_u128(1), 7, "/run/m/7");
    spec.spare_ports = 1;
    spec
}

fn disk(id: &str, slot: u8) -> DiskSpec {
    DiskSpec {
        id: DiskId::new(id).expect("a valid identifier"),
        image: ImageFile::file(format!("/secret/{id}.qcow2"), DiskFormat::Qcow2),
        backing: vec![ImageFile::file("/cache/base", DiskFormat::Raw)],
        read_only: false,
        serial: format!("S-{id}"),
        slot,
    }
}

fn tap(name: &str) -> NicSpec {
    NicSpec {
        mac: MacAddress([2, 0, 172, 16, 0, 5]),
        model: NicModel::Virtio,
        backend: NicBackend::Tap {
            interface: name.to_owned(),
            descriptor: None,
        },
    }
}

/// The values given to an option, in order.
fn values<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
    line.windows(2)
        .filter(|pair| pair[0] == option)
        .map(|pair| pair[1].as_str())
        .collect()
}

fn devices(line: &[String]) -> Vec<Value> {
    values(line, "-device")
        .iter()
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .collect()
}

fn device(line: &[String], id: &str) -> Value {
    let mut devices = devices(line).into_iter();
    devices.find(|device| device["id"] == id).expect(id)
}

/// The whole line of a small machine: a change here changes what guests see or how QEMU is confined.
#[test]
fn a_small_machine() {
    let mut spec = spec();
    spec.guest_agent = false;
    spec.spare_ports = 0;
    let line = arguments(&spec);
    let expected = [
        "-no-user-config",
        "-nodefaults",
        "-name",
        "guest=one-7,debug-threads=on",
        "-uuid",
        "00000000-0000-0000-0000-000000000001",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine",
        "pc-q35-7.2,vmport=off,smm=off,hpet=off,sata=off,smbus=off,dump-guest-core=off",
        "-accel",
        "tcg,tb-size=128",
        "-cpu",
        "max",
        "-smp",
        "cpus=1,sockets=1,cores=1,threads=1",
        "-m",
        "size=131064K",
        "-overcommit",
        "mem-lock=off",
        "-rtc",
        "base=utc,driftfix=slew",
        "-S",
        "-action",
        "reboot=reset,shutdown=pause,panic=pause,watchdog=reset",
        "-chardev",
        "socket,id=qmp,fd=4,server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
        "-add-fd",
        "fd=6,set=1",
        "-chardev",
        "socket,id=serial0,fd=5,server=on,wait=off,logfile=/dev/fdset/1,logappend=on",
        "-device",
        r#"{"chardev":"serial0","driver":"isa-serial","id":"com1"}"#,
        "-device",
        r#"{"addr":"0xc","bus":"pcie.0","driver":"virtio-rng-pci","id":"rng"}"#,
        "-device",
        r#"{"addr":"0xd","bus":"pcie.0","deflate-on-oom":true,"driver":"virtio-balloon-pci","free-page-reporting":true,"id":"balloon"}"#,
        "-device",
        r#"{"addr":"0xe","bus":"pcie.0","driver":"pvpanic-pci","id":"pvpanic"}"#,
        "-vga",
        "none",
        "-display",
        "none",
    ];
    assert_eq!(line, expected);
}

#[test]
fn kvm_takes_the_hosts_cpu_and_a_model_may_be_named() {
    let mut spec = spec();
    spec.accelerator = Accelerator::Kvm;
    assert_eq!(values(&arguments(&spec), "-accel"), ["kvm"]);
    assert_eq!(values(&arguments(&spec), "-cpu"), ["host"]);
    spec.cpu_model = Some("Nehalem,+aes".to_owned());
    spec.check().expect("a model with flags");
    assert_eq!(values(&arguments(&spec), "-cpu"), ["Nehalem,+aes"]);
}

#[test]
fn memory_without_kvm_is_of_an_uneven_size_and_saved_memory_of_its_own() {
    let size = |spec: &LaunchSpec| {
        let line = arguments(spec);
        (values(&line, "-m")[0].to_owned(), has_uneven_memory(&line))
    };
    let even = ("size=128M".to_owned(), false);
    let uneven = ("size=131064K".to_owned(), true);
    let mut spec = spec();
    assert_eq!(size(&spec), uneven);
    for (is_uneven, expected) in [(false, &even), (true, &uneven)] {
        spec.memory = Some(SavedMemory {
            file: None,
            port_count: 1,
            disks: Vec::new(),
            is_uneven,
        });
        assert_eq!(size(&spec), *expected);
    }
    spec.memory = None;
    spec.accelerator = Accelerator::Kvm;
    assert_eq!(size(&spec), even);
}

#[test]
fn disks_sit_on_ascending_ports_in_slot_order() {
    let mut spec = spec();
    spec.disks = vec![disk("data", 5), disk("root", 0), disk("swap", 1)];
    let line = arguments(&spec);
    for (port, id) in ["root", "swap", "data"].into_iter().enumerate() {
        let device = device(&line, &format!("disk-{id}"));
        assert_eq!(device["bus"], format!("rp{port}"));
        assert_eq!(device["serial"], format!("S-{id}"));
        assert_eq!(device["drive"], format!("p{port}"));
    }
    assert_eq!(device(&line, "disk-root")["bootindex"], 1);
    assert!(device(&line, "disk-swap").get("bootindex").is_none());
    assert!(
        devices(&line).iter().any(|device| device["id"] == "rp3"),
        "and a spare one"
    );
    assert!(devices(&line).iter().all(|device| device["id"] != "rp4"));
}

#[test]
fn every_device_has_an_id_and_no_two_share_a_place() {
    let mut spec = spec();
    spec.spare_ports = 60;
    spec.disks = vec![disk("root", 0), disk("b", 1)];
    spec.media = vec!["/m/a.iso".into(), "/m/b.iso".into()];
    spec.nics = vec![tap("t0"), tap("t1")];
    spec.vnc = Some(VncSpec { keymap: None });
    spec.check().expect("a full machine");
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for device in devices(&arguments(&spec)) {
        ids.push(device["id"].as_str().expect("an id").to_owned());
        if device["driver"] != "isa-serial" {
            let place = ["addr", "nr", "scsi-id"]
                .iter()
                .find_map(|key| device.get(key))
                .expect("a place");
            places.push(format!(
                "{} {place}",
                device["bus"].as_str().expect("a bus")
            ));
        }
    }
    for list in [&mut ids, &mut places] {
        let all = list.len();
        list.sort();
        list.dedup();
        assert_eq!(list.len(), all);
    }
}

#[test]
fn qemu_is_given_no_path_of_an_image() {
    let mut spec = spec();
    spec.disks = vec![disk("root", 0)];
    spec.media = vec!["/secret/context.iso".into()];
    spec.boot = Boot::Kernel {
        kernel: "/secret/k".into(),
        initrd: Some("/secret/i".into()),
        arguments: "console=ttyS0".into(),
    };
    let line = arguments(&spec);
    assert!(line.iter().all(|word| !word.contains("/secret")
        && !word.contains("/cache")
        && !word.contains("/run/m")));
    assert_eq!(values(&line, "-kernel"), ["/proc/self/fd/9"]);
    assert_eq!(values(&line, "-initrd"), ["/proc/self/fd/10"]);
    assert!(
        device(&line, "disk-root").get("bootindex").is_none(),
        "the kernel boots, not the disk"
    );
}

#[test]
fn descriptors_and_arguments_agree() {
    let mut spec = spec();
    spec.disks = vec![disk("root", 0)];
    spec.media = vec!["/m/a.iso".into()];
    spec.nics = vec![tap("t0")];
    let list = descriptors(&spec);
    assert_eq!(
        list,
        [
            Descriptor::AliveLock,
            Descriptor::Monitor,
            Descriptor::Serial,
            Descriptor::SerialLog,
            Descriptor::Volumes,
            Descriptor::Agent,
            Descriptor::Image {
                port: 0,
                depth: 0,
                path: "/secret/root.qcow2".into(),
                read_only: false
            },
            Descriptor::Image {
                port: 0,
                depth: 1,
                path: "/cache/base".into(),
                read_only: true
            },
            Descriptor::Medium("/m/a.iso".into()),
            Descriptor::Tap { nic: 0 },
        ]
    );
    let number = list.iter().position(|one| *one == Descriptor::Volumes);
    let number = number
        .and_then(|index| i32::try_from(index).ok())
        .expect("it is inherited");
    assert_eq!(FIRST_DESCRIPTOR + number, VOLUMES_DESCRIPTOR);
    let line = arguments(&spec);
    assert_eq!(
        values(&line, "-add-fd"),
        [
            "fd=6,set=1",
            "fd=9,set=1000",
            "fd=10,set=1001",
            "fd=11,set=10"
        ]
    );
    assert_eq!(values(&line, "-netdev"), ["tap,id=net0,fd=12"]);
    let nic = device(&line, "nic0");
    assert_eq!(nic["mac"], "02:00:ac:10:00:05");
    assert_eq!(nic["romfile"], "");
}

#[test]
fn user_networks_forward_ports() {
    let mut spec = spec();
    let forward = PortForward {
        host_address: Ipv4Addr::LOCALHOST,
        host_port: 2222,
        guest_port: 22,
    };
    spec.nics = vec![NicSpec {
        backend: NicBackend::User(UserNetwork {
            network: Some((Ipv4Addr::new(10, 9, 0, 0), 24)),
            forwards: vec![forward],
            lease: None,
        }),
        ..tap("t0")
    }];
    assert_eq!(
        values(&arguments(&spec), "-netdev"),
        ["user,id=net0,ipv6=off,net=10.9.0.0/24,hostfwd=tcp:127.0.0.1:2222-:22"]
    );
}

#[test]
fn hostile_values_are_refused_or_stay_values() {
    let mut named = spec();
    named.name = "x,process=evil,debug-threads=off".to_owned();
    named.check().expect("commas are allowed in names");
    assert_eq!(
        values(&arguments(&named), "-name"),
        ["guest=x,,process=evil,,debug-threads=off,debug-threads=on"]
    );

    type Change = Box<dyn Fn(&mut LaunchSpec)>;
    let refused: [(&str, Change); 13] = [
        (
            "line end in name",
            Box::new(|spec| spec.name = "a\n-device x".to_owned()),
        ),
        ("empty name", Box::new(|spec| spec.name = String::new())),
        (
            "option as CPU",
            Box::new(|spec| spec.cpu_model = Some("-device".to_owned())),
        ),
        (
            "blank in CPU",
            Box::new(|spec| spec.cpu_model = Some("max -S".to_owned())),
        ),
        ("no CPUs", Box::new(|spec| spec.cpus = 0)),
        ("no memory", Box::new(|spec| spec.memory_mib = 0)),
        (
            "relative folder",
            Box::new(|spec| spec.folder = "run".into()),
        ),
        (
            "NUL in arguments",
            Box::new(|spec| {
                spec.boot = Boot::Kernel {
                    kernel: "/k".into(),
                    initrd: None,
                    arguments: "a\0b".to_owned(),
                };
            }),
        ),
        (
            "long serial",
            Box::new(|spec| spec.disks[0].serial = "x".repeat(21)),
        ),
        (
            "same disk twice",
            Box::new(|spec| spec.disks.push(disk("root", 9))),
        ),
        (
            "tap that is a path",
            Box::new(|spec| spec.nics = vec![tap("../x")]),
        ),
        (
            "keymap that is a path",
            Box::new(|spec| {
                spec.vnc = Some(VncSpec {
                    keymap: Some("../../etc/passwd".to_owned()),
                });
            }),
        ),
        ("too many ports", Box::new(|spec| spec.spare_ports = 64)),
    ];
    for (what, change) in refused {
        let mut spec = spec();
        spec.disks = vec![disk("root", 0)];
        spec.check().expect("usable before");
        change(&mut spec);
        assert!(spec.check().is_err(), "{what} was accepted");
    }
    for id in ["", "a b", "a,b", "-a", "a\"b", "../x", &"x".repeat(65)] {
        assert!(
            DiskId::new(id).is_err(),
            "{id:?} was accepted as a disk identifier"
        );
    }
    assert!(
        serde_json::from_str::<DiskId>("\"a,b\"").is_err(),
        "nor from a record"
    );
}

#[test]
fn a_raw_image_can_not_stand_on_another() {
    let mut spec = spec();
    spec.disks = vec![disk("root", 0)];
    spec.disks[0].image.format = DiskFormat::Raw;
    assert!(spec.check().is_err());
}

proptest::proptest! {
    /// Whatever a name holds: if it is accepted, the line has as many words as without it, and QEMU reads the name back.
    #[test]
    fn no_name_adds_an_option(name in "\\PC{1,40}") {
        let mut named = spec();
        named.name = name.clone();
        if named.check().is_ok() {
            let line = arguments(&named);
            proptest::prop_assert_eq!(line.len(), arguments(&spec()).len());
            let value = values(&line, "-name")[0];
            let inner = value.strip_prefix("guest=").and_then(|rest| rest.strip_suffix(",debug-threads=on"));
            proptest::prop_assert_eq!(inner.map(|inner| inner.replace(",,", ",")), Some(name));
            proptest::prop_assert!(!inner.unwrap_or(",").replace(",,", "").contains(','));
        }
    }
}

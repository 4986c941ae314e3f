//! Ports for SSH forwarding, with QEMU's own user-mode network.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use network::{
    Attachment, MacPrefix, NetworkConfig, NetworkHost, PlugRequest, UserModeConfig, UserNetdev,
};

/// Ports of this test run's own, so that two runs at once rarely meet; where they do, ports are found all the same.
fn config() -> UserModeConfig {
    let network = "10.5.0.0/24".parse().unwrap();
    let mut config = UserModeConfig::new(
        "u".parse().unwrap(),
        network,
        Ipv4Addr::new(10, 5, 0, 1),
        "cloud.test".parse().unwrap(),
    );
    config.first_port = 20000 + (std::process::id() % 200) as u16 * 50;
    config.last_port = config.first_port + 49;
    config
}

fn machine(n: u8) -> PlugRequest {
    let ip = Ipv4Addr::new(10, 5, 0, n);
    PlugRequest {
        nic: n.to_string().parse().unwrap(),
        mac: MacPrefix::default().mac(ip),
        ip,
        ssh_port: None,
        groups: std::collections::BTreeSet::new(),
    }
}

async fn plug(host: &NetworkHost, request: &PlugRequest) -> UserNetdev {
    let plugged = host.plug(request).await.unwrap();
    plugged.ready.wait().await.unwrap();
    match plugged.attachment {
        Attachment::User(netdev) => netdev,
        Attachment::Tap(_) => panic!("a tap in user mode"),
    }
}

struct Qemu(Child);

impl Qemu {
    /// None, with a reason printed, where there is no QEMU.
    fn start(netdev: &UserNetdev) -> Option<Self> {
        let child = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-M",
                "none",
                "-S",
                "-netdev",
                &netdev.argument("n0"),
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => Some(Self(child)),
            Err(error) => {
                println!("SKIPPED: needs qemu-system-x86_64: {error}");
                None
            }
        }
    }

    fn wait_for_listening(&mut self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if self.0.try_wait().unwrap().is_some() {
                let mut said = String::new();
                self.0
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut said)
                    .unwrap();
                panic!("QEMU ended: {said}");
            }
            assert!(Instant::now() < deadline, "QEMU does not listen on {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn qemu_takes_the_reserved_port_and_a_new_daemon_accepts_it() {
    let host = NetworkHost::open(NetworkConfig::User(config()))
        .await
        .unwrap();
    let netdev = plug(&host, &machine(77)).await;
    assert_eq!(netdev.guest, Ipv4Addr::new(10, 5, 0, 77));
    // Nobody else gets it while QEMU is on its way.
    let Some(mut qemu) = Qemu::start(&netdev) else {
        return;
    };
    qemu.wait_for_listening(netdev.ssh_port);

    // A restarted daemon takes the recorded port for the running machine, and gives others other ports.
    drop(host);
    let host = NetworkHost::open(NetworkConfig::User(config()))
        .await
        .unwrap();
    let recorded = PlugRequest {
        ssh_port: Some(netdev.ssh_port),
        ..machine(77)
    };
    host.reconcile(std::slice::from_ref(&recorded))
        .await
        .unwrap();
    assert_eq!(
        host.audit()
            .await
            .unwrap()
            .forwards
            .values()
            .collect::<Vec<_>>(),
        [&netdev.ssh_port]
    );
    let other = plug(&host, &machine(78)).await;
    assert_ne!(other.ssh_port, netdev.ssh_port);
    drop(qemu);

    // The machine started again keeps its port, with connections of its last life lingering.
    let again = plug(&host, &recorded).await;
    assert_eq!(again.ssh_port, netdev.ssh_port);
    let Some(mut qemu) = Qemu::start(&again) else {
        return;
    };
    qemu.wait_for_listening(again.ssh_port);
}

#[tokio::test]
async fn every_machine_has_its_own_port_and_gives_it_back() {
    let mut config = config();
    config.first_port += 25;
    config.last_port = config.first_port + 9;
    let host = NetworkHost::open(NetworkConfig::User(config.clone()))
        .await
        .unwrap();
    // Somebody else's listener is passed over.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, config.first_port));
    let mut ports = Vec::new();
    let mut refused = None;
    for n in 10..30 {
        match host.plug(&machine(n)).await {
            Ok(plugged) => match plugged.attachment {
                Attachment::User(netdev) => ports.push(netdev.ssh_port),
                Attachment::Tap(_) => panic!("a tap in user mode"),
            },
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    let count = ports.len();
    assert!((1..=9).contains(&count), "{ports:?}");
    ports.dedup();
    assert_eq!(ports.len(), count);
    assert!(!ports.contains(&config.first_port));
    assert!(refused.unwrap().contains("no free port"));
    // Another daemon with the same ports finds none of ours free.
    let another = NetworkHost::open(NetworkConfig::User(config.clone()))
        .await
        .unwrap();
    assert!(another.plug(&machine(10)).await.is_err());
    host.unplug(&machine(10).nic, machine(10).ip).await.unwrap();
    assert!(another.plug(&machine(10)).await.is_ok());
    drop(taken);
}

#[tokio::test]
async fn the_resolver_is_neither_host_nor_guest() {
    let host = NetworkHost::open(NetworkConfig::User(config()))
        .await
        .unwrap();
    for n in 2..6 {
        let netdev = plug(&host, &machine(n)).await;
        assert!(
            netdev.dns != netdev.guest && netdev.dns != netdev.gateway,
            "{netdev:?}"
        );
    }
}

//! Volumes that hosts use from afar, with the real `qemu-storage-daemon`, spoken to by the real `qemu-io`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use cimi::{
    HostId, Timestamp, VolumeId,
    resources::{
        AttachStage, AttachedVolume, Attachment, Machine, Volume, VolumeLocation, VolumeState,
    },
    size::ByteSize,
};
use documents::Documents;
use storage::exports::{EXPORT, Exports, StorageDaemon, VolumeServer};
use store::SqliteStore;
use tokio::{
    io::AsyncReadExt as _,
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A computer that keeps one volume, which a machine on a host has.
struct World {
    dir: tempfile::TempDir,
    server: VolumeServer,
    host: HostId,
    machine: Machine,
    volume: VolumeId,
    taking_back: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = SqliteStore::open(dir.path().join("db")).expect("database");
        let documents = Documents::open(Arc::new(store)).await.expect("documents");
        let (host, volume) = (HostId::generate(), VolumeId::generate());
        let mut machine = cimi::testing::machine(7);
        machine.host = Some(host.clone());
        machine.volumes.push(AttachedVolume {
            volume: volume.clone(),
            initial_location: None,
            hot: true,
            wanted: true,
            stage: AttachStage::Waiting,
            serial: "serial".to_owned(),
        });
        let path = dir.path().join("volume");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(4 * MIB).expect("its size");
        let document = Volume {
            id: volume.clone(),
            common: machine.common.clone(),
            state: VolumeState::Available,
            reason: None,
            kind: cimi::resources::MAPPED.to_owned(),
            size_bytes: ByteSize(4 * MIB),
            bootable: false,
            attachment: Some(Attachment {
                machine: machine.id.clone(),
                since: Timestamp::now(),
            }),
            deleted: false,
            origin: None,
            base: None,
            capture: None,
            location: Some(VolumeLocation::File {
                path: path.display().to_string(),
                backing: Vec::new(),
            }),
            size_since: None,
            unknown: Default::default(),
        };
        let changes = documents.changes().create(&machine).create(&document);
        changes.commit().await.expect("documents");
        let program = Path::new("/usr/bin/qemu-storage-daemon");
        let root = rustix::process::geteuid().is_root();
        let server = VolumeServer {
            documents,
            exports: Exports::default(),
            daemon: Some(
                StorageDaemon::at(program, dir.path().join("exports")).expect("the program"),
            ),
            uid_base: root.then_some(70_000),
        };
        let taking = server.clone();
        Self {
            dir,
            server,
            host,
            machine,
            volume,
            taking_back: tokio::spawn(async move { taking.run().await }),
        }
    }

    /// Serves whoever connects to a socket as if it were this host.
    fn door(&self, host: &HostId, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        let (server, host) = (self.server.clone(), host.clone());
        let volume = self.volume.local().to_owned();
        tokio::spawn(async move {
            let until = CancellationToken::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (server, host, volume) = (server.clone(), host.clone(), volume.clone());
                let until = until.clone();
                tokio::spawn(async move {
                    server.serve(&host, &volume, &mut stream, &until).await;
                });
            }
        });
        path
    }

    async fn edit_machine(&self, edit: impl Fn(&mut Machine) + Send + Sync) {
        let edit = |machine: &mut Machine| {
            edit(machine);
            Ok::<bool, documents::DocumentsError>(true)
        };
        let written = self.server.documents.update(self.machine.id.local(), edit);
        written.await.expect("the machine's document");
    }

    async fn until_nobody_has_it(&self) {
        let gone = async {
            while self.server.exports.user(self.volume.local()).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it is taken back");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.taking_back.abort();
    }
}

/// Says something to a volume by a program of QEMU's.
async fn said(socket: &Path, commands: &'static [&'static str]) -> Output {
    let url = format!("nbd+unix:///{EXPORT}?socket={}", socket.display());
    let saying = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]);
        for text in commands {
            command.args(["-c", text]);
        }
        command.arg(url).output().expect("qemu-io")
    });
    timeout(PATIENCE, saying)
        .await
        .expect("it ends")
        .expect("it ran")
}

/// A connection on which a server of NBD has said the first word.
async fn greeted(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.expect("connects");
    let mut greeting = [0; 8];
    let reading = stream.read_exact(&mut greeting);
    let read = timeout(PATIENCE, reading).await.expect("in time");
    read.expect("a greeting");
    assert_eq!(&greeting, b"NBDMAGIC");
    stream
}

async fn until_ended(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    let _ = timeout(PATIENCE, reading)
        .await
        .expect("the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_volume_that_was_lost_fails() {
    let world = World::new().await;
    let daemon = world.server.daemon.clone().expect("the program");
    let path = world.dir.path().join("broken");
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody");
        let mut shown = daemon.show_broken(None).await.expect("a process");
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut shown.stream).await;
    });
    let asked = said(&path, &["read 1M 4k", "write 0 4k"]).await;
    let told = text(&asked);
    assert_eq!(told.matches("Input/output error").count(), 2, "{told}");
}

/// Processes of ours that write volumes.
fn writers() -> usize {
    let own = std::process::id().to_string();
    let mut command = Command::new("ps");
    let listed = command.args(["--ppid", &own, "-o", "comm="]).output();
    let listed = text(&listed.expect("ps"));
    listed
        .lines()
        .filter(|name| name.starts_with("qemu-storage"))
        .count()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_writes_the_volume_of_its_machine_and_no_other_host_does() {
    let world = World::new().await;
    let own = world.door(&world.host, "own");
    let written = said(&own, &["write -P 7 0 1M", "flush"]).await;
    assert!(written.status.success(), "{}", text(&written));
    world.until_nobody_has_it().await;
    let bytes = std::fs::read(world.dir.path().join("volume")).expect("the file");
    assert_eq!(bytes.len() as u64, 4 * MIB);
    assert!(bytes.iter().take(1 << 20).all(|byte| *byte == 7));
    let read = said(&own, &["read -P 7 0 1M", "read -P 0 1M 1M"]).await;
    assert!(
        read.status.success() && !text(&read).contains("fail"),
        "{}",
        text(&read)
    );

    let other = world.door(&HostId::generate(), "other");
    let refused = said(&other, &["read 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    assert_eq!(world.server.exports.user(world.volume.local()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_ends_who_was_there_before() {
    let world = World::new().await;
    let own = world.door(&world.host, "own");
    let mut first = greeted(&own).await;
    let second = said(&own, &["write -P 1 0 4k"]).await;
    assert!(second.status.success(), "{}", text(&second));
    until_ended(&mut first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_goes_elsewhere_takes_its_volume_along() {
    let world = World::new().await;
    let own = world.door(&world.host, "own");
    let mut stream = greeted(&own).await;

    let elsewhere = HostId::generate();
    world
        .edit_machine(|machine| machine.host = Some(elsewhere.clone()))
        .await;
    world.until_nobody_has_it().await;
    until_ended(&mut stream).await;
    let refused = said(&own, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    let there = world.door(&elsewhere, "there");
    let written = said(&there, &["write -P 3 0 4k"]).await;
    assert!(written.status.success(), "{}", text(&written));

    // Detached, it is nobody's.
    world.edit_machine(|machine| machine.volumes.clear()).await;
    let refused = said(&there, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_volume_waits_until_nobody_writes_it_any_more() {
    let world = World::new().await;
    let own = world.door(&world.host, "own");
    let mut stream = greeted(&own).await;
    assert_eq!(writers(), 1);
    let ending = world.server.exports.end(world.volume.local());
    timeout(PATIENCE, ending).await.expect("it ends");
    assert_eq!(writers(), 0);
    until_ended(&mut stream).await;
}

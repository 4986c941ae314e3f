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
        VolumeUse,
    },
    size::ByteSize,
};
use documents::Documents;
use storage::exports::{EXPORT, Exports, StorageDaemon, User, VolumeServer};
use store::{Key, Revision, SqliteStore, Tenure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A computer that keeps one volume, which a machine on a host has.
pub struct World {
    pub dir: tempfile::TempDir,
    pub server: VolumeServer,
    pub host: HostId,
    machine: Machine,
    volume: VolumeId,
    taking_back: JoinHandle<()>,
}

impl World {
    pub async fn new() -> Self {
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
            taken: Some(Timestamp::now()),
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
        let daemon = StorageDaemon::at(program, dir.path().join("exports")).expect("the program");
        // Its processes are counted: none is of a trial.
        let tried = daemon.clone();
        let trying = tokio::task::spawn_blocking(move || tried.has_io_uring());
        trying.await.expect("it was tried");
        let server = VolumeServer {
            documents,
            exports: Exports::default(),
            daemon: Some(daemon),
            uid_base: root.then_some(70_000),
            targets: None,
            tenure: None,
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

    /// What the volume is used for as its machine has it now.
    pub fn of(&self) -> VolumeUse {
        let machine = self.server.documents.machines.get(self.machine.id.local());
        let machine = machine.expect("the machine's document");
        VolumeUse {
            volume: self.volume.clone(),
            machine: self.machine.id.clone(),
            taken: machine.volumes.first().and_then(|one| one.taken),
        }
    }

    /// Serves whoever connects to a socket as if it were this host, with the volume as its machine has it now.
    pub fn door(&self, host: &HostId, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        let server = self.server.clone();
        let user = User {
            host: host.clone(),
            of: self.of(),
        };
        tokio::spawn(async move {
            let until = CancellationToken::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (server, user, until) = (server.clone(), user.clone(), until.clone());
                tokio::spawn(async move {
                    let relay = async |mut shown: UnixStream| {
                        let led = tokio::io::copy_bidirectional(&mut stream, &mut shown).await;
                        led.map(drop)
                    };
                    server.serve(&user, relay, &until).await;
                });
            }
        });
        path
    }

    pub async fn edit_machine(&self, edit: impl Fn(&mut Machine) + Send + Sync) {
        let edit = |machine: &mut Machine| {
            edit(machine);
            Ok::<bool, documents::DocumentsError>(true)
        };
        let written = self.server.documents.update(self.machine.id.local(), edit);
        written.await.expect("the machine's document");
    }

    pub async fn edit_volume(&self, edit: impl Fn(&mut Volume) + Send + Sync) {
        let edit = |volume: &mut Volume| {
            edit(volume);
            Ok::<bool, documents::DocumentsError>(true)
        };
        let written = self.server.documents.update(self.volume.local(), edit);
        written.await.expect("the volume's document");
    }

    pub async fn until_nobody_has_it(&self) {
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

/// Begins to use a volume, as far as that one can be written.
async fn begin(socket: &Path) -> UnixStream {
    let mut stream = greeted(socket).await;
    // The fixed newstyle handshake of NBD, without zeroes.
    let mut rest = [0; 10];
    stream.read_exact(&mut rest).await.expect("the rest of it");
    let name = EXPORT.as_bytes();
    let mut asked = 3_u32.to_be_bytes().to_vec();
    asked.extend(b"IHAVEOPT");
    asked.extend(1_u32.to_be_bytes());
    asked.extend((name.len() as u32).to_be_bytes());
    asked.extend(name);
    stream.write_all(&asked).await.expect("asked for it");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.expect("size, flags");
    stream
}

/// Writes this once, without a flush, and hears that it is written.
async fn write(stream: &mut UnixStream, at: u64, bytes: &[u8]) {
    let mut asked = 0x2560_9513_u32.to_be_bytes().to_vec();
    asked.extend(1_u32.to_be_bytes());
    asked.extend(7_u64.to_be_bytes());
    asked.extend(at.to_be_bytes());
    asked.extend((bytes.len() as u32).to_be_bytes());
    asked.extend(bytes);
    stream.write_all(&asked).await.expect("asked for it");
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer[..8], b"\x67\x44\x66\x98\0\0\0\0");
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
        let (_shown, mut shown) = daemon.show_broken(None).await.expect("a process");
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut shown).await;
    });
    let asked = said(&path, &["read 1M 4k", "write 0 4k"]).await;
    let told = text(&asked);
    assert_eq!(told.matches("Input/output error").count(), 2, "{told}");
}

/// Whether programs that anybody may run can have `io_uring` here, by one that uses nothing else.
fn has_io_uring(dir: &Path) -> bool {
    let file = dir.join("tried");
    std::fs::write(&file, [0; 4096]).expect("a file");
    let options = format!("driver=file,aio=io_uring,filename={}", file.display());
    let mut command = Command::new("qemu-io");
    command.args(["-c", "read 0 4k", "--image-opts", &options]);
    text(&command.output().expect("qemu-io")).contains("read 4096/4096")
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_shown_by_io_uring_where_it_can_be_had() {
    // What the programs do where it can't: older ones end, newer ones say so at the first read and go on without.
    let lacking = [
        ("", has_io_uring(&std::env::temp_dir())),
        ("exit 1", false),
        ("echo 'Unable to use linux io_uring' >&2", false),
    ];
    for (does, expected) in lacking {
        let mut world = World::new().await;
        let program = world.dir.path().join("program");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *io_uring*) {};; esac\nexec /usr/bin/qemu-storage-daemon \"$@\"\n",
            if does.is_empty() { ":" } else { does }
        );
        std::fs::write(&program, script).expect("a program");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        for path in [&program, &world.dir.path().to_owned()] {
            std::fs::set_permissions(path, Clone::clone(&executable)).expect("its mode");
        }
        let exports = world.dir.path().join("exports");
        let daemon = StorageDaemon::at(&program, exports).expect("the program");
        let tried = daemon.clone();
        let has = tokio::task::spawn_blocking(move || tried.has_io_uring()).await;
        assert_eq!(has.expect("it was tried"), expected, "{does}");
        world.server.daemon = Some(daemon);
        let door = world.door(&world.host.clone(), "door");
        let asked = said(&door, &["write -P 7 0 4k", "read -P 7 0 4k"]).await;
        assert!(asked.status.success(), "{does}: {}", text(&asked));
        let _stays = greeted(&door).await;
        let writers = listed_writers("args=");
        assert_eq!(writers.len(), 1, "{writers:?}");
        let is_used = writers[0].contains("\"aio\":\"io_uring\"");
        assert_eq!(is_used, expected, "{does}: {writers:?}");
    }
}

/// Processes of ours that write volumes, as `ps` shows them.
fn listed_writers(column: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut command = Command::new("ps");
    let listed = command.args(["--ppid", &own, "-ww", "-o", column]).output();
    let listed = text(&listed.expect("ps"));
    let writers = listed.lines().filter(|line| line.contains("qemu-storage"));
    writers.map(str::to_owned).collect()
}

fn writers() -> usize {
    listed_writers("comm=").len()
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
    world.until_nobody_has_it().await;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_may_keep_the_volumes_no_more_writes_none() {
    let mut world = World::new().await;
    let (tell, tenure) = Tenure::of(Key::new("Part", "own").expect("a key"));
    world.server.tenure = Some(tenure);
    let own = world.door(&world.host, "own");
    let refused = said(&own, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));

    tell.send_replace(Some(Revision(1)));
    let mut stream = begin(&own).await;
    write(&mut stream, 0, &[1; 4096]).await;
    tell.send_replace(None);
    until_ended(&mut stream).await;
    world.until_nobody_has_it().await;
    assert_eq!(writers(), 0);
    let refused = said(&own, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));

    // What was another's for a moment, whoever was there before has lost.
    tell.send_replace(Some(Revision(2)));
    let mut stream = begin(&own).await;
    write(&mut stream, 0, &[2; 4096]).await;
    tell.send_replace(Some(Revision(3)));
    until_ended(&mut stream).await;
    let written = said(&own, &["write -P 3 0 4k", "flush"]).await;
    assert!(written.status.success(), "{}", text(&written));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_was_told_is_written_is_there_whatever_ends_the_process() {
    let world = World::new().await;
    // Of an image: what is where is kept in tables, which the process would write when it is asked to.
    let (base, top) = (
        world.dir.path().join("volume"),
        world.dir.path().join("top"),
    );
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    let made = command.arg(&base).arg(&top).output().expect("qemu-img");
    assert!(made.status.success(), "{}", text(&made));
    let user = 70_000 + world.machine.vmid.0;
    if world.server.uid_base.is_some() {
        // Whoever used it before an image was made of it.
        std::os::unix::fs::chown(&base, Some(user), Some(user)).expect("chown");
    }
    let location = VolumeLocation::File {
        path: top.display().to_string(),
        backing: vec![base.display().to_string()],
    };
    world
        .edit_volume(|volume| volume.location = Some(location.clone()))
        .await;
    let own = world.door(&world.host, "own");
    let mut stream = begin(&own).await;
    write(&mut stream, MIB, &[7; 65536]).await;
    // It is killed.
    let ending = world.server.exports.end(world.volume.local());
    timeout(PATIENCE, ending).await.expect("it ends");
    let read = said(&own, &["read -P 7 1M 64k", "read -P 0 2M 64k"]).await;
    let told = text(&read);
    assert!(read.status.success() && !told.contains("fail"), "{told}");
    if world.server.uid_base.is_some() {
        let owner =
            |path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).expect("a file"));
        assert_eq!(owner(&top), user);
        assert_eq!(owner(&base), 0, "what images stand on is nobody's to write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_earlier_attachment_is_written_nowhere() {
    let world = World::new().await;
    let before = world.door(&world.host, "before");
    let mut stream = begin(&before).await;
    write(&mut stream, 0, &[1; 4096]).await;

    // Taken from the machine and given to it again in one moment, as who looks after that may see it.
    let again = Timestamp::now().after(Duration::from_secs(1));
    world
        .edit_machine(|machine| machine.volumes[0].taken = Some(again))
        .await;
    until_ended(&mut stream).await;
    let refused = said(&before, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    let now = world.door(&world.host, "now");
    let mut stream = begin(&now).await;
    let refused = said(&before, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    write(&mut stream, 0, &[2; 4096]).await;

    // The same host's, but another machine's.
    let mut other = cimi::testing::machine(8);
    other.host = Some(world.host.clone());
    let machine = world
        .server
        .documents
        .machines
        .get(world.machine.id.local());
    other.volumes = machine.expect("the machine").volumes.clone();
    let changes = world.server.documents.changes().create(&other);
    changes.commit().await.expect("another machine");
    world
        .edit_volume(|volume| {
            volume.attachment = Some(Attachment {
                machine: other.id.clone(),
                since: Timestamp::now(),
            });
        })
        .await;
    until_ended(&mut stream).await;
    let refused = said(&now, &["write 0 512"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    let bytes = std::fs::read(world.dir.path().join("volume")).expect("the file");
    assert!(bytes.iter().take(4096).all(|byte| *byte == 2));
}

#[tokio::test]
async fn of_many_who_come_for_a_volume_one_waits() {
    let exports = Exports::default();
    let user = User {
        host: HostId::generate(),
        of: VolumeUse {
            volume: VolumeId::generate(),
            machine: cimi::testing::machine(1).id,
            taken: None,
        },
    };
    let has_it = exports.claim(user.clone()).await.expect("it is free");
    let coming: Vec<_> = (0..100)
        .map(|_| {
            let (exports, user) = (exports.clone(), user.clone());
            tokio::spawn(async move { exports.claim(user).await })
        })
        .collect();
    let volume = user.of.volume.local();
    let ending = tokio::spawn({
        let (exports, volume) = (exports.clone(), volume.to_owned());
        async move { exports.end(&volume).await }
    });
    has_it.cut().await;
    for one in coming {
        // The disk doesn't answer: who has it can't end.
        let waited = timeout(PATIENCE, one).await.expect("it isn't kept waiting");
        assert!(waited.expect("it ran").is_none());
    }
    assert!(!ending.is_finished(), "who takes it has to wait");
    drop(has_it);
    timeout(PATIENCE, ending)
        .await
        .expect("it is free")
        .expect("it ran");
    assert_eq!(exports.user(volume), None);
}

#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::{net::Ipv4Addr, time::SystemTime};

use cimi::resources::AttachStage;
use rustls::{ServerConfig, crypto::ring, sign::SingleCertAndKey};
use store::SqliteStore;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use trust::{Authority, TARGET_REQUEST_BYTES, VOLUME_REQUEST_BYTES};
use vmhost::controller::VolumeFiles as _;

use super::{
    super::{GREETING, RemoteVolumes},
    *,
};
use crate::{joined_host::giving::tests::Host, joining};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a host sees of an entry when it asks for targets.
struct AnEntry {
    at: joining::Entry,
    answer: Arc<Mutex<Option<VolumeTarget>>>,
    heard: mpsc::UnboundedReceiver<Asking>,
    connections: watch::Sender<()>,
    _serving: AbortOnDropHandle<()>,
}

impl AnEntry {
    /// One that speaks these, and shows all volumes there; none: in NBD.
    async fn new(authority: &Authority, speaks: &[&[u8]], answer: Option<VolumeTarget>) -> Self {
        let provider = Arc::new(ring::default_provider());
        let own = authority.server(&provider, SystemTime::now()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = speaks.iter().map(|name| name.to_vec()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(answer));
        let (hears, heard) = mpsc::unbounded_channel();
        let (connections, ends) = watch::channel(());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let answers = Arc::clone(&answer);
        let serving = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
                let (hears, mut ends) = (hears.clone(), ends.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    if stream.get_ref().1.alpn_protocol() != Some(TARGET_PROTOCOL) {
                        // In NBD it gives all volumes.
                        let mut request = [0; VOLUME_REQUEST_BYTES];
                        if stream.read_exact(&mut request).await.is_ok() {
                            stream.write_all(&GREETING).await.unwrap();
                            let _ = stream.read_u8().await;
                        }
                        return;
                    }
                    ends.mark_unchanged();
                    let mut request = [0; TARGET_REQUEST_BYTES];
                    stream.read_exact(&mut request).await.unwrap();
                    let asked = TargetRequest::of_bytes(&request).unwrap();
                    let answer = answers.lock().clone();
                    hears.send(asked.1).unwrap();
                    if answer.is_none() && asked.1 != Asking::Anew {
                        return;
                    }
                    let answer = TargetAnswer(answer).to_bytes().unwrap();
                    stream.write_all(&answer).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::select! {
                        _ = stream.read_u8() => {}
                        _ = ends.changed() => {}
                    }
                });
            }
        };
        Self {
            at: format!("https://127.0.0.1:{port}").parse().unwrap(),
            answer,
            heard,
            connections,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    async fn hears(&mut self) -> Asking {
        timeout(LIMIT, self.heard.recv()).await.unwrap().unwrap()
    }

    fn was_not_asked(&mut self) {
        assert_eq!(self.heard.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    }
}

/// A host with a machine, and the cloud's authority.
struct World {
    authority: Authority,
    host: Host,
    documents: Documents,
    by: VolumeUser,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        Self {
            host: Host::of(&authority, "node7"),
            authority,
            documents: Documents::open(store).await.unwrap(),
            by: VolumeUser {
                machine: MachineId::generate(),
                folder: RunFolder(folder.path().join("machine")),
                user: None,
            },
            _folder: folder,
        }
    }

    /// One that is older than volumes by iSCSI.
    async fn older(&self) -> AnEntry {
        AnEntry::new(&self.authority, &[VOLUME_PROTOCOL], None).await
    }

    async fn newer(&self, answer: Option<VolumeTarget>) -> AnEntry {
        AnEntry::new(&self.authority, &[TARGET_PROTOCOL, VOLUME_PROTOCOL], answer).await
    }

    /// The host's daemon, as it is when it has just been started.
    fn daemon(&self, entries: &[&AnEntry], opens_iscsi: bool) -> RemoteVolumes {
        let entries = entries.iter().map(|entry| entry.at.clone());
        self.daemon_of(entries.collect(), opens_iscsi)
    }

    fn daemon_of(&self, entries: Vec<joining::Entry>, opens_iscsi: bool) -> RemoteVolumes {
        let mut kept = self.host.kept.clone();
        kept.entries = entries;
        let means = (None, opens_iscsi);
        RemoteVolumes::open(&kept, &self.host.key, self.documents.clone(), means).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.by.has_socket(name)
    }
}

fn attachment() -> AttachedVolume {
    AttachedVolume {
        volume: VolumeId::generate(),
        initial_location: None,
        hot: false,
        wanted: true,
        stage: AttachStage::Waiting,
        serial: "v".to_owned(),
        taken: None,
    }
}

fn target(portal: &str) -> VolumeTarget {
    VolumeTarget {
        portal: portal.parse().unwrap(),
        target: "iqn.t".to_owned(),
        initiator: "iqn.i".to_owned(),
        user: "u".to_owned(),
        secret: "hush".to_owned(),
    }
}

#[tokio::test]
async fn what_an_older_entry_does_not_know_counts_for_nothing_that_is_used_by_iscsi() {
    let world = World::new().await;
    let by = &world.by;
    let (older, shown) = (world.older().await, target("192.0.2.1:3260"));
    let mut newer = world.newer(Some(shown.clone())).await;
    let attached = attachment();
    let disk = volume_disk(&attached);
    let at_target = place(&shown, &disk);
    let daemon = world.daemon(&[&older, &newer], true);
    assert_eq!(daemon.ready(by, &attached).await, Ok(at_target.clone()));
    assert_eq!(newer.hears().await, Asking::Anew);
    // After a restart, too, and no other way is opened.
    let daemon = world.daemon(&[&older, &newer], true);
    assert_eq!(daemon.ready(by, &attached).await, Ok(at_target.clone()));
    assert_eq!(newer.hears().await, Asking::Again);
    assert!(!world.has(&socket_of(&disk)));
    // A guest is told that it lost it, by one who is asked once at a time.
    let daemon = world.daemon(&[&older, &newer], true);
    for _ in 0..2 {
        daemon.lost(by, &DiskId::new(disk.as_str()).unwrap());
    }
    assert_eq!(newer.hears().await, Asking::Lost);
    newer.was_not_asked();
    // Where nobody knows, it is waited for; and it goes on, whatever an earlier version has opened there.
    let daemon = world.daemon(&[&older], true);
    let waits = daemon.ready(by, &attached).await.unwrap_err();
    assert!(waits.contains("older"), "{waits}");
    assert!(!world.has(&socket_of(&disk)));
    let asked = daemon.answers(by, &attached).await.unwrap_err();
    assert!(asked.contains("isn't shown by iSCSI just now"), "{asked}");
    drop(by.listen(&socket_of(&disk)).unwrap());
    let daemon = world.daemon(&[&newer], true);
    assert_eq!(daemon.ready(by, &attached).await, Ok(at_target));
    // What nobody has used yet is used as all entries know it.
    let daemon = world.daemon(&[&older], true);
    let other = attachment();
    let socket = VolumePlace::Socket(socket_of(&volume_disk(&other)));
    assert_eq!(daemon.ready(by, &other).await, Ok(socket));
}

#[tokio::test]
async fn what_a_process_had_that_ended_unheard_is_asked_for_anew() {
    let world = World::new().await;
    let by = &world.by;
    let mut newer = world.newer(Some(target("192.0.2.1:3260"))).await;
    let attached = attachment();
    let disk = volume_disk(&attached);
    let (file, socket) = (secret_of(&disk), socket_of(&disk));
    let daemon = world.daemon(&[&newer], true);
    let at_target = daemon.ready(by, &attached).await.unwrap();
    assert_eq!(newer.hears().await, Asking::Anew);
    by.keep_secret(&secret_of("vol-that-was-detached"), "hush")
        .unwrap();
    by.keep_secret(&secret_of("vol-of-a-guest-that-was-not-heard"), "")
        .unwrap();
    // Who keeps the volumes shows them by iSCSI no more when the host's daemon is back: a process that lives has no other way.
    *newer.answer.lock() = None;
    let daemon = world.daemon(&[&newer], true);
    daemon.ready(by, &attached).await.unwrap_err();
    assert_eq!(newer.hears().await, Asking::Again);
    // One that is to be started has.
    daemon.begin(by);
    let in_nbd = VolumePlace::Socket(socket.clone());
    assert_eq!(daemon.ready(by, &attached).await, Ok(in_nbd));
    assert_eq!(newer.hears().await, Asking::Anew);
    assert!(world.has(&socket) && !world.has(&file));
    assert!(!world.has(&secret_of("vol-that-was-detached")));
    assert!(!world.has(&secret_of("vol-of-a-guest-that-was-not-heard")));
    // The other way round, and as long as it is shown nobody is asked again, however often it is tried to start.
    *newer.answer.lock() = Some(target("192.0.2.1:3260"));
    let daemon = world.daemon(&[&newer], true);
    for _ in 0..2 {
        daemon.begin(by);
        assert_eq!(daemon.ready(by, &attached).await, Ok(at_target.clone()));
        assert!(world.has(&file) && !world.has(&socket));
    }
    assert_eq!(newer.hears().await, Asking::Anew);
    newer.was_not_asked();
}

#[tokio::test]
async fn what_is_shown_elsewhere_is_asked_for_once_and_found_by_the_next_process() {
    let world = World::new().await;
    let by = &world.by;
    let mut entry = world.newer(Some(target("192.0.2.1:3260"))).await;
    let attached = attachment();
    let disk = volume_disk(&attached);
    let daemon = world.daemon(&[&entry], true);
    daemon.ready(by, &attached).await.unwrap();
    assert_eq!(entry.hears().await, Asking::Anew);
    let elsewhere = target("192.0.2.2:3260");
    *entry.answer.lock() = Some(elsewhere.clone());
    entry.connections.send(()).unwrap();
    assert_eq!(entry.hears().await, Asking::Again);
    // Its address is given back: the connection for the other one was held until then.
    *entry.answer.lock() = Some(target("192.0.2.1:3260"));
    entry.was_not_asked();
    entry.connections.send(()).unwrap();
    assert_eq!(entry.hears().await, Asking::Again);
    *entry.answer.lock() = Some(elsewhere.clone());
    entry.connections.send(()).unwrap();
    assert_eq!(entry.hears().await, Asking::Again);
    daemon.begin(by);
    assert_eq!(
        daemon.ready(by, &attached).await,
        Ok(place(&elsewhere, &disk))
    );
    assert_eq!(entry.hears().await, Asking::Anew);
}

#[tokio::test]
async fn an_entry_that_is_dead_delays_nobody_and_one_alone_is_asked() {
    let world = World::new().await;
    let by = &world.by;
    let shown = target("192.0.2.1:3260");
    let mut refusing = world.newer(None).await;
    let mut newer = world.newer(Some(shown.clone())).await;
    let mut other = world.newer(Some(shown.clone())).await;
    // Who connects to it never hears anything; and it is never given up.
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = format!("https://{}", dead.local_addr().unwrap());
    let dead: joining::Entry = at.parse().unwrap();
    let with = |entries: &[&AnEntry]| {
        let rest = entries.iter().map(|entry| entry.at.clone());
        let mut daemon = world.daemon_of([dead.clone()].into_iter().chain(rest).collect(), true);
        let inner = Arc::get_mut(&mut daemon.0).unwrap();
        inner.entries.have_for_ever();
        daemon
    };
    let attached = attachment();
    let at_target = place(&shown, &volume_disk(&attached));
    let daemon = with(&[&newer, &other]);
    let ready = timeout(LIMIT, daemon.ready(by, &attached)).await.unwrap();
    assert_eq!(ready, Ok(at_target.clone()));
    assert_eq!(newer.hears().await, Asking::Anew);
    // It goes to the next one only if one refuses, past the dead one again.
    let daemon = with(&[&refusing, &newer, &other]);
    let ready = timeout(LIMIT, daemon.ready(by, &attached)).await.unwrap();
    assert_eq!(ready, Ok(at_target));
    assert_eq!(refusing.hears().await, Asking::Again);
    assert_eq!(newer.hears().await, Asking::Again);
    other.was_not_asked();
    // In NBD, too.
    let daemon = with(&[&refusing]);
    let other = attachment();
    let answers = daemon.answers(by, &other);
    timeout(LIMIT, answers).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_host_whose_qemu_has_no_iscsi_uses_nbd() {
    let world = World::new().await;
    let mut entry = world.newer(Some(target("192.0.2.1:3260"))).await;
    let daemon = world.daemon(&[&entry], false);
    let attached = attachment();
    let socket = VolumePlace::Socket(socket_of(&volume_disk(&attached)));
    assert_eq!(daemon.ready(&world.by, &attached).await, Ok(socket));
    entry.was_not_asked();
}

#[test]
fn a_disk_tells_of_which_attachment_it_is() {
    for taken in [None, Some(Timestamp::now())] {
        let attached = AttachedVolume {
            taken,
            ..attachment()
        };
        let machine = MachineId::generate();
        let found = use_of(&machine, &volume_disk(&attached)).unwrap();
        assert_eq!(found.volume, attached.volume);
        assert_eq!(
            found.taken.map(Timestamp::as_millis),
            taken.map(Timestamp::as_millis)
        );
    }
    assert_eq!(use_of(&MachineId::generate(), "root"), None);
}

//! Volumes that hosts use by iSCSI, with the real `tgtd`, spoken to by the real `qemu-io`.

mod initiator;

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use cimi::{
    HostId, Timestamp,
    resources::{Volume, VolumeLocation},
};
use storage::exports::{Offer, Portal, TargetDaemon, Targets, User, VolumeServer, WhyTarget};
use store::{Key, Revision, Tenure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::initiator::{BLOCK_BYTES, Initiator};
use crate::volumes_are_shown_to_one_host::World;

const PATIENCE: Duration = Duration::from_secs(60);
const TGTD: &str = "/usr/sbin/tgtd";

/// Whether this can't be shown here: as in the other tests, what has to be there in CI says so there.
fn is_skipped() -> bool {
    let is_possible = rustix::process::geteuid().is_root() && Path::new(TGTD).is_file();
    let is_required = std::env::var_os("STRATUS_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(is_possible || !is_required, "this needs root and tgtd");
    !is_possible
}

/// What shows volumes by iSCSI in a world, with a key of its folder; and that it does.
async fn targets(world: &World, is_usual: bool) -> (Targets, JoinHandle<()>) {
    let folder = world.dir.path().join("targets");
    let daemon = TargetDaemon::at(Path::new(TGTD), folder).expect("the program");
    let portal = Portal::listen("127.0.0.1:0".parse().expect("an address"));
    let portal = portal.await.expect("a portal");
    let targets = Targets::open(daemon, portal, world.dir.path(), is_usual).expect("a key");
    let running = targets.clone();
    (targets, tokio::spawn(async move { running.run().await }))
}

/// A world in which volumes are shown so.
async fn world() -> (World, JoinHandle<()>) {
    let mut world = World::new().await;
    let (targets, running) = targets(&world, true).await;
    world.server.targets = Some(targets);
    (world, running)
}

fn user(world: &World) -> User {
    User {
        host: world.host.clone(),
        of: world.of(),
    }
}

async fn offered(server: &VolumeServer, user: &User, why: WhyTarget) -> Offer {
    let offer = timeout(PATIENCE, server.offer(user, why)).await;
    let offer = offer.expect("in time").expect("it is given");
    offer.expect("by iSCSI")
}

/// Shows it in the background, until it is ended.
fn shown(user: &User, offer: Offer) -> (CancellationToken, JoinHandle<()>) {
    let (end, user) = (CancellationToken::new(), user.clone());
    let ended = end.clone();
    let showing = tokio::spawn(async move { offer.until(&user, ended.cancelled()).await });
    (end, showing)
}

/// How to get to a target.
#[derive(Clone)]
struct Way {
    portal: String,
    target: String,
    initiator: String,
    secret: String,
}

impl Way {
    fn to(offer: &Offer) -> Self {
        Self {
            portal: offer.portal.to_string(),
            target: offer.target.clone(),
            initiator: offer.initiator.clone(),
            secret: offer.secret.clone(),
        }
    }

    /// Says something to it by a program of QEMU's.
    async fn tell(&self, commands: &[&str]) -> Output {
        let mut io = Command::new("qemu-io");
        for command in commands {
            io.args(["-c", command]);
        }
        let Self {
            portal,
            target,
            initiator,
            secret,
        } = self;
        io.arg("--image-opts").arg(format!(
            "driver=iscsi,transport=tcp,portal={portal},target={target},lun=1,initiator-name={initiator},user=stratus,password={secret}"
        ));
        let told = tokio::task::spawn_blocking(move || io.output());
        let told = timeout(PATIENCE, told).await.expect("in time");
        told.expect("it ran").expect("qemu-io")
    }

    async fn works(&self, commands: &[&str]) {
        let told = self.tell(commands).await;
        assert!(told.status.success(), "{told:?}");
        let said = String::from_utf8_lossy(&told.stdout);
        assert!(!said.contains("failed"), "{said}");
    }

    /// It isn't let in, for this reason.
    async fn is_refused(&self, reason: &str) {
        let told = self.tell(&["read 0 512"]).await;
        assert!(!told.status.success(), "{told:?}");
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_written_by_whom_it_is_shown_to_and_nobody_else() {
    if is_skipped() {
        return;
    }
    let (world, portal) = world().await;
    let user = user(&world);
    let offer = offered(&world.server, &user, WhyTarget::Anew).await;
    let way = Way::to(&offer);
    assert_eq!(
        way.target,
        format!("iqn.2011-01.eu.stratuslab:{}", user.of.volume.local())
    );
    assert!(!format!("{offer:?}").contains(&way.secret));
    let (end, showing) = shown(&user, offer);
    let all = [
        "write -P 7 0 1M",
        "flush",
        "read -P 7 0 1M",
        "discard 0 512k",
    ];
    way.works(&all).await;
    way.works(&["read -P 7 512k 512k", "write -P 8 1M 64k"])
        .await;
    let written = std::fs::read(world.dir.path().join("volume")).expect("the file");
    assert_eq!(written[1 << 20], 8);

    let mut other = way.clone();
    other.secret.replace_range(..1, "x");
    other.is_refused("Authentication failure").await;
    let mut other = way.clone();
    other.initiator.push('x');
    // It finds the connection closed.
    other.is_refused("Failed to connect to LUN").await;
    // Who asks what there is, hears nothing.
    let mut stranger = TcpStream::connect(&way.portal).await.expect("the portal");
    let mut words = vec![0_u8; 48];
    words[0] = 0x43;
    words[7] = 44;
    words.extend_from_slice(b"InitiatorName=iqn.a\0SessionType=Discovery\0\0\0\0");
    stranger.write_all(&words).await.expect("it is said");
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stranger.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");

    end.cancel();
    showing.await.expect("it ends");
    way.is_refused("Failed to connect to LUN").await;
    assert!(world.server.exports.user(user.of.volume.local()).is_none());
    // Nothing is left of what it was told by.
    let left = std::fs::read_dir(world.dir.path().join("targets")).expect("the folder");
    assert_eq!(left.count(), 0);
    portal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_volume_is_shown_by_the_same_names_and_secret_and_to_others_by_other_ones()
 {
    if is_skipped() {
        return;
    }
    let (mut world, portal) = world().await;
    let user = user(&world);
    let before = Way::to(&offered(&world.server, &user, WhyTarget::Anew).await);
    portal.abort();
    let (targets, portal) = targets(&world, false).await;
    world.server.targets = Some(targets);
    // It is used so no more by those who begin, but by those who have.
    let anew = world.server.offer(&user, WhyTarget::Anew).await;
    assert!(anew.expect("it may have it").is_none());
    let offer = offered(&world.server, &user, WhyTarget::Again).await;
    let after = Way::to(&offer);
    assert_eq!(
        (&before.target, &before.initiator, &before.secret),
        (&after.target, &after.initiator, &after.secret)
    );
    after.works(&["write -P 7 0 1M"]).await;
    drop(offer);

    // Another attachment, another secret.
    let taken = Timestamp::from_millis(12);
    world
        .edit_machine(|machine| machine.volumes[0].taken = Some(taken))
        .await;
    let refused = world.server.offer(&user, WhyTarget::Again).await;
    assert!(refused.is_err(), "the attachment of before is over");
    let user = self::user(&world);
    let next = Way::to(&offered(&world.server, &user, WhyTarget::Again).await);
    assert_ne!(next.secret, before.secret);
    assert_ne!(next.initiator, before.initiator);
    portal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_to_have_it_next_finds_nobody_writing() {
    if is_skipped() {
        return;
    }
    let (world, portal) = world().await;
    let user = user(&world);
    let offer = offered(&world.server, &user, WhyTarget::Anew).await;
    let way = Way::to(&offer);
    let (_end, showing) = shown(&user, offer);
    way.works(&["write -P 7 0 1M"]).await;

    // The host itself, anew: its first one is cut.
    let again = offered(&world.server, &user, WhyTarget::Again).await;
    timeout(PATIENCE, showing)
        .await
        .expect("cut")
        .expect("it ends");
    let (_end, showing) = shown(&user, again);
    way.works(&["read -P 7 0 1M"]).await;

    // Another host, which doesn't have the machine, cuts nobody.
    let mut stranger = user.clone();
    stranger.host = HostId::generate();
    assert!(
        world
            .server
            .offer(&stranger, WhyTarget::Anew)
            .await
            .is_err()
    );
    way.works(&["read -P 7 0 1M"]).await;

    // A machine of this computer is to write the file.
    timeout(PATIENCE, world.server.exports.end(user.of.volume.local()))
        .await
        .expect("it ends");
    assert!(showing.is_finished() || showing.await.is_ok());
    way.is_refused("Failed to connect to LUN").await;

    // It is detached: nobody asks for it, and it is taken back.
    let offer = offered(&world.server, &user, WhyTarget::Again).await;
    let (_end, showing) = shown(&user, offer);
    world.edit_machine(|machine| machine.volumes.clear()).await;
    world
        .edit_volume(|volume: &mut Volume| volume.attachment = None)
        .await;
    timeout(PATIENCE, showing)
        .await
        .expect("cut")
        .expect("it ends");
    assert!(world.server.offer(&user, WhyTarget::Again).await.is_err());
    way.is_refused("Failed to connect to LUN").await;

    // What the guest still wants of it fails.
    let lost = offered(&world.server, &user, WhyTarget::Lost).await;
    assert_eq!(Way::to(&lost).secret, way.secret);
    way.is_refused("LOGICAL_UNIT_NOT_SUPPORTED").await;
    portal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_are_used_in_nbd() {
    if is_skipped() {
        return;
    }
    let (world, portal) = world().await;
    world
        .edit_volume(|volume: &mut Volume| {
            if let Some(VolumeLocation::File { path, backing }) = &mut volume.location {
                backing.push(path.clone());
            }
        })
        .await;
    let user = user(&world);
    let offer = world.server.offer(&user, WhyTarget::Anew).await;
    assert!(offer.expect("it may have it").is_none());
    portal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_keeps_the_volumes_no_more_shows_none() {
    if is_skipped() {
        return;
    }
    let (mut world, portal) = world().await;
    let (tell, tenure) = Tenure::of(Key::new("Part", "own").expect("a key"));
    world.server.tenure = Some(tenure);
    let user = user(&world);
    assert!(world.server.offer(&user, WhyTarget::Anew).await.is_err());
    tell.send_replace(Some(Revision(1)));
    let offer = offered(&world.server, &user, WhyTarget::Anew).await;
    let way = Way::to(&offer);
    let (_end, showing) = shown(&user, offer);
    way.works(&["write -P 7 0 1M"]).await;
    tell.send_replace(None);
    timeout(PATIENCE, showing)
        .await
        .expect("cut")
        .expect("it ends");
    way.is_refused("Failed to connect to LUN").await;
    portal.abort();
}

/// The processes that show volumes of this world: where they began.
fn processes(world: &World) -> Vec<rustix::process::Pid> {
    let folder = world.dir.path().join("targets");
    let all = std::fs::read_dir("/proc").expect("processes");
    let numbers = all.filter_map(|one| one.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_of_it = |number: &i32| {
        std::fs::read_link(format!("/proc/{number}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
    };
    let of_it = numbers.filter(is_of_it);
    of_it.filter_map(rustix::process::Pid::from_raw).collect()
}

fn block(world: &World, number: usize) -> u8 {
    let written = std::fs::read(world.dir.path().join("volume")).expect("the file");
    let block = &written[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES];
    assert!(block.iter().all(|byte| *byte == block[0]), "all or nothing");
    block[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_connection_still_says_is_not_written_over_what_its_next_one_says() {
    if is_skipped() {
        return;
    }
    let (world, portal) = world().await;
    let user = user(&world);
    let offer = offered(&world.server, &user, WhyTarget::Anew).await;
    let way = Way::to(&offer);
    let (end, showing) = shown(&user, offer);
    let mut first = Initiator::that_begins(&way, 1).await;
    first.logs_in().await;
    first.writes(0, b'a', BLOCK_BYTES).await;
    assert_eq!(first.is_answered().await, 0);
    assert_eq!(block(&world, 0), b'a');

    // It stands still: with something that it was told and hasn't written, and half of something else.
    let former = processes(&world);
    assert_eq!(former.len(), 1, "of one connection");
    let stalled = former[0];
    rustix::process::kill_process(stalled, rustix::process::Signal::STOP).expect("it stands");
    first.writes(0, b'b', BLOCK_BYTES).await;
    first.writes(1, b'b', BLOCK_BYTES / 2).await;

    // Nobody else has one, though they begin to log in and say no more; the oldest of them go.
    let mut mute = Vec::new();
    for number in 2..8 {
        mute.push(Initiator::that_begins(&way, number).await);
    }
    for one in &mut mute[..2] {
        one.is_ended().await;
    }
    assert!(processes(&world).contains(&stalled), "they ended nobody");

    let mut second = Initiator::that_begins(&way, 9).await;
    second.logs_in().await;
    assert!(
        !processes(&world).contains(&stalled),
        "before it was let in"
    );
    for number in 0..2 {
        second.writes(number, b'c', BLOCK_BYTES).await;
        assert_eq!(second.is_answered().await, 0);
    }
    // Whatever was there before it was let in is over.
    first.says_more(b'b', BLOCK_BYTES / 2).await;
    first.is_ended().await;
    for one in &mut mute {
        one.is_ended().await;
    }
    assert_eq!((block(&world, 0), block(&world, 1)), (b'c', b'c'));
    assert_eq!(processes(&world).len(), 1);

    // And what QEMU's says next is.
    way.works(&["read -P 99 0 1k", "write -P 100 0 1k"]).await;
    second.is_ended().await;
    assert_eq!((block(&world, 0), block(&world, 1)), (b'd', b'd'));
    end.cancel();
    showing.await.expect("it ends");
    assert!(processes(&world).is_empty());
    portal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_of_a_loss_for_its_own_machines_only() {
    if is_skipped() {
        return;
    }
    let (world, portal) = world().await;
    let mut stranger = user(&world);
    stranger.host = HostId::generate();
    let refused = world.server.offer(&stranger, WhyTarget::Lost).await;
    let refused = refused.expect_err("it has no such machine");
    assert!(refused.contains("is not on this host"), "{refused}");
    // Its own host may ask as often as it wants: as long as nobody comes, nothing is started.
    let user = user(&world);
    let first = offered(&world.server, &user, WhyTarget::Lost).await;
    let second = offered(&world.server, &user, WhyTarget::Lost).await;
    assert!(processes(&world).is_empty());
    drop(first);
    let way = Way::to(&second);
    way.is_refused("LOGICAL_UNIT_NOT_SUPPORTED").await;
    portal.abort();
}

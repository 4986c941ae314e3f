//! A host that was taken over speaks to a real gateway in front of a real store, and gets at nothing but what concerns its
//! own machines.
#![allow(clippy::panic, clippy::unwrap_used)] // a test that panics has failed

use std::{convert::Infallible, sync::Arc, time::Duration};

use cimi::{
    Acl, Common, HostId, Ref, Timestamp,
    ids::{HostPulseId, SecurityGroupId},
    lifecycle::{EndCause, MachineState, Moving, Power, Stage},
    resources::{Event, Host, HostPulse, Image, ImageState, Machine, Resource, SecurityGroup},
    testing,
};
use documents::Documents;
use hosts::HostRules;
use hyper_util::rt::{TokioExecutor, TokioIo};
use store::{
    EtcdOptions, EtcdStore, Gateway, Key, Outcome, Peer, Prefix, Range, SharedStore, SqliteStore,
    Store as _, StoreError, Transaction,
};
use tokio::{net::TcpListener, task::JoinSet};

/// A cloud with two hosts, a machine on each, one without a host, and a user.
struct World {
    store: SharedStore,
    /// Those of the entry.
    documents: Documents,
    own: Host,
    other: Host,
    mine: Machine,
    theirs: Machine,
    unplaced: Machine,
    /// The host's way in: it is whoever its port says; the real one will go by its certificate.
    evil: EtcdStore,
    _port: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let store: SharedStore = Arc::new(store);
        let (own, other) = (testing::host(), testing::host());
        let (mine, theirs) = (placed(1, Some(&own.id)), placed(2, Some(&other.id)));
        let unplaced = placed(3, None);
        let transaction = Transaction::new()
            .put(key(&own.id), bytes(&own))
            .put(key(&other.id), bytes(&other))
            .put(key(&mine.id), bytes(&mine))
            .put(key(&theirs.id), bytes(&theirs))
            .put(key(&unplaced.id), bytes(&unplaced))
            .put(key("User/ada"), r#"{"password":"a hash"}"#);
        let done = store.commit(transaction).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
        let documents = Documents::open(store.clone()).await.unwrap();
        let gateway = Gateway::open(store.clone(), Arc::new(HostRules::of(documents.clone())));
        let gateway = Arc::new(gateway.await.unwrap());
        let mut port = JoinSet::new();
        let evil = listen(gateway, own.id.local(), &mut port).await;
        let mut options = EtcdOptions::new(vec![evil]);
        options.history_revisions = None;
        Self {
            evil: EtcdStore::open(options).await.unwrap(),
            store,
            documents,
            own,
            other,
            mine,
            theirs,
            unplaced,
            _port: port,
            _folder: folder,
        }
    }

    /// The host may not make `then` of what is at `key`, and doesn't, though it demands nothing of what is there.
    async fn refused(&self, what: &str, transaction: Transaction) {
        let before = self.everything().await;
        match self.evil.commit(transaction).await {
            Err(StoreError::Refused { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(self.everything().await, before, "{what}");
    }

    /// What becomes of a machine of which the host says this, and may.
    async fn written(&self, machine: Machine) -> Machine {
        let put = Transaction::new().put(key(&machine.id), bytes(&machine));
        let done = self.evil.commit(put).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
        let stored = self.store.get(&key(&machine.id)).await.unwrap().unwrap();
        serde_json::from_slice(&stored.value).unwrap()
    }

    async fn refused_of_mine(&self, what: &str, change: impl FnOnce(&mut Machine)) {
        let mut machine = self.mine.clone();
        change(&mut machine);
        // As consistent as a careful thief would make it.
        let machine = said(&self.mine, machine);
        let put = Transaction::new().put(key(&machine.id), bytes(&machine));
        self.refused(what, put).await;
    }

    /// What the cloud itself writes.
    async fn write(&self, transaction: Transaction) {
        let done = self.store.commit(transaction).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
    }

    /// What was told of a machine.
    fn events_of(&self, machine: &Machine) -> Vec<String> {
        let events = self
            .documents
            .events
            .by_index("about", &machine.id.to_string());
        let state = |name: &str, event: &Event| event.content[name].as_str().unwrap().to_owned();
        let of = events
            .iter()
            .map(|event| format!("{} to {}", state("previous", event), state("state", event)));
        of.collect()
    }

    /// All documents but what the gateway itself notes down of its peers.
    async fn everything(&self) -> Vec<store::Entry> {
        let all = Range::prefix(&Prefix::everything());
        let mut entries = self.store.range(all).await.unwrap().entries;
        entries.retain(|entry| entry.key.collection() != "GatewayLease");
        entries
    }
}

async fn listen(gateway: Arc<Gateway>, peer: &str, port: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Peer::named(peer);
    port.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((connection, _)) = listener.accept().await {
            let (gateway, peer) = (Arc::clone(&gateway), peer.clone());
            let answer = hyper::service::service_fn(move |request| {
                let (gateway, peer) = (Arc::clone(&gateway), peer.clone());
                async move { Ok::<_, Infallible>(gateway.answer(peer, request).await) }
            });
            connections.spawn(async move {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(connection), answer)
                    .await;
            });
        }
    });
    format!("http://{address}")
}

fn placed(vmid: u32, host: Option<&HostId>) -> Machine {
    let mut machine = testing::machine(vmid);
    machine.host = host.cloned();
    machine.desired.power = Power::On;
    machine.desired.run = 1;
    machine.settle();
    machine
}

/// What is said of a machine, as a host writes it.
fn said(before: &Machine, mut machine: Machine) -> Machine {
    machine.settle();
    let later = Timestamp::from_millis(before.common.updated.as_millis() + 1);
    machine.common.updated = Timestamp::now().max(later);
    machine.use_anew(before, machine.common.updated);
    machine
}

fn long_ago() -> Timestamp {
    serde_json::from_str(r#""2001-01-01T00:00:00.000Z""#).unwrap()
}

fn key(id: impl ToString) -> Key {
    id.to_string().parse().unwrap()
}

fn bytes<R: Resource + serde::Serialize>(document: &R) -> Vec<u8> {
    serde_json::to_vec(document).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sees_itself_and_its_machines() {
    let world = World::new().await;
    let everything = Range::prefix(&Prefix::everything());
    let page = world.evil.range(everything).await.unwrap();
    let mut seen: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
    seen.sort();
    let mut own = [key(&world.own.id), key(&world.mine.id)];
    own.sort();
    assert_eq!(seen, own);
    for hidden in [
        key(&world.other.id),
        key(&world.theirs.id),
        key(&world.unplaced.id),
        key("User/ada"),
    ] {
        assert_eq!(world.evil.get(&hidden).await.unwrap(), None, "{hidden}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sees_the_security_groups_of_its_machines_and_changes_none() {
    let world = World::new().await;
    let group = || SecurityGroup {
        id: SecurityGroupId::generate(),
        common: Common::new(Acl::owned_by_user("ada"), Timestamp::now()),
        rules: Vec::new(),
        reached: std::collections::BTreeMap::new(),
        problem: None,
        leaving: false,
        unknown: serde_json::Map::new(),
    };
    let (in_it, other) = (group(), group());
    let mut machine = world.mine.clone();
    machine.security_groups = vec![cimi::Ref::to(in_it.id.clone())];
    let made = Transaction::new()
        .put(key(&in_it.id), bytes(&in_it))
        .put(key(&other.id), bytes(&other))
        .put(key(&machine.id), bytes(&machine));
    world.write(made).await;
    let of = key(&in_it.id);
    let seen = async {
        while world.evil.get(&of).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, seen).await.unwrap();
    let hidden = world.evil.get(&key(&other.id)).await.unwrap();
    assert_eq!(hidden, None);
    let mut open = in_it.clone();
    open.leaving = true;
    let put = Transaction::new().put(of.clone(), bytes(&open));
    world.refused("its group", put).await;
    // Nor does it put a machine into another one, or take it out.
    let mut moved = machine.clone();
    moved.security_groups = vec![cimi::Ref::to(other.id.clone())];
    let moved = said(&machine, moved);
    let put = Transaction::new().put(key(&moved.id), bytes(&moved));
    world.refused("its machine's groups", put).await;
    let mut free = machine.clone();
    free.security_groups.clear();
    let written = world.written(said(&machine, free)).await;
    assert_eq!(written.security_groups, machine.security_groups);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reports_what_it_observed() {
    let world = World::new().await;
    let read = world.evil.get(&key(&world.mine.id)).await.unwrap().unwrap();
    let mut machine = world.mine.clone();
    machine.observed.stage = Stage::Running;
    machine.observed.run = 1;
    machine.observed.since = Timestamp::now();
    machine.first_started = Some(machine.observed.since);
    machine.reason = Some("all is well".to_owned());
    let machine = said(&world.mine, machine);
    let mut own = world.own.clone();
    own.capacity.disk_free_bytes = 17;
    own.runs_machines = true;
    let report = Transaction::new()
        .revision_is(&read.key, read.revision)
        .put(read.key.clone(), bytes(&machine))
        .put(key(&own.id), bytes(&own));
    let done = world.evil.commit(report).await.unwrap();
    let Outcome::Committed(at) = done else {
        panic!("{done:?}");
    };
    let stored = world.store.get(&read.key).await.unwrap().unwrap();
    assert_eq!(stored.value, bytes(&machine));
    world.documents.wait_for(at).await.unwrap();

    // What follows is written with it: what became of the machine, and what it used.
    assert_eq!(world.events_of(&machine), ["Prolog to Running"]);
    let running = machine.clone();
    let mut ended = machine;
    ended.observed.stage = Stage::Waiting;
    let ended = said(&running, ended);
    let read = world.evil.get(&read.key).await.unwrap().unwrap();
    let report = Transaction::new()
        .revision_is(&read.key, read.revision)
        .put(read.key.clone(), bytes(&ended));
    let done = world.evil.commit(report).await.unwrap();
    let Outcome::Committed(at) = done else {
        panic!("{done:?}");
    };
    world.documents.wait_for(at).await.unwrap();
    assert_eq!(world.events_of(&ended).len(), 2);
    let used = world.documents.usage(None, long_ago(), None, 9);
    let used = used.await.unwrap().records;
    let since: Vec<_> = used.iter().map(|record| record.used.start).collect();
    assert_eq!(since, [running.running_since.unwrap()]);
    assert_eq!(used[0].end, ended.common.updated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_clock_is_not_ahead() {
    let world = World::new().await;
    let mut machine = said(&world.mine, world.mine.clone());
    machine.common.updated = Timestamp::from_millis(Timestamp::now().as_millis() + 120_000);
    let put = Transaction::new().put(key(&machine.id), bytes(&machine));
    world.refused("of a time to come", put).await;

    // What an entry wrote whose own clock was ahead keeps nobody from going on.
    let mut ahead = world.mine.clone();
    ahead.common.updated = machine.common.updated;
    let put = Transaction::new().put(key(&ahead.id), bytes(&ahead));
    world.write(put).await;
    let next = said(&ahead, ahead.clone());
    let put = Transaction::new().put(key(&next.id), bytes(&next));
    let done = world.evil.commit(put).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
    let mut later = said(&next, next.clone());
    later.common.updated = later.common.updated.after(Duration::from_secs(1));
    let put = Transaction::new().put(key(&later.id), bytes(&later));
    world.refused("later still", put).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sees_what_its_machines_need_as_long_as_they_are_there() {
    let world = World::new().await;
    let id = world.mine.image.as_ref().unwrap().href.clone();
    let image = key(&id);
    let needed = Image {
        id,
        ..testing::image()
    };
    let other = testing::image();
    let put = Transaction::new()
        .put(image.clone(), bytes(&needed))
        .put(key(&other.id), bytes(&other));
    world.write(put).await;
    assert!(world.evil.get(&image).await.unwrap().is_some());
    assert!(world.evil.get(&key(&other.id)).await.unwrap().is_none());
    let put = Transaction::new().put(image.clone(), bytes(&needed));
    world.refused("what it needs", put).await;

    let mut elsewhere = world.mine.clone();
    elsewhere.host = Some(world.other.id.clone());
    let put = Transaction::new().put(key(&elsewhere.id), bytes(&elsewhere));
    world.write(put).await;
    assert!(world.evil.get(&image).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_machine_that_is_saved_it_sees_the_image_and_makes_none() {
    let world = World::new().await;
    let (image, other) = (testing::image(), testing::image());
    let put = Transaction::new()
        .put(key(&image.id), bytes(&image))
        .put(key(&other.id), bytes(&other));
    world.write(put).await;
    // That one of its machines is to be saved isn't its to say: so nobody asks it for a disk, and it sees no image by that.
    for saved in [&image.id, &other.id] {
        let claim = |machine: &mut Machine| machine.saved_as = Some(Ref::to(saved.clone()));
        world.refused_of_mine("to be saved", claim).await;
        assert!(world.evil.get(&key(saved)).await.unwrap().is_none());
    }
    let mut saved = world.mine.clone();
    saved.saved_as = Some(Ref::to(image.id.clone()));
    saved.desired.power = Power::Off;
    saved.settle();
    let put = Transaction::new().put(key(&saved.id), bytes(&saved));
    world.write(put).await;
    assert!(world.evil.get(&key(&image.id)).await.unwrap().is_some());
    assert!(world.evil.get(&key(&other.id)).await.unwrap().is_none());

    let mut made = image.clone();
    made.state = ImageState::Available;
    let put = Transaction::new().put(key(&made.id), bytes(&made));
    world.refused("the image, made", put).await;
    let delete = Transaction::new().delete(key(&image.id));
    world.refused("the image, gone", delete).await;
    let mut then = saved.clone();
    then.saved_as = Some(Ref::to(other.id.clone()));
    let then = said(&saved, then);
    let put = Transaction::new().put(key(&then.id), bytes(&then));
    world.refused("as another image", put).await;
    let mut then = saved.clone();
    then.saved_as = None;
    let written = world.written(said(&saved, then)).await;
    assert_eq!(written.saved_as, saved.saved_as, "nor as none");
    let delete = Transaction::new().delete(key(&saved.id));
    world.refused("the machine, before its time", delete).await;
}

/// With the machine goes what it held, in the transaction in which its host says that nothing of it is left there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_a_machine_that_is_to_go() {
    let world = World::new().await;
    let id = key(&world.mine.id);
    let remove = Transaction::new().delete(id.clone());
    world
        .refused("a machine that is to stay", remove.clone())
        .await;
    let remove_theirs = Transaction::new().delete(key(&world.theirs.id));
    world.refused("another's machine", remove_theirs).await;

    let mut going = world.mine.clone();
    going.desired.deleted = true;
    going.settle();
    let put = Transaction::new().put(id.clone(), bytes(&going));
    world.write(put).await;
    let done = world.evil.commit(remove).await.unwrap();
    let Outcome::Committed(at) = done else {
        panic!("{done:?}");
    };
    world.documents.wait_for(at).await.unwrap();
    assert!(world.store.get(&id).await.unwrap().is_none());
    let record = world.documents.machine_records.get("1").unwrap();
    assert_eq!(record.machine, world.mine.id);
    assert_eq!(world.events_of(&going).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_wants_nothing_for_its_machines() {
    let world = World::new().await;
    world
        .refused_of_mine("power", |m| m.desired.power = Power::Off)
        .await;
    world.refused_of_mine("size", |m| m.memory *= 2).await;
    world
        .refused_of_mine("owner", |m| m.common.acl.owner.principal = "eve".to_owned())
        .await;
    world
        .refused_of_mine("name", |m| m.common.name = Some("eve".to_owned()))
        .await;
    world
        .refused_of_mine("keys", |m| m.context.public_keys.push("key".to_owned()))
        .await;
    world
        .refused_of_mine("another host", |m| m.host = Some(world.other.id.clone()))
        .await;
    world
        .refused_of_mine("whether it is seen", |m| m.unseen_since = Some(long_ago()))
        .await;
    world.refused_of_mine("a run", |m| m.observed.run = 2).await;
    world
        .refused_of_mine("a restart", |m| m.observed.restart = 9)
        .await;
    world
        .refused_of_mine("time not used", |m| m.observed.since = long_ago())
        .await;
    let ahead = Timestamp::now().after(Duration::from_secs(30));
    world
        .refused_of_mine("what will be seen", |m| m.observed.since = ahead)
        .await;
    world
        .refused_of_mine("a start to come", |m| m.first_started = Some(ahead))
        .await;
    world
        .refused_of_mine("a refusal", |m| m.observed.refused = Some(long_ago()))
        .await;
    world
        .refused_of_mine("a text", |m| m.reason = Some("x".repeat(100_000)))
        .await;
    world
        .refused_of_mine("a field", |m| {
            m.unknown.insert("other".to_owned(), true.into());
        })
        .await;
    let mut padded = bytes(&world.mine);
    padded.extend([b' '; 1000]);
    let put = Transaction::new().put(key(&world.mine.id), padded);
    world.refused("spaces", put).await;
    let put = Transaction::new().put(key(&world.mine.id), "no JSON");
    world.refused("no document", put).await;
    let gone = Transaction::new().delete(key(&world.mine.id));
    world.refused("a removal", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_leaves_out_stays_and_states_are_what_the_cloud_makes_of_its_words() {
    let world = World::new().await;
    // Of a wish, of the machine's keys and of its interfaces there is something that an older version doesn't know, and its rules
    // have such a machine be off.
    let mut wanted = world.mine.clone();
    wanted.desired.restart = 1;
    wanted.desired.force = true;
    wanted.context.public_keys = vec!["a key".to_owned()];
    wanted.common.name = Some("web".to_owned());
    let wanted = said(&world.mine, wanted);
    let put = Transaction::new().put(key(&wanted.id), bytes(&wanted));
    world.write(put).await;
    until_seen(&world, &wanted).await;

    let mut ended = wanted.clone();
    ended.observed.stage = Stage::Ended {
        cause: EndCause::GuestShutdown,
    };
    ended.observed.run = 1;
    ended.observed.since = Timestamp::now();
    let ended = said(&wanted, ended);
    let mut by_an_older_one = serde_json::to_value(&ended).unwrap();
    let fields = by_an_older_one.as_object_mut().unwrap();
    fields["state"] = "STOPPED".into();
    fields["phase"] = "Unknown".into();
    fields.remove("name");
    fields.remove("context");
    fields.remove("host");
    let desired = fields["desired"].as_object_mut().unwrap();
    desired.remove("restart");
    desired.remove("force");
    let report = Transaction::new().put(
        key(&ended.id),
        serde_json::to_vec(&by_an_older_one).unwrap(),
    );
    let done = world.evil.commit(report).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
    let stored = world.store.get(&key(&ended.id)).await.unwrap().unwrap();
    assert_eq!(stored.value, bytes(&ended));
    assert_eq!(ended.state, MachineState::Starting, "it is to begin again");

    // What is wanted of the host itself stays likewise.
    let mut own = world.own.clone();
    (own.desired.apart, own.common.name) = (true, Some("node".to_owned()));
    world
        .write(Transaction::new().put(key(&own.id), bytes(&own)))
        .await;
    let mut report = serde_json::to_value(&own).unwrap();
    report["capacity"]["diskFreeBytes"] = 17.into();
    let fields = report.as_object_mut().unwrap();
    fields.remove("desired");
    fields.remove("name");
    let report = serde_json::to_vec(&report).unwrap();
    let done = world
        .evil
        .commit(Transaction::new().put(key(&own.id), report));
    assert!(matches!(done.await.unwrap(), Outcome::Committed(_)));
    let stored = world.store.get(&key(&own.id)).await.unwrap().unwrap();
    own.capacity.disk_free_bytes = 17;
    assert_eq!(stored.value, bytes(&own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_touches_nothing_of_others() {
    let world = World::new().await;
    for machine in [&world.theirs, &world.unplaced] {
        let mut taken = machine.clone();
        taken.host = Some(world.own.id.clone());
        taken.settle();
        let put = Transaction::new().put(key(&machine.id), bytes(&taken));
        world.refused("somebody's machine", put).await;
    }
    let mut other = world.other.clone();
    other.troubles.push("it burns".to_owned());
    let put = Transaction::new().put(key(&other.id), bytes(&other));
    world.refused("another host", put).await;
    let mut own = world.own.clone();
    own.desired.maintenance = true;
    let put = Transaction::new().put(key(&own.id), bytes(&own));
    world.refused("what is wanted of it", put).await;
    for everybodys in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let mut own = world.own.clone();
        own.tunnel = Some(everybodys.parse().unwrap());
        let put = Transaction::new().put(key(&own.id), bytes(&own));
        world.refused(everybodys, put).await;
    }
    let put = Transaction::new().put(key("User/eve"), r#"{"administrator":true}"#);
    world.refused("a user", put).await;
    let put = Transaction::new().put(key("Address/10.0.0.1"), "{}");
    world.refused("a lease of an address", put).await;

    // One forbidden write among allowed ones stops them all.
    let mut own = world.own.clone();
    own.capacity.disk_free_bytes = 18;
    let mixed = Transaction::new()
        .put(key(&own.id), bytes(&own))
        .put(key("User/eve"), "{}");
    world.refused("a mixture", mixed).await;
}

fn pulse(host: &HostId) -> HostPulse {
    HostPulse {
        id: HostPulseId::from_local(host.local()).unwrap(),
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_that_it_is_there_and_nothing_else_by_that() {
    let world = World::new().await;
    let own = pulse(&world.own.id);
    let lease = world.evil.grant(Duration::from_secs(10)).await.unwrap();
    let beat = Transaction::new().put_with_lease(key(&own.id), bytes(&own), lease);
    let done = world.evil.commit(beat).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
    assert!(world.evil.get(&key(&own.id)).await.unwrap().is_some());

    // With which nothing else ends that it may write.
    let (machine, own_host) = (bytes(&world.mine), bytes(&world.own));
    for (document, value) in [
        (key(&world.mine.id), machine),
        (key(&world.own.id), own_host),
    ] {
        let put = Transaction::new().put_with_lease(document, value, lease);
        world.refused("with a lease", put).await;
    }

    let other = pulse(&world.other.id);
    let put = Transaction::new().put(key(&other.id), bytes(&other));
    world.refused("another's pulse", put).await;
    let put = Transaction::new().put(key(&own.id), bytes(&other));
    world.refused("another's name", put).await;
    for change in [
        (|pulse| pulse.common.name = Some("eve".to_owned())) as fn(&mut HostPulse),
        |pulse| pulse.common.acl.owner.principal = "eve".to_owned(),
        |pulse| pulse.common.part_of = Some("x".to_owned()),
        |pulse| {
            let long = "x".repeat(100_000);
            pulse.common.properties.insert("k".into(), long);
        },
    ] {
        let mut more = own.clone();
        change(&mut more);
        let put = Transaction::new().put(key(&own.id), bytes(&more));
        world.refused("more than a pulse", put).await;
    }
    for hidden in ["HostIdentity", "HostToken", "HostAuthority"] {
        let hidden = format!("{hidden}/{}", world.own.id.local());
        let put = Transaction::new().put(key(&hidden), "{}");
        world.refused("by what hosts are known", put).await;
    }

    let gone = Transaction::new().delete(key(&own.id));
    let done = world.evil.commit(gone).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_machine_that_it_had_before_it_says_that_nothing_is_left_and_no_more() {
    let world = World::new().await;
    let mut moved = world.theirs.clone();
    moved.left_on = vec![world.own.id.clone()];
    let moved = said(&world.theirs, moved);
    let put = Transaction::new().put(key(&moved.id), bytes(&moved));
    world.write(put).await;
    // It sees what it is to clear away.
    let seen = wait_for(&world.evil, &key(&moved.id)).await;
    assert_eq!(seen, bytes(&moved));

    for change in [
        (|_| {}) as fn(&mut Machine),
        |machine| machine.observed.stage = Stage::Running,
        |machine| machine.desired.power = Power::Off,
        |machine| machine.host = Some(machine.left_on[0].clone()),
        |machine| machine.left_on.clear(),
    ] {
        let mut more = moved.clone();
        change(&mut more);
        let is_the_word = more.left_on.is_empty();
        if is_the_word {
            more.reason = Some("and more".to_owned());
        }
        let more = said(&moved, more);
        let put = Transaction::new().put(key(&moved.id), bytes(&more));
        world.refused("more than that nothing is left", put).await;
    }
    let gone = Transaction::new().delete(key(&moved.id));
    world.refused("its end", gone).await;

    let mut left = moved.clone();
    left.left_on.clear();
    left.common.updated =
        Timestamp::now().max(Timestamp::from_millis(moved.common.updated.as_millis() + 1));
    let put = Transaction::new().put(key(&left.id), bytes(&left));
    let done = world.evil.commit(put).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
    assert_eq!(world.evil.get(&key(&moved.id)).await.unwrap(), None);
}

/// What the gateway shows once it has seen it.
async fn wait_for(store: &EtcdStore, key: &Key) -> Vec<u8> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(entry) = store.get(key).await.unwrap() {
            return entry.value.to_vec();
        }
        assert!(tokio::time::Instant::now() < deadline, "{key}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_machine_that_comes_to_it_it_says_that_it_is_ready_and_has_its_files_and_no_more() {
    let world = World::new().await;
    let since = Timestamp::now();
    let mut coming = world.theirs.clone();
    coming.desired.moving = Some(Moving {
        to: Some(world.own.id.clone()),
        ..Moving::asked(since)
    });
    let coming = said(&world.theirs, coming);
    let put = Transaction::new().put(key(&coming.id), bytes(&coming));
    world.write(put).await;
    wait_for(&world.evil, &key(&coming.id)).await;

    let moving = |machine: &mut Machine, change: fn(&mut Moving)| {
        change(machine.desired.moving.as_mut().unwrap());
    };
    for change in [
        |machine: &mut Machine| machine.host = machine.moving_to().cloned(),
        |machine| machine.observed.stage = Stage::Running,
        |machine| machine.desired.power = Power::Off,
        |machine| machine.reason = Some("mine".to_owned()),
    ] as [fn(&mut Machine); 4]
    {
        let mut more = coming.clone();
        moving(&mut more, |moving| moving.ready = true);
        change(&mut more);
        let put = Transaction::new().put(key(&coming.id), bytes(&said(&coming, more)));
        world.refused("more than that it is ready", put).await;
    }
    // Not before it stands still.
    let mut early = coming.clone();
    moving(&mut early, |moving| {
        (moving.ready, moving.arrived) = (true, true);
    });
    let put = Transaction::new().put(key(&coming.id), bytes(&said(&coming, early)));
    world.refused("files of a machine that runs", put).await;

    let told = async |before: &Machine, after: Machine| {
        let after = said(before, after);
        let put = Transaction::new().put(key(&after.id), bytes(&after));
        let done = world.evil.commit(put).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
        after
    };
    let mut ready = coming.clone();
    moving(&mut ready, |moving| moving.ready = true);
    let ready = told(&coming, ready).await;
    let mut left = ready.clone();
    left.observed.left_for = Some(since);
    let left = said(&ready, left);
    let put = Transaction::new().put(key(&left.id), bytes(&left));
    world.write(put).await;
    until_seen(&world, &left).await;
    let mut arrived = left.clone();
    moving(&mut arrived, |moving| moving.arrived = true);
    told(&left, arrived).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_machine_whose_guest_runs_on_its_way_it_says_what_is_of_that_way_and_no_more() {
    let world = World::new().await;
    let since = Timestamp::now();
    let mut coming = world.theirs.clone();
    coming.desired.moving = Some(Moving {
        live: true,
        to: Some(world.own.id.clone()),
        ready: true,
        ..Moving::asked(since)
    });
    let coming = said(&world.theirs, coming);
    let put = Transaction::new().put(key(&coming.id), bytes(&coming));
    world.write(put).await;
    until_seen(&world, &coming).await;
    // It may have arrived before its host has said that it has left, and is that host's all the same.
    let mut arrived = coming.clone();
    arrived.desired.moving.as_mut().unwrap().arrived = true;
    let mut taken = arrived.clone();
    taken.host = taken.moving_to().cloned();
    let put = Transaction::new().put(key(&coming.id), bytes(&said(&coming, taken)));
    world.refused("a machine that has arrived", put).await;
    let arrived = said(&coming, arrived);
    let put = Transaction::new().put(key(&coming.id), bytes(&arrived));
    let done = world.evil.commit(put).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");

    // Of its own it says nothing of ways that nobody wanted.
    let other = Timestamp::from_millis(since.as_millis() - 5);
    for change in [
        |machine: &mut Machine, way| machine.observed.left_for = Some(way),
        |machine, way| machine.observed.stays = Some(way),
        |machine, way| machine.observed.at_rest = Some(way),
    ] as [fn(&mut Machine, Timestamp); 3]
    {
        let mut odd = world.mine.clone();
        change(&mut odd, other);
        let put = Transaction::new().put(key(&odd.id), bytes(&said(&world.mine, odd)));
        world.refused("another way", put).await;
    }
}

/// Waits until the gateway shows a machine so.
async fn until_seen(world: &World, machine: &Machine) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while wait_for(&world.evil, &key(&machine.id)).await != bytes(machine) {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

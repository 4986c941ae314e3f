//! The door for hosts, over real TLS in front of the real rules and a real database: who joins, who gets in, who sees what.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

pub(crate) mod world;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cimi::{
    Timestamp,
    model::Kind,
    resources::{Host, Resource as _},
    testing as documents_of,
};
use cloud::testing;
use documents::Documents;
use http_body_util::Full;
use serde_json::{Value, json};
use store::{
    Key, Outcome, Prefix, Range, SharedStore, SqliteStore, Store as _, StoreError, Transaction,
};
use tokio::time::timeout;
use trust::{
    HostKey, JOIN_PATH, JoinRequest, JoinToken, REMOVED, RENEW_PATH, RenewRequest, SERVER_NAME,
};

use self::world::{
    World, ask, config, is_admitted, machine_on, open_cloud, open_connection, seen, until,
};
use crate::support::client::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_sees_its_own_and_is_cut_off_when_it_is_removed() {
    let world = World::start().await;
    let (joined, key, _) = world.host("node1").await;
    let (other, _, _) = world.host("node2").await;
    let (mine, theirs) = (machine_on(&joined.host), machine_on(&other.host));
    for machine in [&mine, &theirs] {
        world
            .put(&machine.id, serde_json::to_vec(machine).unwrap())
            .await;
    }
    let store = world.connect(&joined, &key).await.unwrap();
    assert_eq!(
        seen(&store).await,
        [joined.host.clone(), mine.id.to_string()]
    );

    // By name, too: neither the authority's key, nor what hosts are known by, nor users.
    let local = joined.host.strip_prefix("Host/").unwrap();
    let digest = world.cloud.documents().host_tokens.all();
    for hidden in [
        "HostAuthority/own".to_owned(),
        format!("HostIdentity/{local}"),
        digest.first().unwrap().document.id.to_string(),
        "User/root".to_owned(),
        other.host.clone(),
        theirs.id.to_string(),
    ] {
        let key: Key = hidden.parse().unwrap();
        assert!(world.store.get(&key).await.unwrap().is_some(), "{hidden}");
        assert!(store.get(&key).await.unwrap().is_none(), "{hidden}");
        let put = store
            .commit(Transaction::new().put(key.clone(), "{}"))
            .await;
        assert!(
            matches!(put, Err(StoreError::Refused { .. })),
            "{hidden}: {put:?}"
        );
        let gone = store.commit(Transaction::new().delete(key)).await;
        assert!(
            matches!(gone, Err(StoreError::Refused { .. })),
            "{hidden}: {gone:?}"
        );
    }

    // It reports itself, and can't make itself a host for machines.
    let reported = Documents::open(Arc::new(store)).await.unwrap();
    let mut host = reported.hosts.get(local).unwrap().document.0.clone();
    host.capacity.cpus = 12;
    host.boot_id = "boot".into();
    let read = reported.hosts.get(local).unwrap();
    reported
        .changes()
        .replace(&read, host.clone())
        .commit()
        .await
        .unwrap();
    let mut closed = host.clone();
    closed.desired.maintenance = true;
    let read = reported.hosts.get(local).unwrap();
    let refused = reported.changes().replace(&read, closed).commit().await;
    assert!(refused.is_err(), "{refused:?}");
    // What it leaves out of that stays.
    host.desired.apart = false;
    let written = reported.changes().replace(&read, host).commit().await;
    assert!(written.is_ok(), "{written:?}");
    assert!(reported.hosts.get(local).unwrap().desired.apart);

    // A watch that goes on when the host is removed ends, and nothing is to be had from then on.
    let store = world.connect(&joined, &key).await.unwrap();
    let at = store
        .range(Range::prefix(&Prefix::everything()))
        .await
        .unwrap();
    let mut watch = store
        .watch(Prefix::everything(), at.revision)
        .await
        .unwrap();
    let gone = Transaction::new().delete(mine.id.to_string().parse().unwrap());
    let gone = world.store.commit(gone).await.unwrap();
    assert!(matches!(gone, Outcome::Committed(_)), "{gone:?}");
    let told = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(told.changes.len(), 1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world
        .cloud
        .documents()
        .machines
        .get(mine.local_id())
        .is_some()
    {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    world.remove(&joined).await;
    let is_told = |error: &StoreError| matches!(error, StoreError::Refused { reason, .. } if reason.contains(REMOVED));
    let again = world.connect(&joined, &key).await.unwrap_err();
    assert!(is_told(&again), "{again:?}");
    // What had a connection hears it at the latest when it has another.
    until("it is told", async || {
        store
            .get(&joined.host.parse().unwrap())
            .await
            .err()
            .filter(is_told)
    })
    .await;
    // The other one isn't harmed.
    assert!(
        world
            .cloud
            .documents()
            .hosts
            .get(other.host.strip_prefix("Host/").unwrap())
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_ends_with_its_host() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let key = key.to_pem();
    let config = config(&token, Some((&joined.certificate, &key)));
    let (sender, mut connection) = open_connection(world.running.address, config).await;
    // Admitted, as it goes on.
    let goes_on = timeout(Duration::from_millis(500), &mut connection).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    world.remove(&joined).await;
    // At once: well before it would look by itself.
    timeout(Duration::from_secs(20), connection)
        .await
        .unwrap()
        .unwrap();
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_host_in_once() {
    let world = World::start().await;
    let token = world.token(json!({"name": "rack1-3", "hours": 2})).await;
    let key = HostKey::generate().unwrap();
    // Wrong clocks use nothing up.
    let slow = Timestamp::from_millis(Timestamp::now().as_millis() - 600_000);
    let refused = world.join_at(&token, &key, "x", slow).await.unwrap_err();
    assert!(
        refused.starts_with("409") && refused.contains("behind the cloud's"),
        "{refused}"
    );
    let joined = world.join(&token, &key, "x").await.unwrap();
    assert_eq!(joined.name, "rack1-3");
    let id = joined.host.strip_prefix("Host/").unwrap();
    let host = world.cloud.documents().hosts.get(id).unwrap();
    assert!(host.desired.apart);

    // The answer was lost: by the same key it comes again, and there is one host.
    let again = world.join(&token, &key, "x").await.unwrap();
    assert_eq!(again.host, joined.host);
    assert_eq!(world.cloud.documents().hosts.len(), 1);
    let thief = HostKey::generate().unwrap();
    let refused = world.join(&token, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("used already"),
        "{refused}"
    );

    // Another host of the name; a name that is none; a secret that nobody made.
    let second = world.token(json!({})).await;
    let refused = world.join(&second, &thief, "rack1-3").await.unwrap_err();
    assert!(
        refused.starts_with("409") && refused.contains("there is a host"),
        "{refused}"
    );
    let refused = world.join(&second, &thief, "../x").await.unwrap_err();
    assert!(refused.starts_with("400"), "{refused}");
    let unknown = JoinToken {
        secret: trust::JoinSecret::generate().unwrap(),
        ..token.clone()
    };
    let refused = world.join(&unknown, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("no such token"),
        "{refused}"
    );

    // Expired.
    let kept = world
        .cloud
        .documents()
        .host_tokens
        .get(&second.secret.digest())
        .unwrap();
    let mut old = kept.document.0.clone();
    old.expires = Timestamp::from_millis(0);
    world.put(&old.id, serde_json::to_vec(&old).unwrap()).await;
    let refused = world.join(&second, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("has expired at 1970"),
        "{refused}"
    );

    // Whose host was removed, that one doesn't come back by its old token.
    world.remove(&joined).await;
    let refused = world.join(&token, &key, "x").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("used already"),
        "{refused}"
    );

    // Nothing that is kept has the secret.
    let secret = serde_json::to_string(&token.secret).unwrap();
    let everything = world
        .store
        .range(Range::prefix(&Prefix::everything()))
        .await
        .unwrap();
    for entry in everything.entries {
        let text = String::from_utf8_lossy(&entry.value);
        assert!(!text.contains(secret.trim_matches('"')), "{}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_as_long_as_who_made_it_could_make_another() {
    let world = World::start().await;
    let edit = async |change: Value| {
        let changes = testing::object(change).into_iter();
        let changes = changes.map(|(name, value)| (name, Some(value))).collect();
        let edited = world.cloud.edit(&world.root, Kind::User, "eve", changes);
        edited.await.unwrap();
    };
    let make = async || {
        let body = json!({"username": "eve", "password": "correct horse", "roles": ["::ADMIN"]});
        let made = world
            .cloud
            .create(&world.root, Kind::User, testing::object(body));
        made.await.unwrap();
    };
    let eve = testing::caller("eve", &["::ADMIN"]);
    let token = async || -> JoinToken {
        let made = world
            .cloud
            .create_host_token(&eve, &testing::object(json!({})))
            .await;
        made.unwrap()["token"].as_str().unwrap().parse().unwrap()
    };
    let key = HostKey::generate().unwrap();
    let refused = async |token: &JoinToken| {
        let refused = world.join(token, &key, "node1").await.unwrap_err();
        assert!(
            refused.starts_with("403") && refused.contains("eve, who made it"),
            "{refused}"
        );
    };
    make().await;
    let old = token().await;
    edit(json!({"password": "another horse"})).await;
    refused(&old).await;
    let old = token().await;
    edit(json!({"roles": []})).await;
    refused(&old).await;
    // Also of somebody else of the name, who was not changed more often.
    world.cloud.delete_user(&world.root, "eve").await.unwrap();
    refused(&old).await;
    make().await;
    let first = token().await;
    world.cloud.delete_user(&world.root, "eve").await.unwrap();
    make().await;
    refused(&first).await;
    world.join(&token().await, &key, "node1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_without_their_secret_and_withdrawn_until_they_are_used() {
    let world = World::start().await;
    let shown = || {
        let listed = world.cloud.host_tokens(&world.root).unwrap();
        listed["tokens"].as_array().unwrap().clone()
    };
    let used = world.host("node1").await.2.secret.digest();
    assert!(shown().is_empty(), "{:?}", shown());
    let token = world.token(json!({"name": "node2"})).await;
    let listed = shown();
    let [listed] = &*listed else {
        panic!("{listed:?}")
    };
    assert_eq!(
        (&listed["user"], &listed["name"]),
        (&json!("root"), &json!("node2"))
    );
    let secret = serde_json::to_string(&token.secret).unwrap();
    assert!(
        !listed.to_string().contains(secret.trim_matches('"')),
        "{listed}"
    );

    let id = listed["id"].as_str().unwrap();
    let anybody = testing::caller("joe", &[]);
    assert!(world.cloud.host_tokens(&anybody).is_err());
    world
        .cloud
        .withdraw_host_token(&anybody, id)
        .await
        .unwrap_err();
    world
        .cloud
        .withdraw_host_token(&world.root, id)
        .await
        .unwrap();
    assert!(shown().is_empty(), "{:?}", shown());
    let key = HostKey::generate().unwrap();
    let refused = world.join(&token, &key, "node2").await.unwrap_err();
    assert!(refused.contains("no such token"), "{refused}");
    let withdrawn = world.cloud.withdraw_host_token(&world.root, &used);
    let refused = withdrawn.await.unwrap_err().to_string();
    assert!(refused.contains("has joined by this token"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_nothing_but_to_join() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let address = world.running.address;
    for path in [
        "/",
        "/cimi",
        "/renew",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Lease/LeaseGrant",
    ] {
        let (status, body) = ask(address, config(&token, None), path, &json!({}))
            .await
            .unwrap();
        assert_eq!((status, &*body), (404, &b""[..]), "{path}");
    }
    let (status, body) = ask(
        address,
        config(&token, None),
        JOIN_PATH,
        &json!({"secret": 1}),
    )
    .await
    .unwrap();
    assert_eq!((status, &*body), (400, &b""[..]));
    let long = json!({"secret": "x".repeat(1 << 20)});
    let refused = ask(address, config(&token, None), JOIN_PATH, &long).await;
    assert!(!matches!(refused, Ok((200, _))), "{refused:?}");

    // A user's certificate, by an authority of its own.
    let pair = rcgen::generate_simple_self_signed(vec!["joe".to_owned()]).unwrap();
    let users = config(
        &token,
        Some((&pair.cert.pem(), &pair.signing_key.serialize_pem())),
    );
    let refused = ask(address, users, "/etcdserverpb.KV/Range", &json!({})).await;
    assert!(refused.is_err(), "{refused:?}");

    // Who expects another authority says nothing to this entry.
    let other = JoinToken {
        authority: trust::Fingerprint::of(b"another"),
        ..token.clone()
    };
    let refused = ask(address, config(&other, None), JOIN_PATH, &json!({}))
        .await
        .unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");

    // Connections of one host are bounded; those of others are not concerned.
    let own = key.to_pem();
    let mut open = Vec::new();
    for _ in 0..8 {
        let config = config(&token, Some((&joined.certificate, &own)));
        let (mut sender, connection) = open_connection(address, config).await;
        assert!(is_admitted(&mut sender).await);
        open.push((sender, connection));
    }
    let config_of = config(&token, Some((&joined.certificate, &own)));
    let refused = ask(address, config_of, "/nothing", &json!({})).await;
    assert!(refused.is_err(), "{refused:?}");
    let (second, second_key, _) = world.host("node2").await;
    world.connect(&second, &second_key).await.unwrap();
    for (_, connection) in open {
        connection.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_the_key_that_has_joined() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let own = key.to_pem();
    let renew = async |key: &HostKey| {
        let asked = RenewRequest {
            request: key.request().unwrap(),
        };
        let config = config(&token, Some((&joined.certificate, &own)));
        ask(world.running.address, config, RENEW_PATH, &asked)
            .await
            .unwrap()
    };
    let (status, body) = renew(&key).await;
    assert_eq!(status, 200);
    let renewed: trust::Joined = serde_json::from_slice(&body).unwrap();
    assert_eq!(renewed.host, joined.host);
    assert_ne!(renewed.certificate, joined.certificate);
    assert!(renewed.expires >= joined.expires);
    for of in [&joined, &renewed] {
        let store = world.connect(of, &key).await.unwrap();
        assert_eq!(seen(&store).await, std::slice::from_ref(&joined.host));
    }
    let (status, _) = renew(&HostKey::generate().unwrap()).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hosts_ask_for_is_written_down_also_if_they_do_not_wait() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let other = HostKey::generate().unwrap();
    world.join(&token, &other, "node2").await.unwrap_err();
    let by = format!("HostToken/{}", token.secret.digest());
    let told = world.audit.0.lock().unwrap().clone();
    let [let_in, refused] = &*told else {
        panic!("{told:?}")
    };
    assert_eq!(
        (
            let_in.user.as_deref(),
            let_in.authenticated_by,
            &*let_in.path
        ),
        (Some("root"), Some("host-token"), JOIN_PATH)
    );
    assert_eq!(
        (let_in.token.as_ref(), let_in.made.as_ref(), let_in.status),
        (Some(&by), Some(&joined.host), 200)
    );
    // Whoever tried in vain need not be whom the token was made for.
    assert_eq!(
        (
            refused.user.as_deref(),
            refused.token.as_ref(),
            refused.status
        ),
        (None, Some(&by), 403)
    );

    // All the connections that the host gets, so that it is seen when one of them has ended.
    let own = key.to_pem();
    let connect = async || {
        let config = config(&token, Some((&joined.certificate, &own)));
        open_connection(world.running.address, config).await
    };
    let mut others = Vec::new();
    for _ in 0..7 {
        let mut other = connect().await;
        assert!(is_admitted(&mut other.0).await);
        others.push(other);
    }
    let (mut sender, connection) = connect().await;
    assert!(is_admitted(&mut sender).await);
    world.gates.writing.close();
    let asked = RenewRequest {
        request: key.request().unwrap(),
    };
    let body = Full::new(Bytes::from(serde_json::to_vec(&asked).unwrap()));
    let request = http::Request::post(format!("https://{SERVER_NAME}{RENEW_PATH}"));
    let answer = sender.send_request(request.body(body).unwrap());
    until("it is about to be written", async || {
        (world.gates.writing.came() > 0).then_some(())
    })
    .await;
    drop(answer);
    connection.abort();
    until(
        "the connection has ended at the other end, too",
        async || {
            let (mut next, connection) = connect().await;
            let admitted = is_admitted(&mut next).await;
            connection.abort();
            admitted.then_some(())
        },
    )
    .await;
    world.gates.writing.open();
    let renewed = until("it is written down", async || {
        world.audit.0.lock().unwrap().get(2).cloned()
    })
    .await;
    assert_eq!(
        (renewed.about.as_ref(), &*renewed.path, renewed.status),
        (Some(&joined.host), RENEW_PATH, 200)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_long_to_read_is_read_once_for_hosts() {
    let world = World::start().await;
    world.gates.reading.close();
    let (joined, key, _) = world.host("node1").await;
    let short = Duration::from_millis(300);
    for _ in 0..3 {
        let late = world.connect_within(&joined, &key, short).await;
        assert!(late.is_err(), "{late:?}");
    }
    world.gates.reading.open();
    world.connect(&joined, &key).await.unwrap();
    assert_eq!(world.gates.reading.came(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_begin_at_once_have_one_authority() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
    let (one, other) = (
        open_cloud(store.clone()).await,
        open_cloud(store.clone()).await,
    );
    let root = testing::caller("root", &["::ADMIN"]);
    let body = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"]});
    one.create(&root, Kind::User, testing::object(body))
        .await
        .unwrap();
    other
        .documents()
        .wait_for(one.documents().revision())
        .await
        .unwrap();
    let empty = testing::object(json!({}));
    let (first, second) = tokio::join!(
        one.create_host_token(&root, &empty),
        other.create_host_token(&root, &empty)
    );
    let token = |made: cloud::Result<Value>| -> JoinToken {
        made.unwrap()["token"].as_str().unwrap().parse().unwrap()
    };
    let (first, second) = (token(first), token(second));
    assert_eq!(first.authority, second.authority);
    assert_ne!(first.secret, second.secret);
    // What was made through one entry is good at the other at once.
    let asked = JoinRequest {
        secret: first.secret,
        request: HostKey::generate().unwrap().request().unwrap(),
        name: "node1".into(),
        time: Timestamp::now(),
    };
    let joined = other.join_host(&root, &asked).await.unwrap();
    assert!(joined.host.starts_with("Host/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_the_daemon_itself_is_not_removed() {
    let world = World::start().await;
    let own: Host = documents_of::host();
    world.put(&own.id, serde_json::to_vec(&own).unwrap()).await;
    let refused = world
        .cloud
        .delete(&world.root, Kind::Host, own.local_id())
        .await;
    assert!(refused.unwrap_err().to_string().contains("did not join"));
    let (joined, ..) = world.host("node1").await;
    let machine = machine_on(&joined.host);
    world
        .put(&machine.id, serde_json::to_vec(&machine).unwrap())
        .await;
    let id = joined.host.strip_prefix("Host/").unwrap();
    let refused = world.cloud.delete(&world.root, Kind::Host, id).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("a machine is on ")
    );
    let anybody = testing::caller("joe", &[]);
    let refused = world.cloud.delete(&anybody, Kind::Host, id).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("only administrators")
    );
    assert!(world.folder.path().exists());
}

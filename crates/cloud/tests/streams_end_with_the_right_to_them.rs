//! What is followed is followed as long as the same request would be granted, and no longer.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::Method;
use async_trait::async_trait;
use bytes::Bytes;
use cimi::{
    MachineId, Timestamp,
    model::Kind,
    resources::{Session, Token},
};
use cloud::{
    Caller, Check, Console, ConsoleRange, HostServices, OpContext, Result, Since, Watched,
    Watching,
    people::NewSession,
    testing::{self, PATIENCE},
};
use documents::DocumentsError;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    bare_cloud::{World, admin, user},
    people_world::accounts,
};

/// Consoles that say one thing, and nothing after that for ever.
struct Quiet;

#[async_trait]
impl HostServices for Quiet {
    async fn console(&self, _machine: &MachineId, _range: ConsoleRange) -> Result<Console> {
        let said = stream::iter([Ok(Bytes::from_static(b"login: "))]);
        Ok(Console {
            start: 0,
            content: Box::pin(said.chain(stream::pending())),
        })
    }

    async fn doctor(&self, _repair: bool) -> Result<Vec<Value>> {
        Ok(Vec::new())
    }

    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

/// How alice has shown who she is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Password,
    Token,
    Session,
}

struct Alice {
    who: OpContext,
    token: Option<String>,
    session: Option<String>,
}

async fn world() -> World {
    let world = World::hosted(testing::settings(), Arc::new(Quiet)).await;
    let group = json!({"groupname": "physics"});
    world.create(&admin(), Kind::Group, group).await.unwrap();
    world.user("root", &["::ADMIN"]).await;
    world.user("bob", &[]).await;
    world.user("alice", &["physics", "::ADMIN"]).await;
    world
}

async fn alice(world: &World, by: By) -> Alice {
    let logins = accounts(world);
    let password = logins.verify("alice", "correct horse", None).await.unwrap();
    let (mut token, mut session) = (None, None);
    let identity = match by {
        By::Password => password,
        By::Token => {
            let who = OpContext::new(Caller::User(password), "t".into(), PATIENCE);
            let made = world.create(&who, Kind::Token, json!({})).await.unwrap();
            let shown = made.view.document.attributes(made.view.right);
            token = Some(crate::bare_cloud::local(&made));
            let secret = shown.get("token").unwrap().as_str().unwrap();
            logins.by_token(secret, None, None).await.unwrap()
        }
        By::Session => {
            let new = NewSession {
                identity: &password,
                method: "password",
                address: None,
                agent: None,
                instead_of: None,
            };
            let secret = world.cloud.begin_session(&new).await.unwrap();
            let identity = logins.by_session(&secret, None).await.unwrap();
            session = Some(secret);
            identity
        }
    };
    Alice {
        who: OpContext::new(Caller::User(identity), "t".into(), PATIENCE),
        token,
        session,
    }
}

/// A machine of bob's that is shared with alice, as herself.
async fn shared(world: &World, right: &str) -> String {
    let machine = world.machine(&user("bob")).await;
    share(world, &machine, right).await;
    machine
}

async fn share(world: &World, machine: &str, right: &str) {
    let acl = json!({"acl": {"owner": {"principal": "bob", "type": "USER"},
        "rules": [{"principal": "alice", "type": "USER", "right": right}]}});
    let edited = world.edit(&user("bob"), Kind::Machine, machine, acl).await;
    edited.unwrap();
}

fn watch(world: &World, who: &OpContext) -> Watching {
    let watching = world.cloud.watch(who, Kind::Machine, None, Since::Now);
    watching.unwrap_or_else(|error| panic!("{error}"))
}

async fn follow(world: &World, who: &OpContext, machine: &str) -> Console {
    let range = ConsoleRange {
        follow: true,
        ..ConsoleRange::default()
    };
    world.cloud.console(who, machine, range).await.unwrap()
}

/// Reads on to the end, which is to come.
async fn ends<S: futures::Stream + Unpin>(mut stream: S, why: &str) {
    let to_the_end = async { while stream.next().await.is_some() {} };
    let ended = timeout(Duration::from_secs(60), to_the_end).await;
    assert!(ended.is_ok(), "it goes on: {why}");
}

/// Both streams have begun and go on; after `change` both end.
async fn both_end(
    world: &World,
    who: &OpContext,
    machine: &str,
    why: &str,
    change: impl AsyncFnOnce(),
) {
    let mut watching = watch(world, who);
    assert!(matches!(watching.next().await, Some(Watched::UpTo(_))));
    let mut console = follow(world, who, machine).await.content;
    let said = console.next().await.unwrap().unwrap();
    assert_eq!(said, &b"login: "[..]);
    let goes_on = Duration::from_millis(50);
    assert!(timeout(goes_on, watching.next()).await.is_err(), "{why}");
    assert!(timeout(goes_on, console.next()).await.is_err(), "{why}");
    change().await;
    ends(watching, why).await;
    ends(console, why).await;
}

#[tokio::test]
async fn streams_end_with_what_was_shown_and_with_the_account() {
    let world = world().await;
    let machine = shared(&world, "MODIFY").await;
    let edit = async |body: Value| {
        let edited = world.edit(&admin(), Kind::User, "alice", body).await;
        edited.unwrap();
    };
    let all =
        json!({"enabled": true, "roles": ["physics", "::ADMIN"], "password": "correct horse"});
    for by in [By::Password, By::Token, By::Session] {
        for (why, change) in [
            ("disabled", json!({"enabled": false})),
            ("out of the group", json!({"roles": ["::ADMIN"]})),
            ("no administrator", json!({"roles": ["physics"]})),
            ("another password", json!({"password": "battery staple"})),
        ] {
            edit(all.clone()).await;
            let alice = alice(&world, by).await;
            let why = format!("{by:?} {why}");
            both_end(&world, &alice.who, &machine, &why, async || {
                edit(change).await;
            })
            .await;
        }
    }
    edit(all.clone()).await;
    let by_token = alice(&world, By::Token).await;
    both_end(&world, &by_token.who, &machine, "revoked", async || {
        let id = by_token.token.clone().unwrap();
        let gone = world.cloud.delete(&user("alice"), Kind::Token, &id).await;
        gone.unwrap();
    })
    .await;
    let by_session = alice(&world, By::Session).await;
    both_end(
        &world,
        &by_session.who,
        &machine,
        "logged out",
        async || {
            let secret = by_session.session.clone().unwrap();
            world.cloud.end_session(&secret).await.unwrap();
        },
    )
    .await;
}

/// Nobody looks after sessions here: the streams themselves notice. That something is told is no use of the session.
#[tokio::test]
async fn streams_end_when_a_session_was_idle_for_too_long_or_a_login_expires() {
    let world = world().await;
    let machine = shared(&world, "MODIFY").await;
    let idle = testing::settings().people.sessions.idle;
    let moment = Duration::from_millis(300);
    let by_session = alice(&world, By::Session).await;
    let id = by_session.who.session().unwrap().local().to_owned();
    let used_before = async |ago: Duration| {
        let used = |session: &mut Session| {
            let ago = i64::try_from(ago.as_millis()).unwrap();
            session.last_used = Timestamp::from_millis(Timestamp::now().as_millis() - ago);
            Ok::<_, DocumentsError>(true)
        };
        world.documents.update(&id, used).await.unwrap();
    };
    used_before(idle / 2).await;
    both_end(&world, &by_session.who, &machine, "idle", async || {
        used_before(idle - moment).await;
    })
    .await;
    let by_session = alice(&world, By::Session).await;
    both_end(&world, &by_session.who, &machine, "for long", async || {
        let id = by_session.who.session().unwrap().local();
        let ends = |session: &mut Session| {
            session.expires = Timestamp::now().after(moment);
            Ok::<_, DocumentsError>(true)
        };
        world.documents.update(id, ends).await.unwrap();
    })
    .await;
    let by_token = alice(&world, By::Token).await;
    both_end(&world, &by_token.who, &machine, "expired", async || {
        let id = by_token.token.clone().unwrap();
        let expires = |token: &mut Token| {
            token.expires = Timestamp::now().after(moment);
            Ok::<_, DocumentsError>(true)
        };
        world.documents.update(&id, expires).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn streams_of_an_organisation_end_when_it_is_not_admitted_any_more() {
    let world = world().await;
    world.user("vo:atlas", &[]).await;
    let name = "CN=Joe,O=Example";
    let mut who = testing::caller(name, &["/atlas/production"]);
    if let Caller::User(identity) = &mut who.caller {
        Arc::make_mut(identity).method = Method::Voms;
    }
    let machine = world.machine(&who).await;
    both_end(&world, &who, &machine, "not admitted", async || {
        let change = json!({"enabled": false});
        let edited = world.edit(&admin(), Kind::User, "vo:atlas", change).await;
        edited.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_console_ends_when_it_is_shared_no_more_and_not_when_it_is_shared_otherwise() {
    let world = world().await;
    let roles = json!({"roles": ["physics"]});
    let edited = world.edit(&admin(), Kind::User, "alice", roles).await;
    edited.unwrap();
    let machine = shared(&world, "MODIFY").await;
    let alice = alice(&world, By::Password).await;
    let mut console = follow(&world, &alice.who, &machine).await.content;
    assert!(console.next().await.is_some());
    share(&world, &machine, "ALL").await;
    let more = timeout(Duration::from_millis(100), console.next()).await;
    assert!(more.is_err(), "she may follow it still");
    // Who may only see the machine may not see its console.
    share(&world, &machine, "VIEW").await;
    ends(console, "VIEW").await;
    share(&world, &machine, "MODIFY").await;
    let console = follow(&world, &alice.who, &machine).await.content;
    let acl = json!({"acl": {"owner": {"principal": "bob", "type": "USER"}}});
    let edited = world.edit(&user("bob"), Kind::Machine, &machine, acl).await;
    edited.unwrap();
    ends(console, "withdrawn").await;
}

/// All there is comes in pages, each once, be it more than one page.
#[tokio::test]
async fn everything_there_is_is_told_once_however_much_it_is() {
    let world = world().await;
    for _ in 0..600 {
        world.volume(&user("bob")).await;
    }
    for who in [user("bob"), admin()] {
        let watching = world
            .cloud
            .watch(&who, Kind::Volume, None, Since::Beginning);
        let mut watching = watching.unwrap();
        assert!(matches!(watching.next().await, Some(Watched::Reset)));
        let mut told = std::collections::BTreeSet::new();
        loop {
            match watching.next().await.unwrap() {
                Watched::Changed { now, before: None } => {
                    assert!(told.insert(now.id.clone()), "{} twice", now.id);
                }
                Watched::UpTo(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told.len(), 600);
    }
}

//! Users of a file: as their entries are, beside those who were made here.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing, LoginError, files};
use cimi::model::Kind;
use cloud::Imported;
use serde_json::json;

use crate::bare_cloud::{World, admin};

const SOURCE: &str = "login-pswd.properties";

async fn import(world: &World, text: &str) -> Imported {
    let entries = files::read(text.as_bytes()).unwrap();
    world.cloud.import_users(SOURCE, &entries).await.unwrap()
}

fn accounts(world: &World) -> Accounts {
    let settings = accounts::Settings {
        refused_after: Duration::ZERO,
        ..accounts::Settings::default()
    };
    let hashing = Hashing::with_cost(Cost::NONE);
    Accounts::new(Arc::new(world.cloud.clone()), hashing, settings)
}

#[tokio::test]
async fn entries_become_users_and_follow_the_file() {
    let world = World::start().await;
    let accounts = accounts(&world);
    let text = "joe=slpass,cloud-access,physics,::ADMIN\nann=MD5:6967a5f844587885660a976169adff2b,cloud-access\n\
        sam=slpass\na b=x\n";
    let text = text.replace("a b", "a\\ b");
    let done = import(&world, &text).await;
    let expected = Imported {
        made: 3,
        changed: 0,
        disabled: 0,
        skipped: 1,
    };
    assert_eq!(done, expected);
    let joe = accounts.verify("joe", "slpass", None).await.unwrap();
    assert_eq!(joe.roles, ["cloud-access", "physics"]);
    accounts.verify("ann", "slpass", None).await.unwrap();
    // Replaced by a stronger hash at the first login, and not again by the same entry.
    let kept = || {
        world
            .documents
            .users
            .get("ann")
            .unwrap()
            .password
            .clone()
            .unwrap()
    };
    assert!(kept().starts_with("$argon2id$"));
    let again = import(&world, &text).await;
    assert_eq!(
        again,
        Imported {
            skipped: 1,
            ..Imported::default()
        }
    );
    assert!(kept().starts_with("$argon2id$"));
    // Without the role of the cloud.
    let refused = accounts.verify("sam", "slpass", None).await;
    assert_eq!(refused, Err(LoginError::Wrong));

    let done = import(
        &world,
        "joe=another,cloud-access\nsam=slpass,cloud-access\n",
    )
    .await;
    assert_eq!(
        done,
        Imported {
            changed: 2,
            disabled: 1,
            ..Imported::default()
        }
    );
    assert!(accounts.recognise("joe", "slpass").is_none());
    assert!(accounts.recognise("ann", "slpass").is_none());
    assert_eq!(
        accounts.verify("joe", "slpass", None).await,
        Err(LoginError::Wrong)
    );
    let joe = accounts.verify("joe", "another", None).await.unwrap();
    assert_eq!(joe.roles, ["cloud-access"]);
    accounts.verify("sam", "slpass", None).await.unwrap();
    assert_eq!(
        accounts.verify("ann", "slpass", None).await,
        Err(LoginError::Wrong)
    );
    // Who comes back is there again.
    let done = import(
        &world,
        "joe=another,cloud-access\nann=slpass,cloud-access\n",
    )
    .await;
    assert_eq!(
        done,
        Imported {
            changed: 1,
            disabled: 1,
            ..Imported::default()
        }
    );
    accounts.verify("ann", "slpass", None).await.unwrap();
}

#[tokio::test]
async fn who_was_made_here_counts_and_what_administrators_do_lasts() {
    let world = World::start().await;
    world.user("joe", &[]).await;
    let text = "joe=slpass,cloud-access\nann=slpass,cloud-access\n";
    let done = import(&world, text).await;
    assert_eq!(
        done,
        Imported {
            made: 1,
            skipped: 1,
            ..Imported::default()
        }
    );
    let accounts = accounts(&world);
    assert!(accounts.verify("joe", "slpass", None).await.is_err());
    import(&world, "").await;
    assert!(world.documents.users.get("joe").unwrap().enabled);

    import(&world, text).await;
    let disable = json!({"enabled": false});
    world
        .edit(&admin(), Kind::User, "ann", disable)
        .await
        .unwrap();
    import(&world, text).await;
    assert!(accounts.verify("ann", "slpass", None).await.is_err());
    // The password is the file's.
    let password = json!({"password": "correct horse"});
    let refused = world.edit(&admin(), Kind::User, "ann", password).await;
    assert!(
        matches!(refused, Err(cloud::CloudError::Conflict(_))),
        "{refused:?}"
    );
}

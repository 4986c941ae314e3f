//! Images that are wanted by a name: one document for all who want the same, asked for anew after a failure.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use cimi::{
    common::USER_ROLE,
    model::Kind,
    resources::{Image, ImageSource, ImageState},
};
use cloud::{CloudError, OpContext, Retention, testing::caller};
use serde_json::{Value, json};

use crate::{
    image_finder::{ID, became, machine, wanted, with_finder},
    support::{World, admin, alice, bob, split, until, violations},
};

#[tokio::test]
async fn all_who_ask_for_an_identifier_share_one_image() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let world = &world;
    let reference = format!("MachineImage/{ID}");
    let users: Vec<_> = (0..10)
        .map(|n| caller(&format!("u{n}"), &[USER_ROLE]))
        .collect();
    let made = users
        .iter()
        .map(|user| world.create(user, Kind::Machine, machine(&reference)));
    for made in futures::future::join_all(made).await {
        made.unwrap();
    }
    let on_demand = world.documents.images.by_index("onDemand", "yes");
    let [image] = on_demand.as_slice() else {
        panic!("{} images", on_demand.len());
    };
    assert_eq!(image.desired.source, ImageSource::Marketplace);
    assert_eq!(image.identifier(), Some(ID));
    let id = image.id.to_string();
    assert_eq!(
        world
            .documents
            .machines
            .count_by_index("image", image.id.local()),
        10
    );
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["imageLocation"], format!("marketplace:{ID}"));
    assert_eq!(
        wanted(world, &bob(), &format!("https://m.example/metadata/{ID}"))
            .await
            .unwrap(),
        (id.clone(), true)
    );
    // It is nobody's to remove, and stays for its machines.
    for who in [alice(), admin()] {
        assert!(
            world
                .cloud
                .delete(&who, Kind::MachineImage, image.id.local())
                .await
                .is_err()
        );
    }
    // A failure is told to whoever made machines from it; who asks anew has it tried anew.
    became(world, &id, ImageState::Error).await;
    world
        .create(&bob(), Kind::Machine, machine(&reference))
        .await
        .unwrap();
    let read = world.documents.images.get(split(&id).1).unwrap();
    assert_eq!(
        (read.state, read.desired.attempt),
        (ImageState::Creating, 2)
    );
}

/// An image that somebody imported and that has come, all of the same content.
async fn imported(world: &World, who: &OpContext, more: Value) -> String {
    let mut body = json!({"imageLocation": "upload:"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let created = world.create(who, Kind::MachineImage, body).await.unwrap();
    let id = created.view.id.to_string();
    became(world, &id, ImageState::Available).await;
    let same_content = |image: &mut Image| {
        image.file.as_mut().unwrap().digests.identifier = Some(ID.to_owned());
        Ok::<_, CloudError>(true)
    };
    world
        .documents
        .update(split(&id).1, same_content)
        .await
        .unwrap();
    id
}

#[tokio::test]
async fn an_identifier_means_one_s_own_image_and_the_only_one_where_it_is_changed() {
    let world = World::start().await;
    let reference = format!("MachineImage/{ID}");
    let meant = |who: &OpContext| world.get(who, &reference)["id"].clone();
    let public = imported(&world, &bob(), json!({"visibility": "PUBLIC"})).await;
    assert_eq!(meant(&alice()), public);
    let own = imported(&world, &alice(), json!({})).await;
    // Whatever others publish later.
    let carol = caller("carol", &[USER_ROLE]);
    let newest = imported(&world, &carol, json!({"visibility": "PUBLIC"})).await;
    assert_eq!(meant(&alice()), own);
    assert_eq!(meant(&bob()), public);
    assert_eq!(meant(&caller("dave", &[USER_ROLE])), newest);

    // Two of one's own: they can be used, and are changed by their own names.
    let booted = imported(&world, &alice(), json!({"kernelArguments": "quiet"})).await;
    assert_eq!(meant(&alice()), booted);
    for refused in [
        world
            .put(&alice(), &reference, json!({"name": "x"}))
            .await
            .err(),
        world
            .cloud
            .delete(&alice(), Kind::MachineImage, ID)
            .await
            .err(),
    ] {
        let Some(CloudError::Conflict(text)) = refused else {
            panic!("{refused:?}");
        };
        assert!(text.contains(&own) && text.contains(&booted), "{text}");
        assert!(!text.contains(&public), "{text}");
    }
    let delete =
        async |who: &OpContext, id: &str| world.cloud.delete(who, Kind::MachineImage, id).await;
    delete(&alice(), split(&booted).1).await.unwrap();
    delete(&alice(), ID).await.unwrap();
    delete(&bob(), ID).await.unwrap();
    let is_going = |id: &str| {
        let image = world.documents.images.get(split(id).1);
        image.is_none_or(|image| image.desired.deleted)
    };
    assert!([&own, &booted, &public].into_iter().all(|id| is_going(id)));
    assert!(!is_going(&newest));
}

#[tokio::test]
async fn an_image_that_failed_is_meant_only_if_there_is_no_other() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let reference = format!("MachineImage/{ID}");
    let say = |why: Option<&str>| *finder.refusal.lock().unwrap() = why.map(str::to_owned);
    let body = json!({"imageLocation": "upload:", "expected": {"identifier": ID}});
    let created = world.create(&alice(), Kind::MachineImage, body).await;
    let failed = created.unwrap().view.id.to_string();
    became(&world, &failed, ImageState::Error).await;

    // Nowhere else: it says itself why it can't be used.
    say(Some("nobody has it"));
    let made = world
        .create(&alice(), Kind::Machine, machine(&reference))
        .await;
    let told = &violations(made)[0];
    assert!(
        told.contains(&failed) && told.contains("no such luck"),
        "{told}"
    );
    // What a Marketplace has is meant, as soon as it is on its way.
    say(None);
    let made = world
        .create(&alice(), Kind::Machine, machine(&reference))
        .await;
    made.unwrap();
    let on_demand = world.documents.images.by_index("onDemand", "yes");
    let coming = on_demand[0].id.to_string();
    assert_eq!(world.get(&alice(), &reference)["id"], coming);
}

#[tokio::test]
async fn machines_are_told_by_what_people_call_them() {
    let world = World::start().await;
    let image = imported(&world, &alice(), json!({"visibility": "PUBLIC"})).await;
    let mut body = machine(&image);
    body["name"] = json!("web");
    let web = world.made(&alice(), Kind::Machine, body).await;
    let number = world.get(&alice(), &web)["vmid"].clone();
    let conflict = |text: CloudError| match text {
        CloudError::Conflict(text) => text,
        other => panic!("{other:?}"),
    };
    let delete = async || {
        let deleted = world.cloud.delete(&alice(), Kind::MachineImage, ID).await;
        conflict(deleted.err().unwrap())
    };
    let told = delete().await;
    assert!(
        told.contains(&format!("machine {number} (web) needs it")),
        "{told}"
    );
    // Of others it is said that there are some, and not which.
    let others = world.made(&bob(), Kind::Machine, machine(&image)).await;
    let told = delete().await;
    let expected = format!("machine {number} (web) and one machine of others need it");
    assert!(
        told.contains(&expected) && !told.contains(&others),
        "{told}"
    );
    let started = world
        .cloud
        .act_on_machine(&alice(), split(&web).1, "start", false)
        .await;
    let told = conflict(started.err().unwrap());
    assert!(
        told.starts_with(&format!(
            "machine {number} (web) is CREATING; `start` is not possible now"
        )),
        "{told}"
    );
    let volume = world.volume(&alice()).await;
    let with_volume = json!({"volumes": [{"volume": {"href": volume}}]});
    let holder = world
        .made(&alice(), Kind::Machine, world.machine(with_volume.clone()))
        .await;
    let number = world.get(&alice(), &holder)["vmid"].clone();
    let again = world.machine(with_volume);
    let told = conflict(
        world
            .create(&alice(), Kind::Machine, again)
            .await
            .err()
            .unwrap(),
    );
    assert!(
        told.starts_with(&format!("Disk not available: machine {number} has it")),
        "{told}"
    );
}

#[tokio::test]
async fn what_turned_out_to_be_another_image_is_found_as_that_and_not_deleted_as_that() {
    let world = World::start().await;
    let kept = imported(&world, &alice(), json!({})).await;
    let gone = cimi::ImageId::generate();
    let stands_for = |image: &mut Image| {
        image.stands_for.push(gone.clone());
        Ok::<_, CloudError>(true)
    };
    world
        .documents
        .update(split(&kept).1, stands_for)
        .await
        .unwrap();
    assert_eq!(world.get(&alice(), &gone.to_string())["id"], kept);
    let deleted = world
        .cloud
        .delete(&alice(), Kind::MachineImage, gone.local())
        .await;
    assert!(matches!(deleted, Err(CloudError::NotFound { .. })));
}

#[tokio::test]
async fn an_image_of_a_mistyped_url_is_called_by_that_url_without_what_opens_it() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let (id, _) = wanted(
        &world,
        &alice(),
        "https://joe:pw@example.org/mistyped.img?key=s",
    )
    .await
    .unwrap();
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["name"], "https://example.org/mistyped.img");
}

#[tokio::test]
async fn what_nobody_endorsed_leaves_no_document_and_what_was_withdrawn_starts_nothing() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let reference = format!("MachineImage/{ID}");
    let say = |why: Option<&str>| *finder.refusal.lock().unwrap() = why.map(str::to_owned);
    let before = world.documents.images.all().len();
    say(Some("nobody has it"));
    let made = world
        .create(&alice(), Kind::Machine, machine(&reference))
        .await;
    assert!(violations(made)[0].contains("nobody has it"));
    let named = wanted(&world, &alice(), &format!("marketplace:{ID}")).await;
    assert!(violations(named)[0].contains("nobody has it"));
    assert_eq!(world.documents.images.all().len(), before);

    say(None);
    world
        .create(&alice(), Kind::Machine, machine(&reference))
        .await
        .unwrap();
    let on_demand = world.documents.images.by_index("onDemand", "yes");
    let id = on_demand[0].id.to_string();
    became(&world, &id, ImageState::Available).await;
    // It is asked about at each start, and what is said then counts.
    *finder.documents.lock().unwrap() = Some(world.documents.clone());
    world
        .create(&bob(), Kind::Machine, machine(&id))
        .await
        .unwrap();
    say(Some("deprecated by alice"));
    let refused = world.create(&bob(), Kind::Machine, machine(&id)).await;
    assert!(violations(refused)[0].contains("deprecated by alice"));
}

#[tokio::test]
async fn a_deletion_that_was_overtaken_and_killed_is_taken_back() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let (id, _) = wanted(&world, &alice(), "catalogue:cat:used")
        .await
        .unwrap();
    became(&world, &id, ImageState::Available).await;
    world
        .create(&bob(), Kind::Machine, machine(&id))
        .await
        .unwrap();
    // As whoever began it left it, killed before it saw the machine.
    let marked = |image: &mut Image| {
        image.desired.deleted = true;
        image.state = ImageState::Deleting;
        Ok::<_, CloudError>(true)
    };
    world.documents.update(split(&id).1, marked).await.unwrap();
    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(Retention::default()).await });
    until("it is kept", || async {
        let image = world.documents.images.get(split(&id).1).unwrap();
        !image.desired.deleted && image.state == ImageState::Available
    })
    .await;
    janitor.abort();
}

#[tokio::test]
async fn names_lead_to_what_they_say_and_to_nothing_else() {
    let mut world = World::start().await;
    let without = wanted(&world, &alice(), &format!("marketplace:{ID}")).await;
    assert!(violations(without)[0].contains("no Marketplace"));
    assert!(
        world
            .create(
                &alice(),
                Kind::Machine,
                machine(&format!("MachineImage/{ID}"))
            )
            .await
            .is_err()
    );
    let finder = with_finder(&mut world).await;
    let (product, _) = wanted(&world, &alice(), "catalogue:cat:24.04")
        .await
        .unwrap();
    let shown = world.get(&bob(), &product);
    assert_eq!(
        shown["imageLocation"],
        "catalogue:cat:com.example:24.04@20300110"
    );
    assert_eq!(shown["name"], "cat:24.04");
    assert_eq!(
        wanted(&world, &bob(), "catalogue:cat:24.04").await.unwrap(),
        (product.clone(), true)
    );
    // While the catalogue is down what is here is good enough, and only that.
    became(&world, &product, ImageState::Available).await;
    finder
        .down
        .store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        wanted(&world, &bob(), "catalogue:cat:24.04").await.unwrap(),
        (product, true)
    );
    assert!(matches!(
        wanted(&world, &bob(), "catalogue:cat:26.04").await,
        Err(CloudError::Unavailable(_))
    ));
    // Who names an endorser's entry gets that one or nothing.
    let entry = |rest: &str| format!("https://m.example.org/metadata/{ID}/{rest}");
    for good in ["alice@x.org", "alice%40x.org/2030-01-15T08:05:00Z"] {
        wanted(&world, &alice(), &entry(good)).await.unwrap();
    }
    for other in ["bob@x.org", "alice@x.org/2030-01-15T08:05:01Z"] {
        let refused = violations(wanted(&world, &alice(), &entry(other)).await);
        assert!(
            refused[0].contains("goes by that of alice@x.org"),
            "{refused:?}"
        );
        assert!(refused[0].contains(ID), "{refused:?}");
    }
    // What is at a URL, or on a volume, is whose who named it.
    let url = "https://example.org/x.img";
    let (hers, _) = wanted(&world, &alice(), url).await.unwrap();
    let (his, _) = wanted(&world, &bob(), url).await.unwrap();
    assert_ne!(hers, his);
    assert!(
        world
            .cloud
            .get(&bob(), Kind::MachineImage, split(&hers).1)
            .is_err()
    );
    let volume = world.volume(&alice()).await;
    assert!(wanted(&world, &bob(), &volume).await.is_err());
    let pdisk = format!("pdisk:old.example.org:8445:{}", split(&volume).1);
    let (copy, _) = wanted(&world, &alice(), &pdisk).await.unwrap();
    assert_eq!(
        wanted(&world, &alice(), &volume).await.unwrap(),
        (copy, true)
    );
    for bad in [
        "upload:",
        "marketplace:x",
        "catalogue:x",
        "ftp://h/x",
        "pdisk:h:1:../x",
    ] {
        assert!(wanted(&world, &alice(), bad).await.is_err(), "{bad}");
    }
    let named = json!({"imageLocation": {"href": url}, "onDemand": true, "name": "mine"});
    let refused = world.create(&alice(), Kind::MachineImage, named).await;
    assert!(violations(refused)[0].contains("name"));
}

#[tokio::test]
async fn a_product_is_what_its_catalogue_says_now() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let body = || json!({"imageLocation": {"href": "catalogue:cat:24.04"}, "onDemand": true});
    let (old, _) = wanted(&world, &alice(), "catalogue:cat:24.04")
        .await
        .unwrap();
    became(&world, &old, ImageState::Available).await;
    let newest = "20300202".to_owned();
    *finder.newest.lock().unwrap() = Some(newest);
    // The next version can't be had: what the catalogue says no more now is no reason to try in vain.
    *finder.outdated.lock().unwrap() = Some("it is down".to_owned());
    let created = world
        .create(&bob(), Kind::MachineImage, body())
        .await
        .unwrap();
    assert_eq!(*created.view.id, *old);
    let told = created.view.document.attributes(created.view.right);
    let why = told["reason"].as_str().unwrap();
    assert!(
        why.contains("it is down") && why.contains("version 20300110"),
        "{why}"
    );
    *finder.outdated.lock().unwrap() = None;
    let (new, existed) = wanted(&world, &bob(), "catalogue:cat:24.04").await.unwrap();
    assert!(!existed);
    assert_ne!(new, old);
    // One that failed is tried anew for whoever asks, though it is nobody's.
    became(&world, &new, ImageState::Error).await;
    assert_eq!(
        wanted(&world, &alice(), "catalogue:cat:24.04")
            .await
            .unwrap()
            .0,
        new
    );
    let shown = world.get(&alice(), &new);
    assert_eq!(shown["state"], "CREATING");
    assert_eq!(shown["reason"], Value::Null);
}

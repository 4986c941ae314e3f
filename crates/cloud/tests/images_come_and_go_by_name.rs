//! Images that are wanted by a name: one document for all who want the same, asked for anew after a failure, gone when nobody
//! needs it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use cimi::{
    common::USER_ROLE,
    model::Kind,
    resources::{Image, ImageFile, ImageSource, ImageState, MediumFormat},
    size::ByteSize,
};
use cloud::{
    Cloud, CloudError, Download, DownloadRequest, Eviction, ImageIntake, NoServices, OpContext,
    Resolved, Result, Retention, Upload, testing::caller,
};
use serde_json::{Value, json};

use crate::support::{World, admin, alice, bob, settings, split, until, violations};

const ID: &str = "MMZu9WvwKIro-rtBQfDk4PsKO7_";

/// Knows a catalogue, as long as it is up, and what is endorsed.
#[derive(Default)]
struct Finder {
    down: std::sync::atomic::AtomicBool,
    /// The newest version of all products, and why it may not be.
    newest: std::sync::Mutex<Option<String>>,
    outdated: std::sync::Mutex<Option<String>>,
    /// What tags lead to now.
    tags: std::sync::Mutex<std::collections::HashMap<String, String>>,
    asked_behind: std::sync::atomic::AtomicUsize,
    /// Whose entries the cloud goes by, if not Alice's.
    goes_by: std::sync::Mutex<Option<String>>,
    /// Why no Marketplace has an entry that may be used.
    refusal: std::sync::Mutex<Option<String>>,
    /// Has the documents say what Marketplaces say now.
    documents: std::sync::Mutex<Option<documents::Documents>>,
}

#[async_trait::async_trait]
impl ImageIntake for Finder {
    async fn take(&self, _image: Arc<Image>, _upload: Upload) -> Result<()> {
        Ok(())
    }

    async fn open(&self, image: Arc<Image>, request: DownloadRequest) -> Result<Download> {
        NoServices.open(image, request).await
    }

    fn has_marketplaces(&self) -> bool {
        true
    }

    fn is_of_marketplace(&self, url: &str) -> bool {
        url.starts_with("https://m.org/")
    }

    async fn why_no_entry(&self, _: &str) -> Option<String> {
        self.refusal.lock().unwrap().clone()
    }

    async fn tagged(&self, email: &str, tag: &str) -> Result<String> {
        assert_eq!(email, "alice@x.org");
        let newest = self.tags.lock().unwrap().get(tag).cloned();
        newest.ok_or_else(|| CloudError::invalid("imageLocation", "no Marketplace has it"))
    }

    async fn entry_behind(&self, url: &str) -> Option<String> {
        self.asked_behind
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = url.strip_prefix("https://s.org/")?;
        Some(format!("https://m.org/{path}"))
    }

    async fn why_other_entry(&self, _: &str, email: &str, created: Option<&str>) -> Option<String> {
        let goes_by = self.goes_by.lock().unwrap().clone();
        let goes_by = goes_by.unwrap_or_else(|| "alice@x.org".to_owned());
        let is_it = email == goes_by && created.is_none_or(|at| at == "2030-01-15T08:05:00Z");
        (!is_it).then(|| format!("it goes by that of {goes_by}"))
    }

    async fn look_again(&self, image: &Image) -> bool {
        let (refusal, documents) = (
            self.refusal.lock().unwrap().clone(),
            self.documents.lock().unwrap().clone(),
        );
        let (Some(refusal), Some(documents)) = (refusal, documents) else {
            return false;
        };
        let refused = |image: &mut Image| {
            image.state = ImageState::Error;
            image.reason = Some(refusal.clone());
            Ok::<_, CloudError>(true)
        };
        documents.update(image.id.local(), refused).await.unwrap();
        true
    }

    async fn resolve(&self, _: &str, product: &str, version: Option<&str>) -> Result<Resolved> {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(CloudError::Unavailable("it is down".into()));
        }
        let newest = self.newest.lock().unwrap().clone();
        let newest = newest.unwrap_or_else(|| "20300110".to_owned());
        Ok(Resolved {
            product: format!("com.example:{product}"),
            version: version.map_or(newest, str::to_owned),
            outdated: self.outdated.lock().unwrap().clone(),
        })
    }
}

async fn with_finder(world: &mut World) -> Arc<Finder> {
    let finder = Arc::new(Finder::default());
    world.cloud = Cloud::open(
        world.documents.clone(),
        settings(),
        Arc::new(NoServices),
        finder.clone(),
    )
    .await
    .unwrap();
    finder
}

async fn wanted(world: &World, who: &OpContext, location: &str) -> Result<(String, bool)> {
    let body = json!({"imageLocation": {"href": location}, "onDemand": true});
    let created = world.create(who, Kind::MachineImage, body).await?;
    Ok((created.view.id.to_string(), created.existed))
}

fn machine(image: &str) -> Value {
    json!({"machineTemplate": {"machineImage": {"href": image}}})
}

async fn became(world: &World, id: &str, state: ImageState) {
    let become_so = |image: &mut Image| {
        image.state = state;
        image.reason = (state == ImageState::Error).then(|| "no such luck".into());
        image.file = (state == ImageState::Available).then(|| ImageFile {
            path: "/nowhere".into(),
            format: MediumFormat::Raw,
            virtual_size: ByteSize(1 << 20),
            digests: cimi::resources::Digests {
                identifier: Some(image.id.local().chars().take(27).collect()),
                bytes: Some(1 << 20),
                ..Default::default()
            },
            kept: None,
        });
        Ok::<_, CloudError>(true)
    };
    world
        .documents
        .update(split(id).1, become_so)
        .await
        .unwrap();
}

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
async fn what_nobody_needs_goes_unless_it_is_pinned() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let mut ids = Vec::new();
    for name in ["used", "pinned", "idle", "failed", "coming"] {
        let (id, _) = wanted(&world, &alice(), &format!("catalogue:cat:{name}"))
            .await
            .unwrap();
        ids.push(id);
    }
    let [used, pinned, idle, failed, coming] = ids.as_slice() else {
        panic!("five");
    };
    for id in [used, pinned, idle] {
        became(&world, id, ImageState::Available).await;
    }
    became(&world, failed, ImageState::Error).await;
    world
        .create(&bob(), Kind::Machine, machine(used))
        .await
        .unwrap();
    assert!(
        world
            .put(&alice(), pinned, json!({"pinned": true}))
            .await
            .is_err()
    );
    let mut changed = world.get(&admin(), pinned);
    changed["pinned"] = json!(true);
    world.put(&admin(), pinned, changed).await.unwrap();
    let imported = world.image.clone();
    let retention = Retention {
        images: Eviction {
            unused: Some(Duration::ZERO),
            failed: Duration::ZERO,
            most_bytes: None,
        },
        ..Retention::default()
    };
    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(retention).await });
    let goes = |id: &String| {
        world
            .documents
            .images
            .get(split(id).1)
            .unwrap()
            .desired
            .deleted
    };
    until("idle and failed ones go", || async {
        goes(idle) && goes(failed)
    })
    .await;
    for id in [used, pinned, coming] {
        assert!(!goes(id), "{id}");
    }
    assert!(!goes(&imported.to_string()), "what somebody imported stays");
    janitor.abort();
}

#[tokio::test]
async fn a_tag_is_the_image_that_it_leads_to_when_it_is_asked_for() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let newer = "NMZu9WvwKIro-rtBQfDk4PsKO7_";
    let leads_to = |to: &str| {
        let mut tags = finder.tags.lock().unwrap();
        tags.insert("base".to_owned(), to.to_owned());
    };
    let tag = "base@alice@x.org";
    let problems = violations(wanted(&world, &alice(), tag).await);
    assert!(
        problems[0].contains("no Marketplace has it"),
        "{problems:?}"
    );
    leads_to(ID);
    let (by_identifier, _) = wanted(&world, &alice(), &format!("marketplace:{ID}"))
        .await
        .unwrap();
    // However it is written, whoever asks.
    for location in [
        tag,
        "marketplace:base@alice@x.org",
        "https://m.org/metadata/alice@x.org?tag=base",
        "https://m.org/marketplace/tag/alice%40x.org/base",
        "https://s.org/tag/alice@x.org/base",
        &format!("https://s.org/metadata/{ID}"),
    ] {
        let (image, existed) = wanted(&world, &bob(), location).await.unwrap();
        assert_eq!((&image, existed), (&by_identifier, true), "{location}");
    }
    // Tomorrow it is another one; the first stays what it is.
    leads_to(newer);
    let (image, existed) = wanted(&world, &alice(), tag).await.unwrap();
    assert!(!existed && image != by_identifier);
    let read = world.documents.images.get(split(&image).1).unwrap();
    assert_eq!(read.desired.expected.identifier.as_deref(), Some(newer));
    // Not only on demand.
    let body = json!({"imageLocation": {"href": tag}, "name": "mine"});
    let mine = world
        .create(&alice(), Kind::MachineImage, body)
        .await
        .unwrap();
    let read = world.documents.images.get(split(&mine.view.id).1).unwrap();
    assert_eq!(read.desired.source, ImageSource::Marketplace);
    assert_eq!(read.desired.expected.identifier.as_deref(), Some(newer));
}

#[tokio::test]
async fn a_tag_is_its_endorser_s_image_or_none() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let tagged = ("base".to_owned(), ID.to_owned());
    finder.tags.lock().unwrap().extend([tagged]);
    let before = world.documents.images.all().len();
    // Mallory endorsed the same image later, and names other places to fetch it from.
    *finder.goes_by.lock().unwrap() = Some("mallory@x.org".to_owned());
    for location in ["base@alice@x.org", "https://m.org/tag/alice@x.org/base"] {
        let refused = violations(wanted(&world, &alice(), location).await);
        for part in ["goes by that of mallory@x.org", ID] {
            assert!(refused[0].contains(part), "{location}: {refused:?}");
        }
    }
    assert_eq!(world.documents.images.all().len(), before);
}

#[tokio::test]
async fn a_path_like_that_of_a_tag_is_an_image_s_on_other_servers() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    for path in ["tag/alice@x.org/base", "metadata/alice@x.org?tag=base"] {
        let url = format!("https://elsewhere.org/{path}");
        let (image, _) = wanted(&world, &alice(), &url).await.unwrap();
        let read = world.documents.images.get(split(&image).1).unwrap();
        assert_eq!(read.desired.source, ImageSource::Url { url });
    }
}

#[tokio::test]
async fn where_a_url_leads_is_asked_until_something_was_fetched_from_it() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let asked = || {
        finder
            .asked_behind
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let url = "https://h.org/x.img";
    let (image, _) = wanted(&world, &alice(), url).await.unwrap();
    assert_eq!(asked(), 1);
    assert_eq!(wanted(&world, &alice(), url).await.unwrap().0, image);
    assert_eq!(asked(), 1, "it is on its way");
    became(&world, &image, ImageState::Error).await;
    wanted(&world, &alice(), url).await.unwrap();
    assert_eq!(asked(), 2);
    // An import is of what is there.
    let body = json!({"imageLocation": {"href": "https://m.org/tag/alice@x.org/base"}});
    let problems = violations(world.create(&alice(), Kind::MachineImage, body).await);
    assert!(
        problems[0].contains("no Marketplace has it"),
        "{problems:?}"
    );
    let body = json!({"imageLocation": {"href": "https://s.org/short"}});
    world
        .create(&alice(), Kind::MachineImage, body)
        .await
        .unwrap();
    assert_eq!(asked(), 2);
}

/// Images that were needed last so many minutes ago; those of 0 are on their way.
async fn last_needed<const N: usize>(world: &World, minutes: [i64; N]) -> [String; N] {
    let mut ids = Vec::new();
    for (number, minutes) in minutes.into_iter().enumerate() {
        let (id, _) = wanted(world, &alice(), &format!("catalogue:cat:{number}"))
            .await
            .unwrap();
        if minutes > 0 {
            became(world, &id, ImageState::Available).await;
        }
        let used = |image: &mut Image| {
            let ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
            if let Some(on_demand) = &mut image.desired.on_demand {
                on_demand.last_used = ago.to_string().parse().unwrap();
            }
            Ok::<_, CloudError>(true)
        };
        world.documents.update(split(&id).1, used).await.unwrap();
        ids.push(id);
    }
    ids.try_into().unwrap()
}

/// Until the janitor has looked at everything as it is now: it looks at once when there are too many events, the images last.
async fn rounds(world: &World, most_events: usize) {
    let image = world.documents.images.all().swap_remove(0);
    for _ in 0..2 {
        let mut changes = world.documents.changes();
        for _ in 0..most_events * 2 + 40 {
            let now = cimi::Timestamp::now();
            changes = changes.create(&cimi::resources::Event::request(
                &image.document.0,
                "edit",
                "",
                now,
            ));
        }
        changes.commit().await.unwrap();
        until("the janitor was there", || async {
            world.documents.events.len() <= most_events
        })
        .await;
    }
}

#[tokio::test]
async fn for_an_image_that_waits_for_room_one_after_the_other_goes_until_there_is_enough() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let [old, older, new, waits] = last_needed(&world, [60, 90, 30, 0]).await;
    let needs_space = async |needs: bool| {
        let edit = |image: &mut Image| {
            image.needs_space = needs;
            Ok::<_, CloudError>(true)
        };
        world.documents.update(split(&waits).1, edit).await.unwrap();
    };
    needs_space(true).await;
    // No bound of the cache: as where nobody has configured one.
    let retention = Retention {
        events: 10,
        ..Retention::default()
    };
    assert_eq!(retention.images.most_bytes, None);
    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(retention).await });
    let stays = |id: &String| {
        let image = world.documents.images.get(split(id).1);
        image.is_some_and(|image| !image.desired.deleted)
    };
    let is_gone = async |id: &String| {
        let read = world.documents.images.get(split(id).1).unwrap();
        let changes = world.documents.changes().remove(&*read);
        changes.commit().await.unwrap();
    };
    rounds(&world, retention.events).await;
    assert!(!stays(&older) && stays(&old) && stays(&new));
    // As long as it is on its way out, it may be enough.
    rounds(&world, retention.events).await;
    assert!(stays(&old) && stays(&new));
    // It wasn't.
    is_gone(&older).await;
    rounds(&world, retention.events).await;
    assert!(!stays(&old) && stays(&new));
    is_gone(&old).await;
    needs_space(false).await;
    rounds(&world, retention.events).await;
    assert!(stays(&new) && stays(&waits));
    assert!(stays(&world.image.to_string()), "what somebody imported");
    janitor.abort();
}

#[tokio::test]
async fn what_was_needed_longest_ago_makes_room() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    let ids = last_needed(&world, [60, 90, 30, 0]).await;
    let retention = Retention {
        images: Eviction {
            unused: None,
            // The four here have 1 MiB each, the world's image included: 0.9 × 4 MiB leaves room for three.
            most_bytes: Some(4 << 20),
            ..Eviction::default()
        },
        ..Retention::default()
    };
    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(retention).await });
    let goes = |id: &String| {
        world
            .documents
            .images
            .get(split(id).1)
            .unwrap()
            .desired
            .deleted
    };
    until("the oldest goes", || async { goes(&ids[1]) }).await;
    assert!(!goes(&ids[0]) && !goes(&ids[2]) && !goes(&ids[3]));
    janitor.abort();
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

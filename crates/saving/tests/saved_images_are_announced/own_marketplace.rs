//! The cloud's own Marketplace: an entry goes with its image, and comes when that is cleaned or proven.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cimi::resources::{Image, Resource as _};
use documents::Documents;
use marketplace::{SigningKey, UtcTime};
use saving::{Announcer, Settings};
use store::SqliteStore;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, letters_of, pem, saved, settings};

/// The cloud's own Marketplace: documents, and where they are found.
#[derive(Default)]
struct Own(Mutex<Vec<String>>);

impl Own {
    fn entries(&self) -> Vec<marketplace::Entry> {
        let all = self.0.lock().unwrap().clone();
        all.iter()
            .map(|document| marketplace::Entry::verify(document.as_bytes()).unwrap())
            .collect()
    }

    async fn has(&self, number: usize) {
        let there = async {
            while self.entries().len() < number {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there)
            .await
            .expect("in time");
    }
}

#[async_trait::async_trait]
impl saving::OwnMarketplace for Own {
    async fn publish(&self, document: &str) -> Result<(), saving::UploadError> {
        self.0.lock().unwrap().push(document.to_owned());
        Ok(())
    }

    fn valid_of(&self, endorser: &str, since: UtcTime) -> Vec<Arc<marketplace::catalogue::Record>> {
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let mut catalogue = marketplace::catalogue::Catalogue::new();
        for entry in self.entries() {
            catalogue.add(marketplace::catalogue::Record::of(&entry, now));
        }
        let mut all = catalogue.of_endorser(endorser, since);
        all.retain(|record| {
            let newest = catalogue.newest(record.identifier, endorser).unwrap();
            newest.created == record.created && record.is_valid(now)
        });
        all
    }

    async fn document(
        &self,
        name: &marketplace::catalogue::Name,
    ) -> Result<Option<String>, saving::UploadError> {
        let mut all = self.entries().into_iter();
        let found = all.find(|entry| {
            let endorsement = entry.endorsement();
            (
                entry.metadata().identifier,
                &*endorsement.email,
                endorsement.created,
            ) == (name.0, &*name.1, name.2)
        });
        Ok(found.map(|entry| String::from_utf8(entry.document().to_vec()).unwrap()))
    }
}

/// Also of one that went while the daemon was down; what is still there, or of others, stays.
#[tokio::test]
async fn the_temporary_entry_goes_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
    let documents = Documents::open(store).await.unwrap();
    let own = Arc::new(Own::default());
    let pem = pem();
    let start = |stop: &CancellationToken| {
        let settings = Settings {
            own: Some(own.clone()),
            key: Some(SigningKey::from_pem(&pem, None).unwrap()),
            ..settings(
                Some("https://cloud.example.org/marketplace".to_owned()),
                PATIENCE,
            )
        };
        tokio::spawn(Announcer::new(documents.clone(), settings).run(stop.clone()))
    };
    let remove = async |image: &Image| {
        let read = documents.images.get(image.local_id()).unwrap();
        documents.changes().remove(&read).commit().await.unwrap();
    };
    let image = saved(None);
    documents.changes().create(&image).commit().await.unwrap();
    let stop = CancellationToken::new();
    let work = start(&stop);
    own.has(1).await;
    let announced = async {
        let mut changes = documents.images.changes();
        while documents
            .images
            .get(image.local_id())
            .unwrap()
            .announced
            .as_ref()
            .is_none_or(|told| told.pending)
        {
            changes.next().await;
        }
    };
    tokio::time::timeout(PATIENCE, announced).await.unwrap();
    remove(&image).await;
    own.has(2).await;
    let gone = own.entries().pop().unwrap();
    assert_eq!(
        gone.metadata().identifier.to_string(),
        image.identifier().unwrap()
    );
    let reason = gone.metadata().deprecated.clone().unwrap();
    assert!(reason.contains("The image was deleted"), "{reason}");

    // Saved anew, and removed while nobody looks.
    let mut again = saved(None);
    let sha1 = "cd".repeat(20);
    let digests = &mut again.file.as_mut().unwrap().digests;
    let identifier = marketplace::ImageIdentifier::from_sha1(&sha1.parse().unwrap());
    (digests.sha1, digests.identifier) = (Some(sha1), Some(identifier.to_string()));
    documents.changes().create(&again).commit().await.unwrap();
    own.has(3).await;
    let told = async {
        let mut changes = documents.images.changes();
        while documents
            .images
            .get(again.local_id())
            .unwrap()
            .announced
            .as_ref()
            .is_none_or(|told| told.pending)
        {
            changes.next().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    stop.cancel();
    work.await.unwrap();
    remove(&again).await;
    let stop = CancellationToken::new();
    let work = start(&stop);
    own.has(4).await;
    assert!(own.entries().pop().unwrap().metadata().deprecated.is_some());
    stop.cancel();
    work.await.unwrap();
    assert_eq!(own.entries().len(), 4);
}

/// Its owner's word has it published after all.
#[tokio::test]
async fn an_image_that_its_owner_has_cleaned_is_announced_after_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
    let documents = Documents::open(store).await.unwrap();
    let mut image = saved(None);
    image.uncleaned = vec!["partition 2 is an XFS file system".to_owned()];
    documents.changes().create(&image).commit().await.unwrap();
    let own = Arc::new(Own::default());
    let settings = Settings {
        own: Some(own.clone()),
        ..settings(
            Some("https://cloud.example.org/marketplace".to_owned()),
            PATIENCE,
        )
    };
    let stop = CancellationToken::new();
    let work = tokio::spawn(Announcer::new(documents.clone(), settings).run(stop.clone()));
    let until = async |wanted: fn(&cimi::resources::Announcement) -> bool| {
        let mut changes = documents.images.changes();
        let found = async {
            while !documents
                .images
                .get(image.local_id())
                .unwrap()
                .announced
                .as_ref()
                .is_some_and(wanted)
            {
                changes.next().await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .expect("in time");
    };
    until(|told| !told.pending && told.problem.is_some()).await;
    let read = documents.images.get(image.local_id()).unwrap();
    let mut cleaned = read.document.0.clone();
    cleaned.uncleaned.clear();
    documents
        .changes()
        .replace(&read, cleaned)
        .commit()
        .await
        .unwrap();
    until(|told| told.marketplace.is_some() && told.problem.is_none()).await;
    assert_eq!(own.entries().len(), 1);
    stop.cancel();
    work.await.unwrap();
}

#[tokio::test]
async fn nothing_is_told_of_an_image_before_its_content_is_proven() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
    let documents = Documents::open(store).await.unwrap();
    let (mut image, later) = (saved(None), saved(None));
    let proof = {
        let digests = &mut image.file.as_mut().unwrap().digests;
        (digests.md5, digests.sha512) = (None, None);
        digests.sha256.take()
    };
    for image in [&image, &later] {
        documents.changes().create(image).commit().await.unwrap();
    }
    let stop = CancellationToken::new();
    let announcer = Announcer::new(documents.clone(), settings(None, PATIENCE));
    let work = tokio::spawn(announcer.run(stop.clone()));
    let until_announced = async |local: &str| {
        let mut changes = documents.images.changes();
        let is_told = || {
            let image = documents.images.get(local).unwrap();
            image.announced.as_ref().is_some_and(|told| !told.pending)
        };
        let told = async {
            while !is_told() {
                changes.next().await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("in time");
    };
    until_announced(later.local_id()).await;
    let read = documents.images.get(image.local_id()).unwrap();
    assert_eq!(read.announced, None);
    assert_eq!(letters_of(&documents).await.len(), 1);
    let mut proven = read.document.0.clone();
    let digests = &mut proven.file.as_mut().unwrap().digests;
    digests.sha256 = proof;
    documents
        .changes()
        .replace(&read, proven)
        .commit()
        .await
        .unwrap();
    until_announced(image.local_id()).await;
    assert_eq!(letters_of(&documents).await.len(), 2);
    stop.cancel();
    work.await.unwrap();
}

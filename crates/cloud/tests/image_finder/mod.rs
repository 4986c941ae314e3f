//! Catalogues and Marketplaces as tests have them, and what is wanted of them.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::sync::Arc;

use cimi::{
    model::Kind,
    resources::{Image, ImageFile, ImageState, MediumFormat},
    size::ByteSize,
};
use cloud::{
    Cloud, CloudError, Download, DownloadRequest, ImageIntake, NoServices, OpContext, Resolved,
    Result, Upload,
};
use serde_json::{Value, json};

use crate::support::{World, settings, split};

/// An identifier that Marketplaces may know.
pub const ID: &str = "MMZu9WvwKIro-rtBQfDk4PsKO7_";

/// Knows a catalogue, as long as it is up, and what is endorsed.
#[derive(Default)]
pub struct Finder {
    pub down: std::sync::atomic::AtomicBool,
    /// The newest version of all products, and why it may not be.
    pub newest: std::sync::Mutex<Option<String>>,
    pub outdated: std::sync::Mutex<Option<String>>,
    /// What tags lead to now.
    pub tags: std::sync::Mutex<std::collections::HashMap<String, String>>,
    pub asked_behind: std::sync::atomic::AtomicUsize,
    /// Whose entries the cloud goes by, if not Alice's.
    pub goes_by: std::sync::Mutex<Option<String>>,
    /// Why no Marketplace has an entry that may be used.
    pub refusal: std::sync::Mutex<Option<String>>,
    /// Has the documents say what Marketplaces say now.
    pub documents: std::sync::Mutex<Option<documents::Documents>>,
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

pub async fn with_finder(world: &mut World) -> Arc<Finder> {
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

pub async fn wanted(world: &World, who: &OpContext, location: &str) -> Result<(String, bool)> {
    let body = json!({"imageLocation": {"href": location}, "onDemand": true});
    let created = world.create(who, Kind::MachineImage, body).await?;
    Ok((created.view.id.to_string(), created.existed))
}

pub fn machine(image: &str) -> Value {
    json!({"machineTemplate": {"machineImage": {"href": image}}})
}

pub async fn became(world: &World, id: &str, state: ImageState) {
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

//! The rules over a real database, without hosts: machines stay where the rules put them.

#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::{net::IpAddr, sync::Arc};

use cimi::model::Kind;
use cloud::{
    Cloud, Created, Done, HostServices, NoServices, OpContext, PerUser, Result, Settings, testing,
};
use documents::Documents;
use serde_json::{Value, json};
use store::{SqliteOptions, SqliteStore};

pub use cloud::testing::object;

pub struct World {
    pub cloud: Cloud,
    pub documents: Documents,
    folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with(PerUser::default(), SqliteOptions::default()).await
    }

    pub async fn with(per_user: PerUser, options: SqliteOptions) -> Self {
        let settings = Settings {
            per_user,
            ..testing::settings()
        };
        Self::open(settings, options).await
    }

    pub async fn of(settings: Settings) -> Self {
        Self::open(settings, SqliteOptions::default()).await
    }

    /// With a host of the test's own.
    pub async fn hosted(settings: Settings, hosts: Arc<dyn HostServices>) -> Self {
        Self::over(settings, SqliteOptions::default(), hosts).await
    }

    async fn open(settings: Settings, options: SqliteOptions) -> Self {
        Self::over(settings, options, Arc::new(NoServices)).await
    }

    async fn over(
        settings: Settings,
        options: SqliteOptions,
        hosts: Arc<dyn HostServices>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open_with(folder.path().join("db"), options).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let intake = Arc::new(NoServices);
        let cloud = Cloud::open(documents.clone(), settings, hosts, intake)
            .await
            .unwrap();
        Self {
            cloud,
            documents,
            folder,
        }
    }

    pub async fn create(&self, who: &OpContext, kind: Kind, body: Value) -> Result<Created> {
        self.cloud.create(who, kind, object(body)).await
    }

    /// A volume; its id after the slash.
    pub async fn volume(&self, who: &OpContext) -> String {
        let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
        local(&self.create(who, Kind::Volume, body).await.unwrap())
    }

    /// A machine of an image that is still to be sent; its id after the slash.
    pub async fn machine(&self, who: &OpContext) -> String {
        let image = self.image(who).await;
        let body =
            json!({"machineTemplate": {"machineImage": {"href": format!("MachineImage/{image}")}}});
        local(&self.create(who, Kind::Machine, body).await.unwrap())
    }

    pub async fn image(&self, who: &OpContext) -> String {
        let body = json!({"imageLocation": "upload:"});
        local(&self.create(who, Kind::MachineImage, body).await.unwrap())
    }

    pub async fn act(
        &self,
        who: &OpContext,
        machine: &str,
        action: &str,
        force: bool,
    ) -> Result<Done> {
        let body = object(json!({"force": force}));
        self.cloud
            .act(who, Kind::Machine, machine, action, &body)
            .await
    }

    pub async fn edit(
        &self,
        who: &OpContext,
        kind: Kind,
        id: &str,
        changes: Value,
    ) -> Result<Done> {
        let changes = object(changes)
            .into_iter()
            .map(|(name, value)| (name, (!value.is_null()).then_some(value)))
            .collect();
        self.cloud.edit(who, kind, id, changes).await
    }

    /// A user with the password `correct horse`.
    pub async fn user(&self, name: &str, roles: &[&str]) {
        let body = json!({"username": name, "password": "correct horse", "roles": roles});
        self.create(&admin(), Kind::User, body).await.unwrap();
    }
}

/// Somebody, from an address.
pub fn user(name: &str) -> OpContext {
    caller(name, &[])
}

pub fn admin() -> OpContext {
    caller("root", &["::ADMIN"])
}

fn caller(name: &str, roles: &[&str]) -> OpContext {
    let mut context = testing::caller(name, roles);
    context.peer = Some(IpAddr::from([192, 0, 2, 1]));
    context
}

pub fn local(created: &Created) -> String {
    created.view.id.split_once('/').unwrap().1.to_owned()
}

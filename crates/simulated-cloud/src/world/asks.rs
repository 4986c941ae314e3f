//! What users ask for.

use std::future::Future;

use cimi::{common::USER_ROLE, model::Kind, resources::Machine};
use cloud::{
    Cloud, OpContext,
    testing::{self, object},
};
use rand::{Rng as _, seq::IndexedRandom as _};
use serde_json::{Value, json};

use super::{ENTRIES, MACHINE_MIB, MOST_MACHINES, MOST_VOLUMES, World, admin};
use crate::ledger::{Asked, Told};

impl World {
    /// A user asks for something, at some entry.
    pub(super) fn ask(&mut self) {
        let entry = self.rng.random_range(0..ENTRIES);
        let machines = self.ledger.lock().idle(Kind::Machine);
        let volumes = self.ledger.lock().idle(Kind::Volume);
        let machine = machines.choose(&mut self.rng).cloned();
        let volume = volumes.choose(&mut self.rng).cloned();
        let policy = *["never", "on-failure", "always"]
            .choose(&mut self.rng)
            .unwrap_or(&"never");
        let config = json!({"cpu": 1, "memory": MACHINE_MIB * 1024});
        match (self.rng.random_range(0..100), machine, volume) {
            (0..20, _, _) if machines.len() < MOST_MACHINES => {
                let template = json!({
                    "machineImage": {"href": self.image.to_string()},
                    "machineConfig": config,
                    "restartPolicy": policy,
                });
                let body = json!({ "machineTemplate": template });
                self.create(entry, Kind::Machine, &[], body);
            }
            (20..30, _, Some(volume)) if machines.len() < MOST_MACHINES => {
                let template = json!({
                    "volumes": [{"volume": {"href": format!("Volume/{volume}")}}],
                    "machineConfig": config,
                    "restartPolicy": policy,
                });
                let body = json!({ "machineTemplate": template });
                self.create(entry, Kind::Machine, &[&volume], body);
            }
            (30..42, _, _) if volumes.len() < MOST_VOLUMES => {
                let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1024}}});
                self.create(entry, Kind::Volume, &[], body);
            }
            (42..64, Some(machine), _) => {
                let actions = [
                    ("start", Asked::Power(true)),
                    ("stop", Asked::Power(false)),
                    ("restart", Asked::Other),
                    ("pause", Asked::Other),
                    ("suspend", Asked::Other),
                ];
                let Some(&(action, asked)) = actions.choose(&mut self.rng) else {
                    return;
                };
                let force = self.rng.random_bool(0.3);
                let body = object(json!({ "force": force }));
                self.request(
                    entry,
                    asked,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let acted = cloud.act(&who, Kind::Machine, &machine, action, &body);
                        acted.await.map(|_| None)
                    },
                );
            }
            (64..74, Some(machine), _) => {
                self.request(
                    entry,
                    Asked::Delete,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let gone = cloud.delete_machine(&who, &machine);
                        gone.await.map(|_| None)
                    },
                );
            }
            (74..82, Some(machine), Some(volume)) => {
                let body = object(json!({"volume": {"href": format!("Volume/{volume}")}}));
                let things = [machine.clone(), volume];
                let [first, second] = &things;
                self.request(
                    entry,
                    Asked::Other,
                    &[first, second],
                    async move |cloud, who| {
                        let attached = cloud.attach_volume(&who, &machine, body);
                        attached.await.map(|_| None)
                    },
                );
            }
            (82..89, Some(machine), Some(_)) => {
                // One that it has, as far as the documents say.
                let Some(volume) = self.volumes_of(&machine).choose(&mut self.rng).cloned() else {
                    return;
                };
                self.request(
                    entry,
                    Asked::Other,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let detached = cloud.detach_volume(&who, &machine, &volume);
                        detached.await.map(|_| None)
                    },
                );
            }
            (89..93, _, Some(volume)) => {
                self.request(
                    entry,
                    Asked::Delete,
                    &[&volume.clone()],
                    async move |cloud, who| {
                        let gone = cloud.delete_volume(&who, &volume);
                        gone.await.map(|_| None)
                    },
                );
            }
            (93..100, Some(machine), _) => {
                let body = object(json!({"properties": {"atRest": true}}));
                self.request(
                    entry,
                    Asked::Move,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let moved = cloud.act(&who, Kind::Machine, &machine, "migrate", &body);
                        moved.await.map(|_| None)
                    },
                );
            }
            _ => {}
        }
    }

    fn create(&mut self, entry: usize, kind: Kind, with: &[&str], body: Value) {
        let body = object(body);
        self.request(entry, Asked::Create(kind), with, async move |cloud, who| {
            let made = match kind {
                Kind::Volume => cloud.create_volume(&who, body).await,
                _ => cloud.create_machine(&who, body).await,
            };
            let local = |id: &str| id.split('/').nth(1).map(str::to_owned);
            made.map(|made| local(&made.view.id))
        });
    }

    fn request<F>(
        &mut self,
        entry: usize,
        asked: Asked,
        things: &[&str],
        work: impl FnOnce(Cloud, OpContext) -> F + Send + 'static,
    ) where
        F: Future<Output = cloud::Result<Option<String>>> + Send + 'static,
    {
        let Some(central) = self.centrals.get(entry) else {
            return;
        };
        let (Some(daemon), Some(cloud)) = (&central.daemon, central.front.lock().clone()) else {
            return;
        };
        let request = self.ledger.lock().begin(entry, asked, things);
        let ledger = self.ledger.clone();
        let who = if asked == Asked::Move {
            admin()
        } else {
            user()
        };
        daemon.spawn(async move {
            let told = match work(cloud, who).await {
                Ok(made) => Told::Yes(made),
                Err(error) => {
                    tracing::debug!(%error, "refused");
                    Told::of(&error)
                }
            };
            ledger.lock().end(request, told);
        });
    }

    fn volumes_of(&self, machine: &str) -> Vec<String> {
        let machines = self.all::<Machine>();
        let machine = machines.iter().find(|one| one.id.local() == machine);
        let volumes = machine.map(|machine| machine.volumes.iter());
        volumes
            .into_iter()
            .flatten()
            .map(|one| one.volume.local().to_owned())
            .collect()
    }
}

fn user() -> OpContext {
    testing::caller("alice", &[USER_ROLE])
}

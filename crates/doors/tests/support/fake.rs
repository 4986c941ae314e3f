//! A cloud that is made up: some ids behave in special ways, every call is written down.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cimi::{
    Right,
    model::{Changes, Kind},
    query::{Attributes, Query, Scalar},
};
use cloud::{
    Check, CloudError, Console, ConsoleRange, Created, Document, Done, Health, HealthStatus,
    OpContext, Page, Rel, Result, Since, Upload, View, Watched, Watching,
};
use doors::{Body, CloudApi};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// Bytes of the image `large`.
pub const LARGE: usize = 3 << 20;

#[derive(Default)]
pub struct FakeCloud {
    /// What was asked, in words.
    pub calls: Mutex<Vec<String>>,
    /// How often attributes were made into JSON.
    pub renderings: Arc<Mutex<usize>>,
    /// Bytes of an upload taken so far.
    pub uploaded: Mutex<usize>,
    /// Rings when any of these changed.
    pub changed: tokio::sync::Notify,
    /// Slows uploads down.
    pub upload_pause: Mutex<Duration>,
    /// Lets what is asked of `held` go on.
    pub release: tokio::sync::Notify,
}

/// A document; its attributes are made when somebody looks: a cloud has its documents at hand, and benchmarks are not to
/// measure how this one makes them.
struct Plain {
    name: String,
    attributes: OnceLock<Map<String, Value>>,
    renderings: Arc<Mutex<usize>>,
}

impl Plain {
    fn all(&self) -> &Map<String, Value> {
        self.attributes.get_or_init(|| {
            let attributes = json!({"name": self.name, "state": "STARTED", "vmid": 7, "cpu": 1,
                "memory": 1_048_576, "addresses": ["10.77.0.9"], "networks": ["public"],
                "created": "2014-08-01T10:20:30.000Z", "updated": "2014-08-01T10:20:30.000Z",
                "machineImage": {"href": "MachineImage/x"}, "password": "secret",
                "properties": {"k": "v"}, "owner": "alice", "phase": "Running"});
            match attributes {
                Value::Object(attributes) => attributes,
                _ => Map::new(),
            }
        })
    }
}

impl Attributes for Plain {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        self.all()
            .get(name)
            .and_then(Value::as_str)
            .map(Scalar::from)
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Document for Plain {
    fn attributes(&self, _: Right) -> Map<String, Value> {
        *self.renderings.lock() += 1;
        self.all().clone()
    }

    fn operations(&self, right: Right) -> Vec<Rel> {
        if right >= Right::Modify {
            vec![Rel::Edit, Rel::Delete, Rel::Action("start")]
        } else {
            Vec::new()
        }
    }
}

impl FakeCloud {
    fn told(&self, call: String) {
        self.calls.lock().push(call);
        self.changed.notify_waiters();
    }

    /// Waits until something that is written down here is so.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(super::client::PATIENCE, wait)
            .await
            .unwrap();
    }

    pub fn last_call(&self) -> String {
        self.calls.lock().last().cloned().unwrap_or_default()
    }

    pub fn view(&self, kind: Kind, id: &str) -> View {
        let document = Plain {
            name: id.to_owned(),
            attributes: OnceLock::new(),
            renderings: Arc::clone(&self.renderings),
        };
        View {
            kind,
            id: if id.is_empty() {
                kind.name().into()
            } else {
                format!("{kind}/{id}").into()
            },
            stamp: Some(1),
            right: Right::All,
            document: Arc::new(document),
        }
    }

    async fn by_id(&self, id: &str) -> Result<()> {
        match id {
            "missing" => Err(CloudError::not_found("Machine/missing")),
            "forbidden" => Err(CloudError::Forbidden("Machine/forbidden is bob's".into())),
            "busy" => Err(CloudError::Conflict("Disk not available".into())),
            "full" => Err(CloudError::Exhausted("no address left".into())),
            "away" => Err(CloudError::Unavailable("the database is busy".into())),
            "broken" => Err(CloudError::Internal("secret path /etc/x".into())),
            "panic" => panic!("on purpose"),
            "slow" => {
                self.told("slow".to_owned());
                std::future::pending().await
            }
            "held" => {
                self.told("held".to_owned());
                self.release.notified().await;
                self.told("done".to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl CloudApi for FakeCloud {
    async fn list(&self, _: &OpContext, kind: Kind, query: &Query) -> Result<Page> {
        self.told(format!("list {kind} {query:?}"));
        let views = (1..=5).map(|n| self.view(kind, &n.to_string()));
        let all: Vec<_> = views.collect();
        let first = query.first.max(1);
        let last = query.last.unwrap_or(all.len());
        Ok(Page {
            count: all.len(),
            members: all.into_iter().take(last).skip(first - 1).collect(),
            can_add: true,
        })
    }

    async fn watch(
        &self,
        _: &OpContext,
        kind: Kind,
        query: &Query,
        since: Since,
    ) -> Result<Watching> {
        self.told(format!("watch {kind} {since:?} {}", query.filter.is_some()));
        let said = [
            Watched::Reset,
            Watched::Changed {
                now: self.view(kind, "1"),
                before: None,
            },
            Watched::Changed {
                now: self.view(kind, "1"),
                before: Some(self.view(kind, "1")),
            },
            Watched::Removed("Machine/2".into()),
            Watched::UpTo(41),
        ];
        Ok(Box::pin(
            futures::stream::iter(said).chain(futures::stream::pending()),
        ))
    }

    async fn watch_members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        query: &Query,
        since: Since,
    ) -> Result<Watching> {
        self.told(format!("watch {parent}/{id}/{collection} {since:?}"));
        self.by_id(id).await?;
        self.watch(context, Kind::Disk, query, since).await
    }

    async fn get(&self, context: &OpContext, kind: Kind, id: &str) -> Result<View> {
        self.by_id(id).await?;
        let mut view = self.view(kind, id);
        if context.user().is_none() {
            view.right = Right::View;
        }
        Ok(view)
    }

    async fn create(&self, _: &OpContext, kind: Kind, body: Body) -> Result<Created> {
        self.told(format!("create {kind} {}", Value::Object(body.clone())));
        let name = body.get("name").and_then(Value::as_str).unwrap_or("new");
        self.by_id(name).await?;
        Ok(Created {
            view: self.view(kind, name),
            job: (kind == Kind::Machine).then(|| "Job/1".to_owned()),
            existed: name == "there-already",
        })
    }

    async fn edit(&self, _: &OpContext, kind: Kind, id: &str, changes: Changes) -> Result<Done> {
        self.told(format!("edit {kind}/{id} {}", json!(changes)));
        self.by_id(id).await?;
        Ok(Done {
            view: Some(self.view(kind, id)),
            job: None,
        })
    }

    async fn delete(&self, _: &OpContext, kind: Kind, id: &str) -> Result<Done> {
        self.told(format!("delete {kind}/{id}"));
        self.by_id(id).await?;
        Ok(Done {
            view: None,
            job: (kind == Kind::Machine).then(|| "Job/2".to_owned()),
        })
    }

    async fn act(
        &self,
        _: &OpContext,
        kind: Kind,
        id: &str,
        action: &str,
        body: Body,
    ) -> Result<Done> {
        self.told(format!("{action} {kind}/{id} {}", Value::Object(body)));
        self.by_id(id).await?;
        Ok(Done {
            view: None,
            job: Some("Job/3".into()),
        })
    }

    async fn list_members(
        &self,
        _: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        _: &Query,
    ) -> Result<Page> {
        self.told(format!("list {parent}/{id}/{collection}"));
        Ok(Page {
            count: 0,
            members: Vec::new(),
            can_add: collection == "volumes",
        })
    }

    async fn get_member(
        &self,
        _: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<View> {
        let mut view = self.view(Kind::MachineVolume, member);
        view.id = format!("{parent}/{id}/{collection}/{member}").into();
        Ok(view)
    }

    async fn add_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        body: Body,
    ) -> Result<Created> {
        self.told(format!(
            "add {parent}/{id}/{collection} {}",
            Value::Object(body)
        ));
        self.by_id(id).await?;
        Ok(Created {
            view: self
                .get_member(context, parent, id, collection, "8")
                .await?,
            job: Some("Job/4".into()),
            existed: false,
        })
    }

    async fn delete_member(
        &self,
        _: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<Done> {
        self.told(format!("remove {parent}/{id}/{collection}/{member}"));
        Ok(Done {
            view: None,
            job: Some("Job/5".into()),
        })
    }

    fn can_create(&self, context: &OpContext, _: Kind) -> bool {
        context.user().is_some()
    }

    fn can_list(&self, context: &OpContext, kind: Kind) -> bool {
        context.user().is_some() && (kind != Kind::Host || context.is_admin())
    }

    async fn upload(&self, _: &OpContext, image: &str, mut upload: Upload) -> Result<View> {
        self.told(format!("upload {image} {:?}", upload.length));
        while let Some(bytes) = upload.content.next().await {
            let bytes = bytes.map_err(|e| CloudError::invalid("", e.to_string()))?;
            *self.uploaded.lock() += bytes.len();
            self.changed.notify_waiters();
            let pause = *self.upload_pause.lock();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(self.view(Kind::MachineImage, image))
    }

    async fn download(
        &self,
        _: &OpContext,
        image: &str,
        request: cloud::DownloadRequest,
    ) -> Result<cloud::Download> {
        self.told(format!("download {image} {request:?}"));
        if image == "large" {
            let piece = Bytes::from_static(&[7; 64 << 10]);
            let pieces = std::iter::repeat_n(piece, LARGE / (64 << 10));
            return Ok(cloud::Download {
                format: "raw",
                length: Some(LARGE as u64),
                part: None,
                identifier: None,
                content: Box::pin(futures::stream::iter(pieces.map(Ok))),
                tag: "large-raw".to_owned(),
            });
        }
        let all = b"content of an image";
        let end = all.len() as u64;
        let part = request
            .part
            .map(|(from, to)| (from, to.unwrap_or(end).min(end)));
        let (from, to) = part.unwrap_or((0, end));
        let sent = Bytes::from_static(&all[from as usize..to as usize]);
        Ok(cloud::Download {
            format: "raw",
            length: Some(end),
            part,
            identifier: None,
            content: Box::pin(futures::stream::iter([Ok(sent)])),
            tag: format!("{image}-raw"),
        })
    }

    async fn console(&self, _: &OpContext, machine: &str, range: ConsoleRange) -> Result<Console> {
        self.told(format!("console {machine} {range:?}"));
        let said = futures::stream::iter([Ok(Bytes::from_static(b"login: "))]);
        let content: cloud::ByteStream = if range.follow {
            Box::pin(said.chain(futures::stream::pending()))
        } else {
            Box::pin(said)
        };
        Ok(Console { start: 41, content })
    }

    async fn catalogue(&self, _context: &OpContext, _name: Option<&str>) -> Result<Value> {
        Ok(Value::Array(Vec::new()))
    }

    async fn status(&self, context: &OpContext) -> Result<Value> {
        if context.is_admin() {
            Ok(json!({"version": "1"}))
        } else {
            Err(CloudError::Forbidden("for administrators".into()))
        }
    }

    async fn doctor(&self, _: &OpContext, repair: bool) -> Result<Value> {
        Ok(json!({"findings": [], "repair": repair}))
    }

    async fn quota(&self, _: &OpContext, _: Option<&str>, _: Option<&str>) -> Result<Value> {
        Ok(json!({"quota": []}))
    }

    async fn usage(&self, _: &OpContext, _: cloud::UsageQuery) -> Result<Value> {
        Ok(json!({"uses": []}))
    }

    async fn make_host_token(&self, _: &OpContext, body: Body) -> Result<Value> {
        self.told(format!("host-token {}", json!(body)));
        Ok(json!({"token": "sjoin_fake"}))
    }

    async fn host_tokens(&self, _: &OpContext) -> Result<Value> {
        Ok(json!({"tokens": []}))
    }

    async fn withdraw_host_token(&self, _: &OpContext, id: &str) -> Result<()> {
        self.told(format!("withdrawn {id}"));
        Ok(())
    }

    async fn load(&self) -> Vec<cloud::HostUse> {
        let half = cloud::Filled {
            total: 2 << 20,
            used: 1 << 20,
            booked: 1 << 20,
        };
        vec![cloud::HostUse {
            name: "node1".into(),
            running: 1,
            cpu_percent: half,
            memory_kib: half,
            takes: cloud::Takes::Machines,
        }]
    }

    async fn health(&self) -> Health {
        Health {
            status: HealthStatus::Degraded,
            checks: vec![Check {
                name: "database".into(),
                ok: true,
                detail: "3 ms".into(),
                vital: false,
            }],
        }
    }
}

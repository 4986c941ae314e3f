//! A machine on its way to another host, by QEMU's migration and mirrors of disks (QMP `migrate`, `blockdev-mirror`; QEMU
//! documentation "Migration", "Live Block Device Operations").
//!
//! Disks come first: as long as a mirror is ready, whatever the guest writes is on both sides before it hears so
//! (`write-blocking`). Then memory, until QEMU has halted the guest (`pre-switchover`): the mirrors end, and what is left is sent.
//! On the other side QEMU has the disks open without touching them (`late-block-activate`) until it is told to run the guest.

use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::memory::{BYTES_PER_SECOND, HALT_FIRST, THROTTLE};
use crate::block_nodes::format_node;
use crate::command_line::{VOLUMES_DESCRIPTOR, inherited};
use crate::error::HypervisorError;
use crate::hypervisor::{Crossing, EventStream, Result, Sent, SentStage};

/// The name under which QEMU knows the connection until it uses it.
const STREAM: &str = "crossing";
/// How mirrors, and the nodes they write to, are called; the port follows.
const MIRROR: &str = "crossing-";
/// The guest is halted when what is left takes no longer than this.
const LEFT_MILLIS: u32 = 100;
/// How long the end of a mirror may take, and a migration to be given up.
const ENDING: Duration = Duration::from_secs(10);
/// Of memory of a multiple of this, in bytes, QEMU looks in a quick way which pages were written.
const LOOKED_AT_QUICKLY: u64 = 256 << 10;
/// How often is looked whether something has ended that tells nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What QEMU says of a mirror.
struct Job {
    id: String,
    status: String,
    done: u64,
    all: u64,
    error: Option<String>,
}

impl Job {
    /// Whether both sides are the same, and stay so.
    fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    fn has_ended(&self) -> bool {
        self.status == "concluded"
    }
}

impl Shared {
    /// The mirrors there are.
    async fn jobs(&self) -> Result<Vec<Job>> {
        let answer = self.execute("query-jobs", None).await?;
        let text = |job: &Value, name: &str| job.get(name)?.as_str().map(str::to_owned);
        let number = |job: &Value, name: &str| job.get(name).and_then(Value::as_u64).unwrap_or(0);
        let of_one = |job: &Value| {
            Some(Job {
                id: text(job, "id").filter(|id| id.starts_with(MIRROR))?,
                status: text(job, "status").unwrap_or_default(),
                done: number(job, "current-progress"),
                all: number(job, "total-progress"),
                error: text(job, "error"),
            })
        };
        let jobs = answer.as_array().into_iter().flatten();
        Ok(jobs.filter_map(of_one).collect())
    }

    /// Ends all mirrors, in order or not, and lets go of what they write to.
    async fn without_mirrors(&self, force: bool) -> Result<()> {
        let mut events = EventStream::new(self.events.subscribe());
        for job in self.jobs().await? {
            if !job.has_ended() {
                let end = json!({"device": job.id, "force": force});
                // It may have ended since.
                if let Err(error) = self.execute("block-job-cancel", Some(end)).await {
                    tracing::debug!(vmid = self.vmid, job = job.id, %error, "a mirror was not to be ended");
                }
            }
        }
        let limit = Instant::now() + ENDING;
        let mut failed = None;
        loop {
            let jobs = self.jobs().await?;
            for job in jobs.iter().filter(|job| job.has_ended()) {
                failed = failed.or(job.error.clone());
                let this = json!({"id": job.id});
                self.execute("job-dismiss", Some(this)).await?;
            }
            if jobs.iter().all(Job::has_ended) {
                break;
            }
            if Instant::now() > limit {
                return Err(HypervisorError::TimedOut {
                    what: "the end of the mirror of a disk",
                    limit: ENDING,
                });
            }
            let _ = timeout_at(Instant::now() + LOOK_AGAIN, events.next()).await;
        }
        let nodes = self
            .execute("query-named-block-nodes", Some(json!({"flat": true})))
            .await?;
        let names = nodes.as_array().into_iter().flatten();
        let names = names.filter_map(|node| node.get("node-name")?.as_str());
        for name in names.filter(|name| name.starts_with(MIRROR)) {
            let this = json!({"node-name": name});
            self.execute("blockdev-del", Some(this)).await?;
        }
        match failed {
            Some(why) if !force => Err(HypervisorError::CopyFailed { why }),
            _ => Ok(()),
        }
    }

    /// Whether QEMU may miss what its guest writes while memory is sent: before version 9 without KVM, if its memory is of an
    /// [even size](crate::command_line), as that of machines is that were started before this was known.
    async fn misses_writes(&self) -> Result<bool> {
        let kvm = self.execute("query-kvm", None).await?;
        let version = self.execute("query-version", None).await?;
        let size = self.execute("query-memory-size-summary", None).await?;
        let has_kvm = kvm.get("enabled").and_then(Value::as_bool);
        let major = version.pointer("/qemu/major").and_then(Value::as_u64);
        let bytes = size.get("base-memory").and_then(Value::as_u64);
        let is_even = bytes.is_none_or(|bytes| bytes.is_multiple_of(LOOKED_AT_QUICKLY));
        Ok(has_kvm != Some(true) && major.is_none_or(|major| major < 9) && is_even)
    }

    async fn migration(&self) -> Result<Value> {
        self.execute("query-migrate", None).await
    }
}

/// QEMU's word for how far a migration is.
fn status(answer: &Value) -> &str {
    answer
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or("none")
}

#[async_trait]
impl Crossing for Shared {
    async fn mirror(&self, port: u8, socket: &str, speed: Option<u64>) -> Result<()> {
        let name = format!("{MIRROR}{port}");
        let node = json!({
            "driver": "nbd", "node-name": name, "export": storage::exports::EXPORT,
            "server": {"type": "unix", "path": format!("{}/{socket}", inherited(VOLUMES_DESCRIPTOR))},
            "discard": "unmap",
        });
        self.execute("blockdev-add", Some(node)).await?;
        let mirror = json!({
            "job-id": name, "device": format_node(port, 0), "target": name,
            // What it has of the image below is there, too.
            "sync": "top", "copy-mode": "write-blocking", "auto-dismiss": false,
            "speed": speed.unwrap_or(0),
        });
        self.execute("blockdev-mirror", Some(mirror))
            .await
            .map(drop)
    }

    async fn send(&self, to: OwnedFd, speed: Option<u64>) -> Result<bool> {
        let stands_still = self.misses_writes().await?;
        if stands_still {
            self.execute("stop", None).await?;
        }
        self.set_capabilities(&[("events", true), (HALT_FIRST, true), (THROTTLE, true)])
            .await?;
        // A limit is for what runs: one that stands still is waited for.
        let speed = speed.filter(|_| !stands_still);
        let parameters = json!({
            "max-bandwidth": speed.unwrap_or(BYTES_PER_SECOND), "downtime-limit": LEFT_MILLIS,
        });
        self.execute("migrate-set-parameters", Some(parameters))
            .await?;
        self.monitor()
            .execute_with_descriptor("getfd", json!({"fdname": STREAM}), to)
            .await?;
        let target = json!({"uri": format!("fd:{STREAM}")});
        self.execute("migrate", Some(target)).await?;
        Ok(stands_still)
    }

    async fn sent(&self, is_sending: bool) -> Result<Sent> {
        let jobs = self.jobs().await?;
        // That of an earlier one is nothing to this.
        let memory = match is_sending {
            true => self.migration().await?,
            false => Value::Null,
        };
        let number = |path: &str| memory.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let disks = |of: fn(&Job) -> u64| jobs.iter().map(of).fold(0, u64::saturating_add);
        let lost = jobs.iter().find(|job| job.has_ended()).map(|job| {
            let why = job.error.as_deref().unwrap_or("its mirror has ended");
            SentStage::Failed(format!("a disk could not be copied: {why}"))
        });
        let stage = match (status(&memory), lost) {
            ("completed", _) => SentStage::Complete,
            (_, Some(lost)) => lost,
            _ if !is_sending && jobs.iter().all(Job::is_ready) => SentStage::Ready,
            ("pre-switchover", _) => SentStage::Still,
            ("failed" | "cancelled", _) => {
                let why = memory.get("error-desc").and_then(Value::as_str);
                SentStage::Failed(why.unwrap_or("its memory could not be sent").to_owned())
            }
            _ => SentStage::GoesOn,
        };
        Ok(Sent {
            copied: disks(|job| job.done).saturating_add(number("/ram/transferred")),
            left: disks(|job| job.all.saturating_sub(job.done))
                .saturating_add(number("/ram/remaining")),
            stage,
        })
    }

    async fn end_mirrors(&self) -> Result<()> {
        self.without_mirrors(false).await
    }

    async fn hand_over(&self) -> Result<()> {
        let from = json!({"state": "pre-switchover"});
        self.execute("migrate-continue", Some(from)).await.map(drop)
    }

    async fn give_up(&self) -> Result<()> {
        let mut events = EventStream::new(self.events.subscribe());
        let limit = Instant::now() + ENDING;
        // One that failed or ended leaves nothing.
        while !matches!(
            status(&self.migration().await?),
            "none" | "completed" | "failed" | "cancelled"
        ) {
            self.execute("migrate_cancel", None).await?;
            if Instant::now() > limit {
                return Err(HypervisorError::TimedOut {
                    what: "the end of sending memory",
                    limit: ENDING,
                });
            }
            let _ = timeout_at(Instant::now() + LOOK_AGAIN, events.next()).await;
        }
        self.without_mirrors(true).await
    }

    async fn receive(&self, from: OwnedFd) -> Result<()> {
        self.set_capabilities(&[("events", true), ("late-block-activate", true)])
            .await?;
        self.monitor()
            .execute_with_descriptor("getfd", json!({"fdname": STREAM}), from)
            .await?;
        let source = json!({"uri": format!("fd:{STREAM}")});
        self.execute("migrate-incoming", Some(source))
            .await
            .map(drop)
    }

    async fn announce(&self) -> Result<()> {
        // Five times within two seconds, as QEMU does by itself.
        let rounds = json!({"initial": 50, "max": 550, "rounds": 5, "step": 100});
        self.execute("announce-self", Some(rounds)).await.map(drop)
    }
}

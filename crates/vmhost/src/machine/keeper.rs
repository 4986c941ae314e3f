//! The keeper: the task that owns the monitor's events and the process's end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{QemuMachine, Shared};
use crate::block_nodes;
use crate::hypervisor::{ExitCause, MachineEvent};
use crate::launch_spec::DiskId;
use crate::ports::PortState;
use crate::qemu::{blocking, remove_leftovers};
use crate::qmp::{COMMAND_LIMIT, QmpEvent};

/// The keeper: until the process ends or the handle is dropped.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut events: mpsc::Receiver<QmpEvent>,
    mut device_gone: mpsc::Receiver<DiskId>,
) {
    let mut finishing = FuturesUnordered::new();
    let mut orderly = false;
    let mut connected = true;
    let how = loop {
        tokio::select! {
            biased;
            event = events.recv(), if connected => match event {
                Some(event) => {
                    orderly |= is_orderly_end(&event);
                    if let Some(task) = shared.take(event).await {
                        finishing.push(shared.follow_up(task));
                    }
                }
                None => connected = false,
            },
            how = shared.process.ended() => break how,
            Some(disk) = device_gone.recv() => {
                finishing.push(shared.follow_up(FollowUp::FinishDetach(disk)));
            }
            Some(()) = finishing.next() => {}
            anew = reconnect(&shared), if !connected => {
                events = anew;
                connected = true;
                shared.tell(MachineEvent::Missed);
            }
        }
    };
    drop(finishing);
    // What it said last may still be on its way; the socket of a dead process is closed, so this ends.
    while let Ok(Some(event)) =
        tokio::time::timeout(Duration::from_millis(200), events.recv()).await
    {
        orderly |= is_orderly_end(&event);
        let _ = shared.take(event).await;
    }
    let how = match how {
        // Nobody can wait for another's child, but it said that it ends.
        ExitCause::Unseen if orderly => ExitCause::Requested,
        how => how,
    };
    shared.finish(how).await;
}

fn is_orderly_end(event: &QmpEvent) -> bool {
    let QmpEvent::Happened { name, data } = event else {
        return false;
    };
    let reason = data
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or_default();
    name == "SHUTDOWN" && matches!(reason, "host-qmp-quit" | "host-signal")
}

/// The monitor was lost though the process lives (a broken line, an operator's tool): tries until it works.
async fn reconnect(shared: &Shared) -> mpsc::Receiver<QmpEvent> {
    // A process that is just ending closes its monitor first.
    let mut pause = Duration::from_millis(50);
    let began = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        match QemuMachine::connect(&shared.folder, shared.machine).await {
            Ok((qmp, events)) => {
                *shared.monitor.lock() = Arc::new(qmp);
                return events;
            }
            Err(error) => {
                tracing::warn!(vmid = shared.vmid, %error, lost_for = ?began.elapsed(), "the monitor can't be reached");
                pause = (pause * 2).min(COMMAND_LIMIT);
            }
        }
    }
}

/// What takes its time, done beside the reading of events.
enum FollowUp {
    FinishDetach(DiskId),
    Tidy,
}

impl Shared {
    /// Tells what an event means; returns what is to be done after it.
    async fn take(&self, event: QmpEvent) -> Option<FollowUp> {
        let QmpEvent::Happened { name, data } = event else {
            self.tell(MachineEvent::Missed);
            return None;
        };
        let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default();
        let flag = |field: &str| data.get(field).and_then(Value::as_bool).unwrap_or_default();
        let told = match name.as_str() {
            "RESUME" => {
                self.tell(MachineEvent::Running);
                return Some(FollowUp::Tidy);
            }
            "STOP" => MachineEvent::Paused,
            "POWERDOWN" => MachineEvent::PowerButton,
            "RESET" if flag("guest") => MachineEvent::GuestReset,
            "RESET" => MachineEvent::HostReset,
            "SHUTDOWN" if flag("guest") => MachineEvent::GuestShutdown,
            "SHUTDOWN" => MachineEvent::HostShutdown {
                reason: text("reason").to_owned(),
            },
            "GUEST_PANICKED" => MachineEvent::GuestPanicked,
            "DEVICE_DELETED" => {
                // virtio devices tell twice; the first time, for their back end, without `device`.
                return block_nodes::disk_of_device(text("device")).map(FollowUp::FinishDetach);
            }
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                let disk = block_nodes::disk_of_device(text("device"))?;
                let mut record = self.record.lock().await;
                record.ports.set_state(&disk, PortState::Attached);
                if let Err(error) = self.save(&record).await {
                    tracing::warn!(vmid = self.vmid, %disk, %error, "a refused detachment could not be recorded");
                }
                MachineEvent::DetachRefused { disk }
            }
            "BLOCK_IO_ERROR" => {
                let port = block_nodes::port_of_node(text("node-name"));
                let record = self.record.lock().await;
                let disk = port
                    .and_then(|port| record.ports.on_port(port))
                    .map(|entry| entry.disk.clone());
                MachineEvent::IoError {
                    disk,
                    operation: text("operation").to_owned(),
                    no_space: flag("nospace"),
                    halted: text("action") == "stop",
                    reason: text("reason").to_owned(),
                }
            }
            "MIGRATION"
            | "BLOCK_JOB_READY"
            | "BLOCK_JOB_COMPLETED"
            | "BLOCK_JOB_CANCELLED"
            | "BLOCK_JOB_ERROR" => MachineEvent::Memory,
            "VSERPORT_CHANGE" if text("id") == "agent" => {
                MachineEvent::AgentConnected(flag("open"))
            }
            _ => return None,
        };
        self.tell(told);
        None
    }

    async fn follow_up(&self, task: FollowUp) {
        match task {
            FollowUp::FinishDetach(disk) => self.finish_detach(disk).await,
            FollowUp::Tidy => self.tidy().await,
        }
    }

    /// The process has ended: clears up, then tells.
    async fn finish(&self, how: ExitCause) {
        let mut record = self.record.lock().await;
        record.ended = Some(how.clone());
        let (ended, folder) = (record.clone(), self.folder.clone());
        let cleared = blocking(move || {
            remove_leftovers(&folder, &ended);
            Ok(())
        });
        if let Err(error) = futures::future::try_join(cleared, self.save(&record)).await {
            tracing::warn!(vmid = self.vmid, %error, "the end of a machine could not be recorded");
        }
        self.exit.send_replace(Some(how.clone()));
        self.tell(MachineEvent::Exited { how });
    }
}

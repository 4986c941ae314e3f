//! The end of a way where the machine comes to.

use std::{fs::File, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc, time::Duration};

use cimi::resources::Machine;
use storage::{
    exports::{Part, Shown},
    inspect::Format,
};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional_with_sizes},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        Shared, WayEnd,
        prepare::{self, Places},
        volume_disk,
        worker::{Plugged, plug},
    },
    BUFFER_BYTES, Come, ENDING, LOOK_AGAIN, Line, MEMORY, Said, add, blocking, own_disks, pair,
    told,
};
use crate::{
    MachineEvent, RunState, RunningMachine,
    hypervisor::{EventStream, RunFolder},
    launch_spec::{DiskFormat, DiskSpec, ImageStorage},
    qemu::last_words,
    stop_points::{self, Point},
};

/// The end of a way where the machine comes to.
pub(super) struct Coming<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) machine: &'a Machine,
    pub(super) folder: PathBuf,
    pub(super) launching: Arc<tokio::sync::Mutex<()>>,
}

/// A disk that is being written.
struct Written {
    shown: Shown,
    path: PathBuf,
}

impl Coming<'_> {
    pub(super) async fn come(&self, mut line: Line) -> Result<Come, String> {
        let prepared = self.prepared(&mut line).await;
        let (handle, mut events, disks) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                // So that it says why, and not only that it was given up.
                let _ = line.say(&Said::Refused { why: why.clone() }).await;
                return Err(why);
            }
        };
        let (ports, shown): (Vec<u8>, Vec<DiskSpec>) = disks.into_iter().unzip();
        let mut copies = JoinSet::new();
        for (port, disk) in ports.iter().zip(&shown) {
            copies.spawn(self.written(*port, disk).await?);
        }
        let memory = self.memory(&*handle).await?;
        line.say(&Said::Prepared { disks: ports }).await?;

        let mut syncing = JoinSet::new();
        let mut written: Vec<Written> = Vec::new();
        loop {
            let said = tokio::select! {
                said = line.hear() => said?,
                Some(event) = events.next() => match event {
                    MachineEvent::Exited { how } => return Err(self.last_words(&how.to_string()).await),
                    _ => continue,
                },
            };
            match said {
                Said::Same => {
                    // What is on the disk by now need not be put there while the guest stands still.
                    for disk in &shown {
                        let path = disk.image.path.clone();
                        syncing.spawn_blocking(move || File::open(path)?.sync_all());
                    }
                }
                Said::Still => {
                    let all = async {
                        while let Some(copied) = copies.join_next().await {
                            written.push(copied.map_err(|error| error.to_string())??);
                        }
                        Ok::<_, String>(())
                    };
                    let late = |_| "its disks were not written to their end in time".to_owned();
                    timeout(ENDING, all).await.map_err(late)??;
                    while let Some(synced) = syncing.join_next().await {
                        synced.map_err(told)?.map_err(told)?;
                    }
                    for disk in std::mem::take(&mut written) {
                        if !disk.shown.close(ENDING).await {
                            return Err("a disk could not be closed in time".to_owned());
                        }
                        blocking(move || File::open(disk.path)?.sync_all()).await?;
                    }
                }
                Said::Gone {
                    halted_micros,
                    console_at,
                } => {
                    let now = Instant::now();
                    if !copies.is_empty() {
                        return Err("the other host makes no sense".to_owned());
                    }
                    let (rest, log) = (
                        line.bytes().await?,
                        RunFolder(self.folder.clone()).serial_log(),
                    );
                    blocking(move || add(&log, console_at, &rest)).await?;
                    self.until_read(&*handle, &mut events).await?;
                    drop(memory);
                    stop_points::pass(Point::Read).await;
                    let halted = Duration::from_micros(halted_micros);
                    return Ok(Come {
                        handle,
                        halted: (halted, now),
                    });
                }
                Said::Offer { .. } | Said::Prepared { .. } | Said::Refused { .. } => {
                    return Err("the other host makes no sense".to_owned());
                }
            }
        }
    }

    /// Makes all that it needs, and starts its process, which waits.
    async fn prepared(
        &self,
        line: &mut Line,
    ) -> Result<(Arc<dyn RunningMachine>, EventStream, Vec<(u8, DiskSpec)>), String> {
        let Said::Offer { record } = line.hear().await? else {
            return Err("the other host makes no sense".to_owned());
        };
        let console = line.bytes().await?;
        let known = |disk: &str| {
            let own = self
                .machine
                .disks
                .iter()
                .any(|own| prepare::disk_name(own) == disk);
            let mut volumes = self.machine.volumes.iter();
            own || volumes.any(|volume| volume_disk(volume) == disk)
        };
        if !record.is_possible() || !record.disks().iter().all(|(_, disk)| known(disk.as_str())) {
            return Err("it has disks there that are not in its document".to_owned());
        }
        let folder = self.folder.clone();
        blocking(move || {
            std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
            // Its name lasts as long as what comes into it.
            if let Some(parent) = folder.parent() {
                File::open(parent)?.sync_all()?;
            }
            add(&RunFolder(folder).serial_log(), 0, &console)
        })
        .await?;
        let mut places = Places::new();
        let by = prepare::volume_user_in(self.shared, self.machine, self.folder.clone());
        for attached in &self.machine.volumes {
            let volume = self.shared.documents.volumes.get(attached.volume.local());
            let volume =
                volume.ok_or_else(|| format!("{} does not exist any more", attached.volume))?;
            let bytes = volume.size_bytes.0;
            let place = self.shared.volumes.expected(&by, attached, bytes).await?;
            places.insert(attached.volume.clone(), place);
        }
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let folder = self.folder.clone();
        let (mut spec, record) = blocking(move || {
            let of = (folder, &record);
            let spec = prepare::prepare_to_receive(&shared, &machine, &places, of);
            Ok((spec.map_err(told), record))
        })
        .await
        .and_then(|(spec, record)| Ok((spec?, record)))?;
        let Plugged { nics, waits, .. } = plug(self.shared, self.machine).await.map_err(told)?;
        spec.nics = nics;
        let is_own = |disk: &DiskSpec| {
            let is_file = disk.image.storage == ImageStorage::File;
            let mut own = own_disks(self.machine);
            is_file && own.any(|own| prepare::disk_name(own) == disk.id.as_str())
        };
        let disks = spec.disks.iter().filter(|disk| is_own(disk)).cloned();
        let port_of = |disk: DiskSpec| {
            let known = record.disks().iter().find(|(_, known)| *known == disk.id);
            Some((known?.0, disk))
        };
        let mut disks: Vec<_> = disks.filter_map(port_of).collect();
        disks.sort_unstable_by_key(|(port, _)| *port);
        // Whoever gives this up waits for it: a process that is just being started must not be missed.
        let launching = Arc::clone(&self.launching).lock_owned().await;
        let hypervisor = Arc::clone(&self.shared.hypervisor);
        let launched = tokio::spawn(async move {
            let launched = hypervisor.launch(spec).await;
            drop(launching);
            launched
        });
        let handle = launched.await.map_err(told)?.map_err(told)?;
        let events = handle.events();
        for ready in waits {
            ready.wait().await.map_err(told)?;
        }
        Ok((handle, events, disks))
    }

    /// Shows a disk, and lets the other host write it once it asks for that.
    async fn written(
        &self,
        port: u8,
        disk: &DiskSpec,
    ) -> Result<impl Future<Output = Result<Written, String>> + Send + use<>, String> {
        let daemon = self.shared.settings.storage_daemon.as_ref();
        let daemon = daemon.ok_or("there is no qemu-storage-daemon on the other host")?;
        let parts = disk.images().map(|image| Part {
            path: image.path.clone(),
            format: match image.format {
                DiskFormat::Raw => Format::Raw,
                DiskFormat::Qcow2 => Format::Qcow2,
            },
        });
        let user = prepare::user(&self.shared.settings, self.machine);
        let shown = daemon.show_copy(parts.collect(), user).await;
        let (shown, mut stream) = shown.map_err(told)?;
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let (name, path) = (format!("disk-{port}"), disk.image.path.clone());
        Ok(async move {
            let asked = shared.moves.channel(&machine, WayEnd::Coming, &name);
            let mut channel = asked.await?;
            // However it ends: who has written all has said so.
            let _ = copy_bidirectional_with_sizes(
                &mut channel,
                &mut stream,
                BUFFER_BYTES,
                BUFFER_BYTES,
            )
            .await;
            Ok(Written { shown, path })
        })
    }

    /// Has QEMU read memory from the other host once that sends it.
    async fn memory(&self, handle: &dyn RunningMachine) -> Result<AbortOnDropHandle<()>, String> {
        let (mut ours, theirs) = pair().map_err(told)?;
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let task = tokio::spawn(async move {
            let asked = shared.moves.channel(&machine, WayEnd::Coming, MEMORY);
            match asked.await {
                Ok(mut channel) => {
                    let _ = tokio::io::copy_buf(
                        &mut tokio::io::BufReader::with_capacity(BUFFER_BYTES, &mut channel),
                        &mut ours,
                    )
                    .await;
                    let _ = ours.shutdown().await;
                }
                Err(why) => tracing::warn!(why, "its memory doesn't come"),
            }
        });
        let crossing = handle
            .crossing()
            .ok_or("the other host's hypervisor can't")?;
        crossing.receive(theirs).await.map_err(told)?;
        Ok(AbortOnDropHandle::new(task))
    }

    /// Waits until all of its memory was read.
    async fn until_read(
        &self,
        handle: &dyn RunningMachine,
        events: &mut EventStream,
    ) -> Result<(), String> {
        let reading = async {
            loop {
                match handle.status().await.map_err(told)?.run_state {
                    RunState::Paused => return Ok(()),
                    RunState::Exited => return Err(self.last_words("ended").await),
                    _ => {}
                }
                let _ = timeout(LOOK_AGAIN, events.next()).await;
            }
        };
        let late = |_| "its memory was not read in time".to_owned();
        timeout(ENDING, reading).await.map_err(late)?
    }

    async fn last_words(&self, how: &str) -> String {
        let output = RunFolder(self.folder.clone()).output();
        let words = blocking(move || Ok(last_words(&output))).await;
        format!(
            "QEMU on the other host {how}: {}",
            words.unwrap_or_default()
        )
    }
}

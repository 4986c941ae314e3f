//! The end of a way where the machine is.

use std::time::Duration;

use cimi::resources::{Disk, Machine};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::UnixListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{Channel, Shared, VolumeUser, WayEnd, memory::MemoryRecord, prepare},
    BUFFER_BYTES, CONTROL, ENDING, LOOK_AGAIN, Line, MEMORY, Said, blocking, own_disks, pair, tail,
    told,
};
use crate::{
    MachineEvent, RunningMachine,
    hypervisor::{Crossing, EventStream, Sent, SentStage},
    stop_points::{self, Point},
};

/// How long the other host may take to ask for a connection, too, and to be prepared.
const MEETING: Duration = Duration::from_secs(60);
const PREPARING: Duration = Duration::from_secs(180);

/// The end of a way where the machine is.
pub(super) struct Going<'a> {
    pub(super) shared: &'a Shared,
    pub(super) machine: &'a Machine,
    pub(super) handle: &'a dyn RunningMachine,
    pub(super) crossing: &'a dyn Crossing,
    pub(super) tell: watch::Sender<Option<Sent>>,
}

impl Going<'_> {
    /// Sends it. When this has ended well, all of it is on the other side, and its guest is halted.
    pub(super) async fn go(&self, bandwidth: Option<u64>) -> Result<(), String> {
        let mut events = self.handle.events();
        let mut line = Line::of(self.channel(CONTROL).await?);
        let folder = prepare::folder(&self.shared.settings, self.machine);
        let by = prepare::volume_user_in(self.shared, self.machine, folder);
        let status = self.handle.status().await.map_err(told)?;
        let (place, log) = (by.folder.clone(), by.folder.serial_log());
        let (record, console) = blocking(move || {
            let record = MemoryRecord::of(&place, &status);
            Ok((record, tail(&log, 0).unwrap_or_default()))
        })
        .await?;
        let disks = self.disks(&record)?;
        line.say(&Said::Offer { record }).await?;
        line.send(&console).await?;
        match timeout(PREPARING, line.hear()).await {
            Ok(Ok(Said::Prepared { disks: there })) if there == disks => {}
            Ok(Ok(_)) => return Err("the other host takes other disks".to_owned()),
            Ok(Err(why)) => return Err(why),
            Err(_) => return Err("the other host was not prepared in time".to_owned()),
        }

        let mut streams = JoinSet::new();
        let of_each = bandwidth.map(|all| (all / disks.len().max(1) as u64).max(1));
        for port in disks {
            let name = format!("crossing-{port}.sock");
            let listener = by.listen(&name).map_err(told)?;
            let channel = self.channel(&format!("disk-{port}")).await?;
            streams.spawn(accept(listener, channel));
            let begun = self.crossing.mirror(port, &name, of_each).await;
            // QEMU is connected, or never will be.
            VolumeUser::forget(&by.folder.0, &name);
            begun.map_err(told)?;
        }
        self.until(false, &SentStage::Ready, &mut events, &mut line)
            .await?;
        line.say(&Said::Same).await?;

        let mut channel = self.channel(MEMORY).await?;
        let (mut from_qemu, to_us) = pair().map_err(told)?;
        let sending = tokio::spawn(async move {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                match from_qemu.read(&mut buffer).await? {
                    0 => return channel.shutdown().await,
                    length => {
                        channel
                            .write_all(buffer.get(..length).unwrap_or_default())
                            .await?;
                    }
                }
            }
        });
        let sending = AbortOnDropHandle::new(sending);
        let before = Instant::now();
        let sent = self.crossing.send(to_us, bandwidth).await;
        let is_halted = sent.map_err(told)?;
        let halted = self
            .until(true, &SentStage::Still, &mut events, &mut line)
            .await?;
        let halted = if is_halted { before } else { halted };
        stop_points::pass(Point::Halted).await;
        self.crossing.end_mirrors().await.map_err(told)?;
        stop_points::pass(Point::MirrorsEnded).await;
        line.say(&Said::Still).await?;
        stop_points::pass(Point::Still).await;
        self.crossing.hand_over().await.map_err(told)?;
        let ending = self.until(true, &SentStage::Complete, &mut events, &mut line);
        let late = |_| "the last of its memory was not sent in time".to_owned();
        timeout(ENDING, ending).await.map_err(late)??;
        let all = timeout(ENDING, sending).await.map_err(late)?;
        all.map_err(|error| error.to_string())
            .and_then(|sent| sent.map_err(told))?;
        let (log, console_at) = (by.folder.serial_log(), console.len() as u64);
        let rest = blocking(move || Ok(tail(&log, console_at))).await?;
        // It was cut meanwhile: all of it.
        let (rest, console_at) = match rest {
            Some(rest) => (rest, console_at),
            None => {
                let log = by.folder.serial_log();
                (
                    blocking(move || Ok(tail(&log, 0).unwrap_or_default())).await?,
                    0,
                )
            }
        };
        stop_points::pass(Point::Sent).await;
        line.say(&Said::Gone {
            halted_micros: u64::try_from(halted.elapsed().as_micros()).unwrap_or(u64::MAX),
            console_at,
        })
        .await?;
        line.send(&rest).await?;
        stop_points::pass(Point::Gone).await;
        Ok(())
    }

    async fn channel(&self, name: &str) -> Result<Channel, String> {
        let asked = self
            .shared
            .moves
            .channel(self.machine, WayEnd::Leaving, name);
        let late = |_| "the other host doesn't answer in time".to_owned();
        timeout(MEETING, asked).await.map_err(late)?
    }

    /// The ports of the disks that are to be copied.
    fn disks(&self, record: &MemoryRecord) -> Result<Vec<u8>, String> {
        let port_of = |disk: &Disk| {
            let name = prepare::disk_name(disk);
            let known = record
                .disks()
                .iter()
                .find(|(_, known)| known.as_str() == name);
            known
                .map(|(port, _)| *port)
                .ok_or_else(|| format!("its disk {name} is not at it"))
        };
        let mut ports = own_disks(self.machine)
            .map(port_of)
            .collect::<Result<Vec<_>, _>>()?;
        ports.sort_unstable();
        Ok(ports)
    }

    /// Waits until it has come so far; says since when its guest is halted, if it is.
    async fn until(
        &self,
        is_sending: bool,
        wanted: &SentStage,
        events: &mut EventStream,
        line: &mut Line,
    ) -> Result<Instant, String> {
        let mut halted = None;
        loop {
            let sent = self.crossing.sent(is_sending).await.map_err(told)?;
            let stage = sent.stage.clone();
            self.tell.send_replace(Some(sent));
            match stage {
                stage if stage == *wanted => return Ok(halted.unwrap_or_else(Instant::now)),
                SentStage::Failed(why) => return Err(why),
                _ => {}
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(MachineEvent::Paused) => halted = Some(Instant::now()),
                    Some(MachineEvent::Exited { how }) => return Err(format!("its QEMU {how}")),
                    _ => {}
                },
                said = line.hear() => {
                    let said = said.err();
                    return Err(said.unwrap_or_else(|| "the other host makes no sense".to_owned()));
                }
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Leads whoever connects to the other host.
async fn accept(listener: UnixListener, mut channel: Channel) {
    if let Ok((mut stream, _)) = listener.accept().await {
        drop(listener);
        let both =
            copy_bidirectional_with_sizes(&mut stream, &mut channel, BUFFER_BYTES, BUFFER_BYTES);
        let _ = both.await;
    }
}

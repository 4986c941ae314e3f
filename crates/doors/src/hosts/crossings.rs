//! The two hosts of a machine that goes from one to the other while its guest runs: hosts don't reach each other, so both come here,
//! each on a connection of its own ([`trust::CROSSING_PROTOCOL`]), and are led to each other.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use cimi::{HostId, resources::Machine};
use cloud::Duplex;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    sync::oneshot,
    time::timeout,
};
use trust::{CROSSING_REQUEST_BYTES, CrossingRequest, HostPeer, MET};

use super::{Ending, HostDoor, seats::Seat};

/// How long a host may take to say what it wants.
const ASKING: Duration = Duration::from_secs(10);
/// What is read before it is written, each way.
const BUFFER_BYTES: usize = 256 * 1024;

/// Which of the two hosts one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossingEnd {
    /// The one that has the machine.
    Leaving,
    /// The one that it comes to.
    Coming,
}

/// Who waits for whom. Clones are of the same.
#[derive(Clone, Default)]
pub struct Meetings(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    all: HashMap<CrossingRequest, One>,
    came: u64,
}

struct One {
    number: u64,
    end: CrossingEnd,
    meet: oneshot::Sender<Other>,
}

/// Who has come second, and learns when it is over.
struct Other {
    stream: Box<dyn Duplex>,
    over: oneshot::Sender<()>,
}

impl std::fmt::Debug for Meetings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Meetings")
    }
}

impl Meetings {
    fn come(&self, of: CrossingRequest, end: CrossingEnd, stream: Box<dyn Duplex>) -> Came<'_> {
        let mut waiting = self.0.lock();
        let (over, ended) = oneshot::channel();
        let mut own = Other { stream, over };
        let other = waiting.all.remove(&of);
        if let Some(other) = other.filter(|other| other.end != end) {
            match other.meet.send(own) {
                Ok(()) => return Came::Second(ended),
                Err(back) => own = back,
            }
        }
        waiting.came += 1;
        let (number, (meet, met)) = (waiting.came, oneshot::channel());
        waiting.all.insert(of.clone(), One { number, end, meet });
        let waits = Waits {
            meetings: self,
            of,
            number,
        };
        Came::First(waits, own.stream, met)
    }

    /// Waits for the other end, if it isn't there yet, and leads the two to each other until either ends it. Of two that come as the
    /// same end, the later one counts.
    pub async fn meet(&self, of: CrossingRequest, end: CrossingEnd, stream: Box<dyn Duplex>) {
        let (waits, mut stream, met) = match self.come(of, end, stream) {
            Came::First(waits, stream, met) => (waits, stream, met),
            Came::Second(ended) => {
                // Dropped before its end, it ends for the other one, too.
                let _ = ended.await;
                return;
            }
        };
        let other = tokio::select! {
            other = met => other,
            // It has nothing to say yet: it is gone.
            _ = stream.read_u8() => return,
        };
        drop(waits);
        let Ok(Other {
            stream: mut second,
            mut over,
        }) = other
        else {
            return;
        };
        let spoken = async {
            for one in [&mut stream, &mut second] {
                one.write_u8(MET).await?;
                one.flush().await?;
            }
            copy_bidirectional_with_sizes(&mut stream, &mut second, BUFFER_BYTES, BUFFER_BYTES)
                .await?;
            Ok::<_, io::Error>(())
        };
        tokio::select! {
            _ = spoken => {}
            () = over.closed() => {}
        }
    }
}

/// Whether the other end was there.
enum Came<'m> {
    /// It has the connection now, and tells when it is over.
    Second(oneshot::Receiver<()>),
    /// It is waited for.
    First(Waits<'m>, Box<dyn Duplex>, oneshot::Receiver<Other>),
}

/// Somebody who waits; no longer once this is dropped.
struct Waits<'m> {
    meetings: &'m Meetings,
    of: CrossingRequest,
    number: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.meetings.0.lock();
        if waiting
            .all
            .get(&self.of)
            .is_some_and(|one| one.number == self.number)
        {
            waiting.all.remove(&self.of);
        }
    }
}

/// Which end of this way a host is, if it is one of a machine whose guest is to run on it.
fn end_of(host: &HostId, machine: &Machine, of: &CrossingRequest) -> Option<CrossingEnd> {
    let way = machine.desired.moving.as_ref()?;
    if !way.live || way.since != of.way {
        return None;
    }
    if machine.host.as_ref() == Some(host) {
        return Some(CrossingEnd::Leaving);
    }
    (way.to.as_ref() == Some(host)).then_some(CrossingEnd::Coming)
}

impl HostDoor {
    /// One connection for a machine that goes to another host.
    pub(super) async fn serve_crossing(
        self: &Arc<Self>,
        mut stream: impl Duplex + 'static,
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let Some(host) = self.cloud.host_of(peer) else {
            return;
        };
        let mut request = [0; CROSSING_REQUEST_BYTES];
        let asked = timeout(ASKING, stream.read_exact(&mut request)).await;
        let (Ok(Ok(_)), Some(of)) = (asked, CrossingRequest::of_bytes(&request)) else {
            return;
        };
        let machine = self.cloud.documents().machines.get(of.machine.local());
        let end = machine.and_then(|machine| end_of(&host, &machine, &of));
        let Some(end) = end else {
            tracing::debug!(%host, machine = %of.machine, %from, "a host has no part in this way");
            return;
        };
        tracing::debug!(%host, machine = %of.machine, name = of.name, ?end, "a host comes to meet another one");
        tokio::select! {
            () = self.meetings.meet(of, end, Box::new(stream)) => {}
            () = seat.cut_off() => {}
            () = self.until_over(peer) => {}
            () = ending.closing.cancelled() => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use cimi::{MachineId, Timestamp};

    use super::*;

    fn named(name: &str) -> CrossingRequest {
        CrossingRequest {
            machine: MachineId::from_local("0190a000-0000-7000-8000-000000000000").unwrap(),
            way: Timestamp::from_millis(7),
            name: name.to_owned(),
        }
    }

    fn comes(
        meetings: &Meetings,
        name: &str,
        end: CrossingEnd,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(64);
        let (meetings, of) = (meetings.clone(), named(name));
        let task = tokio::spawn(async move { meetings.meet(of, end, Box::new(theirs)).await });
        (ours, task)
    }

    #[tokio::test]
    async fn two_ends_of_one_way_are_led_to_each_other_and_no_others() {
        let meetings = Meetings::default();
        let (mut other, other_task) = comes(&meetings, "disk-0", CrossingEnd::Coming);
        let (mut gone, gone_task) = comes(&meetings, "control", CrossingEnd::Coming);
        tokio::task::yield_now().await;
        // Of two as the same end the later one counts; the earlier one is told by the end of its connection.
        let (mut coming, coming_task) = comes(&meetings, "control", CrossingEnd::Coming);
        assert!(gone.read_u8().await.is_err());
        gone_task.await.unwrap();
        let (mut leaving, leaving_task) = comes(&meetings, "control", CrossingEnd::Leaving);
        for one in [&mut coming, &mut leaving] {
            assert_eq!(one.read_u8().await.unwrap(), MET);
        }
        leaving.write_all(b"it comes").await.unwrap();
        let mut heard = [0; 8];
        coming.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"it comes");
        drop(leaving);
        assert!(coming.read_u8().await.is_err());
        drop(coming);
        coming_task.await.unwrap();
        leaving_task.await.unwrap();
        // Who goes away while it waits leaves nothing.
        other.shutdown().await.unwrap();
        drop(other);
        other_task.await.unwrap();
        assert!(meetings.0.lock().all.is_empty());
    }
}

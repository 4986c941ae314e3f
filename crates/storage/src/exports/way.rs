//! The way of one initiator to one target: who of those that come by its name may write.
//!
//! An initiator that is cut off comes anew, and what it had said before may still come after what it says then. So each of its
//! connections has a process of its own, and when one has logged in, all that were there before it are ended, and their processes
//! with them, before it hears that it is in: until then it says nothing that writes. Who doesn't know the secret ends nobody.

use std::{io, sync::Arc};

use cimi::HostId;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    iscsi::{Showing, Target},
    starts::Starts,
};
use crate::error::Error;

/// Connections that haven't logged in yet; and all whose process isn't gone, whatever is slow about that.
const STRANGERS: usize = 4;
const ALL: usize = 16;

/// See the module.
pub(super) struct Way {
    showing: Showing,
    host: HostId,
    starts: Starts,
    end: CancellationToken,
    uses: Mutex<Uses>,
}

#[derive(Default)]
struct Uses {
    next: u64,
    /// In the order in which they came.
    all: Vec<Use>,
    /// With a process that is there already, for the first one that comes.
    first: Option<Place>,
}

/// A connection, until its process is gone.
struct Use {
    number: u64,
    end: CancellationToken,
    over: CancellationToken,
    is_in: bool,
}

/// The place of one connection.
pub(super) struct Place {
    /// Which one, when it is to end, and that it does when this is dropped.
    pub(super) number: u64,
    pub(super) end: CancellationToken,
    pub(super) ends: DropGuard,
    pub(super) process: Process,
    /// Whether another one was sent away for it.
    pub(super) is_of_another: bool,
}

/// The process of a connection.
pub(super) enum Process {
    /// It is there.
    Started(Target),
    /// Whose drop says that there is none, or none any more.
    Not(DropGuard),
}

impl Way {
    pub(super) fn new(showing: Showing, host: HostId, starts: Starts) -> Arc<Self> {
        Arc::new(Self {
            showing,
            host,
            starts,
            end: CancellationToken::new(),
            uses: Mutex::default(),
        })
    }

    /// Has a process ready for the first connection.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn prepare(&self) -> Result<(), Error> {
        let failed = Error::io("run", self.showing.daemon.program());
        let mut place = self.place().map_err(failed)?;
        let target = self.process(place.process).await?;
        place.process = Process::Started(target);
        let mut uses = self.uses.lock();
        // Whoever ended it waits until it is gone.
        if !place.end.is_cancelled() {
            uses.first = Some(place);
        }
        Ok(())
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// If the target is shown no more, or the processes of former ones don't end.
    pub(super) fn place(&self) -> io::Result<Place> {
        let mut uses = self.uses.lock();
        if self.end.is_cancelled() {
            return Err(io::Error::other("the target is shown no more"));
        }
        if let Some(first) = uses.first.take() {
            return Ok(first);
        }
        uses.all.retain(|one| !one.over.is_cancelled());
        if uses.all.len() >= ALL {
            return Err(io::Error::other("former connections don't end"));
        }
        let strangers = uses.all.iter().filter(|one| one.is_stranger());
        let is_of_another = strangers.count() >= STRANGERS;
        if is_of_another && let Some(oldest) = uses.all.iter().find(|one| one.is_stranger()) {
            oldest.end.cancel();
        }
        let (number, end, over) = (uses.next, self.end.child_token(), CancellationToken::new());
        uses.next += 1;
        uses.all.push(Use {
            number,
            end: end.clone(),
            over: over.clone(),
            is_in: false,
        });
        Ok(Place {
            number,
            is_of_another,
            process: Process::Not(over.drop_guard()),
            ends: end.clone().drop_guard(),
            end,
        })
    }

    /// The process of a connection, started if it isn't yet.
    ///
    /// # Errors
    /// Why it can't be.
    pub(super) async fn process(&self, process: Process) -> Result<Target, Error> {
        let over = match process {
            Process::Started(target) => return Ok(target),
            Process::Not(over) => over,
        };
        let turn = self.starts.turn(&self.host).await;
        self.showing.show(turn, over).await
    }

    /// Ends all others that are there and waits for the end of their processes: this one has logged in.
    ///
    /// # Errors
    /// If another one was sooner.
    pub(super) async fn let_in(&self, number: u64) -> io::Result<()> {
        let mut former = Vec::new();
        {
            let mut uses = self.uses.lock();
            let mut its = uses.all.iter_mut();
            let its = its.find(|one| one.number == number && !one.end.is_cancelled());
            let its = its.ok_or_else(|| io::Error::other("another one has logged in"))?;
            its.is_in = true;
            uses.first = None;
            for one in uses.all.iter().filter(|one| one.number != number) {
                one.end.cancel();
                former.push(one.over.clone());
            }
        }
        for over in former {
            over.cancelled().await;
        }
        Ok(())
    }

    /// Ends it, and all connections; when this returns, nobody writes what was shown.
    pub(super) async fn end(&self) {
        for over in self.close() {
            over.cancelled().await;
        }
    }

    /// Ends it, and all connections; what is over when their processes are gone.
    pub(super) fn close(&self) -> Vec<CancellationToken> {
        let mut uses = self.uses.lock();
        self.end.cancel();
        uses.first = None;
        uses.all.iter().map(|one| one.over.clone()).collect()
    }
}

impl Use {
    fn is_stranger(&self) -> bool {
        !self.is_in && !self.end.is_cancelled()
    }
}

//! A machine that is this host's no longer: another has it, or its document is out of this host's sight.
//!
//! A machine that is removed was put away before its document went ([`off`](super::off)). So whatever is here still is of
//! one that left: its process ends at once, since somebody else may be about to run it, and its files are kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cimi::resources::Machine;
use documents::Cached;

use super::{Next, StepError, Worker};
use crate::controller::prepare;

/// Until it is looked again whether a machine may be given up.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// Gives the machine up. `now` is its document, if there is one still; nothing of it is written.
    pub(super) async fn leave(
        &mut self,
        now: Option<Arc<Cached<Machine>>>,
    ) -> Result<Next, StepError> {
        let Some(last) = self.mine.clone().or(now) else {
            return Ok(Next::End);
        };
        let folder = self.folder(&last);
        if self.live.is_none() && !folder.exists() {
            return Ok(Next::End);
        }
        if self.is_mine_after_all().await? {
            return Ok(Next::WaitUntil(Instant::now() + LOOK_AGAIN));
        }
        if let Some(live) = self.live.take()
            && let Err(error) = live.handle.quit().await
        {
            self.live = Some(live);
            return Err(error.into());
        }
        self.unplug(&last).await?;
        if !self.shared.put_away(&folder, prepare::uuid(&last)?).await? {
            return Ok(Next::WaitUntil(Instant::now() + LOOK_AGAIN));
        }
        tracing::warn!(vmid = %last.vmid, "it is not this host's any more: its process is ended, its files are in the quarantine");
        Ok(Next::End)
    }

    /// Asks the store itself: no machine is ended because of a cache that is behind.
    async fn is_mine_after_all(&self) -> Result<bool, StepError> {
        let stored = self.shared.documents.stored::<Machine>(&self.id).await?;
        Ok(stored.is_some_and(|machine| machine.host.as_ref() == Some(&self.shared.host)))
    }
}

//! What no machine needs any more goes: some time later, since the next one may be about to come.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::folder::{Name, name_of};
use super::{Inner, State, blocking};
use crate::backing::backing_files;
use crate::error::Error;

/// What is here though nobody needs it, and since when that is known.
#[derive(Debug, Default)]
pub(super) struct Spare(HashMap<Name, Instant>);

impl Spare {
    pub(super) fn needs(&mut self, name: Name) {
        self.0.remove(&name);
    }

    /// Whether it has been for so long.
    fn is_for(&mut self, name: Name, long: Duration) -> bool {
        self.0.entry(name).or_insert_with(Instant::now).elapsed() >= long
    }
}

impl Inner {
    /// Removes what nobody has needed for so long. As long as somebody may need what can't be seen, nothing is.
    pub(super) async fn clear(&self, long: Duration) {
        match self.clear_now(long).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "replicas that no machine here needs are removed");
            }
            Err(error) => tracing::warn!(%error, "replicas that no machine needs stay for now"),
        }
    }

    async fn clear_now(&self, long: Duration) -> Result<usize, Error> {
        let folder = self.folder.clone();
        let mut names = blocking(move || folder.names()).await?;
        names.retain(|name| {
            let mut state = self.state.lock();
            let is_needed = self.is_needed(&state, *name);
            if is_needed {
                state.spare.needs(*name);
            }
            !is_needed
        });
        if names.is_empty() {
            return Ok(0);
        }
        let stood_on = self.stood_on().await?;
        let mut removed = 0;
        for name in names {
            // Whoever asks for it meanwhile waits for the lock, and finds it gone.
            let mut state = self.state.lock();
            if stood_on.contains(&name) || self.is_needed(&state, name) {
                state.spare.needs(name);
            } else if state.spare.is_for(name, long) {
                self.folder.remove(name)?;
                state.spare.needs(name);
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether an image in sight has this content. One that can't be read may have any.
    fn is_needed(&self, state: &State, name: Name) -> bool {
        state.fetches.contains_key(&name)
            || self.documents.images.unreadable() > 0
            || self.in_sight(name).is_some()
    }

    /// What disks of machines stand on, also of those whose documents are out of sight.
    async fn stood_on(&self) -> Result<HashSet<Name>, Error> {
        let dirs = self.settings.overlay_dirs.clone();
        let files = blocking(move || backing_files(&dirs)).await?;
        let ours = files
            .iter()
            .filter(|file| file.parent() == Some(self.folder.dir()));
        Ok(ours.filter_map(|file| name_of(file)).collect())
    }
}

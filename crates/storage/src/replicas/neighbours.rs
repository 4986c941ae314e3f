//! Hosts of the same cloud that likely have an image: asked before the cloud itself, which then has less to send, and also when its
//! storage can't be reached.
//!
//! None of them is trusted: what they gave is compared with the image's document as all else is, and that they are slow, silent or
//! wrong costs a bounded time. What one has begun, the next goes on with; so if that turns out to be wrong in the end, nobody who had
//! to do with it is asked again in that fetch.

use std::collections::BTreeSet;
use std::time::Duration;

use cimi::ImageId;
use futures::future::BoxFuture;

use super::Inner;
use super::fetching::Fault;
use super::folder::{Name, Wanted};
use crate::import::{Fetcher, Limits};

/// How many are asked, one after the other, before the cloud itself is.
const ASKED_AT_MOST: usize = 3;
/// How long one may give nothing, and how much it has to give from when on.
const STALL: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
const LEAST_BYTES_PER_SECOND: u64 = 1 << 20;

/// A host that may give the file of an image.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// How people call it.
    pub name: String,
    /// Where it gives that file.
    pub url: String,
    /// Asks it, and no other.
    pub fetcher: Fetcher,
}

/// Who knows them.
pub trait Neighbours: Send + Sync {
    /// Hosts that likely have an image, in the order in which they are to be asked. Bounded in time; none if nobody knows.
    fn with<'a>(&'a self, image: &'a ImageId, file: &'a str) -> BoxFuture<'a, Vec<Neighbour>>;
}

/// What neighbours had to do with one fetch, by their names.
#[derive(Debug, Default)]
pub(super) struct Help {
    /// Who may have given of what is here.
    by: BTreeSet<String>,
    /// Who may have given what was wrong.
    wrong: BTreeSet<String>,
}

impl Help {
    /// What is here is wrong, and gone: whether it may have been by neighbours.
    pub(super) fn was_wrong(&mut self) -> bool {
        let was_theirs = !self.by.is_empty();
        self.wrong.append(&mut self.by);
        was_theirs
    }
}

impl Inner {
    /// Whether it is here, by way of neighbours.
    pub(super) async fn fetch_from_neighbours(
        &self,
        name: Name,
        wanted: &Wanted,
        help: &mut Help,
    ) -> bool {
        let (Some(neighbours), Some(image)) = (&self.settings.neighbours, self.in_sight(name))
        else {
            return false;
        };
        let mut all = neighbours.with(&image, &name.to_string()).await;
        all.retain(|one| !help.wrong.contains(&one.name));
        for neighbour in all.into_iter().take(ASKED_AT_MOST) {
            // Closed never.
            let Ok(turn) = self.turns.acquire().await else {
                return false;
            };
            let left = wanted.announced.bytes.saturating_sub(self.here(name));
            let limits = Limits {
                stall: STALL,
                // The next one goes on where it was.
                resumes: 0,
                least_bytes_per_second: LEAST_BYTES_PER_SECOND,
                grace: GRACE,
                // What is here already makes nobody fast.
                longest: GRACE + Duration::from_secs(left / LEAST_BYTES_PER_SECOND),
                ..Limits::default()
            };
            help.by.insert(neighbour.name.clone());
            let from = (neighbour.url, &neighbour.fetcher);
            let fetched = self.fetch_by(from, limits, wanted).await;
            drop(turn);
            let host = neighbour.name;
            let error = match fetched {
                Ok(()) => {
                    let bytes = wanted.announced.bytes;
                    tracing::info!(%image, host, bytes, "an image is here now, from another host");
                    return true;
                }
                Err(error) => error,
            };
            tracing::warn!(%image, host, %error, "another host did not give an image");
            match Fault::of(&error) {
                Fault::Content => {
                    help.was_wrong();
                }
                Fault::Space => return false,
                Fault::Server => {}
            }
        }
        false
    }

    /// How many bytes of a file that isn't whole are here.
    fn here(&self, name: Name) -> u64 {
        std::fs::metadata(self.folder.part(name)).map_or(0, |found| found.len())
    }
}

//! One pass over what another Marketplace has, the newest first.
//!
//! ```text
//!  page after page of the list ──▶ names to fetch ──▶ document ──▶ kept
//!  owed from before, at the end ─▶       │                ├──▶ refused: it isn't the entry that it is called
//!  the first page again ─────────▶ in front of them       └──▶ owed: it can't be fetched now
//! ```
//!
//! The first page is looked at again whenever some documents in a row can't be fetched: if that can't be had either, the Marketplace
//! itself is down, and the pass ends. It is also looked at when the pass takes longer than the time between two of them. So what
//! is new, a deprecation above all, waits neither for a long copy nor for a run of documents that are lost.

use std::collections::VecDeque;

use marketplace::catalogue::Name;
use tokio::time::Instant;

use super::memory::Memory;
use super::{FollowError, Follower, ROWS, shown};
use crate::Refused;
use crate::upload::is_early;

/// Entries of another Marketplace beyond these are not looked at.
const ENTRIES_AT_MOST: usize = 1_000_000;
/// Documents in a row that can't be fetched, after which it is asked whether the Marketplace itself is down; and pages of its list, lists of endorsers.
pub(super) const IN_A_ROW: usize = 5;
/// Failures told one by one in a pass; of the others the number.
const TOLD: usize = 5;

/// How much a pass looks at.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// All pages, not only until one has nothing new.
    pub(super) all_pages: bool,
    /// Also what was refused before.
    pub(super) refused_too: bool,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) kept: usize,
    pub(super) refused: usize,
    /// Tries to fetch that failed; these are still owed.
    pub(super) failed: usize,
}

/// A pass under way.
pub(super) struct Pass<'f> {
    pub(super) follower: &'f Follower,
    memory: &'f mut Memory,
    extent: Extent,
    /// What is to be fetched, the next in front.
    pub(super) names: VecDeque<Name>,
    failed_in_a_row: usize,
    /// When the first page of the list was read.
    looked: Instant,
    figures: Figures,
}

impl<'f> Pass<'f> {
    pub(super) fn new(follower: &'f Follower, memory: &'f mut Memory, extent: Extent) -> Self {
        Self {
            follower,
            memory,
            extent,
            names: VecDeque::new(),
            failed_in_a_row: 0,
            looked: Instant::now(),
            figures: Figures::default(),
        }
    }

    /// What was done, and why it ended before its end; that single documents can't be fetched is no reason.
    pub(super) async fn run(mut self) -> (Figures, Result<(), FollowError>) {
        let ended = self.everything().await;
        if ended.is_err() {
            self.memory.has_gaps = true;
        }
        (self.figures, ended)
    }

    async fn everything(&mut self) -> Result<(), FollowError> {
        let listed = self.list().await?;
        self.owed().await?;
        listed?;
        if self.extent.refused_too {
            self.history().await?;
        }
        Ok(())
    }

    /// The outer result is why nothing more can be done at all, the inner one why the list can't be read to its end.
    async fn list(&mut self) -> Result<Result<(), FollowError>, FollowError> {
        let (mut offset, mut lost_pages) = (0, 0);
        while offset < ENTRIES_AT_MOST {
            let names = match self.follower.page(offset).await {
                Ok(names) => names,
                Err(error) if offset == 0 => return Err(error),
                Err(error) => {
                    self.memory.has_gaps = true;
                    self.look().await?;
                    self.fetch().await?;
                    lost_pages += 1;
                    if lost_pages >= IN_A_ROW {
                        return Ok(Err(error));
                    }
                    // It has its first page: this one holds up none of the others.
                    tracing::warn!(%error, "a page of another Marketplace is passed over");
                    offset += ROWS;
                    continue;
                }
            };
            lost_pages = 0;
            let count = names.len();
            for name in names {
                match name {
                    Some(name) if self.is_wanted(&name, self.extent.refused_too) => {
                        self.names.push_back(name);
                    }
                    None if self.extent.refused_too => {
                        let url = shown(&self.follower.base);
                        let reason = "a row names no entry".to_owned();
                        self.refuse(&FollowError::Nonsense { url, reason });
                    }
                    _ => {}
                }
            }
            let had_news = !self.names.is_empty();
            self.fetch().await?;
            if count < ROWS || !(had_news || self.extent.all_pages) {
                break;
            }
            offset += count;
        }
        Ok(Ok(()))
    }

    /// Tries each that is owed once, as long as there is time; those that fail again are behind the others the next time.
    async fn owed(&mut self) -> Result<(), FollowError> {
        let began = Instant::now();
        for tried in 0..self.memory.owed() {
            if tried >= IN_A_ROW && began.elapsed() >= self.follower.every {
                break;
            }
            let Some(name) = self.memory.next_owed() else {
                break;
            };
            self.names.push_back(name);
            self.fetch().await?;
        }
        Ok(())
    }

    /// Fetches all that are to be fetched.
    pub(super) async fn fetch(&mut self) -> Result<(), FollowError> {
        while let Some(name) = self.names.pop_front() {
            self.try_one(name).await?;
            let is_time = self.looked.elapsed() >= self.follower.every;
            if self.failed_in_a_row >= IN_A_ROW || is_time {
                self.look().await?;
            }
        }
        Ok(())
    }

    /// Looks at the first page of the list: what is new there goes first.
    pub(super) async fn look(&mut self) -> Result<(), FollowError> {
        let names = self.follower.page(0).await?;
        self.looked = Instant::now();
        self.failed_in_a_row = 0;
        let is_new = |name: &Name| self.is_wanted(name, false) && !self.names.contains(name);
        let new: Vec<_> = names.into_iter().flatten().filter(is_new).collect();
        // There may be more behind them.
        self.memory.has_gaps |= new.len() >= ROWS;
        for name in new.into_iter().rev() {
            self.names.push_front(name);
        }
        Ok(())
    }

    /// Whether an entry is to be fetched now.
    pub(super) fn is_wanted(&self, name: &Name, refused_too: bool) -> bool {
        let marketplace = &self.follower.marketplace;
        // One of the future would be refused now, and is at the top of the table again when its time has come.
        !is_early(name.2)
            && !self.memory.is_owed(name)
            && (refused_too || !self.memory.is_refused(name))
            && marketplace.ask(|catalogue| catalogue.named(name).is_none())
    }

    /// Fetches one entry and keeps it, or remembers why not.
    ///
    /// # Errors
    /// What ends the pass: it can't be written here.
    async fn try_one(&mut self, name: Name) -> Result<(), FollowError> {
        let mut document = None;
        let taken = self.follower.take(self.memory, &name, &mut document).await;
        match taken {
            Ok(is_kept) => {
                self.failed_in_a_row = 0;
                self.figures.kept += usize::from(is_kept);
                if is_kept {
                    self.memory.forgive(&name);
                }
                Ok(())
            }
            Err(
                error @ (FollowError::Nonsense { .. }
                | FollowError::Store(Refused::Invalid(_) | Refused::Taken(_))),
            ) => {
                self.failed_in_a_row = 0;
                // What is listed a moment before it can be had, or is behind a page of maintenance.
                if document.is_none() && self.memory.may_come(&name) {
                    self.fail(&error);
                    self.memory.owe(name);
                } else {
                    self.refuse(&error);
                    self.memory.refuse(name, document.as_deref());
                }
                Ok(())
            }
            Err(error @ FollowError::Unreachable { .. }) => {
                self.failed_in_a_row += 1;
                self.fail(&error);
                self.memory.owe(name);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn fail(&mut self, error: &FollowError) {
        self.figures.failed += 1;
        if self.figures.failed <= TOLD {
            tracing::warn!(%error, "an entry of another Marketplace can't be fetched now");
        }
    }

    pub(super) fn refuse(&mut self, error: &FollowError) {
        self.figures.refused += 1;
        if self.figures.refused <= TOLD {
            tracing::warn!(%error, "an entry of another Marketplace is not taken");
        }
    }
}

//! What was superseded at another Marketplace: its table lists the newest entry of each image and endorser only, and nothing without an
//! end. The pages of its endorsers name all, as far back as one asks.

use std::collections::BTreeSet;

use marketplace::catalogue::Name;
use marketplace::metadata::is_email;
use marketplace::results;

use super::pass::{IN_A_ROW, Pass};
use super::{FollowError, Follower, ROWS_BYTES, shown};

/// Endorsers of another Marketplace beyond these are not asked for.
const ENDORSERS_AT_MOST: usize = 10_000;
/// Rows of one, each a location of an entry.
const ROWS_AT_MOST: usize = 20_000;
/// Days back: all there ever were.
const DAYS: &str = "36500";
const XML: &str = "application/sparql-results+xml";

impl Pass<'_> {
    /// Fetches what endorsers said before, one endorser after the other. A list that can't be had or read holds up no other, as long
    /// as the Marketplace itself answers: it is asked for again with the next history.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub(super) async fn history(&mut self) -> Result<(), FollowError> {
        let follower = self.follower;
        let endorsers = match follower.table(&["endorsers"], None).await {
            Ok(rows) => rows,
            Err(error @ FollowError::Nonsense { .. }) => {
                tracing::info!(%error, "another Marketplace doesn't tell its endorsers: history is not followed");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let emails: BTreeSet<String> = endorsers
            .into_iter()
            .filter_map(|mut row| row.remove("email"))
            .filter(|email| is_email(email))
            .collect();
        let mut lost_in_a_row = 0;
        for email in emails.into_iter().take(ENDORSERS_AT_MOST) {
            let rows = match follower.table(&["endorsers", &email], Some(DAYS)).await {
                Ok(rows) => rows,
                Err(error @ FollowError::Nonsense { .. }) => {
                    self.refuse(&error);
                    continue;
                }
                Err(error) => {
                    lost_in_a_row += 1;
                    if lost_in_a_row >= IN_A_ROW {
                        return Err(error);
                    }
                    self.look().await?;
                    tracing::warn!(%error, "what an endorser of another Marketplace said before is passed over");
                    continue;
                }
            };
            lost_in_a_row = 0;
            let names: BTreeSet<Name> = rows
                .iter()
                .filter_map(|row| {
                    let identifier = row.get("identifier")?.parse().ok()?;
                    Some((
                        identifier,
                        email.as_str().into(),
                        row.get("created")?.parse().ok()?,
                    ))
                })
                .collect();
            // What the list has is here, refused or owed by now.
            for name in names {
                if self.is_wanted(&name, false) {
                    self.names.push_back(name);
                }
            }
            self.fetch().await?;
        }
        Ok(())
    }
}

impl Follower {
    async fn table(
        &self,
        parts: &[&str],
        range: Option<&str>,
    ) -> Result<Vec<results::Row>, FollowError> {
        let mut url = self.url(parts);
        if let Some(range) = range {
            url.query_pairs_mut().append_pair("range", range);
        }
        let body = self.fetch(&url, XML, ROWS_BYTES).await?;
        results::rows(&body, ROWS_AT_MOST).map_err(|reason| FollowError::Nonsense {
            url: shown(&url),
            reason,
        })
    }
}

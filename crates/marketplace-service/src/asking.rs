//! Queries in SPARQL: bounded each, and few at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use marketplace_query::{Limits, Query, Snapshot, Table};
use tokio::time::timeout;

use crate::{Marketplace, Refused};

/// Queries answered at once: each has a processor for itself.
pub(crate) const AT_ONCE: usize = 2;
/// How long one waits for its turn, and how long it may take then.
const TURN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(5);

impl Marketplace {
    /// Answers a query in the part of SPARQL that [`marketplace_query`] knows.
    ///
    /// # Errors
    /// [`Refused::Query`], [`Refused::Busy`].
    pub async fn query(&self, text: &str) -> Result<Table, Refused> {
        let query: Query = text.parse()?;
        let turn = Arc::clone(&self.0.queries).acquire_owned();
        let turn = timeout(TURN, turn).await.map_err(|_| Refused::Busy)?;
        let turn = turn.map_err(|error| Refused::Internal(error.to_string()))?;
        let data = self.ask(Snapshot::of);
        let answered = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let answer = query.answer(&data, Limits::default(), &|| begun.elapsed() < LONGEST);
            drop(turn);
            answer
        });
        let answer = answered.await;
        Ok(answer.map_err(|error| Refused::Internal(error.to_string()))??)
    }
}

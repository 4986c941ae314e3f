//! The entries of the cloud, of which one is asked for a volume: which one, is found without waiting for one that can't be connected
//! to.
//!
//! They are connected to in turn, each a little after the one before (as by RFC 8305), and whoever is connected to first is asked. It is
//! the only one: to be asked for a volume is to take it from whoever has it. If it refuses, all is done again with those that are left.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::joining;

/// How long an entry may take to be connected to.
pub(super) const CONNECTING: Duration = Duration::from_secs(4);
/// How long it may take before the next one is tried beside it.
const ALONE: Duration = Duration::from_millis(250);

pub(super) type Connected = TlsStream<TcpStream>;

/// See the module.
pub(super) struct Entries {
    all: Vec<joining::Entry>,
    /// The one that gave a volume last, which is tried first.
    first: AtomicUsize,
    connecting: Duration,
}

impl Entries {
    pub(super) fn of(all: Vec<joining::Entry>) -> Self {
        Self {
            all,
            first: AtomicUsize::new(0),
            connecting: CONNECTING,
        }
    }

    /// From now on they may take as long as they want to be connected to.
    #[cfg(test)]
    pub(super) const fn have_for_ever(&mut self) {
        self.connecting = Duration::MAX;
    }

    /// What the first of them answers that doesn't refuse.
    pub(super) async fn ask<T, F>(
        &self,
        config: &Arc<ClientConfig>,
        ask: impl Fn(Connected) -> F,
    ) -> Result<T, NotGiven>
    where
        F: Future<Output = Result<T, WhyNot>>,
    {
        let mut not = NotGiven(Vec::new());
        let numbers = (0..self.all.len()).cycle().skip(self.first.load(Relaxed));
        let mut left: Vec<usize> = numbers.take(self.all.len()).collect();
        while let Some((number, connected)) = self.connect(config, &mut left, &mut not).await {
            match ask(connected).await {
                Ok(answer) => {
                    self.first.store(number, Relaxed);
                    return Ok(answer);
                }
                Err(why) => self.note(&mut not, number, why),
            }
        }
        Err(not)
    }

    /// A connection to the first of those left that takes one. It is left no more, nor are those that take none.
    async fn connect(
        &self,
        config: &Arc<ClientConfig>,
        left: &mut Vec<usize>,
        not: &mut NotGiven,
    ) -> Option<(usize, Connected)> {
        let mut connecting = FuturesUnordered::new();
        let mut next = left.clone().into_iter();
        loop {
            if let Some(number) = next.next() {
                connecting.push(self.connect_to(number, config));
            }
            // Also when one has failed, the next one is tried at once.
            let (number, connected) = match timeout(ALONE, connecting.next()).await {
                Ok(ended) => ended?,
                Err(_) if next.len() > 0 => continue,
                Err(_) => connecting.next().await?,
            };
            left.retain(|one| *one != number);
            match connected {
                Ok(connected) => return Some((number, connected)),
                Err(why) => self.note(not, number, why),
            }
        }
    }

    async fn connect_to(
        &self,
        number: usize,
        config: &Arc<ClientConfig>,
    ) -> (usize, Result<Connected, WhyNot>) {
        let connecting = async {
            let entry = self.all.get(number).ok_or("there is no such entry")?;
            let connected = entry.connect(Arc::clone(config)).await;
            connected.map_err(|error| WhyNot::Said(error.to_string()))
        };
        let connected = timeout(self.connecting, connecting).await;
        (number, connected.unwrap_or(Err(WhyNot::NotReached)))
    }

    fn note(&self, not: &mut NotGiven, number: usize, why: WhyNot) {
        let entry = self.all.get(number).cloned();
        not.0.extend(entry.map(|entry| (entry, why)));
    }
}

/// Why an entry gives no volume.
#[derive(Debug)]
pub(super) enum WhyNot {
    /// It can't be connected to in time.
    NotReached,
    /// It is connected to, and doesn't say in time whether it gives the volume.
    Silent,
    /// It doesn't understand what it is asked.
    Older,
    Said(String),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NotReached => "it can't be reached in time",
            Self::Silent => "it is reached, and doesn't say in time whether it gives it",
            Self::Older => "its stratusd is older, and knows no iSCSI",
            Self::Said(why) => why,
        })
    }
}

impl From<&str> for WhyNot {
    fn from(why: &str) -> Self {
        Self::Said(why.to_owned())
    }
}

/// Why no entry gives a volume.
#[derive(Debug)]
pub(super) struct NotGiven(Vec<(joining::Entry, WhyNot)>);

impl NotGiven {
    /// Whether one of them may have the volume or not, since it didn't understand the question.
    pub(super) fn by_an_older_one(&self) -> bool {
        let mut all = self.0.iter();
        all.any(|(_, why)| matches!(why, WhyNot::Older))
    }
}

impl fmt::Display for NotGiven {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("no entry of the cloud gives it")?;
        for (number, (entry, why)) in self.0.iter().enumerate() {
            let before = if number == 0 { " (" } else { "; " };
            write!(out, "{before}{entry}: {why}")?;
        }
        out.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

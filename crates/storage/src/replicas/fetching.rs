//! One fetch: neighbours, and the servers in turn, until one of them has given all of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::folder::{Name, Wanted};
use super::neighbours::Help;
use super::{ImageServer, Inner, Stage, blocking};
use crate::error::Error;
use crate::import::replica::{self, Origin};
use crate::import::{Fetcher, Limits, Progress};

/// How often it is told how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A server may let a transfer wait for others. That the connection is lost is known earlier, by what keeps it alive.
const STALL: Duration = Duration::from_secs(10 * 60);

/// What is wrong when a try fails.
pub(super) enum Fault {
    /// What came: another server may have the right one.
    Content,
    /// This host has no room.
    Space,
    /// The server, or what lies between.
    Server,
}

impl Fault {
    pub(super) const fn of(error: &Error) -> Self {
        match error {
            Error::Refused(_) | Error::Mismatch { .. } | Error::TooLarge { .. } => Self::Content,
            Error::NoSpace { .. } => Self::Space,
            _ => Self::Server,
        }
    }
}

impl Inner {
    /// Until it is here, nobody wants it any more, or it can't be used.
    pub(super) async fn fetch(&self, name: Name, wanted: Wanted) {
        let servers = &self.settings.servers;
        let (began, mut rest, mut faults) = (Instant::now(), self.settings.rest, 0);
        let mut help = Help::default();
        loop {
            if self.fetch_from_neighbours(name, &wanted, &mut help).await {
                return self.forget(name);
            }
            let first = self.first.load(Relaxed);
            let in_turn = servers.iter().enumerate().cycle().skip(first);
            for (number, server) in in_turn.take(servers.len()) {
                let Some(image) = self.in_sight(name) else {
                    tracing::info!(replica = %name, "no machine here needs it any more: it isn't fetched");
                    return self.forget(name);
                };
                // Not while it rests. Closed never.
                let Ok(turn) = self.turns.acquire().await else {
                    return;
                };
                let fetched = self.fetch_from(server, image.local(), &wanted).await;
                drop(turn);
                let error = match fetched {
                    Ok(()) => {
                        self.first.store(number, Relaxed);
                        let (bytes, took) = (wanted.announced.bytes, began.elapsed());
                        tracing::info!(%image, server = server.name, bytes, ?took, "an image is here now");
                        return self.forget(name);
                    }
                    Err(error) => error,
                };
                tracing::warn!(%image, server = server.name, %error, "an image could not be fetched");
                match Fault::of(&error) {
                    // It may have gone on with what was wrong before it.
                    Fault::Content if help.was_wrong() => {}
                    Fault::Content => {
                        faults += 1;
                        // Each had a chance, and one a second: a power cut may have spoiled what was here.
                        if faults > servers.len() {
                            return self
                                .tell(name, Stage::Refused(error.to_string(), Instant::now()));
                        }
                    }
                    Fault::Space => self.clear(Duration::ZERO).await,
                    Fault::Server => {}
                }
                let text = format!("{}: {}; trying on", server.name, reason(&error));
                self.tell(name, Stage::UnderWay(text));
            }
            sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    async fn fetch_from(
        &self,
        server: &ImageServer,
        image: &str,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let limits = Limits {
            stall: STALL,
            // So may it be slow: there is no other place to have it from.
            least_bytes_per_second: 0,
            longest: Duration::MAX,
            ..Limits::default()
        };
        let url = format!("{}{image}", server.url);
        self.fetch_by((url, &server.fetcher), limits, wanted).await
    }

    /// Brings what is here of it to its end.
    pub(super) async fn fetch_by(
        &self,
        (url, fetcher): (String, &Fetcher),
        limits: Limits,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let (name, part) = (wanted.name, self.folder.part(wanted.name));
        let origin = Origin {
            url,
            fetcher: fetcher.clone(),
            limits: Limits {
                max_source_bytes: u64::MAX,
                ..limits
            },
            reserve_bytes: self.settings.reserve_bytes,
        };
        let (progress, seen) = watch::channel(Progress::default());
        let fetched = replica::fetch(&part, &wanted.announced, origin, Arc::new(progress));
        let fetched = tokio::select! {
            fetched = fetched => fetched,
            never = self.tell_progress(wanted, &seen) => match never {},
        };
        let folder = self.folder.clone();
        blocking(move || match fetched {
            Ok(()) => folder.keep(name),
            Err(error) => {
                if matches!(Fault::of(&error), Fault::Content)
                    || matches!(error, Error::Changed { .. })
                {
                    folder.remove(name)?;
                }
                Err(error)
            }
        })
        .await
    }

    /// For ever.
    async fn tell_progress(&self, wanted: &Wanted, seen: &watch::Receiver<Progress>) -> Infallible {
        let mut told = None;
        let mut ticks = interval(TOLD_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let here = seen.borrow().bytes_read;
            let percent = here.saturating_mul(100) / wanted.announced.bytes.max(1);
            if here > 0 && told != Some(percent) {
                told = Some(percent);
                self.tell(wanted.name, Stage::UnderWay(format!("{percent} %")));
            }
        }
    }
}

/// Without the address, which is said by the server's name.
fn reason(error: &Error) -> String {
    match error {
        Error::Url { reason, .. } | Error::Server { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

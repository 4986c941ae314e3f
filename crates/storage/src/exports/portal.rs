//! Where initiators find targets: one address, behind which each is led to the process of the target that it names.
//!
//! An initiator says in its first words whom it wants and who it is (RFC 7143 §11.12). Only who names a target together with the
//! one initiator that is to have it gets as far as a process of that target ([`way`](super::way)), which then asks for its secret;
//! nobody is told which targets there are.

use std::{collections::HashMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    login::{Pair, first_words, log_in, named},
    strangers::{Rarely, Stranger, Strangers},
    way::{Place, Way},
};

/// How long an initiator may take to say whom it wants, and to log in.
const SAYING: Duration = Duration::from_secs(10);
const LOGGING_IN: Duration = Duration::from_secs(30);
/// Rest after there was no descriptor for another connection.
const REST: Duration = Duration::from_millis(100);
/// How long nothing may be heard of an initiator before it is asked whether it is there, and how long it may not answer.
const QUIET: Duration = Duration::from_secs(10);
const UNHEARD_MILLIS: u32 = 30_000;
/// What is read before it is written, each way.
const BUFFER_BYTES: usize = 256 * 1024;

/// See the module. Clones are of the same.
#[derive(Clone)]
pub struct Portal(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    listener: TcpListener,
    ways: Mutex<HashMap<Pair, Arc<Way>>>,
    strangers: Strangers,
    told: Rarely,
}

impl fmt::Debug for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Portal").field(&self.0.address).finish()
    }
}

/// Leads an initiator to a target, until it is dropped.
pub(super) struct Led {
    portal: Portal,
    pair: Pair,
    way: Arc<Way>,
}

impl Led {
    /// Ends it; when this returns, nobody writes what was shown.
    pub(super) async fn end(self) {
        self.way.end().await;
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.way.close();
        let mut ways = self.portal.0.ways.lock();
        if ways
            .get(&self.pair)
            .is_some_and(|way| Arc::ptr_eq(way, &self.way))
        {
            ways.remove(&self.pair);
        }
    }
}

impl Portal {
    /// Listens at an address.
    ///
    /// # Errors
    /// If that isn't possible.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self(Arc::new(Inner {
            address: listener.local_addr()?,
            listener,
            ways: Mutex::default(),
            strangers: Strangers::default(),
            told: Rarely::default(),
        })))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Leads this initiator to that target; where it was led before, it is no more.
    pub(super) fn lead(&self, target: &str, initiator: &str, way: Arc<Way>) -> Led {
        let pair = (target.to_owned(), initiator.to_owned());
        let former = self.0.ways.lock().insert(pair.clone(), Arc::clone(&way));
        if let Some(former) = former {
            former.close();
        }
        Led {
            portal: self.clone(),
            pair,
            way,
        }
    }

    /// Takes connections, as long as this runs.
    pub async fn run(&self) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.0.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let stranger = self.0.strangers.come(from.ip());
                        if stranger.is_of_another && self.0.told.may() {
                            tracing::warn!(%from, "too many connections to the iSCSI portal say nothing: the oldest are sent away");
                        }
                        let portal = self.clone();
                        connections.spawn(async move {
                            if let Err(error) = portal.serve(stream, stranger, from).await {
                                tracing::debug!(%from, %error, "the connection of an initiator ended");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no connection for iSCSI can be taken");
                        tokio::time::sleep(REST).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve(
        &self,
        mut stream: TcpStream,
        stranger: Stranger,
        from: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // An initiator that is cut off connects anew: that it is gone is to be noticed.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, QUIET)?;
        sockopt::set_tcp_keepintvl(&stream, QUIET)?;
        sockopt::set_tcp_user_timeout(&stream, UNHEARD_MILLIS)?;
        let heard = timeout(SAYING, first_words(&mut stream));
        let heard = stranger.end.run_until_cancelled(heard).await;
        let heard = heard.ok_or_else(|| io::Error::other("others came"))?;
        let words = heard.map_err(|_| io::Error::other("it says nothing"))??;
        let pair = named(&words).ok_or_else(|| io::Error::other("it names no target"))?;
        let way = self.0.ways.lock().get(&pair).cloned();
        let Some(way) = way else {
            tracing::debug!(%from, target = pair.0, initiator = pair.1, "an initiator asks for what isn't shown to it");
            return Ok(());
        };
        let place = way.place()?;
        drop(stranger);
        if place.is_of_another && self.0.told.may() {
            tracing::warn!(%from, target = pair.0, "too many connections name this iSCSI target and don't log in: the oldest are sent away");
        }
        let end = place.end.clone();
        let led = end.run_until_cancelled(lead(stream, place, (&way, words)));
        led.await.unwrap_or(Ok(()))
    }
}

/// Leads an initiator that has said its first words to a process of its own.
async fn lead(
    mut stream: TcpStream,
    place: Place,
    (way, words): (&Way, Vec<u8>),
) -> io::Result<()> {
    let Place {
        number,
        process,
        ends: _ends,
        ..
    } = place;
    let logging_in = async {
        let target = way.process(process).await;
        let target = target.map_err(|error| {
            tracing::warn!(%error, "a volume can't be shown by iSCSI");
            io::Error::other(error)
        })?;
        let mut process = target.network.connect().await?;
        let answer = log_in(&mut stream, &mut process, words).await?;
        Ok::<_, io::Error>((target, process, answer))
    };
    let is_in = timeout(LOGGING_IN, logging_in).await;
    let (_target, mut process, answer) =
        is_in.map_err(|_| io::Error::other("it doesn't log in in time"))??;
    // From here on it may say what writes, and nobody else any more.
    way.let_in(number).await?;
    stream.write_all(&answer).await?;
    let ways = (&mut stream, &mut process);
    copy_bidirectional_with_sizes(ways.0, ways.1, BUFFER_BYTES, BUFFER_BYTES)
        .await
        .map(drop)
}

//! Where initiators find targets: one address, behind which each is led to the process of the target that it names.
//!
//! An initiator says in its first words whom it wants and who it is (RFC 7143 §11.12). Only who names a target together with the
//! one initiator that is to have it gets as far as that target's process, which then asks for its secret; nobody is told which
//! targets there are.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::iscsi::Network;

/// How long an initiator may take to say whom it wants.
const SAYING: Duration = Duration::from_secs(10);
/// Initiators that haven't said it yet; those of one target.
const STRANGERS: usize = 64;
const OF_ONE_TARGET: usize = 8;
/// Rest after there was no descriptor for another connection.
const REST: Duration = Duration::from_millis(100);
/// How long nothing may be heard of an initiator before it is asked whether it is there, and how long it may not answer.
const QUIET: Duration = Duration::from_secs(10);
const UNHEARD_MILLIS: u32 = 30_000;
/// What is read before it is written, each way.
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of the header of what is said, where it tells how much follows, and how much may follow first words.
const HEADER_BYTES: usize = 48;
const MORE_HEADERS_AT: usize = 4;
const DATA_BYTES_AT: usize = 5;
const WORDS_BYTES: usize = 8192;
/// A request to log in, at once.
const LOGIN: u8 = 0x43;

/// Of an initiator to a target, by their names.
type Pair = (String, String);

/// See the module. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Portal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    listener: TcpListener,
    ways: Mutex<HashMap<Pair, Way>>,
    next: AtomicU64,
    strangers: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Way {
    number: u64,
    network: Network,
    connections: Arc<Semaphore>,
    end: CancellationToken,
}

/// Leads an initiator to a target, until it is dropped.
#[derive(Debug)]
pub(super) struct Led {
    portal: Portal,
    pair: Pair,
    number: u64,
    end: CancellationToken,
}

impl Drop for Led {
    fn drop(&mut self) {
        self.end.cancel();
        let mut ways = self.portal.0.ways.lock();
        if ways
            .get(&self.pair)
            .is_some_and(|way| way.number == self.number)
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
            next: AtomicU64::new(0),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
        })))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Leads this initiator to that target in this network.
    pub(super) fn lead(&self, target: &str, initiator: &str, network: Network) -> Led {
        let (number, end) = (self.0.next.fetch_add(1, Relaxed), CancellationToken::new());
        let pair = (target.to_owned(), initiator.to_owned());
        let way = Way {
            number,
            network,
            connections: Arc::new(Semaphore::new(OF_ONE_TARGET)),
            end: end.clone(),
        };
        self.0.ways.lock().insert(pair.clone(), way);
        Led {
            portal: self.clone(),
            pair,
            number,
            end,
        }
    }

    /// Takes connections, as long as this runs.
    pub async fn run(&self) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.0.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let Ok(stranger) = Arc::clone(&self.0.strangers).try_acquire_owned() else {
                            tracing::debug!(%from, "too many initiators say nothing: another one is sent away");
                            continue;
                        };
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
        stranger: tokio::sync::OwnedSemaphorePermit,
        from: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // An initiator that is cut off connects anew: the place of its former connection is to be free by then.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, QUIET)?;
        sockopt::set_tcp_keepintvl(&stream, QUIET)?;
        sockopt::set_tcp_user_timeout(&stream, UNHEARD_MILLIS)?;
        let heard = timeout(SAYING, first_words(&mut stream)).await;
        let words = heard.map_err(|_| io::Error::other("it says nothing"))??;
        let pair = named(&words).ok_or_else(|| io::Error::other("it names no target"))?;
        let way = self.0.ways.lock().get(&pair).cloned();
        let Some(way) = way else {
            tracing::debug!(%from, target = pair.0, initiator = pair.1, "an initiator asks for what isn't shown to it");
            return Ok(());
        };
        drop(stranger);
        let Ok(_one) = way.connections.try_acquire() else {
            return Err(io::Error::other("the target has too many connections"));
        };
        let leading = async {
            let mut process = way.network.connect().await?;
            process.write_all(&words).await?;
            let ways = (&mut stream, &mut process);
            copy_bidirectional_with_sizes(ways.0, ways.1, BUFFER_BYTES, BUFFER_BYTES).await
        };
        match way.end.run_until_cancelled(leading).await {
            Some(led) => led.map(drop),
            None => Ok(()),
        }
    }
}

/// A request to log in, whole.
async fn first_words(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut words = vec![0; HEADER_BYTES];
    stream.read_exact(&mut words).await?;
    let more = length_of(&words).ok_or_else(|| io::Error::other("it doesn't log in"))?;
    words.resize(HEADER_BYTES + more, 0);
    let rest = words.get_mut(HEADER_BYTES..).unwrap_or_default();
    stream.read_exact(rest).await?;
    Ok(words)
}

/// How many bytes follow the header of a request to log in; none for anything else.
fn length_of(header: &[u8]) -> Option<usize> {
    let is_login = header.first() == Some(&LOGIN) && header.get(MORE_HEADERS_AT) == Some(&0);
    let &[a, b, c] = header.get(DATA_BYTES_AT..)?.first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    (is_login && length <= WORDS_BYTES).then_some(length.next_multiple_of(4))
}

/// Whom a request to log in names: the target and the initiator.
fn named(words: &[u8]) -> Option<Pair> {
    let text = words.get(HEADER_BYTES..)?;
    let of = |key: &str| {
        let mut pairs = text.split(|byte| *byte == 0);
        let value = pairs.find_map(|pair| pair.strip_prefix(key.as_bytes()))?;
        String::from_utf8(value.to_vec()).ok()
    };
    Some((of("TargetName=")?, of("InitiatorName=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_logs_in_says_whom_it_wants() {
        let text = b"InitiatorName=iqn.a\0TargetName=iqn.b\0SessionType=Normal\0\0\0";
        let mut words = vec![0; HEADER_BYTES];
        words[0] = LOGIN;
        words[7] = 57;
        words.extend_from_slice(text);
        assert_eq!(length_of(&words), Some(60));
        let pair = ("iqn.b".to_owned(), "iqn.a".to_owned());
        assert_eq!(named(&words), Some(pair));
        words[MORE_HEADERS_AT] = 1;
        assert_eq!(length_of(&words), None, "more headers");
        words[MORE_HEADERS_AT] = 0;
        words[5] = 1;
        assert_eq!(length_of(&words), None, "too long");
        assert_eq!(length_of(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(length_of(&[]), None);
        assert_eq!(named(b"short"), None);
        let discovery = [
            &[0; HEADER_BYTES][..],
            b"InitiatorName=iqn.a\0SessionType=Discovery\0",
        ];
        assert_eq!(
            named(&discovery.concat()),
            None,
            "nobody is told what there is"
        );
    }
}

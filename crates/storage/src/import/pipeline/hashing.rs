//! Digests of an import's chunks, beside its other work.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::CHUNKS_IN_FLIGHT;
use crate::digest::{Digest, Digests, Sha1AndSha256, Wanted};
use crate::error::Error;

/// Threads that digest the same chunks: one for each digest, or for the two that are quick together.
pub(super) struct Hashing<'scope> {
    senders: Vec<SyncSender<Bytes>>,
    named: Named<'scope>,
    md5: Option<Running<'scope, Digest<16>>>,
    sha512: Option<Running<'scope, Digest<64>>>,
}

type Running<'scope, T> = thread::ScopedJoinHandle<'scope, T>;

/// What names the content, and proves it.
enum Named<'scope> {
    Together(Running<'scope, (Digest<20>, Digest<32>)>),
    Apart {
        sha1: Running<'scope, Digest<20>>,
        sha256: Option<Running<'scope, Digest<32>>>,
    },
}

impl<'scope> Hashing<'scope> {
    pub(super) fn start(scope: &'scope thread::Scope<'scope, '_>, wanted: Wanted) -> Self {
        let mut senders = Vec::new();
        let named = if wanted.sha256 && Sha1AndSha256::is_quick() {
            Named::Together(together(scope, &mut senders))
        } else {
            Named::Apart {
                sha1: alone::<Sha1, _>(scope, &mut senders),
                sha256: wanted
                    .sha256
                    .then(|| alone::<Sha256, _>(scope, &mut senders)),
            }
        };
        Self {
            named,
            md5: wanted.md5.then(|| alone::<Md5, _>(scope, &mut senders)),
            sha512: wanted
                .sha512
                .then(|| alone::<Sha512, _>(scope, &mut senders)),
            senders,
        }
    }

    pub(super) fn send(&self, chunk: &Bytes) -> Result<(), Error> {
        self.senders
            .iter()
            .try_for_each(|sender| sender.send(chunk.clone()).map_err(|_| Error::Cancelled))
    }

    pub(super) fn finish(self) -> Result<Digests, Error> {
        fn end<T>(running: Running<'_, T>) -> Result<T, Error> {
            running.join().map_err(|_| Error::Cancelled)
        }
        drop(self.senders);
        let (sha1, sha256) = match self.named {
            Named::Together(both) => {
                let (sha1, sha256) = end(both)?;
                (sha1, Some(sha256))
            }
            Named::Apart { sha1, sha256 } => (end(sha1)?, sha256.map(end).transpose()?),
        };
        Ok(Digests {
            md5: self.md5.map(end).transpose()?,
            sha1,
            sha256,
            sha512: self.sha512.map(end).transpose()?,
        })
    }
}

fn alone<'scope, D, const N: usize>(
    scope: &'scope thread::Scope<'scope, '_>,
    senders: &mut Vec<SyncSender<Bytes>>,
) -> Running<'scope, Digest<N>>
where
    D: md5::Digest,
    [u8; N]: From<md5::digest::Output<D>>,
{
    let (sender, chunks) = sync_channel::<Bytes>(CHUNKS_IN_FLIGHT);
    senders.push(sender);
    scope.spawn(move || {
        let mut digest = D::new();
        for chunk in chunks {
            digest.update(&chunk);
        }
        Digest::from_bytes(digest.finalize().into())
    })
}

fn together<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    senders: &mut Vec<SyncSender<Bytes>>,
) -> Running<'scope, (Digest<20>, Digest<32>)> {
    let (sender, chunks) = sync_channel::<Bytes>(CHUNKS_IN_FLIGHT);
    senders.push(sender);
    scope.spawn(move || {
        let mut digests = Sha1AndSha256::default();
        for chunk in chunks {
            digests.update(&chunk);
        }
        digests.finish()
    })
}

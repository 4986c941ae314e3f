//! The root disk of a machine that is off, for the storage, which makes an image of it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use cimi::resources::Machine;
use futures::stream;
use storage::elsewhere::NoDisk;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    VmHost,
    prepare::{self, ROOT_DISK},
};
use crate::{
    moving::Packed,
    stop_points::{self, Point},
};

/// Bytes that are read at once, and how many such pieces are read ahead of whoever takes them.
const PIECE_BYTES: u64 = 256 * 1024;
const AHEAD: usize = 2;

impl VmHost {
    /// The file of a machine's root disk, an overlay on its image, with its length in bytes; none of a machine that isn't here, or
    /// isn't off. It is only read, and stays what it is as long as the rules have the machine wait for its image. If it can't be read on,
    /// an error says so that holds a [`NoDisk`].
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn disk_to_save(&self, machine: &str) -> Result<Option<(u64, Packed)>, NoDisk> {
        let shared = &self.0.shared;
        let read = shared.documents.machines.get(machine);
        let is_left =
            |read: &Machine| read.host.as_ref() == Some(&shared.host) && read.disk_is_left();
        let Some(read) = read.filter(|read| is_left(read)) else {
            return Ok(None);
        };
        let path = prepare::folder(&shared.settings, &read).join(ROOT_DISK);
        let disk = path.clone();
        let opened = spawn_blocking(move || {
            let length_of = |file: File| Ok((file.metadata()?.len(), file));
            let opened = File::open(&disk).and_then(length_of);
            opened.map_err(|error| NoDisk::of(&error, &disk))
        });
        let (length, file) = opened.await.unwrap_or_else(|error| Err(not_now(&error)))?;
        tracing::info!(vmid = %read.vmid, length, "the disk is given to the storage, to be saved");
        Ok(Some((length, pieces(file, path, length))))
    }
}

/// The system doesn't even try to read.
fn not_now(error: &tokio::task::JoinError) -> NoDisk {
    NoDisk::NotNow(error.to_string())
}

fn read(file: &File, path: &Path, at: u64, size: u64) -> Result<Bytes, NoDisk> {
    let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
    let read = file.read_exact_at(&mut piece, at);
    read.map_err(|error| NoDisk::of(&error, path))?;
    Ok(Bytes::from(piece))
}

/// What a file holds. Ends when nobody takes it any more.
fn pieces(file: File, path: PathBuf, length: u64) -> Packed {
    let (to, pieces) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let (file, mut at) = (Arc::new((file, path)), 0);
        while at < length {
            let (from, size) = (Arc::clone(&file), PIECE_BYTES.min(length - at));
            let piece = spawn_blocking(move || read(&from.0, &from.1, at, size)).await;
            let piece = piece.unwrap_or_else(|error| Err(not_now(&error)));
            if let Err(error) = &piece {
                tracing::error!(at, %error, "a disk that is to be saved can't be read on");
            }
            let is_last = piece.is_err();
            if to.send(piece.map_err(io::Error::other)).await.is_err() || is_last {
                return;
            }
            at += size;
            stop_points::pass(Point::GivesDisk).await;
        }
    });
    let next = |mut pieces: mpsc::Receiver<_>| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    };
    Box::pin(stream::unfold(pieces, next))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_comes_as_it_is_and_one_that_became_shorter_breaks_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ROOT_DISK);
        let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let length = content.len() as u64;
        let open = || File::open(&path).unwrap();
        let come: Vec<_> = pieces(open(), path.clone(), length).collect().await;
        let come: Vec<Bytes> = come.into_iter().map(|piece| piece.unwrap()).collect();
        assert!(come.concat() == content);
        let come: Vec<_> = pieces(open(), path.clone(), length + 1).collect().await;
        let end = come.last().unwrap().as_ref().unwrap_err();
        let why = end.get_ref().unwrap().downcast_ref();
        assert!(matches!(why, Some(NoDisk::NotNow(_))), "{end:?}");
    }
}

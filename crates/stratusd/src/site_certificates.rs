//! The authorities of the site: a folder of certificates and revocation lists, and one of the servers of virtual
//! organisations. Looked at every second while certificates count, taken over when something in them has changed: lists
//! are fetched anew several times a day by whatever the site does that with.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use accounts::Accounts;
use certificates::{Authorities, Revocation, voms::Servers};
use doors::tls::Speech;
use tokio::{task::spawn_blocking, time::sleep};

use crate::config::{Certificates, RevocationLists};

/// How soon a change is seen.
const ROUND: Duration = Duration::from_secs(1);
/// Files of a folder.
const FILES_AT_MOST: usize = 10_000;
/// Bytes of one, and of all of them.
const FILE_AT_MOST: u64 = 64 << 20;
const ALL_AT_MOST: u64 = 512 << 20;
/// Problems that are told one by one.
const TOLD_AT_MOST: usize = 10;

/// What tells the folders from what they were: each file's path, inode, length and time of change.
type Stamp = Vec<(PathBuf, u64, u64, i64, i64)>;

/// The folders, and what they were like when they were last read.
pub struct SiteCertificates {
    authorities: PathBuf,
    organisations: PathBuf,
    revocation: Revocation,
    accounts: Arc<Accounts>,
    speech: Option<Arc<Speech>>,
    seen: Option<Stamp>,
}

impl SiteCertificates {
    /// The folders of the configuration, for `accounts` to believe, and for clients to be told.
    pub fn new(
        config: &Certificates,
        accounts: Arc<Accounts>,
        speech: Option<Arc<Speech>>,
    ) -> Self {
        Self {
            authorities: config.authorities.clone().into(),
            organisations: config.organisations.clone().into(),
            revocation: match config.revocation_lists {
                RevocationLists::Required => Revocation::Required,
                RevocationLists::IfPresent => Revocation::IfPresent,
            },
            accounts,
            speech,
            seen: None,
        }
    }

    /// Takes the folders over whenever they have changed, if certificates count.
    pub async fn follow(mut self) {
        loop {
            self.look().await;
            sleep(ROUND).await;
        }
    }

    /// Takes the folders over if they have changed and certificates count.
    pub async fn look(&mut self) {
        if !self.accounts.methods().take_certificates() {
            return;
        }
        let (authorities, organisations) = (self.authorities.clone(), self.organisations.clone());
        let (revocation, seen) = (self.revocation, self.seen.take());
        let read = spawn_blocking(move || {
            let (stamp, problem) = stamp(&authorities, &organisations);
            if seen.as_ref() == Some(&stamp) {
                return (stamp, None);
            }
            if let Some(problem) = problem {
                tracing::error!(%problem, folder = %authorities.display(), "certificates of clients can't be verified");
            }
            let read = read(&stamp, &authorities, revocation);
            (stamp, Some(read))
        });
        let Ok((stamp, read)) = read.await else {
            return;
        };
        self.seen = Some(stamp);
        let Some(authorities) = read else { return };
        if let Some(speech) = &self.speech
            && let Err(error) = speech.ask_for(authorities.names())
        {
            tracing::error!(%error, "clients can't be asked for certificates");
        }
        tracing::info!(?authorities, "authorities taken over");
        self.accounts.trust(Arc::new(authorities));
    }
}

/// What the folders are like; and what is wrong with that of the authorities.
fn stamp(authorities: &Path, organisations: &Path) -> (Stamp, Option<io::Error>) {
    let mut stamp = Stamp::new();
    let problem = list(authorities, &mut stamp).err();
    // No organisations is nothing wrong.
    let mut folders = Stamp::new();
    if list(organisations, &mut folders).is_ok() {
        for (folder, ..) in folders {
            if folder.is_dir() {
                let _ = list(&folder, &mut stamp);
            }
        }
    }
    stamp.sort_unstable();
    (stamp, problem)
}

fn list(folder: &Path, stamp: &mut Stamp) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten().take(FILES_AT_MOST) {
        let path = entry.path();
        // Links are what they lead to: folders of authorities are full of them.
        if let Ok(metadata) = fs::metadata(&path) {
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            stamp.push((path, metadata.ino(), metadata.len(), seconds, nanoseconds));
        }
    }
    Ok(())
}

fn read(stamp: &Stamp, authorities: &Path, revocation: Revocation) -> Authorities {
    let (mut files, mut servers, mut problems) = (Vec::new(), Servers::default(), Vec::new());
    let mut left = ALL_AT_MOST;
    for (path, _, length, ..) in stamp {
        let (Some(name), Some(folder)) = (
            path.file_name().and_then(|name| name.to_str()),
            path.parent(),
        ) else {
            continue;
        };
        let is_server = folder != authorities;
        if path.is_dir() || (is_server && !name.ends_with(".lsc")) {
            continue;
        }
        if *length > FILE_AT_MOST.min(left) {
            problems.push(format!("{}: too large", path.display()));
            continue;
        }
        left -= length;
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) => {
                problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        if is_server {
            let organisation = folder.file_name().and_then(|name| name.to_str());
            let added = servers.add(
                organisation.unwrap_or_default(),
                &String::from_utf8_lossy(&content),
            );
            if let Err(problem) = added {
                problems.push(format!("{}: {problem}", path.display()));
            }
        } else {
            files.push((name.to_owned(), content));
        }
    }
    let given = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()));
    let (read, wrong) = Authorities::read(given, revocation, servers);
    problems.extend(wrong.iter().map(ToString::to_string));
    for problem in problems.iter().take(TOLD_AT_MOST) {
        tracing::warn!(problem, "a file of the site's authorities can't be used");
    }
    if problems.len() > TOLD_AT_MOST {
        tracing::warn!(
            files = problems.len(),
            "so many files of the site's authorities can't be used"
        );
    }
    read
}

//! The files of users, `login-pswd.properties` and `login-cert.properties`: looked at every second, taken over when it has changed.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use accounts::{
    certificate_file,
    files::{self, Entry},
};
use anyhow::{Context as _, bail};
use cloud::Cloud;
use tokio::{task::spawn_blocking, time::sleep};

use crate::config::Accounts;

/// How soon a change is seen.
const ROUND: Duration = Duration::from_secs(1);
/// The largest file that is read.
const BYTES_AT_MOST: u64 = 8 << 20;

/// Which of the two files one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOf {
    /// Names, passwords and roles.
    Passwords,
    /// Subjects of certificates and roles.
    Certificates,
}

impl FileOf {
    /// What users from the file say of where they are from.
    const fn source(self) -> &'static str {
        match self {
            Self::Passwords => "login-pswd.properties",
            Self::Certificates => "login-cert.properties",
        }
    }
}

/// What is in a file.
#[derive(Debug)]
enum Entries {
    Passwords(BTreeMap<String, Entry>),
    Certificates(BTreeMap<String, certificate_file::Entry>),
}

/// What tells a file from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// The file, and what it was like when it was last read.
#[derive(Debug)]
pub struct UserFile {
    of: FileOf,
    path: PathBuf,
    seen: Option<Stamp>,
}

impl UserFile {
    /// The file at `path`; not read yet.
    pub const fn new(of: FileOf, path: PathBuf) -> Self {
        Self {
            of,
            path,
            seen: None,
        }
    }

    /// Takes the file over for the first time.
    ///
    /// # Errors
    /// If it can't be read, is readable by everybody, or isn't what it should be: the operator is there to see it.
    pub async fn begin(&mut self, cloud: &Cloud) -> anyhow::Result<()> {
        if let Some(entries) = self.look().await? {
            take_over(cloud, &entries).await?;
        }
        Ok(())
    }

    /// Takes the file over whenever it has changed. What can't be used changes nothing, and is told once.
    pub async fn follow(mut self, cloud: Cloud) {
        loop {
            sleep(ROUND).await;
            let result = match self.look().await {
                Ok(None) => Ok(()),
                Ok(Some(entries)) => take_over(&cloud, &entries).await.inspect_err(|_| {
                    // The next round tries again.
                    self.seen = None;
                }),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::error!("the users stay as they were: {error:#}");
            }
        }
    }

    /// The entries, if the file isn't as it was when it was last looked at.
    async fn look(&mut self) -> anyhow::Result<Option<Entries>> {
        let (of, path, seen) = (self.of, self.path.clone(), self.seen);
        let (stamp, entries) = spawn_blocking(move || read_changed(of, &path, seen)).await?;
        if stamp.is_some() {
            self.seen = stamp;
        }
        entries.with_context(|| self.path.display().to_string())
    }
}

/// The files of users that are configured, and by which keys.
pub fn configured(accounts: &Accounts) -> impl Iterator<Item = (FileOf, &'static str, &Path)> {
    [
        (
            FileOf::Passwords,
            "accounts.password_file",
            Path::new(&accounts.password_file),
        ),
        (
            FileOf::Certificates,
            "accounts.certificate_file",
            Path::new(&accounts.certificate_file),
        ),
    ]
    .into_iter()
    .filter(|(_, _, path)| !path.as_os_str().is_empty())
}

/// Whether the files of users can be taken over.
///
/// # Errors
/// As [`UserFile::begin`], but for what the cloud would say.
pub fn check(accounts: &Accounts) -> anyhow::Result<()> {
    for (of, key, path) in configured(accounts) {
        let (_, entries) = read_changed(of, path, None);
        entries.with_context(|| format!("`{key}`: {}", path.display()))?;
    }
    Ok(())
}

/// What the file is like now, if that could be seen, and its entries, if it isn't as it was.
fn read_changed(
    of: FileOf,
    path: &Path,
    seen: Option<Stamp>,
) -> (Option<Stamp>, anyhow::Result<Option<Entries>>) {
    let opened = || -> io::Result<_> {
        let file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = match opened() {
        Ok(opened) => opened,
        // A file that is gone for a moment, as editors do it, is no file without users; and told once.
        Err(error) => {
            let gone = Stamp {
                inode: 0,
                length: 0,
                changed: (0, 0),
            };
            let told = seen == Some(gone);
            return (Some(gone), if told { Ok(None) } else { Err(error.into()) });
        }
    };
    let stamp = Stamp {
        inode: metadata.ino(),
        length: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    if seen == Some(stamp) {
        return (None, Ok(None));
    }
    let entries = || {
        if metadata.mode() & 0o007 != 0 {
            bail!("everybody on this computer can read it: chmod o= it");
        }
        let mut content = Vec::new();
        file.take(BYTES_AT_MOST + 1).read_to_end(&mut content)?;
        if content.len() as u64 > BYTES_AT_MOST {
            bail!("it has more than {BYTES_AT_MOST} bytes");
        }
        Ok(Some(match of {
            FileOf::Passwords => Entries::Passwords(files::read(&content)?),
            FileOf::Certificates => Entries::Certificates(certificate_file::read(&content)?),
        }))
    };
    (Some(stamp), entries())
}

async fn take_over(cloud: &Cloud, entries: &Entries) -> anyhow::Result<()> {
    let source = match entries {
        Entries::Passwords(_) => FileOf::Passwords.source(),
        Entries::Certificates(_) => FileOf::Certificates.source(),
    };
    let entries = match entries {
        Entries::Passwords(entries) => entries,
        Entries::Certificates(entries) => {
            let done = cloud.import_certified(source, entries).await?;
            tracing::info!(?done, "users of {source} taken over");
            return Ok(());
        }
    };
    let weak = entries
        .values()
        .filter(|entry| entry.credential.scheme().is_weak());
    let weak = weak.count();
    if weak > 0 {
        tracing::warn!(
            weak,
            "passwords of {source} are readable or as good as: stratus hash-password --argon2"
        );
    }
    let done = cloud.import_users(source, entries).await?;
    tracing::info!(?done, "users of {source} taken over");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_read_when_it_has_changed_and_may_not_be_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let write = |content: &str, mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (gone, error) = read_changed(FileOf::Passwords, &path, None);
        assert!(error.is_err());
        assert!(
            read_changed(FileOf::Passwords, &path, gone)
                .1
                .unwrap()
                .is_none()
        );
        write("joe=slpass,cloud-access\n", 0o640);
        let (first, entries) = read_changed(FileOf::Passwords, &path, gone);
        assert!(
            matches!(entries.unwrap().unwrap(), Entries::Passwords(all) if all.contains_key("joe"))
        );
        assert!(
            read_changed(FileOf::Passwords, &path, first)
                .1
                .unwrap()
                .is_none()
        );
        write("joe=slpass,cloud-access\n", 0o644);
        let accounts = Accounts {
            password_file: path.display().to_string(),
            ..Accounts::default()
        };
        let told = format!("{:#}", check(&accounts).unwrap_err());
        assert!(told.starts_with("`accounts.password_file`: /"), "{told}");
        let (second, error) = read_changed(FileOf::Passwords, &path, first);
        assert!(error.unwrap_err().to_string().contains("chmod"));
        assert!(
            read_changed(FileOf::Passwords, &path, second)
                .1
                .unwrap()
                .is_none()
        );
        write("=\n", 0o600);
        let error = read_changed(FileOf::Passwords, &path, second)
            .1
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}

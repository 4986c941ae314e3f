//! `stratusd join`: this computer becomes a host of a cloud. All that is written is in its state directory.
//!
//! ```text
//!  key written ──▶ entry asked ──▶ STATE/host/joined.json written        killed anywhere: the same command goes on
//! ```

mod entry;
mod kept;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use cimi::Timestamp;
use trust::{Fingerprint, JOIN_PATH, JoinRequest, JoinToken, Joined};

use crate::{
    config::{Config, StoreKind},
    instance::Instance,
    load, runtime,
};
pub(crate) use entry::{Believed, Entry, Refusal, ask, root_of};
pub(crate) use kept::{Folder, Kept};

/// Longest token that is read from standard input; ours have 92 bytes.
const TOKEN_AT_MOST: u64 = 4096;

/// Joins, and says so.
///
/// # Errors
/// Why not, and what to do.
pub fn run(file: Option<&Path>, token: &str, entries: &[String]) -> anyhow::Result<()> {
    let config = load(file)?;
    let token = read_token(token)?;
    let entries = entries
        .iter()
        .map(|text| text.parse())
        .collect::<anyhow::Result<Vec<Entry>>>()?;
    let state = config.state_dir();
    ensure!(
        config.store.kind == StoreKind::Sqlite,
        "the configuration is that of a cloud of its own, with its documents in etcd (`[store]`): give this host another"
    );
    if let Some((folder, kept)) = joined(&state)?
        && kept.entries == entries
    {
        // Nothing is written: also while the daemon runs.
        return joined_already(&folder, kept, &token, entries);
    }
    let _instance = Instance::take(&state)?;
    ensure!(
        !state.join("db").exists(),
        "{} is the state directory of a cloud of its own: give this host another `state_dir`",
        state.display()
    );
    let folder = Folder::in_state(&state)?;
    if let Some(kept) = folder.read()? {
        return joined_already(&folder, kept, &token, entries);
    }
    let began = Instant::now();
    let kept = runtime(&config)?.block_on(join(&config, &folder, &token, entries))?;
    let Joined {
        host,
        name,
        expires,
        ..
    } = &kept.joined;
    println!(
        "joined as {name} ({host}) in {:.2} s; its certificate is good until {expires}, and renewed by itself",
        began.elapsed().as_secs_f64()
    );
    let with = file.map(|file| format!(" --config {}", file.display()));
    println!(
        "start the daemon: stratusd serve{}",
        with.unwrap_or_default()
    );
    Ok(())
}

/// From the command line, or from standard input: other users of this computer see the first.
fn read_token(text: &str) -> anyhow::Result<JoinToken> {
    if text != "-" {
        return Ok(text.parse()?);
    }
    let mut read = String::new();
    std::io::stdin()
        .take(TOKEN_AT_MOST)
        .read_to_string(&mut read)
        .context("standard input")?;
    Ok(read.parse()?)
}

/// A rerun: other entries are taken over.
fn joined_already(
    folder: &Folder,
    mut kept: Kept,
    token: &JoinToken,
    entries: Vec<Entry>,
) -> anyhow::Result<()> {
    let authority = kept.authority()?;
    ensure!(
        Fingerprint::of(&authority) == token.authority,
        "this host has joined another cloud as {} ({}): to leave that one, remove {}, and the host there",
        kept.joined.name,
        kept.joined.host,
        folder.path().display()
    );
    let Joined {
        host,
        name,
        expires,
        ..
    } = &kept.joined;
    ensure!(
        *expires > Timestamp::now(),
        "this host has joined as {name} ({host}), but was off until its certificate had ended, at {expires}: to join anew, \
         remove the host there (`stratus host remove {name}`), remove {}, and use a new token",
        folder.path().display()
    );
    println!("joined already as {name} ({host})");
    if kept.entries != entries {
        kept.entries = entries;
        folder.write(&kept)?;
        println!("its entries are other ones from now on");
    }
    Ok(())
}

async fn join(
    config: &Config,
    folder: &Folder,
    token: &JoinToken,
    entries: Vec<Entry>,
) -> anyhow::Result<Kept> {
    let key = folder.key()?;
    let believed = Believed::of_token(token);
    let mut unreachable = Vec::new();
    for entry in &entries {
        let asked = JoinRequest {
            secret: token.secret.clone(),
            request: key.request()?,
            name: config.host_name(),
            time: Timestamp::now(),
        };
        match ask::<_, Joined>(entry, &believed, JOIN_PATH, &asked).await {
            Ok(joined) => {
                let kept = Kept {
                    joined,
                    entries: entries.clone(),
                };
                let authority = kept.authority()?;
                ensure!(
                    Fingerprint::of(&authority) == token.authority,
                    "{entry} sent the certificate of another authority than the token is of"
                );
                folder.write(&kept)?;
                return Ok(kept);
            }
            Err(Refusal::Said(text)) => bail!("{entry}: {text}"),
            Err(Refusal::NotTrusted(text)) => bail!("{entry}: {text}"),
            Err(Refusal::Unreachable(text)) => unreachable.push(format!("{entry}: {text}")),
        }
    }
    bail!(
        "no entry can be reached: {}; the token is still good",
        unreachable.join("; ")
    )
}

/// Where the state of a host that has joined is, if this is one.
///
/// # Errors
/// If it can't be read.
pub(crate) fn joined(state: &Path) -> anyhow::Result<Option<(Folder, Kept)>> {
    let place: PathBuf = state.join(kept::FOLDER);
    if !place.exists() {
        return Ok(None);
    }
    let folder = Folder::in_state(state)?;
    Ok(folder.read()?.map(|kept| (folder, kept)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn who_was_off_for_too_long_is_told_so() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::in_state(state.path()).unwrap();
        let authority = trust::Authority::generate(SystemTime::now()).unwrap();
        let token = JoinToken {
            authority: authority.fingerprint(),
            secret: trust::JoinSecret::generate().unwrap(),
        };
        let again = |expires| {
            let joined = Joined {
                host: "Host/1".to_owned(),
                name: "node7".to_owned(),
                certificate: String::new(),
                authority: authority.certificate_pem().to_owned(),
                expires,
            };
            let entries = vec!["https://cloud:8443".parse().unwrap()];
            let kept = Kept {
                joined,
                entries: entries.clone(),
            };
            joined_already(&folder, kept, &token, entries)
        };
        again(Timestamp::now().after(Duration::from_secs(60))).unwrap();
        let told = again(Timestamp::from_millis(0)).unwrap_err().to_string();
        assert!(
            told.contains("had ended, at 1970") && told.contains("stratus host remove node7"),
            "{told}"
        );
    }
}

//! OpenPGP signatures of indexes, checked by the system's `gpgv`, confined: it sees the message, the signature and the keys as
//! descriptors, and nothing else of this host.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::confine::{self, Bounds};
use crate::error::Error;

const MAX_KEYS_BYTES: u64 = 4 << 20;
const ARMOUR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const ARMOUR_END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
/// What `gpgv` says of a signature that must not count although it is mathematically right.
const NOT_ANY_MORE: [&str; 4] = ["EXPSIG", "EXPKEYSIG", "REVKEYSIG", "KEYREVOKED"];

/// Public keys of which one must have signed.
#[derive(Debug, Clone)]
pub struct Keyring {
    program: PathBuf,
    keys: Arc<Vec<u8>>,
}

impl Keyring {
    /// The keys in a file, as `gpg --export` writes them, armoured or not. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] if there is no key in it; [`Error::NotFound`] without `gpgv`.
    pub fn read(path: &Path, program: &Path) -> Result<Self, Error> {
        if !program.is_absolute() || !program.is_file() {
            return Err(Error::NotFound {
                kind: "program",
                name: program.display().to_string(),
            });
        }
        let length = std::fs::metadata(path)
            .map_err(Error::io("examine", path))?
            .len();
        let invalid = |reason: &str| Error::Invalid {
            what: "keyring",
            value: path.display().to_string(),
            reason: reason.to_owned(),
        };
        if length > MAX_KEYS_BYTES {
            return Err(invalid("it is too long"));
        }
        let keys = std::fs::read(path).map_err(Error::io("read", path))?;
        let keys = match std::str::from_utf8(&keys) {
            Ok(text) if text.contains(ARMOUR) => {
                without_armour(text).ok_or_else(|| invalid("its armour is damaged"))?
            }
            _ => keys,
        };
        // A packet of a public key (RFC 9580 §4.2, §4.3), in the old or the new form, or GnuPG's key box.
        let is_key = keys.first().is_some_and(|byte| {
            matches!(byte, 0x98 | 0x99 | 0x9a | 0xc6) || keys.get(8..12) == Some(b"KBXf")
        });
        if !is_key {
            return Err(invalid(
                "it holds no public key; write one with `gpg --export`",
            ));
        }
        Ok(Self {
            program: program.to_owned(),
            keys: Arc::new(keys),
        })
    }

    /// The text in a clear-signed message, and when it was signed, in seconds since 1970.
    ///
    /// # Errors
    /// Why the signature doesn't count.
    pub(super) async fn open(&self, message: Bytes, most: usize) -> Result<(Bytes, i64), String> {
        let (text, time) = self.run(vec![message], most).await?;
        Ok((text.into(), time))
    }

    /// Checks a detached signature; returns when it was made, in seconds since 1970.
    ///
    /// # Errors
    /// Why it doesn't count.
    pub(super) async fn check(&self, text: Bytes, signature: Bytes) -> Result<i64, String> {
        Ok(self.run(vec![signature, text], 0).await?.1)
    }

    async fn run(&self, inputs: Vec<Bytes>, most: usize) -> Result<(Vec<u8>, i64), String> {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.run_now(&inputs, most));
        work.await.map_err(|error| error.to_string())?
    }

    fn run_now(&self, inputs: &[Bytes], most: usize) -> Result<(Vec<u8>, i64), String> {
        let keys = in_memory("keys", &self.keys)?;
        let files: Vec<File> = inputs
            .iter()
            .map(|bytes| in_memory("message", bytes))
            .collect::<Result<_, _>>()?;
        let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut arguments = vec!["--keyring".to_owned(), name(&keys)];
        arguments.extend(["--homedir", "/nonexistent", "--status-fd", "2"].map(str::to_owned));
        if most > 0 {
            arguments.extend(["--output", "-"].map(str::to_owned));
        }
        arguments.push("--".to_owned());
        arguments.extend(files.iter().map(name));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut inherited: Vec<&File> = files.iter().collect();
        inherited.push(&keys);
        let bounds = Bounds {
            time: Duration::from_secs(60),
            cpu: Duration::from_secs(30),
            memory_bytes: 1 << 30,
            // One more than is taken, to see what is too long.
            output_bytes: most.max(64 << 10) + 1,
        };
        let done = confine::run_as_nobody(&self.program, &arguments, &inherited, &bounds)
            .map_err(|error| error.to_string())?;
        let status = String::from_utf8_lossy(&done.stderr).into_owned();
        let says = |word: &str| {
            status
                .lines()
                .filter_map(|line| line.strip_prefix("[GNUPG:] "))
                .any(|line| line.split(' ').next() == Some(word))
        };
        if let Some(word) = NOT_ANY_MORE.into_iter().find(|word| says(word)) {
            return Err(format!(
                "the signature does not count any more: its key is expired or revoked ({word})"
            ));
        }
        if !done.status.success() || !says("VALIDSIG") {
            let why = if says("BADSIG") {
                "the signature is not that of this text: it was altered"
            } else if says("NO_PUBKEY") {
                "it is signed by a key that is not in the keyring"
            } else {
                "it has no signature that counts"
            };
            return Err(why.to_owned());
        }
        if done.stdout.len() > most {
            return Err(format!("the signed text has more than {most} bytes"));
        }
        let time = signed_at(&status).ok_or("when it was signed isn't told")?;
        Ok((done.stdout, time))
    }
}

/// When the signatures that count were made; of several the newest. `VALIDSIG <fingerprint> <date> <seconds> …` (GnuPG, doc/DETAILS).
fn signed_at(status: &str) -> Option<i64> {
    let lines = status.lines();
    let times = lines.filter_map(|line| {
        let said = line.strip_prefix("[GNUPG:] VALIDSIG ")?;
        said.split(' ').nth(2)?.parse().ok()
    });
    times.max()
}

/// A file that exists in memory only, and goes with its descriptor.
fn in_memory(name: &str, bytes: &[u8]) -> Result<File, String> {
    let failed = |error: std::io::Error| format!("no memory to check its signature: {error}");
    let descriptor =
        memfd_create(name, MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut file = File::from(descriptor);
    file.write_all(bytes).map_err(failed)?;
    Ok(file)
}

/// The packets in the armour of RFC 9580 §6: all its blocks, without the headers and the check sums, which prove nothing.
fn without_armour(text: &str) -> Option<Vec<u8>> {
    let mut keys = Vec::new();
    for block in text.split(ARMOUR).skip(1) {
        let block = block.split(ARMOUR_END).next()?.replace('\r', "");
        let (_, body) = block.split_once("\n\n")?;
        let digits: String = body
            .lines()
            .take_while(|line| !line.starts_with('='))
            .map(str::trim)
            .collect();
        keys.extend(STANDARD.decode(digits).ok()?);
    }
    (!keys.is_empty()).then_some(keys)
}

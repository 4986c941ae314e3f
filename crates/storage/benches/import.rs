//! Speed and memory of an import, beside what a user would type instead:
//! `curl URL | tee >(sha1sum) >(sha512sum) | zstd -d > file`.
//!
//! The sums of that line are of the compressed file, ours of what is inside, which is three times as much; ours are compared with
//! what was stated. The second row is an entry that states all four sums, of which the budget says nothing, since that line computes
//! two: it stands beside what computes the same, `curl URL | zstd -d | tee >(md5sum) >(sha1sum) >(sha256sum) >(sha512sum) > file`.
//!
//! `cargo bench -p storage --bench import [-- MIB]`; wants curl, zstd, sha1sum, sha512sum and bash.
#![allow(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use storage::digest::{Digest, Expected};
use storage::import::{Fetcher, ImageStore, Limits, Options, Progress, Reach, Source};

const ROUNDS: usize = 3;

fn main() {
    let mib: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(512);
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("image.zst");
    let all = pack_image(mib, &packed);
    let same = Expected {
        md5: None,
        sha256: None,
        ..all
    };
    let url = serve(&packed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let [mut ours, mut ours_all, mut theirs, mut theirs_all] = [Duration::MAX; 4];
    let before = memory_kib("VmHWM");
    for round in 0..ROUNDS {
        let target = dir.path().join(format!("store{round}"));
        let begun = Instant::now();
        runtime.block_on(import(&url, &target, same.clone()));
        ours = ours.min(begun.elapsed());
        std::fs::remove_dir_all(&target).unwrap();
        let begun = Instant::now();
        runtime.block_on(import(&url, &target, all.clone()));
        ours_all = ours_all.min(begun.elapsed());
        std::fs::remove_dir_all(&target).unwrap();
        let target = dir.path().join("file");
        let begun = Instant::now();
        by_hand(&format!(
            "curl -sf {url} | tee >(sha1sum >/dev/null) >(sha512sum >/dev/null) | zstd -dq > {}",
            target.display()
        ));
        theirs = theirs.min(begun.elapsed());
        std::fs::remove_file(&target).unwrap();
        let begun = Instant::now();
        by_hand(&format!(
            "curl -sf {url} | zstd -dq | tee >(md5sum >/dev/null) >(sha1sum >/dev/null) >(sha256sum >/dev/null) >(sha512sum >/dev/null) > {}",
            target.display()
        ));
        theirs_all = theirs_all.min(begun.elapsed());
        std::fs::remove_file(&target).unwrap();
    }
    let rate = |time: Duration| mib as f64 / time.as_secs_f64();
    println!("image {mib} MiB, best of {ROUNDS}");
    println!(
        "import           {:8.1} MiB/s (flushed; SHA-1, SHA-512)",
        rate(ours)
    );
    println!(
        "all four sums    {:8.1} MiB/s (flushed; {:.2} x those two of the file, {:.2} x the same four)",
        rate(ours_all),
        rate(ours_all) / rate(theirs),
        rate(ours_all) / rate(theirs_all)
    );
    println!("curl|tee|zstd    {:8.1} MiB/s (not flushed)", rate(theirs));
    println!(
        "curl|zstd|tee    {:8.1} MiB/s (not flushed; all four sums)",
        rate(theirs_all)
    );
    println!(
        "ratio            {:8.2} (budget: at least 0.8)",
        rate(ours) / rate(theirs)
    );
    println!(
        "memory above the start {} MiB (budget: at most 64)",
        (memory_kib("VmHWM") - before) / 1024
    );
}

async fn import(url: &str, dir: &Path, expected: Expected) {
    let reach = Reach {
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        ..Reach::default()
    };
    let store = ImageStore::open(dir, Options::default()).unwrap();
    let source = Source::Url {
        url: url.to_owned(),
        fetcher: Fetcher::new(reqwest::Client::builder(), reach).unwrap(),
    };
    let (progress, _) = tokio::sync::watch::channel(Progress::default());
    store
        .import(source, expected, Limits::default(), &progress)
        .await
        .unwrap();
}

fn by_hand(line: &str) {
    let line = format!("set -o pipefail; {line}; wait");
    assert!(
        Command::new("bash")
            .args(["-c", &line])
            .status()
            .unwrap()
            .success()
    );
}

/// Text-like data that compresses to about a third, as an operating system's disk does; and its checksums.
fn pack_image(mib: usize, file: &Path) -> Expected {
    let (mut md5, mut sha1, mut sha256, mut sha512) =
        (Md5::new(), Sha1::new(), Sha256::new(), Sha512::new());
    let mut encoder = zstd::Encoder::new(std::fs::File::create(file).unwrap(), 3).unwrap();
    let mut state = 88_172_645_463_325_252_u64;
    let mut block = vec![0_u8; 1 << 20];
    for _ in 0..mib {
        for piece in block.chunks_mut(24) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let length = piece.len().min(8);
            piece.fill(b' ');
            piece[..length].copy_from_slice(&state.to_le_bytes()[..length]);
        }
        md5.update(&block);
        sha1.update(&block);
        sha256.update(&block);
        sha512.update(&block);
        encoder.write_all(&block).unwrap();
    }
    encoder.finish().unwrap();
    Expected {
        md5: Some(Digest::from_bytes(md5.finalize().into())),
        sha1: Some(Digest::from_bytes(sha1.finalize().into())),
        sha256: Some(Digest::from_bytes(sha256.finalize().into())),
        sha512: Some(Digest::from_bytes(sha512.finalize().into())),
        ..Expected::default()
    }
}

/// Serves a file to whoever asks, until the process ends.
fn serve(file: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image.zst", listener.local_addr().unwrap());
    let file = file.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let mut file = std::fs::File::open(&file).unwrap();
            let length = file.metadata().unwrap().len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
            std::io::copy(&mut file, &mut stream).unwrap();
        }
    });
    url
}

fn memory_kib(what: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! What it costs to believe an entry: size, XML, structure, signature, endorser.
//!
//! `cargo bench -p marketplace --bench verification`. The anchor is `xmlsec1 --verify` of the same document, as the
//! whole process that a script would run.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use marketplace::{Entry, Error, Metadata};

const SIGNED: &str = include_str!("../tests/data/signed.xml");
const REPEATS: usize = 2_000;

/// The middle and the 99th percentile.
fn told(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    format!("{:.1} µs median, {:.1} µs p99", at(50), at(99))
}

fn measured(repeats: usize, work: impl Fn()) -> String {
    let times = (0..repeats).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    told(times.collect())
}

fn main() {
    println!(
        "read without verifying ({} bytes): {}",
        SIGNED.len(),
        measured(REPEATS, || {
            black_box(Metadata::parse(SIGNED.as_bytes()).expect("the reference entry"));
        })
    );
    println!(
        "verified, RSA 2048: {}",
        measured(REPEATS, || {
            black_box(Entry::verify(SIGNED.as_bytes()).expect("the reference entry"));
        })
    );
    // The longest document that is read, nearly: a megabyte of elements that nobody knows.
    let filler: String = (0..9_000)
        .map(|number| format!("    <dcterms:note xml:lang=\"en\">{number:0>48}</dcterms:note>\n"))
        .collect();
    let end = "  </rdf:Description>";
    let long = SIGNED.replacen(end, &format!("{filler}{end}"), 1);
    println!(
        "refused, {} bytes that were not signed: {}",
        long.len(),
        measured(20, || {
            let error = Entry::verify(long.as_bytes()).expect_err("it was changed");
            assert!(matches!(error, Error::SignatureMismatch { .. }), "{error}");
        })
    );

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("signed.xml");
    std::fs::write(&file, SIGNED).expect("a file");
    let xmlsec = |options: &[&str]| {
        Command::new("xmlsec1")
            .args(["--verify", "--insecure"])
            .args(options)
            .arg(&file)
            .output()
    };
    match xmlsec(&[]) {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let verdict = said.lines().next().unwrap_or_default().to_owned();
            println!(
                "xmlsec1 as a program ({verdict}): {}",
                measured(20, || {
                    black_box(xmlsec(&[]).expect("it ran before"));
                })
            );
        }
        Err(error) => println!("skipped: cannot run xmlsec1: {error}"),
    }
}

//! What it costs to believe an entry: size, XML, structure, signature, endorser.
//!
//! `cargo bench -p marketplace --bench verification`. The anchor is `xmlsec1 --verify` of the same document, as the
//! whole process that a script would run.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use marketplace::{Entry, Metadata};

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
        .map(|number| {
            format!("    <x:note xmlns:x=\"http://example.org/\">{number:0>48}</x:note>\n")
        })
        .collect();
    let long = SIGNED.replacen(
        "  </rdf:Description>",
        &format!("{filler}  </rdf:Description>"),
        1,
    );
    println!(
        "refused, {} bytes of which the signature is not: {}",
        long.len(),
        measured(20, || {
            black_box(Entry::verify(long.as_bytes()).expect_err("it was changed"));
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

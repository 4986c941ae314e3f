//! How long a page takes out of 100,000 entries, whatever is asked.
//!
//! `cargo bench -p marketplace --bench searches`. The budget is 20 ms a page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use marketplace::catalogue::{
    Catalogue, Column, Common, Details, Order, Query, Record, Status, Sums,
};
use marketplace::digest::Digest;
use marketplace::{ImageIdentifier, UtcTime};

const ENTRIES: u32 = 100_000;
/// Linux counts the time of threads every few milliseconds only.
const REPEATS: u32 = 40;
const BUDGET: Duration = Duration::from_millis(20);

/// Numbers that look random and are the same every time.
fn mixed(number: u32) -> u32 {
    let x = number.wrapping_mul(0x9E37_79B9);
    (x ^ (x >> 15)).wrapping_mul(0x85EB_CA6B)
}

fn record(number: u32) -> Record {
    let some = |from: &[&str], salt: u32| {
        let at = usize::try_from(mixed(number ^ salt)).unwrap_or(0) % from.len();
        Some(from[at].to_owned())
    };
    let mut sha1 = [0; 20];
    for (place, byte) in (0_u32..).zip(sha1.iter_mut()) {
        // Every tenth is another version of an image there is already.
        *byte = mixed((number - number % 10 / 9).wrapping_add(place << 20)).to_be_bytes()[0];
    }
    let time = |days: u32| {
        UtcTime::from_unix_seconds(1_700_000_000 + i64::from(days) * 86_400 + i64::from(number))
            .expect("a time")
    };
    let created = time(mixed(number) % 700);
    let os = some(
        &["ubuntu", "debian", "centos", "fedora", "opensuse", "none"],
        1,
    );
    let title = format!("{} image {number}", os.clone().unwrap_or_default());
    Record {
        identifier: ImageIdentifier::from_sha1(&Digest::from_bytes(sha1)),
        email: format!("endorser.{}@example.org", mixed(number) % 2_000).into(),
        created,
        subject: "CN=Somebody,O=Example".to_owned(),
        issuer: "CN=Authority,O=Example".to_owned(),
        is_email_certified: true,
        uses_sha1: false,
        received: created,
        bytes: u64::from(number) << 10,
        valid: Some(time(300 + mixed(number ^ 9) % 900)),
        deprecated: mixed(number ^ 8)
            .is_multiple_of(20)
            .then(|| "too old".to_owned()),
        os_version: some(&["22.04", "24.04", "12", "13", "9", "40"], 2),
        os_arch: some(&["x86_64", "aarch64", "i486"], 3),
        kind: some(&["machine", "disk"], 4),
        version: Some("1.0".to_owned()),
        format: some(&["raw", "qcow2"], 5),
        tag: Some("base".to_owned()),
        description: Some(format!(
            "A {title} for physics with compilers, editors and everything else that people asked for, built on day {} by the team.",
            mixed(number) % 700
        )),
        locations: vec![format!(
            "https://images.example.org/pool/{number}/{title}.img.gz"
        )],
        os,
        title: Some(title),
        details: Some(Details {
            common: Arc::new(Common {
                image_type: Some("base".to_owned()),
                compression: Some("gz".to_owned()),
                creator: Some(format!("Author {}", number % 2_000)),
                publisher: Some("Example Org".to_owned()),
                hypervisor: Some("kvm".to_owned()),
                disks_buses: vec!["virtio".to_owned()],
                inbound_ports: vec![22],
                ..Common::default()
            }),
            made: Some(created.to_string().into()),
            checksums: Some(Box::new(Sums {
                md5: Some(Digest::from_bytes([1; 16])),
                sha256: Some(Digest::from_bytes([2; 32])),
                sha512: Some(Digest::from_bytes([3; 64])),
                others: Vec::new(),
            })),
            others: None,
        }),
    }
}

/// Memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// Time that this thread had the processor: what others on the machine take doesn't count.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.expect("Linux counts the time of threads"))
}

fn main() {
    let before = resident_kib();
    let start = Instant::now();
    let mut catalogue = Catalogue::new();
    for number in 0..ENTRIES {
        catalogue.add(record(number));
    }
    println!(
        "{ENTRIES} entries taken in in {:.2?}, {} bytes of memory each",
        start.elapsed(),
        (resident_kib() - before) * 1024 / u64::from(ENTRIES)
    );
    let now = UtcTime::from_unix_seconds(1_750_000_000).expect("a time");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let by = |column, descending| Order { column, descending };
    let all = Query {
        status: Status::Any,
        ..Query::default()
    };
    let asked: Vec<(&str, Query, Order, usize)> = vec![
        (
            "newest valid, first page",
            Query::default(),
            Order::default(),
            0,
        ),
        ("all, last page", all.clone(), Order::default(), 90_000),
        (
            "all by description, middle",
            all.clone(),
            by(Column::Description, false),
            45_000,
        ),
        (
            "all by title, last page",
            all.clone(),
            by(Column::Title, true),
            90_000,
        ),
        (
            "all by endorser",
            all.clone(),
            by(Column::Email, false),
            1_000,
        ),
        (
            "a word that all have",
            Query {
                words: words("physics"),
                ..all.clone()
            },
            Order::default(),
            0,
        ),
        (
            "three common words",
            Query {
                words: words("image team example"),
                ..all.clone()
            },
            by(Column::Title, false),
            40_000,
        ),
        (
            "eight letters",
            Query {
                words: words("a c d e g i l m"),
                ..all.clone()
            },
            by(Column::Location, true),
            50_000,
        ),
        (
            "six short words",
            Query {
                words: words("12 x86_64 a 2 image example"),
                ..all.clone()
            },
            by(Column::Title, true),
            0,
        ),
        (
            "eight digits and marks",
            Query {
                words: words("0 2 : - / _ . 1"),
                ..all.clone()
            },
            by(Column::Title, true),
            0,
        ),
        (
            "eight pairs of digits and marks",
            Query {
                words: words("-0 -1 :0 :1 0z /1 t0 0:"),
                ..all.clone()
            },
            by(Column::Title, true),
            0,
        ),
        (
            "eight parts of what differs",
            Query {
                words: words("202 -0 t0 //im .org/pool l/ g/p :/"),
                ..all.clone()
            },
            by(Column::Location, true),
            0,
        ),
        (
            "eight parts that all have",
            Query {
                words: words("202 //im /pool s.ex //images. g/po tps:// rg/"),
                ..all.clone()
            },
            by(Column::Location, true),
            50_000,
        ),
        (
            "columns and choices",
            Query {
                within: [
                    (Column::Description, "physics"),
                    (Column::Description, "team."),
                    (Column::Description, "editors and"),
                    (Column::Location, "images.example"),
                    (Column::Location, ".img.gz"),
                    (Column::Created, "202"),
                    (Column::Title, "image"),
                    (Column::Email, "endorser"),
                    (Column::Email, "@example"),
                    (Column::Email, ".org"),
                    (Column::Os, "n"),
                    (Column::Arch, "6"),
                    (Column::Kind, "i"),
                ]
                .map(|(column, text)| (column, text.to_owned()))
                .to_vec(),
                words: words("pool"),
                ..all.clone()
            },
            by(Column::Description, true),
            10_000,
        ),
        (
            "descriptions that are exactly this",
            Query {
                equal: vec![(Column::Description, "x".into()); 8],
                ..all.clone()
            },
            by(Column::Description, true),
            0,
        ),
        (
            "a word that none has",
            Query {
                words: words("unheard-of"),
                ..all.clone()
            },
            Order::default(),
            0,
        ),
        (
            "one letter",
            Query {
                words: words("e"),
                ..all.clone()
            },
            Order::default(),
            0,
        ),
        (
            "a number",
            Query {
                words: words("/77777/"),
                ..all.clone()
            },
            Order::default(),
            0,
        ),
        (
            "operating system and architecture",
            Query {
                equal: vec![
                    (Column::Os, "debian".into()),
                    (Column::Arch, "x86_64".into()),
                ],
                ..Query::default()
            },
            Order::default(),
            0,
        ),
        (
            "within descriptions",
            Query {
                within: vec![(Column::Description, "day 77 ".into())],
                ..all.clone()
            },
            Order::default(),
            0,
        ),
        (
            "an endorser",
            Query {
                email: Some("endorser.7@example.org".into()),
                ..all
            },
            Order::default(),
            0,
        ),
        (
            "expired",
            Query {
                status: Status::Expired,
                ..Query::default()
            },
            by(Column::Location, false),
            0,
        ),
    ];
    let mut slowest = Duration::ZERO;
    for (name, query, order, offset) in asked {
        let start = processor();
        for _ in 0..REPEATS {
            let found = catalogue.search(&query, order, offset, 100, now);
            let _ = std::hint::black_box(found);
        }
        let took = processor().saturating_sub(start) / REPEATS;
        let found = catalogue.search(&query, order, offset, 100, now);
        let matching = found.expect("what is asked is accepted").matching;
        slowest = slowest.max(took);
        println!("{name:<36} {matching:>7} found  {took:>9.2?}");
    }
    println!("slowest {slowest:.2?}, budget {BUDGET:?}");
    assert!(slowest <= BUDGET, "slower than the budget");
}

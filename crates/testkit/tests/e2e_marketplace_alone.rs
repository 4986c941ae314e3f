//! A Marketplace that is alone: described, signed, uploaded and taken back by the commands, confirmed by a letter through a real
//! mail server, followed by a second one, backed up and restored, and killed wherever that hurts.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{collections::BTreeMap, fs, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use testkit::{MailSink, Need, SentLetter, TestEndorser, TestMarketplace, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

fn mail(port: u16) -> String {
    format!(
        "[mail]\nserver = \"127.0.0.1\"\nport = {port}\nsecurity = \"none\"\nfrom = \"market@example.org\"\n"
    )
}

/// The part of a link in a letter that its server's address doesn't say.
fn link(market: &TestMarketplace, letter: &SentLetter, act: &str) -> String {
    let end = format!("/{act}/");
    let link = letter
        .text
        .split_whitespace()
        .find(|word| word.ends_with(&end));
    let link = link.unwrap_or_else(|| panic!("{letter:?}"));
    link.strip_prefix(market.url())
        .unwrap_or_else(|| panic!("{link}"))
        .to_owned()
}

fn press(market: &TestMarketplace, path: &str) -> Result<u16, String> {
    let reply = market.api().send("POST", path, &[], Some(Bytes::new()));
    reply.map(|reply| reply.status)
}

/// `IDENTIFIER/EMAIL/CREATED` at the end of an address that a command printed.
fn path(told: &str) -> String {
    let mut lines = told.lines();
    let path = lines.find_map(|line| Some(line.split_once("/metadata/")?.1.to_owned()));
    path.unwrap_or_else(|| panic!("{told}"))
}

fn identifiers(market: &TestMarketplace, query: &str) -> Vec<String> {
    let reply = market.api().send(
        "GET",
        &format!("/metadata?limit=1000&{query}"),
        &[("Accept", "application/json")],
        None,
    );
    let list = reply.unwrap().expect(200);
    let entries = list["entries"].as_array().unwrap().iter();
    let mut paths: Vec<_> = entries
        .map(|entry| path(&format!("/{}", entry["path"].as_str().unwrap())))
        .collect();
    paths.sort();
    paths
}

/// The documents of the Marketplace's database, by collection: what is there, whatever the daemon says.
fn documents(market: &TestMarketplace) -> BTreeMap<String, Vec<Value>> {
    let file = market.folder().join("backup.json");
    let _ = fs::remove_file(&file);
    let config = market.config().to_str().unwrap();
    market.stratusd(&[
        "store",
        "backup",
        "--config",
        config,
        file.to_str().unwrap(),
    ]);
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(&file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(key) = line["key"].as_str() {
            let (collection, _) = key.split_once('/').unwrap();
            all.entry(collection.to_owned()).or_default().push(line);
        }
    }
    all
}

fn count(documents: &BTreeMap<String, Vec<Value>>, collection: &str) -> usize {
    documents.get(collection).map_or(0, Vec::len)
}

#[test]
fn an_entry_is_published_found_deprecated_and_followed_whatever_is_killed() {
    if skip_unless(&[Need::Program("openssl")]) {
        return;
    }
    let Some(sink) = MailSink::start() else {
        return;
    };
    // Nobody takes letters yet.
    let port = sink.port();
    drop(sink);
    let market = TestMarketplace::start("", &mail(port));
    let alice = TestEndorser::new("Alice", "alice@example.org");
    let file = alice.describe(&market, "alpine", b"an image of Alice's");
    let name = file.file_name().unwrap().to_str().unwrap();
    let told = market.run("stratus-validate-metadata", alice.folder(), &[name]);
    assert!(told.contains(&format!("Valid: {name}")), "{told}");
    let uploaded = market.command("stratus-upload-metadata", alice.folder(), &[name]);
    assert!(uploaded.status.success(), "{uploaded:?}");
    // Messages share standard output with the result, as they always did.
    let hint = String::from_utf8(uploaded.stdout).unwrap();
    let path = path(&hint);
    assert!(
        hint.contains("follow the link in the mail to alice@example.org"),
        "{hint}"
    );

    // The letter outlives the daemon, wherever it is by then, and reaches a server that comes late.
    market.kill();
    market.start_again();
    assert_eq!(
        market.api().get(&format!("/metadata/{path}")).status,
        404,
        "not confirmed"
    );
    let sink = MailSink::start_on(port).unwrap();
    let letter = sink.letter(0);
    assert_eq!(letter.to, [alice.email()]);
    assert_eq!(letter.subject, "StratusLab Marketplace Message");
    let confirm = link(&market, &letter, "confirm");

    // Looking changes nothing; pressing the button does, once.
    // It has no hosts, and is well all the same.
    assert_eq!(market.api().get("/health").status, 200);
    assert_eq!(market.api().get(&confirm).status, 200);
    market.kill();
    market.start_again();
    assert_eq!(market.api().get(&confirm).status, 200);
    assert_eq!(market.api().get(&format!("/metadata/{path}")).status, 404);
    assert_eq!(press(&market, &confirm), Ok(201));
    market.kill();
    market.start_again();
    assert_eq!(press(&market, &confirm), Ok(404), "a link works once");
    let document = market.api().get(&format!("/metadata/{path}"));
    assert_eq!(document.bytes, fs::read(&file).unwrap(), "byte for byte");
    assert_eq!(
        identifiers(&market, "search=alpine"),
        std::slice::from_ref(&path)
    );
    let search = |options: &[&str]| {
        let direct = ["image", "search", "--marketplace", market.url()];
        market.run("stratus", alice.folder(), &[&direct[..], options].concat())
    };
    let (identifier, _) = path.split_once('/').unwrap();
    let found = search(&["--os", "ALP", "alice's"]);
    assert!(!found.contains(identifier), "no such word: {found}");
    let found = search(&["--os", "ALP", "--endorser", "alice@", "tests"]);
    assert!(
        found.contains(identifier) && found.contains("alpine 1"),
        "{found}"
    );
    let again = market.run("stratus-upload-metadata", alice.folder(), &[name]);
    assert!(again.contains(&path), "the same again is no error: {again}");

    // Another one follows, starting before there is everything to see.
    let follow = format!(
        "confirm = false\nfollow = [\"{}\"]\nfollow_ca = \"{}\"",
        market.url(),
        market.ca().display()
    );
    let follower = TestMarketplace::start(&follow, "");
    wait_until("the entry at the follower", LIMIT, || {
        (identifiers(&follower, "") == std::slice::from_ref(&path)).then_some(())
    });
    assert_eq!(
        follower.api().get(&format!("/metadata/{path}")).bytes,
        document.bytes
    );

    // Deprecated, with a letter as well; the follower hears of it after a start at the latest.
    let reason = ["--email", alice.email(), "--reason", "a hole", identifier];
    // Endorsements are told apart by the second.
    wait_until("another second", LIMIT, || {
        let now = std::time::SystemTime::now()
            .duration_since(file.metadata().unwrap().modified().unwrap());
        (now.unwrap() > Duration::from_millis(1100)).then_some(())
    });
    let told = market.run(
        "stratus-deprecate-metadata",
        alice.folder(),
        &[&alice.signing()[..], &reason].concat(),
    );
    let letter = sink.letter(1);
    assert!(
        letter.text.contains("metadata deprecating the image"),
        "{letter:?}"
    );
    assert_eq!(identifiers(&market, "").len(), 1, "not confirmed");
    assert_eq!(press(&market, &link(&market, &letter, "confirm")), Ok(201));
    let deprecated = self::path(&told);
    assert_eq!(identifiers(&market, ""), [] as [&str; 0]);
    assert_eq!(
        identifiers(&market, "status=deprecated"),
        std::slice::from_ref(&deprecated)
    );
    assert!(!search(&["alpine"]).contains(identifier));
    let found = search(&["--all", "alpine"]);
    assert!(found.contains("deprecated"), "{found}");
    follower.kill();
    follower.start_again();
    wait_until("the deprecation at the follower", LIMIT, || {
        (identifiers(&follower, "status=deprecated") == std::slice::from_ref(&deprecated))
            .then_some(())
    });
    assert_eq!(identifiers(&follower, ""), [] as [&str; 0]);
    assert!(sink.letters().len() == 2, "{:?}", sink.letters());

    // One that waits, as it is in the backup.
    let file = alice.describe(&market, "debian", b"another image of Alice's");
    let name = file.file_name().unwrap().to_str().unwrap();
    let told = market.run("stratus-upload-metadata", alice.folder(), &[name]);
    let waiting = self::path(&told);
    let letter = sink.letter(2);
    let (confirm, abuse) = (
        link(&market, &letter, "confirm"),
        link(&market, &letter, "abuse"),
    );
    market.stop();
    // Its own end would not be that of the site that follows it, nor a start of that meanwhile.
    follower.kill();
    follower.start_again();
    assert_eq!(
        identifiers(&follower, "status=deprecated"),
        std::slice::from_ref(&deprecated)
    );
    assert_eq!(
        follower.api().get(&format!("/metadata/{path}")).bytes,
        document.bytes
    );
    let before = documents(&market);
    assert_eq!(count(&before, "MarketplaceEntry"), 2);
    assert_eq!(count(&before, "MarketplaceDocument"), 2);
    assert_eq!(count(&before, "MarketplaceUpload"), 1);
    let text = fs::read_to_string(market.folder().join("backup.json")).unwrap();
    let secret = confirm.split('/').rev().nth(2).unwrap();
    assert!(!text.contains(secret), "who has a backup can't confirm");

    // Out as StratusLab's files, and into another one, twice: nobody who is killed in between minds.
    let (tree, config) = (
        market.folder().join("tree"),
        market.config().to_str().unwrap(),
    );
    let (folder, other) = (tree.to_str().unwrap(), TestMarketplace::start("", ""));
    market.stratusd(&["marketplace", "export", "--config", config, folder]);
    let exported = fs::read(tree.join("metadata").join(format!("{path}.xml")));
    assert_eq!(exported.unwrap(), document.bytes);
    other.stop();
    let config = other.config().to_str().unwrap();
    for _ in 0..2 {
        other.stratusd(&["marketplace", "import", "--config", config, folder]);
    }
    other.start_again();
    assert_eq!(
        identifiers(&other, "status=deprecated"),
        std::slice::from_ref(&deprecated)
    );
    let imported = other.api().get(&format!("/metadata/{path}"));
    assert_eq!(imported.bytes, document.bytes);
    // Without a mail server nobody can be asked, and who uploads is told so.
    let silent = other.command("stratus-upload-metadata", alice.folder(), &[name]);
    let told = String::from_utf8([silent.stdout, silent.stderr].concat()).unwrap();
    assert!(
        !silent.status.success() && told.contains("this Marketplace has no mail server to ask"),
        "{told}"
    );

    // Lost, and restored from the backup: the rest goes on where it was.
    fs::remove_dir_all(market.database()).unwrap();
    let config = market.config().to_str().unwrap();
    let backup = market.folder().join("backup.json");
    let kept = market.folder().join("kept.json");
    fs::rename(&backup, &kept).unwrap();
    market.stratusd(&[
        "store",
        "restore",
        "--config",
        config,
        kept.to_str().unwrap(),
    ]);
    assert_eq!(documents(&market), before);
    market.start_again();
    assert_eq!(
        identifiers(&market, "status=deprecated"),
        std::slice::from_ref(&deprecated)
    );
    assert_eq!(
        market.api().get(&format!("/metadata/{path}")).bytes,
        document.bytes
    );
    // Not hers after all: reported, and for ever out of reach.
    assert_eq!(press(&market, &abuse), Ok(200));
    assert_eq!(press(&market, &confirm), Ok(409));
    assert_eq!(
        market.api().get(&format!("/metadata/{waiting}")).status,
        404
    );
}

#[test]
fn nothing_is_lost_or_left_over_when_it_is_killed_at_any_moment() {
    if skip_unless(&[Need::Program("openssl")]) {
        return;
    }
    let Some(sink) = MailSink::start() else {
        return;
    };
    let builder = TestEndorser::new("Builder", "builder@example.org");
    let alice = TestEndorser::new("Alice", "alice@example.org");
    let trusted = builder.folder().join("trusted");
    fs::write(&trusted, "CN=Builder\n").unwrap();
    let lines = format!(
        "trusted_endorsers = \"{}\"\ntrusted_authorities = \"{}\"\nwaiting_per_email = 100",
        trusted.display(),
        builder.authority().display()
    );
    let market = TestMarketplace::start(&lines, &mail(sink.port()));

    // Uploads of a trusted endorser, cut off after so many thousandths of a second.
    let mut published = Vec::new();
    for (number, delay) in [0_u64, 1, 3, 6, 10, 15, 25, 40].into_iter().enumerate() {
        let os = format!("os{number}");
        let file = builder.describe(&market, &os, os.as_bytes());
        let body = Bytes::from(fs::read(&file).unwrap());
        killed_meanwhile(&market, delay, "/metadata", &body);
        let name = file.file_name().unwrap().to_str().unwrap();
        let told = market.run("stratus-upload-metadata", builder.folder(), &[name]);
        published.push((path(&told), body));
    }
    has_exactly(&market, &published);

    // Confirmations of one who is not, likewise.
    for (number, delay) in [0_u64, 1, 3, 6, 10, 25].into_iter().enumerate() {
        let os = format!("hers{number}");
        let file = alice.describe(&market, &os, os.as_bytes());
        let name = file.file_name().unwrap().to_str().unwrap();
        let told = market.run("stratus-upload-metadata", alice.folder(), &[name]);
        let confirm = link(&market, &sink.letter(number), "confirm");
        killed_meanwhile(&market, delay, &confirm, &Bytes::new());
        let again = press(&market, &confirm).unwrap();
        assert!(again == 201 || again == 404, "{again}");
        published.push((path(&told), Bytes::from(fs::read(&file).unwrap())));
        has_exactly(&market, &published);
    }
    market.stop();
    let left = documents(&market);
    for (collection, expected) in [
        ("MarketplaceEntry", published.len()),
        ("MarketplaceDocument", published.len()),
        ("MarketplaceNewest", published.len()),
        ("MarketplaceUpload", 0),
    ] {
        assert_eq!(count(&left, collection), expected, "{collection}: {left:?}");
    }
    assert_eq!(
        sink.letters().len(),
        6,
        "each letter once: {:?}",
        sink.letters()
    );
    market.start_again();

    // A follower, killed again and again while it takes what there is.
    let follow = format!(
        "follow = [\"{}\"]\nfollow_ca = \"{}\"\nread_only = true",
        market.url(),
        market.ca().display()
    );
    let follower = TestMarketplace::start(&follow, "");
    for wanted in [1, 4, 9] {
        wait_until("some entries at the follower", LIMIT, || {
            (identifiers(&follower, "").len() >= wanted).then_some(())
        });
        follower.kill();
        follower.start_again();
    }
    wait_until("all entries at the follower", LIMIT, || {
        (identifiers(&follower, "").len() == published.len()).then_some(())
    });
    has_exactly(&follower, &published);
    let refused = follower.command(
        "stratus-upload-metadata",
        builder.folder(),
        &["os0-1-x86_64-base-1.0.xml"],
    );
    let told = String::from_utf8([refused.stdout, refused.stderr].concat()).unwrap();
    assert!(
        !refused.status.success() && told.contains("read-only repository"),
        "{told}"
    );
    follower.stop();
    let left = documents(&follower);
    assert_eq!(count(&left, "MarketplaceEntry"), published.len());
    assert_eq!(count(&left, "MarketplaceDocument"), published.len());
}

/// Sends, and kills the daemon `delay` milliseconds later, wherever it is by then; it is back afterwards.
fn killed_meanwhile(market: &TestMarketplace, delay: u64, path: &str, body: &Bytes) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let headers = [("Content-Type", "application/xml")];
            // Whatever becomes of it.
            drop(
                market
                    .api()
                    .send("POST", path, &headers, Some(body.clone())),
            );
        });
        std::thread::sleep(Duration::from_millis(delay));
        market.kill();
    });
    market.start_again();
}

fn has_exactly(market: &TestMarketplace, published: &[(String, Bytes)]) {
    let mut expected: Vec<_> = published.iter().map(|(path, _)| path.clone()).collect();
    expected.sort();
    assert_eq!(identifiers(market, ""), expected);
    for (path, document) in published {
        let there = market.api().get(&format!("/metadata/{path}"));
        assert_eq!(there.bytes, document, "{path}");
    }
}

//! The first promise: `make cloud` makes a cloud, `make cloud-down` takes it down, for root and for a user without privileges.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::Value;
use testkit::{Checkout, Need, skip_unless, wait_until};

const TOOLS: [Need; 5] = [
    Need::Program("make"),
    Need::Program("jq"),
    Need::Program("curl"),
    Need::Program("flock"),
    Need::Program("setpriv"),
];

/// The number of the cloud's first machine, as `make cloud` remembers it.
fn machine(checkout: &Checkout) -> String {
    fs::read_to_string(checkout.state().join("cloud/machine"))
        .unwrap()
        .trim()
        .to_owned()
}

fn daemon(checkout: &Checkout) -> String {
    fs::read_to_string(checkout.state().join("stratusd.pid"))
        .unwrap()
        .trim()
        .to_owned()
}

/// What `stratus describe-instance` shows after `. ./cloud.env`.
fn machines(checkout: &Checkout) -> Vec<Value> {
    let text = checkout.shell(". ./cloud.env && stratus describe-instance --format json");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A configuration that was changed counts from the next `make cloud` on; a wrong one ends nothing.
fn a_changed_configuration_is_read(checkout: &Checkout) {
    let path = checkout.state().join("stratusd.toml");
    let good = fs::read_to_string(&path).unwrap();
    let (number, before) = (machine(checkout), daemon(checkout));
    fs::write(&path, format!("nonsense = 1\n{good}")).unwrap();
    let refused = checkout.run("make cloud");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("was changed and is wrong"),
        "{said}"
    );
    assert_eq!(daemon(checkout), before, "{said}");
    fs::write(&path, format!("# Changed.\n{good}")).unwrap();
    let said = checkout.shell("make cloud");
    assert_ne!(daemon(checkout), before, "{said}");
    assert_eq!(machine(checkout), number, "{said}");
}

/// Made, used by `cloud.env`, made again without a change.
fn is_made_and_used(checkout: &Checkout) {
    let said = checkout.shell("make cloud");
    let number = machine(checkout);
    assert!(said.contains("Your cloud is up"), "{said}");
    let mode = |name: &str| {
        fs::metadata(checkout.folder().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    for secret in [
        "cloud.env",
        ".stratus/keys/id_ed25519",
        ".stratus/secrets/user-password",
    ] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    let inside = checkout.shell(&format!(
        ". ./cloud.env && stratus connect-instance {number} -- echo inside"
    ));
    assert_eq!(inside.trim(), "inside");
    // What it sets is the Marketplace of this cloud, where a description goes that names no other.
    let market = checkout.shell(
        ". ./cloud.env && echo \"$STRATUSLAB_MARKETPLACE_ENDPOINT\" && \
         curl --silent --show-error --fail --cacert \"$STRATUS_CA\" \"$STRATUSLAB_MARKETPLACE_ENDPOINT/metadata?media=json\"",
    );
    let (endpoint, found) = market.split_once('\n').unwrap();
    assert!(
        endpoint.starts_with("https://") && endpoint.ends_with("/marketplace"),
        "{market}"
    );
    let found: Value =
        serde_json::from_str(found).unwrap_or_else(|error| panic!("{error}: {market}"));
    assert_eq!(found["aaData"], serde_json::json!([]), "{market}");
    let looked_in = checkout.shell(". ./cloud.env && stratus image catalogue --format json");
    assert!(
        looked_in.contains("\"own\"") && looked_in.contains("marketplace"),
        "{looked_in}"
    );

    let before = daemon(checkout);
    let said = checkout.shell("make cloud");
    assert_eq!(
        (machine(checkout), daemon(checkout)),
        (number, before),
        "{said}"
    );
    assert_eq!(machines(checkout).len(), 1);
}

#[test]
fn root_has_a_cloud_by_one_command_and_is_rid_of_it_by_another() {
    if skip_unless(&[]) || skip_unless(&TOOLS) {
        return;
    }
    // Without `listen`: its default counts.
    let checkout = Checkout::of_root("[accounts]\npassword_memory_kib = 8\n");
    // What the user has for other clouds is of no matter here.
    let settings = checkout.folder().join("home/.stratuslab");
    fs::create_dir_all(&settings).unwrap();
    fs::write(settings.join("known_clouds"), "127.0.0.1:8443 nonsense\n").unwrap();
    fs::write(settings.join("stratuslab-user.cfg"), "no configuration").unwrap();
    checkout.shell("STRATUSLAB_USER_CONFIG_SECTION=nowhere STRATUSLAB_PDISK_ENDPOINT=https://nowhere.invalid make cloud");
    fs::remove_dir_all(&settings).unwrap();
    is_made_and_used(&checkout);
    a_changed_configuration_is_read(&checkout);

    // After a power cut the machine is the same one.
    let number = machine(&checkout);
    // Until nothing is left: what is killed before the daemon may have been started again by it.
    wait_until("the end of all processes", Duration::from_secs(10), || {
        let inside = checkout.namespace().unwrap().processes();
        let all: Vec<_> = inside.iter().map(ToString::to_string).collect();
        if !all.is_empty() {
            checkout.shell(&format!("kill -KILL {} 2>/dev/null; true", all.join(" ")));
        }
        all.is_empty().then_some(())
    });
    let said = checkout.shell("make cloud");
    assert_eq!(machine(&checkout), number, "{said}");
    assert_eq!(machines(&checkout).len(), 1);

    // A daemon that was started by hand is taken down, too, and its lock is never taken from it.
    checkout.shell(&format!("kill -TERM {}", daemon(&checkout)));
    wait_until("the end of the daemon", Duration::from_secs(30), || {
        checkout
            .run("flock --nonblock .stratus/stratusd.pid true")
            .status
            .success()
            .then_some(())
    });
    checkout.shell("setsid \"$STRATUS_PROGRAMS/stratusd\" serve --config .stratus/../.stratus/stratusd.toml >/dev/null 2>&1 &");
    wait_until("the daemon", Duration::from_secs(30), || {
        checkout.state().join("ready").exists().then_some(())
    });
    let said = checkout.shell("make cloud-down");
    assert!(said.contains("1 removed"), "{said}");
    assert!(
        checkout.state().join("stratusd.pid").exists(),
        "the lock file stays"
    );
    assert_eq!(checkout.left_over(), Vec::<String>::new(), "{said}");

    checkout.shell("make cloud-purge");
    assert!(!checkout.state().exists() && !checkout.folder().join("cloud.env").exists());
    assert!(checkout.shell("make cloud-down").contains("there is none"));
    let said = checkout.shell("make cloud-purge");
    assert!(said.contains("nothing was deleted"), "{said}");
}

#[test]
fn what_is_installed_is_complete() {
    if skip_unless(&TOOLS) {
        return;
    }
    let checkout = Checkout::of_a_user();
    checkout.shell("make install PREFIX=/usr DESTDIR=tree");
    let usr = checkout.folder().join("tree/usr");
    for file in [
        "bin/stratusd",
        "share/man/man1/stratus-run-instance.1",
        "share/bash-completion/completions/stratus",
        "share/bash-completion/completions/stratus-run-instance",
        "share/fish/vendor_completions.d/stratus-run-instance.fish",
        "share/zsh/site-functions/_stratus-run-instance",
        "share/doc/stratus/stratusd.toml.ref",
    ] {
        let length = fs::metadata(usr.join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
            .len();
        assert!(length > 0, "{file}");
    }
    let help = checkout.shell("tree/usr/bin/stratus-run-instance --help");
    assert!(help.starts_with("Usage: stratus-run-instance "), "{help}");
    // What bash offers after a word that has begun.
    let offered = checkout.shell(
        "f=tree/usr/share/bash-completion/completions/stratus-run-instance; . $f; \
         COMP_WORDS=(stratus-run-instance --persist) COMP_CWORD=1; \
         $(complete -p stratus-run-instance | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p') stratus-run-instance --persist stratus-run-instance; echo ${COMPREPLY[@]}",
    );
    assert_eq!(offered.trim(), "--persistent-disk");
}

#[test]
fn a_user_without_privileges_has_a_cloud_by_one_command() {
    if skip_unless(&[Need::Qemu, Need::Ssh]) || skip_unless(&TOOLS) {
        return;
    }
    let checkout = Checkout::of_a_user();
    is_made_and_used(&checkout);
    checkout.shell("make cloud-down");
    assert_eq!(checkout.left_over(), Vec::<String>::new());
    assert!(checkout.state().join("db").exists(), "the data stays");
    checkout.shell("make cloud-purge");
    assert!(!checkout.state().exists() && !checkout.folder().join("cloud.env").exists());
}

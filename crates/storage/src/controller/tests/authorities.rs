//! Endorsers for whom the site's authorities answer, and whom they take back; signatures of the old kind.

use std::path::Path;
use std::process::Command;

use cimi::resources::Image;
use marketplace::draft::endorsed;
use marketplace::policy::Revocation;
use marketplace::signature::Hash;
use marketplace::{Metadata, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::by_name::nothing_is_left;
use super::site::{Site, asking_by, base, described, endorser, now, signed, wanted, whole};
use super::states::{available, failed};
use super::world::World;
use crate::registry::{AuthoritiesSource, PolicySource};

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new([]).expect("parameters");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

/// An authority, and its certificate in PEM.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(parameters, key), pem)
}

fn endorser_of(issuer: &Issuer<'_, KeyPair>, serial: u64, email: &str) -> SigningKey {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = parameters(email);
    let address = email.try_into().expect("an address");
    parameters
        .subject_alt_names
        .push(SanType::Rfc822Name(address));
    parameters.serial_number = Some(SerialNumber::from(serial));
    let certificate = parameters.signed_by(&key, issuer).expect("a certificate");
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    SigningKey::from_pem(&pem, None).expect("a signing key")
}

/// One with an RSA key: of these only there are signatures on SHA-1.
fn endorser_by_rsa(folder: &Path, email: &str) -> Option<SigningKey> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=Old", "-addext"])
        .arg(format!("subjectAltName=email:{email}"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    let Ok(made) = made else {
        eprintln!("skipped: openssl is not here");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    let text = |path: &Path| std::fs::read_to_string(path).expect("PEM");
    let pem = format!("{}{}", text(&key), text(&certificate));
    Some(SigningKey::from_pem(&pem, None).expect("a signing key"))
}

/// The list of an authority of what it has revoked, in PEM.
fn revoked(issuer: &Issuer<'_, KeyPair>, serials: &[u64], number: u8) -> String {
    let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2021, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2022, 1, number),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(u64::from(number)),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).expect("a list").pem().expect("PEM")
}

/// Written beside it and renamed, as tools that fetch such lists do.
fn put(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!(".{name}"));
    std::fs::write(&new, text).expect("written");
    std::fs::rename(new, folder.join(name)).expect("renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whom_the_site_s_authorities_vouch_for_counts_and_whom_they_revoke_takes_cached_images_along()
 {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let (ours, our_pem) = authority("Ours");
    let (theirs, _) = authority("Theirs");
    let folder = world.dir.path().join("authorities");
    std::fs::create_dir(&folder).expect("a folder");
    put(&folder, "ours.pem", &our_pem);
    put(&folder, "ours.crl", &revoked(&ours, &[], 1));
    let publish = |number: u8, key: &SigningKey| {
        let place = format!("{}/disk{number}", base(&server));
        site.put(&format!("/disk{number}"), whole(vec![number; 4096]));
        let metadata = described(&[number; 4096], &[place]);
        let identifier = metadata.identifier.to_string();
        site.put_entries(&identifier, &[signed(&metadata, key)]);
        wanted(&identifier)
    };
    let policy = PolicySource {
        authorities: Some(AuthoritiesSource::new(&folder, Revocation::Required)),
        ..PolicySource::default()
    };
    world
        .start_with(asking_by(world.settings(), &[&server], policy), None)
        .await;

    for (number, key) in [
        (1, endorser_of(&theirs, 7, "eve@example.org")),
        (2, endorser("alice@example.org")),
    ] {
        let refused = publish(number, &key);
        world.create(&refused).await;
        let read = world.until::<Image>(refused.id.local(), failed).await;
        let told = read.reason.clone().unwrap_or_default();
        assert!(told.contains("is from no accepted authority"), "{told}");
        assert_eq!(site.asked(&format!("/disk{number}")), 0);
    }
    nothing_is_left(&world);

    let alice = publish(3, &endorser_of(&ours, 7, "alice@example.org"));
    let bob = publish(4, &endorser_of(&ours, 8, "bob@example.org"));
    for image in [&alice, &bob] {
        world.create(image).await;
        world.until::<Image>(image.id.local(), available).await;
    }
    // A list that comes later counts for what was cached before, of whom it names and of nobody else.
    put(&folder, "ours.crl", &revoked(&ours, &[7], 2));
    let read = world.until::<Image>(alice.id.local(), failed).await;
    let told = read.reason.clone().unwrap_or_default();
    assert!(
        told.contains("may not be used any more") && told.contains("revoked"),
        "{told}"
    );
    let of_bob = world.documents.images.get(bob.id.local()).expect("there");
    assert!(available(&of_bob.document.0), "{of_bob:?}");
    // So does its correction.
    put(&folder, "ours.crl", &revoked(&ours, &[], 3));
    world.until::<Image>(alice.id.local(), available).await;
    // An authority without a list answers for nobody where lists are demanded.
    std::fs::remove_file(folder.join("ours.crl")).expect("removed");
    world.until::<Image>(bob.id.local(), failed).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_on_sha_1_count_only_where_the_site_says_so() {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    site.put("/disk", whole(vec![5; 4096]));
    let metadata: Metadata = described(&[5; 4096], &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    let draft = metadata.to_draft().expect("a draft");
    let Some(key) = endorser_by_rsa(world.dir.path(), "alice@example.org") else {
        return;
    };
    let old = endorsed(draft.as_bytes(), &key, Hash::Sha1, None, now()).expect("signed");
    site.put_entries(&identifier, &[old]);
    for (accepts_sha1, good) in [(false, false), (true, true)] {
        let policy = PolicySource {
            accepts_sha1,
            ..PolicySource::default()
        };
        world
            .start_with(asking_by(world.settings(), &[&server], policy), None)
            .await;
        let image = wanted(&identifier);
        world.create(&image).await;
        if good {
            world.until::<Image>(image.id.local(), available).await;
        } else {
            let read = world.until::<Image>(image.id.local(), failed).await;
            let told = read.reason.clone().unwrap_or_default();
            assert!(told.contains("alice@example.org uses SHA-1"), "{told}");
            assert_eq!(site.asked("/disk"), 0);
        }
    }
    // What was taken before is looked at by the rules as they are after a start.
    let policy = PolicySource {
        accepts_sha1: false,
        ..PolicySource::default()
    };
    world
        .start_with(asking_by(world.settings(), &[&server], policy), None)
        .await;
    let image = world.documents.images.all();
    let had = image.iter().find(|image| image.file.is_some());
    let had = had.expect("one was fetched").id.local().to_owned();
    world.until::<Image>(&had, failed).await;
    world.kill().await;
}

//! Every format of a disk in every packing, by signed entries that state both; judged by QEMU's own tools.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use cimi::resources::{Image, MediumFormat};
use marketplace::SigningKey;

use super::site::{Site, asking, base, described, endorser, signed, wanted, whole};
use super::states::{available, failed, numbers};
use super::web_server::WebServer;
use super::world::World;
use crate::confine::QemuImg;

/// What QEMU calls it, how it is made, the names under which entries state it, and what is kept of it.
type Format = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    MediumFormat,
);

static FORMATS: [Format; 6] = [
    ("raw", &[], &["raw"], MediumFormat::Raw),
    ("qcow2", &[], &["qcow2"], MediumFormat::Qcow2),
    ("vdi", &[], &["vdi"], MediumFormat::Qcow2),
    ("vmdk", &[], &["vmdk"], MediumFormat::Qcow2),
    (
        "vpc",
        &["-o", "force_size"],
        &["vpc", "vhd"],
        MediumFormat::Qcow2,
    ),
    // Known by its end alone, which is packed, too.
    (
        "vpc",
        &["-o", "subformat=fixed,force_size"],
        &["vhd", "vpc"],
        MediumFormat::Qcow2,
    ),
];

type Pack = fn(&[u8]) -> Vec<u8>;

/// The names of a packing in entries, and how a file is packed so.
static PACKINGS: [(&[&str], Pack); 5] = [
    (&["none"], <[u8]>::to_vec),
    (&["gz", "gzip"], |bytes| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).expect("packed");
        packed.finish().expect("packed")
    }),
    (&["bz2", "bzip2"], |bytes| {
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packed.write_all(bytes).expect("packed");
        packed.finish().expect("packed")
    }),
    (&["xz"], |bytes| {
        let mut packed = liblzma::write::XzEncoder::new(Vec::new(), 1);
        packed.write_all(bytes).expect("packed");
        packed.finish().expect("packed")
    }),
    (&["zstd", "zst"], |bytes| {
        zstd::encode_all(bytes, 1).expect("packed")
    }),
];

fn qemu_img() -> Option<QemuImg> {
    let found = ["/usr/bin/qemu-img", "/usr/local/bin/qemu-img"]
        .iter()
        .find_map(|path| QemuImg::at(Path::new(path)).ok());
    if found.is_none() {
        eprintln!("skipped: qemu-img (Debian: qemu-utils) is not here");
    }
    found
}

/// A disk of 1 MiB like no other, as a file of a format.
fn disk(folder: &Path, number: usize, format: &Format) -> (Vec<u8>, Vec<u8>) {
    let mut raw = numbers(1 << 17);
    raw.resize(1 << 20, 0);
    raw[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    let (from, to) = (folder.join("disk.raw"), folder.join("disk.other"));
    std::fs::write(&from, &raw).expect("written");
    let made = Command::new("qemu-img")
        .args(["convert", "-q", "-f", "raw", "-O", format.0])
        .args(format.1)
        .args([&from, &to])
        .output()
        .expect("qemu-img");
    assert!(made.status.success(), "{made:?}");
    (raw, std::fs::read(to).expect("read"))
}

/// A cloud that looks where Alice's entries are.
struct Published {
    world: World,
    site: Site,
    server: WebServer,
    alice: SigningKey,
    folder: tempfile::TempDir,
}

impl Published {
    /// Nothing without QEMU's tools.
    async fn start() -> Option<Self> {
        let qemu_img = qemu_img()?;
        let mut world = World::new().await;
        let site = Site::default();
        let server = site.serve().await;
        let mut settings = asking(world.settings(), &[&server], None);
        settings.qemu_img = Some(qemu_img);
        world.start_with(settings, None).await;
        Some(Self {
            world,
            site,
            server,
            alice: endorser("alice@example.org"),
            folder: tempfile::tempdir().expect("a folder"),
        })
    }

    /// A disk that is served as `packed`, by an entry that states this of it; somebody wants it. With its content as raw.
    async fn wanted(
        &self,
        number: usize,
        format: &Format,
        stated: &str,
        packing: Option<&str>,
        pack: Pack,
    ) -> (Image, String, Vec<u8>) {
        let (raw, file) = disk(self.folder.path(), number, format);
        let path = format!("/disk{number}");
        let mut metadata = described(&file, &[format!("{}{path}", base(&self.server))]);
        metadata.format = Some(stated.to_owned());
        metadata.compression = packing.map(str::to_owned);
        self.site.put(&path, whole(pack(&file)));
        let identifier = metadata.identifier.to_string();
        let entry = signed(&metadata, &self.alice);
        self.site.put_entries(&identifier, &[entry]);
        let image = wanted(&identifier);
        self.world.create(&image).await;
        (image, identifier, raw)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_comes_in_every_packing_by_whatever_name_its_entry_states() {
    let Some(mut published) = Published::start().await else {
        return;
    };
    let mut images = Vec::new();
    for (number, (format, (packings, pack))) in FORMATS
        .iter()
        .flat_map(|format| PACKINGS.iter().map(move |packing| (format, packing)))
        .enumerate()
    {
        // Each of the names, in turn.
        let stated = format.2[number % format.2.len()];
        let packing = packings[number % packings.len()];
        let one = published.wanted(number, format, stated, Some(packing), *pack);
        let (image, identifier, raw) = one.await;
        images.push((image, identifier, raw, format, packing));
    }
    assert_eq!(images.len(), 30);
    for (image, identifier, raw, format, packing) in images {
        let read = published
            .world
            .until::<Image>(image.id.local(), available)
            .await;
        let file = read.file.clone().expect("a file");
        let row = format!("{} {:?} {packing}", format.0, format.1);
        assert_eq!(file.format, format.3, "{row}");
        assert_eq!(file.virtual_size.0, raw.len() as u64, "{row}");
        // It goes on being called by what its endorser described.
        assert_eq!(file.digests.identifier, Some(identifier), "{row}");
        let plain = published.folder.path().join("plain");
        let kept = if format.3 == MediumFormat::Raw {
            "raw"
        } else {
            "qcow2"
        };
        let made = Command::new("qemu-img")
            .args(["convert", "-q", "-f", kept, "-O", "raw", &file.path])
            .arg(&plain)
            .output()
            .expect("qemu-img");
        assert!(made.status.success(), "{row}: {made:?}");
        assert!(std::fs::read(&plain).expect("read") == raw, "{row}");
    }
    published.world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_format_than_its_entry_states_is_refused() {
    let Some(mut published) = Published::start().await else {
        return;
    };
    let [raw, qcow2, vdi, vmdk, ..] = &FORMATS;
    for (number, (format, stated, why)) in [
        (raw, "qcow2", "stated to be qcow2"),
        (qcow2, "raw", "stated to be raw"),
        (vdi, "raw", "VDI"),
        (vmdk, "qcow2", "VMDK"),
    ]
    .into_iter()
    .enumerate()
    {
        let one = published.wanted(number, format, stated, None, <[u8]>::to_vec);
        let (image, ..) = one.await;
        let read = published
            .world
            .until::<Image>(image.id.local(), failed)
            .await;
        let told = read.reason.clone().unwrap_or_default();
        assert!(told.contains(why), "{} as {stated}: {told}", format.0);
    }
    published.world.kill().await;
}

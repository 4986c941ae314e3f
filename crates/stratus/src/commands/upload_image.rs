//! `stratus upload-image`: an image goes to the cloud, and its description, signed, to a Marketplace.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bzip2::read::BzEncoder;
use flate2::read::GzEncoder;
use marketplace::{Metadata, draft};

use super::image::import;
use super::sign_metadata::replace_by_signed;
use super::update_volume::check_tag;
use super::upload_metadata::Published;
use crate::cloud::{Endpoint, ImageView, Marketplace};
use crate::endorser::Endorser;
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;
use crate::packing::Packing;
use crate::options::{self, Cloud, Common, Signing};
use crate::progress::byte_bar;
use crate::session::Session;
use crate::unfinished;

/// Upload an image to the cloud and publish its description
///
/// Sends FILE.img (compressed, unless it is already or -C none is given) to the cloud, which keeps it as one of your images. The
/// description beside it, FILE.xml as build-metadata writes it, gets the image's address as a location, is signed and goes to the
/// Marketplace; the file as it was is kept as FILE.xml.orig. What the cloud receives must be what the description says, to the bit.
///
/// That address wants a login of this cloud, unless its operator gives public images to everybody. Who shall start the image elsewhere
/// must find it at another location then: the command warns if the description names none.
///
/// Run again after a failure, it goes on: a compressed file of it that is there is used, and an image that the cloud has is not sent again. A
/// description that is published as it is, is not published again.
///
/// JSON: {"identifier", "uri", "location", "metadata": {"file", "url", "state"}}; metadata is null with --image-only, its state
/// "created", "waiting" (for the endorser) or "unchanged".
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus upload-image --public ubuntu.img
  stratus upload-image -C none --image-only ubuntu.img")]
pub struct Arguments {
    /// The image, raw or qcow2
    #[arg(value_name = "image-file")]
    file: Option<PathBuf>,
    /// How it is compressed before it is sent: gz, bz2 or none [default: gz]
    #[arg(short = 'C', long = "compress", value_name = "FORMAT", default_value = "gz", hide_default_value = true, value_parser = ["gz", "bz2", "none"])]
    compression: String,
    /// Only the image: nothing is signed or published
    #[arg(long)]
    image_only: bool,
    /// Its name in the cloud, of 40 characters at most [default: the file's name without suffixes]
    #[arg(short, long, value_name = "TAG")]
    tag: Option<String>,
    /// For you alone (the default)
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Everybody may start machines from it
    #[arg(long)]
    public: bool,
    /// Accepted for compatibility: that is what an uploaded image is
    #[arg(long, hide = true)]
    machine_image_origin: bool,
    /// Your e-mail address, if the certificate has none
    #[arg(long, value_name = "ADDRESS", help_heading = "Signing")]
    email: Option<String>,
    /// Key and certificate of the endorser, PKCS#12 [default: what --pem-cert names, else ~/.globus/usercert.p12; env: STRATUSLAB_P12_CERTIFICATE; key: p12_certificate]
    #[arg(long = "p12-cert", value_name = "FILE", help_heading = "Signing")]
    p12_certificate: Option<PathBuf>,
    /// Its password; asked for on a terminal when missing [env: STRATUSLAB_P12_PASSWORD; key: p12_password]
    #[arg(long, value_name = "PASSWORD", allow_hyphen_values = true, help_heading = "Signing")]
    p12_password: Option<String>,
    /// Sign with SHA-1, for Marketplaces of StratusLab, which know nothing else (RSA keys) [key: sha1_signature]
    #[arg(long = "sha1-signature", help_heading = "Signing")]
    sha1_signature: bool,
    /// The Marketplace: https://HOST[:PORT][/PATH], or a host name; of several entries all, with commas between [default: https://marketplace.stratuslab.eu; env: STRATUSLAB_MARKETPLACE_ENDPOINT; key: marketplace_endpoint]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Marketplace")]
    marketplace_endpoint: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// The description of the image, before it is changed.
struct Manifest {
    file: PathBuf,
    text: Vec<u8>,
    image: Metadata,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let out = &session.out;
        let file = self.file.as_deref().ok_or_else(|| Failure::Usage("Please specify an image file".to_owned()))?;
        if !file.is_file() {
            return Err(Failure::Usage(format!("Image file does not exist: {}", file.display())));
        }
        if let Some(tag) = &self.tag {
            check_tag(tag).map_err(Failure::Usage)?;
        }
        // Whatever can be wrong is found before hours of sending.
        let publishing = if self.image_only { None } else { Some(self.publishing(&session, file)?) };
        let api = session.api(&self.cloud)?;

        out.banner("Starting image upload");
        unfinished::say(import::NOTHING_SENT);
        let sent = compressed(&session, file, &self.compression).await?;
        out.step("Uploading image");
        let name = self.tag.clone().unwrap_or_else(|| plain_name(file));
        let mut import = import::Arguments::of_file(&sent, name, self.public, self.cloud.clone(), self.common.clone());
        if let Some((manifest, ..)) = &publishing {
            import = import.checked_by(&manifest.image);
        }
        let image = Box::pin(import.imported(&session, &api)).await?;
        let location = api.url(&format!("{}/data", image.id));
        let mut result = serde_json::json!({ "identifier": image.identifier, "uri": image.id, "location": location, "metadata": null });
        out.step(format_args!("Image uploaded: {location}"));
        if let Some(told) = self.told_of(&image) {
            out.step(format_args!("Image metadata updated: {told}"));
        }
        if let Some((manifest, endorser, marketplace)) = publishing {
            unfinished::say("The image is in the cloud, its description is not published; run the command again to go on.");
            out.banner("Starting manifest upload");
            out.step("Parsing manifest");
            let is_public = self.public || image.visibility.as_deref() == Some("PUBLIC");
            let is_elsewhere = manifest.image.locations.iter().any(|known| *known != location);
            let can_be_fetched = is_elsewhere || (is_public && is_for_everybody(&session, &self.cloud, &location).await);
            if !can_be_fetched {
                out.warning(format_args!(
                    "{location} wants a login of this cloud, so nobody else can fetch the image from there{}. For others, put {} on a web server, \
                     name its address with build-metadata --location, and publish with upload-metadata",
                    if is_public { " (its operator can change that: images.public_data)" } else { "" },
                    file.display()
                ));
            }
            let (url, state) = match manifest.published_at(&location, &endorser, &marketplace).await {
                Some(url) => {
                    out.step(format_args!("Manifest is published already, and has not changed: {url}"));
                    (url, "unchanged")
                }
                None => {
                    out.step("Updating manifest");
                    let draft = manifest.located(&location)?;
                    out.step("Signing manifest");
                    let signed = endorser.endorse(&draft, self.email.as_deref()).map_err(|error| Failure::Work(error.to_string()))?;
                    replace_by_signed(&manifest.file, &signed)?;
                    out.step("Uploading manifest");
                    let published = Published::send(&marketplace, signed.as_bytes()).await?;
                    out.step(format_args!("Manifest uploaded: {}", published.url));
                    published.say_who_is_waited_for(&session);
                    (published.url.clone(), published.state())
                }
            };
            if let Some(object) = result.as_object_mut() {
                let of = serde_json::json!({ "file": manifest.file, "url": url, "state": state });
                object.insert("metadata".to_owned(), of);
            }
        }
        if out.is_json() { out.json(&result) } else { Ok(()) }
    }

    /// What else was said of an image, as it is now: one that was there already keeps its name.
    fn told_of(&self, image: &ImageView) -> Option<serde_json::Value> {
        let is = |now: &Option<String>, said: &str| now.as_deref().unwrap_or(said).to_lowercase();
        let said = if self.public { "public" } else { "private" };
        let told = [
            ("tag", self.tag.as_ref().map(|tag| image.name.clone().unwrap_or_else(|| tag.clone()))),
            ("visibility", (self.public || self.private).then(|| is(&image.visibility, said))),
        ];
        let told: serde_json::Map<_, _> = told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
        (!told.is_empty()).then_some(serde_json::Value::Object(told))
    }

    /// By what somebody logs in they sign, too, unless another key is named for that.
    fn signing(&self) -> Signing {
        let by_login = self.cloud.pem_certificate.as_ref().filter(|_| self.p12_certificate.is_none());
        Signing {
            p12_certificate: self.p12_certificate.clone(),
            p12_password: self.p12_password.clone(),
            pem_certificate: by_login.cloned(),
            pem_key: self.cloud.pem_key.clone(),
            sha1_signature: self.sha1_signature,
        }
    }

    /// What is needed to publish.
    fn publishing(&self, session: &Session, file: &Path) -> Result<(Manifest, Endorser, Marketplace)> {
        let manifest = Manifest::beside(file)?;
        manifest.check_compression()?;
        let endorser = Endorser::load(session, &self.signing())?;
        // A trial: certificate and address are looked at.
        endorser.endorse(&manifest.text, self.email.as_deref()).map_err(|error| Failure::Work(error.to_string()))?;
        let marketplace = Marketplace::of(
            session,
            &options::Marketplace { marketplace_endpoint: self.marketplace_endpoint.clone(), ca_file: self.cloud.ca_file.clone() },
        )?;
        Ok((manifest, endorser, marketplace))
    }
}

/// Whether the cloud gives the content at a location of its own to who isn't logged in, as other clouds are.
async fn is_for_everybody(session: &Session, cloud: &Cloud, location: &str) -> bool {
    let ask = async {
        let url = reqwest::Url::parse(location).ok()?;
        let root = location.strip_suffix(url.path())?;
        let server = Endpoint::parse(root).ok()?;
        let trust = Cloud { ca_file: cloud.ca_file.clone(), ..Cloud::default() };
        let stranger = session.connect(server, None, &trust).ok()?;
        let answer = stranger.send_raw(reqwest::Method::HEAD, url.path(), "*/*", None).await.ok()?;
        Some(answer.status == 200)
    };
    ask.await == Some(true)
}

/// The file's name without suffixes of compression and of images.
fn plain(file: &Path) -> PathBuf {
    let mut plain = file.to_path_buf();
    for suffixes in [&["gz", "bz2", "xz", "zst"][..], &["img", "qcow2", "raw"]] {
        if plain.extension().and_then(|suffix| suffix.to_str()).is_some_and(|suffix| suffixes.contains(&suffix)) {
            plain.set_extension("");
        }
    }
    plain
}

fn plain_name(file: &Path) -> String {
    plain(file).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Manifest {
    fn beside(file: &Path) -> Result<Self> {
        let mut name = plain(file).into_os_string();
        name.push(".xml");
        let path = PathBuf::from(name);
        if !path.is_file() {
            return Err(Failure::Usage(format!(
                "Image manifest does not exist: {}\nstratus build-metadata --os NAME --os-version VERSION --os-arch ARCH --image-version VERSION {} writes one and says how \
                 it is called: rename that to {}. Or send the image alone: --image-only",
                path.display(),
                file.display(),
                path.display()
            )));
        }
        let text = std::fs::read(&path).map_err(|error| Failure::file(&path, &error))?;
        let image = Metadata::parse(&text).map_err(|error| Failure::Work(format!("{}: {error}", path.display())))?;
        Ok(Self { file: path, text, image })
    }

    fn is_compressed(&self) -> bool {
        self.image.compression.as_deref().is_some_and(|compression| !compression.is_empty() && compression != "none")
    }

    /// A description has one compression for all its locations, and in the cloud the image has none.
    fn check_compression(&self) -> Result {
        if self.is_compressed() && !self.image.locations.is_empty() {
            return Err(Failure::Check(format!(
                "{} names places of a compressed file; in the cloud it is not compressed, and a description has one compression for all. \
                 Nothing was sent. Remove these locations, or send the image with --image-only and publish with upload-metadata",
                self.file.display()
            )));
        }
        Ok(())
    }

    /// Whether it says where the image is in the cloud, as it is there.
    fn has(&self, location: &str) -> bool {
        self.image.locations.iter().any(|known| known == location) && !self.is_compressed()
    }

    /// Where it is in the Marketplace byte for byte, signed by this endorser; nothing if it isn't, or that can't be said.
    async fn published_at(&self, location: &str, endorser: &Endorser, marketplace: &Marketplace) -> Option<String> {
        if !self.has(location) || !endorser.has_signed(&self.text) {
            return None;
        }
        let endorsement = self.image.endorsement.as_ref()?;
        let path = format!("{}/{}/{}", self.image.identifier, endorsement.email, endorsement.created);
        let there = marketplace.fetch(&path).await.ok()?;
        (there == self.text).then(|| marketplace.url(&path))
    }

    /// With the image's address in the cloud, where it is not compressed.
    fn located(&self, location: &str) -> Result<Vec<u8>> {
        if self.has(location) {
            return Ok(self.text.clone());
        }
        let draft = draft::located(&self.text, location, None).map_err(|error| Failure::Work(format!("{}: {error}", self.file.display())))?;
        Ok(draft.into_bytes())
    }
}

/// The file to send: compressed beside the other, unless it is already.
async fn compressed(session: &Session, file: &Path, compression: &str) -> Result<PathBuf> {
    let suffix = file.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    if compression == "none" || ["gz", "bz2", "xz", "zst"].contains(&suffix) {
        return Ok(file.to_path_buf());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{compression}"));
    let target = PathBuf::from(name);
    if target.exists() {
        let (packed, plain) = (target.clone(), file.to_path_buf());
        let same = tokio::task::spawn_blocking(move || holds(&packed, &plain)).await;
        if same.map_err(|error| Failure::Work(format!("{} could not be compared: {error}", target.display())))?? {
            session.out.warning(format_args!("{} is there already and is sent as it is", target.display()));
            return Ok(target);
        }
        session.out.warning(format_args!("{} is there already, of another content, and is written anew", target.display()));
    }
    session.out.step("Compressing image");
    let length = std::fs::metadata(file).map_err(|error| Failure::file(file, &error))?.len();
    let bar = byte_bar(&session.out, "compressing", length);
    let (from, to, is_gzip, counting) = (file.to_path_buf(), target.clone(), compression == "gz", bar.clone());
    let work = tokio::task::spawn_blocking(move || {
        let plain = File::open(&from).map_err(|error| Failure::file(&from, &error))?;
        let plain = counting.wrap_read(plain);
        let mut stream: Box<dyn Read> = if is_gzip {
            Box::new(GzEncoder::new(plain, flate2::Compression::default()))
        } else {
            Box::new(BzEncoder::new(plain, bzip2::Compression::default()))
        };
        let new = NewFile::at(&to, true)?;
        io::copy(&mut stream, &mut new.create()?).map_err(|error| Failure::file(&to, &error))?;
        new.finish()
    });
    let done = work.await.map_err(|error| Failure::Work(format!("the image could not be compressed: {error}")))?;
    bar.finish_and_clear();
    done?;
    Ok(target)
}

/// Whether a compressed file has the content of another: times tell little of that. What can't be unpacked has not.
fn holds(packed: &Path, plain: &Path) -> Result<bool> {
    const PIECE_BYTES: u64 = 1 << 20;
    let failed = |path: &Path, error: io::Error| Failure::file(path, &error);
    let open = |path: &Path| File::open(path).map_err(|error| failed(path, error));
    let Some(packing) = Packing::of_file(packed).map_err(|error| failed(packed, error))? else {
        return Ok(false);
    };
    let Ok(mut unpacked) = packing.undo(BufReader::new(open(packed)?)) else {
        return Ok(false);
    };
    let mut plain_file = open(plain)?;
    loop {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        (&mut plain_file).take(PIECE_BYTES).read_to_end(&mut one).map_err(|error| failed(plain, error))?;
        if (&mut unpacked).take(PIECE_BYTES).read_to_end(&mut other).is_err() || one != other {
            return Ok(false);
        }
        if one.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_compressed_file_holds_what_it_unpacks_to() {
        let dir = tempfile::tempdir().expect("folder");
        let (packed, plain) = (dir.path().join("a.gz"), dir.path().join("a"));
        let content = vec![7; 3 << 20];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&content).expect("packed");
        let gz = gz.finish().expect("packed");
        let mut altered = content.clone();
        altered[content.len() - 1] = 8;
        let shorter = &content[..content.len() - 1];
        let cases = [
            (&gz[..], &content[..], true),
            (&gz, &altered, false),
            (&gz, shorter, false),
            (&gz[..gz.len() - 9], &content, false),
            (b"no archive", &content, false),
            (b"", b"", false),
        ];
        for (there, image, expected) in cases {
            std::fs::write(&packed, there).expect("written");
            std::fs::write(&plain, image).expect("written");
            assert_eq!(holds(&packed, &plain).expect("compared"), expected);
        }
    }

    #[test]
    fn descriptions_stand_beside_images() {
        for (file, expected) in [("a/ubuntu-1.2.img", "a/ubuntu-1.2"), ("x.img.gz", "x"), ("x.qcow2", "x"), ("x.iso.gz", "x.iso"), ("img", "img")] {
            assert_eq!(plain(Path::new(file)), Path::new(expected), "{file}");
        }
    }
}

//! `stratus image import`: new images from files and URLs.

mod known_content;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use marketplace::{ImageIdentifier, Metadata};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::cloud::{Api, ApiError, Body, ImageView, JobEnd, wait_for_job};
use crate::commands::image_name::Use;
use crate::failure::{Failure, Result};
use crate::image_source::{ImageSource, LocalDigests, local_digests};
use crate::options::{Cloud, Common};
use crate::progress::{Waiting, byte_bar};
use crate::session::Session;
use crate::unfinished;
use known_content::Boot;

/// Import an image from a file or a URL
///
/// Disks in raw, qcow2, vmdk, vdi and vpc (vhd) are taken, plain or compressed by gzip, bzip2, xz or zstd. A file is sent; a URL is fetched by the cloud itself. The
/// content is checked against every digest that is given. Content that the cloud has already is not sent again (as far as the
/// identifier is given, or can be computed here because the file is not compressed). Of known content that shall boot with another
/// kernel, RAM disk or arguments another image is made.
///
/// Prints 'IMAGE IDENTIFIER' when machines can be started from it.
///
/// JSON: {"identifier", "uri", "name", "state", "reason", "format", "virtualSize", "visibility", "owner", "progress"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image import debian-12.qcow2
  stratus image import --public --name tiny --kernel vmlinuz --initrd initrd.gz --kernel-args 'console=ttyS0 root=/dev/vda' tiny.raw
  stratus image import --sha512 8f3c… https://example.org/images/debian-12.raw.xz")]
pub struct Arguments {
    /// The file, or http(s) URL
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// Name for people [default: the file's name without suffixes]
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// For you alone (the default)
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Everybody may start machines from it
    #[arg(long)]
    public: bool,
    /// Type: IMAGE to start machines from, FILE for a kernel and the like [default: IMAGE]
    #[arg(long = "type", value_name = "TYPE", default_value = "IMAGE", hide_default_value = true)]
    kind: String,
    /// Identifier that the content must have
    #[arg(long, value_name = "ID", help_heading = "Checks of the content, uncompressed")]
    identifier: Option<String>,
    /// MD5 that it must have
    #[arg(long, value_name = "HEX", help_heading = "Checks of the content, uncompressed")]
    md5: Option<String>,
    /// SHA-1 that it must have
    #[arg(long, value_name = "HEX", help_heading = "Checks of the content, uncompressed")]
    sha1: Option<String>,
    /// SHA-256 that it must have
    #[arg(long, value_name = "HEX", help_heading = "Checks of the content, uncompressed")]
    sha256: Option<String>,
    /// SHA-512 that it must have
    #[arg(long, value_name = "HEX", help_heading = "Checks of the content, uncompressed")]
    sha512: Option<String>,
    /// Length in bytes that it must have
    #[arg(long, value_name = "N", help_heading = "Checks of the content, uncompressed")]
    bytes: Option<u64>,
    /// Operating system on it, such as debian; images made of its machines have it, too
    #[arg(long, value_name = "NAME", help_heading = "What is on it")]
    os: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION", help_heading = "What is on it")]
    os_version: Option<String>,
    /// Architecture that it is for, such as x86_64
    #[arg(long, value_name = "NAME", help_heading = "What is on it")]
    os_arch: Option<String>,
    /// Kernel to boot directly: a file, URL, or an image of type FILE
    #[arg(long, value_name = "FILE|URL|IMAGE", help_heading = "Booting without a boot loader")]
    kernel: Option<String>,
    /// Initial RAM disk: a file, URL, or an image of type FILE
    #[arg(long, value_name = "FILE|URL|IMAGE", requires = "kernel", help_heading = "Booting without a boot loader")]
    initrd: Option<String>,
    /// Arguments of the kernel
    #[arg(long = "kernel-args", value_name = "TEXT", allow_hyphen_values = true, help_heading = "Booting without a boot loader")]
    kernel_arguments: Option<String>,
    /// Seconds to wait for the cloud to fetch and check [default: 3600]
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, hide_default_value = true)]
    timeout: u64,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// An upload that moves no byte for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// How much is read and sent at once.
const PIECE_BYTES: usize = 256 << 10;

impl Arguments {
    /// A disk in a file of this computer, without checks.
    pub(in crate::commands) fn of_file(file: &Path, name: String, public: bool, cloud: Cloud, common: Common) -> Self {
        Self {
            source: file.display().to_string(),
            name: Some(name),
            private: false,
            public,
            kind: "IMAGE".to_owned(),
            identifier: None,
            md5: None,
            sha1: None,
            sha256: None,
            sha512: None,
            bytes: None,
            os: None,
            os_version: None,
            os_arch: None,
            kernel: None,
            initrd: None,
            kernel_arguments: None,
            timeout: 3600,
            cloud,
            common,
        }
    }

    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    /// The checks of a description, and what it says is on it.
    pub(in crate::commands) fn checked_by(mut self, image: &Metadata) -> Self {
        let checksums = &image.checksums;
        self.identifier = Some(image.identifier.to_string());
        self.bytes = Some(image.bytes);
        self.md5 = checksums.md5.map(|digest| digest.to_string());
        self.sha1 = Some(checksums.sha1.to_string());
        self.sha256 = checksums.sha256.map(|digest| digest.to_string());
        self.sha512 = checksums.sha512.map(|digest| digest.to_string());
        self.os.clone_from(&image.os);
        self.os_version.clone_from(&image.os_version);
        self.os_arch.clone_from(&image.os_arch);
        self
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let image = self.imported(&session, &api).await?;
        if session.out.is_json() {
            return session.out.json(&super::as_json(&image));
        }
        session.out.line(format_args!("IMAGE {}", image.identifier.as_deref().unwrap_or(&image.id)))
    }

    /// Does it, and waits until the image is available. Nothing unfinished stays in the cloud.
    pub(in crate::commands) async fn imported(&self, session: &Session, api: &Api) -> Result<ImageView> {
        let source = ImageSource::parse(&self.source)?;
        if !["IMAGE", "FILE"].contains(&self.kind.as_str()) {
            return Err(Failure::Usage(format!("'{}' is not a type; take IMAGE or FILE", self.kind)));
        }
        let expected = self.expected()?;
        if let ImageSource::File(file) = &source
            && self.kind == "IMAGE"
        {
            refuse_secrets(file)?;
        }
        unfinished::say(NOTHING_SENT);
        let import = Import { session, api, visibility: if self.public { "PUBLIC" } else { "PRIVATE" }, limit: Duration::from_secs(self.timeout) };
        let mut document = Map::new();
        document.insert("name".to_owned(), json!(self.name.clone().unwrap_or_else(|| source.default_name())));
        document.insert("type".to_owned(), json!(self.kind));
        let described = [("os", &self.os), ("os-version", &self.os_version), ("os-arch", &self.os_arch)];
        let properties: Map<String, Value> = described.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?)))).collect();
        if !properties.is_empty() {
            document.insert("properties".to_owned(), properties.into());
        }
        let result = self.disk(&import, &source, document, expected).await;
        match &result {
            Ok(_) | Err(Failure::Exit(_)) => unfinished::keep(),
            // If this fails too, the first error is the one to tell.
            Err(_) => {
                for (path, error) in unfinished::remove().await {
                    session.out.detail(format_args!("the unfinished {path} could not be removed: {error}"));
                }
            }
        }
        let image = result?;
        self.tell_what_stays(session, api, &image).await;
        Ok(image)
    }

    /// The disk, after what it boots with.
    async fn disk(&self, import: &Import<'_>, source: &ImageSource, mut document: Map<String, Value>, expected: Map<String, Value>) -> Result<ImageView> {
        let mut piece = import.piece(source, expected).await?;
        let mut boot = Boot { arguments: self.kernel_arguments.clone(), ..Boot::default() };
        for (member, given, of_boot) in [("kernel", &self.kernel, &mut boot.kernel), ("initrd", &self.initrd, &mut boot.initrd)] {
            if let Some(text) = given {
                let file = import.boot_file(text).await?;
                document.insert(member.to_owned(), json!({ "href": file.id }));
                *of_boot = Some(file.content().to_owned());
            }
        }
        document.extend(self.kernel_arguments.as_ref().map(|text| ("kernelArguments".to_owned(), json!(text))));
        if boot == Boot::default() {
            return import.one(piece, document, Part::Disk).await;
        }
        if let Some(image) = import.booting_so(piece.identifier(), &boot, &document).await? {
            // What was sent just now to boot with is there twice.
            for (path, error) in unfinished::remove().await {
                import.session.out.detail(format_args!("the unneeded {path} could not be removed: {error}"));
            }
            return Ok(image);
        }
        piece.expect_content_anew();
        import.one(piece, document, Part::Disk).await
    }

    /// Known content keeps the name and the visibility of the image that is there; if it is somebody else's, that is told instead.
    async fn tell_what_stays(&self, session: &Session, api: &Api, image: &ImageView) {
        let id = image.id.as_str();
        let named = image.name.as_deref().unwrap_or_default();
        let mut stays = Vec::new();
        if let Some(name) = self.name.as_deref().filter(|name| *name != named) {
            stays.push(format!("It keeps its name '{named}'; stratus image update --name '{name}' {id} changes it."));
        }
        let is_public = image.visibility.as_deref() == Some("PUBLIC");
        if self.public && image.visibility.is_some() && !is_public {
            stays.push(format!("It stays private; stratus image update --public {id} changes it."));
        }
        if self.private && is_public {
            stays.push(format!("It stays public; stratus image update --private {id} changes it."));
        }
        if let Some(owner) = image.owner.as_deref().filter(|_| !stays.is_empty())
            && api.own_name().await.is_some_and(|own| own != owner)
        {
            let called = image.identifier.as_deref().unwrap_or(id);
            stays = vec![format!("It is an image of {owner}, and stays as it is; start it as {called}.")];
        }
        for text in stays {
            session.out.step(format_args!("{text}"));
        }
    }

    fn expected(&self) -> Result<Map<String, Value>> {
        let mut expected = Map::new();
        if let Some(identifier) = &self.identifier {
            if let Err(error) = identifier.parse::<ImageIdentifier>() {
                return Err(Failure::Usage(error.to_string()));
            }
            expected.insert("identifier".to_owned(), json!(identifier));
        }
        for (name, value, digits) in [("md5", &self.md5, 32), ("sha1", &self.sha1, 40), ("sha256", &self.sha256, 64), ("sha512", &self.sha512, 128)] {
            if let Some(value) = value {
                if value.len() != digits || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Failure::Usage(format!("'{value}' is not {name}: it has {digits} hexadecimal digits")));
                }
                expected.insert(name.to_owned(), json!(value.to_lowercase()));
            }
        }
        expected.extend(self.bytes.map(|bytes| ("bytes".to_owned(), json!(bytes))));
        Ok(expected)
    }
}

/// A key that was taken for an image would be the cloud's to keep.
fn refuse_secrets(file: &Path) -> Result {
    use std::io::Read as _;
    let failed = |error: std::io::Error| Failure::file(file, &error);
    let mut head = Vec::new();
    std::fs::File::open(file).map_err(failed)?.take(512).read_to_end(&mut head).map_err(failed)?;
    let text = String::from_utf8_lossy(&head);
    if text.contains("-----BEGIN ") {
        return Err(Failure::Check(format!("'{}' is a key or a certificate, and no image of a disk; it was not sent", file.display())));
    }
    Ok(())
}

/// What is told while only files of the user's are read.
pub(in crate::commands) const NOTHING_SENT: &str = "Nothing was sent to the cloud yet.";

/// What all pieces of one command have in common.
struct Import<'a> {
    session: &'a Session,
    api: &'a Api,
    visibility: &'static str,
    limit: Duration,
}

/// A source, and what is known of its content.
#[derive(Debug)]
struct Piece<'a> {
    source: &'a ImageSource,
    /// The `expected` of the request.
    expected: Map<String, Value>,
}

impl Piece<'_> {
    /// The content's identifier, if it was told or could be computed.
    fn identifier(&self) -> Option<&str> {
        self.expected.get("identifier").and_then(Value::as_str)
    }

    /// A cloud that is told the identifier answers with the image that it has; told the SHA-1, which says the same, it makes another one.
    fn expect_content_anew(&mut self) {
        let Some(Value::String(text)) = self.expected.remove("identifier") else {
            return;
        };
        if let Ok(identifier) = text.parse::<ImageIdentifier>() {
            self.expected.entry("sha1").or_insert_with(|| json!(identifier.sha1().to_string()));
        }
    }
}

/// What is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What the command was called for.
    Disk,
    /// A kernel or RAM disk, before it.
    BootFile,
}

impl Import<'_> {
    /// A kernel or RAM disk: an image that is there already, or one that is imported now.
    async fn boot_file(&self, text: &str) -> Result<ImageView> {
        let is_new = text.starts_with("http://") || text.starts_with("https://") || Path::new(text).is_file();
        if !is_new {
            let path = super::image_path(self.api, text, Use::Content).await?;
            return Ok(self.api.view(&path).await?);
        }
        let source = ImageSource::parse(text)?;
        let document = Map::from_iter([("name".to_owned(), json!(source.default_name())), ("type".to_owned(), json!("FILE"))]);
        self.one(self.piece(&source, Map::new()).await?, document, Part::BootFile).await
    }

    /// A source with what its content must be: as told, and as it is if that can be computed here.
    async fn piece<'s>(&self, source: &'s ImageSource, mut expected: Map<String, Value>) -> Result<Piece<'s>> {
        if let ImageSource::File(path) = source
            && let Some(digests) = digests_of(self.session, path).await?
        {
            check(path, &expected, &digests)?;
            expected.insert("identifier".to_owned(), json!(digests.identifier));
            expected.insert("sha1".to_owned(), json!(digests.sha1));
            expected.insert("sha512".to_owned(), json!(digests.sha512));
            expected.insert("bytes".to_owned(), json!(digests.bytes));
        }
        Ok(Piece { source, expected })
    }

    /// Imports one source and waits until it is available.
    async fn one(&self, Piece { source, expected }: Piece<'_>, mut document: Map<String, Value>, part: Part) -> Result<ImageView> {
        let out = &self.session.out;
        document.insert("visibility".to_owned(), json!(self.visibility));
        let location = match source {
            ImageSource::Url(url) => json!({ "href": url }),
            ImageSource::File(_) => json!("upload:"),
        };
        document.insert("imageLocation".to_owned(), location);
        if !expected.is_empty() {
            document.insert("expected".to_owned(), Value::Object(expected));
        }
        let accepted = unfinished::make(self.api, "MachineImage", &Value::Object(document)).await?;
        let image: ImageView = self.api.viewed("MachineImage", accepted.body)?;
        if accepted.status == 200 {
            out.step("The cloud has this content already.");
            return Ok(image);
        }
        let path = if image.id.is_empty() { accepted.location.unwrap_or_default() } else { image.id.clone() };
        match source {
            ImageSource::File(file) => self.upload(&path, file).await?,
            ImageSource::Url(_) if part == Part::Disk => {
                unfinished::goes_on_as(&format!("{path} is fetched (stratus image show {path} tells how far it is, stratus image delete {path} removes it)"));
            }
            ImageSource::Url(_) => {}
        }
        let there = self.until_available(&path, accepted.job.as_deref()).await?;
        if there.id != path {
            out.step("The cloud has this content already.");
        }
        Ok(there)
    }

    async fn upload(&self, image: &str, file: &Path) -> Result {
        let failed = |error: std::io::Error| Failure::file(file, &error);
        let handle = tokio::fs::File::open(file).await.map_err(failed)?;
        let length = handle.metadata().await.map_err(failed)?.len();
        let bar = byte_bar(&self.session.out, "sending", length);
        let sent = Arc::new(AtomicU64::new(0));
        let (counter, counting_bar) = (sent.clone(), bar.clone());
        let stream = ReaderStream::with_capacity(handle.take(length), PIECE_BYTES).inspect(move |piece| {
            let count = piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            counter.fetch_add(count, Ordering::Relaxed);
            counting_bar.inc(count);
        });
        let path = format!("{image}/data");
        let request = self.api.send(Method::PUT, &path, Body::Stream(reqwest::Body::wrap_stream(stream), length));
        let result = tokio::select! {
            result = request => result.map(|_| ()),
            () = stalled(&sent, length, self.limit) => Err(ApiError::Network { text: format!("the upload of {} did not move for {} s", file.display(), STALL_LIMIT.as_secs()) }),
        };
        bar.finish_and_clear();
        Ok(result?)
    }

    /// Waits until the image can be used; a URL's content takes its time.
    async fn until_available(&self, path: &str, job: Option<&str>) -> Result<ImageView> {
        let deadline = Instant::now() + self.limit;
        let waiting = Waiting::start(&self.session.out, "importing");
        loop {
            let image: ImageView = self.api.view(path).await?;
            match image.state.as_deref() {
                Some("AVAILABLE") => return Ok(image),
                Some("ERROR") => return Err(Failure::Work(format!("the image cannot be used: {}", image.reason.as_deref().unwrap_or("the cloud gives no reason")))),
                _ if image.reason.is_some() => {
                    waiting.say(image.on_its_way());
                    waiting.tell(image.why_not_here().map(|why| format!("{path} is waited for: {why}")));
                }
                state => waiting.say(format!("importing: {} {:.0} %", state.unwrap_or_default().to_lowercase(), image.progress.unwrap_or(0.0))),
            }
            if Instant::now() >= deadline {
                self.session.out.error(format_args!(
                    "The image is not available after {} s; the import goes on. stratus image show {path} tells how far it is.",
                    self.limit.as_secs()
                ));
                return Err(Failure::Exit(crate::failure::WORK_FAILED));
            }
            if let JobEnd::Failed(reason) = wait_for_job(self.api, job, Duration::from_secs(1), &waiting).await? {
                return Err(Failure::Work(format!("the image cannot be used: {reason}")));
            }
            if job.is_none() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            waiting.tick();
        }
    }
}

/// Ends when an upload has not moved for too long. When all is sent, the cloud has `limit` to check it.
async fn stalled(sent: &AtomicU64, length: u64, limit: Duration) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let allowed = if now >= length { STALL_LIMIT.max(limit) } else { STALL_LIMIT };
        if since.elapsed() > allowed {
            return;
        }
    }
}

async fn digests_of(session: &Session, path: &Path) -> Result<Option<LocalDigests>> {
    let length = std::fs::metadata(path).map_err(|error| Failure::file(path, &error))?.len();
    let bar = byte_bar(&session.out, "checking", length);
    let (owned, counting_bar) = (path.to_path_buf(), bar.clone());
    let result = tokio::task::spawn_blocking(move || local_digests(&owned, &counting_bar)).await;
    bar.finish_and_clear();
    result.map_err(|error| Failure::Work(format!("the digests cannot be computed: {error}")))?
}

/// Compares what was given with what the file is, before anything is sent.
fn check(path: &Path, expected: &Map<String, Value>, digests: &LocalDigests) -> Result {
    let found = [
        ("identifier", json!(digests.identifier)),
        ("md5", json!(digests.md5)),
        ("sha1", json!(digests.sha1)),
        ("sha256", json!(digests.sha256)),
        ("sha512", json!(digests.sha512)),
        ("bytes", json!(digests.bytes)),
    ];
    for (name, is) in found {
        if let Some(wanted) = expected.get(name).filter(|wanted| **wanted != is) {
            return Err(Failure::Check(format!("'{}' is not what it should be: its {name} is {is}, not {wanted}; nothing was sent", path.display())));
        }
    }
    Ok(())
}

//! `stratus image export`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use futures::StreamExt as _;
use sha1::{Digest as _, Sha1};

use crate::cloud::{ImageView, is_image_identifier};
use crate::commands::image_name::Use;
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;
use crate::options::{Cloud, Common};
use crate::progress::byte_bar;
use crate::session::Session;

/// Write the content of an image to a file
///
/// As the cloud keeps it, or as another format, compressed if you like. The content is compared with the image's identifier if it
/// comes as it is kept. Until it is finished the name of the file ends in .part; if it can't be, nothing is left of it.
///
/// --format is that of the file; the result's is --output-format. JSON: {"file", "format", "compression", "bytes", "identifier"}.
#[derive(Debug, clap::Args)]
#[command(mut_arg("format", |format| format.long("output-format")), after_help = "Examples:
  stratus image export IMAGE
  stratus image export --format vmdk -o debian.vmdk IMAGE
  stratus image export --format raw --compression xz IMAGE
  stratus image export -o - IMAGE | ssh elsewhere 'cat > image.qcow2'")]
pub struct Arguments {
    /// Identifier, UUID or name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Disk format; vpc is that of Hyper-V [default: as it is kept]
    #[arg(long = "format", visible_alias = "as", alias = "disk-format", value_name = "FORMAT", value_enum)]
    disk_format: Option<DiskFormat>,
    /// How the file is compressed
    #[arg(long, value_name = "PROGRAM", value_enum)]
    compression: Option<Compression>,
    /// File to write, '-' for standard output [default: IDENTIFIER.FORMAT, with the suffix of the compression]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DiskFormat {
    Raw,
    Qcow2,
    Vdi,
    Vmdk,
    #[value(alias = "vhd")]
    Vpc,
}

impl DiskFormat {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
            Self::Vpc => "vpc",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compression {
    Gz,
    Bz2,
    Xz,
    Zstd,
}

impl Compression {
    const fn name(self) -> &'static str {
        match self {
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Gz => ".gz",
            Self::Bz2 => ".bz2",
            Self::Xz => ".xz",
        }
    }
}

/// Where the bytes go: through a compressor or not.
enum Sink {
    Plain(Box<dyn Write + Send>),
    Gz(flate2::write::GzEncoder<Box<dyn Write + Send>>),
    Bz2(bzip2::write::BzEncoder<Box<dyn Write + Send>>),
    Xz(liblzma::write::XzEncoder<Box<dyn Write + Send>>),
    Zstd(zstd::stream::write::Encoder<'static, Box<dyn Write + Send>>),
}

impl Sink {
    fn new(compression: Option<Compression>, to: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(match compression {
            None => Self::Plain(to),
            Some(Compression::Gz) => Self::Gz(flate2::write::GzEncoder::new(to, flate2::Compression::default())),
            Some(Compression::Bz2) => Self::Bz2(bzip2::write::BzEncoder::new(to, bzip2::Compression::default())),
            Some(Compression::Xz) => Self::Xz(liblzma::write::XzEncoder::new(to, 6)),
            Some(Compression::Zstd) => Self::Zstd(zstd::stream::write::Encoder::new(to, 0)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.write_all(bytes),
            Self::Gz(to) => to.write_all(bytes),
            Self::Bz2(to) => to.write_all(bytes),
            Self::Xz(to) => to.write_all(bytes),
            Self::Zstd(to) => to.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        let mut to = match self {
            Self::Plain(to) => to,
            Self::Gz(to) => to.finish()?,
            Self::Bz2(to) => to.finish()?,
            Self::Xz(to) => to.finish()?,
            Self::Zstd(to) => to.finish()?,
        };
        to.flush()
    }
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let path = super::image_path(&api, &self.image, Use::Content).await?;
        let image: ImageView = api.view(&path).await?;
        if image.state.as_deref() != Some("AVAILABLE") {
            return Err(Failure::Work(format!("image {} is {}, so it has no content", self.image, image.state.as_deref().unwrap_or("unknown"))));
        }
        let kept = image.format.clone().unwrap_or_else(|| "raw".to_owned());
        let format = self.disk_format.map_or(kept.as_str(), |format| format.name());
        let to_stdout = self.output.as_deref() == Some(Path::new("-"));
        let file = self.output.clone().unwrap_or_else(|| {
            let name = image.identifier.as_deref().filter(|name| is_image_identifier(name)).unwrap_or("image");
            PathBuf::from(format!("{name}.{format}{}", self.compression.map_or("", Compression::suffix)))
        });
        let new = if to_stdout { None } else { Some(NewFile::at(&file, self.force)?) };
        let query = if format == kept { String::new() } else { format!("?format={format}") };
        let response = api.open(&format!("{path}/data{query}")).await?;
        let length = response.content_length();
        let identifier = response.headers().get("x-image-identifier").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let to: Box<dyn Write + Send> = match &new {
            None => Box::new(io::stdout()),
            Some(new) => Box::new(new.create()?),
        };
        let bar = byte_bar(&session.out, "Exporting", length.unwrap_or_default());
        let written = receive(response, self.compression, to, &bar).await;
        bar.finish_and_clear();
        let (bytes, sha1) = written?;
        judge(identifier.as_deref(), length, bytes, &sha1)?;
        let Some(new) = new else {
            return Ok(());
        };
        new.finish()?;
        if session.out.is_json() {
            return session.out.json(&serde_json::json!({
                "file": file, "format": format, "compression": self.compression.map(Compression::name), "bytes": bytes,
                "identifier": image.identifier,
            }));
        }
        session.out.line(file.display())
    }
}

/// Whether what came is what the cloud has.
fn judge(identifier: Option<&str>, length: Option<u64>, bytes: u64, sha1: &[u8; 20]) -> Result {
    if length.is_some_and(|length| length != bytes) {
        return Err(Failure::Network(format!("the transfer broke off after {bytes} bytes")));
    }
    let found = marketplace::ImageIdentifier::from_sha1(&marketplace::digest::Digest::from_bytes(*sha1)).to_string();
    match identifier {
        Some(expected) if expected != found => {
            Err(Failure::Work(format!("what came is not the image: its identifier is {found} and not {expected}")))
        }
        _ => Ok(()),
    }
}

/// Writes what comes; its length and SHA-1 before compression.
async fn receive(
    response: reqwest::Response,
    compression: Option<Compression>,
    to: Box<dyn Write + Send>,
    bar: &indicatif::ProgressBar,
) -> Result<(u64, [u8; 20])> {
    let failed = |error: &io::Error| Failure::Work(format!("the image can't be written: {error}"));
    let mut sink = Sink::new(compression, to).map_err(|error| failed(&error))?;
    let (mut bytes, mut sha1) = (0, Sha1::new());
    let mut stream = response.bytes_stream();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| Failure::Network(format!("the transfer broke off after {bytes} bytes: {error}")))?;
        sha1.update(&part);
        sink.write(&part).map_err(|error| failed(&error))?;
        bytes += part.len() as u64;
        bar.set_position(bytes);
    }
    sink.finish().map_err(|error| failed(&error))?;
    Ok((bytes, sha1.finalize().into()))
}

//! The content of an image on its way out: as it is kept, or as another format.
//!
//! Raw and qcow2 are made while they are read, without writing anything down. The formats of other hypervisors are made by
//! `qemu-img`, confined, from a copy of its own in files without names, so that nothing is left whatever happens.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use cimi::resources::{Image, ImageState, MediumFormat};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::images::cached_name;
use super::{StorageController, blocking};
use crate::disk::{self, Disk, FlatQcow2};
use crate::error::Error;
use crate::inspect::Format;
use crate::space;

/// Bytes handed out at once.
const PART_BYTES: u64 = 512 * 1024;
/// How long an export by `qemu-img` waits for others.
const TURN: Duration = Duration::from_secs(60);
/// Room for the headers and tables of a converted image.
const SLACK_BYTES: u64 = 64 << 20;

/// What an image is exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Plain sectors.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VirtualBox's.
    Vdi,
    /// VMware's.
    Vmdk,
    /// Hyper-V's older one.
    Vpc,
}

impl ExportFormat {
    /// QEMU's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
            Self::Vpc => "vpc",
        }
    }
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Self::Raw, Self::Qcow2, Self::Vdi, Self::Vmdk, Self::Vpc];
        let found = all.into_iter().find(|format| format.as_str() == text);
        found
            .or_else(|| (text == "vhd").then_some(Self::Vpc))
            .ok_or_else(|| Error::Invalid {
                what: "format",
                value: text.chars().take(40).collect(),
                reason: "one of raw, qcow2, vdi, vmdk and vpc is".to_owned(),
            })
    }
}

/// Content on its way out.
pub struct Export {
    /// What it is.
    pub format: ExportFormat,
    /// Length of the whole content, if it is known.
    pub length: Option<u64>,
    /// The first byte and the one behind the last that come, if only a part was wanted and that is possible.
    pub part: Option<(u64, u64)>,
    /// The identifier of the whole content, if it is what is kept under it: an image that had to be converted when it came
    /// is named by what came.
    pub identifier: Option<String>,
    /// The bytes.
    pub content: BoxStream<'static, io::Result<Bytes>>,
}

/// What can be read at any place.
enum Source {
    File(File),
    Disk(Box<dyn Disk>),
}

impl Source {
    fn read(&mut self, offset: u64, length: u64) -> io::Result<Bytes> {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
        match self {
            Self::File(file) => file.read_exact_at(&mut buffer, offset)?,
            Self::Disk(disk) => disk.read(offset, &mut buffer).map_err(io::Error::other)?,
        }
        Ok(buffer.into())
    }
}

impl StorageController {
    /// The content of an image; as it is kept unless a format is said. Of what can be read at any place, only the bytes
    /// from `part.0` on, up to the one before `part.1`, if that is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] without content; [`Error::Invalid`] for a part behind its end; [`Error::NoSpace`],
    /// [`Error::Tool`], [`Error::Busy`] for formats that must be made first.
    pub async fn export(
        &self,
        image: &Image,
        format: Option<ExportFormat>,
        part: Option<(u64, Option<u64>)>,
    ) -> Result<Export, Error> {
        let file = image
            .file
            .as_ref()
            .filter(|_| image.state == ImageState::Available);
        let file = file.ok_or_else(|| Error::NotFound {
            kind: "content of",
            name: image.id.to_string(),
        })?;
        let path = PathBuf::from(&file.path);
        let kept = match file.format {
            MediumFormat::Raw => Format::Raw,
            MediumFormat::Qcow2 => Format::Qcow2,
        };
        let as_kept = match kept {
            Format::Raw => ExportFormat::Raw,
            Format::Qcow2 => ExportFormat::Qcow2,
        };
        let format = format.unwrap_or(as_kept);
        if format == as_kept {
            let source = blocking(move || {
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                let length = file.metadata().map_err(Error::io("examine", &path))?.len();
                Ok((Source::File(file), length))
            });
            let (source, length) = source.await?;
            let mut export = random(source, length, format, part)?;
            export.identifier = cached_name(image)
                .filter(|(kind, identifier)| {
                    let kept = self.store(*kind).find(identifier);
                    kept.is_some_and(|kept| kept.converted.is_none())
                })
                .map(|(_, identifier)| identifier.to_string());
            return Ok(export);
        }
        if image.kind == "FILE" {
            return Err(Error::Invalid {
                what: "format",
                value: format.as_str().to_owned(),
                reason: format!("{} is no disk; export it as it is", image.id),
            });
        }
        let disk = blocking(move || disk::open(&path, kept, None)).await?;
        match format {
            ExportFormat::Raw => {
                let length = disk.bytes();
                random(Source::Disk(disk), length, format, part)
            }
            ExportFormat::Qcow2 => {
                let flat = blocking(move || FlatQcow2::new(disk)).await?;
                Ok(Export {
                    format,
                    length: Some(flat.length()),
                    part: None,
                    identifier: None,
                    content: parts_of(flat),
                })
            }
            ExportFormat::Vdi | ExportFormat::Vmdk | ExportFormat::Vpc => {
                self.converted(disk, format).await
            }
        }
    }

    async fn converted(&self, disk: Box<dyn Disk>, format: ExportFormat) -> Result<Export, Error> {
        let qemu_img = self
            .0
            .settings
            .qemu_img
            .clone()
            .ok_or_else(|| Error::NotFound {
                kind: "program",
                name: "qemu-img (an administrator can install qemu-utils)".to_owned(),
            })?;
        let turn = tokio::time::timeout(TURN, self.0.exports.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy { waited: TURN })?;
        let turn = turn.map_err(|_| Error::Cancelled)?;
        let (dir, reserve) = (self.0.settings.dir.clone(), self.0.settings.reserve_bytes);
        let made = blocking(move || {
            let bytes = disk.bytes();
            let mut flat = FlatQcow2::new(disk)?;
            // Both files, each as large as what is stored.
            space::require(&dir, flat.length().saturating_mul(2), reserve)?;
            let (copy, target) = (nameless(&dir)?, nameless(&dir)?);
            while let Some(part) = flat.next()? {
                (&copy)
                    .write_all(&part)
                    .map_err(Error::io("copy to", &dir))?;
            }
            qemu_img.export(
                &copy,
                &target,
                format.as_str(),
                bytes.saturating_add(SLACK_BYTES),
            )?;
            let length = target.metadata().map_err(Error::io("examine", &dir))?.len();
            Ok((Source::File(target), length))
        });
        let (source, length) = made.await?;
        let mut export = random(source, length, format, None)?;
        // The next may begin when this one is sent.
        export.content = export
            .content
            .map(move |part| {
                let _held = &turn;
                part
            })
            .boxed();
        Ok(export)
    }
}

/// A file without a name.
fn nameless(dir: &Path) -> Result<File, Error> {
    let path = dir.join(format!(
        "{}{}",
        crate::durable::UNFINISHED,
        uuid::Uuid::new_v4().simple()
    ));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(Error::io("create", &path))?;
    std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    Ok(file)
}

/// What can be read at any place, or a part of it.
fn random(
    source: Source,
    length: u64,
    format: ExportFormat,
    part: Option<(u64, Option<u64>)>,
) -> Result<Export, Error> {
    let (start, end) = match part {
        None => (0, length),
        Some((start, end)) => (start, end.map_or(length, |end| end.min(length))),
    };
    if part.is_some() && start >= end {
        return Err(Error::Invalid {
            what: "range",
            value: format!("{start}-"),
            reason: format!("the content has {length} bytes"),
        });
    }
    let content = stream::try_unfold((source, start), move |(mut source, at)| async move {
        if at >= end {
            return Ok::<_, io::Error>(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let part = source.read(at, PART_BYTES.min(end - at))?;
            Ok::<_, io::Error>((part, source))
        });
        let (part, source) = read.await.map_err(io::Error::other)??;
        let next = at + part.len() as u64;
        Ok(Some((part, (source, next))))
    });
    Ok(Export {
        format,
        length: Some(length),
        part: part.map(|_| (start, end)),
        identifier: None,
        content: content.boxed(),
    })
}

fn parts_of(flat: FlatQcow2) -> BoxStream<'static, io::Result<Bytes>> {
    let parts = stream::try_unfold(flat, |mut flat| async move {
        let read = tokio::task::spawn_blocking(move || {
            let part = flat.next().map_err(io::Error::other)?;
            Ok::<_, io::Error>((part, flat))
        });
        let (part, flat) = read.await.map_err(io::Error::other)??;
        Ok(part.map(|part| (part, flat)))
    });
    parts.boxed()
}

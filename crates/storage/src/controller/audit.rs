//! Compares the documents with what lies on the disk, for `stratus doctor`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cimi::resources::{EventSeverity, ImageState, VolumeState};
use serde::Serialize;

use super::image_content::Kind;
use super::images::file_is_missing;
use super::{StorageController, blocking, directory};
use crate::backend::{Backend as _, Location, VolumeId};
use crate::durable::{self, UNFINISHED};
use crate::error::Error;
use crate::identifier::ImageIdentifier;

/// A temporary file younger than this may belong to work under way.
const TEMPORARY_AGE: Duration = Duration::from_secs(60);

/// What kind of disagreement was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The file of a volume that no document knows.
    VolumeFileWithoutDocument,
    /// A usable volume whose file is missing.
    VolumeWithoutFile,
    /// A usable image whose file is missing.
    ImageWithoutFile,
    /// A cached image that no document refers to.
    CachedImageWithoutDocument,
    /// What broken-off work left.
    TemporaryFile,
    /// Documents that this version can't read; what seems to belong to nobody may be theirs.
    UnreadableDocuments,
}

/// One disagreement between the documents and the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The resource or file.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// What helps, or (from `repair`) what was done.
    pub repair: String,
    /// How bad it is: `high`, data is missing; `medium`, somebody should look at it; `low`, it only takes space.
    pub severity: EventSeverity,
}

/// What repairing does to a finding.
enum Remedy {
    SetAside(VolumeId),
    Forget(Kind, ImageIdentifier),
    Remove(PathBuf),
    Nothing,
}

impl StorageController {
    /// What is there without belonging to a document, and what a document has that isn't there. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories can't be read.
    pub async fn audit(&self) -> Result<Vec<Finding>, Error> {
        Ok(self
            .findings()
            .await?
            .into_iter()
            .map(|(finding, _)| finding)
            .collect())
    }

    /// The same, and sets right what can be: cached images without documents and temporary files are removed; volumes
    /// without documents are moved to `volumes/orphans`, since they may be somebody's data. While there are
    /// documents that can't be read, only temporary files go.
    ///
    /// # Errors
    /// [`Error::Io`]; what was done before stays done.
    pub async fn repair(&self) -> Result<Vec<Finding>, Error> {
        let mut repaired = Vec::new();
        for (mut finding, remedy) in self.findings().await? {
            if let Some(done) = self.apply(remedy).await? {
                finding.repair = done;
            }
            repaired.push(finding);
        }
        Ok(repaired)
    }

    async fn apply(&self, remedy: Remedy) -> Result<Option<String>, Error> {
        match remedy {
            Remedy::Nothing => Ok(None),
            Remedy::Remove(path) => {
                blocking(move || durable::remove(&path)).await?;
                Ok(Some("removed".to_owned()))
            }
            Remedy::Forget(kind, identifier) => {
                let _references = self.0.references.lock().await;
                if self.is_referred_to(kind, &identifier) {
                    return Ok(Some("nothing: a document refers to it now".to_owned()));
                }
                self.mark_unwanted(kind, &identifier).await?;
                self.collect(kind, &identifier).await?;
                Ok(Some(if self.store(kind).find(&identifier).is_some() {
                    "to be removed as soon as no disk stands on it".to_owned()
                } else {
                    "removed".to_owned()
                }))
            }
            Remedy::SetAside(volume) => {
                let Location::Local { path, .. } = self.0.volumes.location(volume);
                let orphans = self.0.volumes_dir.join("orphans");
                let to = orphans.join(path.file_name().unwrap_or_default());
                let done = format!("moved to {}", to.display());
                blocking(move || {
                    directory(&orphans)?;
                    durable::rename_new(&path, &to)?;
                    durable::sync_parent(&to)?;
                    durable::sync_parent(&path)
                })
                .await?;
                Ok(Some(done))
            }
        }
    }

    async fn findings(&self) -> Result<Vec<(Finding, Remedy)>, Error> {
        let mut findings = Vec::new();
        let unreadable =
            self.0.documents.volumes.unreadable() + self.0.documents.images.unreadable();
        if unreadable > 0 {
            findings.push((
                Finding {
                    kind: FindingKind::UnreadableDocuments,
                    what: "Volume, MachineImage".to_owned(),
                    detail: format!("{unreadable} documents can't be read; perhaps a newer version wrote them"),
                    repair: "start the version that wrote them; until then nothing of the following is removed".to_owned(),
                    severity: EventSeverity::High,
                },
                Remedy::Nothing,
            ));
        }
        self.audit_volumes(&mut findings).await?;
        self.audit_volume_images(&mut findings).await;
        self.audit_images(&mut findings).await?;
        self.audit_cache(&mut findings).await?;
        if unreadable > 0 {
            findings
                .iter_mut()
                .for_each(|(_, remedy)| *remedy = Remedy::Nothing);
        }
        self.audit_temporary(&mut findings).await?;
        Ok(findings)
    }

    async fn audit_volumes(&self, findings: &mut Vec<(Finding, Remedy)>) -> Result<(), Error> {
        // Files first: a document is written before its file is made, and removed after its file.
        let files = self.0.volumes.list().await?;
        for volume in files {
            let known = |local: &str| self.0.documents.volumes.get(local).is_some();
            if known(&volume.to_string()) {
                continue;
            }
            let Ok(stat) = self.0.volumes.stat(volume).await else {
                continue; // it was just being removed
            };
            let Location::Local { path, .. } = self.0.volumes.location(volume);
            findings.push((
                Finding {
                    kind: FindingKind::VolumeFileWithoutDocument,
                    what: path.display().to_string(),
                    detail: format!(
                        "no volume {volume} is known; {} bytes are stored in it",
                        stat.allocated_bytes
                    ),
                    repair: "move it to `orphans` beside it, from where you may save or remove it"
                        .to_owned(),
                    severity: EventSeverity::Medium,
                },
                Remedy::SetAside(volume),
            ));
        }
        for document in self.0.documents.volumes.all() {
            if document.state != VolumeState::Available || document.deleted {
                continue;
            }
            let Ok(volume) = document.id.local().parse::<VolumeId>() else {
                continue;
            };
            if let Err(Error::NotFound { .. }) = self.0.volumes.stat(volume).await {
                let Location::Local { path, .. } = self.0.volumes.location(volume);
                findings.push((
                    Finding {
                        kind: FindingKind::VolumeWithoutFile,
                        what: document.id.to_string(),
                        detail: format!("{} is gone", path.display()),
                        repair: "put the file back, or delete the volume".to_owned(),
                        severity: EventSeverity::High,
                    },
                    Remedy::Nothing,
                ));
            }
        }
        Ok(())
    }

    async fn audit_volume_images(&self, findings: &mut Vec<(Finding, Remedy)>) {
        for document in self.0.documents.volume_images.all() {
            let Ok(name) = document.id.local().parse::<VolumeId>() else {
                continue;
            };
            if document.state != ImageState::Available || self.0.volumes.has_image(name).await {
                continue;
            }
            let path = document.files.first().map_or("", String::as_str);
            findings.push((
                Finding {
                    kind: FindingKind::ImageWithoutFile,
                    what: document.id.to_string(),
                    detail: format!("{path} is gone; volumes that stand on it can't be read"),
                    repair: "put the file back".to_owned(),
                    severity: EventSeverity::High,
                },
                Remedy::Nothing,
            ));
        }
    }

    async fn audit_images(&self, findings: &mut Vec<(Finding, Remedy)>) -> Result<(), Error> {
        for document in self.0.documents.images.all() {
            if document.state != ImageState::Available || !file_is_missing(&document).await? {
                continue;
            }
            let path = document.file.as_ref().map_or("", |file| file.path.as_str());
            findings.push((
                Finding {
                    kind: FindingKind::ImageWithoutFile,
                    what: document.id.to_string(),
                    detail: format!("{path} is gone"),
                    repair: "delete the image and import it again".to_owned(),
                    severity: EventSeverity::High,
                },
                Remedy::Nothing,
            ));
        }
        Ok(())
    }

    async fn audit_cache(&self, findings: &mut Vec<(Finding, Remedy)>) -> Result<(), Error> {
        // What is marked goes by itself, once nothing stands on it.
        let marked = self.marked().await?;
        // An import that just ended has its document refer to the file under this lock.
        let _references = self.0.references.lock().await;
        for kind in Kind::ALL {
            for image in self.store(kind).list() {
                let name = (kind, image.identifier);
                if self.is_referred_to(kind, &image.identifier) || marked.contains(&name) {
                    continue;
                }
                findings.push((
                    Finding {
                        kind: FindingKind::CachedImageWithoutDocument,
                        what: image.path.display().to_string(),
                        detail: format!(
                            "no image refers to {}; it has {} bytes",
                            image.identifier, image.bytes
                        ),
                        repair: "remove it; import it again if it is missed".to_owned(),
                        severity: EventSeverity::Low,
                    },
                    Remedy::Forget(kind, image.identifier),
                ));
            }
        }
        Ok(())
    }

    async fn audit_temporary(&self, findings: &mut Vec<(Finding, Remedy)>) -> Result<(), Error> {
        let mut dirs = vec![(self.0.volumes_dir.clone(), UNFINISHED)];
        if self.0.transfers.is_empty() {
            let cache = self.0.settings.dir.join("cache");
            dirs.extend(["disks", "files"].map(|store| (cache.join(store).join("incoming"), "")));
        }
        let old = blocking(move || {
            let mut old = BTreeMap::new();
            for (dir, prefix) in dirs {
                old.extend(old_files(&dir, prefix)?);
            }
            Ok(old)
        })
        .await?;
        for (path, age) in old {
            findings.push((
                Finding {
                    kind: FindingKind::TemporaryFile,
                    what: path.display().to_string(),
                    detail: format!("left by work that broke off {} s ago", age.as_secs()),
                    repair: "remove it".to_owned(),
                    severity: EventSeverity::Low,
                },
                Remedy::Remove(path),
            ));
        }
        Ok(())
    }
}

/// The entries of a directory with this prefix that nobody changed for a while, with their age.
fn old_files(dir: &Path, prefix: &str) -> Result<Vec<(PathBuf, Duration)>, Error> {
    let now = SystemTime::now();
    let mut old = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|changed| now.duration_since(changed).ok());
        if let Some(age) = age.filter(|age| *age >= TEMPORARY_AGE)
            && entry.file_name().to_string_lossy().starts_with(prefix)
        {
            old.push((entry.path(), age));
        }
    }
    Ok(old)
}

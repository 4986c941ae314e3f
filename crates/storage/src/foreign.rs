//! Disk images of other hypervisors: examined before `qemu-img` may convert them.
//!
//! Each of these formats can name other files. QEMU would open them with its rights, so only images that are complete in
//! one file pass. Sources: VMware "Virtual Disk Format 5.0", VirtualBox `VDICore.h`, Microsoft "Virtual Hard Disk Image
//! Format Specification".

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::Error;
use crate::inspect::Refusal;

/// A format that is converted, never used as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignFormat {
    /// VMware, one sparse file (`monolithicSparse` or `streamOptimized`).
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Connectix and Hyper-V VHD, fixed or dynamic.
    Vpc,
}

const SECTOR: u64 = 512;
const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;

impl std::str::FromStr for ForeignFormat {
    type Err = Error;

    /// Reads the names in use: `vmdk`, `vdi`, `vpc`, `vhd`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "vmdk" => Ok(Self::Vmdk),
            "vdi" => Ok(Self::Vdi),
            "vpc" | "vhd" => Ok(Self::Vpc),
            _ => Err(Error::Invalid {
                what: "format",
                value: text.chars().take(40).collect(),
                reason: "one of raw, qcow2, vmdk, vdi and vpc is".to_owned(),
            }),
        }
    }
}

impl ForeignFormat {
    /// QEMU's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
        }
    }

    /// Makes sure that the file is of this format and complete in itself.
    pub(crate) fn examine(self, file: &File, path: &Path) -> Result<(), Error> {
        let length = file.metadata().map_err(Error::io("examine", path))?.len();
        let image = Bytes { file, path, length };
        match self {
            Self::Vmdk => examine_vmdk(&image),
            Self::Vdi => examine_vdi(&image),
            Self::Vpc => examine_vpc(&image),
        }
    }
}

struct Bytes<'a> {
    file: &'a File,
    path: &'a Path,
    length: u64,
}

impl Bytes<'_> {
    fn at<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.length {
            return Err(Refusal::Truncated {
                what: "the header",
                end,
                length: self.length,
            }
            .into());
        }
        self.file
            .read_exact_at(bytes, offset)
            .map_err(Error::io("read", self.path))
    }

    fn le64(&self, offset: u64) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.at(offset)?))
    }
}

fn refuse(field: &'static str, value: u64, rule: &'static str) -> Error {
    Refusal::Header { field, value, rule }.into()
}

fn examine_vmdk(image: &Bytes<'_>) -> Result<(), Error> {
    /// Grain directory "at the end": a footer repeats the header.
    const AT_END: u64 = u64::MAX;
    if &image.at(0)? != b"KDMV" {
        return Err(Refusal::Foreign("VMDK in several files, or no VMDK").into());
    }
    examine_vmdk_header(image, 0)?;
    if image.le64(56)? == AT_END {
        let footer = image
            .length
            .checked_sub(2 * SECTOR)
            .ok_or_else(|| refuse("size", image.length, "too small"))?;
        if &image.at(footer)? != b"KDMV" {
            return Err(refuse("footer", footer, "not there"));
        }
        examine_vmdk_header(image, footer)?;
    }
    Ok(())
}

fn examine_vmdk_header(image: &Bytes<'_>, at: u64) -> Result<(), Error> {
    let capacity = image.le64(at + 12)?;
    if capacity == 0 {
        // QEMU would take the extents from the descriptor.
        return Err(refuse("capacity", 0, "so the data is in other files"));
    }
    let offset = image.le64(at + 28)?.saturating_mul(SECTOR);
    let bytes = image.le64(at + 36)?.saturating_mul(SECTOR);
    if bytes > MAX_DESCRIPTOR_BYTES {
        return Err(refuse("descriptorSize", bytes, "too large"));
    }
    if offset == 0 || bytes == 0 {
        // The footer of a stream may leave it to the header.
        return if at == 0 {
            Err(refuse(
                "descriptorOffset",
                offset,
                "so there is no descriptor",
            ))
        } else {
            Ok(())
        };
    }
    let mut text = vec![0; usize::try_from(bytes).unwrap_or_default()];
    image.fill(&mut text, offset)?;
    examine_descriptor(&String::from_utf8_lossy(&text))
}

/// The text inside a VMDK: one extent, which is the file itself, and no parent.
fn examine_descriptor(text: &str) -> Result<(), Error> {
    let mut extents = 0;
    let mut kind = None;
    for line in text.split(['\n', '\0']).map(str::trim) {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "createtype" => kind = Some(value.to_owned()),
            "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => {
                return Err(
                    Refusal::BackingFile(format!("parent {}", value.escape_debug())).into(),
                );
            }
            "parentfilenamehint" => {
                return Err(Refusal::BackingFile(value.escape_debug().to_string()).into());
            }
            _ => {}
        }
        if ["RW ", "RDONLY ", "NOACCESS "]
            .iter()
            .any(|access| line.starts_with(access))
        {
            extents += 1;
            let name = line.split('"').nth(1).unwrap_or_default();
            if !line.contains(" SPARSE ") || name.contains(['/', '\\', ':']) {
                return Err(Refusal::ExternalData(line.escape_debug().to_string()).into());
            }
        }
    }
    match kind.as_deref() {
        Some("monolithicSparse" | "streamOptimized") if extents == 1 => Ok(()),
        Some("monolithicSparse" | "streamOptimized") => Err(refuse("extents", extents, "not one")),
        kind => Err(Refusal::ExternalData(format!(
            "createType {}",
            kind.unwrap_or("missing").escape_debug()
        ))
        .into()),
    }
}

fn examine_vdi(image: &Bytes<'_>) -> Result<(), Error> {
    const SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
    if image.at(64)? != SIGNATURE {
        return Err(Refusal::Foreign("no VDI").into());
    }
    for (offset, name) in [(424, "linked image"), (440, "parent image")] {
        if image.at::<16>(offset)? != [0; 16] {
            return Err(Refusal::BackingFile(name.to_owned()).into());
        }
    }
    Ok(())
}

fn examine_vpc(image: &Bytes<'_>) -> Result<(), Error> {
    let footer = image.length.checked_sub(SECTOR).ok_or(Refusal::Empty)?;
    let mut found = false;
    for at in [0, footer] {
        if &image.at(at)? == b"conectix" {
            found = true;
            let kind = u32::from_be_bytes(image.at(at + 60)?);
            match kind {
                2 | 3 => {}
                4 => {
                    return Err(
                        Refusal::BackingFile("parent of a differencing disk".to_owned()).into(),
                    );
                }
                _ => return Err(refuse("disk type", kind.into(), "not fixed or dynamic")),
            }
        }
    }
    if found {
        Ok(())
    } else {
        Err(Refusal::Foreign("no VHD").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_may_name_nothing_but_itself() {
        let good = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\nRW 100 SPARSE \"d.vmdk\"\n\0\0";
        examine_descriptor(good).expect("self-contained");
        let spoil =
            |from: &str, to: &str| examine_descriptor(&good.replace(from, to)).expect_err(to);
        spoil("RW 100 SPARSE \"d.vmdk\"", "RW 100 FLAT \"/etc/shadow\" 0");
        spoil("d.vmdk", "../d.vmdk");
        spoil("ffffffff", "12345678");
        spoil("CID=1\n", "CID=1\nparentFileNameHint=\"/etc/shadow\"\n");
        spoil("monolithicSparse", "monolithicFlat");
        spoil("RW 100", "RW 1 SPARSE \"a\"\nRW 100");
    }
}

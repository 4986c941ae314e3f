//! The header of a qcow2 image, read from bytes nobody vouches for (QEMU's `docs/interop/qcow2`).

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{PREFIX_BYTES, Refusal};
use crate::error::Error;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_EXTERNAL_DATA: u32 = 0x4441_5441;
const EXTENSION_LUKS: u32 = 0x0537_be77;

/// Bits 9 to 55 of a table entry: where in the file it points.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry: the cluster is compressed and the offset has another form.
const COMPRESSED: u64 = 1 << 62;

/// The largest L1 and refcount tables QEMU itself accepts.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The fields of a header that passed the examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Header {
    /// 2 or 3.
    pub version: u32,
    /// Size of the guest's disk.
    pub virtual_bytes: u64,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    l1_entries: u64,
    l1_offset: u64,
    refcount_table_offset: u64,
    refcount_table_bytes: u64,
    extended_l2: bool,
    zstd: bool,
}

/// Big-endian fields of a byte slice; beyond its end the image is cut off.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refusal> {
        let end = offset.saturating_add(N);
        self.0
            .get(offset..end)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Refusal::Truncated {
                what: "the qcow2 header",
                end: end as u64,
                length: self.0.len() as u64,
            })
    }

    fn u32(&self, offset: usize) -> Result<u32, Refusal> {
        Ok(u32::from_be_bytes(self.array(offset)?))
    }

    fn u64(&self, offset: usize) -> Result<u64, Refusal> {
        Ok(u64::from_be_bytes(self.array(offset)?))
    }

    /// Text of an untrusted header, fit for a message.
    fn text(&self, offset: u64, length: u64) -> String {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let length = usize::try_from(length.min(200)).unwrap_or_default();
        match self.0.get(start..start.saturating_add(length)) {
            Some(bytes) => String::from_utf8_lossy(bytes).escape_debug().to_string(),
            None => "unnamed".to_owned(),
        }
    }
}

impl Qcow2Header {
    /// Reads the header and its extensions from the first bytes of an image and refuses whatever would make the
    /// image more than a self-contained disk.
    pub(super) fn parse(prefix: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields(prefix);
        let backing_offset = fields.u64(8)?;
        if backing_offset != 0 {
            return Err(Refusal::BackingFile(
                fields.text(backing_offset, u64::from(fields.u32(16)?)),
            ));
        }
        Self::parse_overlay(prefix)
    }

    /// The same for a disk that may stand on another. The name of that is not looked at: who reads the disk says what
    /// lies below.
    pub(crate) fn parse_overlay(prefix: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields(prefix);
        if !prefix.starts_with(b"QFI\xfb") {
            return Err(Refusal::NotAsStated {
                stated: super::Format::Qcow2,
                found: "not qcow2",
            });
        }
        let version = fields.u32(4)?;
        if !matches!(version, 2 | 3) {
            return Err(header("version", version, "not 2 or 3"));
        }
        let cluster_bits = fields.u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(header("cluster_bits", cluster_bits, "not between 9 and 21"));
        }
        let virtual_bytes = fields.u64(24)?;
        if virtual_bytes == 0 {
            return Err(header("size", 0_u32, "so there is no disk in it"));
        }
        let encryption = fields.u32(32)?;
        if encryption != 0 {
            return Err(Refusal::Encrypted(encryption));
        }
        let snapshots = fields.u32(60)?;
        if snapshots != 0 {
            return Err(Refusal::Snapshots(snapshots));
        }
        let (extended_l2, zstd) = if version == 3 {
            Self::parse_version_3(&fields, cluster_bits)?
        } else {
            (false, false)
        };
        Self::scan_extensions(
            &fields,
            if version == 3 { fields.u32(100)? } else { 72 },
            cluster_bits,
        )?;

        let parsed = Self {
            version,
            virtual_bytes,
            cluster_bits,
            l1_entries: u64::from(fields.u32(36)?),
            l1_offset: fields.u64(40)?,
            refcount_table_offset: fields.u64(48)?,
            refcount_table_bytes: u64::from(fields.u32(56)?) << cluster_bits,
            extended_l2,
            zstd,
        };
        parsed.check_geometry()?;
        Ok(parsed)
    }

    /// The fields version 3 added. Returns whether L2 entries are extended, and whether clusters are
    /// compressed by zstd.
    fn parse_version_3(fields: &Fields<'_>, cluster_bits: u32) -> Result<(bool, bool), Refusal> {
        let incompatible = fields.u64(72)?;
        if incompatible & EXTERNAL_DATA != 0 {
            return Err(Refusal::ExternalData("unnamed".to_owned()));
        }
        if incompatible & CORRUPT != 0 {
            return Err(Refusal::Corrupt);
        }
        if incompatible & DIRTY != 0 {
            return Err(Refusal::Dirty);
        }
        let unknown =
            incompatible & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2);
        if unknown != 0 {
            return Err(Refusal::UnknownFeatures(unknown));
        }
        let refcount_order = fields.u32(96)?;
        if refcount_order > 6 {
            return Err(header("refcount_order", refcount_order, "more than 6"));
        }
        let length = fields.u32(100)?;
        if length < 104 || length % 8 != 0 || u64::from(length) > 1 << cluster_bits {
            return Err(header(
                "header_length",
                length,
                "not a multiple of 8 between 104 and one cluster",
            ));
        }
        let compression_type = if length > 104 {
            fields.array::<1>(104)?[0]
        } else {
            0
        };
        if compression_type > 1 || (compression_type != 0) != (incompatible & COMPRESSION_TYPE != 0)
        {
            return Err(header(
                "compression_type",
                compression_type,
                "not deflate or zstd as its feature bit says",
            ));
        }
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err(header(
                "cluster_bits",
                cluster_bits,
                "too small for extended L2 entries",
            ));
        }
        Ok((extended_l2, compression_type == 1))
    }

    fn scan_extensions(fields: &Fields<'_>, start: u32, cluster_bits: u32) -> Result<(), Refusal> {
        let too_long = || header("header extensions", PREFIX_BYTES as u64, "too long");
        let area_end = (1_usize << cluster_bits).min(PREFIX_BYTES);
        let mut offset = start as usize;
        while offset.saturating_add(8) <= area_end {
            // A file may legitimately end where an old writer's header does.
            if version_2_ends(fields, offset) {
                return Ok(());
            }
            let kind = fields.u32(offset)?;
            let length = fields.u32(offset.saturating_add(4))? as usize;
            let data = offset.saturating_add(8);
            match kind {
                EXTENSION_END => return Ok(()),
                EXTENSION_EXTERNAL_DATA => {
                    return Err(Refusal::ExternalData(
                        fields.text(data as u64, length as u64),
                    ));
                }
                EXTENSION_LUKS => return Err(Refusal::Encrypted(2)),
                _ => {}
            }
            if length > area_end {
                return Err(too_long());
            }
            offset = data.saturating_add(length.next_multiple_of(8));
        }
        if offset > area_end {
            Err(too_long())
        } else {
            Ok(())
        }
    }

    fn check_geometry(&self) -> Result<(), Refusal> {
        let cluster = 1_u64 << self.cluster_bits;
        let entries_per_l2 = cluster / self.l2_entry_bytes();
        let per_l1_entry = cluster.saturating_mul(entries_per_l2);
        if self.l1_entries.saturating_mul(8) > MAX_L1_BYTES {
            return Err(header("l1_size", self.l1_entries, "more than QEMU accepts"));
        }
        if self.l1_entries < self.virtual_bytes.div_ceil(per_l1_entry) {
            return Err(header(
                "l1_size",
                self.l1_entries,
                "too small for the virtual size",
            ));
        }
        let table_offsets = [
            ("l1_table_offset", self.l1_offset),
            ("refcount_table_offset", self.refcount_table_offset),
        ];
        for (field, offset) in table_offsets {
            if offset < cluster || offset % cluster != 0 {
                return Err(header(
                    field,
                    offset,
                    "not at the start of a cluster behind the header",
                ));
            }
        }
        if self.refcount_table_bytes == 0 || self.refcount_table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(header(
                "refcount_table_clusters",
                self.refcount_table_bytes >> self.cluster_bits,
                "none or too many",
            ));
        }
        Ok(())
    }

    /// Where the L1 table is, and how many entries it has.
    pub(crate) const fn l1(&self) -> (u64, u64) {
        (self.l1_offset, self.l1_entries)
    }

    /// Whether L2 entries are of 16 bytes.
    pub(crate) const fn extended_l2(&self) -> bool {
        self.extended_l2
    }

    /// Whether compressed clusters are so by zstd rather than deflate.
    pub(crate) const fn zstd(&self) -> bool {
        self.zstd
    }

    const fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Both tables must lie inside a file of this length.
    pub(crate) fn check_length(&self, length: u64) -> Result<(), Refusal> {
        let l1_end = self
            .l1_offset
            .saturating_add(self.l1_entries.saturating_mul(8));
        let refcount_end = self
            .refcount_table_offset
            .saturating_add(self.refcount_table_bytes);
        for (what, end) in [
            ("the L1 table", l1_end),
            ("the refcount table", refcount_end),
        ] {
            if end > length {
                return Err(Refusal::Truncated { what, end, length });
            }
        }
        Ok(())
    }

    /// Every table and data cluster must start inside the file, and no L2 table may be listed twice (a small file could
    /// otherwise make every reader walk terabytes).
    pub(super) fn check_tables(&self, file: &File, path: &Path, length: u64) -> Result<(), Error> {
        let cluster = 1_u64 << self.cluster_bits;
        let inside = |what, offset: u64| {
            if offset >= length {
                Err(Refusal::Truncated {
                    what,
                    end: offset.saturating_add(1),
                    length,
                })
            } else {
                Ok(())
            }
        };
        let mut seen = HashSet::new();
        let mut table = vec![0; usize::try_from(cluster).unwrap_or(PREFIX_BYTES)];
        let l1_bytes = usize::try_from(self.l1_entries.saturating_mul(8)).unwrap_or_default();
        let mut l1 = vec![0; l1_bytes];
        file.read_exact_at(&mut l1, self.l1_offset)
            .map_err(Error::io("read the L1 table of", path))?;
        for entry in big_endian(&l1, 8) {
            let l2_offset = entry & OFFSET_MASK;
            if l2_offset == 0 {
                continue;
            }
            if !l2_offset.is_multiple_of(cluster) {
                return Err(
                    header("an L1 entry", l2_offset, "not at the start of a cluster").into(),
                );
            }
            if !seen.insert(l2_offset) {
                return Err(header("an L1 entry", l2_offset, "listed twice").into());
            }
            let l2_end = l2_offset.saturating_add(cluster);
            if l2_end > length {
                return Err(Refusal::Truncated {
                    what: "an L2 table",
                    end: l2_end,
                    length,
                }
                .into());
            }
            file.read_exact_at(&mut table, l2_offset)
                .map_err(Error::io("read an L2 table of", path))?;
            for entry in big_endian(&table, self.l2_entry_bytes() as usize) {
                let offset = if entry & COMPRESSED == 0 {
                    entry & OFFSET_MASK
                } else {
                    // Of a compressed cluster, 62 - (cluster_bits - 8) bits are the byte it starts at.
                    entry & ((1 << (70 - self.cluster_bits)) - 1)
                };
                if offset != 0 {
                    inside("a data cluster", offset)?;
                }
            }
        }
        Ok(())
    }
}

/// The first eight bytes of each entry of a table.
fn big_endian(table: &[u8], entry_bytes: usize) -> impl Iterator<Item = u64> + '_ {
    table
        .chunks_exact(entry_bytes)
        .filter_map(|entry| entry.first_chunk().copied())
        .map(u64::from_be_bytes)
}

fn version_2_ends(fields: &Fields<'_>, offset: usize) -> bool {
    offset == 72 && fields.0.len() <= 72
}

fn header(field: &'static str, value: impl Into<u64>, rule: &'static str) -> Refusal {
    Refusal::Header {
        field,
        value: value.into(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as QEMU writes it for an empty 1 GiB disk, to be spoilt by the tests.
    fn good() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"QFI\xfb");
        put(4, &3_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 30).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &0x3_0000_u64.to_be_bytes());
        put(48, &0x1_0000_u64.to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &112_u32.to_be_bytes());
        bytes
    }

    fn with(at: usize, field: &[u8]) -> Vec<u8> {
        let mut bytes = good();
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    }

    #[test]
    fn a_plain_header_is_read() {
        let header = Qcow2Header::parse(&good()).expect("valid");
        assert_eq!(
            (header.version, header.virtual_bytes, header.cluster_bits),
            (3, 1 << 30, 16)
        );
        assert!(header.check_length(0x4_0000).is_ok());
        assert!(matches!(
            header.check_length(0x3_0008),
            Err(Refusal::Truncated {
                what: "the L1 table",
                ..
            })
        ));
    }

    #[test]
    fn each_trick_has_its_refusal() {
        let mut backing = with(8, &300_u64.to_be_bytes());
        backing[16..20].copy_from_slice(&11_u32.to_be_bytes());
        backing[300..311].copy_from_slice(b"/etc/shadow");
        assert_eq!(
            Qcow2Header::parse(&backing),
            Err(Refusal::BackingFile("/etc/shadow".to_owned()))
        );

        let mut data_file = with(112, &EXTENSION_EXTERNAL_DATA.to_be_bytes());
        data_file[116..120].copy_from_slice(&8_u32.to_be_bytes());
        data_file[120..128].copy_from_slice(b"/dev/vda");
        assert_eq!(
            Qcow2Header::parse(&data_file),
            Err(Refusal::ExternalData("/dev/vda".to_owned()))
        );

        let bit = |bit: u64| with(72, &bit.to_be_bytes());
        assert!(matches!(
            Qcow2Header::parse(&bit(EXTERNAL_DATA)),
            Err(Refusal::ExternalData(_))
        ));
        assert_eq!(Qcow2Header::parse(&bit(DIRTY)), Err(Refusal::Dirty));
        assert_eq!(Qcow2Header::parse(&bit(CORRUPT)), Err(Refusal::Corrupt));
        assert_eq!(
            Qcow2Header::parse(&bit(1 << 40)),
            Err(Refusal::UnknownFeatures(1 << 40))
        );
        assert_eq!(
            Qcow2Header::parse(&with(32, &2_u32.to_be_bytes())),
            Err(Refusal::Encrypted(2))
        );
        assert_eq!(
            Qcow2Header::parse(&with(112, &EXTENSION_LUKS.to_be_bytes())),
            Err(Refusal::Encrypted(2))
        );
        assert_eq!(
            Qcow2Header::parse(&with(60, &3_u32.to_be_bytes())),
            Err(Refusal::Snapshots(3))
        );
    }

    #[test]
    fn absurd_fields_are_refused_by_name() {
        let cases: [(usize, Vec<u8>, &str); 13] = [
            (4, 4_u32.to_be_bytes().to_vec(), "version"),
            (20, 8_u32.to_be_bytes().to_vec(), "cluster_bits"),
            (20, 64_u32.to_be_bytes().to_vec(), "cluster_bits"),
            (24, 0_u64.to_be_bytes().to_vec(), "size"),
            (24, u64::MAX.to_be_bytes().to_vec(), "l1_size"),
            (36, 1_u32.to_be_bytes().to_vec(), "l1_size"),
            (36, u32::MAX.to_be_bytes().to_vec(), "l1_size"),
            (40, 0x100_u64.to_be_bytes().to_vec(), "l1_table_offset"),
            (48, 0_u64.to_be_bytes().to_vec(), "refcount_table_offset"),
            (
                56,
                u32::MAX.to_be_bytes().to_vec(),
                "refcount_table_clusters",
            ),
            (96, 7_u32.to_be_bytes().to_vec(), "refcount_order"),
            (100, 103_u32.to_be_bytes().to_vec(), "header_length"),
            (104, vec![1], "compression_type"),
        ];
        for (at, field, name) in cases {
            let refused = Qcow2Header::parse(&with(at, &field));
            assert!(
                matches!(refused, Err(Refusal::Header { field, .. }) if field == name),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_cut_off() {
        for length in 8..112 {
            assert!(
                matches!(
                    Qcow2Header::parse(&good()[..length]),
                    Err(Refusal::Truncated { .. })
                ),
                "{length} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in proptest::collection::vec((0_usize..512, any::<u8>()), 0..24),
            length in 0_usize..512,
        ) {
            let mut bytes = good();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(length);
            if let Ok(header) = Qcow2Header::parse(&bytes) {
                let _ = header.check_length(u64::MAX);
                let _ = header.check_length(0);
            }
        }
    }
}

//! A disk as the bytes of a standalone qcow2 file, one behind the other, without writing any of them down first.
//!
//! Where everything lies follows from which clusters hold data, so that is asked first, from tables alone; then the file
//! comes as one stream that can be digested while it is written.
//!
//! ```text
//! header │ L1 table │ refcount table │ refcount blocks │ L2 tables │ data clusters in the guest's order
//! ```

use bytes::Bytes;

use super::Disk;
use crate::buffers::Buffers;
use crate::error::Error;
use crate::qcow2::{self, CLUSTER};

/// Data clusters handed out at once. Fewer cost more changes between threads than the processor caches gain.
const AT_ONCE: u64 = 16;
/// Entries in an L2 table, and in the part of the refcount table that fills a cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Reference counts of 16 bits in a block.
const COUNTS: u64 = CLUSTER / 2;
/// "Exactly one reference": this cluster may be written in place.
const COPIED: u64 = 1 << 63;

/// Which clusters of the guest hold data: a bit each.
struct Map(Vec<u64>);

impl Map {
    fn of(disk: &mut dyn Disk) -> Result<Self, Error> {
        let clusters = disk.bytes().div_ceil(CLUSTER);
        let mut words = vec![0; usize::try_from(clusters.div_ceil(64)).unwrap_or_default()];
        for cluster in 0..clusters {
            if disk.may_hold_data(cluster * CLUSTER, CLUSTER)?
                && let Some(word) = words.get_mut(place(cluster / 64))
            {
                *word |= 1 << (cluster % 64);
            }
        }
        Ok(Self(words))
    }

    fn holds(&self, cluster: u64) -> bool {
        let word = self.0.get(place(cluster / 64)).copied();
        word.unwrap_or_default() >> (cluster % 64) & 1 == 1
    }

    /// How many of the clusters that one L2 table maps hold data.
    fn count(&self, table: u64) -> u64 {
        let words = place(table * ENTRIES / 64)..place((table + 1) * ENTRIES / 64);
        let end = words.end.min(self.0.len());
        let words = self.0.get(words.start.min(end)..end).unwrap_or_default();
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first cluster from `from` on that holds data.
    fn next(&self, from: u64) -> Option<u64> {
        let mut at = from;
        loop {
            let word = self.0.get(place(at / 64))? >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
    }
}

/// The file, part by part.
pub struct FlatQcow2 {
    disk: Box<dyn Disk>,
    map: Map,
    /// The L1 entries that have a table, with how many data clusters come before theirs.
    tables: Vec<(u64, u64)>,
    l1_clusters: u64,
    refcount_table_clusters: u64,
    refcount_blocks: u64,
    /// All clusters of the file.
    clusters: u64,
    /// The next one to hand out.
    at: u64,
    /// From where on the guest's clusters are still to come.
    guest: u64,
    buffers: Buffers,
}

impl std::fmt::Debug for FlatQcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlatQcow2")
            .field("clusters", &self.clusters)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl FlatQcow2 {
    /// Finds out where everything will lie. Blocks for as long as it takes to read the tables of the disk.
    ///
    /// # Errors
    /// Those of the disk; [`Error::Invalid`] for a size no disk of ours has.
    pub fn new(mut disk: Box<dyn Disk>) -> Result<Self, Error> {
        qcow2::check_size(disk.bytes())?;
        let map = Map::of(&mut *disk)?;
        let l1_entries = qcow2::l1_entries(disk.bytes());
        let mut tables = Vec::new();
        let mut data = 0;
        for entry in 0..l1_entries {
            let count = map.count(entry);
            if count > 0 {
                tables.push((entry, data));
                data += count;
            }
        }
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
        let counted = 1 + l1_clusters + tables.len() as u64 + data;
        // The blocks count themselves, and the table that lists them.
        let (mut blocks, mut table) = (1, 1);
        loop {
            let needed = (counted + blocks + table).div_ceil(COUNTS);
            let needed_table = needed.div_ceil(ENTRIES);
            if needed <= blocks && needed_table <= table {
                break;
            }
            (blocks, table) = (needed.max(blocks), needed_table.max(table));
        }
        Ok(Self {
            disk,
            map,
            tables,
            l1_clusters,
            refcount_table_clusters: table,
            refcount_blocks: blocks,
            clusters: counted + blocks + table,
            at: 0,
            guest: 0,
            buffers: Buffers::of((AT_ONCE * CLUSTER) as usize),
        })
    }

    /// Length of the whole file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.clusters * CLUSTER
    }

    fn refcount_table(&self) -> u64 {
        1 + self.l1_clusters
    }

    fn first_block(&self) -> u64 {
        self.refcount_table() + self.refcount_table_clusters
    }

    fn first_table(&self) -> u64 {
        self.first_block() + self.refcount_blocks
    }

    fn first_data(&self) -> u64 {
        self.first_table() + self.tables.len() as u64
    }

    /// The next part of the file, up to a mebibyte; none at its end. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn next_part(&mut self) -> Result<Option<Bytes>, Error> {
        if self.at == self.clusters {
            return Ok(None);
        }
        if self.at >= self.first_data() {
            return self.data().map(Some);
        }
        let at = self.at;
        let cluster = if at == 0 {
            qcow2::standalone_header(
                self.disk.bytes(),
                CLUSTER,
                self.refcount_table() * CLUSTER,
                self.refcount_table_clusters,
            )
        } else if at < self.refcount_table() {
            self.l1_cluster(at - 1)
        } else if at < self.first_block() {
            let first = (at - self.refcount_table()) * ENTRIES;
            let blocks = (first..self.refcount_blocks.min(first + ENTRIES))
                .map(|block| (self.first_block() + block) * CLUSTER);
            big_endian(blocks)
        } else if at < self.first_table() {
            let first = (at - self.first_block()) * COUNTS;
            let used = self.clusters.saturating_sub(first).min(COUNTS);
            (0..used).flat_map(|_| 1_u16.to_be_bytes()).collect()
        } else {
            self.l2_table(at - self.first_table())
        };
        self.at += 1;
        let mut cluster = cluster;
        cluster.resize(CLUSTER as usize, 0);
        Ok(Some(cluster.into()))
    }

    fn l1_cluster(&self, number: u64) -> Vec<u8> {
        let first = number * ENTRIES;
        let mut entries = vec![0; ENTRIES as usize];
        let begin = self.tables.partition_point(|(entry, _)| *entry < first);
        for (table, (entry, _)) in self.tables.iter().enumerate().skip(begin) {
            let Some(slot) = entries.get_mut(place(entry - first)) else {
                break;
            };
            *slot = ((self.first_table() + table as u64) * CLUSTER) | COPIED;
        }
        big_endian(entries.into_iter())
    }

    fn l2_table(&self, number: u64) -> Vec<u8> {
        let Some((entry, before)) = self.tables.get(place(number)) else {
            return Vec::new();
        };
        let mut next = self.first_data() + before;
        let entries = (entry * ENTRIES..(entry + 1) * ENTRIES).map(|cluster| {
            if !self.map.holds(cluster) {
                return 0;
            }
            next += 1;
            ((next - 1) * CLUSTER) | COPIED
        });
        big_endian(entries)
    }

    fn data(&mut self) -> Result<Bytes, Error> {
        let count = AT_ONCE.min(self.clusters - self.at);
        let length = (count * CLUSTER) as usize;
        let mut buffer = self.buffers.take();
        let clusters = buffer.memory().chunks_exact_mut(CLUSTER as usize);
        for (part, _) in clusters.zip(0..count) {
            // As many as the map counts; a missing one would be zeroes.
            match self.map.next(self.guest) {
                Some(cluster) => {
                    self.disk.read(cluster * CLUSTER, part)?;
                    self.guest = cluster + 1;
                }
                None => part.fill(0),
            }
        }
        self.at += count;
        Ok(buffer.into_bytes(length))
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn big_endian(entries: impl Iterator<Item = u64>) -> Vec<u8> {
    entries.flat_map(u64::to_be_bytes).collect()
}

//! Places everything and writes it out.
//!
//! Folders are made twice by the same function: first with all places zero, to learn their sizes, then with the real places.

use super::descriptors::{View, Volume, terminator, volume_descriptor};
use super::records::{Dates, Endian, Extent, directory_record, path_table_record, ucs2};
use super::tree::{Child, Folder, Node, folders_of};
use super::{SECTOR_BYTES, VolumeLabel, rock_ridge};
use crate::error::{ContextError, Result};
use crate::limits::MEDIUM_MAX_BYTES;
use crate::medium::MediumFile;

const FOLDER_MODE: u32 = 0o040_555;
const FILE_MODE: u32 = 0o100_444;
const SCRIPT_MODE: u32 = 0o100_555;

const FIRST_FREE_SECTOR: u32 = 19;

/// Smaller media are filled up. busybox (`findfs`, `mount LABEL=`) reads 68 KiB before it looks at any label and gives up when
/// there is less; it was seen to miss a medium of 56 KiB.
const MEDIUM_MIN_SECTORS: u32 = 64;

/// Where everything stands.
struct Places {
    primary_folders: Vec<Extent>,
    joliet_folders: Vec<Extent>,
    files: Vec<Extent>,
    continuation: Extent,
}

impl Places {
    fn folders(&self, view: View) -> &[Extent] {
        match view {
            View::Primary => &self.primary_folders,
            View::Joliet => &self.joliet_folders,
        }
    }
}

/// Hands out sectors one after the other. Callers check the total against [`MEDIUM_MAX_BYTES`], far below where this would saturate.
struct Sectors {
    next: u32,
}

impl Sectors {
    fn take(&mut self, bytes: usize) -> Extent {
        let sector = self.next;
        let count = u32::try_from(bytes.div_ceil(SECTOR_BYTES)).unwrap_or(u32::MAX);
        self.next = self.next.saturating_add(count);
        Extent {
            sector,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        }
    }
}

pub(super) fn write(label: &VolumeLabel, dates: &Dates, files: &[MediumFile]) -> Result<Vec<u8>> {
    check_size(
        files
            .iter()
            .map(|file| file.content.len())
            .fold(0, usize::saturating_add),
    )?;
    let folders = folders_of(files)?;
    let tree = Tree {
        folders: &folders,
        files,
        dates,
    };

    let nowhere = Places {
        primary_folders: vec![Extent::default(); folders.len()],
        joliet_folders: vec![Extent::default(); folders.len()],
        files: vec![Extent::default(); files.len()],
        continuation: Extent::default(),
    };
    let mut sectors = Sectors {
        next: FIRST_FREE_SECTOR,
    };
    let mut place_tree = |view| {
        let path_table_bytes = tree.path_table(view, Endian::Little, &nowhere).len();
        let tables = [
            sectors.take(path_table_bytes),
            sectors.take(path_table_bytes),
        ];
        let extents = (0..folders.len())
            .map(|number| sectors.take(tree.folder(view, number, &nowhere).len()))
            .collect::<Vec<_>>();
        (tables, extents)
    };
    let (primary_tables, primary_folders) = place_tree(View::Primary);
    let (joliet_tables, joliet_folders) = place_tree(View::Joliet);
    let extension = rock_ridge::extension_reference();
    let continuation = sectors.take(extension.len());
    // An empty file needs no sector, but its place must lie within the medium: it shares the continuation's.
    let file_extents = files
        .iter()
        .map(|file| match file.content.len() {
            0 => Extent {
                bytes: 0,
                ..continuation
            },
            bytes => sectors.take(bytes),
        })
        .collect();
    let total_sectors = sectors.next.max(MEDIUM_MIN_SECTORS);
    let total_bytes = (total_sectors as usize).saturating_mul(SECTOR_BYTES);
    check_size(total_bytes)?;
    let places = Places {
        primary_folders,
        joliet_folders,
        files: file_extents,
        continuation,
    };

    let mut medium = Vec::with_capacity(total_bytes);
    medium.resize(16 * SECTOR_BYTES, 0);
    let trees = [
        (View::Primary, primary_tables),
        (View::Joliet, joliet_tables),
    ];
    for (view, [little, big]) in trees {
        push_sectors(
            &mut medium,
            &volume_descriptor(
                view,
                &Volume {
                    label,
                    sectors: total_sectors,
                    path_table_bytes: little.bytes,
                    little_path_table_sector: little.sector,
                    big_path_table_sector: big.sector,
                    root: places.folders(view).first().copied().unwrap_or_default(),
                    dates,
                },
            ),
        );
    }
    push_sectors(&mut medium, &terminator());
    for (view, _) in trees {
        for endian in [Endian::Little, Endian::Big] {
            push_sectors(&mut medium, &tree.path_table(view, endian, &places));
        }
        for number in 0..folders.len() {
            push_sectors(&mut medium, &tree.folder(view, number, &places));
        }
    }
    push_sectors(&mut medium, &extension);
    for file in files {
        push_sectors(&mut medium, &file.content);
    }
    debug_assert!(medium.len() <= total_bytes);
    medium.resize(total_bytes, 0);
    Ok(medium)
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes > MEDIUM_MAX_BYTES {
        Err(ContextError::MediumTooLarge { bytes })
    } else {
        Ok(())
    }
}

fn push_sectors(medium: &mut Vec<u8>, content: &[u8]) {
    medium.extend_from_slice(content);
    medium.resize(medium.len().next_multiple_of(SECTOR_BYTES), 0);
}

struct Tree<'a> {
    folders: &'a [Folder],
    files: &'a [MediumFile],
    dates: &'a Dates,
}

impl Tree<'_> {
    /// The path table of one tree: every folder, in the order of [`folders_of`].
    fn path_table(&self, view: View, endian: Endian, places: &Places) -> Vec<u8> {
        let mut table = Vec::new();
        for (number, (folder, extent)) in self.folders.iter().zip(places.folders(view)).enumerate()
        {
            let identifier = if number == 0 {
                vec![0]
            } else {
                identifier(view, &folder.name, Node::Folder(number))
            };
            // A medium within its size limit has a few thousand folders at most.
            let parent_number = u16::try_from(folder.parent + 1).unwrap_or(u16::MAX);
            table.extend(path_table_record(
                &identifier,
                extent.sector,
                parent_number,
                endian,
            ));
        }
        table
    }

    /// One folder: itself, its parent, then what is in it, sorted by identifier; no record crosses a sector.
    fn folder(&self, view: View, number: usize, places: &Places) -> Vec<u8> {
        let Some(folder) = self.folders.get(number) else {
            return Vec::new();
        };
        let mut content = Vec::new();
        push_record(
            &mut content,
            &self.own_record(view, &[0], number, number == 0, places),
        );
        push_record(
            &mut content,
            &self.own_record(view, &[1], folder.parent, false, places),
        );
        let mut records: Vec<_> = folder
            .children
            .iter()
            .map(|child| (identifier(view, &child.name, child.node), child))
            .collect();
        records.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (identifier, child) in records {
            push_record(
                &mut content,
                &self.child_record(view, &identifier, child, places),
            );
        }
        content.resize(content.len().next_multiple_of(SECTOR_BYTES), 0);
        content
    }

    /// The first two records of every folder.
    fn own_record(
        &self,
        view: View,
        identifier: &[u8],
        folder: usize,
        is_root_itself: bool,
        places: &Places,
    ) -> Vec<u8> {
        let mut system_use = Vec::new();
        if view == View::Primary {
            if is_root_itself {
                system_use.extend(rock_ridge::sharing_protocol());
            }
            system_use.extend(rock_ridge::posix_attributes(
                FOLDER_MODE,
                self.links_of(folder),
            ));
            if is_root_itself {
                system_use.extend(rock_ridge::continuation(
                    places.continuation.sector,
                    places.continuation.bytes,
                ));
            }
        }
        let extent = places
            .folders(view)
            .get(folder)
            .copied()
            .unwrap_or_default();
        directory_record(identifier, extent, true, self.dates, &system_use)
    }

    fn child_record(
        &self,
        view: View,
        identifier: &[u8],
        child: &Child,
        places: &Places,
    ) -> Vec<u8> {
        let (extent, is_folder, mode, links) = match child.node {
            Node::Folder(number) => (
                places.folders(view).get(number),
                true,
                FOLDER_MODE,
                self.links_of(number),
            ),
            Node::File(number) => {
                let is_executable = self
                    .files
                    .get(number)
                    .is_some_and(|file| file.is_executable);
                (
                    places.files.get(number),
                    false,
                    if is_executable {
                        SCRIPT_MODE
                    } else {
                        FILE_MODE
                    },
                    1,
                )
            }
        };
        let mut system_use = Vec::new();
        if view == View::Primary {
            system_use.extend(rock_ridge::posix_attributes(mode, links));
            system_use.extend(rock_ridge::alternate_name(&child.name));
        }
        directory_record(
            identifier,
            extent.copied().unwrap_or_default(),
            is_folder,
            self.dates,
            &system_use,
        )
    }

    /// A folder is linked from its parent, from itself and from each folder in it.
    fn links_of(&self, folder: usize) -> u32 {
        let children = self
            .folders
            .get(folder)
            .map_or(&[][..], |folder| &folder.children);
        let folders = children
            .iter()
            .filter(|child| matches!(child.node, Node::Folder(_)))
            .count();
        2 + u32::try_from(folders).unwrap_or(u32::MAX - 2)
    }
}

/// The name of an entry in one tree. Primary names are numbered, since real names rarely fit its rules.
fn identifier(view: View, name: &str, node: Node) -> Vec<u8> {
    match (view, node) {
        (View::Joliet, _) => ucs2(name),
        (View::Primary, Node::Folder(number)) => format!("D{number:07}").into_bytes(),
        (View::Primary, Node::File(number)) => format!("F{number:07}.;1").into_bytes(),
    }
}

fn push_record(content: &mut Vec<u8>, record: &[u8]) {
    let left_in_sector = SECTOR_BYTES - content.len() % SECTOR_BYTES;
    if record.len() > left_in_sector {
        content.resize(content.len().next_multiple_of(SECTOR_BYTES), 0);
    }
    content.extend_from_slice(record);
}

//! The folders of a medium, found from the paths of its files.

use std::collections::BTreeMap;

use crate::error::{ContextError, Result, excerpt};
use crate::medium::MediumFile;

/// One folder with what is directly in it, sorted by name.
pub(super) struct Folder {
    /// Empty for the root.
    pub name: String,
    /// Number of the parent; the root is its own.
    pub parent: usize,
    pub children: Vec<Child>,
}

pub(super) struct Child {
    pub name: String,
    pub node: Node,
}

#[derive(Clone, Copy)]
pub(super) enum Node {
    /// Number of the folder.
    Folder(usize),
    /// Number of the file in the caller's list.
    File(usize),
}

/// ISO 9660 allows eight levels, the root being the first.
const FOLDER_LEVELS_MAX: usize = 8;

/// Joliet's limit; it also keeps a Rock Ridge record within its 255 bytes.
const NAME_MAX_BYTES: usize = 64;

enum Draft {
    Folder(BTreeMap<String, Draft>),
    File(usize),
}

/// All folders, the root first, then level by level, within a level in the order of their parents and names: the order that path
/// tables must have (ECMA-119 §6.9.1).
pub(super) fn folders_of(files: &[MediumFile]) -> Result<Vec<Folder>> {
    let mut root = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        insert(&mut root, &file.path, number)?;
    }

    let mut drafts = vec![(String::new(), 0, root)];
    let mut folders: Vec<Folder> = Vec::new();
    while !drafts.is_empty() {
        let first_of_next_level = folders.len() + drafts.len();
        let mut next_level = Vec::new();
        for (name, parent, entries) in drafts {
            let number = folders.len();
            let mut children = Vec::new();
            for (child_name, draft) in entries {
                let node = match draft {
                    Draft::File(file) => Node::File(file),
                    Draft::Folder(entries) => {
                        next_level.push((child_name.clone(), number, entries));
                        Node::Folder(first_of_next_level + next_level.len() - 1)
                    }
                };
                children.push(Child {
                    name: child_name,
                    node,
                });
            }
            folders.push(Folder {
                name,
                parent,
                children,
            });
        }
        drafts = next_level;
    }
    Ok(folders)
}

fn insert(root: &mut BTreeMap<String, Draft>, path: &str, number: usize) -> Result<()> {
    let invalid = |problem| ContextError::InvalidPath {
        path: excerpt(path),
        problem,
    };
    let (folder_path, name) = path
        .rsplit_once('/')
        .map_or((None, path), |(folder, name)| (Some(folder), name));
    let mut folder = root;
    for (level, part) in folder_path
        .into_iter()
        .flat_map(|path| path.split('/'))
        .enumerate()
    {
        check_name(part).map_err(invalid)?;
        if level + 2 > FOLDER_LEVELS_MAX {
            return Err(invalid("more than seven folders deep"));
        }
        folder = match folder
            .entry(part.to_owned())
            .or_insert_with(|| Draft::Folder(BTreeMap::new()))
        {
            Draft::Folder(entries) => entries,
            Draft::File(_) => return Err(invalid("one of its folders is also a file")),
        };
    }
    check_name(name).map_err(invalid)?;
    match folder.insert(name.to_owned(), Draft::File(number)) {
        None => Ok(()),
        Some(_) => Err(invalid("the name is there twice")),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let is_allowed = |byte: u8| (b' '..=b'~').contains(&byte) && !b"*:;?\\\"<>|".contains(&byte);
    match name {
        "" => Err("a part of it is empty"),
        "." | ".." => Err("it leads outside its folder"),
        name if name.len() > NAME_MAX_BYTES => Err("a name has more than 64 characters"),
        name if !name.bytes().all(is_allowed) => {
            Err("a name has characters other than printable ASCII, or one of * : ; ? \\ \" < > |")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(paths: &[&str]) -> Result<Vec<String>> {
        let files: Vec<MediumFile> = paths
            .iter()
            .map(|path| MediumFile::new(*path, ""))
            .collect();
        Ok(folders_of(&files)?
            .iter()
            .map(|folder| folder.name.clone())
            .collect())
    }

    #[test]
    fn folders_come_level_by_level() {
        let names = names_of(&["b/x/1", "a/y/1", "a/x/1", "c"]).unwrap();
        assert_eq!(names, ["", "a", "b", "x", "y", "x"]);
    }

    #[test]
    fn paths_that_cannot_stand_are_refused() {
        let long = "n".repeat(65);
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/./b",
            "a\nb",
            "é",
            "a;1",
            long.as_str(),
            "1/2/3/4/5/6/7/8/9",
        ] {
            assert!(
                matches!(names_of(&[path]), Err(ContextError::InvalidPath { .. })),
                "{path:?}"
            );
        }
        assert!(names_of(&["1/2/3/4/5/6/7/8"]).is_ok());
        assert!(names_of(&["a", "a"]).is_err());
        assert!(names_of(&["a", "a/b"]).is_err());
        assert!(names_of(&["a/b", "a"]).is_err());
    }
}

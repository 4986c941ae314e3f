//! Files that a command writes for its user. Nobody sees half of one: until it is whole it is a file of its own beside it, whose name
//! ends in `.part`, and that goes when the command fails or is interrupted.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Failure, Result};
use crate::unfinished;

/// How many were begun by this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A file that gets its name when it is whole.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    part: PathBuf,
}

impl NewFile {
    /// A file that will be at `path`; nothing is written yet.
    ///
    /// # Errors
    /// [`Failure::Check`] for a folder or a device, which is never replaced, and for a file unless it may be.
    pub fn at(path: &Path, may_replace: bool) -> Result<Self> {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                let text = format!("'{shown}' is a folder; give the name of a file in it");
                return Err(Failure::Check(text));
            }
            Ok(there) if !there.is_file() => {
                return Err(Failure::Check(format!(
                    "'{shown}' is no ordinary file; give another name"
                )));
            }
            Ok(_) if !may_replace => {
                return Err(Failure::Check(format!(
                    "'{shown}' is there already; remove it, or use --force"
                )));
            }
            // What is wrong with the name is told by whoever writes.
            Ok(_) | Err(_) => {}
        }
        // Nobody else's: neither another command's that writes the same, nor one that the user calls so.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}-{number}.part", process::id()));
        let part = PathBuf::from(part);
        unfinished::note_file(&part);
        Ok(Self {
            path: path.to_owned(),
            part,
        })
    }

    /// What it is called until it is whole.
    #[must_use]
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Begins to write it.
    ///
    /// # Errors
    /// [`Failure::Work`].
    pub fn create(&self) -> Result<File> {
        File::create(&self.part).map_err(|error| Failure::file(&self.part, &error))
    }

    /// Gives it its name, once it is on the disk: what had that name before is there until then, whatever ends this program or
    /// the computer.
    ///
    /// # Errors
    /// [`Failure::Work`].
    pub fn finish(self) -> Result {
        let whole = File::options().write(true).open(&self.part);
        let flushed = whole.and_then(|whole| whole.sync_all());
        flushed.map_err(|error| Failure::file(&self.part, &error))?;
        std::fs::rename(&self.part, &self.path).map_err(|error| Failure::file(&self.path, &error))
    }

    /// Writes a text, which is all of it. Once this returns there is room for it.
    ///
    /// # Errors
    /// [`Failure::Work`].
    pub fn fill(&self, text: &str) -> Result {
        let mut file = self.create()?;
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        written.map_err(|error| Failure::file(&self.path, &error))
    }

    /// Writes a text and gives the file its name.
    ///
    /// # Errors
    /// [`Failure::Work`].
    pub fn write(self, text: &str) -> Result {
        self.fill(text)?;
        self.finish()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // It may have its name by now, or never have come to be.
        let _ = std::fs::remove_file(&self.part);
        unfinished::forget_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_whole_and_else_nothing_of_it() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("image.raw");
        let there = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let given_up = NewFile::at(&path, false).expect("a name");
        given_up.create().expect("written");
        assert!(given_up.part().exists() && !path.exists());
        drop(given_up);
        assert_eq!(there(), 0);
        NewFile::at(&path, false)
            .expect("a name")
            .write("all")
            .expect("written");
        assert_eq!(std::fs::read(&path).expect("a file"), b"all");
        assert_eq!(there(), 1);
    }

    #[test]
    fn what_is_replaced_is_there_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("image.raw");
        std::fs::write(&path, "old").expect("written");
        let given_up = NewFile::at(&path, true).expect("a name");
        given_up.fill("half").expect("written");
        assert_eq!(std::fs::read(&path).expect("a file"), b"old");
        drop(given_up);
        assert_eq!(std::fs::read(&path).expect("a file"), b"old");
        // Whoever has the old one open reads it to its end.
        let mut reader = File::open(&path).expect("open");
        NewFile::at(&path, true)
            .expect("a name")
            .write("new")
            .expect("written");
        let mut read = String::new();
        std::io::Read::read_to_string(&mut reader, &mut read).expect("read");
        assert_eq!(read, "old");
        assert_eq!(std::fs::read(&path).expect("a file"), b"new");
    }

    #[test]
    fn who_writes_the_same_at_the_same_time_writes_another_file() {
        use std::io::Write as _;

        let folder = tempfile::tempdir().expect("temporary directory");
        let path = folder.path().join("image.raw");
        let users = folder.path().join("image.raw.part");
        std::fs::write(&users, "the user's").expect("written");
        let [first, second] = [(); 2].map(|()| NewFile::at(&path, true).expect("a name"));
        let mut slow = first.create().expect("written");
        second.write("of the second").expect("written");
        slow.write_all(b"of the first").expect("written");
        assert_eq!(std::fs::read(&path).expect("a file"), b"of the second");
        first.finish().expect("renamed");
        assert_eq!(std::fs::read(&path).expect("a file"), b"of the first");
        assert_eq!(std::fs::read(&users).expect("a file"), b"the user's");
    }

    #[test]
    fn what_is_there_is_not_replaced_by_accident_and_no_folder_or_device_ever() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let file = folder.path().join("image.raw");
        std::fs::write(&file, "precious").expect("written");
        let refusal = |path: &Path, may_replace| {
            NewFile::at(path, may_replace)
                .expect_err("refused")
                .to_string()
        };
        assert!(refusal(&file, false).contains("--force"));
        for may_replace in [false, true] {
            let is_folder = refusal(folder.path(), may_replace);
            assert!(
                is_folder.contains("is a folder; give the name of a file"),
                "{is_folder}"
            );
            let is_device = refusal(Path::new("/dev/null"), may_replace);
            assert!(is_device.contains("no ordinary file"), "{is_device}");
        }
        NewFile::at(&file, true)
            .expect("may be replaced")
            .write("new")
            .expect("written");
        assert_eq!(std::fs::read(&file).expect("a file"), b"new");
    }
}

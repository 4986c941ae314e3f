//! StratusLab's file of a whole cloud, `stratuslab.cfg`, and its reference file, which has every key with its default.
//!
//! Keys are unique: sections only group them. What the file doesn't say is as in the reference file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ini::{Ini, IniError};
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;

/// Where it is if nobody says so.
const SITE_FILE: &str = "/etc/stratuslab/stratuslab.cfg";

/// What counts where there is no reference file beside it.
const REFERENCE: &str = include_str!("stratuslab.cfg.ref");

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteKey {
    /// That of the reference file, if that has the key.
    pub section: String,
    /// In small letters.
    pub key: String,
    /// References resolved; lines are apart.
    pub value: String,
    /// The same of the reference file; none if that doesn't have the key.
    pub default: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct SiteFile {
    path: PathBuf,
    /// None if it isn't there.
    text: Option<String>,
    reference: String,
}

impl SiteFile {
    /// Reads the named file, or the usual one; none of it need be there.
    ///
    /// # Errors
    /// [`Failure::Work`] if a file can't be read.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let path = path.unwrap_or(Path::new(SITE_FILE)).to_owned();
        let mut beside = path.clone().into_os_string();
        beside.push(".ref");
        Ok(Self {
            text: text_of(&path)?,
            reference: text_of(Path::new(&beside))?.unwrap_or_else(|| REFERENCE.to_owned()),
            path,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.text.is_some()
    }

    /// All keys, by section and name.
    ///
    /// # Errors
    /// [`Failure::Configuration`], and of values [`Failure::Work`].
    pub fn keys(&self) -> Result<Vec<SiteKey>> {
        self.keys_of(self.text.as_deref().unwrap_or_default())
    }

    fn keys_of(&self, text: &str) -> Result<Vec<SiteKey>> {
        let parsed = |text: &str| {
            Ini::parse(text).map_err(|error| {
                Failure::Configuration(format!("{}: {error}", self.path.display()))
            })
        };
        let (reference, own) = (parsed(&self.reference)?, parsed(text)?);
        let mut keys: BTreeMap<String, SiteKey> = BTreeMap::new();
        for section in reference.sections().keys() {
            for (key, value) in reference.section(section).map_err(of_value)? {
                let known = SiteKey {
                    section: section.clone(),
                    key: key.clone(),
                    default: Some(value.clone()),
                    value,
                };
                keys.insert(key, known);
            }
        }
        let both = reference.overlaid_by(&own);
        for section in both.sections().keys() {
            let values = both.section(section).map_err(of_value)?;
            let own_here = own.sections().get(section);
            for (key, value) in values {
                // A key may be said in another section than the reference's; a value may have changed by what it refers to.
                let is_told_here = own_here.is_some_and(|said| said.contains_key(&key));
                let is_told = own.sections().values().any(|said| said.contains_key(&key));
                let known = keys.entry(key.clone()).or_insert_with(|| SiteKey {
                    section: section.clone(),
                    key,
                    value: String::new(),
                    default: None,
                });
                if is_told_here || (!is_told && known.section == *section) {
                    known.value = value;
                }
            }
        }
        let mut keys: Vec<SiteKey> = keys.into_values().collect();
        keys.sort_by(|a, b| (&a.section, &a.key).cmp(&(&b.section, &b.key)));
        Ok(keys)
    }

    /// Sets a value, and writes the file; one that isn't there begins as a copy of the reference file. All else in it stays.
    ///
    /// # Errors
    /// If there is no such key, it can't have that value, or the file can't be written: then nothing is changed.
    pub fn set(&self, key: &str, value: &str) -> Result {
        let key = key.to_lowercase();
        let known = self.keys()?.into_iter().find(|known| known.key == key);
        let known = known.ok_or_else(|| no_key(&key))?;
        let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
        let value = lines.collect::<Vec<_>>().join("\n");
        let before = self.text.as_deref().unwrap_or(&self.reference);
        // What was read so isn't what is in the file: all else in it would not stay.
        if before.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Failure::Configuration(format!(
                "{0} is not UTF-8, and what is not could not be kept: convert it first (iconv -f latin1 -t utf8 {0})",
                self.path.display()
            )));
        }
        let text = with_value(before, &known.section, &key, &value);
        let own = Ini::parse(&text).ok();
        let said = own.as_ref().and_then(|own| {
            let mut sections = own.sections().values();
            sections.find_map(|values| values.get(&key))
        });
        if said != Some(&value) {
            return Err(Failure::Value(format!(
                "{key} can't be '{value}': ` ;` begins a comment in this file, and no line of a value begins with # or ;"
            )));
        }
        self.keys_of(&text)?;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, &error))?;
        }
        let file = NewFile::at(&self.path, true)?;
        file.create()?;
        // Before anything is in it.
        keep_access(&self.path, file.part())?;
        file.fill(&text)?;
        file.finish()
    }
}

/// Passwords may be in it: one that was closed stays so, and a new one is.
#[cfg(unix)]
fn keep_access(from: &Path, to: &Path) -> Result {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut mode = std::fs::Permissions::from_mode(0o600);
    if let Ok(found) = std::fs::metadata(from) {
        // Root alone may give it to others, whose it was.
        let _ = std::os::unix::fs::chown(to, Some(found.uid()), Some(found.gid()));
        mode = found.permissions();
    }
    std::fs::set_permissions(to, mode).map_err(|error| Failure::file(to, &error))
}

#[cfg(not(unix))]
fn keep_access(_from: &Path, _to: &Path) -> Result {
    Ok(())
}

/// What is said of a key that nobody knows.
#[must_use]
pub fn no_key(key: &str) -> Failure {
    Failure::Work(format!("Key {key} does not exist"))
}

fn of_value(error: IniError) -> Failure {
    Failure::Work(error.to_string())
}

fn text_of(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file(path, &error)),
    }
}

/// The text with another value of a key, which is added to its section if it isn't there.
fn with_value(text: &str, section: &str, key: &str, value: &str) -> String {
    let written = format!("{key} = {}", value.replace('\n', "\n\t"));
    let written = written.trim_end();
    let is_comment = |line: &str| line.starts_with(['#', ';']);
    let continues = |line: &str| line.starts_with(char::is_whitespace) && !line.trim().is_empty();
    let is_key = |line: &str| {
        let name = line.split(['=', ':']).next().unwrap_or_default();
        !is_comment(line) && !continues(line) && name.trim().eq_ignore_ascii_case(key)
    };
    let mut lines: Vec<&str> = Vec::new();
    let (mut is_written, mut is_in_value) = (false, false);
    for line in text.lines() {
        if is_key(line) {
            // Were it there twice, the last would count: then there is one.
            is_in_value = true;
            if !is_written {
                lines.push(written);
                is_written = true;
            }
        } else if !(is_in_value && continues(line)) {
            is_in_value = is_in_value && (line.trim().is_empty() || is_comment(line));
            lines.push(line);
        }
    }
    if !is_written {
        let header = format!("[{section}]");
        let at = lines.iter().position(|line| line.trim_end() == header);
        match at {
            Some(at) => lines.insert(at + 1, written),
            None => {
                let text = lines.join("\n");
                return format!("{text}\n\n{header}\n{written}\n");
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_key_once_and_can_be_read() {
        let site = SiteFile {
            path: "stratuslab.cfg".into(),
            text: None,
            reference: REFERENCE.to_owned(),
        };
        let keys = site.keys().unwrap();
        assert_eq!(keys.len(), 135);
        let all = Ini::parse(REFERENCE).unwrap();
        let said: usize = all.sections().values().map(BTreeMap::len).sum();
        assert_eq!(said, keys.len());
        assert!(
            keys.iter()
                .all(|key| key.default.as_ref() == Some(&key.value))
        );
    }

    #[test]
    fn one_value_is_changed_and_nothing_else() {
        let text = "# mine\n[a]\none = 1 ; why\n\ttwo\n\n\tthree\n# of b\nb: 2\n[c]\nd = 3\n";
        assert_eq!(
            with_value(text, "a", "one", "x\ny"),
            "# mine\n[a]\none = x\n\ty\n\n# of b\nb: 2\n[c]\nd = 3\n"
        );
        assert_eq!(with_value(text, "a", "b", ""), text.replace("b: 2", "b ="));
        assert_eq!(
            with_value(text, "c", "new", "4"),
            text.replace("[c]", "[c]\nnew = 4")
        );
        assert_eq!(
            with_value(text, "e", "new", "4"),
            format!("{text}\n[e]\nnew = 4\n")
        );
    }

    #[test]
    fn a_value_that_is_set_is_read_back_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/stratuslab.cfg");
        let read = || SiteFile::read(Some(&path)).unwrap();
        let value = |key: &str| {
            let keys = read().keys().unwrap();
            keys.into_iter().find(|known| known.key == key).unwrap()
        };
        read().set("FRONTEND_IP", "192.0.2.1").unwrap();
        read()
            .set("persistent_disk_ip", "%(persistent_disk_path)s")
            .unwrap();
        let found = value("frontend_ip");
        assert_eq!(
            (&*found.value, found.default.as_deref(), &*found.section),
            ("192.0.2.1", Some("127.0.0.1"), "one-deployment")
        );
        assert_eq!(
            value("persistent_disk_backend_sections_names").value,
            "pdisk,"
        );
        let before = std::fs::read_to_string(&path).unwrap();
        assert!(before.contains("# Address of the front end"), "{before}");
        for (key, wrong) in [
            ("nothing", "1"),
            ("hypervisor", "50%"),
            ("hypervisor", "a ; b"),
            ("hypervisor", "%(nothing)s"),
        ] {
            assert!(read().set(key, wrong).is_err(), "{key} {wrong}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        // What can't be kept is not written over.
        let latin = b"# d\xe9faut\n[general]\nhypervisor = kvm\n";
        std::fs::write(&path, latin).unwrap();
        let refused = read().set("hypervisor", "xen").unwrap_err().to_string();
        assert!(refused.contains("not UTF-8"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), latin);
        assert_eq!(value("hypervisor").value, "kvm");
        // A file of before a key came, and with another name of a section.
        std::fs::write(&path, "[node-default]\nnode_ssh_port = 2222\n").unwrap();
        assert_eq!(value("node_ssh_port").value, "2222");
        assert_eq!(value("hypervisor").value, "kvm");
        read().set("hypervisor", "xen").unwrap();
        read().set("node_ssh_port", "22").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "[node-default]\nnode_ssh_port = 22\n\n[general]\nhypervisor = xen\n"
        );
    }
}

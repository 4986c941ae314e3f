//! The settings of one run: command line, then environment, then the selected section, then `[default]`.
//!
//! A key `pdisk_endpoint` is set by the variable `STRATUSLAB_PDISK_ENDPOINT`. Options that were given are
//! looked at first, by whoever asks ([`Settings::text`] takes what the command line said).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ini::{Ini, IniError};
use crate::failure::{Failure, Result};

/// Where the user's configuration is, below the home folder.
pub const DEFAULT_CONFIG_FILE: &str = ".stratuslab/stratuslab-user.cfg";

/// The reference file that `stratus-copy-config` copies.
pub const REFERENCE_FILE: &str = include_str!("stratuslab-user.cfg.ref");

/// Section of machine types; never a cloud.
const INSTANCE_TYPES: &str = "instance_types";

/// Variables whose name does not follow from the key.
const OTHER_VARIABLES: [(&str, &str); 3] = [
    ("token", "STRATUS_TOKEN"),
    ("user_public_key_file", "STRATUSLAB_KEY"),
    ("ca_file", "STRATUS_CA"),
];

/// What counts when an option was not given.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// Entries of `[instance_types]`, as they stand in the file.
    pub instance_types: BTreeMap<String, String>,
    /// Set when the default file was wanted and is not there.
    pub missing_default_file: Option<PathBuf>,
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Ini(#[from] IniError),
    #[error("{0}")]
    Read(String),
}

impl Settings {
    /// Reads `file`, or the user's own when none is named, and selects a section of it.
    ///
    /// # Errors
    /// [`Failure::Configuration`], naming file and reason.
    pub fn load(file: Option<&Path>, section: Option<&str>) -> Result<Self> {
        let default_file = home().join(DEFAULT_CONFIG_FILE);
        let path = file.unwrap_or(&default_file);
        let section = section
            .map(str::to_owned)
            .or_else(|| variable("STRATUSLAB_USER_CONFIG_SECTION"));
        if !path.exists() && path == default_file && section.is_none() {
            return Ok(Self {
                missing_default_file: Some(default_file),
                ..Self::default()
            });
        }
        let is_there = path.exists();
        Self::read(path, section).map_err(|error| {
            let failure = Failure::Configuration(format!(
                "Error parsing user configuration file {}. Details: {error}",
                path.display()
            ));
            if is_there {
                failure
            } else {
                failure.with_hint(format!("There is no such file: {}", path.display()))
            }
        })
    }

    fn read(path: &Path, section: Option<String>) -> std::result::Result<Self, FileError> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // As if it were empty: the missing section is then the fault.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(FileError::Read(error.to_string())),
        };
        Ok(Self::parse(&text, section)?)
    }

    fn parse(text: &str, section: Option<String>) -> std::result::Result<Self, IniError> {
        let ini = Ini::parse(text)?;
        let mut values = ini.section("default")?;
        if let Some(section) = section
            .or_else(|| values.get("selected_section").cloned())
            .filter(|name| !name.is_empty())
        {
            if section == INSTANCE_TYPES {
                return Err(IniError::NoSection(section));
            }
            values.extend(ini.section(&section)?);
        }
        let instance_types = if ini.has_section(INSTANCE_TYPES) {
            ini.section(INSTANCE_TYPES)?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            values,
            instance_types,
            missing_default_file: None,
        })
    }

    /// The value of `key`: `given` on the command line, else the environment's, else the file's. Empty text is no value.
    #[must_use]
    pub fn text(&self, given: Option<&str>, key: &str) -> Option<String> {
        given
            .map(str::to_owned)
            .or_else(|| environment(key))
            .or_else(|| {
                self.values
                    .get(key)
                    .filter(|value| !value.is_empty())
                    .cloned()
            })
    }

    /// Whether a switch is on: given on the command line, or true in environment or file.
    #[must_use]
    pub fn switch(&self, given: bool, key: &str) -> bool {
        given || self.text(None, key).is_some_and(|text| is_true(&text))
    }

    /// A value that must be read as a `T`, such as a number.
    ///
    /// # Errors
    /// [`Failure::Value`], naming key and value.
    pub fn parsed<T: std::str::FromStr>(
        &self,
        given: Option<T>,
        key: &str,
        what: &str,
    ) -> Result<Option<T>> {
        if given.is_some() {
            return Ok(given);
        }
        self.text(None, key)
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    Failure::Value(format!(
                        "{key} = '{text}' in the configuration is not {what}"
                    ))
                })
            })
            .transpose()
    }
}

fn environment(key: &str) -> Option<String> {
    let usual = variable(&format!("STRATUSLAB_{}", key.to_uppercase()));
    usual.or_else(|| {
        OTHER_VARIABLES
            .iter()
            .find(|(other, _)| *other == key)
            .and_then(|(_, name)| variable(name))
    })
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user's home folder; the current one if the environment names none.
#[must_use]
pub fn home() -> PathBuf {
    variable("HOME")
        .or_else(|| variable("USERPROFILE"))
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The one rule for switches in files and variables: `true`, `yes`, `on` and `1` in any case are true.
#[must_use]
pub fn is_true(text: &str) -> bool {
    ["true", "yes", "on", "1"]
        .iter()
        .any(|word| text.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Settings {
        /// The file's value, whatever the environment of the test says.
        fn value(&self, key: &str) -> Option<String> {
            self.values.get(key).cloned()
        }
    }

    const FILE: &str = "[default]\nselected_section = a\nusername = joe\nis_local_ip = no\n[a]\nendpoint = one\n[b]\nendpoint = two\nusername = ann\nis_local_ip = Yes\n[instance_types]\nbig = 4, 8, 9\n";

    #[test]
    fn the_selected_section_lies_over_the_default_one() {
        let settings = Settings::parse(FILE, None).unwrap();
        assert_eq!(settings.value("endpoint").as_deref(), Some("one"));
        assert_eq!(settings.value("username").as_deref(), Some("joe"));
        assert!(!settings.switch(false, "is_local_ip"));
        let settings = Settings::parse(FILE, Some("b".to_owned())).unwrap();
        assert_eq!(settings.value("endpoint").as_deref(), Some("two"));
        assert_eq!(settings.value("username").as_deref(), Some("ann"));
        assert_eq!(settings.text(Some("me"), "username").as_deref(), Some("me"));
        assert!(settings.switch(false, "is_local_ip"));
        assert_eq!(
            settings.instance_types.get("big").map(String::as_str),
            Some("4, 8, 9")
        );
    }

    #[test]
    fn unknown_sections_and_the_types_are_no_clouds() {
        for name in ["c", INSTANCE_TYPES] {
            assert_eq!(
                Settings::parse(FILE, Some(name.to_owned())).unwrap_err(),
                IniError::NoSection(name.to_owned())
            );
        }
        assert_eq!(
            Settings::parse("[a]\n", None).unwrap_err().to_string(),
            "No section: 'default'"
        );
    }

    #[test]
    fn the_reference_file_can_be_used_as_it_is() {
        let settings = Settings::parse(REFERENCE_FILE, None).unwrap();
        assert_eq!(
            settings.value("endpoint").as_deref(),
            Some("https://cloud.example.com/one-proxy/xmlrpc")
        );
        assert_eq!(
            settings.value("selected_section").as_deref(),
            Some("sl-cloud")
        );
        assert_eq!(settings.value("endpoint_timeout").as_deref(), Some("5"));
    }

    #[test]
    fn numbers_of_the_file_must_be_numbers() {
        let settings =
            Settings::parse("[default]\ninstance_number = many\nvm_cpu = 2\n", None).unwrap();
        assert_eq!(
            settings.parsed::<u32>(None, "vm_cpu", "a number").unwrap(),
            Some(2)
        );
        assert_eq!(
            settings.parsed(Some(3_u32), "vm_cpu", "a number").unwrap(),
            Some(3)
        );
        assert!(
            settings
                .parsed::<u32>(None, "instance_number", "a whole number")
                .unwrap_err()
                .to_string()
                .contains("'many'")
        );
    }
}

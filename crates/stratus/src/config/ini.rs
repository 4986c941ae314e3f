//! INI files, by the rules that StratusLab's configuration files were always read with (those of Python's `SafeConfigParser`).
//!
//! - `[section]`, then `key = value` or `key: value`; keys are case-insensitive, later ones replace earlier ones;
//! - a line that starts with `#` or `;` (or the word `rem`) is a comment; ` ;` inside a value starts one;
//! - a line that starts with white space continues the value above it;
//! - `%(key)s` stands for another value of the section, `%%` for a percent sign;
//! - quotes mean nothing.

use std::collections::BTreeMap;

/// What can be wrong with the text of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IniError {
    /// A section that must be there is not.
    #[error("No section: '{0}'")]
    NoSection(String),
    /// A key before the first section.
    #[error("File contains no section headers. Line {line}: '{text}'")]
    NoSectionHeader {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A line that is none of section, key, continuation or comment.
    #[error("File contains parsing errors. Line {line}: '{text}'")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A percent sign that begins neither `%%` nor `%(key)s`.
    #[error("invalid interpolation syntax in '{value}' at position {position}")]
    Interpolation {
        /// The value.
        value: String,
        /// Where the percent sign is, in characters from 0.
        position: usize,
    },
    /// `%(key)s` of a key that the section does not have.
    #[error("Bad value substitution in '{value}': there is no key '{key}' in this section")]
    UnknownKey {
        /// The value with the reference.
        value: String,
        /// The key referred to.
        key: String,
    },
    /// References that go round in a circle, nest too deep or grow too long.
    #[error("Value interpolation too deeply recursive: '{0}'")]
    TooDeep(String),
}

/// How deep references may nest.
const MAX_DEPTH: usize = 10;
/// How long a value may get by references: they can double at every level.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// A parsed file; references are resolved when a section is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl Ini {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`IniError::NoSectionHeader`] and [`IniError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut section: Option<String> = None;
        let mut key: Option<String> = None;
        for (index, line) in text
            .strip_prefix('\u{feff}')
            .unwrap_or(text)
            .lines()
            .enumerate()
        {
            if line.trim().is_empty() || is_comment(line) {
                continue;
            }
            if line.starts_with(char::is_whitespace)
                && let (Some(section), Some(key)) = (&section, &key)
            {
                if let Some(value) = ini
                    .sections
                    .get_mut(section)
                    .and_then(|values| values.get_mut(key))
                {
                    value.push('\n');
                    value.push_str(line.trim());
                }
                continue;
            }
            let syntax = || IniError::Syntax {
                line: index + 1,
                text: line.to_owned(),
            };
            if let Some(name) = section_name(line) {
                ini.sections.entry(name.to_owned()).or_default();
                section = Some(name.to_owned());
                key = None;
                continue;
            }
            let Some(current) = &section else {
                return Err(IniError::NoSectionHeader {
                    line: index + 1,
                    text: line.to_owned(),
                });
            };
            let separator = line.find(['=', ':']).ok_or_else(syntax)?;
            let (name, value) = line.split_at(separator);
            let name = name.trim().to_lowercase();
            if name.is_empty() || line.starts_with(char::is_whitespace) {
                return Err(syntax());
            }
            let value = without_comment(value.get(1..).unwrap_or_default()).trim();
            let value = if value == "\"\"" { "" } else { value };
            ini.sections
                .entry(current.clone())
                .or_default()
                .insert(name.clone(), value.to_owned());
            key = Some(name);
        }
        Ok(ini)
    }

    /// Whether there is such a section.
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.sections.contains_key(name)
    }

    /// All sections with their values, references as they stand there.
    #[must_use]
    pub fn sections(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.sections
    }

    /// The values of both; where both have one, that of `other`.
    #[must_use]
    pub fn overlaid_by(mut self, other: &Self) -> Self {
        for (section, values) in &other.sections {
            let own = self.sections.entry(section.clone()).or_default();
            own.extend(values.clone());
        }
        self
    }

    /// All values of a section, references resolved.
    ///
    /// # Errors
    /// [`IniError::NoSection`], and those of references.
    pub fn section(&self, name: &str) -> Result<BTreeMap<String, String>, IniError> {
        let values = self
            .sections
            .get(name)
            .ok_or_else(|| IniError::NoSection(name.to_owned()))?;
        values
            .iter()
            .map(|(key, value)| Ok((key.clone(), interpolate(value, values, 0)?)))
            .collect()
    }
}

fn is_comment(line: &str) -> bool {
    let is_rem = line
        .split_whitespace()
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("rem"))
        && line.starts_with(['r', 'R']);
    line.starts_with(['#', ';']) || is_rem
}

fn section_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('[')?;
    let end = rest.find(']')?;
    rest.get(..end).filter(|name| !name.is_empty())
}

/// Cuts at the first `;`, if white space is before it.
fn without_comment(value: &str) -> &str {
    match value.split_once(';') {
        Some((before, _)) if before.ends_with(char::is_whitespace) => before,
        _ => value,
    }
}

fn interpolate(
    value: &str,
    values: &BTreeMap<String, String>,
    depth: usize,
) -> Result<String, IniError> {
    if depth > MAX_DEPTH {
        return Err(IniError::TooDeep(value.to_owned()));
    }
    let mut result = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            result.push('%');
            rest = after;
        } else if let Some((key, after)) = after
            .strip_prefix('(')
            .and_then(|reference| reference.split_once(")s"))
        {
            let key = key.to_lowercase();
            let other = values.get(&key).ok_or_else(|| IniError::UnknownKey {
                value: value.to_owned(),
                key: key.clone(),
            })?;
            result.push_str(&interpolate(other, values, depth + 1)?);
            rest = after;
        } else {
            let position = value.chars().count() - after.chars().count() - 1;
            return Err(IniError::Interpolation {
                value: value.to_owned(),
                position,
            });
        }
        if result.len() > MAX_VALUE_BYTES {
            return Err(IniError::TooDeep(value.chars().take(80).collect()));
        }
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, key: &str) -> Result<String, IniError> {
        let section = Ini::parse(&format!("[s]\n{text}"))?.section("s")?;
        Ok(section
            .get(key)
            .cloned()
            .unwrap_or_else(|| panic!("no {key} in {section:?}")))
    }

    #[test]
    fn keys_are_case_insensitive_and_take_both_separators() {
        assert_eq!(
            value("EndPoint : https://h:1/x", "endpoint").unwrap(),
            "https://h:1/x"
        );
        assert_eq!(value("a=1\nA = 2", "a").unwrap(), "2");
        assert_eq!(value("a =", "a").unwrap(), "");
        assert_eq!(value("a = \"\"", "a").unwrap(), "");
    }

    #[test]
    fn quotes_are_kept() {
        assert_eq!(
            value("name = \"StratusLab Cloud\"", "name").unwrap(),
            "\"StratusLab Cloud\""
        );
    }

    #[test]
    fn comments_need_the_line_start_or_a_blank() {
        assert_eq!(
            value("# no\n; no\nREM no\na = x;y ; comment", "a").unwrap(),
            "x;y ; comment"
        );
        assert_eq!(value("a = x ; comment", "a").unwrap(), "x");
        assert_eq!(value("a = x # y", "a").unwrap(), "x # y");
        assert_eq!(value("remember = 1", "remember").unwrap(), "1");
    }

    #[test]
    fn an_indented_line_continues_the_value() {
        assert_eq!(
            value("endpoints = a u p\n  b u p\n\n\tc u p\nx=1", "endpoints").unwrap(),
            "a u p\nb u p\nc u p"
        );
    }

    #[test]
    fn references_are_resolved_within_the_section() {
        assert_eq!(
            value("host = h\nurl = https://%(HOST)s/%%20", "url").unwrap(),
            "https://h/%20"
        );
        assert_eq!(
            value("a = 50%", "a").unwrap_err().to_string(),
            "invalid interpolation syntax in '50%' at position 2"
        );
        assert!(matches!(
            value("a = %(b)s", "a"),
            Err(IniError::UnknownKey { .. })
        ));
        assert!(matches!(value("a = %(a)s", "a"), Err(IniError::TooDeep(_))));
    }

    #[test]
    fn references_cannot_grow_without_limit() {
        let mut text = String::from("a0 = 0123456789012345678901234567890123456789\n");
        for level in 1..=9 {
            text.push_str(&format!(
                "a{level} = {}\n",
                format!("%(a{})s", level - 1).repeat(20)
            ));
        }
        assert!(matches!(value(&text, "a9"), Err(IniError::TooDeep(_))));
    }

    #[test]
    fn faults_name_the_line() {
        assert_eq!(
            Ini::parse("a = 1").unwrap_err().to_string(),
            "File contains no section headers. Line 1: 'a = 1'"
        );
        assert_eq!(
            Ini::parse("[s]\n\nword").unwrap_err().to_string(),
            "File contains parsing errors. Line 3: 'word'"
        );
        assert_eq!(
            Ini::parse("[s]")
                .unwrap()
                .section("default")
                .unwrap_err()
                .to_string(),
            "No section: 'default'"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[\\[\\]a-c =:;#%()s\\n\\té\"]{0,300}") {
            if let Ok(ini) = Ini::parse(&text) {
                for name in ini.sections.keys() {
                    let _ = ini.section(name);
                }
            }
        }

        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::btree_map("[a-z_]{1,12}", "[a-zA-Z0-9/.@-]([ a-zA-Z0-9/:=.@%-]{0,30}[a-z])?", 0..8)) {
            let mut text = String::from("[default]\n");
            for (key, value) in &values {
                prop_assume!(!key.eq_ignore_ascii_case("rem"));
                text.push_str(&format!("{key} = {}\n", value.replace('%', "%%")));
            }
            prop_assert_eq!(Ini::parse(&text).unwrap().section("default").unwrap(), values);
        }
    }
}

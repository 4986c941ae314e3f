//! `$select`: which attributes are shown or changed.

/// Names of attributes, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// All attributes.
    #[default]
    All,
    /// Only these; `id` and `resourceURI` are shown nevertheless.
    Only(Vec<String>),
}

/// More names than any type has attributes are not read.
const NAMES_AT_MOST: usize = 128;

impl Select {
    /// Adds the names of one `$select`, separated by commas. `*` means all. What is not a name is
    /// ignored (DSP0263 §4.1.6.3), and so is a parameter without any name.
    pub fn add(&mut self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        if text.split(',').any(|name| name.trim() == "*") {
            *self = Self::All;
            return;
        }
        let mut names = match std::mem::take(self) {
            Self::All => Vec::new(),
            Self::Only(names) => names,
        };
        for name in text.split(',').map(str::trim) {
            if is_name(name)
                && names.len() < NAMES_AT_MOST
                && !names.iter().any(|known| known == name)
            {
                names.push(name.to_owned());
            }
        }
        *self = Self::Only(names);
    }

    /// Whether an attribute is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|wanted| wanted == name),
        }
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`, and the hyphens of StratusLab's User.
pub(super) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_others_ignored_and_a_star_is_all() {
        let mut select = Select::All;
        select.add("name, cpu,arr[0],3x,name,first-name");
        assert_eq!(
            select,
            Select::Only(vec!["name".into(), "cpu".into(), "first-name".into()])
        );
        assert!(select.wants("cpu") && !select.wants("memory"));
        select.add("memory");
        assert!(select.wants("memory"));
        select.add("*");
        assert!(select.wants("anything"));
        select.add("");
        assert_eq!(select, Select::All);
    }
}

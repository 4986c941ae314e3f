//! The variables of a context: upper-case names with values that a guest's shell reads.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::str::FromStr;

use crate::error::{ContextError, Result, excerpt};
use crate::limits;

/// Names that steer the shell or the loader of the root scripts which source `context.sh`.
const CONTROL_NAMES: [&str; 15] = [
    "BASHOPTS",
    "CDPATH",
    "ENV",
    "EUID",
    "GCONV_PATH",
    "GLOBIGNORE",
    "HOSTALIASES",
    "IFS",
    "PATH",
    "PPID",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "SHELLOPTS",
    "UID",
];

/// The same, by their beginning.
const CONTROL_PREFIXES: [&str; 3] = ["BASH_", "LD_", "PYTHON"];

/// The name of a variable: `[A-Z_][A-Z0-9_]*`, and none that would steer the guest's shell.
/// Lower case is raised, as the StratusLab client does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableName(String);

impl VariableName {
    /// The name in upper case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VariableName {
    type Err = ContextError;

    fn from_str(name: &str) -> Result<Self> {
        let name = name.to_ascii_uppercase();
        let refused = |problem| {
            Err(ContextError::InvalidVariableName {
                name: excerpt(&name),
                problem,
            })
        };
        let well_formed = name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit());
        if !well_formed {
            return refused("is not made of letters, digits and '_' (no blanks around '=')");
        }
        if name.len() > limits::VARIABLE_NAME_MAX_BYTES {
            return refused("is longer than 128 characters");
        }
        if CONTROL_NAMES.contains(&name.as_str())
            || CONTROL_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        {
            return refused("would change how the guest's own scripts run; choose another");
        }
        Ok(Self(name))
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The variables of one context, sorted by name; a later value replaces an earlier one.
///
/// Holds at most [`limits::VARIABLES_MAX`] names, values of at most [`limits::VARIABLE_MAX_BYTES`] without NUL, and
/// [`limits::VARIABLES_TOTAL_MAX_BYTES`] in all.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<VariableName, String>);

impl Variables {
    /// No variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks every pair; names are raised to upper case.
    ///
    /// # Errors
    /// The first name or value that is refused, or too many of them.
    pub fn from_pairs<N: AsRef<str>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self> {
        let mut variables = Self::new();
        for (name, value) in pairs {
            variables.set(name.as_ref(), value)?;
        }
        Ok(variables)
    }

    /// Sets `name` (raised to upper case) to `value`.
    ///
    /// # Errors
    /// A refused name or value, or a limit passed; then nothing changed.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<()> {
        let name: VariableName = name.parse()?;
        let value = value.into();
        let refused = |problem: String| {
            Err(ContextError::InvalidVariableValue {
                name: name.to_string(),
                problem,
            })
        };
        if value.contains('\0') {
            return refused(
                "has a NUL byte, which no shell can hold; encode it in base64".to_owned(),
            );
        }
        if value.len() > limits::VARIABLE_MAX_BYTES {
            return refused(format!(
                "{} bytes, at most {} are allowed; pass large data as user data",
                value.len(),
                limits::VARIABLE_MAX_BYTES
            ));
        }
        let (replaced_bytes, count) = match self.0.get(&name) {
            Some(old) => (old.len(), self.0.len()),
            None => (0, self.0.len() + 1),
        };
        let total_bytes = self.total_bytes() - replaced_bytes + value.len();
        for (what, found, max) in [
            ("too many variables", count, limits::VARIABLES_MAX),
            (
                "too many bytes in its variables",
                total_bytes,
                limits::VARIABLES_TOTAL_MAX_BYTES,
            ),
        ] {
            if found > max {
                return Err(ContextError::TooManyVariables { what, found, max });
            }
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Adds all of `later`, whose values win.
    ///
    /// # Errors
    /// A limit passed by both together.
    pub fn extend(&mut self, later: Variables) -> Result<()> {
        later
            .0
            .into_iter()
            .try_for_each(|(name, value)| self.set(name.as_str(), value))
    }

    /// The value of an upper-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, value)| value.as_str())
    }

    /// Takes the value of an upper-case name out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let name: VariableName = name.parse().ok()?;
        self.0.remove(&name)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.into_iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn total_bytes(&self) -> usize {
        self.0.values().map(String::len).sum()
    }
}

/// Names only: values may be passwords, and what is shown here ends in logs.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.keys().map(VariableName::as_str))
            .finish()
    }
}

impl<'a> IntoIterator for &'a Variables {
    type Item = (&'a str, &'a str);
    type IntoIter = std::iter::Map<
        btree_map::Iter<'a, VariableName, String>,
        fn((&'a VariableName, &'a String)) -> (&'a str, &'a str),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_raised_and_checked() {
        let variables = Variables::from_pairs([("script_exec", "a"), ("_X1", "b")]).unwrap();
        assert_eq!(variables.get("SCRIPT_EXEC"), Some("a"));
        for bad in [
            "",
            "1A",
            "A B",
            "A-B",
            "key ",
            "É",
            "PATH",
            "path",
            "LD_PRELOAD",
            "ld_x",
            "BASH_ENV",
            "ENV",
            "IFS",
            "A\n",
            "A;id",
        ] {
            assert!(bad.parse::<VariableName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_are_not_shown_to_a_log() {
        let variables = Variables::from_pairs([("CREDENTIAL_PASS", "secret")]).unwrap();
        assert_eq!(format!("{variables:?}"), "{\"CREDENTIAL_PASS\"}");
    }

    #[test]
    fn limits_hold_and_leave_what_was_there() {
        let mut variables = Variables::new();
        for index in 0..64 {
            variables.set(&format!("V{index}"), "x").unwrap();
        }
        assert!(matches!(
            variables.set("V64", "x"),
            Err(ContextError::TooManyVariables {
                found: 65,
                max: 64,
                ..
            })
        ));
        variables.set("V0", "replaced").unwrap();
        assert!(
            variables
                .set("V1", "x".repeat(limits::VARIABLE_MAX_BYTES))
                .is_ok()
        );
        assert!(
            variables
                .set("V1", "x".repeat(limits::VARIABLE_MAX_BYTES + 1))
                .is_err()
        );
        assert!(variables.set("V2", "a\0b").is_err());
        assert_eq!(
            (variables.len(), variables.get("V0"), variables.get("V2")),
            (64, Some("replaced"), Some("x"))
        );
        let full = "x".repeat(limits::VARIABLE_MAX_BYTES);
        let refused =
            (0..64).find_map(|index| variables.set(&format!("V{index}"), full.clone()).err());
        assert!(matches!(
            refused,
            Some(ContextError::TooManyVariables {
                max: limits::VARIABLES_TOTAL_MAX_BYTES,
                ..
            })
        ));
    }
}

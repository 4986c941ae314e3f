//! `--context K=V#K=V` and context files.

use crate::error::{ContextError, Result};
use crate::variables::Variables;

/// Reads the value of `--context`: pairs `NAME=value` separated by `#`, empty ones skipped.
///
/// The value is everything after the first `=`, blanks included; a later pair replaces an earlier one.
///
/// ```
/// let variables = context::encoding::parse_context_option("script_exec=echo a=b#pdisk_device=hdc")?;
/// assert_eq!(variables.get("SCRIPT_EXEC"), Some("echo a=b"));
/// # Ok::<(), context::ContextError>(())
/// ```
///
/// # Errors
/// [`ContextError::SyntaxErrorInLine`] for a pair without `=`; names, values and limits as [`Variables::set`].
pub fn parse_context_option(text: &str) -> Result<Variables> {
    parse_pairs(text.split('#'))
}

/// Reads a context file: one `NAME=value` a line, empty lines skipped.
///
/// # Errors
/// As [`parse_context_option`].
pub fn parse_context_file(text: &str) -> Result<Variables> {
    parse_pairs(text.lines())
}

fn parse_pairs<'a>(pairs: impl Iterator<Item = &'a str>) -> Result<Variables> {
    let mut variables = Variables::new();
    for pair in pairs.filter(|pair| !pair.trim().is_empty()) {
        let (name, value) =
            pair.split_once('=')
                .ok_or_else(|| ContextError::SyntaxErrorInLine {
                    line: pair.to_owned(),
                })?;
        variables.set(name, value)?;
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_has_one_pair_a_line() {
        let variables = parse_context_file("\na=1\r\nB= x = y \n\n   \nA=2\n").unwrap();
        assert_eq!(
            variables.iter().collect::<Vec<_>>(),
            [("A", "2"), ("B", " x = y ")]
        );
    }

    #[test]
    fn the_message_for_a_line_without_equals_is_the_contract() {
        let error = parse_context_option("A=1#no pair").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Error while parsing contextualization file.\nSyntax error in line `no pair`"
        );
    }

    #[test]
    fn a_blank_before_equals_is_an_error_and_not_a_strange_name() {
        assert!(matches!(
            parse_context_option("A = 1"),
            Err(ContextError::InvalidVariableName { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[aA=#\\n _$'0-9é]{0,200}") {
            for parsed in [parse_context_option(&text), parse_context_file(&text)] {
                match parsed {
                    Ok(variables) => prop_assert!(variables.len() <= crate::limits::VARIABLES_MAX),
                    Err(error) => prop_assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
}

//! `$select`: which attributes are shown or changed.

/// Names of attributes, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// All attributes.
    #[default]
    All,
    /// Only these.
    Only(Vec<String>),
}

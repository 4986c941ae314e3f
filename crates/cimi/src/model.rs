//! The table of public attributes.

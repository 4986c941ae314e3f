//! What the user configured: file, environment, options, and which of them counts.

mod ini;
mod settings;

pub use settings::{DEFAULT_CONFIG_FILE, REFERENCE_FILE, Settings, home};

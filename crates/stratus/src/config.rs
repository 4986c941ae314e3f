//! What the user configured: file, environment, options, and which of them counts.

mod ini;
mod settings;
mod site;

pub use settings::{DEFAULT_CONFIG_FILE, REFERENCE_FILE, Settings, home};
pub use site::{SiteFile, SiteKey, no_key};

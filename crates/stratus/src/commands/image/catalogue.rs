//! `stratus image catalogue`: what can be started by name.

use serde_json::Value;

use crate::cloud::text_of;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// Show where the cloud finds images by name, or the products of a catalogue
///
/// Without NAME: the Marketplaces and catalogues. With it: its products, each with the names that 'stratus run-instance NAME:PRODUCT'
/// takes, and its newest version. NAME:PRODUCT@VERSION starts another one.
///
/// JSON: a list of {"name", "kind", "url", "trust"}; with NAME of {"name", "aliases", "title", "architecture", "versions":
/// [{"version", "path", "bytes", "sha256", "sha512"}]}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image catalogue
  stratus image catalogue ubuntu
  stratus run-instance ubuntu:24.04")]
pub struct Arguments {
    /// A catalogue
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut path = "/stratus/catalogue".to_owned();
        if let Some(name) = &self.name {
            let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            path.push_str(&format!("?name={name}"));
        }
        let Value::Array(found) = api.get(&path).await? else {
            return Err(Failure::Work("the cloud answered with something else than a list".to_owned()));
        };
        if session.out.is_json() {
            return session.out.json(&found);
        }
        let text = |of: &Value, name: &str| of.get(name).map(text_of).unwrap_or_default();
        if self.name.is_none() {
            let rows = found.iter().map(|one| vec![text(one, "name"), text(one, "kind"), text(one, "url"), text(one, "trust")]);
            return session.out.line(table::render(&["NAME", "KIND", "URL", "TRUST"], rows));
        }
        let rows = found.iter().map(|product| {
            let aliases = product.get("aliases").and_then(Value::as_array).into_iter().flatten();
            let aliases: Vec<String> = aliases.map(text_of).collect();
            let version = product.pointer("/versions/0/version").map(text_of).unwrap_or_default();
            vec![text(product, "name"), aliases.join(" "), version, text(product, "title")]
        });
        session.out.line(table::render(&["PRODUCT", "ALSO", "VERSION", "TITLE"], rows))
    }
}

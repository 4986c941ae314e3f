//! `stratus image …`: what machines are started from.

mod catalogue;
mod delete;
mod export;
mod fetch;
mod from_folder;
pub(super) mod import;
mod list;
mod search;
mod share;
mod show;
mod update;

use clap::Subcommand;

use crate::cloud::{Api, ImageView, is_image_identifier, is_uuid};
use crate::commands::image_name::{Use, image_named, nearly_identifier};
use crate::failure::{Failure, Result};
use crate::options::Common;

/// Find, import, fetch, export, make, list, show, change, share and delete images
///
/// An image is the content of a disk that machines start from, raw or qcow2. It is named by an identifier of 27 characters that
/// follows from its SHA-1, so the same content has the same name everywhere.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Import(Box<import::Arguments>),
    Export(export::Arguments),
    FromFolder(from_folder::Arguments),
    List(list::Arguments),
    Search(search::Arguments),
    Show(show::Arguments),
    Update(update::Arguments),
    Share(share::Share),
    Unshare(share::Unshare),
    Delete(delete::Arguments),
    Fetch(fetch::Arguments),
    Catalogue(catalogue::Arguments),
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Import(arguments) => arguments.common(),
            Action::Export(arguments) => arguments.common(),
            Action::FromFolder(arguments) => arguments.common(),
            Action::List(arguments) => arguments.common(),
            Action::Search(arguments) => arguments.common(),
            Action::Show(arguments) => arguments.common(),
            Action::Update(arguments) => arguments.common(),
            Action::Share(arguments) => arguments.common(),
            Action::Unshare(arguments) => arguments.common(),
            Action::Delete(arguments) => arguments.common(),
            Action::Fetch(arguments) => arguments.common(),
            Action::Catalogue(arguments) => arguments.common(),
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Import(arguments) => Box::pin(arguments.run()).await,
            Action::Export(arguments) => Box::pin(arguments.run()).await,
            Action::FromFolder(arguments) => Box::pin(arguments.run()).await,
            Action::List(arguments) => arguments.run().await,
            Action::Search(arguments) => Box::pin(arguments.run()).await,
            Action::Show(arguments) => arguments.run().await,
            Action::Update(arguments) => arguments.run().await,
            Action::Share(arguments) => Box::pin(arguments.run()).await,
            Action::Unshare(arguments) => Box::pin(arguments.run()).await,
            Action::Delete(arguments) => arguments.run().await,
            Action::Fetch(arguments) => arguments.run().await,
            Action::Catalogue(arguments) => arguments.run().await,
        }
    }
}

/// The path of the image that a user named by identifier, UUID, `MachineImage/…` or name.
async fn image_path(api: &Api, text: &str, named_for: Use) -> Result<String> {
    let id = text.trim().trim_start_matches("MachineImage/");
    if is_image_identifier(id) || is_uuid(id) {
        return Ok(format!("MachineImage/{id}"));
    }
    image_named(api, id, named_for).await?.ok_or_else(|| {
        let failure = Failure::Work(format!("there is no image '{text}'; stratus image list shows what there is"));
        match nearly_identifier(id) {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })
}

/// An image as programs see it.
fn as_json(image: &ImageView) -> serde_json::Value {
    serde_json::json!({
        "identifier": image.identifier, "uri": image.id, "name": image.name, "state": image.state, "reason": image.reason,
        "format": image.format, "virtualSize": image.virtual_size, "visibility": image.visibility, "owner": image.owner,
        "progress": image.progress,
    })
}

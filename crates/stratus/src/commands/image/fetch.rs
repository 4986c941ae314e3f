//! `stratus image fetch`: images brought in before anybody waits for them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cloud::{Api, ImageView};
use crate::commands::each::each;
use crate::commands::image_name::{location_of, wanted};
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::progress::Waiting;
use crate::session::Session;
use crate::unfinished;

/// Fetch images by name, before machines need them
///
/// IMAGE is an identifier that the cloud's Marketplaces know, an endorser's tag (TAG@EMAIL), CATALOGUE:PRODUCT, or a URL, also a short
/// one that leads to an entry. The cloud checks and caches it; it goes
/// again when no machine needed it for long (images.unused_days of the daemon), unless it is pinned. Prints 'IMAGE IDENTIFIER' for
/// each when it is there. One that does not come does not keep the others; it is told, and the exit status is then not zero.
///
/// JSON: a list of images as in 'image import'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image fetch MMZu9WvwKIro-rtBQfDk4PsKO7_ ubuntu:24.04
  stratus image fetch --pin ubuntu:24.04")]
pub struct Arguments {
    /// Identifiers, TAG@EMAIL, CATALOGUE:PRODUCT, or URLs
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Keep them although nobody needs them (for administrators)
    #[arg(long, conflicts_with = "unpin")]
    pin: bool,
    /// Let them go again when nobody needs them
    #[arg(long)]
    unpin: bool,
    /// Seconds to wait for all of them; 0 does not wait [default: 3600]
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, hide_default_value = true)]
    timeout: u64,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

const PAUSE: Duration = Duration::from_millis(500);

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut outcome = each(&self.images, async |text| {
            let location = location_of(text).ok_or_else(|| {
                Failure::Usage(format!("'{text}' is nothing that the cloud could fetch: give an identifier of 27 characters, TAG@EMAIL, CATALOGUE:PRODUCT, or a URL"))
            })?;
            let image: ImageView = api.viewed("MachineImage", wanted(&api, &location).await?.body)?;
            if self.pin || self.unpin {
                let query = format!("{}?$select=pinned", image.id);
                api.put(&query, &json!({ "pinned": self.pin })).await?;
            }
            Ok(image.id)
        })
        .await;
        let paths: Vec<&str> = outcome.done.iter().map(|(_, path)| path.as_str()).collect();
        let all = paths.join(" ");
        unfinished::goes_on_as(&format!("{all} (stratus image show tells how far each is, stratus image delete {all} removes what is yours)"));
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let waiting = Waiting::start(&session.out, "fetching");
        let mut images = Vec::new();
        let until_there = async |_: &str, path: &String| {
            images.push(if self.timeout == 0 { api.view(path).await? } else { self.until_there(&api, path, deadline, &waiting).await? });
            Ok(())
        };
        outcome.then(until_there).await;
        drop(waiting);
        if session.out.is_json() {
            session.out.json(&images.iter().map(super::as_json).collect::<Vec<_>>())?;
        } else {
            images.iter().try_for_each(|image| session.out.line(format_args!("IMAGE {}", image.content())))?;
        }
        // Each that is there was told.
        outcome.shown()
    }

    async fn until_there(&self, api: &Api, path: &str, deadline: Instant, waiting: &Waiting) -> Result<ImageView> {
        loop {
            let image: ImageView = api.view(path).await?;
            match image.state.as_deref() {
                Some("AVAILABLE") => return Ok(image),
                Some("ERROR") => return Err(Failure::Work(format!("the image cannot be used: {}", image.why_failed()))),
                _ if Instant::now() >= deadline => {
                    return Err(Failure::Work(format!("the image is not there after {} s; the cloud goes on", self.timeout))
                        .with_hint(format!("stratus image show {path} tells how far it is.")));
                }
                _ => {
                    waiting.say(image.on_its_way());
                    waiting.tell(image.why_not_here().map(|why| format!("{path} is waited for: {why}")));
                }
            }
            waiting.tick();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

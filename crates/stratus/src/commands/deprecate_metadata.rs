//! `stratus deprecate-metadata`: an endorser takes back a recommendation.

use marketplace::{ImageIdentifier, Metadata, UtcTime, draft, list};

use super::upload_metadata::publish;
use crate::cloud::Marketplace;
use crate::endorser::Endorser;
use crate::failure::{Failure, Result};
use crate::options::{self, Common, Signing};
use crate::output::printable;
use crate::session::Session;

/// Say that an image should not be used any more
///
/// Fetches your entry of the image, adds the reason, signs it anew and uploads it. The image then vanishes from the Marketplace's lists, and
/// clouds refuse to start it. Prints the address of the new entry.
///
/// JSON: {"url", "state"}; state is "created" or "waiting" (for the endorser).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus deprecate-metadata --reason 'OpenSSL with a hole' Dtx9D_zD0sVtc2F3Z6V68foTrWj")]
pub struct Arguments {
    /// Identifier of the image
    #[arg(value_name = "image-id")]
    image: Option<String>,
    /// E-mail address of the endorser: yours [default: the one in the certificate]
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Which of your entries, by its time [default: the latest]
    #[arg(long, value_name = "TIME")]
    created: Option<String>,
    /// Why; everybody reads it, and it can't be taken back
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    marketplace: options::Marketplace,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let image = self.image.as_deref().ok_or_else(|| Failure::Usage("Please specify an image identifier".to_owned()))?;
        let image: ImageIdentifier = image.parse().map_err(|error: marketplace::identifier::InvalidIdentifier| Failure::Usage(error.to_string()))?;
        let created: Option<UtcTime> = self
            .created
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error: marketplace::date::InvalidTime| Failure::Usage(error.to_string()))?;
        let (endorser, email) = self.endorser(&session)?;
        let email = email.as_str();
        let reason = self.reason()?;
        let marketplace = Marketplace::of(&session, &self.marketplace)?;
        // One that has expired can be taken back, too: who has the image should know.
        let path = match created {
            Some(created) => format!("{image}/{email}/{created}"),
            None => format!("{image}/{email}?status=all"),
        };
        let answer = marketplace.fetch(&path).await.map_err(|failure| match failure {
            Failure::Work(text) if text.contains("no metadata matching") || text.contains("metadata entry not found") => Failure::Work(text).with_hint(format!(
                "{email} has no such entry of this image there, and only one's own can be deprecated: 'stratus image search --all --endorser {email} {image}' shows those there are."
            )),
            other => other,
        })?;
        let document = own_entry(&answer, image, email, created)
            .ok_or_else(|| Failure::Work(format!("{} answers without an entry of {email} for this image", marketplace.url(&path))))?;
        let work = |error: marketplace::Error| Failure::Work(error.to_string());
        if created.is_none()
            && let Some(reason) = Metadata::parse(document).map_err(work)?.deprecated
        {
            return Err(Failure::Work(format!("the latest entry of {email} is deprecated already: {}", printable(&reason)))
                .with_hint("--created TIME names an entry whose reason is to be another."));
        }
        let before = Metadata::parse(document).map_err(work)?.endorsement.map(|endorsement| endorsement.created);
        let draft = draft::deprecated(document, reason).map_err(work)?;
        let signed = endorser.endorse_after(before, draft.as_bytes(), Some(email)).map_err(work)?;
        publish(&session, &marketplace, signed.as_bytes()).await
    }

    /// Nothing is published for ever without a word of its author's.
    fn reason(&self) -> Result<&str> {
        let reason = self.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        reason.ok_or_else(|| Failure::Usage("Please say why, with --reason TEXT: everybody reads it, and it can't be taken back".to_owned()))
    }

    /// Who takes it back, and under which address: the one that was given, else that of the certificate.
    fn endorser(&self, session: &Session) -> Result<(Endorser, String)> {
        let missing = || Failure::Usage("Missing email address. Please provide email of endorser (--email): the certificate has none".to_owned());
        let Some(email) = self.email.clone() else {
            let endorser = Endorser::load(session, &self.signing).map_err(|failure| match failure.parts() {
                (Failure::Work(text), _) => Failure::Usage(format!("Missing email address. Please provide email of endorser (--email), or a certificate that has it: {text}")),
                (other, _) => other,
            })?;
            let email = endorser.certified_email().ok_or_else(missing)?.to_owned();
            return Ok((endorser, email));
        };
        // Before a password is asked for.
        self.reason()?;
        let endorser = Endorser::load(session, &self.signing)?;
        if let Some(certified) = endorser.certified_email()
            && !certified.eq_ignore_ascii_case(&email)
        {
            return Err(Failure::Work(format!("the certificate is that of {certified}; the entry of {email} can be deprecated only by its endorser")));
        }
        Ok((endorser, email))
    }
}

/// The latest entry of this image and endorser in an answer.
fn own_entry<'a>(answer: &'a [u8], image: ImageIdentifier, email: &str, created: Option<UtcTime>) -> Option<&'a [u8]> {
    list::documents(answer)
        .ok()?
        .into_iter()
        .filter_map(|document| {
            let metadata = Metadata::parse(document).ok()?;
            let endorsement = metadata.endorsement?;
            let is_it = metadata.identifier == image
                && endorsement.email.eq_ignore_ascii_case(email)
                && created.is_none_or(|created| created == endorsement.created);
            is_it.then_some((endorsement.created, document))
        })
        .max_by_key(|(created, _)| *created)
        .map(|(_, document)| document)
}

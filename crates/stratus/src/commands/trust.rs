//! `stratus trust`: accept a cloud's certificate once and for all.

use std::io::{BufRead as _, IsTerminal as _};

use crate::cloud::{Api, ApiError, Endpoint, Fingerprint, KnownClouds, Trust};
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::write_stderr;
use crate::session::Session;

/// Trust the certificate of a cloud
///
/// For clouds whose certificate no authority of this system has signed. Shows the fingerprint of the certificate and, after
/// you have compared it with what the administrator told you, remembers it in ~/.stratuslab/known_clouds for this host and port
/// alone. From then on exactly this certificate is accepted there, and a changed one is refused until you trust it again.
///
/// Without a terminal give the fingerprint you expect (--fingerprint), or accept whatever is shown (--yes).
/// JSON: {"endpoint", "fingerprint", "trusted"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus trust
  stratus trust https://cloud.example.org:8443
  stratus trust --fingerprint SHA256:5F:0C:… cloud.example.org
  stratus trust --forget cloud.example.org")]
pub struct Arguments {
    /// The cloud [default: the configured endpoint]
    #[arg(value_name = "ENDPOINT")]
    cloud_endpoint: Option<String>,
    /// Accept without asking
    #[arg(short, long)]
    yes: bool,
    /// Accept this certificate and no other
    #[arg(long, value_name = "SHA256:…")]
    fingerprint: Option<Fingerprint>,
    /// Forget what was trusted for this cloud
    #[arg(long, conflicts_with_all = ["yes", "fingerprint"])]
    forget: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let endpoint = match &self.cloud_endpoint {
            Some(text) => Endpoint::parse(text)?,
            None => session.endpoint(&self.cloud)?,
        };
        let mut known = KnownClouds::load()?;
        if self.forget {
            let text = if known.forget(&endpoint)? { "is no longer trusted by its fingerprint" } else { "was not trusted by a fingerprint" };
            session.out.step(format_args!("{endpoint} {text}"));
            return Ok(());
        }
        if !endpoint.is_secure() {
            return Err(Failure::Check(format!("{} uses no TLS, there is no certificate to trust", endpoint.root_url())));
        }
        let (shown, refusal) = shown_certificate(&session, &endpoint).await?;
        if let Some(expected) = self.fingerprint
            && expected != shown
        {
            return Err(Failure::Work(format!("{endpoint} shows another certificate than expected: {shown} instead of {expected}; nothing was changed")));
        }
        let known_before = known.pin(&endpoint);
        if known_before == Some(shown) {
            session.out.step(format_args!("{endpoint} is trusted already: {shown}"));
        } else {
            session.out.step(format_args!("{endpoint} shows a certificate with the fingerprint"));
            session.out.step(shown);
            if known_before.is_some() {
                session.out.warning(format_args!("It replaces another certificate that you trusted before. Somebody else may answer in its place."));
            }
            if refusal.is_none() {
                session.out.step("Authorities of this system vouch for it; it would be accepted without this command, too.");
            }
            if !self.yes && self.fingerprint.is_none() && !confirmed()? {
                return Err(Failure::Check("nothing was changed".to_owned()));
            }
            known.remember(&endpoint, shown)?;
            session.out.step(format_args!("Remembered in {}", known.path().display()));
        }
        if session.out.is_json() {
            session.out.json(&serde_json::json!({ "endpoint": endpoint.root_url(), "fingerprint": shown.to_string(), "trusted": true }))?;
        }
        Ok(())
    }
}

/// The certificate that the cloud shows, and why it would be refused without a pin. No credentials are sent.
async fn shown_certificate(session: &Session, endpoint: &Endpoint) -> Result<(Fingerprint, Option<String>)> {
    let api = Api::new(endpoint.clone(), None, |_| Trust::default(), session.out)?;
    let result = api.get("/cimi").await;
    match (api.seen_certificate(), result) {
        (Some(seen), _) => Ok((seen.fingerprint, seen.refusal)),
        (None, Err(error @ ApiError::Network { .. })) => Err(error.into()),
        (None, _) => Err(Failure::Work(format!("{endpoint} showed no certificate; does it speak TLS?"))),
    }
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Check("there is no terminal to ask on; give --fingerprint SHA256:… or --yes".to_owned()));
    }
    write_stderr("Is it the one that the administrator told you? Trust it? [yes/no] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::Work(format!("the answer cannot be read: {error}")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

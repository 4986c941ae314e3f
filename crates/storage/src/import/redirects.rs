//! Where a short URL leads: asked hop by hop, without fetching what is there.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::{Client, ClientBuilder, Url, redirect};

use super::reach::{Reach, Resolver};

/// For all hops together: somebody waits.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_HOPS: usize = 5;

/// Follows redirects, as [`Fetcher`](super::Fetcher) does: few, never from `https` back to `http`, never to where [`Reach`]
/// forbids.
#[derive(Debug, Clone)]
pub struct Redirects {
    client: Client,
    reach: Arc<Reach>,
}

impl Redirects {
    /// By a client of the caller's; whom to trust is the caller's business.
    ///
    /// # Errors
    /// Of the builder.
    pub fn new(builder: ClientBuilder, reach: Reach) -> reqwest::Result<Self> {
        let reach = Arc::new(reach);
        let client = builder
            .connect_timeout(PATIENCE)
            .referer(false)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Resolver(reach.clone()))
            .build()?;
        Ok(Self { client, reach })
    }

    /// The first address on the way from `text` on that `is_it`; none if there is none, or nobody can say within seconds. That
    /// address itself is not asked for anything.
    pub async fn lead_to(&self, text: &str, is_it: impl Fn(&Url) -> bool + Send) -> Option<Url> {
        let found = self.follow(Url::parse(text).ok()?, is_it);
        tokio::time::timeout(PATIENCE, found).await.ok().flatten()
    }

    async fn follow(&self, mut url: Url, is_it: impl Fn(&Url) -> bool + Send) -> Option<Url> {
        for _ in 0..MAX_HOPS {
            if !matches!(url.scheme(), "http" | "https") || self.reach.check_url(&url).is_err() {
                return None;
            }
            let answer = self.client.head(url.clone()).send().await.ok()?;
            if !answer.status().is_redirection() {
                return None;
            }
            let to = answer.headers().get(LOCATION)?.to_str().ok()?;
            let next = url.join(to).ok()?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return None;
            }
            if is_it(&next) {
                return Some(next);
            }
            url = next;
        }
        None
    }
}

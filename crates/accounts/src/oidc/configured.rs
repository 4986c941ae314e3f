//! The provider that is configured now: another configuration is another provider, from the next request on.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::Methods;

use super::Oidc;

/// Keeps what is known of the provider as long as its configuration stays.
#[derive(Debug, Default)]
pub struct Configured(Mutex<Option<(u64, Option<Arc<Oidc>>)>>);

impl Configured {
    /// The provider of these ways to log in, if there is one that can be used.
    #[must_use]
    pub fn of(&self, methods: &Methods) -> Option<Arc<Oidc>> {
        let mut known = self.0.lock();
        if let Some((revision, oidc)) = &*known
            && *revision == methods.revision
        {
            return oidc.clone();
        }
        let settings = methods.oidc.clone().filter(|settings| settings.enabled);
        let made = settings.and_then(|settings| match Oidc::new(settings) {
            Ok(oidc) => Some(Arc::new(oidc)),
            Err(error) => {
                tracing::error!(%error, "nobody logs in by the provider");
                None
            }
        });
        *known = Some((methods.revision, made.clone()));
        made
    }
}

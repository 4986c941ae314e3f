//! Who may do what: the one place where rights are checked, and where documents are found for a caller.

use std::sync::Arc;

use cimi::{Right, resources::Resource};
use documents::{Cached, Documents, OfType};

use crate::{CloudError, OpContext, Result};

/// The document `<collection>/<local>` if the caller has at least `right` on it.
///
/// # Errors
/// [`CloudError::NotFound`]; without the right [`CloudError::Forbidden`], or `Unauthenticated` for anonymous callers.
pub(crate) fn find<R: OfType>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
    right: Right,
) -> Result<Arc<Cached<R>>> {
    let missing = || CloudError::not_found(format!("{}/{local}", R::COLLECTION));
    let document = documents.view::<R>().get(local).ok_or_else(missing)?;
    require(context, &document.document.0, right)?;
    Ok(document)
}

/// Refuses a caller who has less than `right` on `document`.
pub(crate) fn require<R: Resource>(
    context: &OpContext,
    document: &R,
    right: Right,
) -> Result<Right> {
    match context.right_on(document.acl()) {
        Some(had) if had >= right => Ok(had),
        _ if context.user().is_none() => Err(CloudError::Unauthenticated),
        _ => Err(CloudError::Forbidden(format!(
            "you may not {} {}: it belongs to {}",
            if right == Right::View {
                "see"
            } else {
                "change"
            },
            document.key(),
            document.acl().owner.principal
        ))),
    }
}

/// Refuses anonymous callers; returns the user's name.
pub(crate) fn require_user(context: &OpContext) -> Result<&str> {
    context.user().ok_or(CloudError::Unauthenticated)
}

/// Refuses everybody but administrators.
pub(crate) fn require_admin(context: &OpContext, what: &str) -> Result<()> {
    if context.is_admin() {
        return Ok(());
    }
    if context.user().is_none() {
        return Err(CloudError::Unauthenticated);
    }
    Err(CloudError::Forbidden(format!(
        "only administrators may {what}"
    )))
}

//! Who may do what: the one place where rights are checked, and where documents are found for a caller.

use std::sync::Arc;

use cimi::{
    Acl, Right,
    model::{Changes, Kind},
    resources::{Resource, User},
};
use documents::{Cached, Documents, OfType};
use serde_json::Value;

use crate::{CloudError, OpContext, Result, error::unreadable};

/// The document `<collection>/<local>` if the caller has at least `right` on it.
///
/// # Errors
/// Those of [`found`].
pub(crate) fn find<R: OfType>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
    right: Right,
) -> Result<Arc<Cached<R>>> {
    found(context, documents.view::<R>().get(local), local, right)
}

/// What was found as `asked` (the part of its id after the slash, or a number) if the caller has at least `right` on it.
///
/// # Errors
/// [`CloudError::NotFound`] if it isn't there, and in the same words if the caller may not see it: what others have is
/// not told. [`CloudError::Forbidden`] for those who may see it only, `Unauthenticated` for anonymous callers.
pub(crate) fn found<R: Resource>(
    context: &OpContext,
    document: Option<Arc<Cached<R>>>,
    asked: &str,
    right: Right,
) -> Result<Arc<Cached<R>>> {
    match document {
        Some(document) => {
            check(context, &document.document.0, asked, right)?;
            Ok(document)
        }
        None if context.user().is_none() => Err(CloudError::Unauthenticated),
        None => Err(CloudError::not_found(format!("{}/{asked}", R::COLLECTION))),
    }
}

/// Refuses a caller who has less than `right` on `document`.
///
/// # Errors
/// Those of [`found`].
pub(crate) fn require<R: Resource>(
    context: &OpContext,
    document: &R,
    right: Right,
) -> Result<Right> {
    check(context, document, document.local_id(), right)
}

fn check<R: Resource>(
    context: &OpContext,
    document: &R,
    asked: &str,
    right: Right,
) -> Result<Right> {
    match context.right_on(document.acl()) {
        Some(had) if had >= right => {
            if right > Right::View {
                check_unchanged(context, document)?;
            }
            Ok(had)
        }
        _ if context.user().is_none() => Err(CloudError::Unauthenticated),
        Some(_)
            if context.is_read_only()
                && document.acl().right_of(context.user(), context.roles()) >= Some(right) =>
        {
            Err(CloudError::Forbidden(format!(
                "the token that you use is for reading only, and this takes the right to change {}: take a token of scope `full`, or log in with your password",
                document.key()
            )))
        }
        Some(_) => Err(CloudError::Forbidden(format!(
            "you may not change {}: it belongs to {}",
            document.key(),
            document.acl().owner.principal
        ))),
        None => Err(CloudError::not_found(format!("{}/{asked}", R::COLLECTION))),
    }
}

/// Refuses to change what isn't any more what the caller saw. On the very document that is then replaced, and once more
/// on whatever is there when that fails: nobody's change is lost.
pub(crate) fn check_unchanged<R: Resource>(context: &OpContext, document: &R) -> Result<()> {
    match &context.unchanged {
        Some(seen) if *seen.id == *document.key() && seen.updated != document.common().updated => {
            Err(CloudError::Changed(format!(
                "{} was changed since you read it; read it again",
                seen.id
            )))
        }
        _ => Ok(()),
    }
}

/// An access list that somebody sent.
///
/// # Errors
/// [`CloudError::Invalid`]
pub(crate) fn list_of(sent: &Value) -> Result<Acl> {
    if sent.get("owner").is_none_or(Value::is_null) {
        return Err(CloudError::invalid(
            "acl.owner",
            "is missing: an access list is replaced as a whole, so read the resource, change `acl.rules`, and send `acl` with \
             its `owner`",
        ));
    }
    serde_json::from_value(sent.clone()).map_err(|error| unreadable("acl", &error))
}

/// Refuses a change that gives a resource to somebody else, but for administrators: what somebody owns counts against
/// what they may have, and is theirs to answer for.
pub(crate) fn keep_owner(context: &OpContext, acl: &Acl, changes: &Changes) -> Result<()> {
    let Some(Some(wanted)) = changes.get("acl") else {
        return Ok(());
    };
    let wanted = list_of(wanted)?;
    if wanted.owner == acl.owner || context.is_admin() {
        return Ok(());
    }
    Err(CloudError::Forbidden(format!(
        "only administrators may give a resource from {} to {}; add a rule to `acl.rules` to share it",
        acl.owner.principal, wanted.owner.principal
    )))
}

/// Refuses a change of who may do what with `document` by those who may only change the rest of it: they would give
/// themselves and others what its owner didn't. `names` are the attributes that would be other than they were.
///
/// # Errors
/// [`CloudError::Forbidden`]
pub(crate) fn keep_rights<'n, R: Resource>(
    context: &OpContext,
    document: &R,
    mut names: impl Iterator<Item = &'n str>,
) -> Result<()> {
    let Some(name) = names.find(|name| ["acl", "visibility"].contains(name)) else {
        return Ok(());
    };
    if context.right_on(document.acl()) >= Some(Right::All) {
        return Ok(());
    }
    Err(CloudError::Forbidden(format!(
        "you may change {}, but not its `{name}`: who may do what with it is for {} and who has the right ALL to say",
        document.key(),
        document.acl().owner.principal
    )))
}

/// Says what a right is needed for by whom it is missing.
pub(crate) fn for_that<T>(found: Result<T>, why: &str) -> Result<T> {
    found.map_err(|error| match error {
        CloudError::Forbidden(reason) => CloudError::Forbidden(format!("{why}: {reason}")),
        other => other,
    })
}

/// Refuses anonymous callers; returns the user's name.
pub(crate) fn require_user(context: &OpContext) -> Result<&str> {
    context.user().ok_or(CloudError::Unauthenticated)
}

/// Refuses who may only look.
pub(crate) fn require_change(context: &OpContext) -> Result<()> {
    if context.is_read_only() {
        return Err(CloudError::Forbidden(
            "nothing can be changed with a token that is for reading only".to_owned(),
        ));
    }
    Ok(())
}

/// Refuses who is here by a token, a proxy or a session: for what whoever finds one must not do.
pub(crate) fn require_password(context: &OpContext, what: &str) -> Result<()> {
    require_login(context, what)?;
    if context.session().is_some() {
        return Err(CloudError::Forbidden(format!(
            "being logged in is not enough to {what}: send the password, too"
        )));
    }
    Ok(())
}

/// The same, but a browser that the user is logged in with will do.
pub(crate) fn require_login(context: &OpContext, what: &str) -> Result<()> {
    if context.token().is_some() {
        return Err(CloudError::Forbidden(format!(
            "tokens don't {what}: log in with the password"
        )));
    }
    if !context.is_in_person() && context.session().is_none() {
        return Err(CloudError::Forbidden(format!(
            "proxies don't {what}: log in with the certificate itself, or a password"
        )));
    }
    Ok(())
}

/// Refuses who has shown what opens the account in this generation, if that was changed since. Together with `unchanged` for
/// this very `user`, nothing is made by what opens the account no more.
pub(crate) fn require_current(shown: Option<u64>, user: &User) -> Result<()> {
    if shown.is_some_and(|shown| shown != user.generation) {
        return Err(CloudError::Forbidden(
            "what you have logged in with was changed meanwhile: log in again".to_owned(),
        ));
    }
    Ok(())
}

/// Refuses who is here by a limited proxy: by the rules of the grid, it doesn't start anything.
pub(crate) fn require_unlimited(context: &OpContext) -> Result<()> {
    if context.is_limited() {
        return Err(CloudError::Forbidden(
            "machines are not started with a limited proxy: make a full one".to_owned(),
        ));
    }
    Ok(())
}

/// Refuses who is here by a token that is not for resources of this type.
pub(crate) fn require_type(context: &OpContext, kind: Kind) -> Result<()> {
    match context.token() {
        Some(token) if !token.is_for(kind) => {
            Err(CloudError::Forbidden(token.refusal(kind.name())))
        }
        _ => Ok(()),
    }
}

/// Refuses who may not see any list of this type.
pub(crate) fn require_list(context: &OpContext, kind: Kind) -> Result<()> {
    require_type(context, kind)?;
    match kind {
        Kind::ServiceMessage => Ok(()),
        Kind::Host => require_admin(context, "see the hosts"),
        Kind::Registration => require_admin(context, "see who asks for an account"),
        Kind::ServiceConfiguration => require_admin(context, "see how services are configured"),
        _ => require_user(context).map(|_| ()),
    }
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

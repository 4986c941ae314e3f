//! How much one user may have, and how much the members of a group.
//!
//! What counts is who owns a document, as the index of the cache knows it, so there is no counter that could be wrong; and
//! what is on its way: a creation holds its [`Place`] until the cache shows what it made, so that creations at the same
//! moment don't all take the last one. Other daemons on the same store are kept out by the [mark](clerk) that each
//! creation demands in its transaction.

mod clerk;
mod measure;
mod rooms;
mod show;
mod together;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use cimi::{
    PrincipalType,
    common::{ADMIN_ROLE, Principal},
    resources::Most,
};
use documents::{Changes, Documents, DocumentsError, OfType};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::measure::PerUser;
use self::{
    clerk::{Clerks, Counted, Mark},
    together::Together,
};
pub(crate) use self::{measure::Measure, show::used_by};
use crate::{Cloud, CloudError, OpContext, Result, access, context};

/// What is on its way.
#[derive(Debug, Default)]
struct Coming {
    /// By user and measure.
    amounts: HashMap<(Arc<str>, Measure), u64>,
    /// How many places a user has.
    places: HashMap<Arc<str>, usize>,
    /// Users who are about to be removed: nothing more comes to them.
    leaving: HashSet<Arc<str>>,
}

impl Coming {
    fn amount(&self, user: &Arc<str>, measure: Measure) -> u64 {
        let key = (Arc::clone(user), measure);
        self.amounts.get(&key).copied().unwrap_or(0)
    }
}

/// How much everybody may have, and who is making how much. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Quotas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    documents: Documents,
    per_user: PerUser,
    coming: Mutex<Coming>,
    /// Rings when something on its way has come or was given up.
    settled: Notify,
    clerks: Clerks,
}

/// Room for what is about to be made; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quotas: Quotas,
    user: Arc<str>,
    amounts: Vec<(Measure, u64)>,
    marks: Vec<Mark>,
}

impl Place {
    /// Demands that nobody else counts by now. To be called before anything else is demanded of the transaction: the
    /// first demand that fails is the one that is told.
    pub(crate) fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a> {
        let marks = self.marks.iter();
        marks.fold(changes, |changes, mark| {
            changes.unchanged_raw(&mark.key, mark.revision)
        })
    }

    /// Whether a transaction failed because somebody else counts by now: then another place is to be found for it.
    pub(crate) async fn is_lost(&self, error: &DocumentsError) -> bool {
        let DocumentsError::Conflict { key } = error else {
            return false;
        };
        let Some(mark) = self.marks.iter().find(|mark| mark.key.as_str() == key) else {
            return false;
        };
        self.quotas.0.clerks.lost(mark).await;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut coming = self.quotas.0.coming.lock();
        for (measure, amount) in &self.amounts {
            let key = (Arc::clone(&self.user), *measure);
            if let Some(held) = coming.amounts.get_mut(&key) {
                *held = held.saturating_sub(*amount);
                if *held == 0 {
                    coming.amounts.remove(&key);
                }
            }
        }
        if let Some(places) = coming.places.get_mut(&self.user) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                coming.places.remove(&self.user);
            }
        }
        drop(coming);
        self.quotas.0.settled.notify_waiters();
    }
}

/// While it lives, nothing can be made for the user.
#[derive(Debug)]
pub(crate) struct Leaving {
    quotas: Quotas,
    user: Arc<str>,
    mark: Mark,
}

impl Leaving {
    /// Removes the user's mark with the user: what another daemon is making for them fails.
    pub(crate) fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a> {
        changes.remove_raw(&self.mark.key, self.mark.revision)
    }

    /// Takes note of what became of that.
    pub(crate) async fn ended(&self) {
        self.quotas.0.clerks.lost(&self.mark).await;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.quotas.0.coming.lock().leaving.remove(&self.user);
    }
}

/// What bounds somebody: their own quota, and that of those with whom they are bounded together.
enum Bounds {
    None,
    Of(Vec<Together>),
}

/// Why there is no room.
enum NoRoom {
    /// It would be too much, whatever becomes of what is on its way.
    Never(CloudError),
    /// There may be, when that is known.
    Perhaps,
}

impl Quotas {
    /// Of those who have documents, where administrators set nothing else.
    #[must_use]
    pub fn new(documents: Documents, per_user: PerUser) -> Self {
        Self(Arc::new(Shared {
            documents,
            per_user,
            coming: Mutex::default(),
            settled: Notify::new(),
            clerks: Clerks::default(),
        }))
    }

    /// Whether anything bounds a user: administrators are not bounded.
    fn bound(&self, user: &str) -> bool {
        let account = self.0.documents.users.get(user);
        !account.is_some_and(|user| user.roles.iter().any(|role| role == ADMIN_ROLE))
    }

    /// Room for more of what is counted, which will belong to a user. To be held until it is made.
    async fn place(
        &self,
        user: &str,
        is_bounded: bool,
        amounts: &[(Measure, u64)],
        deadline: Instant,
    ) -> Result<Place> {
        let quotas = &self.0;
        let documents = &quotas.documents;
        let user = Arc::<str>::from(user);
        loop {
            context::in_time(deadline)?;
            let bounding = || {
                if is_bounded {
                    together::bounding(documents, &user)
                } else {
                    Vec::new()
                }
            };
            let counted: Vec<Counted> = bounding().iter().map(Together::counted).collect();
            let mut marks = vec![
                quotas
                    .clerks
                    .mark(documents, Counted::User(Arc::clone(&user)))
                    .await?,
            ];
            for whose in &counted {
                marks.push(quotas.clerks.mark(documents, whose.clone()).await?);
            }
            // Anew, now that nobody else adds to it: there may be members whom another daemon has let make something.
            let all = bounding();
            if !all.iter().map(Together::counted).eq(counted) {
                continue;
            }
            let bounds = if is_bounded {
                Bounds::Of(all)
            } else {
                Bounds::None
            };
            // Before anything is counted, so that no ring is missed.
            let settled = quotas.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            match self.reserve(&user, amounts, &bounds) {
                Ok(()) => {
                    return Ok(Place {
                        quotas: self.clone(),
                        user,
                        amounts: amounts.to_vec(),
                        marks,
                    });
                }
                Err(NoRoom::Never(error)) => return Err(error),
                Err(NoRoom::Perhaps) => {
                    let _ = tokio::time::timeout_at(deadline.into(), settled).await;
                }
            }
        }
    }

    fn reserve(
        &self,
        user: &Arc<str>,
        amounts: &[(Measure, u64)],
        bounds: &Bounds,
    ) -> std::result::Result<(), NoRoom> {
        let documents = &self.0.documents;
        let mut coming = self.0.coming.lock();
        if coming.leaving.contains(user) {
            return Err(NoRoom::Never(CloudError::Conflict(format!(
                "User/{user} is being removed"
            ))));
        }
        if let Bounds::Of(all) = bounds {
            let account = documents.users.get(user);
            let account = account.as_ref().map(|read| &read.document.0);
            for &(measure, amount) in amounts.iter().filter(|(_, amount)| *amount > 0) {
                let (most, _) = measure.most_of_user(account, &self.0.per_user);
                let used = measure.used(documents, user);
                let under_way = coming.amount(user, measure);
                room(measure, most, used, under_way, amount, None)?;
                for together in all {
                    let most = together.most(measure, &self.0.per_user);
                    if most == Most::Unbounded {
                        continue;
                    }
                    let members = &together.members;
                    let used = members.iter().map(|user| measure.used(documents, user));
                    let under_way = members.iter().map(|user| coming.amount(user, measure));
                    let (used, under_way) = (used.sum(), under_way.sum());
                    room(measure, most, used, under_way, amount, Some(together))?;
                }
            }
        }
        for &(measure, amount) in amounts.iter().filter(|(_, amount)| *amount > 0) {
            *coming
                .amounts
                .entry((Arc::clone(user), measure))
                .or_default() += amount;
        }
        *coming.places.entry(Arc::clone(user)).or_default() += 1;
        Ok(())
    }
}

impl Cloud {
    /// Room for more of what is counted, which will belong to the caller. To be held until it is made.
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] if it would be too much; [`CloudError::Conflict`] if the caller is being removed.
    pub(crate) async fn place(
        &self,
        context: &OpContext,
        amounts: &[(Measure, u64)],
    ) -> Result<Place> {
        let user = access::require_user(context)?.to_owned();
        self.note_member(context).await?;
        let is_bounded = !context.is_admin();
        let quotas = &self.0.quotas;
        quotas
            .place(&user, is_bounded, amounts, context.deadline)
            .await
    }

    /// As [`Cloud::place`], of what belongs to somebody, whoever adds to it: what the owner may have counts. `None` if it is
    /// no user's: nothing bounds roles and groups.
    pub(crate) async fn place_of(
        &self,
        context: &OpContext,
        owner: &Principal,
        amounts: &[(Measure, u64)],
    ) -> Result<Option<Place>> {
        let user = &owner.principal;
        if owner.kind != PrincipalType::User {
            return Ok(None);
        }
        if context.user() == Some(user) {
            return self.place(context, amounts).await.map(Some);
        }
        let quotas = &self.0.quotas;
        let place = quotas.place(user, quotas.bound(user), amounts, context.deadline);
        place.await.map(Some)
    }

    /// Writes something new of the caller within what the caller may have.
    ///
    /// # Errors
    /// Those of [`Cloud::place`] and of the store.
    pub(crate) async fn write_within<'a>(
        &'a self,
        context: &OpContext,
        amounts: &[(Measure, u64)],
        write: impl Fn(Changes<'a>) -> Changes<'a> + Send,
    ) -> Result<()> {
        loop {
            let place = self.place(context, amounts).await?;
            let changes = place.guard(self.0.documents.changes());
            match write(changes).commit().await {
                Ok(_) => return Ok(()),
                Err(error) if place.is_lost(&error).await => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Cloud::write_within`], one resource of a type that is counted by pieces.
    pub(crate) async fn write_one_within<'a, R: OfType>(
        &'a self,
        context: &OpContext,
        write: impl Fn(Changes<'a>) -> Changes<'a> + Send,
    ) -> Result<()> {
        let amounts = Measure::of(R::COLLECTION).map(|measure| (measure, 1));
        self.write_within(context, amounts.as_slice(), write).await
    }

    /// Lets nothing more be made for a user; refused while something is.
    pub(crate) async fn leaving(&self, user: &str) -> Result<Leaving> {
        let user = Arc::<str>::from(user);
        let quotas = &self.0.quotas.0;
        let whose = Counted::User(Arc::clone(&user));
        let mark = quotas.clerks.mark(&self.0.documents, whose).await?;
        let mut coming = quotas.coming.lock();
        if coming.places.contains_key(&user) || !coming.leaving.insert(Arc::clone(&user)) {
            return Err(CloudError::Conflict(format!(
                "something is being done for User/{user} at this moment: try again"
            )));
        }
        Ok(Leaving {
            quotas: self.0.quotas.clone(),
            user,
            mark,
        })
    }
}

/// Whether `wanted` more than what is there, and what is on its way, is not too much.
fn room(
    measure: Measure,
    most: Most,
    used: u64,
    under_way: u64,
    wanted: u64,
    together: Option<&Together>,
) -> std::result::Result<(), NoRoom> {
    let Most::AtMost(most) = most else {
        return Ok(());
    };
    let bound = most.saturating_mul(measure.unit());
    if used.saturating_add(under_way).saturating_add(wanted) <= bound {
        return Ok(());
    }
    if used.saturating_add(wanted) <= bound {
        return Err(NoRoom::Perhaps);
    }
    let name = measure.name();
    let whose = together.map_or_else(String::new, |all| format!(" of {}", all.name()));
    let (used, wanted) = (measure.shown(used), measure.shown(wanted));
    let remedy = measure.remedy();
    Err(NoRoom::Never(CloudError::Exhausted(format!(
        "{name} quota{whose} exceeded (Quota: {most}, Used: {used}, Requested: {wanted}): {remedy}, or ask the \
         administrator for more"
    ))))
}

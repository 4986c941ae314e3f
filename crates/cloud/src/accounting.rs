//! Who used what from when to when.
//!
//! What is over are records in the store, written with the change that ended the use ([`documents::usage`]); what goes on
//! is in the documents themselves. A listing tells what goes on first: what ends while it is read is then told twice, by
//! the same `id`, and never not at all.

use cimi::{
    Right, Timestamp,
    resources::{Address, Group, Image, Machine, Resource, Use, User, Volume, VolumeImage},
};
use documents::OfType;
use serde_json::{Value, json};

use crate::{Cloud, CloudError, OpContext, Result, access, group};

/// Most uses on one page, and how many if nobody says.
const PAGE_AT_MOST: usize = 1000;

/// What a listing of uses is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageQuery {
    /// Uses that ended before this are left out.
    pub from: Option<Timestamp>,
    /// Uses that began at this time or later are left out.
    pub to: Option<Timestamp>,
    /// Of one user only.
    pub user: Option<String>,
    /// Of those who are members of this group now.
    pub group: Option<String>,
    /// How many at most; some pages have fewer, or none, though there are more.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// Where a listing is: which part of it, and what was told last of that part.
enum At {
    Machines(Option<String>),
    Volumes(Option<String>),
    Addresses(Option<String>),
    Images(Option<String>),
    Snapshots(Option<String>),
    Over(Option<String>),
}

impl At {
    fn parse(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else {
            return Some(Self::Machines(None));
        };
        let (part, last) = text.split_once(':')?;
        let last = (!last.is_empty()).then(|| last.to_owned());
        Some(match part {
            "machines" => Self::Machines(last),
            "volumes" => Self::Volumes(last),
            "addresses" => Self::Addresses(last),
            "images" => Self::Images(last),
            "snapshots" => Self::Snapshots(last),
            "over" => Self::Over(last),
            _ => return None,
        })
    }

    fn text(&self) -> String {
        let (part, last) = match self {
            Self::Machines(last) => ("machines", last),
            Self::Volumes(last) => ("volumes", last),
            Self::Addresses(last) => ("addresses", last),
            Self::Images(last) => ("images", last),
            Self::Snapshots(last) => ("snapshots", last),
            Self::Over(last) => ("over", last),
        };
        format!("{part}:{}", last.as_deref().unwrap_or_default())
    }
}

/// The uses of a page, and the period they are asked for.
struct Telling {
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    uses: Vec<Value>,
}

impl Telling {
    /// Tells a use, if any of it is in the period: all of it, and how much of it is in the period.
    fn tell(&mut self, used: &Use, end: Option<Timestamp>) {
        let until = end.unwrap_or(self.now);
        if used.start >= self.to || until < self.from {
            return;
        }
        let inside = until.min(self.to).since(used.start.max(self.from));
        let mut value = json!(used);
        value["id"] = used.id().into();
        value["end"] = json!(end);
        value["hours"] = json!(inside.as_secs_f64() / 3600.0);
        self.uses.push(value);
    }
}

impl Cloud {
    /// One page of what was used: administrators see all, users their own. A page costs what it shows.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for what others used, [`CloudError::Invalid`].
    pub async fn usage(&self, context: &OpContext, query: &UsageQuery) -> Result<Value> {
        if let Some(group) = &query.group {
            return self.usage_of_group(context, query, group).await;
        }
        let own = access::require_user(context)?;
        let documents = &self.0.documents;
        let user = match &query.user {
            Some(user) if user != own && !context.is_admin() => {
                return Err(CloudError::Forbidden(
                    "only administrators see what others used".to_owned(),
                ));
            }
            None if context.is_admin() => None,
            _ => Some(query.user.as_deref().unwrap_or(own)),
        };
        let now = Timestamp::now();
        let mut from = query.from.unwrap_or(Timestamp::from_millis(0));
        if !context.is_admin() {
            // What somebody of the same name used before is not theirs.
            let account = access::find::<User>(documents, context, own, Right::View);
            from = account.map_or(from, |account| from.max(account.common.created));
        }
        let to = query
            .to
            .unwrap_or(now.after(std::time::Duration::from_secs(1)));
        if from >= to && query.from.is_some() {
            return Err(CloudError::invalid("to", "must be later than `from`"));
        }
        let limit = query.limit.unwrap_or(PAGE_AT_MOST).clamp(1, PAGE_AT_MOST);
        let at = At::parse(query.after.as_deref());
        let wrong = || CloudError::invalid("after", "is not the `next` of a page");
        let mut at = Some(at.ok_or_else(wrong)?);
        let mut telling = Telling {
            from,
            to,
            now,
            uses: Vec::new(),
        };
        while let Some(here) = at.take() {
            let left = limit.saturating_sub(telling.uses.len());
            if left == 0 {
                at = Some(here);
                break;
            }
            at = match here {
                At::Machines(last) => Some(
                    self.going_on::<Machine>(user, last.as_deref(), left, &mut telling)
                        .map_or(At::Volumes(None), |last| At::Machines(Some(last))),
                ),
                At::Volumes(last) => Some(
                    self.going_on::<Volume>(user, last.as_deref(), left, &mut telling)
                        .map_or(At::Addresses(None), |last| At::Volumes(Some(last))),
                ),
                At::Addresses(last) => Some(
                    self.going_on::<Address>(user, last.as_deref(), left, &mut telling)
                        .map_or(At::Images(None), |last| At::Addresses(Some(last))),
                ),
                At::Images(last) => Some(
                    self.going_on::<Image>(user, last.as_deref(), left, &mut telling)
                        .map_or(At::Snapshots(None), |last| At::Images(Some(last))),
                ),
                At::Snapshots(last) => Some(
                    self.going_on::<VolumeImage>(user, last.as_deref(), left, &mut telling)
                        .map_or(At::Over(None), |last| At::Snapshots(Some(last))),
                ),
                At::Over(last) => {
                    let page = documents.usage(user, from, last.as_deref(), left).await;
                    let page = page.map_err(|error| match error {
                        documents::DocumentsError::Key(_) => wrong(),
                        other => other.into(),
                    })?;
                    for record in &page.records {
                        telling.tell(&record.used, Some(record.end));
                    }
                    let next = page.next.map(|next| At::Over(Some(next)));
                    // One read of the store a request: the rest is another page.
                    let mut answer = json!({"from": from, "to": to, "uses": telling.uses});
                    if let Some(next) = next {
                        answer["next"] = next.text().into();
                    }
                    return Ok(answer);
                }
            };
        }
        let mut answer = json!({"from": from, "to": to, "uses": telling.uses});
        if let Some(at) = at {
            answer["next"] = at.text().into();
        }
        Ok(answer)
    }

    /// One page of what the members of a group used: one member after the other, by name.
    async fn usage_of_group(
        &self,
        context: &OpContext,
        query: &UsageQuery,
        group: &str,
    ) -> Result<Value> {
        access::require_user(context)?;
        if query.user.is_some() {
            return Err(CloudError::invalid("group", "can't be given with `user`"));
        }
        if !context.is_admin() {
            return Err(CloudError::Forbidden(
                "only administrators see what the members of a group used".to_owned(),
            ));
        }
        let documents = &self.0.documents;
        let found = access::find::<Group>(documents, context, group, Right::View)?;
        let mut members = group::members(documents, &found.groupname);
        members.sort_unstable();
        // No name has a line end.
        let (begin, inner) = match query.after.as_deref() {
            None => ("", None),
            Some(after) => {
                let parts = after.split_once('\n');
                let wrong = || CloudError::invalid("after", "is not the `next` of a page");
                let (member, inner) = parts.ok_or_else(wrong)?;
                (member, Some(inner).filter(|inner| !inner.is_empty()))
            }
        };
        // Who left meanwhile is passed over, and what was read of them is not gone on with.
        let place = members.partition_point(|member| member.as_str() < begin);
        let Some(member) = members.get(place) else {
            let (from, to) = (query.from, query.to);
            return Ok(json!({"from": from, "to": to, "uses": []}));
        };
        let of_member = UsageQuery {
            user: Some(member.clone()),
            group: None,
            after: inner.filter(|_| member == begin).map(str::to_owned),
            ..query.clone()
        };
        let mut page = Box::pin(self.usage(context, &of_member)).await?;
        let next = match (page["next"].as_str(), members.get(place + 1)) {
            (Some(inner), _) => Some(format!("{member}\n{inner}")),
            (None, Some(following)) => Some(format!("{following}\n")),
            (None, None) => None,
        };
        if let Some(next) = next {
            page["next"] = next.into();
        }
        Ok(page)
    }

    /// Tells what documents of a type are used as, some of them at most; the id to go on after, if there are more.
    fn going_on<R: OfType>(
        &self,
        user: Option<&str>,
        after: Option<&str>,
        limit: usize,
        telling: &mut Telling,
    ) -> Option<String> {
        let read = self.0.documents.after::<R>(user, after, limit);
        for document in &read {
            for used in Resource::uses(&document.document.0) {
                telling.tell(&used, None);
            }
        }
        let is_full = read.len() == limit;
        read.last()
            .filter(|_| is_full)
            .map(|last| last.id().to_owned())
    }
}

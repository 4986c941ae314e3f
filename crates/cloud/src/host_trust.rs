//! Hosts from elsewhere: the authority of their certificates, joining, renewing, removing.
//!
//! ```text
//!  Host/H + HostIdentity/H: made together, removed together
//!  no HostIdentity: no host, whatever certificates there are
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cimi::{
    Acl, Common, HostId, Right, Timestamp,
    common::USER_ROLE,
    ids::{HostAuthorityId, HostIdentityId},
    resources::{Event, Host, HostAuthority, HostIdentity, HostToken, Resource as _},
};
use documents::Cached;
use serde_json::Map;
use trust::{
    Authority, CLOCKS_APART_AT_MOST, HostPeer, JoinRequest, Joined, PublicKey, RenewRequest,
    TrustError,
};

use crate::{Cloud, CloudError, Done, OpContext, Result, access, host_tokens::check_name};

/// How soon it is looked again for what another entry has written and reads here don't show yet.
const BEHIND: Duration = Duration::from_millis(10);

impl Cloud {
    /// The authority; made if there is none yet. Entries that make one at once agree on one.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn host_authority(
        &self,
        context: &OpContext,
    ) -> Result<(Arc<Cached<HostAuthority>>, Authority)> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            if let Some(kept) = documents.host_authorities.get(HostAuthority::OWN) {
                let authority = Authority::from_pem(&kept.certificate, &kept.private_key);
                return Ok((kept, authority.map_err(defect)?));
            }
            let made = Authority::generate(SystemTime::now()).map_err(defect)?;
            let kept = HostAuthority {
                id: HostAuthorityId::from_local(HostAuthority::OWN)
                    .map_err(|error| CloudError::Internal(error.to_string()))?,
                common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
                certificate: made.certificate_pem().to_owned(),
                private_key: made.key_pem().to_owned(),
                unknown: Map::new(),
            };
            match documents.changes().create(&kept).commit().await {
                Ok(_) => tracing::info!("the authority for hosts was made"),
                Err(error) if error.is_conflict() => tokio::time::sleep(BEHIND).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has the authority made, if there is none yet: daemons of this cloud trust each other by it, too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn ensure_authority(&self, context: &OpContext) -> Result<()> {
        self.host_authority(context).await.map(drop)
    }

    /// The authority that entries show hosts a certificate of; none as long as no token was made.
    #[must_use]
    pub fn authority_for_hosts(&self) -> Option<Arc<Cached<HostAuthority>>> {
        self.0.documents.host_authorities.get(HostAuthority::OWN)
    }

    /// Lets a host in by its token, which is used up in the transaction that makes it a host. The same host, by the same key,
    /// gets the same answer again as long as the token is remembered: the first one may have been lost.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for a token that isn't good (any more), [`CloudError::Conflict`] if clocks are apart or the
    /// name is taken, [`CloudError::Invalid`].
    pub async fn join_host(&self, context: &OpContext, asked: &JoinRequest) -> Result<Joined> {
        let documents = &self.0.documents;
        let key = PublicKey::requested(&asked.request)
            .map_err(|error| CloudError::invalid("request", error.to_string()))?;
        let digest = asked.secret.digest();
        loop {
            context.in_time()?;
            let Some(token) = documents.host_tokens.get(&digest) else {
                if documents.stored::<HostToken>(&digest).await?.is_some() {
                    // Made through another entry a moment ago.
                    tokio::time::sleep(BEHIND).await;
                    continue;
                }
                return Err(CloudError::Forbidden(
                    "this cloud knows no such token: it was copied in part only, or has expired long ago; make another \
                     with `stratus host token`"
                        .to_owned(),
                ));
            };
            let (kept, authority) = self.host_authority(context).await?;
            if let Some(host) = &token.used_by {
                return self.joined_again(host, &key, &authority).await;
            }
            let now = Timestamp::now();
            if token.expires <= now {
                return Err(CloudError::Forbidden(format!(
                    "this token has expired at {}; make another with `stratus host token`",
                    token.expires
                )));
            }
            let maker = self.maker_of(&token)?;
            clocks_agree(now, asked.time)?;
            let name = match &token.host_name {
                Some(name) => name.clone(),
                None => {
                    check_name(&asked.name)?;
                    asked.name.clone()
                }
            };
            self.require_new_name(&name)?;
            let host = newcomer(name, now);
            let (identity, answer) = admit(&authority, &host, &key)?;
            let used = HostToken {
                used_by: Some(host.id.clone()),
                ..token.document.0.clone()
            };
            let event = Event::request(&host, "join", &token.user, now);
            let changes = documents
                .changes()
                .replace(&token, used)
                .unchanged(&*maker)
                .create(&host)
                .create(&identity)
                .create(&event)
                // So hosts join one after another, and no two get one name.
                .replace(&kept, kept.document.0.clone());
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(host = answer.host, name = answer.name, from = ?context.peer, "a host has joined");
                    return Ok(answer);
                }
                Err(error) if error.is_conflict() => tokio::time::sleep(BEHIND).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What a host gets that asks once more by a token which it has used up.
    async fn joined_again(
        &self,
        id: &HostId,
        key: &PublicKey,
        authority: &Authority,
    ) -> Result<Joined> {
        let documents = &self.0.documents;
        let host = documents.hosts.get(id.local());
        let identity = documents.host_identities.get(id.local());
        let (Some(host), Some(_)) = (
            host,
            identity.filter(|identity| identity.key_digest == key.digest()),
        ) else {
            return Err(CloudError::Forbidden(
                "this token was used already, by another host or another key: each lets one host in; make another with \
                 `stratus host token`"
                    .to_owned(),
            ));
        };
        self.certified_anew(&host.document.0, key, authority).await
    }

    /// Another certificate for a host that is one, by the key that it is known by.
    async fn certified_anew(
        &self,
        host: &Host,
        key: &PublicKey,
        authority: &Authority,
    ) -> Result<Joined> {
        let (wanted, answer) = admit(authority, host, key)?;
        let note = |identity: &mut HostIdentity| {
            if identity.key_digest != wanted.key_digest {
                return Err(CloudError::Forbidden(
                    "a host keeps the key that it has joined with".to_owned(),
                ));
            }
            let is_later = wanted.expires > identity.expires;
            identity.expires = identity.expires.max(wanted.expires);
            Ok(is_later)
        };
        // Absent: it was removed meanwhile.
        let noted = self.0.documents.update(host.id.local(), note).await;
        noted.map(|_| answer)
    }

    /// The next certificate of a host that has shown one.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for another key than the one it has joined with, [`CloudError::NotFound`] if it was removed.
    pub async fn renew_host(
        &self,
        context: &OpContext,
        id: &HostId,
        asked: &RenewRequest,
    ) -> Result<Joined> {
        let key = PublicKey::requested(&asked.request)
            .map_err(|error| CloudError::invalid("request", error.to_string()))?;
        let host = self.0.documents.hosts.get(id.local());
        let host = host.ok_or_else(|| CloudError::not_found(id))?;
        let (_, authority) = self.host_authority(context).await?;
        let answer = self
            .certified_anew(&host.document.0, &key, &authority)
            .await?;
        tracing::info!(host = answer.host, name = answer.name, expires = %answer.expires, "a host has a new certificate");
        Ok(answer)
    }

    /// The host that a certificate by the authority is of, if it is one still.
    #[must_use]
    pub fn host_of(&self, peer: &HostPeer) -> Option<HostId> {
        let documents = &self.0.documents;
        let identity = documents.host_identities.get(&peer.host)?;
        let host = documents.hosts.get(&peer.host)?;
        (identity.key_digest == peer.key).then(|| host.document.id.clone())
    }

    /// Whether a certificate by the authority is of no host any more. Another entry may have let it in a moment ago: so the
    /// database itself is asked.
    pub async fn was_removed(&self, peer: &HostPeer) -> bool {
        let identity = self.0.documents.stored::<HostIdentity>(&peer.host).await;
        identity.is_ok_and(|known| known.is_none_or(|known| known.key_digest != peer.key))
    }

    /// Whether a host that has joined isn't there now.
    pub(crate) fn is_away(&self, host: &Host) -> bool {
        let pulses = &self.0.documents.host_pulses;
        host.has_joined() && pulses.get(host.local_id()).is_none()
    }

    /// Whether a host that has joined was there and isn't now.
    pub(crate) fn is_lost(&self, host: &Host) -> bool {
        self.is_away(host) && !host.boot_id.is_empty()
    }

    /// Removes a host that has joined: its certificates are of no use from then on.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators, and for hosts that are part of an entry's own daemon;
    /// [`CloudError::Conflict`] if machines are on it; those that are to go end with a host that is lost.
    pub(crate) async fn remove_host(&self, context: &OpContext, local: &str) -> Result<Done> {
        access::require_admin(context, "remove hosts")?;
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let host = access::find::<Host>(documents, context, local, Right::Modify)?;
            let name = host.common.name.as_deref().unwrap_or(local);
            if !host.has_joined() {
                return Err(CloudError::Forbidden(format!(
                    "{name} is the host of the cloud's own daemon, and did not join: it can be put into maintenance, and \
                     not be removed"
                )));
            }
            let machines = documents.machines.by_index("host", host.local_id());
            let lost = self.is_lost(&host);
            let all_go = machines.iter().all(|one| one.desired.deleted);
            let may_go = machines.is_empty() || (lost && all_go);
            if !may_go {
                let machines = match machines.len() {
                    1 => "a machine is".to_owned(),
                    many => format!("{many} machines are"),
                };
                let what = match lost {
                    true => format!(
                        "{machines} on {name}, which is lost: if it never comes back, start those elsewhere that boot \
                         from volumes (`stratus host evacuate {name} --off`), kill all others (`stratus kill-instance`), and \
                         remove it again; they end with it"
                    ),
                    false => format!(
                        "{machines} on {name}: move what is there elsewhere (`stratus host drain {name} --move --wait`), or remove \
                         it, first"
                    ),
                };
                return Err(CloudError::Conflict(what));
            }
            // Whoever places a machine, or says where one goes, demands that the host still is open: from now on no more come, and
            // those that came before are seen when it is looked again.
            if !host.desired.maintenance {
                let mut closed = host.document.0.clone();
                closed.desired.maintenance = true;
                match documents.changes().replace(&host, closed).commit().await {
                    Err(error) if !error.is_conflict() => return Err(error.into()),
                    _ => continue,
                }
            }
            // By its operator's word that nothing of them runs any more.
            for machine in machines {
                // What other hosts still have of it, they are to clear away first.
                let end = match machine.left_on.iter().all(|one| *one == host.document.id) {
                    true => documents::step::end(documents, &machine, Timestamp::now()),
                    false => {
                        let mut unplaced = machine.document.0.clone();
                        (unplaced.host, unplaced.unseen_since) = (None, None);
                        documents::step::step(documents, &machine, unplaced)
                    }
                };
                match end.commit().await {
                    Ok(_) => {}
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.forget_left_on(&host).await?;
            self.give_up_ways_to(&host).await?;
            // One that was on its way may have come to it before that could be taken back: its disks are there alone.
            let refer_to_it = ["host", "leftOn", "movingTo"];
            let are_left = |index| documents.machines.count_by_index(index, host.local_id()) > 0;
            if refer_to_it.into_iter().any(are_left) {
                tokio::time::sleep(BEHIND).await;
                continue;
            }
            let user = context.user().unwrap_or_default();
            let event = Event::request(&host.document.0, "delete", user, Timestamp::now());
            let mut changes = documents.changes().remove(&host).create(&event);
            if let Some(identity) = documents.host_identities.get(host.local_id()) {
                changes = changes.remove(&identity);
            }
            if let Some(pulse) = documents.host_pulses.get(host.local_id()) {
                changes = changes.remove(&pulse);
            }
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(host = %host.document.id, name, user, "a host was removed");
                    return Ok(Done::default());
                }
                Err(error) if error.is_conflict() => tokio::time::sleep(BEHIND).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Refuses a name that a host has.
    pub(crate) fn require_new_name(&self, name: &str) -> Result<()> {
        let hosts = self.0.documents.hosts.all();
        let mut named = hosts
            .iter()
            .filter(|host| host.common.name.as_deref() == Some(name));
        match named.next() {
            None => Ok(()),
            Some(other) => Err(CloudError::Conflict(format!(
                "there is a host `{name}` already ({}): choose another name with `stratus host token --name`, or remove \
                 that host first",
                other.document.id
            ))),
        }
    }
}

/// Refuses a host whose clock is wrong: what it sees of machines is accounted by it.
fn clocks_agree(here: Timestamp, there: Timestamp) -> Result<()> {
    let (ahead, behind) = (there.since(here), here.since(there));
    if ahead.max(behind) <= CLOCKS_APART_AT_MOST {
        return Ok(());
    }
    let (by, where_to) = if ahead > behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    Err(CloudError::Conflict(format!(
        "the host's clock is {} s {where_to} the cloud's, which says {here}; at most {} s are taken: set one of them (by \
         NTP), and join again with the same token",
        by.as_secs(),
        CLOCKS_APART_AT_MOST.as_secs()
    )))
}

/// A host of which nothing is known yet but that it is let in.
fn newcomer(name: String, now: Timestamp) -> Host {
    let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
    let mut host = Host::newcomer(Common::new(acl, now));
    host.common.name = Some(name);
    host.desired.apart = true;
    host
}

/// By what a host is known from now on, and what it is told.
fn admit(authority: &Authority, host: &Host, key: &PublicKey) -> Result<(HostIdentity, Joined)> {
    let name = host.common.name.clone().unwrap_or_default();
    let admitted = authority
        .admit(key, host.local_id(), &name, SystemTime::now())
        .map_err(defect)?;
    let now = Timestamp::now();
    let expires = now.after(
        admitted
            .expires
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    );
    let identity = HostIdentity {
        id: HostIdentityId::from_local(host.local_id())
            .map_err(|error| CloudError::Internal(error.to_string()))?,
        common: Common::new(Acl::owned_by_admin(), now),
        key_digest: key.digest(),
        expires,
        unknown: Map::new(),
    };
    let answer = Joined {
        host: host.id.to_string(),
        name,
        certificate: admitted.certificate,
        authority: authority.certificate_pem().to_owned(),
        expires,
    };
    Ok((identity, answer))
}

pub(crate) fn defect(error: TrustError) -> CloudError {
    CloudError::Internal(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_apart_a_little() {
        let here = Timestamp::from_millis(1_000_000_000);
        let moved = |seconds: i64| Timestamp::from_millis(here.as_millis() + 1000 * seconds);
        for seconds in [-30, 0, 30] {
            assert!(clocks_agree(here, moved(seconds)).is_ok(), "{seconds}");
        }
        let ahead = clocks_agree(here, moved(90)).unwrap_err().to_string();
        assert!(ahead.contains("90 s ahead of"), "{ahead}");
        let behind = clocks_agree(here, moved(-3600)).unwrap_err().to_string();
        assert!(behind.contains("3600 s behind"), "{behind}");
    }
}

//! Logging in by a client certificate, or a proxy of one.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use certificates::{Authorities, CertificateDer, Holder, Refusal, UnixTime};
use cimi::resources::User;
use parking_lot::Mutex;
use ring::digest;
use tokio::{sync::watch, time::timeout};

use crate::{Accounts, Identity, LoginError, Methods, identity::Method};

/// For how long the verdict on a chain counts, if none of its certificates ends before.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// For how long somebody waits for the authorities to be read: they are a second or so after certificates were switched on.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Verdicts that are remembered.
const REMEMBERED_AT_MOST: usize = 4_096;
/// What the name begins with of the accounts that admit virtual organisations.
pub const ORGANISATION: &str = "vo:";

/// Certificates that somebody has shown, with the key of the first one.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    digest: [u8; 32],
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl Shown {
    /// A chain whose first certificate is of whoever showed it: who calls this has seen that they have its key.
    #[must_use]
    pub fn of(chain: Vec<CertificateDer<'static>>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in &chain {
            context.update(&certificate.len().to_le_bytes());
            context.update(certificate);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { chain, digest }
    }

    /// The certificate (DER) whose key they have.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.chain.first().map(AsRef::as_ref)
    }
}

type Verdict = Arc<Result<Holder, Refusal>>;

/// What was said of a chain.
#[derive(Clone)]
struct Said {
    verdict: Verdict,
    /// Who was believed then: a verdict by others counts for nothing.
    by: Arc<Authorities>,
    until: Instant,
}

/// Whom to believe, and what was said of chains a short while ago.
#[derive(Default)]
pub(crate) struct Trust {
    /// None before they were read.
    authorities: watch::Sender<Option<Arc<Authorities>>>,
    verdicts: Mutex<HashMap<[u8; 32], Said>>,
}

impl Trust {
    /// The authorities, once they were read; `None` if that takes too long.
    async fn authorities(&self) -> Option<Arc<Authorities>> {
        let mut changes = self.authorities.subscribe();
        let read = timeout(READ_WITHIN, changes.wait_for(Option::is_some)).await;
        read.ok()?.ok()?.clone()
    }
}

impl Accounts {
    /// Believes these authorities from now on, and no others.
    pub fn trust(&self, authorities: Arc<Authorities>) {
        self.trust.authorities.send_replace(Some(authorities));
        self.trust.verdicts.lock().clear();
    }

    /// Whether clients are to be asked for a certificate, as it is configured now: whoever isn't known by theirs is told why
    /// not, also if no authority is trusted, or none is known yet.
    #[must_use]
    pub fn takes_certificates(&self) -> bool {
        self.source.methods().take_certificates()
    }

    /// Whom these certificates belong to.
    ///
    /// # Errors
    /// [`LoginError::Certificate`], with the reason.
    pub async fn by_certificate(
        &self,
        shown: &Shown,
        address: Option<IpAddr>,
    ) -> Result<Arc<Identity>, LoginError> {
        let methods = self.source.methods();
        let refused = |reason: String| Err(LoginError::Certificate(reason));
        if !methods.take_certificates() {
            return refused(
                "certificates are not taken here: use a password or a token".to_owned(),
            );
        }
        let Some(authorities) = self.trust.authorities().await else {
            return refused(
                "the authorities that this cloud trusts are not read yet: try again, or use a password or a token"
                    .to_owned(),
            );
        };
        if authorities.is_empty() {
            return refused(
                "this cloud trusts no authority of certificates: its administrator has to put some into the folder that \
                 `certificates.authorities` of the configuration names; use a password or a token"
                    .to_owned(),
            );
        }
        let verdict = self.verdict(shown, authorities).await?;
        let holder = match &*verdict {
            Ok(holder) => holder,
            Err(refusal) => {
                tracing::warn!(?address, %refusal, "a certificate was refused");
                return refused(refusal.to_string());
            }
        };
        for problem in &holder.disbelieved {
            tracing::debug!(subject = %holder.subject, problem, "not believed");
        }
        let by = if holder.proxies > 0 {
            Method::Proxy
        } else {
            Method::Certificate
        };
        let known = self.source.find_by_name(&holder.subject);
        if known.len() > 1 {
            tracing::warn!(subject = %holder.subject, "several users have this as one of their names");
            return refused(format!(
                "several users have `{}` among their names: tell the cloud's administrator",
                holder.subject
            ));
        }
        if let Some(user) = known.into_iter().next() {
            if !user.enabled {
                return refused(format!("the account of `{}` is disabled", holder.subject));
            }
            if methods.localdb.cert_enabled
                && let Some(user) = self.confirmed(user).await
            {
                return Ok(admitted(holder, Identity::of(&user).by(by)));
            }
        }
        if let Some(user) = self.in_directory(&methods, holder).await? {
            return Ok(admitted(holder, Identity::of(&user).by(by)));
        }
        if methods.voms.enabled
            && let Some(identity) = self.in_organisations(holder)
        {
            return Ok(admitted(holder, identity));
        }
        let doubt = holder
            .disbelieved
            .first()
            .filter(|_| methods.voms.enabled)
            .map_or_else(String::new, |problem| format!("; {problem}"));
        refused(format!(
            "nobody here has the certificate of `{}`{doubt}",
            holder.subject
        ))
    }

    async fn verdict(
        &self,
        shown: &Shown,
        authorities: Arc<Authorities>,
    ) -> Result<Verdict, LoginError> {
        let known = self.trust.verdicts.lock().get(&shown.digest).cloned();
        if let Some(said) = known
            && Arc::ptr_eq(&said.by, &authorities)
            && Instant::now() < said.until
        {
            return Ok(said.verdict);
        }
        let by = Arc::clone(&authorities);
        let chain = shown.chain.clone();
        let now = UnixTime::now();
        let verify = move || Arc::new(authorities.verify(&chain, now));
        let verdict = tokio::task::spawn_blocking(verify);
        let verdict = verdict.await.map_err(|_| LoginError::Busy)?;
        let lifetime = match &*verdict {
            Ok(holder) => {
                let left = Duration::from_secs(holder.good_until.saturating_sub(now.as_secs()));
                left.min(REMEMBERED_FOR)
            }
            Err(_) => REMEMBERED_FOR / 6,
        };
        let mut verdicts = self.trust.verdicts.lock();
        if verdicts.len() >= REMEMBERED_AT_MOST {
            verdicts.clear();
        }
        verdicts.insert(
            shown.digest,
            Said {
                verdict: Arc::clone(&verdict),
                by,
                until: Instant::now() + lifetime,
            },
        );
        Ok(verdict)
    }

    async fn in_directory(
        &self,
        methods: &Methods,
        holder: &Holder,
    ) -> Result<Option<Arc<User>>, LoginError> {
        let Some(ldap) = methods.ldap.as_ref().filter(|ldap| ldap.cert_enabled) else {
            return Ok(None);
        };
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        // Who was found a short while ago needs not be asked for again.
        let subject = holder.subject.canonical();
        let remembered = self.subjects.lock().get(&subject).cloned();
        if let Some((revision, login, when)) = remembered
            && revision == methods.revision
            && when.elapsed() < ldap.cached_for()
        {
            return Ok(self.usable(&login));
        }
        match directory.by_subject(ldap, &holder.subject).await {
            Ok(Some(found)) if ldap.admits(&found.roles) => {
                let user = self.source.found_in_directory(&found).await;
                let user = user.filter(|user| user.enabled);
                if let Some(user) = &user {
                    let mut subjects = self.subjects.lock();
                    if subjects.len() >= REMEMBERED_AT_MOST {
                        subjects.clear();
                    }
                    let entry = (methods.revision, user.username.clone(), Instant::now());
                    subjects.insert(subject, entry);
                    self.confirmed.now(&user.username, methods.revision);
                }
                Ok(user)
            }
            Ok(Some(_)) => Err(LoginError::Certificate(format!(
                "`{}` may not use this cloud: the role `{}` is missing in the directory",
                holder.subject, ldap.required_role
            ))),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::warn!(subject = %holder.subject, %error, "a certificate can't be looked up");
                Ok(None)
            }
        }
    }

    /// Who is here because an organisation says so that this cloud admits: by an enabled account `vo:<organisation>`.
    fn in_organisations(&self, holder: &Holder) -> Option<Identity> {
        let is_admitted = |organisation: &str| {
            let name = format!("{ORGANISATION}{organisation}");
            let account = self.usable(&name);
            // Only administrators here decide that: nobody who may name users in a directory, a file or at a provider.
            account.is_some_and(|user| user.username == name && user.origin.is_none())
        };
        let mut roles = Vec::new();
        for attribute in &holder.attributes {
            if !roles.contains(&attribute.fqan) && is_admitted(&attribute.organisation) {
                roles.push(attribute.fqan.clone());
            }
        }
        let name = holder.subject.to_string();
        // What can't be the name of an owner, or is somebody else's.
        let fits = name.len() <= 255
            && !name.chars().any(char::is_control)
            && self.source.find(&name).is_none();
        (fits && !roles.is_empty()).then(|| Identity {
            user: name.into(),
            roles,
            token: None,
            session: None,
            method: Method::Voms,
            is_limited: false,
            generation: None,
        })
    }
}

fn admitted(holder: &Holder, identity: Identity) -> Arc<Identity> {
    Arc::new(Identity {
        is_limited: holder.is_limited,
        ..identity
    })
}

impl Methods {
    /// Whether certificates count for anything.
    #[must_use]
    pub fn take_certificates(&self) -> bool {
        let by_directory = self.ldap.as_ref().is_some_and(|ldap| ldap.cert_enabled);
        self.localdb.cert_enabled || by_directory || self.voms.enabled
    }
}

/// What an account that is made for the owner of a certificate is called: nothing in a name of a certificate has to be
/// short, or possible in a URL.
#[must_use]
pub fn username_of(name: &cimi::dn::DistinguishedName) -> String {
    let digest = digest::digest(&digest::SHA256, name.canonical().as_bytes());
    let digits: String = digest
        .as_ref()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut readable = String::new();
    for c in name.common_name().unwrap_or("user").chars().take(40) {
        if c.is_ascii_alphanumeric() {
            readable.push(c.to_ascii_lowercase());
        } else if !readable.ends_with('-') && !readable.is_empty() {
            readable.push('-');
        }
    }
    let readable = readable.trim_end_matches('-');
    let readable = if readable.is_empty() {
        "user"
    } else {
        readable
    };
    format!("{readable}-{digits}")
}

#[cfg(test)]
mod tests {
    use certificates::Attribute;
    use cimi::{Acl, Common, Timestamp, UserId, dn::DistinguishedName, resources::Origin};

    use crate::{Hashing, Settings, UserSource};

    use super::*;

    /// An account that admits an organisation, if it counts.
    struct Organisation(Option<Origin>);

    impl UserSource for Organisation {
        fn find(&self, login: &str) -> Option<Arc<User>> {
            let user = User {
                id: UserId::from_local("vo:atlas").unwrap(),
                common: Common::new(Acl::owned_by_admin(), Timestamp::from_millis(0)),
                username: "vo:atlas".into(),
                first_name: None,
                last_name: None,
                email: None,
                password: None,
                enabled: true,
                roles: Vec::new(),
                altnames: std::collections::BTreeMap::new(),
                quota: cimi::resources::Quota::default(),
                generation: 0,
                origin: self.0.clone(),
                unknown: serde_json::Map::new(),
            };
            (login == user.username).then(|| Arc::new(user))
        }
    }

    #[tokio::test]
    async fn only_administrators_admit_an_organisation() {
        let holder = Holder {
            subject: DistinguishedName::parse("CN=Alice,O=Example").unwrap(),
            proxies: 1,
            is_limited: false,
            good_until: u64::MAX,
            attributes: vec![Attribute {
                organisation: "atlas".into(),
                fqan: "/atlas".into(),
            }],
            disbelieved: Vec::new(),
        };
        let admitted = |origin: Option<&str>| {
            let origin = origin.map(|source| Origin {
                source: source.into(),
                digest: String::new(),
            });
            let hashing = Hashing::with_cost(passwords::Cost::NONE);
            let source = Arc::new(Organisation(origin));
            let accounts = Accounts::new(source, hashing, Settings::default());
            accounts
                .in_organisations(&holder)
                .map(|identity| identity.roles)
        };
        assert_eq!(admitted(None), Some(vec!["/atlas".to_owned()]));
        for source in ["ldap", "oidc", "login-pswd.properties"] {
            assert_eq!(admitted(Some(source)), None, "{source}");
        }
    }
}

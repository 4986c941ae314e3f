//! The firewall's worker: one task that owns the rules, and puts whatever was asked for while `nft` ran into the next
//! run. Fifty machines at once are two or three runs, not fifty.
//!
//! The worker remembers what should stand. When a change is refused (somebody flushed the rules), it establishes
//! everything anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{NetworkError, Result};
use crate::group::{Group, GroupTag};
use crate::name::InterfaceName;
use crate::nft::{Listing, Nft};
use crate::overlay::Overlay;
use crate::ruleset::groups::Plan;
use crate::ruleset::{ALWAYS, Binding, Peer, Ruleset};

const QUEUE: usize = 1024;

#[derive(Debug)]
enum Wish {
    /// With these security groups.
    Allow(Binding, Memberships),
    Forget(InterfaceName),
    /// Exactly these, and all rules written again.
    Exactly(BTreeMap<Binding, Memberships>),
    /// Security groups are these, and of the interfaces that are named these.
    Groups(
        BTreeMap<GroupTag, Group>,
        BTreeMap<InterfaceName, Memberships>,
    ),
    /// Forward to exactly these networks.
    Peers(BTreeSet<Peer>),
    /// Joined with other hosts so, or with none.
    Overlay(Option<Overlay>),
    /// No tables at all.
    Teardown,
}

/// The security groups of an interface.
type Memberships = BTreeSet<GroupTag>;

type Answer = std::result::Result<(), String>;

#[derive(Debug)]
struct Request {
    wish: Wish,
    answer: oneshot::Sender<Answer>,
}

/// The firewall of one cloud on this host.
#[derive(Debug)]
pub struct Firewall {
    requests: mpsc::Sender<Request>,
    nft: Nft,
    table: String,
    families: Vec<&'static str>,
    groups_table: String,
    /// Whether that table is to be there.
    is_grouped: Arc<AtomicBool>,
    _worker: AbortOnDropHandle<()>,
}

/// A change on its way.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Resolves when the change stands in the kernel.
    ///
    /// # Errors
    /// [`NetworkError::Firewall`] with what `nft` said.
    pub async fn done(self) -> Result<()> {
        match self.0.await {
            Ok(answer) => answer.map_err(|reason| NetworkError::Firewall { reason }),
            Err(_) => Err(NetworkError::Closed {
                part: "the firewall",
            }),
        }
    }
}

impl Firewall {
    /// Takes over what stands in the kernel and writes the rules around it, without a gap.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub async fn open(nft: Nft, ruleset: Ruleset) -> Result<Self> {
        let table = ruleset.table();
        // Those of IPv6 may be there for the first time now, or the last.
        let standing = nft.list(&table, &ALWAYS).await?.unwrap_or_default();
        let families = ruleset.families();
        let unused = ruleset.teardown_unused();
        let wanted: BTreeMap<_, _> = standing
            .bindings
            .into_iter()
            .map(|b| (b.port.clone(), b))
            .collect();
        let groups_table = ruleset.groups_table();
        // Their rules stand until it is known what they are to be.
        let are_known = nft.groups(&groups_table).await?.is_none();
        let is_grouped = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            nft: nft.clone(),
            ruleset,
            wanted,
            groups: BTreeMap::new(),
            memberships: BTreeMap::new(),
            plan: Plan::default(),
            are_known,
            has_base: false,
            is_grouped: is_grouped.clone(),
            gone: false,
            stale: false,
        };
        worker.establish().await?;
        remove_unused(&nft, unused).await;
        let (requests, queue) = mpsc::channel(QUEUE);
        let worker = AbortOnDropHandle::new(tokio::spawn(worker.run(queue)));
        Ok(Self {
            requests,
            nft,
            table,
            families,
            groups_table,
            is_grouped,
            _worker: worker,
        })
    }

    /// Removes the tables of that rule set, without a worker.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub async fn remove(nft: &Nft, ruleset: &Ruleset) -> Result<()> {
        remove_unused(nft, ruleset.teardown_unused()).await;
        nft.apply(ruleset.teardown()).await
    }

    /// Lets a NIC send with its own MAC and address, held to these security groups, and takes from its interface what it was allowed before.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn allow(&self, binding: Binding, groups: BTreeSet<GroupTag>) -> Result<Pending> {
        self.send(Wish::Allow(binding, groups)).await
    }

    /// Takes all rights from an interface; it need not have any.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn forget(&self, port: InterfaceName) -> Result<Pending> {
        self.send(Wish::Forget(port)).await
    }

    /// Makes the tables exactly this. Connections live on: they are in the kernel's tracking, not in the tables.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn reconcile(&self, bindings: BTreeMap<Binding, BTreeSet<GroupTag>>) -> Result<()> {
        self.send(Wish::Exactly(bindings)).await?.done().await
    }

    /// Has security groups be exactly these, and interfaces that may send in those named.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn set_groups(
        &self,
        groups: BTreeMap<GroupTag, Group>,
        of: BTreeMap<InterfaceName, BTreeSet<GroupTag>>,
    ) -> Result<()> {
        self.send(Wish::Groups(groups, of)).await?.done().await
    }

    /// Has exactly these networks forwarded to.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn forward_to(&self, peers: BTreeSet<Peer>) -> Result<()> {
        self.send(Wish::Peers(peers)).await?.done().await
    }

    /// Lets through what guests exchange with those of other hosts, and nothing else of the tunnel.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn set_overlay(&self, overlay: Option<Overlay>) -> Result<()> {
        self.send(Wish::Overlay(overlay)).await?.done().await
    }

    /// Removes our tables.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn teardown(&self) -> Result<()> {
        self.send(Wish::Teardown).await?.done().await
    }

    /// What really stands in the kernel, with the counters; none if not all of our tables are there.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn list(&self) -> Result<Option<Listing>> {
        let Some(mut listing) = self.nft.list(&self.table, &self.families).await? else {
            return Ok(None);
        };
        match self.nft.groups(&self.groups_table).await? {
            Some((_, of_groups)) => listing.packets.extend(of_groups.packets),
            None if self.is_grouped.load(Ordering::Relaxed) => return Ok(None),
            None => {}
        }
        Ok(Some(listing))
    }

    async fn send(&self, wish: Wish) -> Result<Pending> {
        let (answer, receiver) = oneshot::channel();
        self.requests
            .send(Request { wish, answer })
            .await
            .map_err(|_| NetworkError::Closed {
                part: "the firewall",
            })?;
        Ok(Pending(receiver))
    }
}

/// Nothing leads to what an earlier configuration had, so it may stay where it can't be removed.
async fn remove_unused(nft: &Nft, unused: Option<String>) {
    if let Some(text) = unused
        && let Err(error) = nft.apply(text).await
    {
        tracing::debug!(%error, "no table for IPv6 was removed");
    }
}

struct Worker {
    nft: Nft,
    ruleset: Ruleset,
    wanted: BTreeMap<InterfaceName, Binding>,
    /// Security groups by definition, and of the interfaces that have some.
    groups: BTreeMap<GroupTag, Group>,
    memberships: BTreeMap<InterfaceName, Memberships>,
    /// What stands of them, as far as this process wrote it.
    plan: Plan,
    /// Whether nothing else stands of them.
    are_known: bool,
    /// Whether what is the same for all interfaces with groups was written by this process.
    has_base: bool,
    is_grouped: Arc<AtomicBool>,
    /// The tables were taken down and are not to come back by themselves.
    gone: bool,
    /// The last time all rules were written, that was refused.
    stale: bool,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, QUEUE).await > 0 {
            let (wishes, answers): (Vec<_>, Vec<_>) = batch
                .drain(..)
                .map(|request| (request.wish, request.answer))
                .unzip();
            let result = self.fulfil(wishes).await.map_err(|error| match error {
                NetworkError::Firewall { reason } => reason,
                other => other.to_string(),
            });
            for answer in answers {
                // Whoever asked may have given up.
                let _ = answer.send(result.clone());
            }
        }
    }

    async fn fulfil(&mut self, wishes: Vec<Wish>) -> Result<()> {
        // What stood before, of the interfaces this batch touches.
        let mut before: BTreeMap<InterfaceName, Option<Binding>> = BTreeMap::new();
        let mut anew = false;
        for wish in wishes {
            match wish {
                Wish::Allow(binding, groups) => {
                    anew |= std::mem::take(&mut self.gone);
                    let port = binding.port.clone();
                    self.memberships.insert(port.clone(), groups);
                    let old = self.wanted.insert(port.clone(), binding);
                    before.entry(port).or_insert(old);
                }
                Wish::Forget(port) => {
                    self.memberships.remove(&port);
                    let old = self.wanted.remove(&port);
                    before.entry(port).or_insert(old);
                }
                Wish::Exactly(bindings) => {
                    (anew, self.gone) = (true, false);
                    let taps = bindings.into_iter();
                    (self.wanted, self.memberships) = taps
                        .map(|(binding, groups)| {
                            let port = binding.port.clone();
                            ((port.clone(), binding), (port, groups))
                        })
                        .unzip();
                    self.are_known = true;
                }
                Wish::Groups(groups, of) => {
                    anew |= self.stale;
                    self.groups = groups;
                    for (port, groups) in of {
                        // One that is unplugged meanwhile is nobody's.
                        if let Some(known) = self.memberships.get_mut(&port) {
                            *known = groups;
                        }
                    }
                }
                Wish::Peers(peers) => {
                    // What was refused is written anew, too.
                    anew |= self.ruleset.peers != peers || self.stale;
                    self.ruleset.peers = peers;
                }
                Wish::Overlay(overlay) => {
                    anew |= self.ruleset.overlay != overlay || self.stale;
                    self.ruleset.overlay = overlay;
                }
                Wish::Teardown => {
                    self.gone = true;
                    self.wanted.clear();
                    self.memberships.clear();
                }
            }
        }
        if self.gone {
            self.has_grouped(Plan::default(), false);
            return self.nft.apply(self.ruleset.teardown()).await;
        }
        if !anew {
            let ports: Vec<InterfaceName> = before.keys().cloned().collect();
            let changed = before
                .iter()
                .filter(|(port, old)| self.wanted.get(*port) != old.as_ref());
            let (changed, old): (Vec<_>, Vec<_>) = changed.unzip();
            let removed: Vec<&Binding> = old.into_iter().flatten().collect();
            let added: Vec<&Binding> = changed
                .into_iter()
                .filter_map(|port| self.wanted.get(port))
                .collect();
            let plan = Plan::of(&self.memberships, &self.groups);
            let text = self.regrouped(&plan, &ports) + &self.ruleset.change(&removed, &added);
            if text.is_empty() {
                return Ok(());
            }
            match self.nft.apply(text).await {
                Ok(()) => {
                    let has_base = self.has_base || !plan.is_empty();
                    self.has_grouped(plan, has_base);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "a change of the firewall was refused; writing all rules anew");
                }
            }
        }
        self.establish().await
    }

    /// What makes of the groups that stand those that are wanted, while these interfaces change. An interface is held to its groups
    /// by the transaction that lets it send.
    fn regrouped(&self, plan: &Plan, ports: &[InterfaceName]) -> String {
        let mut text = String::new();
        if !self.are_known {
            let free = |port: &&InterfaceName| !plan.has(port) && !self.plan.has(port);
            for port in ports.iter().filter(free) {
                text += &self.ruleset.ungroup_tap(port);
            }
        }
        text + &match (self.has_base, plan.is_empty()) {
            (true, _) => self.ruleset.regroup(&self.plan, plan),
            (false, false) => self.ruleset.group_anew(plan),
            (false, true) => String::new(),
        }
    }

    fn has_grouped(&mut self, plan: Plan, has_base: bool) {
        self.is_grouped.store(!plan.is_empty(), Ordering::Relaxed);
        (self.plan, self.has_base) = (plan, has_base);
    }

    async fn establish(&mut self) -> Result<()> {
        let bindings: BTreeSet<Binding> = self.wanted.values().cloned().collect();
        self.stale = true;
        let plan = Plan::of(&self.memberships, &self.groups);
        let table = self.ruleset.groups_table();
        let found = self.nft.groups(&table).await?.map(|(found, _)| found);
        // What an earlier process wrote stands until it is known what is to be.
        let groups = match self.are_known {
            true => self.ruleset.group_exactly(found.as_ref(), &plan),
            false if plan.is_empty() => String::new(),
            false => self.ruleset.group_anew(&plan),
        };
        let text = groups + &self.ruleset.establish(&bindings);
        let written = match self.nft.apply(text).await {
            Err(NetworkError::Firewall { reason }) => {
                tracing::warn!(%reason, "tables of our name cannot be changed into ours; replacing them");
                let groups = match (self.are_known, plan.is_empty()) {
                    // Those of an earlier process hold its taps until it is known what they are to be.
                    (false, true) => String::new(),
                    _ => self.ruleset.ungroup() + &self.ruleset.group_exactly(None, &plan),
                };
                let text = groups + &self.ruleset.replace(&bindings);
                self.nft.apply(text).await
            }
            other => other,
        };
        self.stale = written.is_err();
        if written.is_ok() {
            let has_base = !plan.is_empty();
            self.has_grouped(plan, has_base);
        }
        written
    }
}

//! Is this host well? What an operator should know at a glance, from memory; and networks that could not be set up are
//! tried again until they can.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use network::{DhcpHealth, NetworkHost, PlugRequest};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Shared, VmHost, arrival};
use cimi::resources::Network;

/// First and longest wait before a network is set up again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// So many machines are named, the rest are counted.
const MOST_NAMED: usize = 5;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `network NAME` or `monitors`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// Of a network: whether machines need it.
    pub needed: bool,
}

/// What went wrong last, by what it went wrong with; empty when all is well.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// By machine.
    silent: Mutex<BTreeMap<String, String>>,
    /// By network.
    networks: Mutex<BTreeMap<String, String>>,
    network_failed: Notify,
}

fn note(
    troubles: &Mutex<BTreeMap<String, String>>,
    of: &str,
    trouble: Option<&dyn std::fmt::Display>,
) {
    let mut troubles = troubles.lock();
    match trouble {
        Some(trouble) => drop(troubles.insert(of.to_owned(), trouble.to_string())),
        None => drop(troubles.remove(of)),
    }
}

impl Shared {
    /// Notes that a machine's hypervisor doesn't answer, or that it does.
    pub(super) fn note_silent(&self, machine: &str, trouble: Option<&dyn std::fmt::Display>) {
        note(&self.troubles.silent, machine, trouble);
    }

    /// Notes that a network can't be set up, or that it is.
    pub(super) fn note_network(&self, network: &str, trouble: Option<&dyn std::fmt::Display>) {
        note(&self.troubles.networks, network, trouble);
        if trouble.is_some() {
            self.troubles.network_failed.notify_one();
        }
    }

    /// Sets a network up if it isn't, and gives it exactly what is wanted.
    async fn restore(&self, network: &Network, wanted: &[PlugRequest]) -> network::Result<()> {
        let restored = async {
            let host = self.network(network).await?;
            self.tell_groups(network.id.local(), &host).await?;
            host.reconcile(wanted).await
        };
        let restored = restored.await.map(drop);
        let trouble = restored.as_ref().err();
        self.note_network(network.id.local(), trouble.map(|error| error as _));
        restored
    }
}

impl VmHost {
    /// Networks whose machines may be running are set up at once, exactly as the documents say.
    pub(super) async fn restore_networks(&self) {
        let networks = self.0.shared.documents.networks.all();
        // A machine that doesn't come any more may have left its interfaces.
        let may_be_left = arrival::are_there(&self.0.shared.settings);
        for network in networks {
            let wanted = self.wanted_on(network.document.id.local(), |_| true);
            if wanted.is_empty() && !may_be_left {
                continue;
            }
            if let Err(error) = self.0.shared.restore(&network, &wanted).await {
                tracing::error!(network = network.id(), %error, "network can't be set up; its machines can't be reached; it is tried again");
            }
        }
    }

    /// Tries networks that could not be set up again, until told to stop.
    pub(super) async fn retry_networks(self, stop: CancellationToken) {
        let shared = &self.0.shared;
        let mut wait = RETRY.0;
        loop {
            let due = async {
                if shared.troubles.networks.lock().is_empty() {
                    shared.troubles.network_failed.notified().await;
                }
                tokio::time::sleep(wait).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = due => {}
            }
            let failing: Vec<String> = shared.troubles.networks.lock().keys().cloned().collect();
            if failing.is_empty() {
                wait = RETRY.0;
                continue;
            }
            wait = (wait * 2).min(RETRY.1);
            for name in failing {
                let Some(network) = shared.documents.networks.get(&name) else {
                    shared.note_network(&name, None);
                    continue;
                };
                let wanted = self.wanted_on(&name, |_| true);
                match shared.restore(&network, &wanted).await {
                    Ok(()) => tracing::info!(network = name, "network is set up now"),
                    Err(error) => {
                        tracing::warn!(network = name, %error, retry_in = ?wait, "network still can't be set up");
                    }
                }
            }
        }
    }

    /// How the networks and the monitors of this host are. Answers from memory.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let shared = &self.0.shared;
        let in_use: BTreeMap<String, Arc<NetworkHost>> =
            shared.networks_in_use().into_iter().collect();
        let troubles = shared.troubles.networks.lock().clone();
        let mut checks: Vec<Check> = shared
            .documents
            .networks
            .all()
            .iter()
            .map(|network| {
                let name = network.document.id.local();
                check_network(
                    name,
                    troubles.get(name).map(String::as_str),
                    in_use.get(name).map(|host| host.dhcp_health()),
                )
            })
            .collect();
        let silent = shared.troubles.silent.lock();
        let named: Vec<String> = silent
            .iter()
            .take(MOST_NAMED)
            .map(|(machine, trouble)| format!("Machine/{machine}: {trouble}"))
            .collect();
        checks.push(Check {
            name: "monitors".to_owned(),
            ok: silent.is_empty(),
            needed: false,
            detail: match silent.len() {
                0 => "all machines answer".to_owned(),
                1 => format!("1 machine doesn't answer: {}", named.join("; ")),
                number => format!("{number} machines don't answer: {}", named.join("; ")),
            },
        });
        checks
    }
}

type Dhcp = tokio::sync::watch::Receiver<DhcpHealth>;

/// `dhcp`: none if the network isn't set up, inner none if it needs no DHCP.
fn check_network(name: &str, trouble: Option<&str>, dhcp: Option<Option<Dhcp>>) -> Check {
    let dhcp = dhcp.map(|dhcp| dhcp.map(|dhcp| dhcp.borrow().clone()));
    let needed = trouble.is_some() || dhcp.is_some();
    let (ok, detail) = match (trouble, dhcp) {
        (Some(trouble), _) => (false, format!("can't be set up: {trouble}")),
        (None, None) => (true, "no machine needs it yet".to_owned()),
        (None, Some(None)) => (true, "set up".to_owned()),
        (None, Some(Some(DhcpHealth::Running { pid }))) => {
            (true, format!("set up; DHCP and DNS run (process {pid})"))
        }
        (None, Some(Some(DhcpHealth::Failing { failures, reason }))) => (
            false,
            format!("DHCP and DNS don't run ({failures} failures in a row): {reason}"),
        ),
        (None, Some(Some(DhcpHealth::Stopped))) => (false, "DHCP and DNS are stopped".to_owned()),
    };
    Check {
        name: format!("network {name}"),
        ok,
        detail,
        needed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_network_is_told() {
        let with =
            |health: DhcpHealth| Some(Some(tokio::sync::watch::Sender::new(health).subscribe()));
        let failing = with(DhcpHealth::Failing {
            failures: 3,
            reason: "port 53 is taken".to_owned(),
        });
        let check = check_network("public", None, failing);
        assert!(!check.ok && check.detail.contains("port 53 is taken"));
        assert_eq!(check.name, "network public");
        assert!(check_network("public", None, with(DhcpHealth::Running { pid: 7 })).ok);
        assert!(check_network("public", None, Some(None)).ok);
        assert!(check_network("public", None, None).ok);
        let check = check_network("public", Some("no such bridge"), None);
        assert!(!check.ok && check.detail.contains("no such bridge"));
    }
}

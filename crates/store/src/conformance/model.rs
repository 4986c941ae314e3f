//! Random transactions against a model that fits on a page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::watches::until;
use super::{all, key, prefix, put};
use crate::{Change, Conflict, Entry, Outcome, Revision, SharedStore, Transaction};

/// Random sequences tried.
const CASES: u32 = 64;
/// Keys the transactions are about.
const KEYS: usize = 5;

/// A compare, chosen before the revisions are known.
#[derive(Debug, Clone, Copy)]
enum Demand {
    Absent,
    Present,
    Current,
    Stale,
}

#[derive(Debug, Clone)]
struct Step {
    demands: Vec<(usize, Demand)>,
    /// What to do with each key: nothing, put, delete.
    writes: BTreeMap<usize, Option<Vec<u8>>>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Current is likely, so that most transactions happen.
    let demand = prop_oneof![
        1 => Just(Demand::Absent), 1 => Just(Demand::Present), 4 => Just(Demand::Current), 1 => Just(Demand::Stale)
    ];
    let write = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..20));
    let step = (
        prop::collection::vec((0..KEYS, demand), 0..3),
        prop::collection::btree_map(0..KEYS, write, 0..4),
    )
        .prop_map(|(demands, writes)| Step { demands, writes });
    prop::collection::vec(step, 1..25)
}

/// What a store is, said simply.
struct Model {
    entries: BTreeMap<crate::Key, Entry>,
    revision: Revision,
    history: Vec<(Revision, Vec<Change>)>,
}

impl Model {
    fn commit(&mut self, transaction: &Transaction) -> Outcome {
        let mut conflicts: Vec<Conflict> = Vec::new();
        for compare in transaction.compares() {
            let current = self.entries.get(&compare.key).cloned();
            let holds = compare
                .condition
                .holds(current.as_ref().map(|entry| entry.revision));
            if !holds && conflicts.iter().all(|conflict| conflict.key != compare.key) {
                conflicts.push(Conflict {
                    key: compare.key.clone(),
                    current,
                });
            }
        }
        if !conflicts.is_empty() {
            return Outcome::Conflict(conflicts);
        }
        let (at, mut changes) = (self.revision.next(), Vec::new());
        for operation in transaction.operations() {
            match operation {
                crate::Operation::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(at, |entry| entry.created);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        revision: at,
                        created,
                        lease: *lease,
                    };
                    self.entries.insert(key.clone(), entry.clone());
                    changes.push(Change::Put(entry));
                }
                crate::Operation::Delete { key } => {
                    if self.entries.remove(key).is_some() {
                        changes.push(Change::Delete { key: key.clone() });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.revision = at;
            self.history.push((at, changes));
        }
        Outcome::Committed(self.revision)
    }
}

/// Outcome by outcome, state by state, and at the end the whole history, the store does what the model does.
pub async fn random_transactions_agree_with_the_model(store: SharedStore) {
    let case = AtomicU32::new(0);
    let runtime = tokio::runtime::Handle::current();
    let tried = tokio::task::spawn_blocking(move || {
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config).run(&steps(), |steps| {
            // Cases share the store: each has a collection of its own.
            let collection = format!("case-{}", case.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(one_case(&store, &collection, &steps))
        })
    });
    if let Err(failure) = tried.await.expect("the runner doesn't panic") {
        panic!("{failure}");
    }
}

async fn one_case(
    store: &SharedStore,
    collection: &str,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let start = put(store, "cases/current", collection).await;
    let mut model = Model {
        entries: BTreeMap::new(),
        revision: start,
        history: Vec::new(),
    };
    let name = |n: usize| key(&format!("{collection}/{n}"));
    for step in steps {
        let mut transaction = Transaction::new();
        for (n, demand) in &step.demands {
            let name = name(*n);
            let current = model
                .entries
                .get(&name)
                .map_or(Revision::ZERO, |entry| entry.revision);
            transaction = match demand {
                Demand::Absent => transaction.absent(&name),
                Demand::Present => transaction.present(&name),
                Demand::Current => transaction.revision_is(&name, current),
                Demand::Stale => {
                    transaction.revision_is(&name, Revision(current.0.saturating_sub(1)))
                }
            };
        }
        for (n, write) in &step.writes {
            transaction = match write {
                Some(value) => transaction.put(name(*n), value.clone()),
                None => transaction.delete(name(*n)),
            };
        }
        let wanted = model.commit(&transaction);
        let outcome = store
            .commit(transaction)
            .await
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(sorted(outcome), sorted(wanted));
        let page = all(store, &format!("{collection}/")).await;
        prop_assert_eq!(page.revision, model.revision);
        prop_assert_eq!(
            page.entries,
            model.entries.values().cloned().collect::<Vec<_>>()
        );
    }
    if let Some((last, _)) = model.history.last() {
        let mut watch = store
            .watch(prefix(&format!("{collection}/")), start)
            .await
            .unwrap();
        let told: Vec<_> = until(&mut watch, *last)
            .await
            .into_iter()
            .map(|batch| (batch.revision, batch.changes))
            .collect();
        prop_assert_eq!(told, model.history);
    }
    Ok(())
}

/// The order of conflicts is not promised.
fn sorted(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Conflict(mut conflicts) => {
            conflicts.sort_by(|a, b| a.key.cmp(&b.key));
            Outcome::Conflict(conflicts)
        }
        committed @ Outcome::Committed(_) => committed,
    }
}

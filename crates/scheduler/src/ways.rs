//! How many machines are on their way at once.

use std::collections::HashMap;

use cimi::HostId;

/// Machines of one host, and machines to one host: each stands still until all of it is copied, so that many at once stand still for
/// as long as all of them take.
const AT_ONCE: usize = 4;

/// How many go from each host, and how many come to it. One has nothing to do with the other: who is emptied can be filled.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    from: HashMap<HostId, usize>,
    to: HashMap<HostId, usize>,
}

impl Ways {
    /// One more.
    pub(crate) fn add(&mut self, from: &HostId, to: &HostId) {
        *self.from.entry(from.clone()).or_default() += 1;
        *self.to.entry(to.clone()).or_default() += 1;
    }

    /// Whether another one may go from this host.
    pub(crate) fn may_leave(&self, host: &HostId) -> bool {
        self.from.get(host).is_none_or(|ways| *ways < AT_ONCE)
    }

    /// Whether another one may come to this host.
    pub(crate) fn may_come_to(&self, host: &HostId) -> bool {
        self.to.get(host).is_none_or(|ways| *ways < AT_ONCE)
    }
}

impl<'h> FromIterator<&'h (HostId, HostId)> for Ways {
    fn from_iter<I: IntoIterator<Item = &'h (HostId, HostId)>>(all: I) -> Self {
        let mut ways = Self::default();
        for (from, to) in all {
            ways.add(from, to);
        }
        ways
    }
}

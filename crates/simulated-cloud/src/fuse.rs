//! What has a daemon die between two writes to its disk. The tests' program asks before each of them, in place of the C library.
//!
//! ```text
//!  set: so many writes yet ── each takes one ──▶ blown: the next write waits, and is never done ── buried ──▶ it fails, as all others do
//! ```

use std::{cell::RefCell, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// How long a write waits at most until its daemon is buried: others may wait for what the thread holds that makes it.
const WAITS: Duration = Duration::from_secs(2);

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Arc<Fuse>>> = const { RefCell::new(None) };
}

/// See the module.
#[derive(Default)]
pub struct Fuse {
    state: Mutex<State>,
    changed: Condvar,
    blows: Notify,
}

#[derive(Default)]
struct State {
    left: Option<u32>,
    is_blown: bool,
    is_buried: bool,
}

impl Fuse {
    /// From now on this thread's writes are those of the daemon.
    pub(crate) fn is_of_this_thread(self: &Arc<Self>) {
        OF_THIS_THREAD.set(Some(self.clone()));
    }

    pub(crate) fn set(&self, writes: Option<u32>) {
        self.state.lock().left = writes;
    }

    /// Whether its daemon is dead.
    pub(crate) fn is_blown(&self) -> bool {
        self.state.lock().is_blown
    }

    /// Waits until it is.
    pub(crate) async fn blows(&self) {
        while !self.is_blown() {
            self.blows.notified().await;
        }
    }

    /// The daemon is no more.
    pub(crate) fn bury(&self) {
        self.state.lock().is_buried = true;
        self.changed.notify_all();
    }

    /// Whether a write may be done.
    fn may_write(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_blown {
            state.is_blown = match &mut state.left {
                None => false,
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
            };
            if !state.is_blown {
                return true;
            }
            self.blows.notify_one();
        }
        let is_alone = |state: &mut State| !state.is_buried;
        self.changed.wait_while_for(&mut state, is_alone, WAITS);
        false
    }
}

/// Whether this thread may write to disk.
#[must_use]
pub fn may_write() -> bool {
    let fuse = OF_THIS_THREAD.try_with(|fuse| fuse.borrow().clone());
    fuse.ok().flatten().is_none_or(|fuse| fuse.may_write())
}

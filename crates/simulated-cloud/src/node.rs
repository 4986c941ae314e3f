//! A daemon: a runtime of its own, whose time passes as the schedule wants, and which can be killed between any two steps.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep_until},
};

use crate::{clock, fuse::Fuse};

/// How long what blocks may go on after a kill; it can't be interrupted from inside a process.
const BLOCKING_LIMIT: Duration = Duration::from_secs(60);

/// What a thread does first that is there for what blocks.
pub static BLOCKING: OnceLock<fn()> = OnceLock::new();

/// A daemon that runs.
pub struct Node {
    runtime: Runtime,
    began: Duration,
    epoch: Instant,
    fuse: Arc<Fuse>,
}

impl Node {
    /// Begins one, which does this.
    ///
    /// # Panics
    /// If there can't be a runtime.
    #[must_use]
    pub fn begin(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::with(Arc::default(), work)
    }

    /// The same, with a fuse by which it dies between two writes to disk.
    ///
    /// # Panics
    /// If there can't be a runtime.
    #[must_use]
    pub fn with(fuse: Arc<Fuse>, work: impl Future<Output = ()> + Send + 'static) -> Self {
        let writes = fuse.clone();
        // What blocks happens in the order in which it was asked for, and is heard of when nothing else is to be done: so nothing
        // depends on how fast this computer is.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .max_blocking_threads(1)
            .global_queue_interval(u32::MAX)
            .on_thread_start(move || {
                if let Some(begin) = BLOCKING.get() {
                    begin();
                }
                writes.is_of_this_thread();
            })
            .build()
            .expect("a runtime");
        let epoch = runtime.block_on(async { Instant::now() });
        runtime.spawn(work);
        Self {
            runtime,
            began: clock::passed(),
            epoch,
            fuse,
        }
    }

    /// Lets it work until it is as late for it as it is for all, or it dies. While nothing is to be done its time passes at once.
    pub fn catch_up(&self) {
        let until = self.epoch + clock::passed().saturating_sub(self.began);
        self.runtime.block_on(async move {
            tokio::select! {
                biased;
                () = self.fuse.blows() => {}
                () = sleep_until(until) => {}
            }
        });
    }

    /// Has it die before so many more writes to disk, by what blocks; none: it doesn't.
    pub fn dies_before_writes(&self, writes: Option<u32>) {
        self.fuse.set(writes);
    }

    /// Whether it has died so. Then it is to be killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.fuse.is_blown()
    }

    /// Does something in it, while its own work goes on.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Has it do something beside its work.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// SIGKILL, once what blocks has come to its end; at once if it is dead.
    pub fn kill(self) {
        if !self.fuse.is_blown() {
            self.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        }
        self.fuse.bury();
        self.runtime.shutdown_timeout(BLOCKING_LIMIT);
    }
}

//! Points at which a daemon stops, to be killed or cut off exactly there.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::wait_until;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A point of `vmhost::stop_points` at which a daemon stops. It goes on when this is dropped.
#[derive(Debug)]
pub struct StopPoint {
    path: PathBuf,
    listener: UnixListener,
    stopped: Vec<UnixStream>,
}

impl StopPoint {
    /// For a daemon that was started with this folder of points.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    #[track_caller]
    pub fn of(folder: &Path, name: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            path,
            listener,
            stopped: Vec::new(),
        }
    }

    /// Waits until it is there.
    ///
    /// # Panics
    /// If it doesn't come.
    #[track_caller]
    pub fn reached(&mut self) {
        let what = format!("the daemon at {}", self.path.display());
        let stopped = wait_until(&what, LIMIT, || Some(self.listener.accept().ok()?.0));
        self.stopped.push(stopped);
    }
}

impl Drop for StopPoint {
    fn drop(&mut self) {
        // Before whoever is stopped goes on: it must not stop here again.
        let _ = fs::remove_file(&self.path);
    }
}

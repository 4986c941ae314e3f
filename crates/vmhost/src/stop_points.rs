//! Points at which a test has this program stop, so that it is killed, or cut off, exactly there.
//!
//! The test listens at a socket that is called as the point, in the folder that `STRATUS_STOP_POINTS` names. Who comes to the point
//! connects to it, and goes on when that connection ends. Programs for users, which are built without `debug_assertions`, know
//! nothing of this.

/// The variable that names the folder.
#[cfg(debug_assertions)]
const FOLDER: &str = "STRATUS_STOP_POINTS";

/// Where something can stop; first in the order in which a machine comes by on its way to another host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    /// On the host that it leaves: its guest was halted.
    Halted,
    /// Its disks are no longer written on both.
    MirrorsEnded,
    /// The other host was told so, and closes them.
    Still,
    /// The last of its memory was sent.
    Sent,
    /// The other host was told that that was all.
    Gone,
    /// Its document says so.
    Left,
    /// On the host that it comes to: all of its memory was read.
    Read,
    /// Its document says so.
    Arrived,
    /// It is that host's, and its guest is still halted.
    Taken,
    /// Its guest runs, and no document says so yet.
    Runs,
    /// On the host of a machine whose disk is to become an image: a piece of the disk was given.
    GivesDisk,
}

/// Stops here if a test waits for that.
pub(crate) async fn pass(point: Point) {
    #[cfg(debug_assertions)]
    if let Some(folder) = std::env::var_os(FOLDER) {
        use tokio::io::AsyncReadExt as _;

        let name = std::path::Path::new(&folder).join(format!("{point:?}"));
        if let Ok(mut test) = tokio::net::UnixStream::connect(name).await {
            tracing::info!(?point, "stops for a test");
            let _ = test.read_u8().await;
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = point;
}

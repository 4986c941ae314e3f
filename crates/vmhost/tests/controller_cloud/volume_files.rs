//! Where volumes are, as a test wants it.

use std::sync::Arc;

use cimi::resources::AttachedVolume;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use vmhost::{
    DiskId,
    controller::{VolumeFiles, VolumePlace, VolumeUser, volume_disk},
};

/// Volumes: in their files, but for what a test says of all of them.
#[derive(Clone, Default)]
pub struct TestVolumes(Arc<Told>);

#[derive(Default)]
struct Told {
    are_elsewhere: Mutex<bool>,
    silence: Mutex<Option<String>>,
    refusal: Mutex<Option<String>>,
    refused: Mutex<usize>,
    hangs: Mutex<bool>,
    hung: Mutex<usize>,
    lost: Mutex<Vec<String>>,
    begun: Mutex<usize>,
}

impl TestVolumes {
    /// From now on they are behind sockets.
    pub fn are_elsewhere(&self) {
        *self.0.are_elsewhere.lock() = true;
    }

    /// Nobody answers at them, for this reason; none: somebody does.
    pub fn silent(&self, why: Option<&str>) {
        *self.0.silence.lock() = why.map(str::to_owned);
    }

    /// The storage doesn't give them, for this reason; none: it does.
    pub fn refused(&self, why: Option<&str>) {
        *self.0.refusal.lock() = why.map(str::to_owned);
    }

    /// Whether who asks for one hears nothing at all.
    pub fn hang(&self, hangs: bool) {
        *self.0.hangs.lock() = hangs;
    }

    /// How often somebody began to wait for an answer that doesn't come.
    pub fn times_hung(&self) -> usize {
        *self.0.hung.lock()
    }

    /// How often somebody was refused one.
    pub fn times_refused(&self) -> usize {
        *self.0.refused.lock()
    }

    /// How often somebody was to begin with none.
    pub fn times_begun(&self) -> usize {
        *self.0.begun.lock()
    }

    /// The disks that guests were to be told are lost.
    pub fn lost(&self) -> Vec<String> {
        self.0.lost.lock().clone()
    }
}

impl VolumeFiles for TestVolumes {
    fn begin(&self, _by: &VolumeUser) {
        *self.0.begun.lock() += 1;
    }

    fn ready<'a>(
        &'a self,
        _by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        if *self.0.hangs.lock() {
            *self.0.hung.lock() += 1;
            return futures::future::pending().boxed();
        }
        if let Some(why) = self.0.refusal.lock().clone() {
            *self.0.refused.lock() += 1;
            return async { Err(why) }.boxed();
        }
        let place = match *self.0.are_elsewhere.lock() {
            true => VolumePlace::Socket(format!("{}.sock", volume_disk(attached))),
            false => VolumePlace::Files,
        };
        async { Ok(place) }.boxed()
    }

    fn answers<'a>(
        &'a self,
        _by: &'a VolumeUser,
        _attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<(), String>> {
        let silence = self.0.silence.lock().clone();
        async { silence.map_or(Ok(()), Err) }.boxed()
    }

    fn expected<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
        _bytes: u64,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        self.ready(by, attached)
    }

    fn lost(&self, _by: &VolumeUser, disk: &DiskId) {
        self.0.lost.lock().push(disk.to_string());
    }
}

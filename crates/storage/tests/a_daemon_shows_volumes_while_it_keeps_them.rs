//! A daemon that waits for a volume may have lost the part of who keeps volumes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use storage::exports::User;
use store::{Key, Revision, Tenure};
use tokio_util::sync::CancellationToken;

use crate::volumes_are_shown_to_one_host::World;

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_again_when_it_has_waited_for_one() {
    let mut world = World::new().await;
    let (tell, tenure) = Tenure::of(Key::new("Part", "own").expect("a key"));
    tell.send_replace(Some(Revision(1)));
    world.server.tenure = Some(tenure);
    let user = User {
        host: world.host.clone(),
        of: world.of(),
    };
    let exports = world.server.exports.clone();
    let before = exports.claim(user.clone()).await.expect("it is free");
    let is_shown = AtomicBool::new(false);
    let relay = |_| {
        is_shown.store(true, Ordering::SeqCst);
        async { Ok(()) }
    };
    let until = CancellationToken::new();
    let serving = world.server.serve(&user, relay, &until);
    let loses_the_part = async {
        // It waits.
        before.cut().await;
        tell.send_replace(None);
        drop(before);
    };
    tokio::join!(serving, loses_the_part);
    assert!(!is_shown.load(Ordering::SeqCst), "a process has the volume");
    world.until_nobody_has_it().await;
}

//! Whether QEMU here can open volumes by iSCSI: its driver is in a package of its own, which a host may lack.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::qemu::QemuHypervisor;

/// Longer than QEMU takes to start on a busy computer.
const LIMIT: Duration = Duration::from_secs(20);
/// A volume that is nowhere, by a secret that isn't there either: that is looked for before anything is connected to.
const NOWHERE: &str = "driver=iscsi,node-name=n,transport=tcp,portal=127.0.0.1:1,target=iqn.n,lun=0,user=n,password-secret=none";
/// What the driver says to it. What says there is no driver differs with how it isn't there.
const NO_SECRET: &str = "No secret with id 'none'";

impl QemuHypervisor {
    /// Looks whether QEMU has the driver, by having it open something with it.
    ///
    /// # Errors
    /// Why it can't be used.
    pub async fn opens_iscsi(&self) -> Result<(), String> {
        let asking = Command::new(&self.binary)
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-S"])
            .args(["-blockdev", NOWHERE])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let asked = timeout(LIMIT, asking).await;
        let output = asked
            .map_err(|_| format!("QEMU gave no answer within {} s", LIMIT.as_secs()))?
            .map_err(|error| format!("running {}: {error}", self.binary.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains(NO_SECRET) {
            return Ok(());
        }
        let last = said.lines().last().unwrap_or("QEMU says nothing").trim();
        let words = last.split_once("password-secret=none: ");
        Err(words.map_or(last, |(_, words)| words).to_owned())
    }
}

//! What a machine has used: its disks by QEMU's count (`query-blockstats`), the rest by the kernel's.

use serde_json::Value;

use super::Shared;
use crate::error::HypervisorError;
use crate::hypervisor::Result;
use crate::qemu::blocking;
use crate::usage::{self, Traffic, Usage};

impl Shared {
    pub(super) async fn usage(&self) -> Result<Usage> {
        let answer = self.execute("query-blockstats", None).await?;
        let (pid, folder) = (self.process.pid(), self.folder.0.clone());
        let (cpu_ms, memory_kib, taps) = blocking(move || {
            let (cpu_ms, memory_kib) = usage::of_process(pid).map_err(HypervisorError::system(
                "reading the use of the process of",
                &folder,
            ))?;
            Ok((cpu_ms, memory_kib, usage::taps_of(pid)))
        })
        .await?;
        Ok(Usage {
            cpu_ms,
            memory_kib,
            disks: traffic(&answer),
            taps,
        })
    }

    /// What the host counts at its taps. They are there as long as its process is.
    pub(super) async fn traffic(&self) -> Option<Traffic> {
        let pid = self.process.pid();
        let read = blocking(move || {
            let taps = usage::taps_of(pid);
            if taps.is_empty() {
                return Ok(None);
            }
            let interfaces = usage::interfaces().into_iter();
            let own = interfaces.filter(|(name, _)| taps.contains(name));
            Ok(own.map(|(_, traffic)| traffic).reduce(Traffic::plus))
        });
        read.await.ok().flatten()
    }
}

/// The sum over all devices. (Nodes without a device are counted by those above them.)
fn traffic(answer: &Value) -> Traffic {
    let devices = answer.as_array().into_iter().flatten();
    let number = |device: &Value, name: &str| {
        let counted = device.get("stats").and_then(|stats| stats.get(name));
        counted.and_then(Value::as_u64).unwrap_or_default()
    };
    devices
        .filter(|device| device.get("qdev").is_some())
        .map(|device| Traffic {
            bytes_in: number(device, "rd_bytes"),
            bytes_out: number(device, "wr_bytes"),
            count_in: number(device, "rd_operations"),
            count_out: number(device, "wr_operations"),
        })
        .fold(Traffic::default(), Traffic::plus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_added_up_and_nodes_are_not() {
        let stats = |n: u64| json!({"rd_bytes": n, "wr_bytes": 2 * n, "rd_operations": 3, "wr_operations": 4});
        let answer = json!([
            {"qdev": "/machine/peripheral/disk0/virtio-backend", "stats": stats(100)},
            {"qdev": "/machine/peripheral/disk1/virtio-backend", "stats": stats(1)},
            {"node-name": "n", "stats": stats(7)},
            "nonsense",
        ]);
        let all = traffic(&answer);
        assert_eq!((all.bytes_in, all.bytes_out), (101, 202));
        assert_eq!((all.count_in, all.count_out), (6, 8));
        assert_eq!(traffic(&json!({})), Traffic::default());
    }
}

//! A guest that writes a line a moment to a volume, and what is found of it there: whatever happens meanwhile, nothing that was
//! acknowledged may be lost.

use std::{process::Command, time::Duration};

use crate::{Machine, TestCloud, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

impl Machine<'_> {
    /// What a command in the guest printed, tried again until it succeeds.
    #[must_use]
    #[track_caller]
    pub fn ssh_until_it_works(&self, command: &str) -> String {
        wait_until(command, LIMIT, || {
            let output = self.try_ssh(command);
            let text = String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned();
            output.status.success().then_some(text)
        })
    }

    /// The disk that a volume is in the guest, which has just got it: `vdb`.
    #[must_use]
    #[track_caller]
    pub fn disk_of(&self, volume: &str) -> String {
        let uuid = volume.trim_start_matches("Volume/").replace('-', "");
        let find = format!("grep -l {} /sys/block/vd*/serial || true", &uuid[12..]);
        wait_until("the guest to see the volume", LIMIT, || {
            let seen = self.ssh(&find);
            Some(seen.split('/').nth(3)?.to_owned())
        })
    }

    /// Makes a file system on a volume that the guest has just got, at `/mnt`, and has it write lines there until it can't.
    #[track_caller]
    pub fn write_lines_to(&self, volume: &str) {
        let disk = self.disk_of(volume);
        self.ssh(&format!(
            "mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt && touch /mnt/log && sync"
        ));
        self.ssh(
            "(n=1; while echo line $n >> /mnt/log && sync; do n=$((n+1)); sleep 0.2; done; echo ended > /tmp/ended) \
             >/dev/null 2>&1 </dev/null &",
        );
        self.wait_for_more_lines();
    }

    /// How many lines were written, each of which is on the disk before the next one is begun: all of them in order.
    #[must_use]
    #[track_caller]
    pub fn lines(&self) -> usize {
        let text = self.ssh_until_it_works("cat /mnt/log");
        for (number, line) in text.lines().enumerate() {
            assert_eq!(line, format!("line {}", number + 1));
        }
        text.lines().count()
    }

    /// Waits until the guest has written some more.
    #[track_caller]
    pub fn wait_for_more_lines(&self) {
        let before = self.lines();
        wait_until("more lines", LIMIT, || {
            (self.lines() > before + 2).then_some(())
        });
    }

    /// Whether the guest couldn't write one.
    #[must_use]
    #[track_caller]
    pub fn could_not_write(&self) -> bool {
        self.ssh_until_it_works("cat /tmp/ended 2>/dev/null; echo on") == "ended\non"
    }
}

impl TestCloud {
    /// A machine that writes lines to a volume, and that volume.
    #[must_use]
    #[track_caller]
    pub fn machine_that_writes_lines(&self) -> (Machine<'_>, String) {
        let machine = self.machine();
        machine.wait_for_ssh();
        let volume = self.volume(&self.api(), 1);
        machine.attach(&volume);
        machine.write_lines_to(&volume);
        (machine, volume)
    }

    /// The processes that show volumes to other hosts, by the beginning of their name: the daemon's children, each in a network of
    /// its own.
    #[must_use]
    pub fn exporters(&self, name: &str) -> Vec<String> {
        let parent = self.daemon_pid().to_string();
        let children = Command::new("ps")
            .args(["--ppid", &parent, "-o", "pid=,stat=,comm="])
            .output()
            .unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let of = |line: &str| {
            let mut words = line.split_whitespace();
            let (pid, state, comm) = (words.next()?, words.next()?, words.next()?);
            (comm.starts_with(name) && !state.starts_with('Z')).then(|| pid.to_owned())
        };
        children.lines().filter_map(of).collect()
    }

    /// Waits until so many of them show volumes by iSCSI, and in NBD.
    #[track_caller]
    pub fn wait_for_exporters(&self, by_iscsi: usize, in_nbd: usize) {
        let expected = (by_iscsi, in_nbd);
        wait_until(&format!("{expected:?} exporters"), LIMIT, || {
            let (targets, others) = (self.exporters("tgtd"), self.exporters("qemu-storage"));
            ((targets.len(), others.len()) == expected).then_some(())
        });
    }
}

//! What has to hold, at each moment and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cimi::{
    HostId,
    lifecycle::{MachineState, Stage},
    resources::{Job, Machine, Volume, VolumeState},
};
use futures::FutureExt as _;
use serde_json::json;
use vmhost::hypervisor::RunningMachine as _;

use super::{MACHINE_MIB, World, admin};
use crate::{clock, ledger::Known};

/// How long a host has to have been heard, as far as it can tell, before it is taken to know what the documents say.
const HEARD_FOR: Duration = Duration::from_secs(60);

impl World {
    /// What has to hold at each moment.
    pub(super) fn look(&mut self) {
        let mut wrong = Vec::new();
        let mut lives: BTreeMap<uuid::Uuid, Vec<&HostId>> = BTreeMap::new();
        for (number, (host, troubled)) in self.hosts.iter().zip(&self.troubled).enumerate() {
            let running = host.guests.running();
            // One that was heard all the time knows what the documents say, and takes nothing from a guest before it has let go.
            let is_heard = !self.is_broken(self.centrals.len() + number)
                && clock::passed().saturating_sub(*troubled) > HEARD_FOR;
            for &guest in &running {
                lives.entry(guest).or_default().push(&host.id);
                let Some(handle) = host.guests.machine(guest).filter(|_| is_heard) else {
                    continue;
                };
                let disks = handle.status().now_or_never().and_then(Result::ok);
                for disk in disks.map(|status| status.disks).unwrap_or_default() {
                    let disk = disk.id;
                    if !self.between.may_write(&host.id, guest, &disk) {
                        wrong.push(format!("{guest} on {} lost {disk} under its feet", host.id));
                    }
                }
            }
            let used = running.len() as u64 * MACHINE_MIB;
            if used > self.offered_mib {
                let placed = self.all::<Machine>().into_iter();
                let placed = placed.filter(|machine| machine.host.as_ref() == Some(&host.id));
                let placed: Vec<_> = placed.collect();
                wrong.push(format!(
                    "{} has guests of {used} MiB ({running:?}): {placed:#?}",
                    host.id
                ));
            }
        }
        for (guest, hosts) in lives {
            if hosts.len() > 1 {
                wrong.push(format!("{guest} runs on {hosts:?}"));
            }
        }
        self.wrong.append(&mut wrong);
        if !self.wrong.is_empty() {
            self.follow_trace();
        }
    }

    /// What has to hold in the end.
    pub(super) fn unsettled(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let machines = self.all::<Machine>();
        let volumes = self.all::<Volume>();
        let ids: BTreeSet<&str> = machines
            .iter()
            .map(|machine| machine.id.local())
            .chain(volumes.iter().map(|volume| volume.id.local()))
            .collect();
        let waiting = self.ledger.lock().waiting();
        if waiting > 0 {
            wrong.push(format!("{waiting} requests wait for an answer"));
        }
        for (id, owned) in &self.ledger.lock().owned {
            let is_there = ids.contains(id.as_str());
            match owned.known {
                Known::There if !is_there => wrong.push(format!("{id} is lost: {owned:?}")),
                Known::Gone if is_there => wrong.push(format!("{id} is still there: {owned:?}")),
                _ => {}
            }
            let machine = machines.iter().find(|machine| machine.id.local() == id);
            if let (Some(machine), Some(is_on)) = (machine, owned.is_on)
                && owned.known == Known::There
                && machine.host.is_some()
                && (machine.state == MachineState::Started) != is_on
            {
                wrong.push(format!("{id} was to be on ({is_on}): {machine:?}"));
            }
        }
        for machine in &machines {
            wrong.extend(self.unsettled_machine(machine));
        }
        for volume in &volumes {
            let is_still = volume.state == VolumeState::Available && !volume.deleted;
            let holder = volume.attachment.as_ref().map(|held| &held.machine);
            let is_held = holder.is_none_or(|holder| {
                let holder = machines.iter().find(|machine| machine.id == *holder);
                let mut held = holder.iter().flat_map(|machine| &machine.volumes);
                held.any(|one| one.volume == volume.id)
            });
            if !is_still || !is_held {
                wrong.push(format!("volume: {volume:?}"));
            }
        }
        for job in self.all::<Job>() {
            if !job.state.is_final() && !waits_for_room(&machines, &job) {
                wrong.push(format!("open: {job:?}"));
            }
        }
        for host in &self.hosts {
            for guest in host.guests.running() {
                let machine = machines
                    .iter()
                    .find(|one| one.id.local() == guest.to_string());
                if machine.and_then(|machine| machine.host.as_ref()) != Some(&host.id) {
                    wrong.push(format!("{guest} runs on {}, and is not there", host.id));
                }
            }
            for folder in host.folders() {
                let machine = machines.iter().find(|one| one.id.local() == folder);
                if machine.and_then(|machine| machine.host.as_ref()) != Some(&host.id) {
                    wrong.push(format!(
                        "folder {folder} on {}, and no such machine",
                        host.id
                    ));
                }
            }
        }
        let central = self.centrals.first();
        if let Some(central) = central
            && let (Some(daemon), Some(cloud)) = (&central.daemon, central.front.lock().clone())
        {
            let doctor = daemon.block_on(cloud.doctor(&admin(), false));
            match doctor {
                Ok(found) if found["findings"] == json!([]) => {}
                other => wrong.push(format!("doctor: {other:?}")),
            }
        }
        for host in &self.hosts {
            if let (Some(daemon), Some(controller)) = (&host.daemon, host.controller()) {
                for finding in daemon.block_on(controller.audit(false)) {
                    wrong.push(format!("audit of {}: {finding:?}", host.id));
                }
            } else {
                wrong.push(format!("{} has no controller", host.id));
            }
        }
        wrong
    }

    fn unsettled_machine(&self, machine: &Machine) -> Vec<String> {
        use MachineState as S;
        let mut wrong = Vec::new();
        let is_on_its_way = matches!(
            machine.state,
            S::Creating | S::Starting | S::Pausing | S::Suspending | S::Stopping | S::Deleting
        );
        if is_on_its_way && machine.host.is_some() {
            wrong.push(format!("on its way: {machine:?}"));
        }
        if machine.unseen_since.is_some() || !machine.left_on.is_empty() {
            wrong.push(format!("unseen, or left somewhere: {machine:?}"));
        }
        let runs = matches!(
            machine.observed.stage,
            Stage::Running | Stage::Paused | Stage::Held
        );
        let host = self
            .hosts
            .iter()
            .find(|host| Some(&host.id) == machine.host.as_ref());
        let lives = host.is_some_and(|host| {
            let running = host.guests.running();
            running
                .iter()
                .any(|guest| guest.to_string() == machine.id.local())
        });
        // One that is broken is still there, to be looked into.
        if runs && !lives {
            wrong.push(format!("has no process: {machine:?}"));
        }
        wrong
    }
}

/// Whether a job is that of a machine for which there is no room: it goes on when there is.
fn waits_for_room(machines: &[Machine], job: &Job) -> bool {
    let is_of = |machine: &&Machine| job.subject() == machine.id.to_string();
    let machine = machines.iter().find(is_of);
    machine.is_some_and(|machine| machine.host.is_none())
}

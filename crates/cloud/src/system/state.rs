//! How a system is: derived from its parts, never written down (DSP0263 §5.13; `cimi.md` §6.5).

use cimi::{
    model::Kind,
    resources::{Made, System},
};
use documents::{Documents, OfType};
use serde_json::{Map, Value, json};

use crate::{
    Rel,
    catalogue::{Public, object},
    front::by_kind,
};

/// Systems within systems that are looked into.
const DEEPEST: usize = 8;

/// A state, and why, for people.
pub(super) struct State {
    pub(super) name: String,
    pub(super) reason: Option<String>,
}

/// The state of a system, which follows from what is wanted of it and from the states of its parts.
pub(super) fn state_of(documents: &Documents, system: &System) -> State {
    state_within(documents, system, 0)
}

fn state_within(documents: &Documents, system: &System, depth: usize) -> State {
    let plain = |name: &str| State {
        name: name.to_owned(),
        reason: system.trouble.clone(),
    };
    if system.deleted {
        return plain("DELETING");
    }
    if let Some((name, reason)) = failed(system) {
        return State {
            name: "ERROR".to_owned(),
            reason: Some(format!("{name} could not be made: {reason}")),
        };
    }
    if system.creation.is_some() {
        return plain("CREATING");
    }
    if let Some(operation) = &system.operation {
        return plain(match operation.action.as_str() {
            "stop" => "STOPPING",
            "pause" => "PAUSING",
            "suspend" => "SUSPENDING",
            _ => "STARTING",
        });
    }
    let mut common: Option<String> = None;
    for member in &system.members {
        let Some(part) = part_state(documents, &member.href, depth) else {
            continue;
        };
        if part.name == "ERROR" {
            let reason = part.reason.unwrap_or_else(|| "it is in error".to_owned());
            return State {
                name: part.name,
                reason: Some(format!("{}: {reason}", member.href)),
            };
        }
        if !has_operations(&member.href) {
            continue;
        }
        match &common {
            None => common = Some(part.name),
            Some(same) if *same == part.name => {}
            Some(_) => common = Some("MIXED".to_owned()),
        }
    }
    plain(common.as_deref().unwrap_or("STARTED"))
}

/// The first component that could not be made, and why.
pub(super) fn failed(system: &System) -> Option<(&str, &str)> {
    system
        .components
        .iter()
        .find_map(|component| match &component.made {
            Made::Failed { reason } => Some((component.name.as_str(), reason.as_str())),
            Made::NotYet | Made::As { .. } => None,
        })
}

/// Whether resources of this type are started and stopped.
pub(super) fn has_operations(href: &str) -> bool {
    let kind = href.split('/').next().and_then(Kind::from_name);
    matches!(kind, Some(Kind::Machine | Kind::System))
}

/// The state of a part, if it is there and its type has states.
pub(super) fn part_state(documents: &Documents, href: &str, depth: usize) -> Option<State> {
    let (kind, local) = href.split_once('/')?;
    let kind = Kind::from_name(kind)?;
    if kind == Kind::System {
        let system = documents.systems.get(local)?;
        return (depth < DEEPEST).then(|| state_within(documents, &system, depth + 1));
    }
    by_kind!(kind, R => state_in::<R>(documents, local), else None)
}

fn state_in<R: Public>(documents: &Documents, local: &str) -> Option<State> {
    let found = OfType::view(documents);
    let document: std::sync::Arc<documents::Cached<R>> = found.get(local)?;
    let shown = document.own_attributes(documents);
    let text = |name: &str| shown.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(State {
        name: text("state")?,
        reason: text("reason"),
    })
}

impl Public for System {
    const KIND: Kind = Kind::System;

    /// It is the state of others.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let state = state_of(documents, self);
        let mut out =
            object(json!({"state": state.name, "eventLog": crate::event_log::link(self)}));
        if let Some(reason) = state.reason {
            out.insert("reason".to_owned(), reason.into());
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        let mut all = vec![Rel::Edit, Rel::Delete];
        if !self.deleted && self.creation.is_none() && self.operation.is_none() {
            all.extend(["start", "stop", "restart", "pause", "suspend"].map(Rel::Action));
        }
        all
    }
}

/// The states that are reached when an action is over.
pub(super) fn is_goal_of(action: &str, state: &str) -> bool {
    match action {
        "start" | "restart" => state == "STARTED",
        "stop" => state == "STOPPED",
        "pause" => state == "PAUSED",
        "suspend" => state == "SUSPENDED",
        _ => false,
    }
}

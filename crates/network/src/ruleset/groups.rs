//! Security groups: a table of their own, `stratus_<instance>_groups`, that is there once a machine of the network has one.
//!
//! ```text
//!  outward (taps' packets, after the anti-spoofing) ─ iifname @outward ─▶ to_<tap> ─▶ always ─▶ out_<group>… ─▶ begin, or answers
//!  inward  (what leaves by a tap)                   ─ oifname @inward  ─▶ ti_<tap> ─▶ always, answers ─▶ in_<group>…  ─▶ let_in
//! ```
//!
//! Each packet in the direction in which a connection was begun is held to the rules as they are: a rule that goes takes along
//! what it let through, and everything else goes on, whatever is changed beside it. Answers are known by sets with timeouts:
//! `begun` has what machines began, `asked` what was let in to them. Not the kernel's connection tracking, which knows nothing of
//! what goes over a bridge on many kernels, and would take from everybody where it does. These sets outlive every change of
//! rules, so nothing has to be picked up again.
//!
//! Members are elements of sets `m4_<group>` and `m6_<group>`, a machine's groups are jumps of its own chain, and a change of
//! either is one transaction that touches nothing else.

mod base;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use self::text::{Text, tap_chains};
use super::Ruleset;
use crate::group::{Group, GroupTag};
use crate::name::InterfaceName;

/// Counters: packets that no rule lets in, that none lets out, and of which too many were begun at once.
pub(crate) const COUNTERS: [&str; 3] = ["refused_by_groups", "refused_outward", "too_many_begun"];

/// What names of chains and sets begin with that belong to one tap or group.
const OF_ONE: [&str; 6] = ["ti_", "to_", "in_", "out_", "m4_", "m6_"];

/// What stands, or is to stand, for taps that have groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those that are needed, also because rules name them.
    groups: BTreeMap<GroupTag, Group>,
    taps: BTreeMap<InterfaceName, Guard>,
}

/// What is held to the groups of one tap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guard {
    groups: BTreeSet<GroupTag>,
    /// Whether one of them says what may be begun.
    outward: bool,
}

impl Plan {
    /// For taps with these groups, which are defined so.
    pub(crate) fn of(
        taps: &BTreeMap<InterfaceName, BTreeSet<GroupTag>>,
        defined: &BTreeMap<GroupTag, Group>,
    ) -> Self {
        let nothing = Group::default();
        let define = |tag: &GroupTag| defined.get(tag).unwrap_or(&nothing);
        let mut plan = Self::default();
        for (tap, groups) in taps.iter().filter(|(_, groups)| !groups.is_empty()) {
            for tag in groups {
                for named in define(tag).named() {
                    plan.groups.insert(named.clone(), define(named).clone());
                }
                plan.groups.insert(tag.clone(), define(tag).clone());
            }
            let guard = Guard {
                groups: groups.clone(),
                outward: groups.iter().any(|tag| define(tag).has_outward()),
            };
            plan.taps.insert(tap.clone(), guard);
        }
        plan
    }

    /// Whether a tap has groups.
    pub(crate) fn has(&self, tap: &InterfaceName) -> bool {
        self.taps.contains_key(tap)
    }

    /// Whether no tap has a group.
    pub(crate) fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }
}

/// Chains and sets of the table that belong to one tap or group, as they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Chains.
    pub(crate) chains: BTreeSet<String>,
    /// Sets.
    pub(crate) sets: BTreeSet<String>,
}

impl Found {
    /// Keeps what belongs to one tap or group.
    pub(crate) fn of(chains: Vec<String>, sets: Vec<String>) -> Self {
        let ours = |name: &String| OF_ONE.iter().any(|prefix| name.starts_with(prefix));
        Self {
            chains: chains.into_iter().filter(ours).collect(),
            sets: sets.into_iter().filter(ours).collect(),
        }
    }
}

impl Ruleset {
    /// Name of the table of security groups.
    pub(crate) fn groups_table(&self) -> String {
        format!("{}_groups", self.table())
    }

    /// Makes of `before` what is `wanted`, in one transaction with whatever else is in the text.
    pub(crate) fn regroup(&self, before: &Plan, wanted: &Plan) -> String {
        let table = self.groups_table();
        Text::of(&table).change(before, wanted)
    }

    /// The same where it isn't known what stands, and so all that is wanted is written anew: what isn't wanted stays.
    pub(crate) fn group_anew(&self, wanted: &Plan) -> String {
        let table = self.groups_table();
        let mut text = Text::of(&table);
        self.base(&mut text);
        text.change(&Plan::default(), wanted)
    }

    /// Exactly what is wanted: of what was found, too, the rest goes. Nothing at all if no tap has a group.
    pub(crate) fn group_exactly(&self, found: Option<&Found>, wanted: &Plan) -> String {
        if wanted.is_empty() {
            return found.map_or_else(String::new, |_| self.ungroup());
        }
        let table = self.groups_table();
        let mut text = Text::of(&table);
        self.base(&mut text);
        let nothing = Found::default();
        let found = found.unwrap_or(&nothing);
        text.line("flush map", "inward", "");
        text.line("flush map", "outward", "");
        for chain in &found.chains {
            text.line("flush chain", chain, "");
        }
        for chain in &found.chains {
            text.line("delete chain", chain, "");
        }
        for set in &found.sets {
            text.line("delete set", set, "");
        }
        text.change(&Plan::default(), wanted)
    }

    /// Takes a tap out of which nothing is known but its name, and that it may be there.
    pub(crate) fn ungroup_tap(&self, tap: &InterfaceName) -> String {
        let table = self.groups_table();
        let mut text = Text::of(&table);
        for chain in tap_chains(tap) {
            text.line("add chain", &chain, "");
        }
        text.tap_elements("add", tap);
        text.remove_tap(tap);
        text.text
    }

    /// Removes the table, whether it exists or not.
    pub(crate) fn ungroup(&self) -> String {
        let table = self.groups_table();
        format!("add table bridge {table}\ndelete table bridge {table}\n")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::group::{Direction, GroupRule, RulePeer, Traffic};

    fn tag(name: &str) -> GroupTag {
        name.parse().unwrap()
    }

    fn lets_in(traffic: Traffic, peer: RulePeer) -> GroupRule {
        GroupRule {
            direction: Direction::In,
            traffic,
            peer,
        }
    }

    fn plan(members: &[&str], rules: &[GroupRule]) -> Plan {
        let web = Group {
            rules: rules.iter().cloned().collect(),
            members: BTreeSet::new(),
        };
        let app = Group {
            rules: BTreeSet::new(),
            members: members.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let taps = BTreeMap::from([("stx-7".parse().unwrap(), BTreeSet::from([tag("web")]))]);
        Plan::of(
            &taps,
            &BTreeMap::from([(tag("web"), web), (tag("app"), app)]),
        )
    }

    fn change(before: &Plan, wanted: &Plan) -> String {
        Text::of("t").change(before, wanted)
    }

    #[test]
    fn a_member_is_an_element_and_a_rule_touches_its_group_only() {
        let named = lets_in(Traffic::Tcp(22, 22), RulePeer::Group(tag("app")));
        let before = plan(&["10.0.0.1", "fd00::1"], std::slice::from_ref(&named));
        let members = plan(&["10.0.0.2", "fd00::1"], std::slice::from_ref(&named));
        assert_eq!(
            change(&before, &members),
            "delete element bridge t m4_app { 10.0.0.1 } \nadd element bridge t m4_app { 10.0.0.2 } \n"
        );
        let all = lets_in(Traffic::Any, RulePeer::Block("0.0.0.0/0".parse().unwrap()));
        let rules = change(&before, &plan(&["10.0.0.1", "fd00::1"], &[named, all]));
        let lines = rules.lines();
        assert!(
            lines.clone().all(|line| line.contains("_web ")) && lines.count() == 5,
            "{rules}"
        );
        assert_eq!(change(&before, &before), "");
    }

    #[test]
    fn what_goes_takes_its_chains_and_sets_along() {
        let named = lets_in(Traffic::Any, RulePeer::Group(tag("app")));
        let before = plan(&["10.0.0.1"], &[named]);
        let text = change(&before, &Plan::default());
        for name in ["ti_stx-7", "to_stx-7", "in_web", "out_web", "in_app"] {
            assert!(
                text.contains(&format!("delete chain bridge t {name} ")),
                "{text}"
            );
        }
        for name in ["m4_web", "m6_web", "m4_app", "m6_app"] {
            assert!(
                text.contains(&format!("delete set bridge t {name} ")),
                "{text}"
            );
        }
    }
}

//! What one machine wants of its host.

use crate::{Demand, Means, Rank, Requirements};

/// Whether machines of a group shall share a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Togetherness {
    /// All on one host.
    Together,
    /// Each on another.
    Apart,
}

/// A group of machines of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Whose.
    pub owner: Box<str>,
    /// As the owner calls it.
    pub name: Box<str>,
    /// What it is for.
    pub kind: Togetherness,
}

/// A machine's way to another host, by the local parts of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// The host that it leaves: no choice, whatever else.
    pub from: &'a str,
    /// The only choice; none: all other hosts.
    pub to: Option<&'a str>,
}

impl Way<'_> {
    /// Whether it may lead to this host.
    #[must_use]
    pub fn leads_to(&self, host: &str) -> bool {
        self.from != host && self.to.is_none_or(|to| to == host)
    }
}

/// What one machine wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// What it uses up.
    pub demand: Demand,
    /// Which hosts may be; none: all.
    pub requirements: Option<&'a Requirements>,
    /// Which are liked best; none: the operator's strategy decides.
    pub rank: Option<&'a Rank>,
    /// The image of its root disk: a host that has it is liked a little better.
    pub image: Option<&'a str>,
    /// The SHA-1 of that image's content, if it is known.
    pub content: Option<&'a str>,
    /// The groups it is in.
    pub groups: &'a [Group],
    /// What it needs beside room.
    pub needs: Means,
    /// The bridges of the operator's that its networks are plugged into.
    pub bridges: &'a [String],
    /// Where it goes from where it is; none: it is nowhere yet.
    pub way: Option<Way<'a>>,
}

impl<'a> Wish<'a> {
    /// Of a machine that wants nothing but room.
    #[must_use]
    pub const fn of_room(demand: Demand) -> Self {
        Self {
            demand,
            requirements: None,
            rank: None,
            image: None,
            content: None,
            groups: &[],
            needs: Means::NONE,
            bridges: &[],
            way: None,
        }
    }

    /// Whether nothing but room decides.
    #[must_use]
    pub const fn is_of_room_alone(&self) -> bool {
        let needs = !Means::NONE.cover(self.needs);
        self.requirements.is_none()
            && self.groups.is_empty()
            && self.bridges.is_empty()
            && !needs
            && self.way.is_none()
    }
}

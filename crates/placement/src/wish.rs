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

/// Which hosts come into question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Among<'a> {
    /// All.
    #[default]
    All,
    /// All but this one, by the local part of its id.
    Not(&'a str),
    /// This one alone.
    Only(&'a str),
}

impl Among<'_> {
    /// Whether this host does.
    #[must_use]
    pub fn has(self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Not(other) => other != host,
            Self::Only(only) => only == host,
        }
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
    /// The groups it is in.
    pub groups: &'a [Group],
    /// What it needs beside room.
    pub needs: Means,
    /// The bridges of the operator's that its networks are plugged into.
    pub bridges: &'a [String],
    /// Which hosts come into question.
    pub among: Among<'a>,
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
            groups: &[],
            needs: Means::NONE,
            bridges: &[],
            among: Among::All,
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
            && matches!(self.among, Among::All)
    }
}

//! What a machine's document wishes of its host, read into what placement understands.

use cimi::{HostId, resources::Machine};
use documents::Documents;
use placement::{Demand, Group, Means, Rank, Requirements, Togetherness, Way, Wish};

/// The wishes of one machine.
pub(crate) struct Wishes<'m> {
    demand: Demand,
    requirements: Option<Requirements>,
    rank: Option<Rank>,
    image: Option<&'m str>,
    content: Option<String>,
    groups: Vec<Group>,
    needs: Means,
    bridges: Vec<String>,
    way: Option<Way<'m>>,
}

impl<'m> Wishes<'m> {
    /// The rules have checked the expressions; one that can't be read any more holds for no host, or makes no difference.
    pub(crate) fn of(machine: &'m Machine, documents: &Documents) -> Self {
        let owner = &machine.common.acl.owner.principal;
        let group = |kind| {
            move |name: &String| Group {
                owner: owner.as_str().into(),
                name: name.as_str().into(),
                kind,
            }
        };
        let placement = &machine.placement;
        let together = placement.together.iter();
        let apart = placement.apart.iter();
        let parse = |text| Requirements::parse(text).unwrap_or(Requirements::never());
        Self {
            demand: Demand::of(machine),
            requirements: machine.requirements.as_deref().map(parse),
            rank: placement
                .rank
                .as_deref()
                .and_then(|text| Rank::parse(text).ok()),
            image: machine.image.as_ref().map(|image| image.href.local()),
            content: machine.image.as_ref().and_then(|image| {
                let image = documents.images.get(image.href.local())?;
                image.file.as_ref()?.content().sha1.clone()
            }),
            groups: together
                .map(group(Togetherness::Together))
                .chain(apart.map(group(Togetherness::Apart)))
                .collect(),
            needs: Means {
                forwarded_ports: machine.nics.iter().any(|nic| {
                    let network = documents.networks.get(nic.network.local());
                    network.is_some_and(|network| network.forwarded)
                }),
                ..Means::wanted_by(machine)
            },
            bridges: machine
                .nics
                .iter()
                .filter_map(|nic| documents.networks.get(nic.network.local())?.bridge.clone())
                .collect(),
            way: machine.host.as_ref().and_then(|from| {
                let moving = machine.desired.moving.as_ref()?;
                Some(Way {
                    from: from.local(),
                    to: moving.wanted.as_ref().map(HostId::local),
                })
            }),
        }
    }

    pub(crate) fn wish(&self) -> Wish<'_> {
        Wish {
            demand: self.demand,
            requirements: self.requirements.as_ref(),
            rank: self.rank.as_ref(),
            image: self.image,
            content: self.content.as_deref(),
            groups: &self.groups,
            needs: self.needs,
            bridges: &self.bridges,
            way: self.way,
        }
    }
}

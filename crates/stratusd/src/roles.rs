//! What a daemon does for the cloud.

use doors::Serving;

/// A part of the cloud that a daemon can play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The API and the rules.
    Entry,
    /// Places machines on hosts.
    Scheduler,
    /// Runs machines on this host, with their network.
    VmHost,
    /// Keeps images and volumes.
    Storage,
    /// The catalogue of signed descriptions of images. Alone it is a Marketplace and no cloud.
    Marketplace,
    /// Lets people ask for accounts, beside the API.
    Registration,
}

/// The roles to be played.
#[derive(Clone, Debug)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// Those asked for; all if none was.
    ///
    /// # Errors
    /// If one of them can't be played without another one that wasn't asked for.
    pub fn of(asked: &[Role]) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !asked.contains(&Role::Registration) || asked.contains(&Role::Entry),
            "the role `registration` is played by an entry: write `--roles entry,registration`"
        );
        anyhow::ensure!(
            !asked.contains(&Role::VmHost) || asked.contains(&Role::Storage),
            "the role `vm-host` is played where the images are: write `--roles storage,vm-host`. A host apart joins the cloud \
             by a token: `stratus host token`, then `stratusd join` there"
        );
        Ok(Self(if asked.is_empty() {
            vec![
                Role::Entry,
                Role::Scheduler,
                Role::VmHost,
                Role::Storage,
                Role::Marketplace,
                Role::Registration,
            ]
        } else {
            asked.to_vec()
        }))
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Whether there is an API at all: with the cloud's entry, for a Marketplace that is alone, and for hosts and entries where
    /// the images are.
    #[must_use]
    pub fn answer(&self) -> bool {
        self.has(Role::Entry) || self.has(Role::Storage) || self.is_marketplace_alone()
    }

    /// Whether users are served.
    #[must_use]
    pub fn serve_users(&self) -> bool {
        self.has(Role::Entry) || self.is_marketplace_alone()
    }

    /// What there is behind the API.
    #[must_use]
    pub fn serving(&self) -> Serving {
        if self.has(Role::Entry) {
            Serving::Cloud
        } else if self.is_marketplace_alone() {
            Serving::MarketplaceAlone
        } else {
            Serving::HostsAlone
        }
    }

    /// Whether this is a Marketplace and nothing else.
    #[must_use]
    pub fn is_marketplace_alone(&self) -> bool {
        self.has(Role::Marketplace) && self.0.iter().all(|role| *role == Role::Marketplace)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn registration_is_refused_by_name_without_an_entry() {
        let alone = Roles::of(&[Role::Registration, Role::Storage]).unwrap_err();
        assert!(alone.to_string().contains("`registration`"), "{alone}");
        let both = Roles::of(&[Role::Registration, Role::Entry]).unwrap();
        assert!(both.has(Role::Registration) && !both.has(Role::Storage));
        assert!(Roles::of(&[]).unwrap().has(Role::Registration));
    }

    #[test]
    fn machines_run_where_the_images_are_or_on_hosts_that_join() {
        let alone = Roles::of(&[Role::VmHost, Role::Entry]).unwrap_err();
        assert!(alone.to_string().contains("stratusd join"), "{alone}");
        let storage = Roles::of(&[Role::VmHost, Role::Storage]).unwrap();
        assert!(storage.answer() && !storage.serve_users());
    }
}

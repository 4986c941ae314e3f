//! What a daemon does for the cloud.

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
    /// If one of them does nothing without another one that wasn't asked for.
    pub fn of(asked: &[Role]) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !asked.contains(&Role::Registration) || asked.contains(&Role::Entry),
            "the role `registration` is played by an entry: write `--roles entry,registration`"
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

    /// Whether there is an API at all: with the cloud's entry, or for a Marketplace that is alone.
    #[must_use]
    pub fn answer(&self) -> bool {
        self.has(Role::Entry) || self.is_marketplace_alone()
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
}

//! The options that say how much somebody may have.

use serde_json::{Map, Value, json};

/// The most there may be of each
#[derive(Debug, Default, clap::Args)]
pub(super) struct Amounts {
    /// Most machines, those that are off included
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    machines: Option<Most>,
    /// Most virtual CPUs of these machines
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    cpus: Option<Most>,
    /// Most memory of these machines
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    memory_mib: Option<Most>,
    /// Most space of the disks that live and die with these machines: root, swap, volatile
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    local_gib: Option<Most>,
    /// Most volumes
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    volumes: Option<Most>,
    /// Most space of these volumes
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    volume_gib: Option<Most>,
    /// Most images of volumes
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    volume_images: Option<Most>,
    /// Most space of these images of volumes
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    volume_image_gib: Option<Most>,
    /// Most images
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    images: Option<Most>,
    /// Most space of these images
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    image_gib: Option<Most>,
    /// Most network addresses
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    addresses: Option<Most>,
}

/// A number, `unlimited`, or `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Most {
    Bound(u64),
    Unlimited,
    Default,
}

impl std::str::FromStr for Most {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            "default" => Ok(Self::Default),
            number => match number.parse() {
                Ok(number @ 0..=1_000_000_000_000) => Ok(Self::Bound(number)),
                _ => Err(
                    "is not a number from 0 to 1000000000000, 'unlimited' or 'default'".to_owned(),
                ),
            },
        }
    }
}

impl Amounts {
    fn named(&self) -> [(&'static str, Option<Most>); 11] {
        [
            ("machines", self.machines),
            ("cpus", self.cpus),
            ("memoryMib", self.memory_mib),
            ("localGib", self.local_gib),
            ("volumes", self.volumes),
            ("volumeGib", self.volume_gib),
            ("volumeImages", self.volume_images),
            ("volumeImageGib", self.volume_image_gib),
            ("images", self.images),
            ("imageGib", self.image_gib),
            ("addresses", self.addresses),
        ]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named().iter().all(|(_, most)| most.is_none())
    }

    /// Sets what was named, and leaves the rest.
    pub(super) fn change(&self, quota: &mut Map<String, Value>) {
        for (name, most) in self.named() {
            match most {
                None => {}
                Some(Most::Default) => {
                    quota.remove(name);
                }
                Some(Most::Unlimited) => {
                    quota.insert(name.to_owned(), json!(-1));
                }
                Some(Most::Bound(most)) => {
                    quota.insert(name.to_owned(), json!(most));
                }
            }
        }
    }

    /// What was named, as a quota of its own.
    pub(super) fn as_json(&self) -> Value {
        let mut quota = Map::new();
        self.change(&mut quota);
        quota.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_changed_and_nothing_else() {
        let amounts = Amounts {
            machines: "3".parse().ok(),
            cpus: "unlimited".parse().ok(),
            images: "default".parse().ok(),
            ..Amounts::default()
        };
        let mut quota = Map::new();
        for (name, most) in [("machines", 9), ("images", 9), ("volumes", 9)] {
            quota.insert(name.to_owned(), json!(most));
        }
        amounts.change(&mut quota);
        assert_eq!(
            Value::from(quota),
            json!({"machines": 3, "cpus": -1, "volumes": 9})
        );
        for wrong in ["-1", "many", "", "1e3", "1000000000001"] {
            assert!(wrong.parse::<Most>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_below_zero_is_told_to_be_none() {
        #[derive(Debug, clap::Parser)]
        struct Command {
            #[command(flatten)]
            _amounts: Amounts,
        }
        let refused = <Command as clap::Parser>::try_parse_from(["quota", "--machines", "-1"]);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("not a number from 0"), "{text}");
    }
}

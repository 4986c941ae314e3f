//! Machine types: names for CPU, memory and swap. They live in the client.

use std::collections::BTreeMap;

/// The type that counts when none is named.
pub const DEFAULT_TYPE: &str = "m1.small";

/// What a machine of a type gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MachineType {
    /// CPUs.
    pub cpu: u32,
    /// Memory in MiB.
    #[serde(rename = "ramMiB")]
    pub ram_mib: u64,
    /// Swap space in MiB; 0 is none.
    #[serde(rename = "swapMiB")]
    pub swap_mib: u64,
}

const BUILT_IN: [(&str, u32, u64, u64); 7] = [
    ("t1.micro", 1, 512, 512),
    ("m1.small", 1, 1536, 1536),
    ("m1.medium", 1, 3072, 3072),
    ("m1.large", 2, 6144, 6144),
    ("m1.xlarge", 4, 8192, 8192),
    ("c1.medium", 2, 1536, 1536),
    ("c1.xlarge", 4, 6144, 6144),
];

/// The built-in types, and over them those of the user's `[instance_types]`. Entries that are not three numbers
/// (CPU and RAM above zero) are left out.
#[must_use]
pub fn machine_types(configured: &BTreeMap<String, String>) -> BTreeMap<String, MachineType> {
    let built_in = BUILT_IN.into_iter().map(|(name, cpu, ram_mib, swap_mib)| {
        (
            name.to_owned(),
            MachineType {
                cpu,
                ram_mib,
                swap_mib,
            },
        )
    });
    let own = configured
        .iter()
        .filter_map(|(name, value)| Some((name.to_lowercase(), parse(value)?)));
    built_in.chain(own).collect()
}

fn parse(value: &str) -> Option<MachineType> {
    let mut numbers = value
        .split(|character: char| !character.is_ascii_digit())
        .filter(|run| !run.is_empty());
    let parsed = MachineType {
        cpu: numbers.next()?.parse().ok()?,
        ram_mib: numbers.next()?.parse().ok()?,
        swap_mib: numbers.next()?.parse().ok()?,
    };
    (numbers.next().is_none() && parsed.cpu > 0 && parsed.ram_mib > 0).then_some(parsed)
}

/// The table of `--list-types`; `marked` gets the asterisk. It ends in an empty line.
#[must_use]
pub fn type_table(types: &BTreeMap<String, MachineType>, marked: &str) -> String {
    let mut text = format!(" {:<10}{:>10}{:>10}{:>10}\n", "Type", "CPU", "RAM", "SWAP");
    for (name, kind) in types {
        let mark = if name == marked { '*' } else { ' ' };
        let (cpu, ram, swap) = (
            format!("{} CPU", kind.cpu),
            format!("{} MB", kind.ram_mib),
            format!("{} MB", kind.swap_mib),
        );
        text.push_str(&format!(
            "{mark} {name:<10} {cpu:>10} {ram:>10} {swap:>10}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_types_need_three_numbers() {
        let configured = [
            ("my.type", "4, 2048, 2048"),
            ("M1.SMALL", "cpu 2 ram 10 swap 0"),
            ("two", "1,2"),
            ("four", "1,2,3,4"),
            ("zero", "0,1,1"),
            ("huge", "9999999999999999999999,1,1"),
        ];
        let types = machine_types(
            &configured
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        assert_eq!(
            types.get("my.type"),
            Some(&MachineType {
                cpu: 4,
                ram_mib: 2048,
                swap_mib: 2048
            })
        );
        assert_eq!(
            types.get("m1.small"),
            Some(&MachineType {
                cpu: 2,
                ram_mib: 10,
                swap_mib: 0
            })
        );
        assert_eq!(types.len(), 8);
    }

    #[test]
    fn the_table_is_that_of_the_contract() {
        let types: BTreeMap<_, _> = machine_types(&BTreeMap::new())
            .into_iter()
            .filter(|(name, _)| name == "c1.medium" || name == "m1.small")
            .collect();
        let expected = " Type             CPU       RAM      SWAP\n  c1.medium       2 CPU    1536 MB    1536 MB\n* m1.small        1 CPU    1536 MB    1536 MB\n";
        assert_eq!(type_table(&types, DEFAULT_TYPE), expected);
    }
}

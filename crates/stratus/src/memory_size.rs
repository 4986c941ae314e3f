//! How users write amounts of memory and of disk: a number of the option's own unit, or a number with a unit.

use std::fmt;
use std::str::FromStr;

/// The units that people write, in MiB. StratusLab's MB are MiB.
const UNITS: [(&str, u64); 3] = [("M", 1), ("G", 1 << 10), ("T", 1 << 20)];

/// An amount in MiB: `512`, `512M`, `2G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Megabytes(pub u64);

/// An amount in MiB that is written in GiB, where it has no unit: `10`, `10G`, `512M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gigabytes(pub u64);

/// What is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoAmount {
    unit: &'static str,
}

impl fmt::Display for NoAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be a whole number of {}B, or one with its unit, such as 512M or 2G",
            self.unit
        )
    }
}

impl FromStr for Megabytes {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        in_mib(text, "M").map(Self)
    }
}

impl FromStr for Gigabytes {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        in_mib(text, "G").map(Self)
    }
}

/// `unit` counts where none is written. `B` and `iB` may follow it, in any case.
fn in_mib(text: &str, unit: &'static str) -> Result<u64, NoAmount> {
    let no_amount = || NoAmount { unit };
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit());
    let (number, written) = text.split_at(end.unwrap_or(text.len()));
    let written = written.trim_start().to_ascii_uppercase();
    let named = written
        .strip_suffix("IB")
        .or_else(|| written.strip_suffix('B'));
    let named = match named.unwrap_or(&written) {
        "" if written.is_empty() => unit,
        named => named,
    };
    let of_unit = UNITS.iter().find(|(name, _)| *name == named);
    let (_, mib) = of_unit.ok_or_else(no_amount)?;
    let number: u64 = number.parse().map_err(|_| no_amount())?;
    number.checked_mul(*mib).ok_or_else(no_amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, mib) in [
            ("512", 512),
            (" 512 ", 512),
            ("512M", 512),
            ("512 mb", 512),
            ("512MiB", 512),
            ("2G", 2048),
            ("2gib", 2048),
            ("1T", 1 << 20),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Megabytes(mib)), "{text}");
        }
        assert_eq!("10".parse(), Ok(Gigabytes(10_240)));
        assert_eq!("512M".parse(), Ok(Gigabytes(512)));
        for text in [
            "",
            "-1",
            "G",
            "B",
            "1.5G",
            "2K",
            "2 G 3",
            "2BB",
            "99999999999999999999",
            "18446744073709551615T",
        ] {
            assert!(text.parse::<Megabytes>().is_err(), "{text}");
        }
        let told = "2K".parse::<Gigabytes>().map_err(|error| error.to_string());
        let expected = "must be a whole number of GB, or one with its unit, such as 512M or 2G";
        assert_eq!(told, Err(expected.to_owned()));
    }
}

//! `OBF:` of Jetty: hides a password from a glance at a file, and from nobody who wants it.

/// The password that was obfuscated.
///
/// Of *n* bytes, byte *i* is written with byte *n*−1−*i*: as four digits of base 36 of (127+a+b)·256 + (127+a−b), or as
/// `U` and those of a·256 + b where one of the two is above 127.
#[must_use]
pub fn reveal(text: &str) -> Option<Vec<u8>> {
    let (mut rest, mut out) = (text, Vec::new());
    while !rest.is_empty() {
        let plain = rest.strip_prefix('U');
        let digits = plain.unwrap_or(rest);
        let (quad, after) = digits.split_at_checked(4)?;
        let number = u32::from_str_radix(quad, 36).ok()?;
        let (high, low) = (number / 256, number % 256);
        let byte = if plain.is_some() {
            high
        } else {
            // (127+a+b) + (127+a−b) = 254 + 2a
            (high + low).checked_sub(254)? / 2
        };
        out.push(u8::try_from(byte).ok()?);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_file_are_revealed() {
        let reveal = |text| reveal(text).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(reveal("1ym71x881uha1ugg1x8m1ym7").unwrap(), "slpass");
        assert_eq!(reveal("1t2x1toq1to41t39").unwrap(), "blah");
        assert_eq!(reveal("").unwrap(), "");
        for text in ["1", "1ym", "zzzz", "U", "UUUUU", "é234", "0000"] {
            assert_eq!(reveal(text), None, "{text}");
        }
    }
}

//! SSH public keys: whether a text is one, before a guest finds that nobody can log in with it.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::error::{ContextError, Result};
use crate::keys::{key_lines, refuse_private_key};

/// Fewest bits of an RSA key that OpenSSH takes.
const RSA_BITS_AT_LEAST: usize = 1024;

/// Refuses a text that isn't one public key a line, as OpenSSH writes them into `.pub` files and `authorized_keys` (options
/// before the type are allowed; blank lines, `#` and `Comment:` lines don't count). There must be one key at least.
///
/// # Errors
/// [`ContextError::PrivateKey`], [`ContextError::InvalidKeys`], which names the line.
pub fn check_public_keys(text: &str) -> Result<()> {
    refuse_private_key(text, "public_key")?;
    let invalid = |problem: String| Err(ContextError::InvalidKeys { problem });
    let mut some = false;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(line) = key_lines(line).next().filter(|line| is_key_line(line)) else {
            continue;
        };
        some = true;
        if let Err(problem) = check_line(line) {
            return invalid(format!("line {number}: {problem}"));
        }
    }
    if some {
        return Ok(());
    }
    invalid(
        "there is no key; give the text of the .pub file, like `ssh-ed25519 AAAA… NAME`".to_owned(),
    )
}

/// Neither blank nor a comment.
fn is_key_line(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

fn check_line(line: &str) -> std::result::Result<(), String> {
    if line.starts_with("---- BEGIN SSH2") {
        return Err(
            "is in the format of RFC 4716: `ssh-keygen -i -f FILE` writes it as OpenSSH needs it"
                .to_owned(),
        );
    }
    let Some((kind, rest)) = without_options(line) else {
        return Err(
            "is no SSH public key: there is no type such as ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256".to_owned(),
        );
    };
    let encoded = rest.split_whitespace().next().unwrap_or_default();
    if encoded.is_empty() {
        return Err(format!(
            "{kind} without a key after it; a line may have been broken when it was copied"
        ));
    }
    let bytes = STANDARD.decode(encoded);
    let bytes = bytes
        .map_err(|_| format!("what follows {kind} isn't base64; the key may have been cut"))?;
    let mut fields = Fields(&bytes);
    let cut = || format!("the key of type {kind} is cut or damaged");
    let inner = fields.next().ok_or_else(cut)?;
    if inner != kind.as_bytes() {
        let inner: String = String::from_utf8_lossy(inner)
            .chars()
            .filter(|c| !c.is_control())
            .take(40)
            .collect();
        return Err(format!(
            "the line says {kind}, but the key in it is of type `{inner}`"
        ));
    }
    let parts: Vec<&[u8]> = fields.by_ref().collect();
    if !fields.0.is_empty() {
        return Err(cut());
    }
    match (kind, &parts[..]) {
        ("ssh-rsa", [_exponent, modulus]) => {
            let bits = bits(modulus);
            if bits < RSA_BITS_AT_LEAST {
                return Err(format!(
                    "an RSA key of {bits} bits; at least {RSA_BITS_AT_LEAST} are needed"
                ));
            }
            Ok(())
        }
        ("ssh-ed25519", [key]) if key.len() == 32 => Ok(()),
        ("sk-ssh-ed25519@openssh.com", [key, _application]) if key.len() == 32 => Ok(()),
        ("ssh-dss", [_, _, _, _]) => Ok(()),
        ("sk-ecdsa-sha2-nistp256@openssh.com", [b"nistp256", point, _application])
            if point.len() == 65 =>
        {
            Ok(())
        }
        ("ecdsa-sha2-nistp256", [b"nistp256", point]) if point.len() == 65 => Ok(()),
        ("ecdsa-sha2-nistp384", [b"nistp384", point]) if point.len() == 97 => Ok(()),
        ("ecdsa-sha2-nistp521", [b"nistp521", point]) if point.len() == 133 => Ok(()),
        _ if KNOWN.contains(&kind) => Err(cut()),
        // A type that guests may know, and this program not yet.
        _ if !parts.is_empty() => Ok(()),
        _ => Err(cut()),
    }
}

/// Types whose parts are known.
const KNOWN: [&str; 8] = [
    "ssh-rsa",
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ssh-dss",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
];

/// The type, and what follows it; options before it are passed over, and blanks within their quotes.
fn without_options(line: &str) -> Option<(&str, &str)> {
    let mut rest = line;
    // Options are one word, so the type is the first or the second.
    for _ in 0..2 {
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.char_indices().find(|(_, c)| {
            quoted ^= *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            !quoted && (*c == ' ' || *c == '\t')
        });
        let (word, after) = end.map_or((rest, ""), |(at, _)| rest.split_at(at));
        if is_type(word) {
            return Some((word, after));
        }
        rest = after.trim_start();
    }
    None
}

/// Whether a word is like the name of a type.
fn is_type(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
        .iter()
        .any(|beginning| word.starts_with(beginning))
}

/// The bits of a number as SSH writes it (RFC 4251, `mpint`).
fn bits(number: &[u8]) -> usize {
    let significant: &[u8] = number
        .iter()
        .position(|byte| *byte != 0)
        .map_or(&[], |at| &number[at..]);
    significant.first().map_or(0, |first| {
        significant.len() * 8 - first.leading_zeros() as usize
    })
}

/// Texts with their length before them (RFC 4251, `string`). Ends where one is cut, and leaves the rest.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made by ssh-keygen.
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCkPL7+vTQx9uPZwm+KwfMJS3NYx0Vd5Vg0cMsVdBBdSdY/g3NOJw5KIx53A0A6U3Lqq90RDHDt/s7ZWUiQc08wM/2LnkMDf8cMDUN4kWU0MnWaGD7UE4koWFEyMFgcwL9u/Dx+vJ5AfAW8t0jAPABB1kDGSjrJE3oLm+o3ty86K3hMQ7ZLvjkcwArOOEL/fs+sMNthTb41147lb6wMdcy1jyMxKGR3znHLbxtfP+6nyWdXQYr4mREBFKckzLfcUWg9PabfWiydm+8Ok7X9bIXXUGdkObj8wKWsM7J5MyIHhJ6WcJ7CAHm5FDT/6rDVhjgRYESjO7juMtvF2Cp918QR a";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFU6cQrCPpbNHsoDGooUUCGp1xODwgFj6IBviobMC8kzRnNsgbVOOhSpyOR6+aGn7HrhuqYRbOYWfbpqqoGSdWM= a";
    const ECDSA_384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBKfJ8uy/nswK3A6GOUigClVw2Na5BQPh7rsDrOoxyPbG1YZ+kDLTvzDdB/yLXrJoSXQGWSC7PUNoixid+CargZUmagP/X3ZuphIDsdahjY/uVTgIsS7GAfYR/xTZNJhW6Q== a";
    const ECDSA_521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAGj7edyNEDvlNyTI+aecJY1FYkWpQHP0jGHiaxq+b0CkWzGRPlIQYPX0cvveO7anu15wphKsRBwr2qLZ4cXQ983dgFOgRyx01qVRSWAPvvl9SOBbnWNBZJ1Kmwr5AY3+f69d6dbi0u58sn6OtgZO5dqIKK6fHp8BkjLeQ/XkzJ4gLC81g== a";
    // Of 768 bits.
    const SMALL: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAYQDBWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo= a";

    fn refusal(text: &str) -> String {
        check_public_keys(text).unwrap_err().to_string()
    }

    #[test]
    fn keys_of_ssh_keygen_are_keys() {
        for key in [ED25519, RSA, ECDSA, ECDSA_384, ECDSA_521] {
            check_public_keys(key).unwrap();
            check_public_keys(&format!("# mine\n\nComment: x\n  {key}\r\n{ED25519}\n")).unwrap();
            check_public_keys(&format!("no-pty,command=\"echo \\\" ssh-rsa b\" {key}")).unwrap();
        }
        check_public_keys(ED25519.trim_end_matches(" a")).unwrap();
    }

    #[test]
    fn what_is_none_is_refused_with_its_line_and_why() {
        let (kind, cut) = ("ssh-ed25519", &ED25519[..ED25519.len() - 12]);
        for (text, told) in [
            (String::new(), "there is no key"),
            ("# nothing\n\n".to_owned(), "there is no key"),
            ("hello".to_owned(), "line 1: is no SSH public key"),
            (
                format!("{ED25519}\nhello world"),
                "line 2: is no SSH public key",
            ),
            (kind.to_owned(), "line 1: ssh-ed25519 without a key"),
            (
                format!("\n{kind} !!!"),
                "line 2: what follows ssh-ed25519 isn't base64",
            ),
            (format!("{kind} AAAA"), "cut or damaged"),
            (cut.to_owned(), "line 1:"),
            (
                ED25519.replace(kind, "ssh-rsa"),
                "says ssh-rsa, but the key in it is of type `ssh-ed25519`",
            ),
            (
                "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n".to_owned(),
                "ssh-keygen -i",
            ),
            (SMALL.to_owned(), "an RSA key of 768 bits"),
        ] {
            let refused = refusal(&text);
            assert!(refused.contains(told), "{text:?}: {refused}");
        }
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n";
        assert!(matches!(
            check_public_keys(private),
            Err(ContextError::PrivateKey { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), bytes: Vec<u8>) {
            let _ = check_public_keys(&text);
            let _ = check_public_keys(&format!("ssh-rsa {}", STANDARD.encode(&bytes)));
            let mut with_type = b"\0\0\0\x07ssh-rsa".to_vec();
            with_type.extend(bytes);
            let _ = check_public_keys(&format!("ssh-rsa {}", STANDARD.encode(with_type)));
        }

        #[test]
        fn a_key_that_is_cut_is_none(length in 13..79_usize) {
            prop_assert!(check_public_keys(&ED25519[..length]).is_err());
        }
    }
}

//! `stratus hash-password`: password hashes for StratusLab's `login-pswd.properties`.

use std::io::{BufRead as _, IsTerminal as _};

use md5::{Digest as _, Md5};
use passwords::{Cost, des::des_crypt};

use crate::cloud::hex;
use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::output::{Output, write_stderr};

/// Hash a password for StratusLab's login-pswd.properties
///
/// Asks for user name and password and prints the two hashes that StratusLab's password file takes. Both are weak:
/// --argon2 prints a strong one, which the file of a Stratus cloud takes, too, and as the password of a user.
///
/// Without a terminal the three answers (user name, password, password again) are read as lines of standard input.
/// JSON: {"md5", "crypt"}, or {"argon2"}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print an argon2id hash instead
    #[arg(long)]
    argon2: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let username = ask(&out, "username:", false)?;
        let password = ask(&out, "password:", true)?;
        if ask(&out, "retype password:", true)? != password {
            return Err(Failure::Work("Passwords did not match".to_owned()));
        }
        if self.argon2 {
            let argon2 = Cost::default().hash_blocking(&password);
            return if out.is_json() { out.json(&serde_json::json!({ "argon2": argon2 })) } else { out.line(argon2) };
        }
        let (md5, crypt) = hashes(&username, &password);
        if out.is_json() {
            return out.json(&serde_json::json!({ "md5": md5, "crypt": crypt }));
        }
        out.line(format_args!("MD5:{md5}"))?;
        out.line(format_args!("CRYPT:{crypt}"))
    }
}

fn ask(out: &Output, prompt: &str, is_secret: bool) -> Result<String> {
    if is_secret && std::io::stdin().is_terminal() {
        return crate::session::ask_password(prompt);
    }
    if out.is_json() {
        write_stderr(prompt);
    } else {
        out.bytes(prompt.as_bytes())?;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| Failure::Work(format!("standard input cannot be read: {error}")))?;
    if !std::io::stdin().is_terminal() && !out.is_json() {
        out.line("")?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// MD5 in hexadecimal, and DES crypt with the first two fitting characters of the user name as salt.
fn hashes(username: &str, password: &str) -> (String, String) {
    let mut fitting = username.bytes().filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'.' || *byte == b'/').chain(*b"..");
    let salt = [fitting.next().unwrap_or(b'.'), fitting.next().unwrap_or(b'.')];
    (hex(&Md5::digest(password)), des_crypt(password.as_bytes(), salt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_contract() {
        assert_eq!(hashes("joe", "secret"), ("5ebe2294ecd0e0f08eab7690d2a6ee69".to_owned(), "jo9SpNfPHbmRk".to_owned()));
        assert!(hashes("é!x", "a").1.starts_with("x."));
        assert!(hashes("", "").1.starts_with(".."));
    }
}

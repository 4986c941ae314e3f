//! `stratus hash-password`: password hashes for StratusLab's `login-pswd.properties`.

use std::io::{BufRead, IsTerminal as _};

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
/// Without a terminal they are read as lines of standard input: user name, password and, if you like, the password again; a single
/// line is the password. An empty password is refused.
/// JSON: {"md5", "crypt"}, or {"argon2"}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print an argon2id hash instead
    #[arg(long)]
    argon2: bool,
    #[command(flatten)]
    common: Common,
}

/// The longest input that is read without a terminal.
const INPUT_MAX_BYTES: u64 = 64 << 10;

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let (username, password) = if std::io::stdin().is_terminal() { asked(&out)? } else { read(std::io::stdin().lock())? };
        if password.is_empty() {
            return Err(Failure::Check("an empty password has no use; nothing was hashed".to_owned()));
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

/// User name and password, asked for on the terminal.
fn asked(out: &Output) -> Result<(String, String)> {
    if out.is_json() {
        write_stderr("username:");
    } else {
        out.bytes(b"username:")?;
    }
    let mut username = String::new();
    std::io::stdin().lock().read_line(&mut username).map_err(unreadable)?;
    let password = crate::session::ask_password("password:")?;
    if crate::session::ask_password("retype password:")? != password {
        return Err(mismatch());
    }
    Ok((username.trim_end_matches(['\r', '\n']).to_owned(), password))
}

/// User name and password from the lines of a file or a pipe.
fn read(input: impl BufRead) -> Result<(String, String)> {
    let lines: Vec<String> = input.take(INPUT_MAX_BYTES).lines().take(3).collect::<std::io::Result<_>>().map_err(unreadable)?;
    match lines.as_slice() {
        [] => Ok(<(String, String)>::default()),
        [password] => Ok((String::new(), password.clone())),
        [_, password, again, ..] if again != password => Err(mismatch()),
        [username, password, ..] => Ok((username.clone(), password.clone())),
    }
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::Work(format!("standard input cannot be read: {error}"))
}

fn mismatch() -> Failure {
    Failure::Work("Passwords did not match".to_owned())
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

    #[test]
    fn one_line_is_the_password_and_two_begin_with_the_name() {
        let pair = |username: &str, password: &str| (username.to_owned(), password.to_owned());
        assert_eq!(read("x\n".as_bytes()).unwrap(), pair("", "x"));
        assert_eq!(read("joe\r\nx".as_bytes()).unwrap(), pair("joe", "x"));
        assert_eq!(read("joe\nx\nx\n".as_bytes()).unwrap(), pair("joe", "x"));
        assert_eq!(read("".as_bytes()).unwrap(), pair("", ""));
        assert!(read("joe\nx\ny\n".as_bytes()).is_err());
    }
}

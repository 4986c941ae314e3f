//! One run of a command: its output, its settings, and the way to its cloud.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::cloud::{Api, Endpoint, KnownClouds, Login, OwnCertificate, Trust};
use crate::config::Settings;
use crate::failure::{Failure, Result, errno_text};
use crate::kept_logins::{Kept, KeptLogins};
use crate::options::{Cloud, Common, Storage};
use crate::output::Output;

/// What a command works with.
#[derive(Debug)]
pub struct Session {
    /// Where results and messages go.
    pub out: Output,
    /// What counts where no option was given.
    pub settings: Settings,
    asked: Asked,
}

/// The passwords that were asked for on the terminal in this run: of each user at each endpoint once.
#[derive(Default)]
struct Asked(Mutex<HashMap<(String, String), String>>);

// No password gets into a log or message.
impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

impl Asked {
    /// Asks unless it was asked before.
    fn password(&self, name: &str, endpoint: &Endpoint) -> Result<String> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), endpoint.root_url());
        if let Some(known) = asked.get(&key) {
            return Ok(known.clone());
        }
        let password = ask_password(&format!("'{name}' at '{endpoint}' password: "))?;
        asked.insert(key, password.clone());
        Ok(password)
    }
}

impl Session {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`Failure::Configuration`].
    pub fn new(common: &Common) -> Result<Self> {
        let session = Self {
            out: output(common),
            settings: Settings::load(common.config.as_deref(), common.section.as_deref())?,
            asked: Asked::default(),
        };
        if let Some(path) = &session.settings.missing_default_file
            && session.out.verbose > 0
            && session.settings.text(None, "endpoint").is_none()
        {
            session.out.warning(format_args!(
                "Default user configuration file does not exist: {}",
                path.display()
            ));
        }
        Ok(session)
    }

    /// The cloud's address.
    ///
    /// # Errors
    /// [`Failure::Usage`] when none is configured.
    pub fn endpoint(&self, cloud: &Cloud) -> Result<Endpoint> {
        let text = self.settings.text(cloud.endpoint.as_deref(), "endpoint");
        Endpoint::parse(&text.ok_or_else(|| {
            Failure::Usage(
                "Missing cloud endpoint. Please provide --endpoint\n\
                 Or set STRATUSLAB_ENDPOINT (for a cloud of 'make cloud': . ./cloud.env), or write a configuration file (stratus copy-config begins one)."
                    .to_owned(),
            )
        })?)
    }

    /// A client for the cloud, with the user's credentials.
    ///
    /// # Errors
    /// Missing endpoint or credentials, unusable CA file.
    pub fn api(&self, cloud: &Cloud) -> Result<Api> {
        let endpoint = self.endpoint(cloud)?;
        let username = self.settings.text(cloud.username.as_deref(), "username");
        let password = self.settings.text(cloud.password.as_deref(), "password");
        let login = self.login(username, password, cloud, &endpoint)?;
        self.connect(endpoint, Some(login), cloud)
    }

    /// The same for what a token doesn't do: where a kept login would be used, the password is asked for.
    ///
    /// # Errors
    /// As [`api`](Self::api); without a terminal.
    pub fn api_in_person(&self, cloud: &Cloud) -> Result<Api> {
        let endpoint = self.endpoint(cloud)?;
        let username = self.settings.text(cloud.username.as_deref(), "username");
        let password = self.settings.text(cloud.password.as_deref(), "password");
        let login = match self.login(username.clone(), password.clone(), cloud, &endpoint)? {
            Login::Token(_) => {
                let kept = KeptLogins::load()?;
                let name = username.or_else(|| Some(kept.of(&endpoint)?.username.clone()));
                let hint = "This wants the password itself: give -u and -p, or set STRATUSLAB_USERNAME and STRATUSLAB_PASSWORD.";
                let name = name.ok_or_else(|| {
                    Failure::Work("a token is not enough for this".to_owned()).with_hint(hint)
                })?;
                let password = match password {
                    Some(password) => password,
                    None => self
                        .asked
                        .password(&name, &endpoint)
                        .map_err(|failure| failure.with_hint(hint))?,
                };
                Login::Password(name, password)
            }
            other => other,
        };
        self.connect(endpoint, Some(login), cloud)
    }

    /// A client for the storage service, with the credentials for it.
    ///
    /// # Errors
    /// As [`api`](Self::api).
    pub fn storage_api(&self, storage: &Storage, cloud: &Cloud) -> Result<Api> {
        let text = self
            .settings
            .text(storage.pdisk_endpoint.as_deref(), "pdisk_endpoint");
        // An endpoint on the command line is meant for everything, whatever the file says of the storage service.
        let text = if storage.pdisk_endpoint.is_none() && cloud.endpoint.is_some() {
            cloud.endpoint.clone()
        } else {
            text
        };
        let endpoint = match text {
            Some(text) => Endpoint::parse(&text)?,
            None => self.endpoint(cloud)?,
        };
        // What was given for the cloud on the command line is stronger than what the environment says of the storage service.
        let choose =
            |own: Option<&str>, own_key: &str, shared: Option<&str>, shared_key: &str| match (
                own, shared,
            ) {
                (None, Some(shared)) => Some(shared.to_owned()),
                _ => self
                    .settings
                    .text(own, own_key)
                    .or_else(|| self.settings.text(shared, shared_key)),
            };
        let username = choose(
            storage.pdisk_username.as_deref(),
            "pdisk_username",
            cloud.username.as_deref(),
            "username",
        );
        let password = choose(
            storage.pdisk_password.as_deref(),
            "pdisk_password",
            cloud.password.as_deref(),
            "password",
        );
        let login = self.login(username, password, cloud, &endpoint)?;
        self.connect(endpoint, Some(login), cloud)
    }

    /// A client for an endpoint.
    ///
    /// # Errors
    /// Unusable CA file or list of known clouds.
    pub fn connect(&self, endpoint: Endpoint, login: Option<Login>, cloud: &Cloud) -> Result<Api> {
        let is_open = |one: &&Endpoint| !one.is_secure() && !one.is_loopback();
        let all = std::iter::once(&endpoint).chain(endpoint.others());
        for open in all.filter(is_open).filter(|_| login.is_some()) {
            self.out.warning(format_args!(
                "{} is not encrypted: anybody on the way can read your password.",
                open.root_url()
            ));
        }
        let ca_file = self
            .settings
            .text(
                cloud.ca_file.as_ref().and_then(|path| path.to_str()),
                "ca_file",
            )
            .map(PathBuf::from);
        // An option is stronger than what was pinned; so is nothing else.
        let known = match cloud.ca_file {
            Some(_) => None,
            None => Some(KnownClouds::load()?),
        };
        let trust = |endpoint: &Endpoint| Trust {
            pin: known.as_ref().and_then(|known| known.pin(endpoint)),
            ca_file: ca_file.clone(),
        };
        Ok(Api::new(endpoint, login, trust, self.out)?)
    }

    /// The user's certificate, as options or settings name it. A proxy has its key in the same file.
    fn own_certificate(&self, cloud: &Cloud) -> Option<OwnCertificate> {
        let path = |given: &Option<PathBuf>, key: &str| {
            let given = given.as_ref().and_then(|path| path.to_str());
            self.settings.text(given, key).map(PathBuf::from)
        };
        let certificate = path(&cloud.pem_certificate, "pem_certificate");
        let key = path(&cloud.pem_key, "pem_key");
        let certificate = certificate.or_else(|| key.clone())?;
        Some(OwnCertificate {
            key: key.unwrap_or_else(|| certificate.clone()),
            certificate,
        })
    }

    fn login(
        &self,
        username: Option<String>,
        password: Option<String>,
        cloud: &Cloud,
        endpoint: &Endpoint,
    ) -> Result<Login> {
        // Who is named on the command line is meant.
        if cloud.username.is_none()
            && cloud.password.is_none()
            && let Some(token) = self.settings.text(None, "token")
        {
            return Ok(Login::Token(token));
        }
        // A kept login is of one cloud and one user.
        if cloud.password.is_none() && (password.is_none() || username.is_none()) {
            let kept = KeptLogins::load()?;
            let is_meant =
                |login: &Kept| username.as_ref().is_none_or(|name| *name == login.username);
            if kept.of(endpoint).is_some_and(is_meant)
                && let Some(token) = kept.token(endpoint)?
            {
                return Ok(Login::Token(token));
            }
        }
        match (username, password) {
            (Some(username), Some(password)) => Ok(Login::Password(username, password)),
            (Some(username), None) if std::io::stdin().is_terminal() => {
                let password = self.asked.password(&username, endpoint)?;
                Ok(Login::Password(username, password))
            }
            (Some(username), None) => Err(Failure::Work(format!(
                "Missing credentials: there is no password for '{username}' and no terminal to ask for one; set STRATUSLAB_PASSWORD or password in the configuration file"
            ))),
            (None, _) => {
                if let Some(own) = self.own_certificate(cloud) {
                    return Ok(Login::Certificate(own));
                }
                Err(Failure::Work("Missing credentials".to_owned()).with_hint(
                    "Log in once with 'stratus login', or give a user name and a password: -u and -p, STRATUSLAB_USERNAME and STRATUSLAB_PASSWORD, or username and password in the configuration file (stratus copy-config writes one to begin with).",
                ))
            }
        }
    }
}

/// Asks on the terminal, without echo.
///
/// # Errors
/// [`Failure::Work`] without a terminal.
pub fn ask_password(prompt: &str) -> Result<String> {
    rpassword::prompt_password(prompt).map_err(|error| match error.raw_os_error() {
        // ENOENT, ENXIO, ENOTTY: as /dev/tty answers whom no terminal belongs to.
        Some(2 | 6 | 25) => {
            Failure::Work("there is no terminal to ask for the password on".to_owned())
        }
        _ => Failure::Work(format!("no password could be read: {}", errno_text(&error))),
    })
}

/// The output that the common options ask for.
#[must_use]
pub fn output(common: &Common) -> Output {
    Output {
        verbose: common.verbose,
        quiet: common.quiet,
        format: common.format,
    }
}

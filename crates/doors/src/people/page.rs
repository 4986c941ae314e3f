//! Which URLs people use.

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page<'p> {
    /// `/cimi/login`
    Login,
    /// `/cimi/logout`
    Logout,
    /// `/cimi/oidc/start`
    OidcStart,
    /// `/cimi/oidc/callback`
    OidcCallback,
    /// `/cimi/command`: a command wants a token.
    Command,
    /// `/cimi/command/token`: and fetches it.
    CommandToken,
    /// `/register`
    Home,
    /// `/register/policies`
    Policies,
    /// `/register/register`
    Register,
    /// `/register/users`: where its form goes.
    Users,
    /// `/register/success`
    Success,
    /// `/register/profile`
    Profile,
    /// `/register/profile_updated`
    ProfileUpdated,
    /// `/register/reset`
    Reset,
    /// `/register/reset_started`
    ResetStarted,
    /// `/register/action/<secret>`: the links of letters.
    Action(&'p str),
    /// `/register/sessions`
    Sessions,
    /// `/register/requests`: for administrators.
    Requests,
}

/// Longest secret that is looked at.
const SECRET_AT_MOST: usize = 64;

impl<'p> Page<'p> {
    /// What this path names, without the slashes around it.
    pub(crate) fn of(path: &'p str) -> Option<Self> {
        Some(match path {
            "cimi/login" => Self::Login,
            "cimi/logout" => Self::Logout,
            "cimi/oidc/start" => Self::OidcStart,
            "cimi/oidc/callback" => Self::OidcCallback,
            "cimi/command" => Self::Command,
            "cimi/command/token" => Self::CommandToken,
            "register" => Self::Home,
            "register/policies" => Self::Policies,
            "register/register" => Self::Register,
            "register/users" => Self::Users,
            "register/success" => Self::Success,
            "register/profile" => Self::Profile,
            "register/profile_updated" => Self::ProfileUpdated,
            "register/reset" => Self::Reset,
            "register/reset_started" => Self::ResetStarted,
            "register/sessions" => Self::Sessions,
            "register/requests" => Self::Requests,
            _ => {
                let secret = path.strip_prefix("register/action/")?;
                let fits = (1..=SECRET_AT_MOST).contains(&secret.len())
                    && secret.bytes().all(|b| b.is_ascii_alphanumeric());
                return fits.then_some(Self::Action(secret));
            }
        })
    }

    /// All paths there are; `{id}` stands for a secret.
    pub(crate) const PATHS: [&'static str; 18] = [
        "/cimi/login",
        "/cimi/logout",
        "/cimi/oidc/start",
        "/cimi/oidc/callback",
        "/cimi/command",
        "/cimi/command/token",
        "/register",
        "/register/policies",
        "/register/register",
        "/register/users",
        "/register/success",
        "/register/profile",
        "/register/profile_updated",
        "/register/reset",
        "/register/reset_started",
        "/register/action/{id}",
        "/register/sessions",
        "/register/requests",
    ];

    /// The methods that may be used on it, as for `Allow`.
    pub(crate) const fn methods(&self) -> &'static str {
        match self {
            Self::Login
            | Self::Logout
            | Self::Command
            | Self::Reset
            | Self::Action(_)
            | Self::Sessions
            | Self::Requests => "GET, HEAD, POST, OPTIONS",
            Self::Profile => "GET, HEAD, POST, PUT, OPTIONS",
            Self::CommandToken | Self::Users => "POST, OPTIONS",
            Self::OidcStart
            | Self::OidcCallback
            | Self::Home
            | Self::Policies
            | Self::Register
            | Self::Success
            | Self::ProfileUpdated
            | Self::ResetStarted => "GET, HEAD, OPTIONS",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_paths_name_a_page_and_secrets_name_no_other() {
        for path in Page::PATHS {
            let path = path.trim_start_matches('/').replace("{id}", "abc");
            assert!(Page::of(&path).is_some(), "{path}");
        }
        for path in [
            "register/action/",
            "register/action/a/b",
            "register/action/..",
            "register/x",
            "cimi/oidc",
        ] {
            assert_eq!(Page::of(path), None, "{path}");
        }
    }
}

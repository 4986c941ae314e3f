//! The address of a cloud, from what the user configured.

use std::fmt;

use crate::failure::Failure;

/// Where a cloud's HTTP interface is.
///
/// Users give the addresses that StratusLab's services had (`https://HOST:PORT/one-proxy/xmlrpc`,
/// `https://HOST/pdisk`), the CIMI address, or a host name alone (https, port 443): scheme, host and port
/// count, the path is always `/cimi`. A cloud with several entries has several addresses, of which the first is what it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    secure: bool,
    host: String,
    port: u16,
    others: Vec<Endpoint>,
}

impl Endpoint {
    /// Reads a URL, `HOST` or `HOST:PORT[/PATH]`, or several with commas between.
    ///
    /// # Errors
    /// [`Failure::Work`], naming the text.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut all = text.split(',').map(Self::parse_one);
        let mut first = all.next().unwrap_or_else(|| Self::parse_one(""))?;
        first.others = all.collect::<Result<_, _>>()?;
        Ok(first)
    }

    fn parse_one(text: &str) -> Result<Self, Failure> {
        let invalid = |problem: &str| {
            Failure::Work(format!(
                "the endpoint '{text}' is not usable: {problem}; give https://HOST[:PORT] or a host name"
            ))
        };
        let trimmed = text.trim();
        let lower = trimmed.to_ascii_lowercase();
        let url = if lower.starts_with("http://") || lower.starts_with("https://") {
            trimmed.to_owned()
        } else if lower.contains("://") {
            return Err(invalid("only http and https are known"));
        } else if trimmed.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("https://[{trimmed}]")
        } else {
            format!("https://{trimmed}")
        };
        let url = reqwest::Url::parse(&url).map_err(|error| invalid(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "user name and password do not belong into it (use -u and -p)",
            ));
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| invalid("it names no host"))?;
        let port = url
            .port_or_known_default()
            .ok_or_else(|| invalid("it has no port"))?;
        Ok(Self {
            secure: url.scheme() == "https",
            host: host.to_owned(),
            port,
            others: Vec::new(),
        })
    }

    /// The cloud's other addresses, for when this one doesn't answer.
    #[must_use]
    pub fn others(&self) -> &[Self] {
        &self.others
    }

    /// A URL at this address in place of another one's.
    pub(super) fn take_over(&self, url: &mut reqwest::Url) {
        // These fail for URLs that can't have hosts only.
        let _ = url.set_scheme(if self.secure { "https" } else { "http" });
        let _ = url.set_host(Some(&self.host));
        let _ = url.set_port(Some(self.port));
    }

    /// The URL of the CloudEntryPoint, without a slash at the end.
    #[must_use]
    pub fn cimi_url(&self) -> String {
        format!("{}/cimi", self.root_url())
    }

    /// The URL of the service, without a slash at the end.
    #[must_use]
    pub fn root_url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// The host as it stands in a certificate: without brackets.
    #[must_use]
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether TLS is used.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it is this machine itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self
                .bare_host()
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

/// `HOST:PORT`, the name under which a certificate is remembered.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_leads_to_the_cimi_address() {
        for (text, url) in [
            (
                "https://cloud.example.org/one-proxy/xmlrpc",
                "https://cloud.example.org:443/cimi",
            ),
            (
                "https://cloud.example.org:2634/xmlrpc",
                "https://cloud.example.org:2634/cimi",
            ),
            ("cloud.example.org", "https://cloud.example.org:443/cimi"),
            (
                "cloud.example.org:8443",
                "https://cloud.example.org:8443/cimi",
            ),
            ("localhost:8443/pdisk", "https://localhost:8443/cimi"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/cimi"),
            (
                "HTTPS://Cloud.Example.org/cimi/",
                "https://cloud.example.org:443/cimi",
            ),
            ("https://[::1]:8443/", "https://[::1]:8443/cimi"),
            ("::1", "https://[::1]:443/cimi"),
            ("https://one:8443, two", "https://one:8443/cimi"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().cimi_url(), url, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "  ",
            "ftp://host",
            "https://",
            "https://user:pw@host",
            "host:99999",
            "a b",
            "one,",
            "one,ftp://two",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}

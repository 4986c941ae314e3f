//! Where a request comes from, and by which address it reached us: behind a proxy, what that says.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use accounts::Shown;
use http::{HeaderMap, Uri, header};
use ipnet::IpNet;

/// The connection that a request came by.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Our end.
    pub(crate) local: SocketAddr,
    /// Whether it is encrypted.
    pub(crate) tls: bool,
    /// Whether the other end may say on whose behalf it asks.
    pub(crate) trusted: bool,
    /// What the other end has shown of itself.
    pub(crate) shown: Option<Arc<Shown>>,
}

/// A proxy, or a network of them, that is believed on whose behalf it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy(IpNet);

/// What is no address and no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no network; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/64")]
pub struct TrustedProxyError(String);

impl FromStr for TrustedProxy {
    type Err = TrustedProxyError;

    fn from_str(text: &str) -> Result<Self, TrustedProxyError> {
        let network = text.parse().or_else(|_| text.parse().map(IpAddr::into));
        network
            .map(Self)
            .map_err(|_| TrustedProxyError(text.to_owned()))
    }
}

impl TrustedProxy {
    /// Whether an address is this proxy's, or one of this network.
    #[must_use]
    pub fn includes(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl Connection {
    /// Whose address counts for this request.
    pub(crate) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let direct = self.peer.ip().to_canonical();
        if !self.trusted {
            return direct;
        }
        // The last one is what our own proxy saw; those before it are the client's claims.
        headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.rsplit(',').next())
            .and_then(|address| address.trim().parse().ok())
            .unwrap_or(direct)
    }

    /// `https://HOST:PORT/cimi/`, as the client knows us.
    pub(crate) fn base_uri(&self, uri: &Uri, headers: &HeaderMap) -> String {
        let forwarded = |name: &str| {
            headers
                .get(name)
                .filter(|_| self.trusted)
                .and_then(|value| value.to_str().ok())
                .map(|value| value.split(',').next().unwrap_or_default().trim())
        };
        let scheme = match forwarded("x-forwarded-proto") {
            Some("https") => "https",
            Some("http") => "http",
            _ if self.tls => "https",
            _ => "http",
        };
        // HTTP/2 has the host in the URI.
        let host = forwarded("x-forwarded-host")
            .or_else(|| uri.authority().map(http::uri::Authority::as_str))
            .or_else(|| {
                headers
                    .get(header::HOST)
                    .and_then(|host| host.to_str().ok())
            })
            .filter(|host| is_host(host));
        match host {
            Some(host) => format!("{scheme}://{host}/cimi/"),
            None => format!("{scheme}://{}/cimi/", self.local),
        }
    }
}

/// Host and port, nothing that could change what a URL means.
fn is_host(host: &str) -> bool {
    (1..=260).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_base_is_how_the_client_knows_us() {
        let direct = Connection {
            peer: "192.0.2.1:4000".parse().unwrap(),
            local: "192.0.2.9:8443".parse().unwrap(),
            tls: true,
            trusted: false,
            shown: None,
        };
        let behind_proxy = Connection {
            peer: "[::ffff:127.0.0.1]:4000".parse().unwrap(),
            tls: false,
            trusted: true,
            ..direct.clone()
        };
        // Being on this computer is no reason to be believed.
        let local = Connection {
            trusted: false,
            ..behind_proxy.clone()
        };
        let uri: Uri = "/cimi".parse().unwrap();
        let all = headers(&[
            ("host", "cloud.example:8443"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-for", "203.0.113.5, 198.51.100.7"),
        ]);
        assert_eq!(
            direct.base_uri(&uri, &all),
            "https://cloud.example:8443/cimi/"
        );
        assert_eq!(
            behind_proxy.base_uri(&uri, &all),
            "https://public.example/cimi/"
        );
        assert_eq!(direct.client(&all).to_string(), "192.0.2.1");
        assert_eq!(behind_proxy.client(&all).to_string(), "198.51.100.7");
        assert_eq!(local.client(&all).to_string(), "127.0.0.1");
        assert_eq!(
            local.base_uri(&uri, &all),
            "http://cloud.example:8443/cimi/"
        );

        let evil = headers(&[("host", "a/b@c")]);
        assert_eq!(direct.base_uri(&uri, &evil), "https://192.0.2.9:8443/cimi/");
        let h2: Uri = "https://two.example/cimi".parse().unwrap();
        assert_eq!(
            direct.base_uri(&h2, &headers(&[])),
            "https://two.example/cimi/"
        );
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let includes = |proxy: &str, address: &str| {
            let proxy: TrustedProxy = proxy.parse().unwrap();
            proxy.includes(address.parse().unwrap())
        };
        assert!(includes("192.0.2.1", "192.0.2.1") && includes("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!includes("192.0.2.1", "192.0.2.2") && !includes("0.0.0.0/0", "2001:db8::1"));
        assert!(includes("192.0.2.0/24", "192.0.2.200") && includes("0.0.0.0/0", "1.2.3.4"));
        assert!(!includes("192.0.2.0/24", "192.0.3.1"));
        assert!(includes("2001:db8::/64", "2001:db8::1:2") && includes("::1", "::1"));
        for text in ["", "here", "192.0.2.1/33", "192.0.2.1/", "::1/129", "/8"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }
}

//! Where a request comes from, and by which address it reached us: behind a proxy, what that says.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header};

/// The connection that a request came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Our end.
    pub(crate) local: SocketAddr,
    /// Whether it is encrypted.
    pub(crate) tls: bool,
}

impl Connection {
    /// Whether the other end may say on whose behalf it asks: a proxy on this computer.
    fn is_trusted(&self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }

    /// Whose address counts for this request.
    pub(crate) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let direct = self.peer.ip().to_canonical();
        if !self.is_trusted() {
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
                .filter(|_| self.is_trusted())
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
        };
        let behind_proxy = Connection {
            peer: "[::ffff:127.0.0.1]:4000".parse().unwrap(),
            tls: false,
            ..direct
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

        let evil = headers(&[("host", "a/b@c")]);
        assert_eq!(direct.base_uri(&uri, &evil), "https://192.0.2.9:8443/cimi/");
        let h2: Uri = "https://two.example/cimi".parse().unwrap();
        assert_eq!(
            direct.base_uri(&h2, &headers(&[])),
            "https://two.example/cimi/"
        );
    }
}

//! The proxy for a server, chosen with curl's rules: `http_proxy` in lower case only (callers of a CGI program can
//! set the other one), `https_proxy`, `all_proxy` and `no_proxy` in either case. Loopback is never proxied.

use super::address::{Address, has_valid_port};
use super::credentials::secret_value;
use anyhow::{Result, anyhow, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::net::IpAddr;
use ureq::http::HeaderValue;

impl Address {
    /// Uses the proxy that the environment names for this address, if there is one. An error does not repeat the
    /// variable's value, which may contain a password.
    pub fn use_proxy(&mut self) -> Result<()> {
        self.proxy = self.choose_proxy(|name| {
            // A value that is not UTF-8 is refused as an invalid proxy.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })?;
        Ok(())
    }

    fn choose_proxy(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<ureq::Proxy>> {
        let names: &[&str] = if self.is_https() {
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            &["http_proxy", "all_proxy", "ALL_PROXY"]
        };
        let set =
            |name: &&str| env(name).filter(|value| !value.trim().is_empty()).map(|value| (name.to_string(), value));
        let no_proxy = ["no_proxy", "NO_PROXY"].iter().find_map(set);
        let Some((name, url)) = names.iter().find_map(set) else { return Ok(None) };
        if self.is_loopback() || no_proxy.is_some_and(|(_, list)| is_excepted(self, &list)) {
            return Ok(None);
        }
        let url = url.trim();
        let socks = url.starts_with("socks");
        ensure!(!socks, "{name} names a SOCKS proxy; only http:// and https:// proxies are supported");
        let proxy =
            ureq::Proxy::new(url).ok().filter(|proxy| has_valid_port(proxy.uri()) && !proxy.host().is_empty());
        proxy.map(Some).ok_or_else(|| anyhow!("{name} is not the URL of a proxy (http://HOST:PORT)"))
    }

    /// Returns " through the proxy …" for an error, if there is a proxy.
    pub(super) fn through(&self) -> String {
        let proxy = self.proxy.as_ref();
        let through = proxy.map(|proxy| format!(" through the proxy {}:{}", proxy.host(), proxy.port()));
        through.unwrap_or_default()
    }

    /// Returns the proxy for https, which only makes a tunnel (CONNECT).
    pub(super) fn tunnel(&self) -> Option<&ureq::Proxy> {
        self.proxy.as_ref().filter(|_| self.is_https())
    }

    /// Returns the proxy for plain http, which gets the whole request.
    pub(super) fn forward_proxy(&self) -> Option<&ureq::Proxy> {
        self.proxy.as_ref().filter(|_| !self.is_https())
    }

    /// Returns the URL to connect to for a path: that of the server, or with the proxy's host.
    pub(super) fn request_url(&self, path: &str) -> String {
        let forward = self.forward_proxy().map(|proxy| {
            let scheme = if proxy.protocol() == ureq::ProxyProtocol::Https { "https" } else { "http" };
            format!("{scheme}://{}:{}{}", proxy.host(), proxy.port(), self.uri.path().trim_end_matches('/'))
        });
        forward.unwrap_or_else(|| self.url().to_owned()) + path
    }

    /// Returns the headers for a plain http proxy.
    pub(super) fn proxy_headers(&self) -> Vec<(&'static str, HeaderValue)> {
        let Some(proxy) = self.forward_proxy() else { return Vec::new() };
        let mut headers = Vec::new();
        headers.extend(HeaderValue::from_str(self.authority()).ok().map(|host| ("Host", host)));
        if proxy.username().is_some() || proxy.password().is_some() {
            let [user, password] = [proxy.username(), proxy.password()].map(Option::unwrap_or_default);
            let credentials =
                secret_value(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
            headers.extend(credentials.map(|credentials| ("Proxy-Authorization", credentials)));
        }
        headers
    }
}

/// Returns whether a `no_proxy` list covers the target. Its entries are separated by commas or spaces: `*`, a name
/// with its subdomains or an IP address, each with or without `:PORT`, or a network (`10.0.0.0/8`, `fd00::/8`).
fn is_excepted(server: &Address, list: &str) -> bool {
    let name = server.host().trim_end_matches('.').to_ascii_lowercase();
    list.split([',', ' ', '\t']).any(|entry| {
        let (host, port) = split_port(entry.trim());
        let host = host.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
        let covered = host == "*"
            || name == host
            || name.strip_suffix(&host).is_some_and(|rest| rest.ends_with('.'))
            || name.parse().is_ok_and(|address| is_in_network(address, &host));
        !host.is_empty() && covered && port.is_none_or(|port| port == server.port())
    })
}

/// Returns whether an IP address is in a network `ADDRESS/BITS`, or equal to `ADDRESS`. As with curl, `/0` means one
/// address, and an invalid network covers nothing.
fn is_in_network(address: IpAddr, network: &str) -> bool {
    let (base, bits) = network.split_once('/').unwrap_or((network, "0"));
    let (Ok(base), Ok(bits)) = (base.parse(), bits.parse::<u32>()) else { return false };
    let (common, width) = match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => ((address.to_bits() ^ base.to_bits()).leading_zeros(), 32),
        (IpAddr::V6(address), IpAddr::V6(base)) => ((address.to_bits() ^ base.to_bits()).leading_zeros(), 128),
        _ => return false,
    };
    bits <= width && common >= if bits == 0 { width } else { bits }
}

/// Splits `HOST:PORT` or `[ADDRESS]:PORT`. The port is optional.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((address, rest)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.rsplit_once(':') {
        // More colons make it an IPv6 address.
        Some((host, port)) if !host.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the proxy's host, "-" for a direct connection, or "!" and an error.
    fn chosen(url: &str, env: &[(&str, &str)]) -> String {
        let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        match Address::parse(url).unwrap().choose_proxy(lookup) {
            Ok(None) => "-".into(),
            Ok(Some(proxy)) => proxy.host().to_owned(),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn the_variables_have_curls_meaning() {
        let rows: &[(&str, &[(&str, &str)], &str)] = &[
            ("http://a.example", &[], "-"),
            ("http://a.example", &[("http_proxy", "http://p:1")], "p"),
            ("http://a.example", &[("HTTP_PROXY", "http://p:1")], "-"),
            ("http://a.example", &[("https_proxy", "http://p:1")], "-"),
            ("https://a.example", &[("https_proxy", "http://p:1")], "p"),
            ("https://a.example", &[("HTTPS_PROXY", "http://p:1")], "p"),
            ("https://a.example", &[("https_proxy", "http://p:1"), ("HTTPS_PROXY", "http://q:1")], "p"),
            ("https://a.example", &[("https_proxy", ""), ("all_proxy", "q:3128")], "q"),
            ("http://a.example", &[("ALL_PROXY", "http://q:1")], "q"),
            ("http://localhost:1", &[("http_proxy", "http://p:1")], "-"),
            ("http://127.8.9.1:1", &[("all_proxy", "http://p:1")], "-"),
            ("http://[::1]:1", &[("all_proxy", "http://p:1")], "-"),
        ];
        for (url, env, expected) in rows {
            assert_eq!(&chosen(url, env), expected, "{url} {env:?}");
        }
    }

    #[test]
    fn an_invalid_proxy_is_refused_without_repeating_it() {
        for bad in [
            "socks5://user:hunter2@p:1",
            "http://user:hunter2@",
            "://hunter2",
            "http://user:hunter2@p:99999",
            "http://user:hunter2@p:port",
            "http://user:hunter2@p:",
            "http://user:hunter2@:1",
        ] {
            let said = chosen("http://a.example", &[("http_proxy", bad)]);
            assert!(said.starts_with("! http_proxy") && !said.contains("hunter2"), "{bad}: {said}");
        }
        assert_eq!(chosen("http://localhost", &[("http_proxy", "socks5://p:1")]), "-", "it does not apply");
    }

    #[test]
    fn no_proxy_covers_names_subdomains_addresses_networks_and_ports() {
        let rows = [
            ("http://a.example", "a.example", true),
            ("http://A.Example.", "a.example", true),
            ("http://b.a.example", "a.example", true),
            ("http://b.a.example", ".a.example", true),
            ("http://b.a.example", "*.a.example", true),
            ("http://ba.example", "a.example", false),
            ("http://a.example", "x , b.example  a.example", true),
            ("http://a.example", "*", true),
            ("http://a.example", "", false),
            ("http://a.example", ".", false),
            ("http://a.example:8080", "a.example:8080", true),
            ("http://a.example:8080", "a.example:80", false),
            ("http://a.example", "a.example:80", true),
            ("https://a.example", "a.example:443", true),
            ("http://10.0.0.7", "10.0.0.7", true),
            ("http://[fd00::7]:9", "fd00::7", true),
            ("http://[fd00::7]:9", "[fd00::7]:9", true),
            ("http://[fd00::7]:9", "[fd00::7]:8", false),
            ("http://[fd00::7]:9", "fd00:0:0:0:0:0:0:7", true),
            ("http://10.1.2.3", "10.0.0.0/8", true),
            ("http://10.1.2.3", "192.168.0.0/16, 10.9.9.9/8", true),
            ("http://11.1.2.3", "10.0.0.0/8", false),
            ("http://10.1.2.3", "10.1.2.0/25", true),
            ("http://10.1.2.3", "10.1.2.128/25", false),
            ("http://10.1.2.3", "10.1.2.3/32", true),
            ("http://10.1.2.3:81", "10.0.0.0/8:80", false),
            ("http://10.1.2.3", "10.0.0.0/33", false),
            ("http://10.1.2.3", "10.0.0.0/", false),
            ("http://10.1.2.3", "10.0.0.0/x", false),
            ("http://10.1.2.3", "10/8", false),
            ("http://10.1.2.3", "0.0.0.0/0", false),
            ("http://10.1.2.3", "::/1", false),
            ("http://10.example", "10.0.0.0/8", false),
            ("http://[fd12::7]:9", "fd00::/8", true),
            ("http://[fe12::7]:9", "fd00::/8", false),
            ("http://[fd12::7]:9", "[fd00::]/8", false),
            ("http://[fd12::7]:9", "fd12::6/127", true),
            ("http://[fd12::7]:9", "fd12::7/129", false),
        ];
        for (url, list, expected) in rows {
            let env = [("http_proxy", "http://p:1"), ("https_proxy", "http://p:1"), ("no_proxy", list)];
            assert_eq!(chosen(url, &env), if expected { "-" } else { "p" }, "{url} {list}");
        }
    }
}

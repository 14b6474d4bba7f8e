//! The server's address: its URL, its certificates, the proxy, and the IP address that answered last.

use super::tls::Tls;
use anyhow::{Context, bail, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use ureq::http::Uri;

/// The IP address that answered last. Clones share it.
pub(super) type Memory = Arc<Mutex<Option<SocketAddr>>>;

/// A valid address of an agent server. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Address {
    /// Scheme, host, port and path prefix, without a slash at the end.
    base: String,
    pub(super) uri: Uri,
    pub(super) tls: Tls,
    pub(super) proxy: Option<ureq::Proxy>,
    pub(super) memory: Memory,
}

impl Address {
    /// Checks a URL: http or https, with a host, without user, query or fragment. An error does not repeat a password.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        ensure!(!url.contains('@'), "the URL contains a user or a password; use a token instead");
        let uri: Uri = url.parse().with_context(|| format!("the URL {url:?}"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            _ => bail!("the URL {url:?} does not begin with http:// or https://"),
        }
        ensure!(uri.host().is_some_and(|host| !host.is_empty()), "the URL {url:?} has no host");
        // The query may be secret, so it is not repeated.
        ensure!(uri.query().is_none() && !url.contains('#'), "the URL has a query or a fragment");
        ensure!(has_valid_port(&uri), "the URL {url:?} has no valid port");
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { base, uri, tls: Tls::default(), proxy: None, memory: Memory::default() })
    }

    /// Trusts the certificates in a PEM file, and no others.
    pub fn trust(&mut self, pem: &[u8]) -> anyhow::Result<()> {
        self.tls.trust(pem)
    }

    /// Uses a client certificate and its private key, both in PEM form. They must match, and be valid now.
    pub fn present(&mut self, cert_pem: &[u8], key_pem: &[u8]) -> anyhow::Result<()> {
        ensure!(
            self.is_https(),
            "a client certificate (--cert, --key) needs an https:// URL, but this is {}",
            self.base
        );
        self.tls.present(cert_pem, key_pem)
    }

    pub(super) fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Returns a name, or an IP address without brackets.
    pub(super) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Returns `HOST:PORT` of the URL.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Returns the URL, which contains no secret.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Returns whether others can read the traffic: plain http to another machine.
    pub fn is_exposed(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    pub(super) fn is_loopback(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// Returns whether the URL has no port or a valid one.
pub(super) fn has_valid_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    port.is_none() || uri.port_u16().is_some()
}

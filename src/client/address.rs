//! The server's address: its URL, its certificates, the proxy, and the IP address that answered last.

use super::proxy::{self, Target};
use super::tls::Tls;
use anyhow::{Context, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use ureq::http::{HeaderValue, Uri};

/// The IP address that answered last. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Option<SocketAddr>>>);

impl Memory {
    pub(super) fn get(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// A valid address of an agent server. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Address {
    /// Scheme, host, port and path prefix, without a slash at the end.
    base: String,
    uri: Uri,
    tls: Tls,
    proxy: Option<ureq::Proxy>,
    memory: Memory,
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
        ensure!(proxy::has_valid_port(&uri), "the URL {url:?} has no valid port");
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { base, uri, tls: Tls::default(), proxy: None, memory: Memory::default() })
    }

    /// Uses the proxy that the environment names for this address, if there is one.
    pub fn use_proxy(&mut self) -> anyhow::Result<()> {
        let https = self.is_https();
        let port = self.uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let target = Target { https, host: self.host(), port, loopback: self.is_loopback() };
        self.proxy = proxy::choose(&target, |name| {
            // A value that is not UTF-8 is refused as an invalid proxy.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })?;
        Ok(())
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

    fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    pub(super) const fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory.clone()
    }

    pub(super) const fn proxy(&self) -> Option<&ureq::Proxy> {
        self.proxy.as_ref()
    }

    /// Returns " through the proxy …" for an error, if there is a proxy.
    pub(super) fn through(&self) -> String {
        let proxy = self.proxy().map(|proxy| format!(" through the proxy {}:{}", proxy.host(), proxy.port()));
        proxy.unwrap_or_default()
    }

    /// Returns the proxy for plain http, which gets the whole request. A proxy for https only makes a tunnel (CONNECT).
    pub(super) fn asked_proxy(&self) -> Option<&ureq::Proxy> {
        self.proxy().filter(|_| !self.is_https())
    }

    /// Returns the URL to connect to for a path: that of the server, or with the proxy's host.
    pub(super) fn uri(&self, path: &str) -> String {
        let asked = self.asked_proxy().map(|proxy| {
            let scheme = if proxy.protocol() == ureq::ProxyProtocol::Https { "https" } else { "http" };
            format!("{scheme}://{}:{}{}", proxy.host(), proxy.port(), self.uri.path().trim_end_matches('/'))
        });
        asked.unwrap_or_else(|| self.base.clone()) + path
    }

    /// Returns `HOST:PORT` of the URL.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Returns the headers for a plain http proxy.
    pub(super) fn proxy_headers(&self) -> Vec<(&'static str, HeaderValue)> {
        let Some(proxy) = self.asked_proxy() else { return Vec::new() };
        let mut headers = Vec::new();
        headers.extend(HeaderValue::from_str(self.authority()).ok().map(|host| ("Host", host)));
        if proxy.username().is_some() || proxy.password().is_some() {
            let [user, password] = [proxy.username(), proxy.password()].map(Option::unwrap_or_default);
            let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
            if let Ok(mut value) = HeaderValue::try_from(format!("Basic {credentials}")) {
                // A sensitive value is hidden in Debug.
                value.set_sensitive(true);
                headers.push(("Proxy-Authorization", value));
            }
        }
        headers
    }

    /// Returns the URL, which contains no secret.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Returns whether others can read the traffic: plain http to another machine.
    pub fn is_exposed(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        let address: Result<IpAddr, _> = host.parse();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }
}

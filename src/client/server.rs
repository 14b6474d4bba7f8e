//! Where the server is and how it is reached: the URL, the certificates that vouch for it, the proxy on the way.

use super::proxy;
use anyhow::{Context, bail, ensure};
use std::path::Path;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// An agent server's address, checked.
#[derive(Clone, Debug)]
pub struct Server {
    /// Scheme, host, port and path prefix, without a slash at the end.
    pub(super) base: String,
    uri: Uri,
    pub(super) roots: Option<Vec<Certificate<'static>>>,
    pub(super) proxy: Option<ureq::Proxy>,
}

impl Server {
    /// Checks a URL: http or https, with a host, without user, query or fragment.
    ///
    /// # Errors
    /// What is wrong with it. A password in it is not repeated.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        ensure!(!url.contains('@'), "the URL names a user or a password; give a token instead");
        let uri: Uri = url.parse().with_context(|| format!("the URL {url:?}"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            _ => bail!("the URL {url:?} does not begin with http:// or https://"),
        }
        ensure!(uri.host().is_some_and(|host| !host.is_empty()), "the URL {url:?} names no host");
        ensure!(uri.query().is_none() && !url.contains('#'), "the URL {url:?} has more than a path");
        Ok(Self { base: url.trim_end_matches('/').to_owned(), uri, roots: None, proxy: None })
    }

    /// Goes through the proxy that the environment names for it, if it names one.
    ///
    /// # Errors
    /// When that is no proxy that we can use.
    pub fn use_proxy(&mut self) -> anyhow::Result<()> {
        self.proxy = proxy::choose(&self.target(), |name| std::env::var(name).ok())?;
        Ok(())
    }

    pub(super) fn target(&self) -> proxy::Target<'_> {
        let https = self.is_https();
        let port = self.uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        proxy::Target { https, host: self.host(), port, loopback: self.is_loopback() }
    }

    fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The URL, as it may be shown.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Trusts the certificates in a PEM file, and no others.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate: such a file would fail late and obscurely.
    pub fn trust(&mut self, path: &Path) -> anyhow::Result<()> {
        let doing = || format!("read the certificates in {} (--cacert)", path.display());
        let pem = std::fs::read(path).with_context(doing)?;
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.with_context(doing)? {
                certificates.push(certificate);
            }
        }
        ensure!(!certificates.is_empty(), "{}: there is none in PEM form", doing());
        self.roots = Some(certificates);
        Ok(())
    }

    /// Whether what is sent can be read on the way: plain http to another machine.
    pub fn is_exposed(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        let address: Result<std::net::IpAddr, _> = host.parse();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }
}

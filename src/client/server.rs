//! Where the server is and how it is reached: the URL, the certificates that vouch for it, the proxy on the way.

use super::proxy;
use anyhow::{Context, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::io::Read;
use std::path::Path;
use ureq::http::{HeaderValue, Uri};
use ureq::tls::{Certificate, PemItem, parse_pem};

/// The largest file of certificates, in bytes.
const MAX_PEM: u64 = 4 * 1024 * 1024;

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
        // What follows may be a secret too.
        ensure!(uri.query().is_none() && !url.contains('#'), "the URL has more than a path");
        ensure!(has_valid_port(&uri), "the URL {url:?} has no valid port");
        Ok(Self { base: url.trim_end_matches('/').to_owned(), uri, roots: None, proxy: None })
    }

    /// Goes through the proxy that the environment names for it, if it names one.
    ///
    /// # Errors
    /// When that is no proxy that we can use.
    pub fn use_proxy(&mut self) -> anyhow::Result<()> {
        self.proxy = proxy::choose(&self.target(), |name| {
            // What is no text is no proxy either, and is refused as such.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })?;
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

    /// For an error: the proxy on the way, if there is one.
    pub(super) fn through(&self) -> String {
        let proxy =
            self.proxy.as_ref().map(|proxy| format!(" through the proxy {}:{}", proxy.host(), proxy.port()));
        proxy.unwrap_or_default()
    }

    /// The proxy that is asked in the server's place, with the server's URL in the request: that for plain http. One
    /// for https only leads there (CONNECT).
    pub(super) fn asked_proxy(&self) -> Option<&ureq::Proxy> {
        self.proxy.as_ref().filter(|_| !self.is_https())
    }

    /// What is asked for a path, and where: `http://HOST:PORT/PATH`.
    pub(super) fn uri(&self, path: &str) -> String {
        let asked = self.asked_proxy().map(|proxy| {
            let scheme = if proxy.protocol() == ureq::ProxyProtocol::Https { "https" } else { "http" };
            format!("{scheme}://{}:{}{}", proxy.host(), proxy.port(), self.uri.path().trim_end_matches('/'))
        });
        asked.unwrap_or_else(|| self.base.clone()) + path
    }

    /// `HOST:PORT` as the URL has it.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// What a proxy that is asked must be told beside that.
    pub(super) fn proxy_headers(&self) -> Vec<(&'static str, HeaderValue)> {
        let Some(proxy) = self.asked_proxy() else { return Vec::new() };
        let mut headers = Vec::new();
        headers.extend(HeaderValue::from_str(self.authority()).ok().map(|host| ("Host", host)));
        if proxy.username().is_some() || proxy.password().is_some() {
            let [user, password] = [proxy.username(), proxy.password()].map(Option::unwrap_or_default);
            let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
            if let Ok(mut value) = HeaderValue::try_from(format!("Basic {credentials}")) {
                // Its Debug shows nothing then.
                value.set_sensitive(true);
                headers.push(("Proxy-Authorization", value));
            }
        }
        headers
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
        let mut pem = Vec::new();
        let file = std::fs::File::open(path).with_context(doing)?;
        file.take(MAX_PEM + 1).read_to_end(&mut pem).with_context(doing)?;
        ensure!(pem.len() as u64 <= MAX_PEM, "{}: it is larger than {MAX_PEM} bytes", doing());
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.with_context(doing)? {
                let number = certificates.len() + 1;
                webpki::anchor_from_trusted_cert(&certificate.der().into())
                    .with_context(|| format!("{}: number {number} is no certificate", doing()))?;
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

/// Whether the port, if there is one, is one.
pub(super) fn has_valid_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    port.is_none() || uri.port_u16().is_some()
}

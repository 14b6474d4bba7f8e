//! TLS: the trusted authorities, the client certificate, and the transport.

use super::fault::{Fault, date};
use anyhow::{Result, anyhow, bail, ensure};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, InconsistentKeys, RootCertStore, SignatureScheme, StreamOwned};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// The TLS settings. Clones share the configuration that is made of them.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authorities to trust instead of the system's.
    roots: Option<Arc<RootCertStore>>,
    identity: Arc<Identity>,
    /// Created for the first connection, because reading the system's certificates takes time.
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

/// The client certificate.
#[derive(Debug, Default)]
struct Identity {
    certificate: Option<Arc<CertifiedKey>>,
    /// A server has asked for a client certificate.
    wanted: AtomicBool,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.wanted.store(true, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

impl Tls {
    pub fn trust(&mut self, pem: &[u8]) -> Result<()> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let number = roots.len() + 1;
            let certificate =
                certificate.map_err(|error| anyhow!("certificate {number} cannot be read: {error:?}"))?;
            roots.add(certificate).map_err(|error| anyhow!("certificate {number} is not valid: {error}"))?;
        }
        ensure!(!roots.is_empty(), "there is no certificate in PEM form");
        (self.roots, self.config) = (Some(Arc::new(roots)), Arc::default());
        Ok(())
    }

    pub fn present(&mut self, cert_pem: &[u8], key_pem: &[u8]) -> Result<()> {
        let certificate = Some(Arc::new(certified_key(cert_pem, key_pem)?));
        self.identity = Arc::new(Identity { certificate, ..Identity::default() });
        self.config = Arc::default();
        Ok(())
    }

    /// Returns whether a server has asked for a client certificate and there is none.
    pub fn lacks_identity(&self) -> bool {
        self.identity.certificate.is_none() && self.identity.wanted.load(Ordering::Relaxed)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, ureq::Error> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.roots {
            Some(roots) => Arc::clone(roots),
            None => Arc::new(system_roots()?),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
        let mut config =
            builder.with_client_cert_resolver(Arc::clone(&self.identity) as Arc<dyn ResolvesClientCert>);
        // With this, a server that speaks only HTTP/2 sends an alert.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

fn system_roots() -> Result<RootCertStore, ureq::Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A few invalid certificates among many do not matter.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|why| format!(" ({why})")).unwrap_or_default();
        return Err(Fault::permanent(format!(
            "this machine has no certificates of authorities; install ca-certificates or give --cacert{why}"
        )));
    }
    Ok(roots)
}

/// Reads a client certificate with its chain, and its private key.
fn certified_key(cert_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(cert_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| anyhow!("the client certificate (--cert) cannot be read: {error:?}"))?;
    let Some(first) = chain.first() else { bail!("there is no client certificate in PEM form (--cert)") };
    check_dates(first)?;
    ensure!(
        !key_pem.windows(9).any(|word| word == b"ENCRYPTED"),
        "the key of the client certificate (--key) is encrypted; give one without a passphrase \
         (openssl pkey -in KEY -out PLAIN)"
    );
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|_| anyhow!("there is no private key in PEM form for the client certificate (--key)"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            anyhow!("the private key (--key) is not that of the client certificate (--cert)")
        }
        error => anyhow!("the client certificate (--cert) and its key (--key) cannot be used: {error}"),
    })
}

fn check_dates(certificate: &CertificateDer<'_>) -> Result<()> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| anyhow!("the client certificate (--cert) is not valid: {error}"))?;
    // Without a trusted authority every certificate fails, but the dates are checked first.
    let usage = webpki::KeyUsage::client_auth();
    match parsed.verify_for_usage(&[], &[], &[], UnixTime::now(), usage, None, None).err() {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            bail!("the client certificate (--cert) expired on {}", date(not_after))
        }
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
            bail!("the client certificate (--cert) is not valid before {}", date(not_before))
        }
        _ => Ok(()),
    }
}

/// Adds TLS to a connection if the URL begins with https://.
#[derive(Debug)]
pub(super) struct TlsConnector {
    pub tls: Tls,
    /// The sizes of the buffers for input and output, in bytes.
    pub buffers: (usize, usize),
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport<In>>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::permanent("the host name is not valid in a certificate"))?;
        let mut session = ClientConnection::new(self.tls.config()?, name).map_err(io::Error::other)?;
        let mut below = TransportAdapter::new(transport, Arc::clone(&details.current_time));
        below.set_timeout(details.timeout);
        session.complete_io(&mut below)?;
        let buffers = LazyBuffers::new(self.buffers.0, self.buffers.1);
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(session, below) })))
    }
}

pub(super) struct TlsTransport<T: Transport> {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter<T>>,
}

impl<T: Transport> fmt::Debug for TlsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsTransport({:?})", self.stream.sock.get_ref())
    }
}

impl<T: Transport> Transport for TlsTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

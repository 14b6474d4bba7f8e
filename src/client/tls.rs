//! TLS: whom we trust, the certificate that we show, and the words for what can go wrong. A fault is told by its type in
//! the TLS library, never by its text.

use crate::console::visible_start;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, InconsistentKeys, InvalidMessage, PeerIncompatible};
use std::io;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// As much of what the TLS library says as is repeated, in characters. The server chooses the names in it.
const MAX_SAID: usize = 300;

/// Makes a certificate for a server that is no authority's, and so works with `--cacert`.
const HOW_TO: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST \
                      -addext subjectAltName=DNS:HOST -addext basicConstraints=critical,CA:FALSE";

/// Returns the configuration that trusts `roots`, or the system's roots, and shows `identity` when asked.
pub fn config(roots: Option<&[Certificate<'static>]>, identity: Option<&ClientCert>) -> TlsConfig {
    let roots = roots.map_or(RootCerts::PlatformVerifier, RootCerts::new_with_certs);
    TlsConfig::builder().root_certs(roots).client_cert(identity.cloned()).build()
}

/// Reads certificates to trust.
///
/// # Errors
/// When there is none, or one that is none: it would fail late and obscurely.
pub fn roots(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            let number = certificates.len() + 1;
            webpki::anchor_from_trusted_cert(&certificate.der().into())
                .with_context(|| format!("number {number} is no certificate"))?;
            certificates.push(certificate);
        }
    }
    ensure!(!certificates.is_empty(), "there is none in PEM form");
    Ok(certificates)
}

/// Reads a client certificate, with the certificates between it and its authority, and its private key.
///
/// # Errors
/// When one of them cannot be used, when they do not belong together, or when the certificate is not valid now.
pub fn identity(cert_pem: &[u8], key_pem: &[u8]) -> Result<ClientCert> {
    let chain = CertificateDer::pem_slice_iter(cert_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| anyhow!("the client certificate (--cert) cannot be read: {error:?}"))?;
    let Some(first) = chain.first() else { bail!("there is no client certificate in PEM form (--cert)") };
    check_dates(first)?;
    let certificates: Vec<_> =
        chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    ensure!(
        !key_pem.windows(9).any(|word| word == b"ENCRYPTED"),
        "the key of the client certificate (--key) is encrypted; give one without a passphrase \
         (openssl pkey -in KEY -out PLAIN)"
    );
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|_| anyhow!("there is no private key in PEM form for the client certificate (--key)"))?;
    match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            bail!("the private key (--key) is not that of the client certificate (--cert)")
        }
        Err(error) => bail!("the client certificate (--cert) and its key (--key) cannot be used: {error}"),
    }
    Ok(ClientCert::new_with_certs(&certificates, PrivateKey::from_pem(key_pem)?))
}

fn check_dates(certificate: &CertificateDer<'_>) -> Result<()> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| anyhow!("the client certificate (--cert) is no certificate: {error}"))?;
    // Without an authority to trust, every certificate fails; but its dates are looked at first.
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

fn date(time: UnixTime) -> String {
    let since = std::time::Duration::from_secs(time.as_secs());
    let date = std::time::SystemTime::UNIX_EPOCH.checked_add(since).map(humantime::format_rfc3339_seconds);
    date.map_or_else(|| "an unknown date".to_owned(), |date| date.to_string())
}

/// Finds the TLS library's error in what the HTTP crate says.
pub fn of(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => fault(error),
        _ => None,
    }
}

/// Finds the TLS library's error in one of a connection.
pub fn fault(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// A fault of TLS.
pub struct Explained {
    /// What is wrong and what to do, and then what the library says.
    pub why: String,
    /// Another try may succeed.
    pub passes: bool,
}

/// Says in our words what is wrong.
pub fn explain(error: &rustls::Error) -> Explained {
    let (why, passes) = match error {
        rustls::Error::InvalidCertificate(error) => (distrust(error), false),
        rustls::Error::AlertReceived(alert) => (refusal(*alert), is_passing(*alert)),
        // The one that comes of looking for the system's certificates.
        rustls::Error::General(_) => (
            "no certificates of authorities on this machine; install ca-certificates or give --cacert".into(),
            false,
        ),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            ("the server does not speak https there; is its URL an http:// one?".into(), false)
        }
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            ("the server speaks no TLS that is still safe; it needs TLS 1.2 or 1.3".into(), false)
        }
        rustls::Error::PeerIncompatible(_) => ("the server offers no TLS that can be spoken here".into(), false),
        _ => ("the TLS connection failed".into(), true),
    };
    Explained { why: format!("{why} ({})", visible_start(&error.to_string(), MAX_SAID)), passes }
}

/// What is wrong with the server's certificate.
fn distrust(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by nobody that is trusted here; --cacert names a PEM file to trust".into()
        }
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "its certificate is for another name: it has none at all (no subjectAltName)".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("its certificate is for another name: {}", visible_start(&presented.join(", "), MAX_SAID))
        }
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid yet, but from {}", date(*not_before))
        }
        CertificateError::Revoked => "its certificate has been revoked".into(),
        CertificateError::Other(other)
            if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            format!(
                "its certificate is an authority's, which cannot be a server's; this makes one that can: {HOW_TO}"
            )
        }
        _ => "its certificate is not valid".into(),
    }
}

/// What a server that breaks off means by it.
fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "the server wants a client certificate; give --cert and --key".into()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            "the server takes no client without another client certificate (--cert, --key)".into()
        }
        // What TLS 1.2 says for a client certificate that is not there.
        AlertDescription::HandshakeFailure => {
            "the server refuses the TLS connection; it may want a client certificate (--cert, --key)".into()
        }
        AlertDescription::UnrecognisedName => "the server serves no host of that name".into(),
        AlertDescription::NoApplicationProtocol => {
            "the server speaks HTTP/2 alone there; sortie needs HTTP/1.1".into()
        }
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            "the server refuses TLS 1.2 and 1.3 as they are spoken here".into()
        }
        _ => "the server refuses the TLS connection".into(),
    }
}

/// Whether the trouble is the server's own, or the network's, and may pass.
const fn is_passing(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::InternalError | AlertDescription::UserCanceled | AlertDescription::BadRecordMac
    )
}

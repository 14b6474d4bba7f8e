//! Explains why a connection failed. A fault is recognized by its type, never by its text.

use super::quote::quote;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError, InvalidMessage, PeerIncompatible};
use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

/// The most headers that the HTTP crate reads.
const MAX_HEADERS: usize = 128;
/// Creates a certificate that works with `--cacert`, because it is not marked as an authority.
const HOW_TO: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST \
                      -addext subjectAltName=DNS:HOST -addext basicConstraints=critical,CA:FALSE";

/// The errors of our connections that the HTTP crate does not have.
#[derive(Debug)]
pub(super) enum Fault {
    /// There was no connection, so the request was not sent.
    Unconnected(ureq::Error),
    /// The server had closed a kept connection.
    Stale,
    /// A fault that no retry can change. What is wrong and what to do.
    Permanent(String),
}

impl Fault {
    pub(super) fn unconnected(error: ureq::Error) -> ureq::Error {
        match Self::of(&error) {
            // A connection through a proxy consists of two.
            Some(Self::Unconnected(_)) => error,
            _ => Self::Unconnected(error).into(),
        }
    }

    /// Creates the error for a call that the deadline or a signal ended.
    pub(super) fn ended() -> ureq::Error {
        ureq::Error::Other("interrupted".into())
    }

    pub(super) fn permanent(why: impl Into<String>) -> ureq::Error {
        Self::Permanent(why.into()).into()
    }

    pub(super) fn of(error: &ureq::Error) -> Option<&Self> {
        match error {
            ureq::Error::Other(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Fault> for ureq::Error {
    fn from(fault: Fault) -> Self {
        Self::Other(Box::new(fault))
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconnected(error) => error.fmt(f),
            Self::Stale => f.write_str("the server has closed the kept connection"),
            Self::Permanent(why) => f.write_str(why),
        }
    }
}

/// Returns whether the request was sent on a kept connection that the server had closed. Then it may be sent again at
/// once on a new connection, with the same idempotency key.
pub fn is_stale(error: &ureq::Error) -> bool {
    matches!(Fault::of(error), Some(Fault::Stale))
}

/// Why a request got no answer.
pub struct NoAnswer {
    /// What is wrong and what to do.
    pub why: String,
    /// A retry may succeed.
    pub passes: bool,
    /// The request may have reached the server.
    pub may_have_arrived: bool,
}

/// Explains why a request got no answer.
pub fn explain(error: &ureq::Error) -> NoAnswer {
    let (error, unconnected) = match Fault::of(error) {
        Some(Fault::Unconnected(inner)) => (inner, true),
        _ => (error, false),
    };
    let (why, passes) = reason(error);
    // A server that does not match our side of the connection takes no request. But an invalid answer is an answer.
    let is_refused = !passes && !matches!(error, ureq::Error::Protocol(_));
    NoAnswer { why, passes, may_have_arrived: !unconnected && !is_refused }
}

/// Returns what is wrong, and whether a retry may succeed.
fn reason(error: &ureq::Error) -> (String, bool) {
    let why = match error {
        ureq::Error::Io(error) => match (tls_fault(error), error.kind()) {
            (Some(fault), _) => {
                let (why, passes) = explain_tls(fault);
                return (format!("{why} ({})", quote(&fault.to_string())), passes);
            }
            (_, ErrorKind::ConnectionRefused) => "connection refused (is the server running?)".into(),
            (_, ErrorKind::UnexpectedEof) => "the connection was closed before the answer was complete".into(),
            _ => error.to_string(),
        },
        ureq::Error::Timeout(ureq::Timeout::Connect) => "no connection within --connect-timeout".into(),
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "the name was not found within --connect-timeout".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::HostNotFound => "unknown host name".into(),
        ureq::Error::Protocol(ureq_proto::Error::HttpParseTooManyHeaders) => {
            return (format!("the answer has more than {MAX_HEADERS} headers"), false);
        }
        ureq::Error::Other(fault) => fault.to_string(),
        _ => error.to_string(),
    };
    let passes = match error {
        // A proxy that refuses (4xx) will refuse a retry too.
        ureq::Error::ConnectProxyFailed(said) => !said.contains("responded 4"),
        error => !matches!(Fault::of(error), Some(Fault::Permanent(_))),
    };
    (why, passes)
}

/// Returns the TLS library's error within an error of a connection.
pub(super) fn tls_fault(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn explain_tls(fault: &rustls::Error) -> (String, bool) {
    let why = match fault {
        rustls::Error::InvalidCertificate(error) => return (distrust(error), false),
        rustls::Error::AlertReceived(alert) => {
            // These are about a fault of the server or the network.
            let passes = matches!(alert, Alert::InternalError | Alert::UserCanceled | Alert::BadRecordMac);
            return (refusal(*alert).into(), passes);
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak https (should the URL begin with http://?)"
        }
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "the server supports only outdated TLS; sortie needs TLS 1.2 or 1.3"
        }
        rustls::Error::PeerIncompatible(_) => "the server and sortie have no TLS settings in common",
        _ => return ("the TLS connection failed".into(), true),
    };
    (why.into(), false)
}

/// Formats a time of a certificate.
pub(super) fn date(time: UnixTime) -> String {
    let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    date.map_or_else(|| "an unknown date".to_owned(), |date| humantime::format_rfc3339_seconds(date).to_string())
}

/// Returns what is wrong with the server's certificate.
fn distrust(error: &CertificateError) -> String {
    match error {
        // BadSignature: we trust another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by a trusted authority; --cacert names a PEM file to trust".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "its certificate is for another name: it has no subjectAltName".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            // `DnsName("a.example")`
            let name = |name: &String| name.split_once('(').map_or(name.as_str(), |(_, rest)| rest).to_owned();
            let names: Vec<_> = presented.iter().map(name).collect();
            let names = names.join(", ").replace(['"', ')'], "");
            format!("its certificate is for another name: {}", quote(&names))
        }
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired on {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid yet: it is valid from {}", date(*not_before))
        }
        CertificateError::Other(other)
            if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            format!(
                "its certificate is that of an authority and cannot be used by a server; this creates one that can: {HOW_TO}"
            )
        }
        _ => "its certificate is not valid".into(),
    }
}

/// Explains the server's TLS alert.
const fn refusal(alert: Alert) -> &'static str {
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            "the server wants a client certificate; give --cert and --key"
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "the server wants another client certificate (--cert, --key)",
        // TLS 1.2 sends this for a missing client certificate.
        Alert::HandshakeFailure => {
            "the server refuses the TLS connection; it may want a client certificate (--cert, --key)"
        }
        Alert::UnrecognisedName => "the server does not know this host name",
        Alert::NoApplicationProtocol => "the server speaks only HTTP/2; sortie needs HTTP/1.1",
        Alert::ProtocolVersion | Alert::InsufficientSecurity => {
            "the server refuses TLS 1.2 and 1.3 with sortie's settings"
        }
        _ => "the server refuses the TLS connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::PeerMisbehaved;

    #[test]
    fn a_tls_fault_says_what_to_do_and_whether_it_passes() {
        let alert = rustls::Error::AlertReceived;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(9));
        let rows = [
            (alert(Alert::CertificateRequired), "--cert and --key", false),
            (alert(Alert::HandshakeFailure), "may want a client certificate", false),
            (alert(Alert::UnknownCA), "another client certificate", false),
            (alert(Alert::CertificateExpired), "another client certificate", false),
            (alert(Alert::UnrecognisedName), "does not know this host name", false),
            (alert(Alert::NoApplicationProtocol), "HTTP/2", false),
            (alert(Alert::ProtocolVersion), "TLS 1.2 and 1.3", false),
            (alert(Alert::DecodeError), "refuses the TLS connection", false),
            (alert(Alert::InternalError), "refuses the TLS connection", true),
            (alert(Alert::BadRecordMac), "refuses the TLS connection", true),
            (InvalidMessage::InvalidContentType.into(), "does not speak https", false),
            (InvalidMessage::MessageTooLarge.into(), "failed", true),
            (PeerIncompatible::ServerDoesNotSupportTls12Or13.into(), "TLS 1.2 or 1.3", false),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), "no TLS settings in common", false),
            (PeerMisbehaved::TooMuchEarlyDataReceived.into(), "failed", true),
            (CertificateError::UnknownIssuer.into(), "--cacert", false),
            (CertificateError::BadSignature.into(), "--cacert", false),
            (CertificateError::Expired.into(), "expired", false),
            (CertificateError::NotValidYetContext { time, not_before: time }.into(), "1970-01-01T00:00:09Z", false),
            (CertificateError::ExpiredContext { time, not_after: time }.into(), "1970-01-01T00:00:09Z", false),
            (CertificateError::BadEncoding.into(), "not valid", false),
        ];
        for (fault, says, passes) in rows {
            let library = fault.to_string();
            for (unconnected, error) in [false, true].map(|unconnected| {
                let error = ureq::Error::Io(io::Error::other(fault.clone()));
                (unconnected, if unconnected { Fault::unconnected(error) } else { error })
            }) {
                let answer = explain(&error);
                assert!(answer.why.contains(says), "{says}: {}", answer.why);
                assert!(answer.why.ends_with(&format!("({library})")), "our words come first: {}", answer.why);
                assert_eq!(answer.passes, passes, "{says}");
                assert_eq!(answer.may_have_arrived, !unconnected && passes, "{says}");
            }
        }
    }

    #[test]
    fn without_a_connection_the_request_was_not_sent() {
        let refused = || ureq::Error::Io(ErrorKind::ConnectionRefused.into());
        let timed_out = ureq::Error::Timeout(ureq::Timeout::Connect);
        for (error, arrived) in [
            (Fault::unconnected(refused()), false),
            (Fault::unconnected(Fault::unconnected(refused())), false),
            (Fault::unconnected(timed_out), false),
            (Fault::unconnected(ureq::Error::Other("no such name".into())), false),
            (Fault::Stale.into(), true),
            (Fault::ended(), true),
            (ureq::Error::Io(ErrorKind::UnexpectedEof.into()), true),
            (ureq::Error::Timeout(ureq::Timeout::RecvResponse), true),
            (ureq::Error::Protocol(ureq_proto::Error::HttpParseTooManyHeaders), true),
        ] {
            assert_eq!(explain(&error).may_have_arrived, arrived, "{error:?}");
        }
    }
}

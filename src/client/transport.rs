//! The connection: one agent without reuse, redirects or decoding, whose body reads wake up often enough to look round.

use super::server::Server;
use crate::outcome::{Failure, Reason};
use std::io::{ErrorKind, Read};
use std::time::Duration;
use ureq::AsSendBody;
use ureq::http::Request;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::time::Duration as Span;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

/// A body read that blocks for so long gives its caller a chance to look round.
pub const TICK: Duration = Duration::from_millis(250);
/// Bound on the head of an answer, however it drips, and on the body of a call's.
pub const ANSWER: Duration = Duration::from_secs(30);

/// Makes the agent. Each request brings its own bounds.
pub fn agent(server: &Server) -> ureq::Agent {
    let roots = match &server.roots {
        Some(certificates) => RootCerts::new_with_certs(certificates),
        None => RootCerts::PlatformVerifier,
    };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would turn a POST into a GET, or carry the token elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(server.proxy.clone().filter(|_| server.asked_proxy().is_none()))
        .user_agent(concat!("sortie/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        // A reused connection may be closed by the server just as the next request goes out: a lost answer.
        .max_idle_connections(0)
        .build();
    let origin = server.asked_proxy().map(|_| format!("http://{}", server.authority()));
    ureq::Agent::with_parts(
        config,
        DefaultConnector::default().chain(Ticking { origin }),
        DefaultResolver::default(),
    )
}

/// A request that has `patience` for its answer's head, and for each write of its own.
pub fn bounded<B: AsSendBody>(
    agent: &ureq::Agent,
    request: Request<B>,
    connect_timeout: Duration,
    patience: Duration,
) -> Request<B> {
    let connect_timeout = Some(connect_timeout.min(patience));
    agent
        .configure_request(request)
        .timeout_resolve(connect_timeout)
        .timeout_connect(connect_timeout)
        .timeout_per_write(Some(patience))
        .timeout_recv_response(Some(patience))
        .build()
}

/// Gives the reads of a body, which have no bound of their own, one of a tick. The agent's `timeout_per_read` would
/// bound the reads of the head and of the TLS handshake too, and fail on a slow line.
#[derive(Debug)]
struct Ticking {
    /// What a proxy must be told before the path: `GET http://HOST:PORT/PATH`. The HTTP crate only ever asks for a
    /// path, and uses CONNECT for all that goes through a proxy.
    origin: Option<String>,
}

impl<In: Transport> Connector<In> for Ticking {
    type Out = TickingTransport<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|transport| TickingTransport(transport, self.origin.clone())))
    }
}

/// The transport, and what goes before the path of the one request that it takes.
#[derive(Debug)]
struct TickingTransport<T>(T, Option<String>);

impl<T: Transport> Transport for TickingTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, mut amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if let Some(origin) = self.1.take() {
            let output = self.0.buffers().output();
            let longer = amount + origin.len();
            let path = output.iter().position(|byte| *byte == b' ').map_or(amount, |space| space + 1);
            if path >= amount || longer > output.len() {
                return Err(ureq::Error::BadUri("the request does not begin as one".into()));
            }
            output.copy_within(path..amount, path + origin.len());
            output[path..path + origin.len()].copy_from_slice(origin.as_bytes());
            amount = longer;
        }
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if matches!(timeout.after, Span::NotHappening) {
            timeout.per_read = Some(TICK.into());
        }
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// What a read of a body brought.
#[derive(Debug)]
pub enum Chunk {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for a [`TICK`]; reading may go on.
    Tick,
    /// The body's end. On a close-delimited body a cut looks the same.
    End,
}

/// The body of an answer.
pub struct Body(ureq::BodyReader<'static>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

impl Body {
    pub(super) fn new(body: ureq::Body) -> Self {
        Self(body.into_with_config().limit(u64::MAX).reader())
    }

    /// Reads what is there, or waits for a tick.
    ///
    /// # Errors
    /// `Connection` when the connection breaks.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Chunk, Failure> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => return Ok(Chunk::End),
                Ok(length) => return Ok(Chunk::Bytes(length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return match ureq::Error::from(error) {
                        ureq::Error::Timeout(ureq::Timeout::PerRead) => Ok(Chunk::Tick),
                        error => Err(failure("read the answer", &error)),
                    };
                }
            }
        }
    }
}

/// A call that got no answer, in words.
pub fn failure(doing: &str, error: &ureq::Error) -> Failure {
    let said = error.to_string();
    if let Some(why) = distrust(&said) {
        // The same certificate will be no better in a moment.
        return Failure::new(Reason::Connection, format!("{doing}: {why}")).retryable(false);
    }
    let why = match error {
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused: nothing listens there".into(),
            ErrorKind::UnexpectedEof => "the connection was closed before the answer was complete".into(),
            _ => error.to_string(),
        },
        ureq::Error::Timeout(ureq::Timeout::Connect) => "no connection within --connect-timeout".into(),
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "the name was not found within --connect-timeout".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::HostNotFound => "there is no host of that name".into(),
        _ => said,
    };
    let never_left = match error {
        ureq::Error::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(timeout) => matches!(timeout, ureq::Timeout::Connect | ureq::Timeout::Resolve),
        error => matches!(error, ureq::Error::HostNotFound | ureq::Error::ConnectProxyFailed(_)),
    };
    // A proxy that says no (4xx) will say it again.
    let refused = matches!(error, ureq::Error::ConnectProxyFailed(said) if said.contains("responded 4"));
    Failure::new(Reason::Connection, format!("{doing}: {why}")).retryable(!refused).in_doubt(!never_left)
}

/// What is wrong with the server's certificate, by the words of the TLS library, whose types the HTTP crate keeps to
/// itself.
fn distrust(said: &str) -> Option<String> {
    let why = if said.contains("UnknownIssuer") {
        "its certificate is signed by nobody that is trusted here (--cacert names a PEM file to trust)"
    } else if said.contains("not valid for name") || said.contains("NotValidForName") {
        "its certificate is for another name"
    } else if said.contains("expired") || said.contains("Expired") {
        "its certificate has expired"
    } else if said.contains("not valid yet") || said.contains("NotValidYet") {
        "its certificate is not valid yet"
    } else if said.contains("invalid peer certificate") {
        "its certificate is not valid"
    } else {
        return None;
    };
    Some(format!("{why}: {said}"))
}

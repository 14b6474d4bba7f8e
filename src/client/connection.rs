//! Our own sockets below the HTTP crate. They are non-blocking and polled together with the watch, so that the
//! deadline or a signal interrupts every wait without a thread.

use super::address::{Address, Memory};
use super::fault::{self, Fault};
use super::race;
use super::tls::TlsConnector;
use super::wait::{Ready, later, wait};
use crate::watchdog::Watch;
use rustix::event::{PollFd, PollFlags};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// The longest read of a body without data.
pub const TICK: Duration = Duration::from_millis(250);
/// The longest such read for a reader of many streams, which looks at one after the other.
pub const GLANCE_TICK: Duration = Duration::from_millis(2);
/// The longest such read after the deadline or a signal: only data that has arrived counts.
const LAST_TICK: Duration = Duration::from_millis(1);
/// How long a body can be read after the deadline or a signal. Input such as endless trailers never returns
/// a byte of the body, so the caller could not stop by itself.
const LAST_READS: Duration = Duration::from_secs(1);
/// The limit for the head of an answer, and again for its body.
pub const ANSWER: Duration = Duration::from_secs(30);
/// How long an idle connection is kept for the next request.
const KEEP: Duration = Duration::from_secs(1);
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The input buffer, in bytes. It is larger than the largest head, so that a head that is too large does not look
/// like one that was cut.
const INPUT: usize = MAX_HEAD + 4 * 1024;
/// The first input buffer, until an answer fills it, in bytes: a short run never uses the memory of the large one.
const SHORT_INPUT: usize = 12 * 1024;
/// The output buffer, in bytes. The head of a request must fit, with a token of 16 KiB.
const OUTPUT: usize = 32 * 1024;

/// Creates the HTTP agent. The time limits come with each request.
///
/// With `keep`, a connection is kept for the next request. If the server closes it just when the request is sent, the
/// request may or may not have arrived. The client then sends it again: a POST has an idempotency key, so that the
/// server does its work only once (see [`fault::is_stale`]).
pub fn agent(server: &Address, keep: bool, tick: Duration, watch: &Watch) -> ureq::Agent {
    let forward_proxy = server.forward_proxy();
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A redirect could turn a POST into a GET, or send the token to another server.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(server.tunnel().cloned())
        .user_agent(concat!("sortie/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(MAX_HEAD)
        .input_buffer_size(INPUT)
        .output_buffer_size(OUTPUT)
        // A proxy may send each request to another server.
        .max_idle_connections(usize::from(keep && forward_proxy.is_none()))
        .max_idle_age(KEEP)
        .build();
    let tls = TlsConnector { tls: server.tls.clone(), buffers: (INPUT, OUTPUT) };
    let tcp = TcpConnector { watch: watch.clone(), memory: server.memory.clone(), tick };
    let chain = ().chain(ConnectProxyConnector::default()).chain(tcp).chain(tls);
    let origin = forward_proxy.map(|_| format!("http://{}", server.authority()));
    ureq::Agent::with_parts(config, HttpConnector { chain, origin }, NoResolver)
}

/// [`TcpConnector`] does the look-up, which is not needed for a kept connection or a remembered address.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Connects to the host of the request or of the proxy.
struct TcpConnector {
    watch: Watch,
    memory: Memory,
    tick: Duration,
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpConnector")
    }
}

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, TcpTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        // There is a tunnel through a proxy already.
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        let connect_by = later(*details.timeout.after);
        let stream = race::connect(host, port, &self.memory, &self.watch, connect_by)?;
        stream.set_nodelay(true)?;
        let buffers = LazyBuffers::new(SHORT_INPUT, OUTPUT);
        Ok(Some(Either::B(TcpTransport {
            stream,
            buffers,
            is_short: true,
            watch: self.watch.clone(),
            connect_by,
            tick: self.tick,
            ending: None,
            is_shut: false,
        })))
    }
}

/// A non-blocking socket.
struct TcpTransport {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// The input buffer has its first length.
    is_short: bool,
    watch: Watch,
    /// The deadline for the handshakes with a proxy and with TLS: the HTTP crate gives each of them the whole connect
    /// timeout.
    connect_by: Instant,
    /// The longest read of a body.
    tick: Duration,
    /// When a body was first read after the deadline or a signal.
    ending: Option<Instant>,
    /// The server no longer reads. Its answer can still be read.
    is_shut: bool,
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpTransport({:?})", self.stream.peer_addr().ok())
    }
}

impl TcpTransport {
    /// Replaces the short input buffer by the large one.
    fn enlarge(&mut self) {
        let mut buffers = LazyBuffers::new(INPUT, OUTPUT);
        let input = self.buffers.input();
        buffers.input_append_buf()[..input.len()].copy_from_slice(input);
        buffers.input_appended(input.len());
        (self.buffers, self.is_short) = (buffers, false);
    }

    /// Waits until the socket is ready.
    ///
    /// The deadline or a signal ends a wait at once, but not the read of a body: it ends after a tick,
    /// because data that has arrived counts.
    fn wait(&self, flags: PollFlags, timeout: NextTimeout, end: &mut Option<Instant>) -> Result<(), ureq::Error> {
        let mut fds = vec![PollFd::new(&self.stream, flags)];
        if timeout.after.is_not_happening() {
            let (tick, watch) =
                if self.ending.is_some() { (LAST_TICK, None) } else { (self.tick, Some(&self.watch)) };
            return match wait(&mut fds, watch, Instant::now() + tick)? {
                Ready::Descriptor => Ok(()),
                Ready::Cause | Ready::Time => Err(ureq::Error::Timeout(ureq::Timeout::PerRead)),
            };
        }
        let mut end = *end.get_or_insert_with(|| later(*timeout.after));
        if timeout.reason == ureq::Timeout::Connect {
            end = end.min(self.connect_by);
        }
        match wait(&mut fds, Some(&self.watch), end)? {
            Ready::Descriptor => Ok(()),
            Ready::Cause => Err(Fault::ended()),
            Ready::Time => Err(ureq::Error::Timeout(timeout.reason)),
        }
    }
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let (mut sent, mut end) = (0, None);
        while sent < amount && !self.is_shut {
            match self.stream.write(&self.buffers.output()[sent..amount]) {
                Ok(written) => sent += written,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.wait(PollFlags::OUT, timeout, &mut end)?;
                }
                // The answer may tell why: the request is too large, or a client certificate is missing.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.is_shut = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        if timeout.after.is_not_happening() && self.watch.cause().is_some() {
            let since = self.ending.get_or_insert_with(Instant::now);
            if since.elapsed() > LAST_READS {
                return Err(Fault::ended());
            }
        }
        let mut end = None;
        loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    if self.is_short && self.buffers.input_append_buf().is_empty() {
                        self.enlarge();
                    }
                    return Ok(amount > 0);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.wait(PollFlags::IN, timeout, &mut end)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // A kept connection with unread bytes is useless too.
        self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// The chain of connectors: TCP, perhaps through a proxy, perhaps with TLS.
#[derive(Debug)]
struct HttpConnector<C> {
    chain: C,
    /// `http://HOST:PORT` for a plain http proxy, written before the request's path. The HTTP crate itself can only use
    /// CONNECT with a proxy.
    origin: Option<String>,
}

impl<C: Connector> Connector for HttpConnector<C> {
    type Out = HttpTransport<C::Out>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let transport = self.chain.connect(details, None).map_err(Fault::unconnected)?;
        Ok(transport.map(|inner| HttpTransport { inner, origin: self.origin.clone(), heard: false, kept: false }))
    }
}

/// A connection that recognizes stale connections and other protocols.
#[derive(Debug)]
struct HttpTransport<T> {
    inner: T,
    /// See [`HttpConnector`]. A proxy gets one request on each connection.
    origin: Option<String>,
    /// A byte of the current answer has come.
    heard: bool,
    /// There was an earlier request on this connection.
    kept: bool,
}

impl<T> HttpTransport<T> {
    /// Replaces the error of a kept connection that broke before the first byte of the answer: the server had closed
    /// it.
    fn stale(&self, error: ureq::Error) -> ureq::Error {
        match error {
            ureq::Error::Io(error) if self.kept && !self.heard && fault::tls_fault(&error).is_none() => {
                Fault::Stale.into()
            }
            error => error,
        }
    }
}

impl<T: Transport> Transport for HttpTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, mut amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if let Some(origin) = self.origin.take() {
            let output = self.inner.buffers().output();
            let longer = amount + origin.len();
            let path = output.iter().position(|byte| *byte == b' ').map_or(amount, |space| space + 1);
            if path >= amount || longer > output.len() {
                return Err(ureq::Error::BadUri("the request does not begin as one".into()));
            }
            output.copy_within(path..amount, path + origin.len());
            output[path..path + origin.len()].copy_from_slice(origin.as_bytes());
            amount = longer;
        }
        self.inner.transmit_output(amount, timeout).map_err(|error| self.stale(error))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let brought = self.inner.await_input(timeout).map_err(|error| self.stale(error))?;
        if self.heard {
            return Ok(brought);
        }
        self.heard = brought;
        if self.kept {
            return if brought { Ok(true) } else { Err(Fault::Stale.into()) };
        }
        match self.inner.buffers().input() {
            // HTTP/2 begins with a SETTINGS frame: length, type and stream.
            [_, _, _, 4, _, 0, 0, 0, 0, ..] => {
                Err(Fault::permanent("the server speaks only HTTP/2; sortie needs HTTP/1.1"))
            }
            // A TLS alert or handshake.
            [0x15 | 0x16, 3, ..] => {
                Err(Fault::permanent("the server speaks https, but the URL begins with http://; use https://"))
            }
            _ => Ok(brought),
        }
    }

    fn is_open(&mut self) -> bool {
        // The HTTP crate asks this between two requests.
        (self.kept, self.heard) = (true, false);
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// The result of a read.
pub enum Chunk {
    /// The number of bytes.
    Bytes(usize),
    /// No data for a [`TICK`], or for less after the deadline or a signal.
    Tick,
    /// The end of the body, or perhaps a broken connection, if nothing tells the body's length.
    End,
}

pub struct Body(ureq::BodyReader<'static>);

impl Body {
    pub(super) fn new(body: ureq::Body) -> Self {
        Self(body.into_with_config().limit(u64::MAX).reader())
    }

    /// Reads, or waits for a tick. After the deadline or a signal, data that has arrived can still be read. The error
    /// says why the connection broke.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Chunk, String> {
        match self.0.read(buffer) {
            Ok(0) => Ok(Chunk::End),
            Ok(length) => Ok(Chunk::Bytes(length)),
            Err(error) => match ureq::Error::from(error) {
                ureq::Error::Timeout(ureq::Timeout::PerRead) => Ok(Chunk::Tick),
                error => Err(fault::explain(&error).why),
            },
        }
    }
}

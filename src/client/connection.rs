//! The connection: our own sockets below the HTTP crate. All of them are non-blocking and are polled together with the
//! watch, so that a cause to end interrupts every wait without a thread.

use super::address::{Address, Memory};
use super::fault::{self, Fault};
use super::race;
use super::tls::TlsConnector;
use super::wait::{Woken, wait};
use crate::watchdog::Watch;
use rustix::event::{PollFd, PollFlags};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use ureq::AsSendBody;
use ureq::http::{Request, Response, Uri, header};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// A read of an event stream that finds nothing for this long returns to its caller.
pub const TICK: Duration = Duration::from_millis(250);
/// The same for a reader of many streams, which looks at one after the other.
pub const GLANCE_TICK: Duration = Duration::from_millis(2);
/// The same once there is a cause to end: the caller only takes what has already arrived.
const LAST_TICK: Duration = Duration::from_millis(1);
/// How long an event stream may still be read once there is a cause to end. Input such as endless trailers never yields
/// a byte of the body, so that the caller itself would never get to stop.
const LAST_READS: Duration = Duration::from_secs(1);
/// Bound on the head of an answer, however slowly it comes, and then on the body of a call's answer.
pub const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection is kept for the next request.
const KEEP: Duration = Duration::from_secs(1);
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The buffer for input, in bytes. It is larger than the largest head, so that a head that is too large can be told from
/// one that was cut.
const INPUT: usize = MAX_HEAD + 4 * 1024;
/// The buffer for output, in bytes. A head of our own must fit, with a token of 16 KiB in it.
const OUTPUT: usize = 32 * 1024;

/// Makes the agent. Each request brings its own bounds.
///
/// With `keep`, a connection is kept for the next request. The server may close a kept connection just as that request
/// goes out. Then nobody can tell whether the server took it. That is no new danger, because any answer may be lost:
/// the caller sends the request again, a POST under the same idempotency key, and the server does the work of a key
/// once. So a prompt is never sent twice (see [`fault::is_stale`]).
pub fn agent(server: &Address, keep: bool, tick: Duration, watch: &Watch) -> ureq::Agent {
    let asked_proxy = server.asked_proxy();
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would turn a POST into a GET, or carry the token elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(server.proxy().filter(|_| asked_proxy.is_none()).cloned())
        .user_agent(concat!("sortie/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(MAX_HEAD)
        .input_buffer_size(INPUT)
        .output_buffer_size(OUTPUT)
        // A proxy may send each request to another server.
        .max_idle_connections(usize::from(keep && asked_proxy.is_none()))
        .max_idle_age(KEEP)
        .build();
    let tls = TlsConnector { tls: server.tls().clone(), buffers: (INPUT, OUTPUT) };
    let tcp = TcpConnector { watch: watch.clone(), memory: server.memory(), tick };
    let chain = ().chain(ConnectProxyConnector::default()).chain(tcp).chain(tls);
    let origin = asked_proxy.map(|_| format!("http://{}", server.authority()));
    ureq::Agent::with_parts(config, HttpConnector { chain, origin }, NoResolver)
}

/// The bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// On the connect as a whole, with the look-up and the TLS handshake.
    pub connect: Duration,
    /// On the answer's head, and on each write.
    pub patience: Duration,
    /// On the answer's body. An event stream has none: its reads return after a [`TICK`] instead.
    pub body: Option<Duration>,
}

/// Returns the request with its bounds.
pub fn bounded<B: AsSendBody>(agent: &ureq::Agent, request: Request<B>, bounds: Bounds) -> Request<B> {
    agent
        .configure_request(request)
        .timeout_connect(Some(bounds.connect.min(bounds.patience)))
        .timeout_per_write(Some(bounds.patience))
        .timeout_recv_response(Some(bounds.patience))
        .timeout_recv_body(bounds.body)
        .build()
}

/// Leaves the look-up to [`TcpConnector`], which needs none for a kept connection or a remembered address.
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

/// Connects to the host of the request, or to that of the proxy.
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
        // A tunnel through a proxy.
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        let connect_by = later(*details.timeout.after);
        let stream = race::connect(host, port, &self.memory, &self.watch, connect_by)?;
        stream.set_nodelay(true)?;
        let buffers = LazyBuffers::new(INPUT, OUTPUT);
        Ok(Some(Either::B(TcpTransport {
            stream,
            buffers,
            watch: self.watch.clone(),
            connect_by,
            tick: self.tick,
            ending: None,
            is_shut: false,
        })))
    }
}

/// The point in time after this duration. One that cannot be represented becomes a day from now.
fn later(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + Duration::from_secs(86_400))
}

/// A non-blocking socket.
struct TcpTransport {
    stream: TcpStream,
    buffers: LazyBuffers,
    watch: Watch,
    /// When the handshakes with a proxy and with TLS must be over. The HTTP crate would give each of them the whole
    /// connect timeout.
    connect_by: Instant,
    /// How long the read of an event stream waits.
    tick: Duration,
    /// When an event stream was first read with a cause to end.
    ending: Option<Instant>,
    /// The server has stopped reading. What it said before that can still be read.
    is_shut: bool,
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpTransport({:?})", self.stream.peer_addr().ok())
    }
}

impl TcpTransport {
    /// Waits until the socket is ready.
    ///
    /// A wait that has a bound ends at once at a cause. The read of an event stream has none: it ends after a tick, and
    /// never by the cause itself, because what has already arrived counts.
    fn wait(&self, flags: PollFlags, timeout: NextTimeout, end: &mut Option<Instant>) -> Result<(), ureq::Error> {
        let mut fds = vec![PollFd::new(&self.stream, flags)];
        if timeout.after.is_not_happening() {
            let (tick, watch) =
                if self.ending.is_some() { (LAST_TICK, None) } else { (self.tick, Some(&self.watch)) };
            return match wait(&mut fds, watch, Instant::now() + tick)? {
                Woken::Ready => Ok(()),
                Woken::Cause | Woken::Late => Err(ureq::Error::Timeout(ureq::Timeout::PerRead)),
            };
        }
        let mut end = *end.get_or_insert_with(|| later(*timeout.after));
        if timeout.reason == ureq::Timeout::Connect {
            end = end.min(self.connect_by);
        }
        match wait(&mut fds, Some(&self.watch), end)? {
            Woken::Ready => Ok(()),
            Woken::Cause => Err(Fault::Ended.into()),
            Woken::Late => Err(ureq::Error::Timeout(timeout.reason)),
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
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, timeout, &mut end)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server may have said why: the request is too large, or a client certificate is missing.
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
                return Err(Fault::Ended.into());
            }
        }
        let mut end = None;
        loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, timeout, &mut end)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // A connection with bytes that nobody asked for is useless, too.
        self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// The whole chain: a TCP connection, perhaps through a proxy, perhaps with TLS.
#[derive(Debug)]
struct HttpConnector<C> {
    chain: C,
    /// What a proxy must be told before the path: `GET http://HOST:PORT/PATH`. The HTTP crate only ever asks for a
    /// path, and uses CONNECT for all that goes through a proxy.
    origin: Option<String>,
}

impl<C: Connector> Connector for HttpConnector<C> {
    type Out = HttpTransport<C::Out>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let transport = self.chain.connect(details, None).map_err(Fault::unconnected)?;
        Ok(transport.map(|inner| HttpTransport { inner, origin: self.origin.clone(), heard: false, kept: false }))
    }
}

/// A connection as HTTP sees it.
#[derive(Debug)]
struct HttpTransport<T> {
    inner: T,
    /// What goes before the path of the one request that a proxy takes.
    origin: Option<String>,
    /// A byte of the present answer has come.
    heard: bool,
    /// The connection has already brought an answer.
    kept: bool,
}

impl<T> HttpTransport<T> {
    /// Marks the error of a kept connection that broke before the first byte of the answer: the server had closed the
    /// connection.
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
            // The length, type and stream of a SETTINGS frame, with which HTTP/2 begins.
            [_, _, _, 4, _, 0, 0, 0, 0, ..] => Err(Fault::Http2.into()),
            // An alert or a handshake.
            [0x15 | 0x16, 3, ..] => Err(Fault::Https.into()),
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

/// Whether the end of the answer's body is the end of the connection, so that a cut body looks whole.
pub fn is_close_delimited(answer: &Response<ureq::Body>) -> bool {
    let headers = answer.headers();
    !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// What a read of a body brought.
#[derive(Debug)]
pub enum Chunk {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for a [`TICK`], or less where there is a cause to end; reading may go on. Only in an event stream.
    Tick,
    /// The body's end. On a close-delimited body a cut looks the same.
    End,
}

/// The body of an answer.
pub struct Body(ureq::BodyReader<'static>);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Body {
    pub(super) fn new(body: ureq::Body) -> Self {
        Self(body.into_with_config().limit(u64::MAX).reader())
    }

    /// Reads what is there, or waits for a tick. The reads of an event stream go on after a cause to end, so that the
    /// caller can take what has already arrived; all others end with it.
    ///
    /// # Errors
    /// Why the connection broke.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Chunk, String> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => return Ok(Chunk::End),
                Ok(length) => return Ok(Chunk::Bytes(length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return match ureq::Error::from(error) {
                        ureq::Error::Timeout(ureq::Timeout::PerRead) => Ok(Chunk::Tick),
                        error => Err(fault::explain(&error).why),
                    };
                }
            }
        }
    }
}

//! A gateway between the client and one or more servers (replicas): a relay for HTTP/1.1 that does what the test tells
//! it. It can answer a call itself, hold an answer back, cut or delay it, or pass a call on to another server.
//!
//! A call passes unchanged unless the test has made a rule for it. A rule names calls by their route and their number,
//! counted from 1 in the order in which the calls arrive. Where two rules are for the same call, the newer one holds.
//!
//! Between the gateway and the server each call has a connection of its own; between the client and the gateway
//! connections are kept open as long as the client wants it and the answer allows it.

use super::PATIENCE;
use super::agent::{Agent, Route, TOKEN};
use super::gate::{Barrier, Gate};
use super::http::{Connection, Ending, Listener, Request};
use super::process::{Running, Sortie};
use super::watched::Watched;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Some of the calls that arrive: see the module.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// All routes, if none; the numbers then count all calls.
    route: Option<Route>,
    first: usize,
    last: usize,
}

impl Calls {
    /// All calls, whatever their route.
    pub const fn all() -> Self {
        Self { route: None, first: 1, last: usize::MAX }
    }

    /// All calls of a route.
    pub const fn of(route: Route) -> Self {
        Self { route: Some(route), first: 1, last: usize::MAX }
    }

    /// Of these, the one with this number.
    pub const fn number(self, number: usize) -> Self {
        Self { first: number, last: number, ..self }
    }

    /// Of these, the one with this number and all later ones.
    pub const fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// Of these, the first ones up to and with this number.
    pub const fn up_to(self, last: usize) -> Self {
        Self { last, ..self }
    }

    fn has(self, route: Option<Route>, numbers: Numbers) -> bool {
        let number = match self.route {
            None => numbers.among_all,
            Some(_) if self.route == route => numbers.of_its_route,
            Some(_) => return false,
        };
        (self.first..=self.last).contains(&number)
    }
}

impl From<Route> for Calls {
    fn from(route: Route) -> Self {
        Self::of(route)
    }
}

/// Which number a call has.
#[derive(Clone, Copy)]
struct Numbers {
    among_all: usize,
    of_its_route: usize,
}

/// An answer that the gateway gives in the server's place.
#[derive(Clone, Debug)]
pub struct Page {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Page {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".to_owned(), content_type.to_owned())], body: body.into() }
    }

    /// A page for people, as proxies send it.
    pub fn html(status: u16) -> Self {
        let body = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n\
             <hr><center>nginx/1.27.3</center>\r\n</body>\r\n</html>\r\n"
        );
        Self::new(status, "text/html", body)
    }

    /// JSON that is not the agent server's, unless the test makes it so.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// A status without a body.
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The way to a login page.
    pub fn redirect(location: &str) -> Self {
        Self::html(302).with("location", location)
    }

    /// Adds a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn send(&self, connection: &mut Connection) -> bool {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        connection.respond(self.status, &headers, &self.body)
    }
}

/// What the gateway does with a call.
#[derive(Clone)]
enum Deed {
    Pass,
    AnswerInstead(Page),
    AnswerAfterwards(Page),
    HoldBack(Part),
    Delay(Part, Barrier),
    HoldRequest(Barrier),
    Cut(usize, Ending),
    BlackHole,
    HangUp,
}

/// Which part of an answer waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Head and body.
    All,
    /// The head passes at once.
    Body,
}

#[derive(Default)]
struct State {
    servers: Vec<SocketAddr>,
    /// Which server gets a call that no entry of `ways` is for.
    server: usize,
    ways: Vec<(Calls, usize)>,
    rules: Vec<(Calls, Deed)>,
    gates: Vec<Barrier>,
    calls: Vec<(Option<Route>, Request)>,
    relays: Vec<Weak<TcpStream>>,
    down: bool,
    hung_up: usize,
    closing: bool,
}

impl State {
    fn count(&self, route: Option<Route>) -> usize {
        self.calls.iter().filter(|(known, _)| route.is_none() || *known == route).count()
    }

    /// Notes a call, and says what is to be done with it and which server it is for.
    fn take(&mut self, request: &Request) -> (Deed, SocketAddr) {
        let route = Route::of(request).map(|(route, _)| route);
        self.calls.push((route, request.clone()));
        let of_its_route = if route.is_some() { self.count(route) } else { 0 };
        let numbers = Numbers { among_all: self.calls.len(), of_its_route };
        let is_for = |calls: &Calls| calls.has(route, numbers);
        let deed = self.rules.iter().rev().find(|(calls, _)| is_for(calls)).map(|(_, deed)| deed.clone());
        let way = self.ways.iter().rev().find(|(calls, _)| is_for(calls)).map(|(_, server)| *server);
        (deed.unwrap_or(Deed::Pass), self.servers[way.unwrap_or(self.server)])
    }

    fn close(&mut self) {
        self.closing = true;
        self.gates.iter().for_each(Barrier::open);
        self.let_go();
    }

    /// Ends all connections to the servers.
    fn let_go(&mut self) {
        for stream in std::mem::take(&mut self.relays).iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

type Shared = Watched<State>;

/// See the module.
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// None while connections are refused.
    listener: Mutex<Option<Listener>>,
}

impl Gateway {
    /// A gateway in front of one server.
    pub fn to(agent: &Agent) -> Self {
        Self::to_servers([agent.address()])
    }

    /// A gateway in front of replicas, of which the first gets all calls until the test says otherwise.
    pub fn to_servers(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let servers: Vec<SocketAddr> = servers.into_iter().collect();
        assert!(!servers.is_empty(), "a gateway to nowhere");
        let shared = Arc::new(Watched::new(State { servers, ..State::default() }));
        let listener = Listener::start(serving(&shared));
        Self { address: listener.address, shared, listener: Mutex::new(Some(listener)) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A command line for the servers behind the gateway, with their token.
    pub fn sortie<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Sortie {
        Sortie::new(arguments).env("SORTIE_SERVER", self.url()).env("SORTIE_TOKEN", TOKEN)
    }

    // Rules.

    /// What is to become of these calls?
    pub fn on(&self, calls: impl Into<Calls>) -> Planning<'_> {
        Planning { gateway: self, calls: calls.into() }
    }

    /// What is to become of those of these calls that have not arrived yet?
    pub fn later(&self, calls: impl Into<Calls>) -> Planning<'_> {
        let calls = calls.into();
        let so_far = self.shared.look(|state| state.count(calls.route));
        self.on(calls.from(so_far + 1))
    }

    /// What is to become of the next call of a route?
    pub fn next(&self, route: Route) -> Planning<'_> {
        let so_far = self.shared.look(|state| state.count(Some(route)));
        self.on(Calls::of(route).number(so_far + 1))
    }

    /// Passes the calls from now on to the server with this index.
    pub fn switch_to(&self, server: usize) {
        self.shared.change(|state| {
            assert!(server < state.servers.len(), "there is no server {server}");
            state.server = server;
        });
    }

    /// Forgets all rules and opens all gates.
    pub fn behave(&self) {
        self.shared.change(|state| {
            state.rules.clear();
            state.ways.clear();
            state.gates.iter().for_each(Barrier::open);
        });
    }

    // The gateway as a whole.

    /// Ends all connections, and every new one as soon as it is made.
    pub fn down(&self) {
        self.shared.change(|state| {
            state.down = true;
            state.let_go();
        });
        if let Some(listener) = &*self.listener() {
            listener.hang_up();
        }
    }

    /// Serves again after [`Gateway::down`].
    pub fn up(&self) {
        self.shared.change(|state| state.down = false);
    }

    /// Ends all connections and listens no more: whoever connects is refused.
    pub fn refuse(&self) {
        self.shared.change(|state| {
            state.close();
        });
        if let Some(mut listener) = self.listener().take() {
            listener.stop();
        }
    }

    /// Listens again after [`Gateway::refuse`].
    pub fn accept(&self) {
        self.shared.change(|state| state.closing = false);
        *self.listener() = Some(Listener::start_at(self.address, serving(&self.shared)));
    }

    /// Ends the connections to the servers in the middle of what is being said; new calls are served.
    pub fn break_connections(&self) {
        self.shared.change(State::let_go);
    }

    // What was asked.

    /// All calls of a route so far.
    pub fn requests(&self, route: Route) -> Vec<Request> {
        self.shared.look(|state| {
            let of_the_route = state.calls.iter().filter(|(known, _)| *known == Some(route));
            of_the_route.map(|(_, request)| request.clone()).collect()
        })
    }

    /// How many calls have arrived.
    pub fn calls(&self) -> usize {
        self.shared.look(|state| state.calls.len())
    }

    /// Waits until so many of these calls have arrived.
    #[track_caller]
    pub fn wait_for(&self, calls: impl Into<Calls>, count: usize) {
        let calls = calls.into();
        self.shared.expect(&format!("call {count} of {calls:?}"), |state| {
            (state.count(calls.route) >= count).then_some(())
        });
    }

    /// Waits until so many of these calls have arrived, as long as the client goes on.
    #[track_caller]
    pub fn wait_for_calls_of(&self, running: &mut Running, calls: impl Into<Calls>, count: usize) {
        let calls = calls.into();
        let came = |bound| self.shared.wait(bound, |state| (state.count(calls.route) >= count).then_some(()));
        let end = Instant::now() + PATIENCE;
        while came(Duration::from_millis(100)).is_none() {
            running.is_going_on();
            assert!(Instant::now() < end, "waited in vain for call {count} of {calls:?}");
        }
    }

    /// Waits until so many connections have been ended because of [`Gateway::down`].
    #[track_caller]
    pub fn wait_for_hang_ups(&self, count: usize) {
        self.shared.expect("a connection while it is down", |state| (state.hung_up >= count).then_some(()));
    }

    fn listener(&self) -> std::sync::MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let calls: Vec<String> = self.shared.change(|state| {
            state.close();
            state.calls.iter().map(|(_, request)| format!("{request:?}")).collect()
        });
        if thread::panicking() {
            // Shown with the test's failure.
            println!("the gateway was asked:\n  {}", calls.join("\n  "));
        }
        if let Some(mut listener) = self.listener().take() {
            listener.stop();
        }
        assert!(!calls.is_empty() || thread::panicking(), "the gateway was never reached");
    }
}

/// What is to become of some calls: see [`Gateway::on`].
#[must_use]
pub struct Planning<'a> {
    gateway: &'a Gateway,
    calls: Calls,
}

impl Planning<'_> {
    fn plan(self, deed: Deed) {
        self.gateway.shared.change(|state| state.rules.push((self.calls, deed)));
    }

    fn gate(self, deed: impl FnOnce(Barrier) -> Deed) -> Gate {
        let barrier = Barrier::new();
        self.gateway.shared.change(|state| state.gates.push(barrier.clone()));
        self.plan(deed(barrier.clone()));
        Gate(barrier)
    }

    /// The call passes unchanged, whatever an older rule says.
    pub fn pass(self) {
        self.plan(Deed::Pass);
    }

    /// The call goes to the server with this index, whatever else happens to it.
    pub fn send_to(self, server: usize) {
        self.gateway.shared.change(|state| {
            assert!(server < state.servers.len(), "there is no server {server}");
            state.ways.push((self.calls, server));
        });
    }

    /// The gateway answers by itself. No server hears of the call.
    pub fn answer_instead(self, page: &Page) {
        self.plan(Deed::AnswerInstead(page.clone()));
    }

    /// The server takes the call and answers it, and the gateway answers something else.
    pub fn answer_after_passing_it_on(self, page: &Page) {
        self.plan(Deed::AnswerAfterwards(page.clone()));
    }

    /// The client gets nothing of an answer before the server has ended it, as a buffering tunnel does it.
    pub fn hold_until_its_end(self) {
        self.plan(Deed::HoldBack(Part::All));
    }

    /// The same, but the answer's head passes at once.
    pub fn hold_body_until_its_end(self) {
        self.plan(Deed::HoldBack(Part::Body));
    }

    /// The server gets the call at once. The answer waits for the gate.
    pub fn delay(self) -> Gate {
        self.gate(|gate| Deed::Delay(Part::All, gate))
    }

    /// The answer's head passes at once. The body's first byte waits for the gate.
    pub fn delay_body(self) -> Gate {
        self.gate(|gate| Deed::Delay(Part::Body, gate))
    }

    /// The server does not get the call before the gate opens.
    pub fn hold_request(self) -> Gate {
        self.gate(Deed::HoldRequest)
    }

    /// The connection ends, cut or reset, after so many bytes of the answer, of which the head is the first part.
    pub fn cut_at(self, byte: usize, ending: Ending) {
        assert!(ending != Ending::Clean, "a cut is never clean");
        self.plan(Deed::Cut(byte, ending));
    }

    /// Nobody gets the call, and the client gets no answer as long as it waits.
    pub fn black_hole(self) {
        self.plan(Deed::BlackHole);
    }

    /// Nobody gets the call, and the connection ends.
    pub fn hang_up(self) {
        self.plan(Deed::HangUp);
    }
}

fn serving(shared: &Arc<Shared>) -> impl Fn(Connection) + Send + Sync + 'static {
    let shared = Arc::clone(shared);
    move |connection| serve(&shared, connection)
}

/// Serves one connection of the client.
fn serve(shared: &Shared, mut connection: Connection) {
    let is_down = shared.change(|state| {
        state.hung_up += usize::from(state.down && !state.closing);
        state.down || state.closing
    });
    if is_down {
        return;
    }
    while let Some(request) = connection.read_request() {
        let last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match exchange(shared, connection, &request) {
            Some(again) if !last => connection = again,
            _ => return,
        }
    }
}

/// Does with a call what the rules say, and hands the connection back if it is still good.
fn exchange(shared: &Shared, mut connection: Connection, request: &Request) -> Option<Connection> {
    let (deed, server) = shared.change(|state| state.take(request));
    match &deed {
        Deed::AnswerInstead(page) => return page.send(&mut connection).then_some(connection),
        Deed::BlackHole => {
            connection.wait_for_close();
            return None;
        }
        Deed::HangUp => return None,
        Deed::HoldRequest(gate) => gate.pass(),
        _ => {}
    }
    let Ok(mut answer) = Answer::to(shared, server, request) else {
        return Page::html(502).send(&mut connection).then_some(connection);
    };
    match deed {
        Deed::AnswerAfterwards(page) => {
            // A stream is never over.
            if answer.left.is_some() {
                let _ = answer.read_to_end();
            }
            page.send(&mut connection).then_some(connection)
        }
        Deed::HoldBack(part) => {
            let passes = part == Part::All || connection.write(&answer.head);
            let body = answer.read_to_end();
            let held = if part == Part::All { [&*answer.head, &body].concat() } else { body };
            (passes && connection.write(&held)).then_some(())?;
            answer.finish(connection)
        }
        Deed::Delay(part, gate) => {
            if part == Part::Body {
                connection.write(&answer.head).then_some(())?;
                answer.head.clear();
            }
            gate.pass();
            answer.relay(connection, None)
        }
        Deed::Cut(byte, ending) => answer.relay(connection, Some((byte, ending))),
        _ => answer.relay(connection, None),
    }
}

/// An answer of a server, as it comes.
struct Answer {
    stream: BufReader<TrackedStream>,
    head: Vec<u8>,
    /// How many bytes of the body are still to come, if the head says it.
    left: Option<usize>,
    broken: bool,
}

/// A connection that [`State::let_go`] can end.
struct TrackedStream(Arc<TcpStream>);

impl Read for TrackedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Answer {
    /// Sends the call to a server and reads the head of its answer.
    fn to(shared: &Shared, server: SocketAddr, request: &Request) -> io::Result<Self> {
        let stream = Arc::new(TcpStream::connect(server)?);
        stream.set_nodelay(true)?;
        shared.change(|state| {
            state.relays.retain(|relay| relay.strong_count() > 0);
            state.relays.push(Arc::downgrade(&stream));
            if state.closing || state.down { Err(io::ErrorKind::ConnectionAborted) } else { Ok(()) }
        })?;
        (&*stream).write_all(&written(request))?;
        let mut stream = BufReader::new(TrackedStream(stream));
        let mut head = Vec::new();
        let mut left = None;
        loop {
            let from = head.len();
            if stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&head[from..]).to_ascii_lowercase();
            if line == "\r\n" {
                break;
            }
            if let Some(length) = line.strip_prefix("content-length:") {
                left = length.trim().parse().ok();
            }
        }
        Ok(Self { stream, head, left, broken: false })
    }

    /// The next bytes of the body; none at its end.
    fn next(&mut self) -> Vec<u8> {
        let mut piece = vec![0; self.left.unwrap_or(usize::MAX).min(64 * 1024)];
        match self.stream.read(&mut piece) {
            Ok(read) => {
                piece.truncate(read);
                self.broken |= read == 0 && self.left.is_some_and(|left| left > 0);
                self.left = self.left.map(|left| left - read);
                piece
            }
            Err(_) => {
                self.broken = true;
                Vec::new()
            }
        }
    }

    fn read_to_end(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let piece = self.next();
            if piece.is_empty() {
                return body;
            }
            body.extend(piece);
        }
    }

    /// Passes it to the client as it comes, but no more than so many bytes of it.
    fn relay(mut self, mut connection: Connection, cut: Option<(usize, Ending)>) -> Option<Connection> {
        let mut sent = 0;
        let mut piece = std::mem::take(&mut self.head);
        loop {
            if let Some((at, ending)) = cut
                && sent + piece.len() >= at
            {
                connection.write(&piece[..at - sent]);
                connection.end(ending);
                return None;
            }
            if !connection.write(&piece) {
                return None;
            }
            sent += piece.len();
            piece = self.next();
            if piece.is_empty() {
                return self.finish(connection);
            }
        }
    }

    /// All that came has been passed on.
    fn finish(self, connection: Connection) -> Option<Connection> {
        match self.left {
            Some(0) => Some(connection),
            // Of a body whose length nobody knows, the end of the connection is the end.
            _ => {
                connection.end(if self.broken { Ending::Reset } else { Ending::Cut });
                None
            }
        }
    }
}

/// The request as it goes to the server: the connection is not kept.
fn written(request: &Request) -> Vec<u8> {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let mut written = format!("{} {}{query} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
        written.push_str(&format!("{name}: {value}\r\n"));
    }
    written.push_str("connection: close\r\n\r\n");
    [written.as_bytes(), &request.body].concat()
}

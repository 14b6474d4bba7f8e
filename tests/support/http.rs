//! HTTP/1.1 by hand, on the server's side: requests in, bytes out, and every way in which a connection can end.

use super::watched::Watched;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

/// A request as it came.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the `?`; empty if there is none.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn parse(head: &[u8]) -> io::Result<Self> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} in a request"));
        let head = std::str::from_utf8(head).map_err(|_| odd("not UTF-8"))?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(odd("an odd first line"));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| odd("a header without a colon"))?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<io::Result<_>>()?;
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
        Ok(Self { method, path, query, headers, body: Vec::new() })
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        for name in ["last-event-id", "idempotency-key"] {
            if let Some(value) = self.header(name) {
                write!(f, " [{name}: {value}]")?;
            }
        }
        let shown = &self.body[..self.body.len().min(500)];
        write!(f, " {}", String::from_utf8_lossy(shown))
    }
}

/// How a connection ends in the middle of what was being said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A chunked body ends as it should; everything else is cut.
    Clean,
    /// The connection is closed (FIN) without the end of the body.
    Cut,
    /// The connection is reset (RST).
    Reset,
}

/// One connection of a client.
pub struct Connection {
    stream: Arc<TcpStream>,
    /// The last byte of the request is still in the kernel. A connection that is closed with unread input is reset,
    /// which is the only way to that without a socket option that std does not have.
    owed: bool,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), owed: false }
    }

    /// The next request; `None` when the client has closed the connection or what it sent is not HTTP.
    pub fn read_request(&mut self) -> Option<Request> {
        self.settle();
        let mut head = Vec::new();
        let mut window = [0; 4096];
        loop {
            let seen = self.stream.peek(&mut window).ok().filter(|seen| *seen > 0)?;
            let before = head.len();
            head.extend_from_slice(&window[..seen]);
            let from = before.saturating_sub(3);
            if let Some(at) = head[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                head.truncate(from + at + 4);
                let left = head.len() - before;
                self.take(&mut window[..left - 1])?;
                self.owed = true;
                break;
            }
            self.take(&mut window[..seen])?;
        }
        let mut request = Request::parse(&head).ok()?;
        let length: usize = request.header("content-length").map_or(Some(0), |length| length.parse().ok())?;
        assert!(request.header("transfer-encoding").is_none(), "a request of unknown length: {request:?}");
        if length > 0 {
            self.settle();
            request.body = vec![0; length];
            self.take(&mut request.body[..length - 1])?;
            self.stream.peek(&mut window[..1]).ok().filter(|seen| *seen == 1)?;
            request.body[length - 1] = window[0];
            self.owed = true;
        }
        Some(request)
    }

    fn take(&self, into: &mut [u8]) -> Option<()> {
        (&*self.stream).read_exact(into).ok()
    }

    /// Takes the byte that was left in the kernel.
    fn settle(&mut self) {
        if std::mem::take(&mut self.owed) {
            let _ = self.take(&mut [0]);
        }
    }

    /// Writes bytes as they are. A client that has gone is no error: the test looks at the client.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        (&*self.stream).write_all(bytes).is_ok()
    }

    /// Answers with a body of known length.
    pub fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> bool {
        self.settle();
        let mut answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        answer.push_str("\r\n");
        let mut answer = answer.into_bytes();
        answer.extend_from_slice(body);
        self.write(&answer)
    }

    /// Begins an event stream.
    pub fn open_stream(&mut self) -> bool {
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )
    }

    /// Sends a chunk of a stream's body.
    pub fn chunk(&mut self, bytes: &[u8]) -> bool {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        bytes.is_empty() || self.write(&chunk)
    }

    /// Ends the connection.
    pub fn end(mut self, ending: Ending) {
        match ending {
            Ending::Clean => {
                self.write(b"0\r\n\r\n");
            }
            Ending::Cut => {}
            Ending::Reset => {
                assert!(self.owed, "only a connection with a request under way can be reset");
                self.owed = false;
            }
        }
    }

    /// Waits until the client has closed its side; what it sends until then is thrown away.
    pub fn wait_for_close(mut self) {
        self.settle();
        while (&*self.stream).read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.settle();
    }
}

#[derive(Default)]
struct Open {
    closing: bool,
    panicked: bool,
    connections: Vec<(Weak<TcpStream>, JoinHandle<()>)>,
}

impl Open {
    /// Lets go of the threads that have ended.
    fn sweep(&mut self) {
        for (stream, thread) in std::mem::take(&mut self.connections) {
            if thread.is_finished() {
                self.panicked |= thread.join().is_err();
            } else {
                self.connections.push((stream, thread));
            }
        }
    }
}

/// A server on loopback: each connection is served on a thread of its own.
pub struct Listener {
    pub address: SocketAddr,
    open: Arc<Watched<Open>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a port that is free.
    pub fn start(serve: impl Fn(Connection) + Send + Sync + 'static) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// Listens on this address.
    pub fn start_at(address: SocketAddr, serve: impl Fn(Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let open = Arc::new(Watched::new(Open::default()));
        let serve = Arc::new(serve);
        let acceptor = thread::spawn({
            let open = Arc::clone(&open);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let serve = Arc::clone(&serve);
                    let going_on = open.change(move |open| {
                        if open.closing {
                            return false;
                        }
                        stream.set_nodelay(true).expect("a socket without delay");
                        let stream = Arc::new(stream);
                        let tracked = Arc::downgrade(&stream);
                        let connection = Connection { stream, owed: false };
                        open.sweep();
                        open.connections.push((tracked, thread::spawn(move || serve(connection))));
                        true
                    });
                    if !going_on {
                        break;
                    }
                }
            }
        });
        Self { address, open, acceptor: Some(acceptor) }
    }

    /// Closes everything. Whoever serves a connection must end once its client is gone.
    ///
    /// # Panics
    /// When a thread that served a connection did.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.open.change(|open| open.closing = true);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        let mut fine = acceptor.join().is_ok() && !self.open.look(|open| open.panicked);
        self.hang_up();
        for (_, thread) in self.open.change(|open| std::mem::take(&mut open.connections)) {
            fine &= thread.join().is_ok();
        }
        assert!(fine || thread::panicking(), "the server has panicked, see above");
    }

    /// Closes all connections; the server itself goes on.
    pub fn hang_up(&self) {
        self.open.look(|open| {
            for stream in open.connections.iter().filter_map(|(stream, _)| stream.upgrade()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}

//! What stands between a client and a server: an end of TLS, or a proxy.

use crate::support::watched::Watched;
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Takes connections on loopback, each on a thread of its own, until it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    open: Arc<Watched<Open>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Open {
    closing: bool,
    taken: usize,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
}

impl Relay {
    fn start(serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let open = Arc::new(Watched::new(Open::default()));
        let serve = Arc::new(serve);
        let acceptor = thread::spawn({
            let open = Arc::clone(&open);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let serve = Arc::clone(&serve);
                    let going_on = open.change(|open| {
                        if open.closing {
                            return false;
                        }
                        open.taken += 1;
                        let handle = stream.try_clone().expect("another handle");
                        // A connection that breaks is the test's to look at, from the client's side.
                        let thread = thread::spawn(move || {
                            let _ = serve(&stream);
                            let _ = stream.shutdown(Shutdown::Both);
                        });
                        open.connections.push((handle, thread));
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

    /// The server's end of TLS, before a server that speaks plain http.
    pub fn tls(config: Arc<ServerConfig>, backend: SocketAddr) -> Self {
        Self::start(move |client| terminate(Arc::clone(&config), client, backend))
    }

    /// Says this to everybody, whatever they say.
    pub fn saying(bytes: &'static [u8]) -> Self {
        Self::start(|mut client| {
            client.write_all(bytes)?;
            // Until the client has had enough.
            io::copy(&mut client, &mut io::sink()).map(drop)
        })
    }

    /// Waits until so many connections were taken.
    pub fn wait_until_taken(&self, count: usize) {
        self.open.expect("a connection", |open| (open.taken >= count).then_some(()));
    }

    /// How many connections were taken.
    pub fn taken(&self) -> usize {
        self.open.look(|open| open.taken)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.open.change(|open| open.closing = true);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        self.acceptor.take().map(JoinHandle::join);
        for (stream, thread) in self.open.change(|open| std::mem::take(&mut open.connections)) {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn both_ways(client: &TcpStream, server: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| io::copy(&mut from, &mut to);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = copy(client, server);
            // A client that is done wants no answer any more.
            let _ = server.shutdown(Shutdown::Both);
        });
        let _ = copy(server, client);
        let _ = client.shutdown(Shutdown::Write);
    });
}

fn terminate(config: Arc<ServerConfig>, mut client: &TcpStream, backend: SocketAddr) -> io::Result<()> {
    let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
    session.set_buffer_limit(None);
    while session.is_handshaking() {
        session.complete_io(&mut client)?;
    }
    // Only a client that trusts us comes so far.
    let server = TcpStream::connect(backend)?;
    let session = Mutex::new(session);
    thread::scope(|scope| {
        scope.spawn(|| {
            let decrypted = decrypt(&session, client, &server);
            // A client that is done wants no answer any more.
            let _ = server.shutdown(Shutdown::Both);
            decrypted
        });
        let encrypted = encrypt(&session, &server, client);
        let _ = client.shutdown(Shutdown::Write);
        encrypted
    })
}

fn decrypt(session: &Mutex<ServerConnection>, mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut plain = Vec::new();
    loop {
        {
            // What came with the handshake's last flight is there already.
            let mut session = session.lock().unwrap();
            match session.reader().read_to_end(&mut plain) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        server.write_all(&plain)?;
        plain.clear();
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let mut encrypted = &buffer[..read];
        let mut session = session.lock().unwrap();
        while !encrypted.is_empty() {
            session.read_tls(&mut encrypted)?;
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

fn encrypt(session: &Mutex<ServerConnection>, mut server: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = server.read(&mut buffer)?;
        let mut session = session.lock().unwrap();
        if read == 0 {
            session.send_close_notify();
        }
        session.writer().write_all(&buffer[..read])?;
        while session.wants_write() {
            session.write_tls(&mut client)?;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// A proxy, which alone knows where any host is.
pub struct Proxy {
    relay: Relay,
    heads: Arc<Watched<Vec<String>>>,
}

impl Proxy {
    /// Leads to this server, whatever host is asked for.
    pub fn to(backend: SocketAddr) -> Self {
        Self::with(move |head, client| {
            let server = TcpStream::connect(backend)?;
            let first = head.lines().next().unwrap_or_default();
            if first.starts_with("CONNECT ") {
                (&mut &*client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            } else {
                (&mut &server).write_all(origin_form(head).as_bytes())?;
            }
            both_ways(client, &server);
            Ok(())
        })
    }

    /// Answers everything with this.
    pub fn answering(answer: &'static str) -> Self {
        Self::with(move |_, mut client| client.write_all(answer.as_bytes()))
    }

    fn with(serve: impl Fn(&str, &TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let heads = Arc::new(Watched::new(Vec::new()));
        let relay = Relay::start({
            let heads = Arc::clone(&heads);
            move |client| {
                let head = read_head(client)?;
                heads.change(|heads| heads.push(head.clone()));
                serve(&head, client)
            }
        });
        Self { relay, heads }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.relay.address)
    }

    /// With a user and a password.
    pub fn url_with(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}", self.relay.address)
    }

    /// The heads of the requests that came, as they were.
    pub fn heads(&self) -> Vec<String> {
        self.heads.look(Clone::clone)
    }
}

fn read_head(mut client: &TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the head is not ours.
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// `GET http://host/path` as the server itself takes it: `GET /path`.
fn origin_form(head: &str) -> String {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, version] = words[..] else { return head.to_owned() };
    let path = target.strip_prefix("http://").and_then(|target| target.find('/').map(|at| &target[at..]));
    format!("{method} {} {version}\r\n{rest}", path.unwrap_or(target))
}

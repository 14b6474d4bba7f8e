//! Connects to one of a host's IP addresses. The address that answered last is tried first. While an address does not
//! answer, the next one is tried in parallel (RFC 8305, without its rules of order).

use super::address::Memory;
use super::fault::Fault;
use super::wait::{Ready, wait};
use crate::watchdog::Watch;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, connect as start_connect, socket, sockopt};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long to wait for an address before the next one is tried in parallel.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to a host before `end`. A name is looked up only if no address is remembered, or if the remembered
/// address does not answer at once.
pub fn connect(
    host: &str,
    port: u16,
    memory: &Memory,
    watch: &Watch,
    end: Instant,
) -> Result<TcpStream, ureq::Error> {
    let host = host.trim_matches(['[', ']']);
    let number = host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port));
    let first = number.or_else(|| *memory.lock().unwrap_or_else(PoisonError::into_inner));
    let race = Race {
        host,
        port,
        watch,
        end,
        names: if number.is_some() { Names::Known } else { Names::Unknown },
        waiting: first.into_iter().collect(),
        tried: Vec::new(),
        running: Vec::new(),
        next: Instant::now(),
        error: None,
    };
    let (address, stream) = race.run()?;
    *memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    Ok(stream)
}

/// The state of the look-up.
enum Names {
    Unknown,
    Asked(LookUp),
    /// The look-up is done, or not needed.
    Known,
}

struct Race<'a> {
    host: &'a str,
    port: u16,
    watch: &'a Watch,
    end: Instant,
    names: Names,
    /// Addresses that are not tried yet.
    waiting: VecDeque<SocketAddr>,
    tried: Vec<SocketAddr>,
    running: Vec<(SocketAddr, TcpStream)>,
    /// When the next address is tried.
    next: Instant,
    /// The last error.
    error: Option<ureq::Error>,
}

impl Race<'_> {
    fn run(mut self) -> Result<(SocketAddr, TcpStream), ureq::Error> {
        loop {
            if self.running.is_empty() || Instant::now() >= self.next {
                self.advance();
            }
            let asked = match &self.names {
                Names::Asked(look_up) => Some(look_up),
                _ => None,
            };
            if self.running.is_empty() && asked.is_none() {
                return Err(self.error.unwrap_or(ureq::Error::HostNotFound));
            }
            let mut fds: Vec<_> =
                self.running.iter().map(|(_, stream)| PollFd::new(stream, PollFlags::OUT)).collect();
            fds.extend(asked.map(|look_up| PollFd::new(&look_up.done, PollFlags::IN)));
            let is_last = self.waiting.is_empty() && !matches!(self.names, Names::Unknown);
            let until = if is_last { self.end } else { self.end.min(self.next) };
            match wait(&mut fds, Some(self.watch), until)? {
                Ready::Cause => return Err(Fault::ended()),
                Ready::Time if Instant::now() >= self.end => {
                    let looking = self.tried.is_empty();
                    let reason = if looking { ureq::Timeout::Resolve } else { ureq::Timeout::Connect };
                    return Err(ureq::Error::Timeout(reason));
                }
                Ready::Time => {}
                Ready::Descriptor => {
                    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
                    if let Some(winner) = self.take(&ready) {
                        return Ok(winner);
                    }
                }
            }
        }
    }

    /// Tries the next address, or starts the look-up if there is none.
    fn advance(&mut self) {
        self.next = Instant::now() + HEAD_START;
        loop {
            while let Some(address) = self.waiting.pop_front() {
                if self.tried.contains(&address) {
                    continue;
                }
                self.tried.push(address);
                match start(address) {
                    Ok(stream) => return self.running.push((address, stream)),
                    Err(error) => self.error = Some(error.into()),
                }
            }
            if !matches!(self.names, Names::Unknown) {
                return;
            }
            match LookUp::start(self.host, self.port) {
                Ok(look_up) => self.names = Names::Asked(look_up),
                // The system denies a thread: look up on the main thread, unless a connect is still running.
                Err(_) if self.running.is_empty() => self.learn(look_up(self.host, self.port)),
                Err(_) => return,
            }
        }
    }

    /// Takes the results of the descriptors that are ready. Returns the first connection, if there is one.
    fn take(&mut self, ready: &[bool]) -> Option<(SocketAddr, TcpStream)> {
        let mut ready = ready.iter().copied();
        for (address, stream) in std::mem::take(&mut self.running) {
            if !ready.next().unwrap_or_default() {
                self.running.push((address, stream));
                continue;
            }
            match sockopt::socket_error(&stream).and_then(|outcome| outcome) {
                Ok(()) => return Some((address, stream)),
                Err(error) => {
                    self.error = Some(io::Error::from(error).into());
                    self.next = Instant::now();
                }
            }
        }
        if ready.next().unwrap_or_default()
            && let Names::Asked(look_up) = std::mem::replace(&mut self.names, Names::Known)
        {
            let found = look_up.thread.join();
            self.learn(found.unwrap_or_else(|_| Err(io::Error::other("the thread has died"))));
        }
        None
    }

    fn learn(&mut self, found: io::Result<Vec<SocketAddr>>) {
        self.names = Names::Known;
        match found {
            Ok(addresses) => self.waiting.extend(addresses),
            Err(error) => {
                let why = format!("the host name look-up failed: {error}");
                self.error = Some(ureq::Error::Other(why.into()));
            }
        }
        self.next = Instant::now();
    }
}

/// Starts a non-blocking connect.
fn start(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    match start_connect(&stream, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(stream),
        Err(error) => Err(error.into()),
    }
}

/// A look-up on a thread of its own. It cannot be interrupted, so the thread is left behind after the deadline or a
/// signal.
struct LookUp {
    thread: JoinHandle<io::Result<Vec<SocketAddr>>>,
    /// Readable when the thread is done.
    done: UnixStream,
}

impl LookUp {
    fn start(host: &str, port: u16) -> io::Result<Self> {
        let (done, open) = UnixStream::pair()?;
        let host = host.to_owned();
        let thread = thread::Builder::new().name("look-up".into()).spawn(move || {
            let found = look_up(&host, port);
            drop(open);
            found
        })?;
        Ok(Self { thread, done })
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

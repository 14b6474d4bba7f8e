//! The agent server's few calls on loopback, for one run that goes as it is told.

use crate::past::Past;
use crate::stream::{Framing, RUN, SESSION, Stream, Wire};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How the run goes, for each who asks for its events.
#[derive(Clone)]
pub enum Play {
    /// The whole stream, as fast as it is taken.
    Stream(Arc<Stream>),
    /// As many deltas, and a pause after each; the moment just before each is sent goes to the channel, and at last that
    /// before the run's end.
    Drip(usize, Duration, Sender<Instant>),
    /// Silence for so long, but for the keep-alives.
    Silence(Duration),
    /// The stream, between two gates; the run's end waits behind the second.
    Gated(Arc<Stream>, Arc<[Gate; 2]>),
    /// A run that is over, and most of whose events are gone.
    Past(Arc<Past>),
}

/// Where many wait until they are let through.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    /// Waits until so many have come; whether they have.
    pub fn gather(&self, count: usize) -> bool {
        let state = self.state.lock().unwrap();
        let limit = Duration::from_secs(120);
        !self.changed.wait_timeout_while(state, limit, |state| state.0 < count).unwrap().1.timed_out()
    }

    /// Lets them through, and all who come later.
    pub fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

pub struct Server {
    pub url: String,
    play: Arc<Mutex<Play>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Server {
    /// A server on loopback; with `tls`, it speaks https.
    pub fn start(play: Play, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // A thousand may come at once: std's queue of 128 would turn some away, to come again a second later.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
        let url = format!("http{}://{}", if tls.is_some() { "s" } else { "" }, listener.local_addr()?);
        let play = Arc::new(Mutex::new(play));
        let counts = Arc::<Counts>::default();
        let (now_playing, counting) = (play.clone(), counts.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counting.connections.fetch_add(1, Ordering::Relaxed);
                let (play, counts, tls) = (now_playing.clone(), counting.clone(), tls.clone());
                // A client that has gone is no failure of ours.
                let taken = thread::Builder::new().stack_size(256 * 1024).spawn(move || {
                    stream.set_nodelay(true)?;
                    match tls {
                        Some(tls) => {
                            let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
                            serve(StreamOwned::new(tls, stream), &play, &counts)
                        }
                        None => serve(&stream, &play, &counts),
                    }
                });
                drop(taken.unwrap());
            }
        });
        Ok(Self { url, play, counts })
    }

    pub fn play(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub fn events_url(&self) -> String {
        format!("{}/v1/sessions/{SESSION}/events", self.url)
    }

    /// Connections and requests so far.
    pub fn counts(&self) -> (usize, usize) {
        let Counts { connections, requests } = &*self.counts;
        (connections.load(Ordering::Relaxed), requests.load(Ordering::Relaxed))
    }
}

/// Answers the requests of one connection, until it is closed.
fn serve(stream: impl Read + Write, play: &Mutex<Play>, counts: &Counts) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        let (mut length, mut after) = (0, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if let Some(value) = line.strip_prefix("last-event-id:") {
                after = value.trim().parse().unwrap_or(0);
            }
            if line.is_empty() {
                break;
            }
            if request.is_empty() {
                request = line;
            }
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let play = play.lock().unwrap().clone();
        if request.contains("/events ") {
            return events(reader.get_mut(), &play, after);
        }
        let past = if let Play::Past(past) = &play { Some(&**past) } else { None };
        answer(reader.get_mut(), &request, past)?;
    }
}

fn answer(stream: &mut impl Write, request: &str, past: Option<&Past>) -> io::Result<()> {
    let status = match past {
        Some(_) => "{\"state\":\"idle\"}".into(),
        None => format!("{{\"state\":\"running\",\"run_id\":\"{RUN}\"}}"),
    };
    let session = format!(
        "{{\"id\":\"{SESSION}\",\"title\":\"bench\",\"cwd\":\"/\",\"created_at\":\"2026-11-22T10:20:33Z\",\
         \"updated_at\":\"2026-11-22T10:20:33Z\",\"run_status\":{status}}}"
    );
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (status, body) = match path.trim_start_matches("/v1/").split('/').collect::<Vec<_>>()[..] {
        ["health"] => ("200 OK", "{\"status\":\"ok\",\"version\":\"0.3.88\",\"uptime_seconds\":1}".into()),
        ["config"] => ("200 OK", "{\"default_model\":\"none\",\"auto_approve_mode\":\"all\"}".into()),
        ["sessions"] => ("201 Created", session),
        ["sessions", _] => ("200 OK", format!("{{\"session\":{session},\"config\":{{}}}}")),
        ["sessions", _, "messages"] if method == "get" && past.is_some() => {
            ("200 OK", past.map(|past| past.page(query)).unwrap_or_default())
        }
        ["sessions", _, "messages"] => ("200 OK", format!("{{\"run_id\":\"{RUN}\"}}")),
        ["sessions", _, "tools", "decisions"] => ("200 OK", format!("{{\"accepted\":true,\"run_id\":\"{RUN}\"}}")),
        ["sessions", _, "cancel"] => ("200 OK", format!("{{\"cancelled\":true,\"run_id\":\"{RUN}\"}}")),
        _ => ("404 Not Found", "{\"error\":\"not played here\",\"code\":\"not_found\"}".into()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())?;
    stream.flush()
}

fn events(stream: &mut impl Write, play: &Play, after: u64) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    match play {
        Play::Stream(events) => events.each(|turn| stream.write_all(&turn.wire))?,
        Play::Gated(events, gates) => {
            let [first, second] = &**gates;
            first.pass();
            let mut last: Vec<u8> = Vec::new();
            events.each(|turn| {
                stream.write_all(&last)?;
                last.clone_from(&turn.wire);
                Ok::<_, io::Error>(())
            })?;
            // Without its last bytes the last event is none yet.
            let (before, last) = last.split_at(last.len() - 16);
            stream.write_all(before)?;
            second.pass();
            stream.write_all(last)?;
        }
        Play::Drip(count, pause, sent) => played_by_hand(stream, |stream, wire| {
            for _ in 0..*count {
                // The one @ of the whole stream: it is what is waited for.
                wire.event("text_delta", "TextDelta", &[",\"delta\":\"@ a few words more\\n\""]);
                let block = wire.take();
                let _ = sent.send(Instant::now());
                stream.write_all(&block)?;
                stream.flush()?;
                thread::sleep(*pause);
            }
            let _ = sent.send(Instant::now());
            Ok(())
        })?,
        Play::Silence(time) => played_by_hand(stream, |stream, _| {
            let end = Instant::now() + *time;
            while Instant::now() < end {
                thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_secs(15)));
                stream.write_all(b"d\r\n: keepalive\n\n\r\n")?;
            }
            Ok(())
        })?,
        Play::Past(past) => {
            stream.write_all(&past.replay(after))?;
            stream.flush()?;
            // The server's stream stays open; the client goes.
            thread::sleep(Duration::from_secs(15));
        }
    }
    stream.write_all(b"0\r\n\r\n")?;
    stream.flush()
}

/// A run of one turn, whose middle is given.
fn played_by_hand<S: Write>(
    stream: &mut S,
    middle: impl FnOnce(&mut S, &mut Wire) -> io::Result<()>,
) -> io::Result<()> {
    let mut wire = Wire::new(Framing::Event);
    wire.event("run_started", "RunStarted", &[]);
    wire.event("turn_started", "TurnStarted", &[",\"turn\":1"]);
    stream.write_all(&wire.take())?;
    stream.flush()?;
    middle(stream, &mut wire)?;
    wire.event("turn_completed", "TurnCompleted", &[",\"turn\":1,\"finish_reason\":\"stop\""]);
    wire.event("run_completed", "RunCompleted", &[",\"total_turns\":1,\"stop_reason\":\"completed\""]);
    stream.write_all(&wire.take())
}

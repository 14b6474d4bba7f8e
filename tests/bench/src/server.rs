//! The agent server's few calls on loopback, for one run that goes as it is told.

use crate::stream::{Framing, RUN, SESSION, Stream, Wire};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How the run goes, for each who asks for its events.
#[derive(Clone)]
pub enum Play {
    /// The whole stream, as fast as it is taken.
    Stream(Arc<Stream>),
    /// As many deltas, each after a pause; the moment just before each is sent goes to the channel.
    Drip(usize, Duration, Sender<Instant>),
    /// Silence for so long, but for the keep-alives.
    Silence(Duration),
    /// The stream, between two gates; the run's end waits behind the second.
    Gated(Arc<Stream>, Arc<[Gate; 2]>),
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
}

impl Server {
    pub fn start(play: Play) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // A thousand may come at once: std's queue of 128 would turn some away, to come again a second later.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
        let url = format!("http://{}", listener.local_addr()?);
        let play = Arc::new(Mutex::new(play));
        let now_playing = play.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let play = now_playing.clone();
                // A client that has gone is no failure of ours.
                thread::Builder::new().stack_size(128 * 1024).spawn(move || serve(&stream, &play)).unwrap();
            }
        });
        Ok(Self { url, play })
    }

    pub fn play(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub fn events_url(&self) -> String {
        format!("{}/v1/sessions/{SESSION}/events", self.url)
    }
}

/// Answers the requests of one connection, until it is closed.
fn serve(stream: &TcpStream, play: &Mutex<Play>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.is_empty() {
                break;
            }
            if request.is_empty() {
                request = line;
            }
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        if request.contains("/events ") {
            let play = play.lock().unwrap().clone();
            return events(stream, &play);
        }
        answer(stream, &request)?;
    }
}

fn answer(mut stream: &TcpStream, request: &str) -> io::Result<()> {
    let session = format!(
        "{{\"id\":\"{SESSION}\",\"title\":\"bench\",\"cwd\":\"/\",\"created_at\":\"2026-11-22T10:20:33Z\",\
         \"updated_at\":\"2026-11-22T10:20:33Z\",\"run_status\":{{\"state\":\"running\",\"run_id\":\"{RUN}\"}}}}"
    );
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path.trim_start_matches("/v1/").split('/').collect::<Vec<_>>()[..] {
        ["health"] => ("200 OK", "{\"status\":\"ok\",\"version\":\"0.3.88\",\"uptime_seconds\":1}".into()),
        ["config"] => ("200 OK", "{\"default_model\":\"none\",\"auto_approve_mode\":\"all\"}".into()),
        ["sessions"] => ("201 Created", session),
        ["sessions", _] => ("200 OK", format!("{{\"session\":{session},\"config\":{{}}}}")),
        ["sessions", _, "messages"] => ("200 OK", format!("{{\"run_id\":\"{RUN}\"}}")),
        ["sessions", _, "tools", "decisions"] => ("200 OK", format!("{{\"accepted\":true,\"run_id\":\"{RUN}\"}}")),
        ["sessions", _, "cancel"] => ("200 OK", format!("{{\"cancelled\":true,\"run_id\":\"{RUN}\"}}")),
        _ => ("404 Not Found", "{\"error\":\"not played here\",\"code\":\"not_found\"}".into()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}

fn events(mut stream: &TcpStream, play: &Play) -> io::Result<()> {
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
        Play::Drip(count, pause, sent) => played_by_hand(stream, |wire| {
            for _ in 0..*count {
                thread::sleep(*pause);
                // The one @ of the whole stream: it is what is waited for.
                wire.event("text_delta", "TextDelta", &[",\"delta\":\"@ a few words more\\n\""]);
                let block = wire.take();
                let _ = sent.send(Instant::now());
                stream.write_all(&block)?;
            }
            Ok(())
        })?,
        Play::Silence(time) => played_by_hand(stream, |_| {
            let end = Instant::now() + *time;
            while Instant::now() < end {
                thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_secs(15)));
                stream.write_all(b"d\r\n: keepalive\n\n\r\n")?;
            }
            Ok(())
        })?,
    }
    stream.write_all(b"0\r\n\r\n")
}

/// A run of one turn, whose middle is given.
fn played_by_hand(mut stream: &TcpStream, middle: impl FnOnce(&mut Wire) -> io::Result<()>) -> io::Result<()> {
    let mut wire = Wire::new(Framing::Event);
    wire.event("run_started", "RunStarted", &[]);
    wire.event("turn_started", "TurnStarted", &[",\"turn\":1"]);
    stream.write_all(&wire.take())?;
    middle(&mut wire)?;
    wire.event("turn_completed", "TurnCompleted", &[",\"turn\":1,\"finish_reason\":\"stop\""]);
    wire.event("run_completed", "RunCompleted", &[",\"total_turns\":1,\"stop_reason\":\"completed\""]);
    stream.write_all(&wire.take())
}

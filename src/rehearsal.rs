//! The practice server: plays a recorded run on loopback, over real HTTP and Server-Sent Events, so that every
//! branch of a script can be tried without an agent server, a key or cost.
//!
//! It does what the real server was seen to do, as far as our own calls reach, its traps included (numbered as in
//! the notes on the protocol). Nothing waits for a clock: a run tells at once all that it can tell without a
//! decision or a cancel. Tokens and idempotency keys are not looked at: nothing gets lost on the way to ourselves.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    str::FromStr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use uuid::Uuid;

const COMPLETED: &str = include_str!("../tests/fixtures/completed-text.sse");
const FAILED: &str = include_str!("../tests/fixtures/run-error.sse");
const SILENT: &str = include_str!("../tests/fixtures/silent-failure-mixed-batch.sse");
const WAITING: &str = include_str!("../tests/fixtures/waiting-for-approval.sse");
const ACCEPTED: &str = include_str!("../tests/fixtures/completed-tools-accepted.sse");
const REJECTED: &str = include_str!("../tests/fixtures/completed-tool-rejected.sse");
const CANCELLED: &str = include_str!("../tests/fixtures/cancelled.sse");

/// What `COMPLETED` says for the sake of UTF-8 tests; whoever rehearses would only wonder.
const UTF8_SAMPLE: &str = " naïve 日本語";
/// The call that `WAITING` stops at, and that `ACCEPTED`, `REJECTED` and `CANCELLED` go on with.
const CALL: &str = "call_create_1";
/// How that call ended in `ACCEPTED`: not what is to be shown to someone who approved it.
const RECORDED_RESULT: &str = r#""result":"FILE_EXISTS\nFile already exists: motd.txt","is_error":true"#;

const KEEPALIVE: Duration = Duration::from_secs(15);
const HEAD_LIMIT: u64 = 64 * 1024;

/// How the played run goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answers and completes. It calls no tool, so that no policy flag changes the end.
    Completed,
    /// It ends with a `RunError`.
    Failed,
    /// It waits for a decision about a tool call, then goes on as decided.
    Paused,
    /// It says a few words, then nothing more until it is cancelled.
    Stalled,
    /// Its stream breaks, and the server has lost it.
    Lost,
    /// It plays this text of an `.sse` file; where that has no end, it goes on like `Stalled`.
    Recorded(String),
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            "paused" => Ok(Self::Paused),
            "stalled" => Ok(Self::Stalled),
            "lost" => Ok(Self::Lost),
            _ => Err(format!("`{name}` is none of completed, failed, paused, stalled, lost")),
        }
    }
}

/// A running practice server. It runs until the process ends; nobody waits for its threads.
#[derive(Debug)]
pub struct Rehearsal {
    url: String,
}

impl Rehearsal {
    /// Starts the server on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is no such port, or no thread can be started.
    pub fn start(outcome: Outcome) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let stage = Arc::new(Stage { outcome, sessions: Mutex::default(), changed: Condvar::new() });
        thread::Builder::new().spawn(move || {
            for connection in listener.incoming().flatten() {
                let stage = Arc::clone(&stage);
                // What goes wrong on a connection ends that connection; the client sees it and reports it.
                let _ = thread::Builder::new().spawn(move || stage.serve(connection));
            }
        })?;
        Ok(Self { url })
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A status and a JSON body.
type Answer = (u16, Value);

fn refusal(status: u16, code: &str, error: &str) -> Answer {
    (status, json!({ "error": error, "code": code, "request_id": format!("req_{}", Uuid::new_v4().simple()) }))
}

type Sessions = HashMap<String, Session>;

/// Where runs are played.
struct Stage {
    outcome: Outcome,
    sessions: Mutex<Sessions>,
    changed: Condvar,
}

impl Stage {
    fn serve(&self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::new(connection);
        let request = Request::read(&mut reader)?;
        let mut out = reader.into_inner();
        if let ("GET", ["v1", "sessions", id, "events"]) = (request.method.as_str(), request.path().as_slice()) {
            let told = request.headers.get("last-event-id").and_then(|told| told.parse().ok());
            return self.stream(&mut out, id, told);
        }
        let (status, body) = self.answer(&request).unwrap_or_else(|refusal| refusal);
        let (body, json) = (body.to_string(), "Content-Type: application/json");
        let head = format!("HTTP/1.1 {status} Rehearsed\r\nConnection: close\r\n{json}");
        out.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    fn answer(&self, request: &Request) -> Result<Answer, Answer> {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let sessions = &mut self.sessions();
        let answer = match (request.method.as_str(), request.path().as_slice()) {
            ("GET", ["v1", "health"]) => json!({ "status": "ok", "version": "rehearsal", "uptime_seconds": 0 }),
            ("GET", ["v1", "config"]) => self.config(),
            ("POST", ["v1", "sessions"]) => {
                let session = Session::new(&Uuid::new_v4().to_string());
                let answer = session.describe();
                sessions.insert(session.id.clone(), session);
                return Ok((201, answer));
            }
            ("GET", ["v1", "sessions", id]) => {
                json!({ "session": self.session(sessions, id).describe(), "config": self.config() })
            }
            ("POST", ["v1", "sessions", id, "messages"]) => {
                let prompt = &body["message"]["content"];
                if !(prompt.is_string() || prompt.is_array()) {
                    return Err(refusal(400, "invalid_request", "the body is not JSON with a message.content"));
                }
                let session = sessions.entry((*id).to_owned()).or_insert_with(|| Session::new(id));
                // Who rehearses a message in an old session wants its run, not a conflict with one that never was.
                if session.active().is_some() && !session.is_earlier {
                    return Err(refusal(409, "session_already_running", "Session already has an active run"));
                }
                session.start(&self.outcome, prompt, false);
                json!({ "run_id": session.run_id })
            }
            ("GET", ["v1", "sessions", id, "messages"]) => {
                let messages = &self.session(sessions, id).messages;
                let (offset, limit) = (request.parameter("offset"), request.parameter("limit"));
                let page = messages.iter().skip(offset.unwrap_or(0)).take(limit.unwrap_or(100));
                json!({ "messages": page.collect::<Vec<_>>(), "total": messages.len() })
            }
            ("GET", ["v1", "sessions", id, "tools", "pending"]) => self.session(sessions, id).pending(),
            // The calls of a recording were decided when it was made: a decision comes late, but that is no error.
            ("POST", ["v1", "sessions", _, "tools", "decisions"])
                if matches!(self.outcome, Outcome::Recorded(_)) =>
            {
                json!({ "accepted": true, "run_id": body["run_id"] })
            }
            ("POST", ["v1", "sessions", id, "tools", "decisions"]) => {
                let run_id = self.session(sessions, id).addressed(&body)?;
                self.session(sessions, id).decide(&body["decisions"]);
                json!({ "accepted": true, "run_id": run_id })
            }
            ("POST", ["v1", "sessions", id, "cancel"]) => {
                let run_id = self.session(sessions, id).addressed(&body)?;
                self.session(sessions, id).cancel();
                json!({ "cancelled": true, "run_id": run_id })
            }
            _ => return Err(refusal(404, "not_found", "the rehearsal does not know this call")),
        };
        self.changed.notify_all();
        Ok((200, answer))
    }

    /// Tells the events after `told`, and all that come, until the client has gone.
    fn stream(&self, out: &mut TcpStream, id: &str, told: Option<usize>) -> io::Result<()> {
        // Trap 1: who names no last event hears only what comes later. Later than the head of this answer.
        let count = self.session(&mut self.sessions(), id).events.len();
        let mut told = told.unwrap_or(count).min(count);
        out.write_all(b"HTTP/1.1 200 Rehearsed\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n")?;
        out.write_all(b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            let nothing_new = |sessions: &mut Sessions| {
                let session = self.session(sessions, id);
                session.events.len() == told && session.state != State::Breaking
            };
            let waited = self.changed.wait_timeout_while(self.sessions(), KEEPALIVE, nothing_new);
            let (mut sessions, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let session = self.session(&mut sessions, id);
            let news = session.events.iter().enumerate().skip(told);
            let mut frames: Vec<String> = news.map(|(place, event)| event.frame(place + 1)).collect();
            told = session.events.len();
            if frames.is_empty() && session.state == State::Breaking {
                // Trap 7: no event tells it, only the state, and that before the client can notice and ask. What
                // breaks off here is a chunk, so that nobody takes it for the stream's end.
                session.state = State::Lost;
                return out.write_all(b"100\r\nevent: usage_report\ndata: {");
            }
            drop(sessions);
            if frames.is_empty() {
                frames.push(": keepalive\n\n".to_owned());
            }
            for frame in frames {
                out.write_all(format!("{:x}\r\n{frame}\r\n", frame.len()).as_bytes())?;
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every id is known: one that was not made here is a session of an earlier process, with a run in it.
    fn session<'a>(&self, sessions: &'a mut Sessions, id: &str) -> &'a mut Session {
        sessions.entry(id.to_owned()).or_insert_with(|| {
            let mut session = Session::new(id);
            session.start(&self.outcome, &json!("(the prompt of an earlier process)"), true);
            session
        })
    }

    fn config(&self) -> Value {
        let mode = if self.outcome == Outcome::Completed { "all" } else { "custom" };
        json!({ "default_model": "rehearsal", "auto_approve_mode": mode })
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No run yet, or one that has ended.
    #[default]
    Idle,
    /// The run tells nothing more until it is cancelled.
    Silent,
    /// The run is stopped at `CALL`.
    Waiting { cancelled: bool },
    /// The run will be lost as soon as someone has heard its beginning.
    Breaking,
    /// The run is gone, without a terminal event.
    Lost,
}

#[derive(Default)]
struct Session {
    id: String,
    run_id: String,
    state: State,
    /// Its run was started by an earlier process.
    is_earlier: bool,
    /// Those of all runs. An event's id is its place, counted from 1.
    events: Vec<Event>,
    messages: Vec<Value>,
}

impl Session {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    fn describe(&self) -> Value {
        let run_status = match self.active() {
            Some(run_id) => json!({ "state": "running", "run_id": run_id }),
            None => json!({ "state": if self.state == State::Lost { "failed" } else { "idle" } }),
        };
        let at = "2026-11-22T10:20:33Z";
        json!({ "id": self.id, "title": "rehearsal", "cwd": null, "created_at": at, "updated_at": at,
            "run_status": run_status })
    }

    fn active(&self) -> Option<&str> {
        let is_over = matches!(self.state, State::Idle | State::Lost);
        (!is_over).then_some(self.run_id.as_str())
    }

    /// The active run, which the body has to name.
    fn addressed(&self, body: &Value) -> Result<String, Answer> {
        match self.active() {
            None => Err(refusal(409, "session_not_running", "Session has no active run")),
            Some(run_id) if body["run_id"] == *run_id => Ok(run_id.to_owned()),
            Some(_) => Err(refusal(409, "run_mismatch", "Provided run_id does not match active run")),
        }
    }

    fn start(&mut self, outcome: &Outcome, prompt: &Value, is_earlier: bool) {
        self.run_id = Uuid::new_v4().to_string();
        self.is_earlier = is_earlier;
        self.messages.push(json!({ "role": "user", "content": prompt }));
        let completed = COMPLETED.replace(UTF8_SAMPLE, "");
        let (recording, end, state) = match outcome {
            Outcome::Completed => (completed.as_str(), "", State::Idle),
            Outcome::Failed => (FAILED, "", State::Idle),
            Outcome::Paused => (WAITING, "", State::Waiting { cancelled: false }),
            Outcome::Stalled => (SILENT, "text_complete", State::Silent),
            Outcome::Lost if is_earlier => (SILENT, "usage_report", State::Lost),
            Outcome::Lost => (SILENT, "usage_report", State::Breaking),
            Outcome::Recorded(text) => (text.as_str(), "", State::Silent),
        };
        self.state = state;
        self.tell(recording, "", end);
    }

    fn decide(&mut self, decisions: &Value) {
        // A decision where nothing waits is accepted and comes to nothing.
        let State::Waiting { cancelled } = self.state else { return };
        let decision = &decisions[CALL];
        match decision["action"].as_str() {
            // Trap 5: only now, woken by whatever decision, the run sees that it was cancelled.
            _ if cancelled => self.tell(CANCELLED, "tool_execution_completed", ""),
            Some("accept") => self.tell(&accepted("Created motd.txt"), "tool_execution_started", ""),
            Some("reject") => self.tell(REJECTED, "tool_rejected", ""),
            Some("custom_result") => {
                let result = decision["content"].as_str().unwrap_or_default();
                self.tell(&accepted(result), "tool_execution_completed", "turn_completed");
                self.tell(REJECTED, "turn_completed", "");
            }
            _ => {}
        }
    }

    fn cancel(&mut self) {
        match &mut self.state {
            // Trap 5: a run that waits does not hear it.
            State::Waiting { cancelled } => *cancelled = true,
            State::Silent => self.tell(CANCELLED, "turn_completed", ""),
            State::Idle | State::Breaking | State::Lost => {}
        }
    }

    /// Every call of the batch that the run is at, decided or not.
    fn pending(&self) -> Value {
        let mut turn = self.events.iter().rev().take_while(|event| event.name != "turn_completed");
        let batch = turn.find(|event| event.name == "tool_calls_proposed");
        match (self.active(), batch.map(|event| event.payload("ToolCallsProposed"))) {
            (Some(run_id), Some(batch)) => json!({ "run_id": run_id, "tool_calls": batch["tool_calls"] }),
            _ => json!({ "run_id": null, "tool_calls": [] }),
        }
    }

    /// Tells a recording as if it were of this session and its run, from the first event called `first`
    /// (empty: from the start) up to the next one called `end` (empty: to the end).
    fn tell(&mut self, recording: &str, first: &str, end: &str) {
        let mut text = recording.replace("\r\n", "\n");
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let mut envelopes = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let envelope = envelopes.find(|envelope| envelope["run_id"].is_string()).unwrap_or_default();
        for (name, ours) in [("session_id", &self.id), ("run_id", &self.run_id)] {
            if let Some(theirs) = envelope[name].as_str().filter(|id| !id.is_empty()) {
                text = text.replace(theirs, ours);
            }
        }
        let events = text.split("\n\n").filter_map(Event::parse);
        let events = events.skip_while(|event| !first.is_empty() && event.name != first);
        for event in events.take_while(|event| event.name != end) {
            if event.name == "text_complete" {
                let text = &event.payload("TextComplete")["text"];
                self.messages.push(json!({ "role": "assistant", "content": text }));
            }
            self.events.push(event);
        }
        if self.events.last().is_some_and(|last| last.name == "run_completed" || last.name == "run_error") {
            self.state = State::Idle;
        }
    }
}

/// `ACCEPTED`, but the tool succeeds, with this result.
fn accepted(result: &str) -> String {
    ACCEPTED.replace(RECORDED_RESULT, &format!(r#""result":{},"is_error":false"#, Value::from(result)))
}

struct Event {
    name: String,
    data: String,
}

impl Event {
    /// `None` for a comment.
    fn parse(frame: &str) -> Option<Self> {
        let name = frame.lines().find_map(|line| line.strip_prefix("event:")).unwrap_or("message");
        // A line break within JSON means nothing.
        let data: String = frame.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        (!data.is_empty()).then(|| Self { name: name.trim().to_owned(), data: data.trim().to_owned() })
    }

    fn payload(&self, variant: &str) -> Value {
        let envelope: Value = serde_json::from_str(&self.data).unwrap_or_default();
        envelope["event"][variant].clone()
    }

    /// The frame on the wire. The recorded id gives way to the one that the event has in this session.
    fn frame(&self, id: usize) -> String {
        let rest = self.data.strip_prefix(r#"{"id":"#).and_then(|data| data.split_once(','));
        let data = rest.map_or_else(|| self.data.clone(), |(_, rest)| format!(r#"{{"id":{id},{rest}"#));
        format!("id: {id}\nevent: {}\ndata: {data}\n\n", self.name)
    }
}

/// An HTTP/1.1 request. The only client is this very process: its head is bounded, its body is believed.
struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut head = reader.take(HEAD_LIMIT);
        let start = line(&mut head)?;
        let mut words = start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();
        while let Some((name, value)) = line(&mut head)?.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut body = Vec::new();
        if headers.contains_key("transfer-encoding") {
            while read_chunk(reader, &mut body)? {}
        } else if let Some(length) = headers.get("content-length") {
            read_exactly(reader, length.parse().map_err(io::Error::other)?, &mut body)?;
        }
        Ok(Self { method, target, headers, body })
    }

    fn path(&self) -> Vec<&str> {
        self.target.split('?').next().unwrap_or_default().split('/').skip(1).collect()
    }

    /// A number from the query.
    fn parameter(&self, name: &str) -> Option<usize> {
        let pairs = self.target.split(['?', '&']).filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

fn read_exactly(reader: &mut impl BufRead, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let read = reader.take(length).read_to_end(into)?;
    if read as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// `false` after the last chunk, the empty one.
fn read_chunk(reader: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<bool> {
    let size = line(reader)?;
    let size = size.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
    read_exactly(reader, size, into)?;
    // The line break after a chunk; after the last one the trailers.
    while !line(reader)?.is_empty() {}
    Ok(size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    /// What should come and does not, fails after this time.
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Client {
        address: String,
    }

    impl Client {
        fn of(outcome: Outcome) -> Self {
            let rehearsal = Rehearsal::start(outcome).unwrap();
            Self { address: rehearsal.url().strip_prefix("http://").unwrap().to_owned() }
        }

        fn send(&self, request: &str) -> BufReader<TcpStream> {
            let mut connection = TcpStream::connect(&self.address).unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            connection.write_all(request.as_bytes()).unwrap();
            BufReader::new(connection)
        }

        fn raw(&self, request: &str) -> Answer {
            let mut answer = String::new();
            self.send(request).read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("\r\nConnection: close"), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
        }

        fn get(&self, path: &str) -> Value {
            let (status, body) = self.raw(&format!("GET /v1/{path} HTTP/1.1\r\nHost: here\r\n\r\n"));
            assert_eq!(status, 200, "{body}");
            body
        }

        fn post(&self, path: &str, body: &Value) -> Answer {
            let body = body.to_string();
            let length = body.len();
            self.raw(&format!("POST /v1/{path} HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n{body}"))
        }

        fn say(&self, session: &str) -> Answer {
            let message = json!({ "role": "user", "content": "Check the disks" });
            self.post(&format!("sessions/{session}/messages"), &json!({ "message": message, "type": "message" }))
        }

        /// A new session and its run.
        fn run(&self) -> (String, String) {
            let (status, session) = self.post("sessions", &json!({ "title": "a test" }));
            assert_eq!((status, &session["run_status"]["state"]), (201, &json!("idle")));
            let session = session["id"].as_str().unwrap();
            let (status, answer) = self.say(session);
            assert_eq!(status, 200, "{answer}");
            (session.to_owned(), answer["run_id"].as_str().unwrap().to_owned())
        }

        fn status(&self, session: &str) -> Value {
            self.get(&format!("sessions/{session}"))["session"]["run_status"].clone()
        }

        fn pending(&self, session: &str) -> Value {
            self.get(&format!("sessions/{session}/tools/pending"))
        }

        fn messages(&self, session: &str) -> Value {
            self.get(&format!("sessions/{session}/messages"))["messages"].clone()
        }

        fn decide(&self, session: &str, run: &str, decisions: &Value) -> Answer {
            let body = json!({ "run_id": run, "decisions": decisions });
            self.post(&format!("sessions/{session}/tools/decisions"), &body)
        }

        fn cancel(&self, session: &str, run: &str) -> Answer {
            self.post(&format!("sessions/{session}/cancel"), &json!({ "run_id": run }))
        }

        /// Returns when the head of the answer is there.
        fn listen(&self, session: &str, last_event_id: Option<usize>) -> Listener {
            let header = last_event_id.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
            let path = format!("/v1/sessions/{session}/events");
            let mut stream = self.send(&format!("GET {path} HTTP/1.1\r\nHost: here\r\n{header}\r\n"));
            let mut head = Vec::new();
            while head.last().is_none_or(|last: &String| !last.is_empty()) {
                head.push(line(&mut stream).unwrap());
            }
            assert!(head.contains(&"Content-Type: text/event-stream".to_owned()), "{head:?}");
            Listener(stream)
        }
    }

    struct Listener(BufReader<TcpStream>);

    impl Listener {
        /// The next chunk, which is one frame: its id, its name and its envelope.
        fn next(&mut self) -> io::Result<(usize, String, Value)> {
            let mut frame = Vec::new();
            assert!(read_chunk(&mut self.0, &mut frame)?, "the stream has no end");
            let frame = String::from_utf8(frame).unwrap();
            let lines: Vec<&str> = frame.lines().collect();
            let [id, name, data, ""] = lines.as_slice() else { panic!("{frame}") };
            let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
            let envelope: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(envelope["id"], id);
            Ok((id, name.strip_prefix("event: ").unwrap().to_owned(), envelope))
        }

        /// The names of what comes, up to the event called `end`, each with the id that follows the one before.
        fn names(&mut self, session: &str, run: &str, mut id: usize, end: &str) -> Vec<String> {
            let mut names = Vec::new();
            while names.last().is_none_or(|last| last != end) {
                let (next, name, envelope) = self.next().unwrap();
                id += 1;
                assert_eq!(next, id, "{envelope}");
                assert_eq!(
                    (envelope["session_id"].as_str(), envelope["run_id"].as_str()),
                    (Some(session), Some(run))
                );
                assert_eq!(envelope["event"].as_object().unwrap().values().next().unwrap()["run_id"], run);
                names.push(name);
            }
            names
        }
    }

    /// A paused run, heard up to where it waits.
    fn paused() -> (Client, String, String, Listener) {
        let client = Client::of(Outcome::Paused);
        let (session, run) = client.run();
        let mut listener = client.listen(&session, Some(0));
        listener.names(&session, &run, 0, "waiting_for_tool_approval");
        (client, session, run, listener)
    }

    #[test]
    fn the_five_names_are_outcomes() {
        for name in ["completed", "failed", "paused", "stalled", "lost"] {
            assert_eq!(format!("{:?}", name.parse::<Outcome>().unwrap()).to_lowercase(), name);
        }
        let error = "Paused".parse::<Outcome>().unwrap_err();
        assert_eq!(error, "`Paused` is none of completed, failed, paused, stalled, lost");
    }

    #[test]
    fn health_and_config_are_answered() {
        let client = Client::of(Outcome::Completed);
        assert_eq!(client.get("health")["status"], "ok");
        assert_eq!(client.get("config")["auto_approve_mode"], "all");
        assert_eq!(Client::of(Outcome::Paused).get("config")["auto_approve_mode"], "custom");
    }

    #[test]
    fn a_completed_run_answers_and_leaves_the_session_idle() {
        let client = Client::of(Outcome::Completed);
        let (session, run) = client.run();
        let names = client.listen(&session, Some(0)).names(&session, &run, 0, "run_completed");
        assert_eq!(names.first().unwrap(), "run_started");
        assert_eq!(client.status(&session), json!({ "state": "idle" }));
        assert_eq!(
            client.messages(&session),
            json!([
                { "role": "user", "content": "Check the disks" },
                { "role": "assistant", "content": "All 3 replicas are ready.\n\nNothing to do. ✅" },
            ])
        );
        let page = client.get(&format!("sessions/{session}/messages?limit=1&offset=1"));
        assert_eq!((&page["messages"][0]["role"], &page["total"]), (&json!("assistant"), &json!(2)));
        assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_failed_run_ends_with_its_error() {
        let client = Client::of(Outcome::Failed);
        let (session, run) = client.run();
        let names = client.listen(&session, Some(0)).names(&session, &run, 0, "run_error");
        assert_eq!(names, ["run_started", "turn_started", "retry_attempt", "retry_attempt", "run_error"]);
        assert_eq!(client.status(&session), json!({ "state": "idle" }));
    }

    #[test]
    fn a_paused_run_waits_until_it_is_accepted() {
        let (client, session, run, mut listener) = paused();
        let status = json!({ "state": "running", "run_id": run });
        let batch = client.pending(&session);
        assert_eq!((&batch["run_id"], &batch["tool_calls"][0]["id"]), (&json!(run), &json!(CALL)));
        assert_eq!(client.say(&session).1["code"], "session_already_running");
        // None of these decides the call that waits.
        for decisions in [json!({}), json!({ "other": { "action": "accept" } }), json!({ CALL: { "action": "?" } })]
        {
            assert_eq!(client.decide(&session, &run, &decisions).0, 200);
            assert_eq!(client.status(&session), status);
        }
        let answer = client.decide(&session, &run, &json!({ CALL: { "action": "accept" } }));
        assert_eq!(answer, (200, json!({ "accepted": true, "run_id": run })));
        assert_eq!(listener.next().unwrap().1, "tool_execution_started");
        let (id, name, envelope) = listener.next().unwrap();
        assert_eq!((id, name.as_str()), (9, "tool_execution_completed"));
        let payload = &envelope["event"]["ToolExecutionCompleted"];
        assert_eq!((&payload["result"], &payload["is_error"]), (&json!("Created motd.txt"), &json!(false)));
        listener.names(&session, &run, 9, "run_completed");
        assert_eq!(client.status(&session), json!({ "state": "idle" }));
        assert_eq!(client.pending(&session), json!({ "run_id": null, "tool_calls": [] }));
        assert_eq!(client.messages(&session)[2]["content"], "The file is in place.");
        assert_eq!(client.decide(&session, &run, &json!({})).1["code"], "session_not_running");
    }

    #[test]
    fn a_paused_run_goes_on_without_the_call_when_it_is_rejected() {
        let (client, session, run, mut listener) = paused();
        // Trap 9: the content of a rejection is ignored.
        client.decide(&session, &run, &json!({ CALL: { "action": "reject", "content": "no" } }));
        let (id, name, envelope) = listener.next().unwrap();
        assert_eq!((id, name.as_str()), (8, "tool_rejected"));
        assert_eq!(envelope["event"]["ToolRejected"]["reason"], "Tool call rejected by user");
        listener.names(&session, &run, 8, "run_completed");
        assert_eq!(client.messages(&session)[2]["content"], "I could not write the file.");
    }

    #[test]
    fn a_paused_run_takes_a_custom_result() {
        let (client, session, run, mut listener) = paused();
        let result = "not \"there\",\nbut here";
        client.decide(&session, &run, &json!({ CALL: { "action": "custom_result", "content": result } }));
        let (id, name, envelope) = listener.next().unwrap();
        assert_eq!((id, name.as_str()), (8, "tool_execution_completed"));
        let payload = &envelope["event"]["ToolExecutionCompleted"];
        assert_eq!((&payload["result"], &payload["is_error"]), (&json!(result), &json!(false)));
        let names = listener.names(&session, &run, 8, "run_completed");
        assert_eq!(names[0], "turn_completed");
    }

    #[test]
    fn a_paused_run_sees_that_it_was_cancelled_only_when_a_decision_wakes_it() {
        for decisions in [json!({}), json!({ CALL: { "action": "accept" } })] {
            let (client, session, run, mut listener) = paused();
            assert_eq!(client.cancel(&session, &run), (200, json!({ "cancelled": true, "run_id": run })));
            assert_eq!(client.status(&session)["state"], "running");
            assert_eq!(client.say(&session).0, 409);
            client.decide(&session, &run, &decisions);
            let names = listener.names(&session, &run, 7, "run_completed");
            assert_eq!(names, ["tool_execution_completed", "turn_completed", "run_completed"]);
            assert_eq!(client.status(&session), json!({ "state": "idle" }));
        }
    }

    #[test]
    fn a_stalled_run_is_silent_until_it_is_cancelled() {
        let client = Client::of(Outcome::Stalled);
        let (session, run) = client.run();
        let mut listener = client.listen(&session, Some(0));
        listener.names(&session, &run, 0, "text_delta");
        assert_eq!(client.status(&session), json!({ "state": "running", "run_id": run }));
        assert_eq!(client.cancel(&session, &run).0, 200);
        let names = listener.names(&session, &run, 3, "turn_completed");
        assert_eq!(names.len(), 1);
        let (_, _, envelope) = listener.next().unwrap();
        assert_eq!(envelope["event"]["RunCompleted"]["stop_reason"], "cancelled");
        assert_eq!(client.status(&session), json!({ "state": "idle" }));
    }

    #[test]
    fn a_lost_run_breaks_its_stream_and_never_ends() {
        let client = Client::of(Outcome::Lost);
        let (session, run) = client.run();
        assert_eq!(client.status(&session), json!({ "state": "running", "run_id": run }));
        let mut listener = client.listen(&session, Some(0));
        listener.names(&session, &run, 0, "text_complete");
        assert_eq!(listener.next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(client.status(&session), json!({ "state": "failed" }));
        assert_eq!(client.messages(&session)[1]["content"], "Reading, then writing.");
        assert_eq!(client.cancel(&session, &run).1["code"], "session_not_running");
        // A later stream holds the same and goes on, mute, as the real one does.
        let mut listener = client.listen(&session, Some(0));
        listener.names(&session, &run, 0, "text_complete");
        listener.0.get_ref().set_nonblocking(true).unwrap();
        assert_eq!(listener.next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_recording_with_an_end_is_played_whole() {
        let recording = include_str!("../tests/fixtures/max-turns.sse").replace('\n', "\r\n");
        let client = Client::of(Outcome::Recorded(recording));
        let (session, run) = client.run();
        let names = client.listen(&session, Some(0)).names(&session, &run, 0, "run_completed");
        assert_eq!(names.len(), 11);
        assert_eq!(client.status(&session), json!({ "state": "idle" }));
        assert_eq!(client.decide(&session, &run, &json!({})).0, 200, "a policy may have decided its calls");
    }

    #[test]
    fn a_recording_without_an_end_runs_until_it_is_cancelled() {
        let client = Client::of(Outcome::Recorded(SILENT.to_owned()));
        let (session, run) = client.run();
        let mut listener = client.listen(&session, Some(0));
        listener.names(&session, &run, 0, "tool_execution_completed");
        assert_eq!(client.pending(&session)["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(client.decide(&session, &run, &json!({ CALL: { "action": "accept" } })).0, 200);
        assert_eq!(client.status(&session), json!({ "state": "running", "run_id": run }));
        client.cancel(&session, &run);
        listener.names(&session, &run, 9, "run_completed");
    }

    #[test]
    fn a_recording_without_events_is_silent() {
        for text in ["", "\n\n", "no events", ": keepalive\n\n"] {
            let client = Client::of(Outcome::Recorded(text.to_owned()));
            let (session, run) = client.run();
            assert_eq!(client.status(&session), json!({ "state": "running", "run_id": run }));
        }
    }

    #[test]
    fn a_replay_begins_after_the_last_event_id() {
        let client = Client::of(Outcome::Completed);
        let (session, run) = client.run();
        let names = client.listen(&session, Some(5)).names(&session, &run, 5, "run_completed");
        assert_eq!(names, ["turn_completed", "run_completed"]);
        // A second run goes on counting.
        let mut listener = client.listen(&session, Some(7));
        let (_, answer) = client.say(&session);
        let run = answer["run_id"].as_str().unwrap();
        assert_eq!(listener.names(&session, run, 7, "run_completed").len(), 7);
    }

    #[test]
    fn without_a_last_event_id_only_what_comes_later_is_heard() {
        let client = Client::of(Outcome::Completed);
        let (session, _) = client.run();
        let mut listener = client.listen(&session, None);
        let (_, answer) = client.say(&session);
        listener.names(&session, answer["run_id"].as_str().unwrap(), 7, "run_completed");
    }

    #[test]
    fn any_session_is_known_and_its_run_has_been_started() {
        let client = Client::of(Outcome::Paused);
        let run = client.pending("some-session")["run_id"].as_str().unwrap().to_owned();
        assert_eq!(client.status("some-session"), json!({ "state": "running", "run_id": run }));
        client.decide("some-session", &run, &json!({ CALL: { "action": "accept" } }));
        client.listen("some-session", Some(0)).names("some-session", &run, 0, "run_completed");

        let client = Client::of(Outcome::Completed);
        assert_eq!(client.status("old"), json!({ "state": "idle" }));
        assert_eq!(client.listen("old", Some(0)).next().unwrap().1, "run_started");

        let client = Client::of(Outcome::Lost);
        assert_eq!(client.status("old"), json!({ "state": "failed" }));
        assert_eq!(client.listen("old", Some(0)).next().unwrap().1, "run_started");
    }

    #[test]
    fn a_message_in_any_session_starts_a_run() {
        let client = Client::of(Outcome::Paused);
        let (status, answer) = client.say("unseen");
        assert_eq!(status, 200);
        let run = answer["run_id"].as_str().unwrap();
        client.listen("unseen", Some(0)).names("unseen", run, 0, "waiting_for_tool_approval");
        // Looked at before, the session holds an earlier run too.
        let earlier = client.status("seen")["run_id"].clone();
        let (status, answer) = client.say("seen");
        assert_eq!(status, 200);
        assert_ne!(answer["run_id"], earlier);
        let run = answer["run_id"].as_str().unwrap();
        client.listen("seen", Some(7)).names("seen", run, 7, "waiting_for_tool_approval");
        assert_eq!(client.say("seen").0, 409);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let client = Client::of(Outcome::Paused);
        let (session, _) = client.run();
        assert_eq!(client.cancel(&session, "another").1["code"], "run_mismatch");
        let refusals = [
            (404, "GET /v1/else HTTP/1.1\r\n\r\n"),
            (404, "DELETE /v1/sessions/a HTTP/1.1\r\n\r\n"),
            (404, "GET / HTTP/1.1\r\n\r\n"),
            (400, "POST /v1/sessions/a/messages HTTP/1.1\r\nContent-Length: 1\r\n\r\n{"),
            (400, "POST /v1/sessions/a/messages HTTP/1.1\r\nContent-Length: 14\r\n\r\n{\"message\":{}}"),
        ];
        for (expected, request) in refusals {
            let (status, body) = client.raw(request);
            assert_eq!(status, expected, "{request}");
            assert!(body["error"].is_string() && body["code"].is_string() && body["request_id"].is_string());
        }
    }

    #[test]
    fn a_chunked_body_is_read() {
        let client = Client::of(Outcome::Completed);
        let request = "POST /v1/sessions/a/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
            c;x=y\r\n{\"message\":{\r\n10\r\n\"content\":\"hello\r\n3\r\n\"}}\r\n0\r\nTrailer: 1\r\n\r\n";
        assert_eq!(client.raw(request).0, 200);
        assert_eq!(client.messages("a")[0]["content"], "hello");
    }

    #[test]
    fn what_is_not_http_is_hung_up_on() {
        let client = Client::of(Outcome::Completed);
        let endless = format!("GET /v1/health HTTP/1.1\r\nA: {}", "a".repeat(70_000));
        let short = "POST /v1/sessions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}";
        for request in ["", "\n", endless.as_str(), short, "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
            let mut connection = TcpStream::connect(&client.address).unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            // Hung up on with bytes unread, we may see a reset at any of these steps.
            let _ = connection.write_all(request.as_bytes());
            let _ = connection.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = connection.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{request:.40}: {}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(client.get("health")["status"], "ok");
    }
}

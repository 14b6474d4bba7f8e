//! The practice server of `--rehearse`: plays a recorded run on loopback, over real HTTP and Server-Sent Events.
//!
//! It behaves like the real server for the calls that this program makes, protocol traps included. A run sends at
//! once every event that needs no decision and no cancel. Tokens and idempotency keys are ignored, because nothing
//! gets lost on loopback.

mod http;

use http::Request;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use uuid::Uuid;

const COMPLETED: &str = include_str!("../../tests/fixtures/completed-text.sse");
const FAILED: &str = include_str!("../../tests/fixtures/run-error.sse");
const SILENT: &str = include_str!("../../tests/fixtures/silent-failure-mixed-batch.sse");
const WAITING: &str = include_str!("../../tests/fixtures/waiting-for-approval.sse");
const ACCEPTED: &str = include_str!("../../tests/fixtures/completed-tools-accepted.sse");
const REJECTED: &str = include_str!("../../tests/fixtures/completed-tool-rejected.sse");
const CANCELLED: &str = include_str!("../../tests/fixtures/cancelled.sse");

/// The part of `COMPLETED` that is there for UTF-8 tests. A rehearsal leaves it out.
const UTF8_SAMPLE: &str = " naïve 日本語";
/// The call that waits at the end of `WAITING`, and that `ACCEPTED`, `REJECTED` and `CANCELLED` continue.
const CALL: &str = "call_create_1";
/// The failed result of this call in `ACCEPTED`. A rehearsal replaces it by a success.
const RECORDED_RESULT: &str = r#""result":"FILE_EXISTS\nFile already exists: motd.txt","is_error":true"#;

/// Turns a session's ID into the ID of its run. The bits of a UUID's version and variant are 0.
const RUN: u128 = 0x5f0c_9d1e_a3b7_0e46_1b2d_83c5_f7a9_4e61;

/// In seconds: long enough that a lost run does not look like a restart.
const UPTIME: u64 = 86_400;
/// The session that `list` shows if there is no other one.
const EARLIER: &str = "00000000-0000-4000-8000-000000000001";
/// The real server sends a comment every 15 s, which is too long for a rehearsal.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// How the run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The run completes. It calls no tool, so that no policy flag changes the end.
    Completed,
    /// The run ends with a `RunError`.
    Failed,
    /// The run waits for a decision about a tool call, and continues as decided.
    Paused,
    /// The run sends some text, and then nothing until it is cancelled.
    Stalled,
    /// The stream breaks, and the server no longer has the run.
    Lost,
    /// The content of an `.sse` file. Without a terminal event it continues like `Stalled`.
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
            _ => Err("none of completed, failed, paused, stalled, lost".into()),
        }
    }
}

/// Starts a practice server on a free port of 127.0.0.1, and returns its URL. It runs until the process ends.
pub fn start(outcome: Outcome) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let stage = Arc::new(Stage { outcome, sessions: Mutex::default(), changed: Condvar::new() });
    thread::Builder::new().spawn(move || {
        for connection in listener.incoming().flatten() {
            let stage = Arc::clone(&stage);
            // An error ends the connection, and the client reports that.
            let _ = thread::Builder::new().spawn(move || stage.serve(connection));
        }
    })?;
    Ok(url)
}

/// A status and a JSON body.
type Answer = (u16, Value);

fn refusal(status: u16, code: &str, error: &str) -> Answer {
    (status, json!({ "error": error, "code": code, "request_id": format!("req_{}", Uuid::new_v4().simple()) }))
}

type Sessions = HashMap<String, Session>;

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
            ("GET", ["v1", "health"]) => {
                json!({ "status": "ok", "version": "rehearsal", "uptime_seconds": UPTIME })
            }
            ("GET", ["v1", "config"]) => self.config(),
            ("POST", ["v1", "sessions"]) => {
                let session = Session::new(&Uuid::new_v4().to_string());
                let answer = session.describe();
                sessions.insert(session.id.clone(), session);
                return Ok((201, answer));
            }
            ("GET", ["v1", "sessions"]) => self.list(sessions, request.parameter("offset")),
            ("GET", ["v1", "sessions", id]) => {
                json!({ "session": self.session(sessions, id).describe(), "config": self.config() })
            }
            ("POST", ["v1", "sessions", id, "messages"]) => {
                let prompt = &body["message"]["content"];
                if !(prompt.is_string() || prompt.is_array()) {
                    return Err(refusal(400, "invalid_request", "the body is not JSON with a message.content"));
                }
                let session = sessions.entry((*id).to_owned()).or_insert_with(|| Session::new(id));
                // A rehearsed `run --session` must start a run, so the practice session counts as idle.
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
            // The calls of a recording are decided already. Another decision is no error.
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

    /// Returns the only page of the sessions.
    fn list(&self, sessions: &mut Sessions, offset: Option<usize>) -> Value {
        // The run of an earlier process is there to be found.
        if sessions.is_empty() {
            self.session(sessions, EARLIER);
        }
        let page: Vec<_> = sessions.values().skip(offset.unwrap_or(0)).map(Session::describe).collect();
        json!({ "total": page.len(), "sessions": page })
    }

    /// Sends the events after the first `told` ones, and all later events, until the client closes the connection.
    fn stream(&self, out: &mut TcpStream, id: &str, told: Option<usize>) -> io::Result<()> {
        // Trap 1: without a Last-Event-ID, only later events are sent.
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
                // Trap 7: only the state shows it, so the state must change before the client can ask. The connection
                // breaks within a chunk, so that it does not look like the end of the stream.
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

    /// Returns the session. An unknown ID becomes a session with a run, as if an earlier process had created it.
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
    /// There is no run, or it has ended.
    #[default]
    Idle,
    /// The run sends nothing more until it is cancelled.
    Silent,
    /// The run waits for a decision about `CALL`.
    Waiting { cancelled: bool },
    /// The run is lost as soon as a client has read its first events.
    Breaking,
    /// The run is gone, without a terminal event.
    Lost,
}

#[derive(Default)]
struct Session {
    id: String,
    run_id: String,
    state: State,
    /// The number of runs so far.
    runs: u128,
    /// The run belongs to an earlier process.
    is_earlier: bool,
    /// The events of all runs. An event's ID is its position, counted from 1.
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
            None => json!({ "state": "idle" }),
        };
        let at = "2026-11-22T10:20:33Z";
        json!({ "id": self.id, "title": "rehearsal", "cwd": null, "created_at": at, "updated_at": at,
            "run_status": run_status })
    }

    fn active(&self) -> Option<&str> {
        let is_over = matches!(self.state, State::Idle | State::Lost);
        (!is_over).then_some(self.run_id.as_str())
    }

    /// Returns the active run. The body must name it.
    fn addressed(&self, body: &Value) -> Result<String, Answer> {
        match self.active() {
            None => Err(refusal(409, "session_not_running", "Session has no active run")),
            Some(run_id) if body["run_id"] == *run_id => Ok(run_id.to_owned()),
            Some(_) => Err(refusal(409, "run_mismatch", "Provided run_id does not match active run")),
        }
    }

    fn start(&mut self, outcome: &Outcome, prompt: &Value, is_earlier: bool) {
        self.runs += 1;
        self.run_id = run_id(&self.id, self.runs);
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
        // Without a pending call, a decision is accepted and has no effect.
        let State::Waiting { cancelled } = self.state else { return };
        let decision = &decisions[CALL];
        match decision["action"].as_str() {
            // Trap 5: only a decision, of any kind, makes the run notice the cancel.
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
            // Trap 5: a waiting run does not notice a cancel.
            State::Waiting { cancelled } => *cancelled = true,
            State::Silent => self.tell(CANCELLED, "turn_completed", ""),
            State::Idle | State::Breaking | State::Lost => {}
        }
    }

    /// Returns every call of the current batch, whether decided or not.
    fn pending(&self) -> Value {
        let mut turn = self.events.iter().rev().take_while(|event| event.name != "turn_completed");
        let batch = turn.find(|event| event.name == "tool_calls_proposed");
        match (self.active(), batch.map(|event| event.payload("ToolCallsProposed"))) {
            (Some(run_id), Some(batch)) => json!({ "run_id": run_id, "tool_calls": batch["tool_calls"] }),
            _ => json!({ "run_id": null, "tool_calls": [] }),
        }
    }

    /// Adds the events of a recording, with the IDs of this session and run: from the first event named `first` (or the
    /// start, if empty) to the next event named `end`, which is left out (or the end, if empty).
    fn tell(&mut self, recording: &str, first: &str, end: &str) {
        let mut events = events(recording);
        let mut envelopes = events.iter().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok());
        let envelope = envelopes.find(|envelope| envelope["run_id"].is_string()).unwrap_or_default();
        for (name, ours) in [("session_id", &self.id), ("run_id", &self.run_id)] {
            if let Some(theirs) = envelope[name].as_str().filter(|id| !id.is_empty()) {
                events.iter_mut().for_each(|event| event.data = event.data.replace(theirs, ours));
            }
        }
        let events = events.into_iter().skip_while(|event| !first.is_empty() && event.name != first);
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

/// Returns the ID of a session's run by its number. It is the same in every process, because the batch name of
/// `sortie resume` contains it.
fn run_id(session: &str, number: u128) -> String {
    let session = Uuid::parse_str(session).unwrap_or_default().as_u128();
    Uuid::from_u128(session ^ RUN ^ number << 96).to_string()
}

/// Returns `ACCEPTED` with this successful result of the tool.
fn accepted(result: &str) -> String {
    ACCEPTED.replace(RECORDED_RESULT, &format!(r#""result":{},"is_error":false"#, Value::from(result)))
}

/// Returns whether a recording has at least one event that can be played.
pub fn has_event(recording: &str) -> bool {
    let is_event = |data: &str| serde_json::from_str::<Value>(data).is_ok_and(|data| data["event"].is_object());
    events(recording).iter().any(|event| is_event(&event.data))
}

fn events(recording: &str) -> Vec<Event> {
    recording.replace("\r\n", "\n").split("\n\n").filter_map(Event::parse).collect()
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

    /// Returns the frame to send, with the event's ID in this session instead of the recorded one.
    fn frame(&self, id: usize) -> String {
        let rest = self.data.strip_prefix(r#"{"id":"#).and_then(|data| data.split_once(','));
        let data = rest.map_or_else(|| self.data.clone(), |(_, rest)| format!(r#"{{"id":{id},{rest}"#));
        format!("id: {id}\nevent: {}\ndata: {data}\n\n", self.name)
    }
}

#[cfg(test)]
mod tests;

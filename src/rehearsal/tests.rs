//! Tests the practice server over HTTP.

use super::http::line;
use super::*;
use std::io::{BufRead, Read};
use std::net::Shutdown;

/// A read fails after this time.
const PATIENCE: Duration = Duration::from_secs(10);

struct Client {
    address: String,
}

impl Client {
    fn of(outcome: Outcome) -> Self {
        Self { address: start(outcome).unwrap().strip_prefix("http://").unwrap().to_owned() }
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

    /// Creates a session and starts its run.
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

    /// Opens the stream. Returns after the head of the answer.
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
    /// Returns the ID, name and envelope of the next chunk, which is one frame.
    fn next(&mut self) -> io::Result<(usize, String, Value)> {
        let mut frame = Vec::new();
        assert!(chunk(&mut self.0, &mut frame)?, "the stream has no end");
        let frame = String::from_utf8(frame).unwrap();
        let lines: Vec<&str> = frame.lines().collect();
        let [id, name, data, ""] = lines.as_slice() else { panic!("{frame}") };
        let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
        let envelope: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(envelope["id"], id);
        Ok((id, name.strip_prefix("event: ").unwrap().to_owned(), envelope))
    }

    /// Returns the names of the next events, up to the one named `end`. Checks that their IDs are consecutive.
    fn names(&mut self, session: &str, run: &str, mut id: usize, end: &str) -> Vec<String> {
        let mut names = Vec::new();
        while names.last().is_none_or(|last| last != end) {
            let (next, name, envelope) = self.next().unwrap();
            id += 1;
            assert_eq!(next, id, "{envelope}");
            assert_eq!((envelope["session_id"].as_str(), envelope["run_id"].as_str()), (Some(session), Some(run)));
            assert_eq!(envelope["event"].as_object().unwrap().values().next().unwrap()["run_id"], run);
            names.push(name);
        }
        names
    }
}

/// A paused run whose stream was read up to the pause.
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
    assert_eq!(error, "none of completed, failed, paused, stalled, lost");
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
    // None of these decides the pending call.
    for decisions in [json!({}), json!({ "other": { "action": "accept" } }), json!({ CALL: { "action": "?" } })] {
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
fn a_paused_run_continues_without_a_rejected_call() {
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
fn a_paused_run_notices_a_cancel_only_after_a_decision() {
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
    assert_eq!(client.status(&session), json!({ "state": "idle" }));
    assert_eq!(client.messages(&session)[1]["content"], "Reading, then writing.");
    assert_eq!(client.cancel(&session, &run).1["code"], "session_not_running");
    // A later stream has the same events and then stays silent, like that of the real server.
    let mut listener = client.listen(&session, Some(0));
    listener.names(&session, &run, 0, "text_complete");
    listener.0.get_ref().set_nonblocking(true).unwrap();
    assert_eq!(listener.next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_recording_with_an_end_is_played_whole() {
    let recording = include_str!("../../tests/fixtures/max-turns.sse").replace('\n', "\r\n");
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
    // A second run continues the IDs.
    let mut listener = client.listen(&session, Some(7));
    let (_, answer) = client.say(&session);
    let run = answer["run_id"].as_str().unwrap();
    assert_eq!(listener.names(&session, run, 7, "run_completed").len(), 7);
}

#[test]
fn without_a_last_event_id_only_later_events_are_sent() {
    let client = Client::of(Outcome::Completed);
    let (session, _) = client.run();
    let mut listener = client.listen(&session, None);
    let (_, answer) = client.say(&session);
    listener.names(&session, answer["run_id"].as_str().unwrap(), 7, "run_completed");
}

#[test]
fn every_session_exists_and_has_a_run() {
    let client = Client::of(Outcome::Paused);
    let run = client.pending("some-session")["run_id"].as_str().unwrap().to_owned();
    assert_eq!(client.status("some-session"), json!({ "state": "running", "run_id": run }));
    client.decide("some-session", &run, &json!({ CALL: { "action": "accept" } }));
    client.listen("some-session", Some(0)).names("some-session", &run, 0, "run_completed");

    let client = Client::of(Outcome::Completed);
    assert_eq!(client.status("old"), json!({ "state": "idle" }));
    assert_eq!(client.listen("old", Some(0)).next().unwrap().1, "run_started");

    let client = Client::of(Outcome::Lost);
    assert_eq!(client.status("old"), json!({ "state": "idle" }));
    assert_eq!(client.listen("old", Some(0)).next().unwrap().1, "run_started");
}

#[test]
fn a_message_in_any_session_starts_a_run() {
    let client = Client::of(Outcome::Paused);
    let (status, answer) = client.say("unseen");
    assert_eq!(status, 200);
    let run = answer["run_id"].as_str().unwrap();
    client.listen("unseen", Some(0)).names("unseen", run, 0, "waiting_for_tool_approval");
    // The session was looked at before, so it contains an earlier run too.
    let earlier = client.status("seen")["run_id"].clone();
    let (status, answer) = client.say("seen");
    assert_eq!(status, 200);
    assert_ne!(answer["run_id"], earlier);
    let run = answer["run_id"].as_str().unwrap();
    client.listen("seen", Some(7)).names("seen", run, 7, "waiting_for_tool_approval");
    assert_eq!(client.say("seen").0, 409);
}

#[test]
fn an_invalid_call_is_refused() {
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
fn a_connection_without_http_is_closed() {
    let client = Client::of(Outcome::Completed);
    let endless = format!("GET /v1/health HTTP/1.1\r\nA: {}", "a".repeat(70_000));
    let short = "POST /v1/sessions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}";
    for request in ["", "\n", endless.as_str(), short, "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
        let mut connection = TcpStream::connect(&client.address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server closes the connection with unread bytes, so any of these steps may fail with a reset.
        let _ = connection.write_all(request.as_bytes());
        let _ = connection.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{request:.40}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(client.get("health")["status"], "ok");
}

/// Reads one chunk of a chunked body. Returns `false` after the last chunk, which is empty.
fn chunk(reader: &mut impl BufRead, into: &mut Vec<u8>) -> io::Result<bool> {
    let size = line(reader)?;
    let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
    if reader.take(size).read_to_end(into)? as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // A line break follows each chunk, and the trailers follow the last one.
    while !line(reader)?.is_empty() {}
    Ok(size > 0)
}

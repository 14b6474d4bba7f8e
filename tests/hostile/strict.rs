//! What the server says is checked where it matters, and what is wrong with it is told in a few harmless words.

use crate::support::agent::Agent;
use crate::support::process::Sortie;
use crate::terminals::assert_harmless;
use crate::trial::{Trial, begun, completed};
use serde_json::json;

/// None of these is a UUID, and each would lead elsewhere as a part of a path.
const BAD_IDS: [&str; 14] = [
    "",
    ".",
    "..",
    "../../v1/config",
    "..%2f..%2fv1%2fconfig",
    "not-a-uuid",
    "4b825dc6-42cb-6eb9-a060-e54bf8d69288/../../admin",
    "4b825dc6-42cb-6eb9-a060-e54bf8d6928",
    "4b825dc6-42cb-6eb9-a060-e54bf8d69288 ",
    "4b825dc6-42cb-6eb9-a060-e54bf8d69288?x=y",
    "4b825dc6-42cb-6eb9-a060-e54bf8d69288#",
    "4b825dc6-42cb-6eb9-a060-e54bf8d6928\u{ff18}",
    "\r\nx-injected: yes",
    "\u{1b}]0;title\u{7}\u{202e}\u{9b}31m",
];

#[test]
fn an_event_stream_must_say_that_it_is_one() {
    let events = |run| format!("{}{}", begun(run), completed(3, run));
    for kind in [
        "text/html",
        "text/html; charset=utf-8",
        "application/json",
        "text/event-streams",
        "text/event-stream-not; text/event-stream",
        "application/octet-stream; x=text/event-stream",
        "",
    ] {
        let trial = Trial::new(move |exchange, run| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            exchange.respond(200, &[("content-type", kind)], events(run).as_bytes());
            None
        });
        let output = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
        output.stderr_has("event stream").stderr_has(kind.split(';').next().unwrap()).fails("protocol");
    }
    for kind in ["text/event-stream", "text/event-stream;charset=utf-8", "Text/Event-Stream ; x=y"] {
        let trial = Trial::new(move |exchange, run| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            exchange.respond(200, &[("content-type", kind)], events(run).as_bytes());
            None
        });
        trial.sortie(["run", "go"]).run().code(0);
    }
}

#[test]
fn an_id_from_the_server_that_is_no_uuid_goes_nowhere() {
    for id in BAD_IDS.map(|id| json!(id)).into_iter().chain([json!(7), json!(null), json!({}), json!(["x"])]) {
        let created = json!({ "id": id });
        let trial = Trial::answering("POST", "/sessions", created.to_string());
        let output = trial.sortie(["run", "-o", "json", "go"]).run();
        assert_harmless(&output.stderr);
        output.fails("protocol");
        assert_eq!(trial.requests(), ["POST /v1/sessions"], "{id}");

        let sent = json!({ "run_id": id });
        let trial = Trial::answering("POST", "/messages", sent.to_string());
        let output = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
        assert_harmless(&output.stderr);
        output.fails("protocol");
        only_plain_paths(&trial);
        if id.is_null() {
            continue;
        }

        let status = json!({ "session": { "run_status": { "state": "running", "run_id": id } } }).to_string();
        let trial = Trial::new(move |exchange, _| {
            exchange.respond(200, &[], status.as_bytes());
            None
        });
        let session = trial.session.to_string();
        for command in ["attach", "resume", "cancel", "pending"] {
            let output = trial.sortie([command, &session]).run().code(1).stderr_has("(protocol)");
            assert_harmless(&output.stderr);
        }
        only_plain_paths(&trial);
        assert_eq!(trial.requests().len(), 4, "{id}: {:?}", trial.requests());
    }
}

#[track_caller]
fn only_plain_paths(trial: &Trial) {
    let session = format!("/v1/sessions/{}", trial.session);
    for request in trial.requests() {
        let (_, path) = request.split_once(' ').unwrap();
        let known = path == "/v1/sessions" || path == "/v1/config" || path.starts_with(&session);
        assert!(known && !path.contains("..") && !path.contains('%'), "{request}");
    }
}

#[test]
fn an_event_whose_run_is_no_uuid_is_not_ours() {
    for id in BAD_IDS {
        let trial = Trial::idle(move |stream, _| {
            let run = json!(id);
            let event = json!({ "id": 1, "run_id": run, "event": { "RunError": { "run_id": run, "error": "x" } } });
            stream.chunk(format!("id: 1\nevent: run_error\ndata: {event}\n\n").as_bytes());
        });
        let session = trial.session.to_string();
        let output = trial.sortie(["attach", "-o", "json", "--timeout", "10s", &session]).run().code(1);
        assert_harmless(&output.stderr);
        let run = output.record()["run_id"].clone();
        assert!(run.is_null(), "{id:?} came out as a run's id");
        only_plain_paths(&trial);
    }
}

#[test]
fn an_id_on_the_command_line_that_is_no_uuid_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    for id in BAD_IDS {
        for command in ["attach", "resume", "cancel", "pending"] {
            let output = agent.sortie([command, "--", id]).run().code(1).stdout("");
            assert_harmless(&output.stderr);
        }
        let session = format!("--session={id}");
        let output = agent.sortie(["run", "-o", "json", &session, "go"]).run();
        assert_harmless(&output.stderr);
        output.fails("usage");
    }
}

#[test]
fn an_answer_of_the_wrong_shape_is_quoted_a_little() {
    let long = format!(r#"{{"id":7,"said":"{}"}}"#, "All work and no play. ".repeat(10_000));
    for (body, quoted) in [
        ("<html><body>Please log in</body></html>", "Please log in"),
        ("{}", "{}"),
        ("[]", "[]"),
        ("null", "null"),
        (r#"{"id":7}"#, r#"{"id":7}"#),
        (r#"["4b825dc6-42cb-6eb9-a060-e54bf8d69288"]"#, r#"["4b825dc6"#),
        (r#"{"ID":"4b825dc6-42cb-6eb9-a060-e54bf8d69288"}"#, "4b825dc6"),
        ("{\"id\": \u{1b}[2J\r\n\u{202e}", "\\u{1b}[2J"),
        (long.as_str(), "All work"),
    ] {
        let trial = Trial::answering("POST", "/sessions", body);
        let output = trial.sortie(["run", "-o", "json", "go"]).run().stderr_has(quoted);
        assert_harmless(&output.stderr);
        assert!(output.stderr.len() < 2000, "{}", output.stderr);
        let error = output.fails("protocol")["error"].as_str().unwrap().to_owned();
        assert!(error.contains(quoted) && error.len() < 1500, "{error}");
    }
}

#[test]
fn an_answer_that_is_cut_or_empty_is_no_answer() {
    for body in ["", "{\"id\":", "\u{0}", "\u{feff}{}"] {
        let trial = Trial::answering("POST", "/sessions", body);
        trial.sortie(["run", "-o", "json", "go"]).run().fails("protocol");
    }
    // Less than the head says.
    let trial = Trial::new(|mut exchange, _| {
        exchange.connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":");
        None
    });
    let output = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
    output.fails("connection");
}

#[test]
fn what_is_no_http_is_a_failure_that_says_so() {
    for answer in
        ["SSH-2.0-OpenSSH_9.9\r\n", "\u{15}\u{3}\u{1}\0\u{2}\u{2}\u{46}", "HTTP/9.9 200 OK\r\n\r\n", "\r\n\r\n"]
    {
        let trial = Trial::new(move |mut exchange, _| {
            exchange.connection.write(answer.as_bytes());
            None
        });
        let output = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
        assert_harmless(&output.stderr);
        let record = output.code(1).record();
        assert!(["connection", "protocol"].contains(&record["reason"].as_str().unwrap()), "{answer:?}: {record:#}");
    }
}

#[test]
fn a_server_that_is_no_url_of_ours_is_refused_before_anything_is_sent() {
    for server in [
        "127.0.0.1:4096",
        "file:///etc/passwd",
        "unix:///run/agent.sock",
        "http://",
        "http:///v1",
        "http://127.0.0.1:4096/?x=y",
        "http://127.0.0.1:4096/#x",
        "http://127.0.0.1:4096\r\nx-injected: yes",
        "http://127.0.0.1:99999",
        "http://\u{1b}[2J",
    ] {
        let output = Sortie::new(["run", "-o", "json", "--server", server, "--retry-timeout", "300ms", "go"]).run();
        assert_harmless(&output.stderr);
        output.fails("usage");
    }
}

//! Whose word an answer is: the server's own, that of something in between, or nobody's.

use crate::support::PATIENCE;
use crate::support::agent::{Agent, Route, TOKEN, call};
use crate::support::http::Ending;
use crate::support::process::{Running, Sortie};
use crate::support::terminal::Terminal;
use crate::support::wire::{Wire, answer};
use rustix::process::Signal;
use serde_json::{Value, json};
use sortie::client::{Address, CallError, Client, Headers, Options, Token, Word};
use sortie::console::Console;
use sortie::outcome::Reason;
use sortie::watchdog::Watch;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

const HTML: [(&str, &str); 1] = [("content-type", "text/html")];
/// A page of a proxy, longer than anybody wants to read.
const PAGE: &str = "<!DOCTYPE html>\n<html>\n<head><title>Gateway page</title>\n<style>body { color: red }</style></head>\n\
                    <body><center><h1>Something is wrong</h1></center><hr>and it is explained at length</body></html>";

fn start(agent: &Agent, arguments: &[&str]) -> Running {
    agent.sortie(["run", "-o", "json"]).args(arguments.iter().copied()).arg("go").spawn()
}

// Before the server's first own word.

#[test]
fn a_page_as_the_first_answer_says_that_this_is_no_agent_server() {
    let json = [("content-type", "application/json")];
    let rows = [
        (404, &HTML[..], PAGE),
        (403, &HTML, PAGE),
        (400, &HTML, PAGE),
        (405, &HTML, PAGE),
        (200, &HTML, PAGE),
        (200, &json, r#"{"hello":"world"}"#),
        (204, &[], ""),
        (404, &json, r#"{"error":"no such route","code":"route_not_found"}"#),
        (302, &[("location", "https://login.example/")], ""),
    ];
    let runs = rows.map(|(status, headers, body)| {
        let agent = Agent::start();
        agent.every(Route::CreateSession).answer(status, headers, body);
        let running = start(&agent, &[]);
        (status, running, agent)
    });
    for (status, running, agent) in runs {
        let output = running.wait().within(Duration::from_secs(10)).stderr_has("this is no agent server");
        let record = output.stderr_has(&status.to_string()).stderr_lacks("<").fails("protocol");
        assert_eq!(record["retryable"], false, "{status}");
        assert_eq!(agent.requests(Route::CreateSession).len(), 1, "{status}: it was asked once");
    }
}

#[test]
fn a_redirect_names_its_target_and_the_header_file() {
    let agent = Agent::start();
    agent.every(Route::CreateSession).answer(302, &[("location", "https://login.example/")], "");
    let output = start(&agent, &[]).wait().stderr_has("https://login.example/").stderr_has("--header-file");
    output.stderr_has("--server").fails("protocol");
}

#[test]
fn a_401_of_a_gateway_is_an_auth_failure_that_names_the_gateway() {
    for (headers, body) in [(&HTML[..], PAGE), (&[("content-type", "application/json")], r#"{"message":"no"}"#)] {
        let agent = Agent::start();
        agent.every(Route::CreateSession).answer(401, headers, body);
        let output = start(&agent, &[]).wait().within(Duration::from_secs(10));
        let output = output.stderr_has("--header-file").stderr_has("in front of the agent server");
        let record = output.stderr_lacks("--token-file").fails("auth");
        assert_eq!(record["retryable"], false);
        assert_eq!(agent.requests(Route::CreateSession).len(), 1);
    }
}

#[test]
fn a_temporary_page_is_retried_even_as_the_first_answer() {
    for status in [408, 429, 499, 500, 501, 502, 503, 504, 507, 520, 524, 530] {
        let agent = Agent::answering("Done.");
        agent.next(Route::CreateSession).answer(status, &HTML, PAGE);
        let record = start(&agent, &[]).wait().code(0).record();
        assert_eq!(record["text"], "Done.", "{status}");
        let tries = agent.requests(Route::CreateSession);
        assert_eq!(tries.len(), 2, "{status}");
        assert_eq!(tries[0].header("idempotency-key"), tries[1].header("idempotency-key"), "{status}");
    }
}

// After it.

#[test]
fn after_the_servers_first_answer_a_page_proves_nothing() {
    let pages = [
        (200, ""),
        (200, PAGE),
        (302, ""),
        (401, PAGE),
        (403, PAGE),
        (404, PAGE),
        (409, PAGE),
        (499, ""),
        (501, PAGE),
        (524, PAGE),
    ];
    let runs = pages.map(|(status, page)| {
        let agent = Agent::start();
        for route in [Route::Send, Route::Events, Route::Config, Route::Decide] {
            agent.next(route).answer(status, &HTML, page);
        }
        let running = start(&agent, &[]);
        (status, running, agent)
    });
    for (status, running, agent) in runs {
        let run = agent.next_run();
        run.text("I write.");
        run.propose([call("a", "create")]);
        run.text("Done.");
        run.complete();
        let record = running.wait().code(0).record();
        assert_eq!(record["text"], "I write.\nDone.", "{status}");
        assert_eq!(agent.runs_begun(), 1, "{status}");
        for route in [Route::Send, Route::Decide] {
            let tries = agent.requests(route);
            assert_eq!(tries.len(), 2, "{status} {route:?}");
            assert_eq!(
                tries[0].header("idempotency-key"),
                tries[1].header("idempotency-key"),
                "{status} {route:?}"
            );
        }
    }
}

#[test]
fn a_taken_prompt_with_a_page_as_its_answer_is_found_by_its_key() {
    for status in [404, 409, 499, 501, 505, 507, 520, 524, 530] {
        let agent = Agent::answering("Done.");
        agent.next(Route::Send).answer_afterwards(status, &HTML, PAGE);
        let record = start(&agent, &[]).wait().code(0).record();
        assert_eq!(record["text"], "Done.", "{status}");
        assert_eq!(agent.runs_begun(), 1, "{status}");
    }
}

#[test]
fn after_the_servers_first_answer_a_connection_fault_is_retried() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-header: x\r\n".repeat(200));
    let wire = Wire::start();
    let running = wire.sortie(["run", "go"]).spawn();
    answer(wire.next(), wire.session, wire.run);
    let sent = wire.next();
    let key = sent.request.header("idempotency-key").unwrap().to_owned();
    sent.raw(many.as_bytes(), Ending::Cut);
    let again = wire.next();
    assert_eq!(again.request.header("idempotency-key"), Some(&*key));
    answer(again, wire.session, wire.run);
    wire.admit().raw(completed(wire.session, wire.run).as_bytes(), Ending::Cut);
    running.wait().code(0);
    // Before it, no retry mends it.
    let wire = Wire::start();
    let running = wire.sortie(["run", "-o", "json", "go"]).spawn();
    wire.next().raw(many.as_bytes(), Ending::Cut);
    let record = running.wait().within(Duration::from_secs(10)).stderr_has("headers").fails("connection");
    assert_eq!(record["retryable"], false);
}

#[test]
fn a_prompt_with_only_pages_as_answers_is_in_doubt_and_its_run_cancelled() {
    let agent = Agent::start();
    agent.next(Route::Send).answer_afterwards(524, &HTML, PAGE);
    agent.every(Route::Send).answer(404, &HTML, PAGE);
    let running = start(&agent, &["--retry-timeout", "1s"]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    let record = running.wait().fails("server");
    assert!(run.is_cancelled(), "{record:#}");
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn the_cancel_is_retried_through_pages_until_its_deadline() {
    let agent = Agent::start();
    let running = start(&agent, &["--retry-timeout", "0s"]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    for _ in 0..3 {
        agent.next(Route::Cancel).answer(404, &HTML, PAGE);
        agent.next(Route::Decide).answer(502, &HTML, PAGE);
        agent.next(Route::Session).answer(403, &HTML, PAGE);
    }
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert!(run.is_over());
}

// What is said of it.

#[test]
fn a_page_is_quoted_briefly_and_only_once() {
    let agent = Agent::start();
    agent.every(Route::CreateSession).answer(502, &HTML, &PAGE.repeat(20));
    let output = start(&agent, &["--retry-timeout", "3s"]).wait();
    let said = output.stderr.matches("trying again").count();
    assert!((2..=4).contains(&said), "the first, second, fourth … time: {}", output.stderr);
    // With the closing line.
    assert_eq!(output.stderr.matches("Gateway page").count(), 2, "{}", output.stderr);
    let tries = agent.requests(Route::CreateSession).len();
    assert!(tries > said, "{tries} tries, {said} of them said");
    let record = output.stderr_lacks("explained at length").stderr_has("502").fails("server");
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_request_that_is_too_large_is_refused_with_its_size() {
    for (status, headers) in [(413, &HTML[..]), (414, &[]), (431, &HTML)] {
        let agent = Agent::start();
        agent.every(Route::Send).answer(status, headers, PAGE);
        let context = format!("notes={}", "x".repeat(40_000));
        let output = start(&agent, &["--context", &context]).wait().within(Duration::from_secs(10));
        let tries = agent.requests(Route::Send);
        assert_eq!(tries.len(), 1, "{status}: {}", output.stderr);
        assert!(output.stderr.contains("the request has 4"), "{}", output.stderr);
        let record = output.stderr_has("bytes").fails("server");
        assert_eq!(record["retryable"], false, "{status}");
        assert_eq!(record["run_id"], Value::Null, "{status}: nothing was taken");
        assert_eq!(record["cancel_confirmed"], Value::Null, "{status}");
    }
}

#[test]
fn a_plain_text_refusal_of_a_request_is_the_servers_own() {
    for status in [400, 422] {
        let agent = Agent::start();
        let plain = [("content-type", "text/plain; charset=utf-8")];
        agent.every(Route::CreateSession).answer(status, &plain, "missing field `title`");
        start(&agent, &[]).wait().stderr_has("missing field").fails("server");
        assert_eq!(agent.requests(Route::CreateSession).len(), 1);
    }
}

#[test]
fn v_logs_each_call_with_its_time_and_no_secret() {
    let agent = Agent::start();
    agent.next(Route::Send).answer(502, &HTML, PAGE);
    let running = agent.sortie(["run", "-v", "a prompt of mine"]).spawn();
    let run = agent.next_run();
    run.text("So far");
    running.wait_for_stdout("So far");
    agent.drop_streams(Ending::Cut);
    agent.wait_for_streams(2);
    run.complete();
    let output = running.wait().code(0).stderr_lacks("a prompt of mine").stderr_lacks(TOKEN);
    let logged =
        |text: &str| output.stderr.lines().filter(|line| line.starts_with("20") && line.contains(text)).count();
    assert_eq!(logged(" DEBUG POST /v1/sessions 201 in "), 1, "{}", output.stderr);
    let session = run.session;
    assert_eq!(logged(&format!(" DEBUG POST /v1/sessions/{session}/messages 502 in ")), 1, "{}", output.stderr);
    assert_eq!(logged(&format!(" DEBUG POST /v1/sessions/{session}/messages 200 in ")), 1, "{}", output.stderr);
    assert!(logged(&format!(" DEBUG GET /v1/sessions/{session}/events 200 in ")) >= 2, "{}", output.stderr);
    assert_eq!(logged(" WARN  cannot send the prompt "), 1, "the retry: {}", output.stderr);
    assert_eq!(logged(" INFO  the event stream is open after event 0"), 1, "{}", output.stderr);
    assert_eq!(logged(" INFO  reconnecting after event 3: the connection was closed "), 1, "{}", output.stderr);
}

// Retries.

#[test]
fn a_retry_after_date_is_compared_with_the_answers_own_date() {
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let date = |seconds| httpdate::fmt_http_date(past + Duration::from_secs(seconds));
    let agent = Agent::answering("Done.");
    agent.next(Route::CreateSession).answer(503, &[("date", &date(0)), ("retry-after", &date(2))], "");
    let output = start(&agent, &[]).wait().code(0);
    assert!(output.elapsed > Duration::from_millis(1900), "{output:#?}");
}

#[test]
fn with_a_retry_timeout_of_zero_a_call_is_tried_once_and_a_stream_opened_once_more() {
    let agent = Agent::start();
    agent.every(Route::CreateSession).fail(503, "starting");
    start(&agent, &["--retry-timeout", "0s"]).wait().stderr_lacks("trying again").fails("server");
    assert_eq!(agent.requests(Route::CreateSession).len(), 1);
    // A broken stream is opened once more.
    let agent = Agent::start();
    let running = start(&agent, &["--retry-timeout", "0s"]);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    agent.drop_streams(Ending::Cut);
    agent.wait_for_streams(2);
    run.text(" and on.");
    run.complete();
    assert_eq!(running.wait().code(0).record()["text"], "So far and on.");
}

#[test]
fn a_cut_answer_that_ends_with_the_connection_is_retried() {
    let head = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n";
    for cut in [r#"{"run_id":"#, r#"{"run_id":""#, r#"{"#] {
        let wire = Wire::start();
        let running = wire.sortie(["run", "go"]).spawn();
        let created = wire.next();
        answer(created, wire.session, wire.run);
        let sent = wire.next();
        let key = sent.request.header("idempotency-key").unwrap().to_owned();
        sent.raw(format!("{head}{cut}").as_bytes(), Ending::Cut);
        let again = wire.next();
        assert_eq!(again.request.header("idempotency-key"), Some(&*key), "{cut}");
        again.raw(format!(r#"{head}{{"run_id":"{}"}}"#, wire.run).as_bytes(), Ending::Cut);
        wire.admit().raw(completed(wire.session, wire.run).as_bytes(), Ending::Cut);
        running.wait().code(0);
    }
}

/// A stream without a length that holds a whole run.
fn completed(session: Uuid, run: Uuid) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let end = json!({ "RunCompleted": { "total_turns": 1, "total_usage": {}, "stop_reason": "completed" } });
    let events = [("run_started", json!({ "RunStarted": {} })), ("run_completed", end)];
    let frame = |(at, (name, event)): (usize, &(&str, Value))| {
        let id = at + 1;
        let data = json!({ "id": id, "session_id": session, "run_id": run, "event": event });
        format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
    };
    events.iter().enumerate().map(frame).fold(head.to_owned(), |all, frame| all + &frame)
}

// The token and the headers.

/// A run whose token is in a file, in mid-run.
fn with_token_file(agent: &Agent) -> (Running, PathBuf) {
    let command = agent.sortie(["run", "-o", "json", "go"]).without_env("SORTIE_TOKEN");
    let path = command.file("token", format!("{TOKEN}\n"));
    let running = command.env("SORTIE_TOKEN_FILE", &path).spawn();
    (running, path.into())
}

#[test]
fn a_token_file_is_read_again_when_the_server_refuses_the_token() {
    let agent = Agent::start();
    let (running, path) = with_token_file(&agent);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    std::fs::write(path, "second-token\n").unwrap();
    agent.set_token("second-token");
    agent.drop_streams(Ending::Cut);
    agent.wait_for_streams(2);
    run.propose([call("a", "create")]);
    run.text(" and on.");
    run.complete();
    let output = running.wait().code(0).stderr_lacks("second-token").stderr_lacks(TOKEN);
    assert_eq!(output.record()["text"], "So far\n and on.");
}

#[test]
fn a_token_file_is_read_again_during_the_cancel() {
    let agent = Agent::start();
    let (running, path) = with_token_file(&agent);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    std::fs::write(path, "second-token\n").unwrap();
    agent.set_token("second-token");
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert!(run.is_over());
}

#[test]
fn a_token_file_with_the_same_or_no_token_does_not_help() {
    for content in [None, Some(""), Some("another-wrong-one\n")] {
        let agent = Agent::start();
        let command = agent.sortie(["run", "-o", "json", "go"]).without_env("SORTIE_TOKEN");
        let path = command.file("token", "wrong\n");
        let gate = agent.next(Route::CreateSession).hold();
        let running = command.args(["--token-file", &path]).spawn();
        gate.wait_until_reached();
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        gate.open();
        let output = running.wait().within(Duration::from_secs(10)).stderr_has("401");
        output.stderr_lacks("wrong").fails("auth");
        assert!(agent.requests(Route::CreateSession).len() <= 2, "{content:?}");
    }
}

/// A client of this process, with headers from a file.
fn client(wire: &Wire, headers: Headers, token: Option<Token>) -> Client {
    let options = Options {
        server: Address::parse(&format!("http://{}", wire.address())).unwrap(),
        token,
        headers,
        connect_timeout: Duration::from_secs(5),
        retry_timeout: Duration::from_secs(5),
    };
    Client::new(options, Watch::without_signals().unwrap(), Console::new(None))
}

#[test]
fn headers_are_sent_with_every_call_and_read_again_when_a_gateway_refuses_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("headers");
    for status in [401, 403, 302] {
        let first = "CF-Access-Client-Id: first\nCookie: a=1\n";
        std::fs::write(&path, first).unwrap();
        let headers = Headers::parse(first.as_bytes(), Some(path.clone())).unwrap();
        let wire = Wire::serve(move |exchange| match exchange.request.header("cf-access-client-id") {
            Some("second") => answer(exchange, Uuid::nil(), Uuid::nil()),
            _ => exchange.respond(status, &[("content-type", "text/html")], b"<title>Sign in</title>"),
        });
        let client = client(&wire, headers, None);
        let refused = client.health().unwrap_err();
        assert!(refused.message.contains("--header-file"), "{refused}");
        let reason = if status == 401 { Reason::Auth } else { Reason::Protocol };
        assert_eq!(refused.word, Word::Gateway { status, reason }, "{refused}");
        std::fs::write(&path, "CF-Access-Client-Id: second\n").unwrap();
        assert_eq!(client.health().unwrap().version.as_deref(), Some("0.3.88"));
    }
}

#[test]
fn secrets_that_a_gateway_repeats_are_not_shown() {
    let wire = Wire::serve(|exchange| {
        let said = format!("{:?}", exchange.request.headers);
        exchange.respond(404, &[("content-type", "text/html")], said[..].as_bytes());
    });
    let headers = Headers::parse(b"X-Secret: hunter2", None).unwrap();
    let client = client(&wire, headers, Token::parse(b"hunter3", None).ok());
    let CallError { message, word, may_have_arrived } = client.health().unwrap_err();
    assert!(!message.contains("hunter"), "{message}");
    assert_eq!((word, may_have_arrived), (Word::Gateway { status: 404, reason: Reason::Protocol }, false));
}

// Streams that are held back.

#[test]
fn a_held_back_stream_is_reported_and_waited_for() {
    let (session, run) = (Uuid::new_v4(), Uuid::new_v4());
    let whole = completed(session, run);
    // One server gives no head to the first two requests (the first is given up early, to ask for the state), the other
    // a head and then no byte.
    let asked = AtomicUsize::new(0);
    let late = whole.clone();
    let headless = Wire::serve(move |exchange| match exchange.is("GET", "/events") {
        true if asked.fetch_add(1, Ordering::Relaxed) < 2 => exchange.connection.wait_for_close(),
        true => exchange.raw(late.as_bytes(), Ending::Cut),
        false => answer(exchange, session, run),
    });
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let silent = Wire::serve(move |exchange| {
        if !exchange.is("GET", "/events") {
            return answer(exchange, session, run);
        }
        let mut stream = exchange.stream();
        let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
        stream.chunk(whole.split_once("\r\n\r\n").unwrap().1.as_bytes());
        stream.wait_for_close();
    });
    let runs = [&headless, &silent].map(|wire| wire.sortie(["run", "go"]).spawn());
    runs[1].wait_for_stderr("buffering");
    release.send(()).unwrap();
    for running in runs {
        let output = running.wait().code(0);
        assert_eq!(output.stderr.matches("buffering").count(), 1, "{}", output.stderr);
    }
}

#[test]
fn a_repeated_failure_is_reported_less_and_less_often() {
    let arguments = ["run", "-o", "json", "--server", "http://127.0.0.1:1", "--retry-timeout", "2s", "go"];
    let output = Sortie::new(arguments).run();
    let said = output.stderr.matches("trying again").count();
    assert!(said <= 4, "no terminal: the first, second, fourth time: {}", output.stderr);
    output.stderr_has("failed 2 times").fails("connection");
}

#[test]
fn on_a_terminal_a_repeated_failure_is_one_line_with_a_count() {
    let terminal = Terminal::open();
    let command = Sortie::new(["run", "--server", "http://127.0.0.1:1", "--retry-timeout", "3s", "go"]);
    let command = command.in_shell(r#"exec "$@" 2>"$TTY""#).env("TTY", &terminal.path).env("TERM", "xterm");
    command.run().code(1);
    let said = terminal.said();
    assert!(said.contains("attempt 4 in "), "{said:?}");
    assert_eq!(said.matches("trying again").count(), 1, "{said:?}");
    // What is done, the first failure, and the closing line.
    assert_eq!(said.matches('\n').count(), 3, "{said:?}");
}

//! Everything that a server sends has a bound: whatever it tries, there is a clear end, in little memory.

use crate::support::http::{Connection, Ending};
use crate::support::process::{Output, Running};
use crate::support::watched::Watched;
use crate::trial::{Trial, begun, completed, event, quoted};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The largest event, in bytes of its data.
const MAX_EVENT: usize = 8 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

/// Follows a run, and expects this reason for its end.
#[track_caller]
fn ends(trial: &Trial, reason: &str) -> Value {
    let record = trial.sortie(["run", "-o", "json", "--retry-timeout", "1s", "go"]).run().fails(reason);
    trial.stayed_small();
    record
}

/// Follows a run to its completion.
#[track_caller]
fn completes(trial: &Trial, format: &str) -> Output {
    let output = trial.sortie(["run", "-o", format, "go"]).run().code(0);
    trial.stayed_small();
    output
}

#[test]
fn a_line_without_end_is_a_protocol_failure_whatever_it_is() {
    for start in ["data: ", ": ", "colour: ", "id: ", "event: ", "retry: ", ""] {
        let trial = Trial::streaming(move |stream, _| {
            stream.chunk(start.as_bytes());
            // 160 MB, if the client lets it.
            let piece = [b'x'; 64 * 1024];
            let _ = (0..2560).all(|_| stream.chunk(&piece));
        });
        ends(&trial, "protocol");
    }
}

/// Sends a piece, until the client hangs up or that is enough, and counts.
fn count_out(stream: &mut Connection, piece: &str, enough: usize, sent: &Watched<usize>) {
    while sent.change(|sent| std::mem::replace(sent, *sent + 1)) < enough && stream.chunk(piece.as_bytes()) {}
}

/// Waits for a client that has much to read: it may take long, but must get on.
#[track_caller]
fn gets_on(running: Running, enough: usize, sent: &Watched<usize>) -> Output {
    for tenth in 1..10 {
        sent.expect("it to get on", |sent| (*sent >= enough * tenth / 10).then_some(()));
    }
    running.wait()
}

#[test]
fn an_event_of_millions_of_data_lines_is_a_protocol_failure() {
    // 4096 lines of 4 bytes each are a 512th of what an event may be.
    let (sent, lines) = (Arc::new(Watched::new(0)), "data:012\n".repeat(4096));
    let trial = Trial::streaming({
        let sent = Arc::clone(&sent);
        move |stream, _| count_out(stream, &lines, usize::MAX, &sent)
    });
    let running = trial.sortie(["run", "-o", "json", "go"]).spawn();
    gets_on(running, 512, &sent).fails("protocol");
    trial.stayed_small();
}

/// An event whose data is so many bytes, all but the wrapping being text.
fn event_of(id: u64, run: uuid::Uuid, bytes: usize) -> (String, String) {
    let wrap = |text: &str| event(id, run, "text_delta", "TextDelta", &format!(r#""delta":"{text}""#));
    let empty = wrap("");
    let around = empty.trim_end().rsplit_once("data: ").unwrap().1.len();
    let room = bytes - around;
    let text = "abcdefg\u{e9}".repeat(room / 9) + &".".repeat(room % 9);
    (wrap(&text), text)
}

/// An event of so many bytes is shown in this format.
#[track_caller]
fn passes(format: &str, bytes: usize) {
    let trial = Trial::interrupted_by(move |stream, run| {
        stream.chunk(event_of(3, run, bytes).0.as_bytes());
    });
    let stdout = completes(&trial, format).stdout;
    let text = event_of(3, trial.run, bytes).1;
    assert!(stdout.contains(&text), "{format}: {} bytes", stdout.len());
}

#[test]
fn an_event_of_8_mib_passes_and_a_larger_one_does_not() {
    passes("text", MAX_EVENT);
    let trial = Trial::streaming(|stream, run| {
        stream.chunk(event_of(3, run, MAX_EVENT + 1).0.as_bytes());
    });
    ends(&trial, "protocol");
}

#[test]
fn a_text_of_4_mib_is_kept_until_the_end() {
    passes("final", MAX_EVENT / 2);
    passes("json", MAX_EVENT / 2);
    passes("stream-json", MAX_EVENT);
}

#[test]
fn a_million_unknown_events_are_passed_over() {
    let (sent, thousand) = (Arc::new(Watched::new(0)), "event:x\ndata:{}\n\n".repeat(1000));
    let trial = Trial::interrupted_by({
        let sent = Arc::clone(&sent);
        move |stream, _| count_out(stream, &thousand, 1000, &sent)
    });
    let running = trial.sortie(["run", "go"]).spawn();
    gets_on(running, 1000, &sent).code(0);
    trial.stayed_small();
}

#[test]
fn a_flood_without_end_is_ended_by_the_time_outs() {
    let floods = [
        ("comments", ": keepalive\n\n".to_owned()),
        ("unknown events", "event: hologram_shown\ndata: {}\n\n".to_owned()),
        ("repetitions", "id: 1\nevent: run_started\ndata: {\"event\":{\"RunStarted\":{}}}\n\n".to_owned()),
    ];
    for (what, flood) in floods {
        let trial = Trial::flooding(flood.repeat(500));
        let record = trial.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).run();
        let record = record.within(Duration::from_secs(12)).fails("timeout");
        assert_eq!(record["cancel_confirmed"], true, "{what}");
        trial.stayed_small();
    }
    let trial = Trial::flooding(": keepalive\n\n".repeat(500));
    trial.sortie(["run", "-o", "json", "--idle-timeout", "1s", "go"]).run().fails("idle_timeout");
    trial.stayed_small();
}

#[test]
fn what_follows_our_own_end_is_not_read_for_ever() {
    // The run ends for a reason of ours and is confirmed to have stopped. How it ended is looked up, and there the
    // server never comes to an end.
    let trial = Trial::with_last_look(
        |stream| {
            stream.chunk("data: {]\n\n".repeat(2).as_bytes());
        },
        |stream| {
            let comments = ": still here\n\n".repeat(1000);
            while stream.chunk(comments.as_bytes()) {}
        },
    );
    let output = trial.sortie(["run", "-o", "json", "--timeout", "15s", "go"]).run();
    trial.stayed_small();
    let record = output.within(Duration::from_secs(10)).fails("protocol");
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn attach_reads_no_line_without_end_either() {
    let trial = Trial::idle(|stream, _| {
        stream.chunk(b"data: ");
        let piece = [b'x'; 64 * 1024];
        while stream.chunk(&piece) {}
    });
    let session = trial.session.to_string();
    let output = trial.sortie(["attach", "-o", "json", "--timeout", "10s", &session]).run();
    output.fails("protocol");
}

/// An idle session without events, of which it is said that it has very many messages: each page is this.
fn endless_messages(page: String) -> Trial {
    Trial::new(move |exchange, _| {
        if exchange.is("GET", "/events") {
            let mut stream = exchange.stream();
            // A replay without a byte proves nothing.
            stream.chunk(b": keepalive\n\n");
            stream.wait_for_close();
        } else if exchange.is("GET", "/messages") {
            let page = if exchange.request.query.contains("limit=0") { "" } else { &page };
            exchange.respond(200, &[], format!(r#"{{"messages":[{page}],"total":1000000000000000}}"#).as_bytes());
        } else {
            exchange.respond(200, &[], br#"{"session":{"run_status":{"state":"idle"}}}"#);
        }
        None
    })
}

#[test]
fn attach_reads_no_more_messages_than_it_can_hold() {
    let trial = endless_messages(format!(r#"{{"role":"assistant","content":"{}"}}"#, "x".repeat(7 * MIB)));
    let session = trial.session.to_string();
    let output = trial.sortie(["attach", "-o", "json", "--timeout", "10s", &session]).run();
    output.fails("protocol");
    trial.stayed_small();
}

#[test]
fn attach_does_not_ask_for_ever_for_messages_that_are_not_there() {
    let trial = endless_messages(String::new());
    let session = trial.session.to_string();
    let output = trial.sortie(["attach", "-o", "json", "--timeout", "10s", &session]).run();
    trial.stayed_small();
    output.fails("protocol");
    assert!(trial.requests().len() < 100, "{} requests", trial.requests().len());
}

#[test]
fn redirects_without_end_are_not_followed_and_shown() {
    for status in [301, 302, 303, 307, 308] {
        // Before the server's first own word it is no agent server; after it the redirect may pass.
        for (method, path_end, reason) in
            [("POST", "/sessions", "protocol"), ("POST", "/messages", "server"), ("GET", "/events", "server")]
        {
            let trial = Trial::new(move |exchange, _| {
                if !exchange.is(method, path_end) {
                    return Some(exchange);
                }
                let place = format!("http://127.0.0.1:1{}?again", exchange.request.path);
                exchange.respond(status, &[("location", &place)], b"");
                None
            });
            let output = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]).run();
            let output = output.stderr_has("127.0.0.1:1/v1/sessions").stderr_has("redirect");
            let record = output.fails(reason);
            assert_eq!(record["retryable"], false, "{status}");
            let requests = trial.requests();
            let asked =
                requests.iter().filter(|request| request.starts_with(method) && request.ends_with(path_end));
            assert!(asked.count() == 1 || reason == "server", "{requests:?}");
        }
    }
}

/// 10 GB, or as much of it as the client takes.
fn pour(connection: &mut Connection, status: u16) {
    let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: 10737418240\r\n\r\n");
    connection.write(head.as_bytes());
    let piece = vec![b'['; MIB];
    let _ = (0..10 * 1024).all(|_| connection.write(&piece));
}

#[test]
fn a_body_of_10_gb_is_hung_up_on() {
    let rows = [
        ("GET", "/events", 400, "server"),
        ("POST", "/sessions", 500, "server"),
        ("POST", "/messages", 503, "server"),
        ("POST", "/messages", 200, "protocol"),
    ];
    for (method, path_end, status, reason) in rows {
        let trial = Trial::new(move |mut exchange, _| {
            if !exchange.is(method, path_end) {
                return Some(exchange);
            }
            pour(&mut exchange.connection, status);
            None
        });
        let command = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]);
        let record = command.run().within(Duration::from_secs(20)).fails(reason);
        assert!(record["error"].as_str().unwrap().len() < 2000, "{status}: a little of it is quoted");
        trial.stayed_small();
    }
}

#[test]
fn an_event_that_is_nested_deeply_does_not_exhaust_the_stack() {
    let deep = "[".repeat(4 * MIB) + &"]".repeat(4 * MIB - 4096);
    for format in ["text", "stream-json"] {
        let unknown = Trial::interrupted_by({
            let deep = deep.clone();
            move |stream, run| {
                stream.chunk(
                    event(3, run, "hologram_shown", "HologramShown", &format!(r#""deep":{deep}"#)).as_bytes(),
                );
            }
        });
        completes(&unknown, format);
        let known = Trial::streaming({
            let deep = deep.clone();
            move |stream, run| {
                let call = format!(r#""tool_calls":[{{"id":"a","name":"view","arguments":{deep}}}]"#);
                stream.chunk(event(3, run, "tool_calls_proposed", "ToolCallsProposed", &call).as_bytes());
            }
        });
        known.sortie(["run", "-o", format, "go"]).run().code(1).stderr_has("(protocol)");
        known.stayed_small();
    }
}

#[test]
fn an_answer_that_is_nested_deeply_does_not_exhaust_the_stack() {
    let deep = "[".repeat(4 * MIB - 64) + &"]".repeat(4 * MIB - 64);
    for body in [deep.clone(), format!(r#"{{"run_id":{deep}}}"#), format!(r#"{{"other":{deep}}}"#)] {
        ends(&Trial::answering("POST", "/messages", body), "protocol");
    }
    let trial = Trial::answering("GET", "/health", deep);
    trial.sortie(["ping"]).run().code(1).stderr_has("(protocol)");
}

#[test]
fn the_arguments_of_a_call_grow_no_larger_than_they_came() {
    // Each byte of these would be sixteen in a tree of values.
    let arguments = Trial::interrupted_by(|stream, run| {
        let call = format!(r#""tool_calls":[{{"id":"a","name":"view","arguments":{}}}]"#, wide(8 * MIB));
        stream.chunk(event(3, run, "tool_calls_proposed", "ToolCallsProposed", &call).as_bytes());
        let tool = r#""tool_call_id":"a","tool_name":"view""#;
        stream.chunk(event(4, run, "tool_execution_started", "ToolExecutionStarted", tool).as_bytes());
    });
    completes(&arguments, "text");
}

/// JSON that is so many bytes wide.
fn wide(bytes: usize) -> String {
    format!("[{}0]", "0,".repeat(bytes / 2 - 2048))
}

/// A good answer, with something as wide beside what it must have.
fn wide_beside(bytes: usize, members: &str) -> String {
    format!(r#"{{"wide":{},{members}}}"#, wide(bytes))
}

#[test]
fn the_answer_to_a_ping_grows_no_larger_than_it_came() {
    let trial = Trial::answering("GET", "/health", wide_beside(8 * MIB, r#""status":"ok""#));
    trial.sortie(["ping"]).run().code(0);
    trial.stayed_small();
    // What is no object is of the wrong shape, even where it holds what is looked for.
    for body in [wide(8 * MIB), r#"["ok"]"#.into()] {
        let trial = Trial::answering("GET", "/health", body);
        trial.sortie(["ping"]).run().code(1).stderr_has("(protocol)");
    }
}

#[test]
fn the_answer_to_a_cancel_grows_no_larger_than_it_came() {
    let trial = Trial::new(|exchange, run| {
        if exchange.is("POST", "/cancel") {
            exchange.respond(200, &[], wide_beside(2 * MIB, &format!(r#""run_id":"{run}""#)).as_bytes());
            return None;
        }
        if exchange.is("GET", "/events") {
            let mut stream = exchange.stream();
            stream.chunk(begun(run).as_bytes());
            stream.wait_for_close();
            return None;
        }
        Some(exchange)
    });
    let record = trial.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).run().fails("timeout");
    assert_eq!(record["cancel_confirmed"], true);
    trial.stayed_small();
}

#[test]
fn calls_beyond_number_are_not_decided_one_by_one_for_ever() {
    let calls: Vec<String> = (0..200_000).map(|id| format!(r#"{{"id":"{id:x}","name":"x"}}"#)).collect();
    let calls = format!(r#""tool_calls":[{}]"#, calls.join(","));
    let trial = Trial::streaming(move |stream, run| {
        stream.chunk(event(3, run, "tool_calls_proposed", "ToolCallsProposed", &calls).as_bytes());
    });
    let output = trial
        .sortie(["run", "-o", "json", "--deny-tool", "y", "--on-approval", "accept", "--timeout", "3s", "go"])
        .run();
    trial.stayed_small();
    let record = output.within(Duration::from_secs(10)).code(1).record();
    assert!(["protocol", "timeout"].contains(&record["reason"].as_str().unwrap()), "{record:#}");
}

#[test]
fn tools_that_nobody_proposed_are_not_gathered_without_end() {
    // 64 MiB of them: passed over, or the end, but not kept.
    let trial = Trial::interrupted_by(|stream, run| {
        let name = "x".repeat(64 * 1024);
        let _ = (3..1027).all(|id| {
            let tool = format!(r#""tool_call_id":"{name}{id}","tool_name":"view""#);
            stream.chunk(event(id, run, "tool_rejected", "ToolRejected", &tool).as_bytes())
        });
    });
    let output = trial.sortie(["run", "-q", "go"]).run();
    trial.stayed_small();
    assert!(output.code <= 1, "{output:#?}");
}

#[test]
fn a_text_without_end_is_not_kept_without_end() {
    let trial = Trial::streaming(|stream, run| {
        let text = "x".repeat(MIB);
        let members = format!(r#""delta":"{text}""#);
        let all = (3..).all(|id| stream.chunk(event(id, run, "text_delta", "TextDelta", &members).as_bytes()));
        assert!(!all);
    });
    // The run goes on, and the text that is kept for the record has a bound.
    let output = trial.sortie(["run", "-o", "json", "--timeout", "3s", "go"]).run();
    trial.stayed_small();
    let record = output.stderr_has("longer than 4194304 bytes").fails("timeout");
    assert!(record["text"].is_null() && record["agent_message"].is_null());
}

/// Characters that are shown in six.
fn unprintable() -> String {
    "\u{7f}".repeat(MAX_EVENT - 4096)
}

#[track_caller]
fn is_short(stderr: &str) {
    assert!(stderr.len() < 8192, "{} bytes on stderr", stderr.len());
}

#[test]
fn what_is_shown_of_a_tools_result_is_bounded() {
    let trial = Trial::interrupted_by(|stream, run| {
        let tool = r#""tool_call_id":"a","tool_name":"view","is_error":true"#;
        let failed = format!(r#"{tool},"result":{}"#, quoted(&unprintable()));
        stream.chunk(event(3, run, "tool_execution_completed", "ToolExecutionCompleted", &failed).as_bytes());
    });
    is_short(&completes(&trial, "text").stderr);
}

#[test]
fn what_is_shown_of_a_tools_name_is_bounded() {
    let trial = Trial::interrupted_by(|stream, run| {
        let tool = format!(r#""tool_call_id":"a","tool_name":{}"#, quoted(&unprintable()));
        stream.chunk(event(3, run, "tool_execution_started", "ToolExecutionStarted", &tool).as_bytes());
    });
    is_short(&completes(&trial, "text").stderr);
}

#[test]
fn what_is_quoted_of_an_answer_is_bounded() {
    let trial = Trial::answering("POST", "/messages", unprintable());
    is_short(&trial.sortie(["run", "--retry-timeout", "1s", "go"]).run().code(1).stderr);
    trial.stayed_small();
}

#[test]
fn what_is_shown_of_the_runs_error_is_bounded() {
    let trial = Trial::streaming(|stream, run| {
        let members = format!(r#""error":{},"retryable":false"#, quoted(&unprintable()));
        stream.chunk(event(3, run, "run_error", "RunError", &members).as_bytes());
    });
    // Nothing is asked for afterwards: the leash must do.
    is_short(&trial.sortie(["run", "go"]).run().code(1).stderr);
}

#[test]
fn what_is_quoted_of_a_wrong_type_is_bounded() {
    let long = "x".repeat(MIB);
    let trial = Trial::answering("POST", "/messages", format!(r#"{{"run_id":{{"x":{}}}}}"#, quoted(&long)));
    let command = trial.sortie(["run", "--retry-timeout", "1s", "go"]);
    is_short(&command.run().code(1).stderr_has("(protocol)").stderr);
    let trial = Trial::answering("GET", "/config", format!(r#"{{"auto_approve_mode":[{}]}}"#, quoted(&long)));
    is_short(&trial.sortie(["ping"]).run().code(1).stderr_has("(protocol)").stderr);
    let trial = Trial::answering("GET", "/health", quoted(&long));
    is_short(&trial.sortie(["ping"]).run().stderr);
    let trial = Trial::streaming(move |stream, run| {
        let members = format!(r#""turn":{}"#, quoted(&long));
        stream.chunk(event(3, run, "turn_started", "TurnStarted", &members).as_bytes());
    });
    is_short(&trial.sortie(["run", "go"]).run().code(1).stderr_has("(protocol)").stderr);
}

#[test]
fn a_compression_that_nobody_asked_for_is_a_protocol_failure() {
    // Begins as gzip does; it is never unpacked.
    let packed: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56\x2a\x4a\xcc\x2b\x4e\x4d\x01\0";
    for encoding in ["gzip", "br", "deflate", "identity, gzip", "GZIP"] {
        for (method, path_end) in [("POST", "/messages"), ("GET", "/events")] {
            let trial = Trial::new(move |exchange, _| {
                if !exchange.is(method, path_end) {
                    return Some(exchange);
                }
                let kind = if path_end == "/events" { "text/event-stream" } else { "application/json" };
                exchange.respond(200, &[("content-type", kind), ("content-encoding", encoding)], packed);
                None
            });
            let output = trial.sortie(["run", "-o", "json", "go"]).run();
            output.stderr_has(encoding).fails("protocol");
            trial.stayed_small();
        }
    }
    // Without a word about it, it is no JSON and no event.
    ends(&Trial::answering("POST", "/messages", packed), "protocol");
    let trial = Trial::new(move |exchange, _| {
        if !exchange.is("POST", "/sessions") {
            return Some(exchange);
        }
        exchange.respond(400, &[("content-encoding", "gzip")], packed);
        None
    });
    trial.sortie(["run", "-o", "json", "go"]).run().stderr_has("this is no agent server").fails("protocol");
}

#[test]
fn a_head_without_end_is_a_failure_with_an_end() {
    let heads = [("x-", "header: value\r\n"), ("x-one: ", "xxxxxxxxxxxxxxxx"), ("", "\r\n")];
    for (first, again) in heads {
        let trial = Trial::new(move |mut exchange, _| {
            if !exchange.is("POST", "/sessions") {
                return Some(exchange);
            }
            exchange.connection.write(b"HTTP/1.1 200 OK\r\n");
            exchange.connection.write(first.as_bytes());
            let piece = format!("{again}{first}").repeat(1024);
            while exchange.connection.write(piece.as_bytes()) {}
            None
        });
        let command = trial.sortie(["run", "-o", "json", "--retry-timeout", "500ms", "go"]);
        let record = command.run().within(Duration::from_secs(20)).code(1).record();
        let reason = record["reason"].as_str().unwrap();
        assert!(["connection", "protocol"].contains(&reason), "{first:?}{again:?}: {record:#}");
        trial.stayed_small();
    }
}

#[test]
fn interim_answers_without_end_are_ended_by_the_time_out() {
    let trial = Trial::new(|mut exchange, _| {
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000);
        while exchange.connection.write(early.as_bytes()) {}
        None
    });
    let command = trial.sortie(["run", "-o", "json", "--timeout", "1s", "--retry-timeout", "500ms", "go"]);
    let record = command.run().within(Duration::from_secs(12)).code(1).record();
    assert!(["timeout", "connection", "protocol"].contains(&record["reason"].as_str().unwrap()), "{record:#}");
    trial.stayed_small();
}

#[test]
fn broken_chunks_are_a_failure_with_an_end() {
    for chunk in ["zz\r\n", "ffffffffffffffffff\r\n", "-1\r\n", "1;"] {
        let trial = Trial::new(move |mut exchange, _| {
            if !exchange.is("GET", "/events") {
                return Some(exchange);
            }
            exchange.connection.open_stream();
            exchange.connection.write(chunk.as_bytes());
            let piece = [b'x'; 64 * 1024];
            while exchange.connection.write(&piece) {}
            None
        });
        let command = trial.sortie(["run", "-o", "json", "--timeout", "2s", "--retry-timeout", "500ms", "go"]);
        let record = command.run().within(Duration::from_secs(15)).code(1).record();
        let reason = record["reason"].as_str().unwrap();
        assert!(["connection", "protocol", "timeout"].contains(&reason), "{chunk:?}: {record:#}");
        trial.stayed_small();
    }
}

#[test]
fn numbers_that_are_too_large_are_no_bug_of_ours() {
    let most = u64::MAX;
    let trial = Trial::interrupted_by(move |stream, run| {
        let usage = format!(
            r#""turn":{most},"usage":{{"prompt_tokens":{most},"completion_tokens":{most},"total_tokens":{most}}}"#
        );
        for id in [3, 4] {
            stream.chunk(event(id, run, "usage_report", "UsageReport", &usage).as_bytes());
        }
        let turn = format!(r#""turn":{most}"#);
        stream.chunk(event(5, run, "turn_started", "TurnStarted", &turn).as_bytes());
        stream.chunk(event(most, run, "turn_started", "TurnStarted", &turn).as_bytes());
        let retry = format!(r#""attempt":{most},"delay_ms":{most},"reason":"""#);
        stream.chunk(event(6, run, "retry_attempt", "RetryAttempt", &retry).as_bytes());
    });
    completes(&trial, "json");
    for gap in [0, 1, most] {
        let trial = Trial::streaming(move |stream, run| {
            stream.chunk(format!("event: gap_detected\ndata: {{\"oldest_available_id\":{gap}}}\n\n").as_bytes());
            stream.chunk(completed(gap, run).as_bytes());
        });
        trial.sortie(["run", "-o", "json", "--timeout", "3s", "go"]).run().stderr_lacks("a bug in sortie");
    }
}

#[test]
fn numbers_that_are_too_large_are_no_bug_of_ours_when_attaching_either() {
    let most = u64::MAX;
    let trial = Trial::idle(move |stream, run| {
        stream.chunk(event(most, run, "turn_started", "TurnStarted", r#""turn":1"#).as_bytes());
        stream.chunk(format!("event: gap_detected\ndata: {{\"oldest_available_id\":{most}}}\n\n").as_bytes());
    });
    let session = trial.session.to_string();
    let output = trial.sortie(["attach", "-o", "json", "--timeout", "8s", &session]).run().code(1);
    assert_ne!(output.record()["reason"], "internal", "{}", output.stderr);
}

#[test]
fn a_wait_that_the_server_asks_for_is_no_longer_than_ours() {
    let trial = Trial::new(|exchange, _| {
        exchange.respond(503, &[("retry-after", "18446744073709551615")], b"");
        None
    });
    let command = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]);
    command.run().within(Duration::from_secs(10)).fails("server");
}

#[test]
fn a_stream_that_is_cut_again_and_again_without_progress_has_an_end() {
    let trial = Trial::new(|exchange, _| {
        if !exchange.is("GET", "/events") {
            return Some(exchange);
        }
        exchange.stream().end(Ending::Cut);
        None
    });
    let command = trial.sortie(["run", "-o", "json", "--timeout", "2s", "go"]);
    command.run().within(Duration::from_secs(15)).fails("timeout");
    // It waits longer and longer.
    let opened = trial.requests().iter().filter(|request| request.ends_with("/events")).count();
    assert!(opened < 20, "{opened} streams");
    trial.stayed_small();
}

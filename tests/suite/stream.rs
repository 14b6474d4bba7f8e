//! The event stream: nothing missed, nothing heard twice, whatever its bytes look like.

use crate::support::agent::{Agent, Fault, Options, Route, call};
use crate::support::fixture;
use crate::support::http::Ending;
use crate::support::wire::{Wire, answer};
use serde_json::json;
use uuid::Uuid;

const SCRIPTS: &str =
    "Grüße, Ελληνικά, עברית, हिन्दी, 日本語, 👩🏽‍🚀 🇪🇺, e\u{301}, \u{feff}, \u{10ffff}, \"q\" \\ \u{2028}";

#[test]
fn a_run_that_ends_before_the_stream_opens_is_read_in_full() {
    let agent = Agent::start();
    agent.script(|run| {
        run.text("I look.");
        run.propose([call("a", "view")]);
        run.text("Found it.");
        run.complete();
    });
    agent.sortie(["run", "go"]).run().code(0).stdout("I look.\nFound it.\n");
}

#[test]
fn events_of_other_runs_in_the_session_are_ignored() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    let other = Uuid::new_v4();
    run.emit_for_another_run(other, "RunStarted", &[]);
    run.emit_for_another_run(other, "TextDelta", &[("delta", "Not ours.".into())]);
    let calls = json!([{ "id": "x", "name": "stakpak__create", "arguments": {} }]);
    run.emit_for_another_run(other, "ToolCallsProposed", &[("tool_calls", calls)]);
    run.emit_for_another_run(other, "RunError", &[("error", "not ours".into()), ("retryable", false.into())]);
    run.text("Ours.");
    let end = [("total_turns", 1.into()), ("total_usage", json!({})), ("stop_reason", "cancelled".into())];
    run.emit_for_another_run(other, "RunCompleted", &end);
    run.complete();
    running.wait().code(0).stdout("Ours.\n");
    assert!(agent.requests(Route::Decide).is_empty());
}

#[test]
fn the_past_of_an_old_session_is_ignored() {
    let agent = Agent::start();
    let old = agent.begin_run(agent.session());
    old.text("Long ago.");
    old.error("it failed", false);
    let session = old.session.to_string();
    let running = agent.sortie(["run", "--session", &session, "go"]).spawn();
    let run = agent.next_run();
    run.text("Now.");
    run.complete();
    running.wait().code(0).stdout("Now.\n");
}

#[test]
fn events_that_come_twice_count_once() {
    let agent = Agent::start();
    agent.spoil_streams((1..=20).fold(Fault::none(), Fault::repeat));
    agent.script(|run| {
        run.text("I ");
        run.text("look.");
        run.propose([call("a", "view"), call("b", "view").failing()]);
        run.text("Found it.");
        run.complete();
    });
    let record = agent.sortie(["run", "-o", "json", "go"]).run().code(0).record();
    assert_eq!(record["text"], "I look.\nFound it.");
    assert_eq!(record["tool_calls"], json!({ "proposed": 2, "accepted": 2, "rejected": 0, "failed": 1 }));
    assert_eq!(record["turns"], 2);
}

#[test]
fn unknown_events_of_a_newer_server_are_ignored() {
    let agent = Agent::start();
    agent.script(|run| {
        run.emit("HologramShown", &[("depth", 3.into()), ("nested", json!({ "run": [1, null, {}] }))]);
        run.raw(|id| format!("id: {id}\nevent: hologram_hidden\ndata: not JSON at all\n\n").into_bytes());
        run.text("Done.");
        let (session, run_id) = (run.session, run.id);
        run.raw(|id| {
            let event = r#""event":"Heartbeat","mood":"good""#;
            let envelope = format!(r#"{{"id":{id},"session_id":"{session}","run_id":"{run_id}",{event}}}"#);
            format!("id: {id}\nevent: heartbeat\ndata: {envelope}\n\n").into_bytes()
        });
        run.emit("RetryAttempt", &[("attempt", 1.into()), ("delay_ms", 2000.into()), ("reason", "busy".into())]);
        run.emit("CompactionStarted", &[("reason", "full".into())]);
        run.emit(
            "CompactionCompleted",
            &[("tokens_before", 9.into()), ("tokens_after", 1.into()), ("truncated", true.into())],
        );
        run.complete();
    });
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
}

/// Runs that say [`SCRIPTS`], over streams spoilt like this.
#[track_caller]
fn arrives_over(fault: Fault) {
    let agent = Agent::answering(SCRIPTS);
    agent.spoil_streams(fault);
    agent.sortie(["run", "go"]).run().code(0).stdout(&format!("{SCRIPTS}\n"));
    assert_eq!(agent.streams_opened(), 1, "without a reconnect");
}

#[test]
fn the_bytes_may_be_split_anywhere() {
    for piece in [1, 2, 3, 5, 7, 64] {
        arrives_over(Fault::none().in_pieces(piece));
    }
}

#[test]
fn lines_may_end_with_lf_cr_or_crlf() {
    for end in ["\r\n", "\r"] {
        for piece in [1, 2, 4096] {
            let rewrite =
                move |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace('\n', end).into_bytes();
            arrives_over(Fault::none().in_pieces(piece).rewrite(rewrite));
        }
    }
}

#[test]
fn the_stream_may_begin_with_a_byte_order_mark() {
    arrives_over(Fault::none().in_pieces(1).begin_with("\u{feff}".as_bytes()));
}

#[test]
fn the_rest_of_the_grammar_is_understood() {
    let odd = ": a comment\n:\n\nretry: 100\n\nevent\n\nid\n\nid: 7\u{0}\n\nunknown: field\n\nnonsense\n\nevent: left over\n\n";
    arrives_over(Fault::none().begin_with(odd.as_bytes()));
    let edit = |from: &'static str, to: &'static str| {
        Fault::none()
            .rewrite(move |bytes| String::from_utf8(bytes.to_vec()).unwrap().replace(from, to).into_bytes())
    };
    // Data on two lines, no space after the colon, a comment inside, fields in another order.
    arrives_over(edit(r#","event":"#, ",\ndata: \"event\":"));
    arrives_over(edit(": ", ":"));
    arrives_over(edit("\ndata: ", "\n: inside\ndata: "));
    arrives_over(Fault::none().rewrite(|bytes| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let mut lines: Vec<&str> = text.trim_end().lines().collect();
        lines.reverse();
        format!("{}\n\n", lines.join("\n")).into_bytes()
    }));
}

#[test]
fn a_stream_without_chunks_is_understood() {
    let wire = Wire::start();
    let running = wire.sortie(["run", "go"]).spawn();
    let exchange = wire.admit();
    let transcript = String::from_utf8(fixture("completed-text.sse")).unwrap();
    let told = transcript
        .replace("d30255b1-66aa-4072-adbd-4498d9ecfed9", &wire.run.to_string())
        .replace("1220fbc4-218c-49e8-a4db-67541337d641", &wire.session.to_string());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n";
    exchange.raw(format!("{head}{told}\n").as_bytes(), Ending::Cut);
    running.wait().code(0).stdout("All 3 replicas are ready.\n\nNothing to do. ✅ naïve 日本語\n");
}

#[test]
fn a_stream_that_ends_before_the_run_is_not_success() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    run.text("Half of it, ");
    running.wait_for_stdout("Half");
    agent.drop_streams(Ending::Clean);
    agent.wait_for_streams(2);
    run.text("and the other half.");
    run.complete();
    running.wait().code(0).stdout("Half of it, and the other half.\n");
}

#[test]
fn each_recorded_run_is_shown_with_its_result() {
    let text = "I will write the file.";
    for (name, code, stdout) in [
        ("completed-text.sse", 0, "All 3 replicas are ready.\n\nNothing to do. ✅ naïve 日本語\n".to_owned()),
        ("completed-tools-accepted.sse", 0, format!("{text}\nThe file is in place.\n")),
        ("completed-tool-rejected.sse", 0, format!("{text}\nI could not write the file.\n")),
        ("tool-error.sse", 0, "Trying.\nThat tool does not exist.\n".to_owned()),
        ("empty-answer.sse", 0, String::new()),
        ("max-output-tokens.sse", 0, "This answer was cut o\n".to_owned()),
        ("max-turns.sse", 1, "Looking.\n".to_owned()),
        ("run-error.sse", 1, String::new()),
        ("cancelled.sse", 1, format!("{text}\n")),
    ] {
        let bytes = fixture(name);
        let transcript = String::from_utf8(bytes.clone()).unwrap();
        let id_after = |key: &str| {
            let at = transcript.find(key).unwrap() + key.len();
            transcript[at..at + 36].parse::<Uuid>().unwrap()
        };
        let (session, run) = (id_after(r#""session_id":""#), id_after(r#""run_id":""#));
        let wire = Wire::serve(move |exchange| {
            if exchange.is("GET", "/events") {
                let mut stream = exchange.stream();
                stream.chunk(&bytes);
                // The last event of a file ends with the file.
                stream.chunk(b"\n");
                stream.wait_for_close();
            } else {
                answer(exchange, session, run);
            }
        });
        wire.sortie(["run", "go"]).run().code(code).stdout(&stdout);
    }
}

#[test]
fn reconnects_to_a_server_that_ends_every_stream_back_off() {
    let agent = Agent::start();
    agent.spoil_streams(Fault::none().end_at_byte(0, Ending::Clean));
    let running = agent.sortie(["run", "--timeout", "2s", "go"]).spawn();
    agent.next_run().propose([call("a", "view").held()]);
    let output = running.wait().code(1);
    // Pauses of a tenth of a second at first, doubled each time, and cut by up to a half.
    let opened = agent.streams_opened();
    assert!((3..15).contains(&opened), "{opened} streams in 2 s: {}", output.stderr);
}

#[test]
fn an_event_of_unknown_shape_is_no_hole() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    run.text("Before, ");
    for data in ["{}", "[1, 2]", "no JSON", "\"a text\""] {
        run.raw(|id| format!("id: {id}\nevent: hologram_shown\ndata: {data}\n\n").into_bytes());
    }
    run.text("and after.");
    run.complete();
    running.wait().code(0).stdout("Before, and after.\n").stderr_lacks("reconnecting");
}

#[test]
fn half_an_event_ends_the_quiet() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "--heartbeat", "1s", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    run.propose([call("a", "create")]);
    let event = |id: u64| {
        let (session, run) = (run.session, run.id);
        let envelope = json!({ "id": id, "session_id": session, "run_id": run, "event": { "HologramShown": {} } });
        format!("id: {id}\nevent: hologram_shown\ndata: {envelope}\n\n").into_bytes()
    };
    run.raw(|id| event(id)[..20].to_vec());
    // Longer than the quiet that a decision takes. The rest might say that the call has begun.
    running.wait_for_stderr("the run goes on");
    assert!(agent.requests(Route::Decide).is_empty());
    run.raw(|id| [&event(id - 1)[20..], &event(id)].concat());
    run.wait_for_decisions(1);
    run.complete();
    running.wait().code(0);
}

#[test]
fn a_missing_session_is_lost_but_an_unavailable_state_is_not() {
    for (status, code, reason) in [(404, "not_found", "lost"), (500, "out_of_order", "server")] {
        let agent = Agent::start();
        let running = agent.sortie(["run", "-o", "json", "--retry-timeout", "1s", "go"]).spawn();
        agent.next_run().propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        agent.every(Route::Session).fail(status, code);
        agent.drop_streams(Ending::Cut);
        running.wait().fails(reason);
    }
}

#[test]
fn a_false_gap_does_not_hide_the_last_run() {
    let agent = Agent::start();
    let old = agent.begin_run(agent.session());
    old.text("Done.");
    old.complete();
    old.raw(|_| b"event: gap_detected\ndata: {\"oldest_available_id\":0}\n\n".to_vec());
    agent.sortie(["attach", &old.session.to_string()]).run().code(0).stdout("Done.\n");
    // Nor is the one before the first event a gap.
    let wire = Wire::serve(|exchange| {
        if exchange.is("GET", "/events") {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".as_slice();
            let gap = b"event: gap_detected\ndata: {\"oldest_available_id\":1}\n\n";
            let mut connection = exchange.connection;
            connection.write(&[head, gap].concat());
            connection.wait_for_close();
        } else if exchange.is("GET", "/messages") {
            exchange.json(200, &json!({ "messages": [], "total": 0 }));
        } else {
            exchange.json(200, &json!({ "session": { "run_status": { "state": "idle" } } }));
        }
    });
    let session = Uuid::new_v4().to_string();
    wire.sortie(["attach", "-o", "json", "--timeout", "20s", &session]).run().fails("not_found");
}

#[test]
fn the_last_event_alone_tells_how_a_run_ended() {
    let agent = Agent::with(Options { events_kept: 1, ..Options::default() });
    let old = agent.begin_run(agent.session());
    old.text("Done.");
    old.complete();
    agent.sortie(["attach", &old.session.to_string()]).run().code(0).stdout("Done.\n");
}

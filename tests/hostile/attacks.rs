//! The bounds again, by somebody who has read the source: what is kept twice, what grows when it is shown, and what is
//! gathered a little at a time.

use crate::support::http::Connection;
use crate::support::process::Output;
use crate::support::terminal::Terminal;
use crate::trial::{Trial, completed, event, quoted};
use std::time::Duration;
use uuid::Uuid;

const MIB: usize = 1024 * 1024;
/// What an event has beside its text, at the most.
const ENVELOPE: usize = 4096;

/// A run that says this in one event and is completed when the client comes back.
fn saying(name: &'static str, variant: &'static str, members: String) -> Trial {
    Trial::interrupted_by(move |stream, run| {
        stream.chunk(event(3, run, name, variant, &members).as_bytes());
    })
}

/// The largest text that needs to be unescaped: for a moment there are two of it.
fn escaped() -> String {
    format!(r"{}\n", "x".repeat(8 * MIB - ENVELOPE))
}

/// Characters that are shown in six.
fn unprintable() -> String {
    "\u{7f}".repeat(8 * MIB - ENVELOPE)
}

#[track_caller]
fn is_small(trial: &Trial, output: Output) -> Output {
    assert!(output.code <= 1, "{}", output.code);
    trial.stayed_small();
    output
}

/// The largest text that each format can show, in bytes: what is shown at the end must be kept until then.
fn formats() -> [(&'static str, usize); 4] {
    let (event, kept) = (8 * MIB - ENVELOPE, 4 * MIB - ENVELOPE);
    [("text", event), ("final", kept), ("json", kept), ("stream-json", event)]
}

#[test]
fn a_text_that_must_be_unescaped_is_kept_once() {
    for (format, size) in formats() {
        let text = format!(r"{}\n", "x".repeat(size - 2));
        let trial = saying("text_delta", "TextDelta", format!(r#""delta":"{text}""#));
        let command =
            trial.sortie(["run", "-o", format, "--record", "events.sse", "--result-file", "record", "go"]);
        let output = command.run().code(0);
        assert!(output.stdout.len() >= size - 1, "{format}");
        trial.stayed_small();
    }
}

#[test]
fn a_text_that_is_made_visible_goes_out_in_pieces() {
    for (format, size) in formats() {
        let text = "\u{7f}".repeat(size);
        let trial = saying("text_delta", "TextDelta", format!(r#""delta":"{text}""#));
        let terminal = Terminal::open();
        // The leash counts at the end too, when nothing is asked for any more.
        let command = trial.sortie(["run", "-o", format, "--timeout", "25s", "go"]).with_stdout_to(terminal.file());
        command.run().code(0);
        trial.stayed_small();
        let sign = if format.ends_with("json") { "\\u007f" } else { "\\u{7f}" };
        assert!(terminal.said().matches(sign).count() >= size, "{format}");
    }
}

#[test]
fn a_name_that_is_made_visible_does_not_fill_the_status_line() {
    let trial = Trial::interrupted_by(|stream, run| {
        let tool = format!(r#""tool_call_id":"a","tool_name":{}"#, quoted(&unprintable()));
        stream.chunk(event(3, run, "tool_execution_started", "ToolExecutionStarted", &tool).as_bytes());
    });
    let terminal = Terminal::open();
    let command = trial.sortie(["run", "go"]).in_shell(r#"ulimit -d 49152 && echo $$ >pid && exec "$@" 2>"$TTY""#);
    command.env("TTY", &terminal.path).env("TERM", "xterm").run().code(0);
    trial.stayed_small();
    assert!(terminal.said().len() < 64 * 1024);
}

#[test]
fn a_long_text_of_the_wrong_type_is_not_made_longer_to_be_quoted() {
    let long = quoted(&unprintable());
    for (name, variant, members) in [
        ("turn_started", "TurnStarted", format!(r#""turn":{long}"#)),
        ("usage_report", "UsageReport", format!(r#""usage":{long}"#)),
        ("usage_report", "UsageReport", format!(r#""usage":{{"prompt_tokens":{long}}}"#)),
        ("tool_calls_proposed", "ToolCallsProposed", format!(r#""tool_calls":{long}"#)),
        ("tool_calls_proposed", "ToolCallsProposed", format!(r#""tool_calls":[{long}]"#)),
        ("run_completed", "RunCompleted", format!(r#""stop_reason":"completed","total_usage":{long}"#)),
        ("run_error", "RunError", format!(r#""error":"x","retryable":{long}"#)),
    ] {
        let trial = Trial::streaming(move |stream, run| {
            stream.chunk(event(3, run, name, variant, &members).as_bytes());
        });
        let output = is_small(&trial, trial.sortie(["run", "-o", "json", "go"]).run());
        output.fails("protocol");
    }
    for data in
        [long.clone(), format!(r#"{{"event":{{"TurnStarted":{long}}}}}"#), format!(r#"{{"{}":1}}"#, unprintable())]
    {
        let trial = Trial::streaming(move |stream, _| {
            stream.chunk(format!("id: 3\nevent: turn_started\ndata: {data}\n\n").as_bytes());
        });
        is_small(&trial, trial.sortie(["run", "-o", "json", "go"]).run()).fails("protocol");
    }
}

#[test]
fn a_long_answer_of_the_wrong_type_is_not_made_longer_to_be_quoted() {
    let long = quoted(&unprintable());
    for (method, path_end, body) in [
        ("POST", "/sessions", format!(r#"{{"id":{long}}}"#)),
        ("POST", "/messages", format!(r#"{{"run_id":{long}}}"#)),
        ("GET", "/config", format!(r#"{{"auto_approve_mode":{long}}}"#)),
        ("GET", "/health", format!(r#"{{"status":{long}}}"#)),
    ] {
        let trial = Trial::answering(method, path_end, body);
        let command = if method == "GET" {
            trial.sortie(["ping"])
        } else {
            trial.sortie(["run", "--retry-timeout", "1s", "go"])
        };
        is_small(&trial, command.run());
    }
    for body in [
        format!(r#"{{"session":{long}}}"#),
        format!(r#"{{"session":{{"run_status":{long}}}}}"#),
        format!(r#"{{"session":{{"run_status":{{"state":{long}}}}}}}"#),
    ] {
        let trial = Trial::answering("GET", "", body);
        let session = trial.session.to_string();
        is_small(&trial, trial.sortie(["attach", "--retry-timeout", "1s", &session]).run()).code(1);
    }
}

/// A session that waits for approval, and says this of the calls that wait.
fn waiting(calls: String) -> Trial {
    Trial::new(move |exchange, run| {
        if exchange.is("GET", "/events") {
            let mut stream = exchange.stream();
            stream.chunk(crate::trial::begun(run).as_bytes());
            stream.chunk(event(3, run, "tool_calls_proposed", "ToolCallsProposed", &calls).as_bytes());
            stream.wait_for_close();
        } else if exchange.is("GET", "/pending") {
            exchange.respond(200, &[], format!(r#"{{"run_id":"{run}",{calls}}}"#).as_bytes());
        } else if exchange.is("GET", "/config") {
            exchange.respond(200, &[], br#"{"auto_approve_mode":"none"}"#);
        } else if exchange.request.method == "GET" {
            let status = format!(r#"{{"session":{{"run_status":{{"state":"running","run_id":"{run}"}}}}}}"#);
            exchange.respond(200, &[], status.as_bytes());
        } else {
            return Some(exchange);
        }
        None
    })
}

#[test]
fn a_call_with_large_arguments_is_shown_paused_on_and_decided() {
    let wide = format!("[{}0]", "0,".repeat(4 * MIB - ENVELOPE));
    let calls = format!(r#""tool_calls":[{{"id":"a","name":"p__view","arguments":{wide}}}]"#);
    let trial = waiting(calls.clone());
    let session = trial.session.to_string();
    let shown = trial.sortie(["pending", "-o", "json", &session]).run().code(10);
    assert!(shown.stdout.len() > 7 * MIB);
    trial.stayed_small();
    let trial = waiting(calls.clone());
    let paused = trial.sortie(["run", "-o", "json", "--result-file", "record", "--pause-on-approval", "go"]).run();
    assert!(paused.code(10).stdout.len() > 7 * MIB);
    trial.stayed_small();
    let trial = waiting(calls);
    let asked = trial.sortie(["run", "-o", "json", "--approve-with", "wc -c >size; exit 10", "go"]).run().code(10);
    let size = std::fs::read_to_string(asked.home().join("size")).unwrap();
    assert!(size.trim().parse::<usize>().unwrap() > 7 * MIB);
    trial.stayed_small();
}

#[test]
fn ids_and_names_that_are_kept_and_passed_on_have_a_bound() {
    let long = "x".repeat(8 * MIB - ENVELOPE);
    for call in [format!(r#"{{"id":"{long}","name":"x"}}"#), format!(r#"{{"id":"a","name":"{long}"}}"#)] {
        let trial = waiting(format!(r#""tool_calls":[{call}]"#));
        let output = trial
            .sortie(["run", "-o", "json", "--deny-tool", "y", "--on-approval", "accept", "--timeout", "9s", "go"])
            .run();
        is_small(&trial, output).fails("protocol");
    }
    let trial = saying("run_completed", "RunCompleted", format!(r#""stop_reason":"{long}""#));
    let output = is_small(&trial, trial.sortie(["run", "-o", "json", "go"]).run());
    assert!(output.stdout.len() < 64 * 1024, "{} bytes", output.stdout.len());
    output.fails("run_error");
}

/// An idle session, each page of whose messages is this.
fn messages(page: String, total: usize) -> Trial {
    Trial::new(move |exchange, _| {
        if exchange.is("GET", "/events") {
            let mut stream = exchange.stream();
            // A replay without a byte proves nothing.
            stream.chunk(b": keepalive\n\n");
            stream.wait_for_close();
        } else if exchange.is("GET", "/messages") {
            let page = if exchange.request.query.contains("limit=0") { "" } else { &page };
            exchange.respond(200, &[], format!(r#"{{"messages":[{page}],"total":{total}}}"#).as_bytes());
        } else {
            exchange.respond(200, &[], br#"{"session":{"run_status":{"state":"idle"}}}"#);
        }
        None
    })
}

#[test]
fn messages_grow_no_larger_than_they_came() {
    let many = |entry: &str| entry.repeat(7 * MIB / entry.len());
    for page in [
        format!(r#"{{"role":"assistant","content":[{}{{}}]}}"#, many("{},")),
        format!(r#"{{"role":"tool","content":[{}{{}}]}}"#, many(r#"{"tool_call_id":""},"#)),
        format!(r#"{{"role":"assistant","content":[{}{{}}]}}"#, many(r#"{"text":"x"},"#)),
        format!(r#"{{"role":"assistant","content":[{}0]}}"#, many("0,")),
        format!(r#"{}{{"role":"","content":""}}"#, many(r#"{"role":"","content":""},"#)),
    ] {
        let trial = messages(page, 1000);
        let session = trial.session.to_string();
        let output = trial.sortie(["attach", "-o", "json", "--timeout", "20s", &session]).run();
        is_small(&trial, output).code(1);
    }
}

#[test]
fn messages_that_say_nothing_are_not_gathered_without_end() {
    let page = vec![r#"{"role":"assistant","content":""}"#; 1000].join(",");
    let trial = messages(page, usize::MAX / 2);
    let session = trial.session.to_string();
    let output = trial.sortie(["attach", "-o", "json", "--timeout", "20s", &session]).run();
    is_small(&trial, output).fails("protocol");
}

#[test]
fn an_event_of_empty_lines_is_recorded_no_larger() {
    // White space between the tokens, and each line of it is a line of the recording.
    let trial = Trial::interrupted_by(|stream, run| {
        let whole = event(3, run, "text_delta", "TextDelta", r#""delta":"x""#);
        let (head, data) = whole.split_once("data: ").unwrap();
        let lines = "data\n".repeat(8 * MIB - ENVELOPE);
        stream.chunk(format!("{head}{lines}data: {data}").as_bytes());
    });
    let command = trial.sortie(["run", "-o", "stream-json", "--record", "events.sse", "go"]);
    is_small(&trial, command.run()).code(0);
}

/// Counts turns up to this, each with one letter.
fn many_turns(stream: &mut Connection, run: Uuid, turns: u64) -> u64 {
    let mut id = 2;
    for hundred in 0..turns / 100 {
        let mut piece = String::new();
        for turn in 0..100 {
            let turn = format!(r#""turn":{}"#, hundred * 100 + turn);
            piece += &event(id + 1, run, "turn_started", "TurnStarted", &turn);
            piece += &event(id + 2, run, "text_delta", "TextDelta", r#""delta":"x""#);
            id += 2;
        }
        if !stream.chunk(piece.as_bytes()) {
            break;
        }
    }
    id
}

#[test]
fn a_run_of_very_many_turns_keeps_their_text() {
    let trial = Trial::new(|exchange, run| {
        if !exchange.is("GET", "/events") {
            return Some(exchange);
        }
        let mut stream = exchange.stream();
        stream.chunk(crate::trial::begun(run).as_bytes());
        let id = many_turns(&mut stream, run, 140_000);
        stream.chunk(completed(id + 1, run).as_bytes());
        stream.wait_for_close();
        None
    });
    let output = trial.sortie(["run", "-o", "json", "go"]).run().code(0);
    let record = output.record();
    assert_eq!(record["text"].as_str().map(str::len), Some(2 * 140_000 - 1));
    assert_eq!(record["agent_message"], "x");
}

#[test]
fn an_honest_run_that_says_more_than_is_kept_does_not_fail() {
    let trial = Trial::interrupted_by(|stream, run| {
        let text = "x".repeat(MIB);
        for turn in 0..12_u64 {
            let begun = format!(r#""turn":{turn}"#);
            stream.chunk(event(3 + 2 * turn, run, "turn_started", "TurnStarted", &begun).as_bytes());
            let said = format!(r#""delta":"{turn}{text}""#);
            stream.chunk(event(4 + 2 * turn, run, "text_delta", "TextDelta", &said).as_bytes());
        }
    });
    for format in ["json", "text"] {
        let output = trial.sortie(["run", "-o", format, "--result-file", "record", "go"]).run();
        let output = output.code(0).stderr_has("text is null");
        trial.stayed_small();
        let record = crate::support::process::result_file(&output.home().join("record"), 0);
        assert!(record["text"].is_null() && record["agent_message"].as_str().unwrap().starts_with("11x"));
        assert!(format == "json" || output.stdout.len() > 12 * MIB, "stdout has it all");
    }
}

#[test]
fn one_large_event_after_another_is_kept_in_little_memory() {
    let plain = format!(r#""delta":"{}""#, "x".repeat(8 * MIB - ENVELOPE));
    let second = format!(r#""delta":"{}""#, escaped());
    for (name, variant, members) in [
        ("turn_started", "TurnStarted", r#""turn":2"#.to_owned()),
        ("usage_report", "UsageReport", r#""usage":{}"#.to_owned()),
    ] {
        let (plain, second) = (plain.clone(), second.clone());
        let trial = Trial::interrupted_by(move |stream, run| {
            stream.chunk(event(3, run, "text_delta", "TextDelta", &plain).as_bytes());
            stream.chunk(event(4, run, name, variant, &members).as_bytes());
            stream.chunk(event(5, run, "text_delta", "TextDelta", &second).as_bytes());
        });
        let output = is_small(&trial, trial.sortie(["run", "-o", "json", "--result-file", "record", "go"]).run());
        let record = output.code(0).record();
        assert!(record["text"].is_null() && record["agent_message"].is_null());
    }
}

#[test]
fn lost_text_is_made_whole_in_little_memory() {
    // All that may be kept has been, when events are lost and the messages say as much again.
    let trial = Trial::new(|exchange, run| {
        if exchange.is("GET", "/messages") {
            let text = "y".repeat(2 * MIB - ENVELOPE);
            let page =
                format!(r#"{{"role":"assistant","content":"{text}"}},{{"role":"assistant","content":"{text}"}}"#);
            let page = if exchange.request.query.contains("limit=0") { String::new() } else { page };
            exchange.respond(200, &[], format!(r#"{{"messages":[{page}],"total":2}}"#).as_bytes());
            return None;
        }
        if !exchange.is("GET", "/events") {
            return Some(exchange);
        }
        let seen: u64 = exchange.request.header("last-event-id").unwrap().parse().unwrap();
        let mut stream = exchange.stream();
        if seen == 0 {
            stream.chunk(crate::trial::begun(run).as_bytes());
            let text = format!(r#""delta":"{}""#, "x".repeat(4 * MIB - ENVELOPE));
            stream.chunk(event(3, run, "text_delta", "TextDelta", &text).as_bytes());
            stream.chunk(b"event: gap_detected\ndata: {\"oldest_available_id\":9}\n\n");
        } else {
            let whole = format!(r#""text":"{}""#, "z".repeat(4 * MIB - ENVELOPE));
            stream.chunk(event(9, run, "turn_started", "TurnStarted", r#""turn":2"#).as_bytes());
            stream.chunk(event(10, run, "text_complete", "TextComplete", &whole).as_bytes());
            stream.chunk(completed(11, run).as_bytes());
        }
        stream.wait_for_close();
        None
    });
    is_small(&trial, trial.sortie(["run", "-o", "json", "--timeout", "25s", "go"]).run());
}

#[test]
fn what_follows_the_last_chunk_has_an_end() {
    let trial = Trial::new(|mut exchange, run| {
        if !exchange.is("GET", "/events") {
            return Some(exchange);
        }
        exchange.connection.open_stream();
        exchange.connection.chunk(crate::trial::begun(run).as_bytes());
        exchange.connection.write(b"0\r\n");
        while exchange.connection.write("x-trailer: y\r\n".repeat(1000).as_bytes()) {}
        None
    });
    let command = trial.sortie(["run", "-o", "json", "--timeout", "2s", "--retry-timeout", "500ms", "go"]);
    let record = command.run().within(Duration::from_secs(15)).code(1).record();
    assert!(["connection", "timeout", "protocol"].contains(&record["reason"].as_str().unwrap()), "{record:#}");
    trial.stayed_small();
}

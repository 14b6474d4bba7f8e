//! What comes out: four formats, the newlines between them, the record on every path, and the result file.

use crate::support::agent::{Agent, Policy, Route, RunHandle, TOKEN, call};
use crate::support::process::{Running, result_file};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Turns with these texts, tool calls between them.
fn play(run: &RunHandle, turns: &[&str]) {
    let (last, before) = turns.split_last().unwrap();
    for (number, text) in before.iter().enumerate() {
        if !text.is_empty() {
            run.text(text);
        }
        run.propose([call(&format!("c{number}"), "view")]);
    }
    if !last.is_empty() {
        run.text(last);
    }
    run.complete();
}

/// What a run of these turns leaves on stdout.
#[track_caller]
fn printed(format: &str, turns: &'static [&'static str]) -> String {
    let agent = Agent::start();
    agent.script(move |run| play(run, turns));
    agent.sortie(["run", "-o", format, "go"]).run().code(0).stdout
}

#[test]
fn text_output_has_each_turn_on_lines_of_its_own() {
    for (turns, expected) in [
        (&["Done."][..], "Done.\n"),
        (&["Done.\n"], "Done.\n"),
        (&["Done.\n\n"], "Done.\n\n"),
        (&["I look.", "Found it."], "I look.\nFound it.\n"),
        (&["I look.\n", "Found it.\n"], "I look.\nFound it.\n"),
        (&["", "I look.", "", "Found it."], "I look.\nFound it.\n"),
        (&["I look.", ""], "I look.\n"),
        (&[""], ""),
        (&["\n"], "\n"),
        (&["Grüße", "日本語 ✅"], "Grüße\n日本語 ✅\n"),
    ] {
        assert_eq!(printed("text", turns), expected, "{turns:?}");
    }
}

#[test]
fn final_output_is_only_the_last_turn() {
    for (turns, expected) in [
        (&["I look.", "Found it."][..], "Found it.\n"),
        (&["I look.", "Found it.\n"], "Found it.\n"),
        (&["I look.", ""], ""),
        (&[""], ""),
    ] {
        assert_eq!(printed("final", turns), expected, "{turns:?}");
    }
}

#[test]
fn json_output_is_only_the_record() {
    let stdout = printed("json", &["I look.", "Found it."]);
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let record: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(record["text"], "I look.\nFound it.");
    assert_eq!(record["agent_message"], "Found it.");
    assert_eq!(record["turns"], 2);
    assert_eq!(record["usage"], json!({ "prompt_tokens": 22, "completion_tokens": 14, "total_tokens": 36 }));
    assert_eq!(record["tool_calls"], json!({ "proposed": 1, "accepted": 1, "rejected": 0, "failed": 0 }));
    assert_eq!(record["last_event_id"], 16);
    for null in ["reason", "error", "pause_reason", "resume_hint", "cancel_confirmed"] {
        assert_eq!(record[null], Value::Null, "{null}");
    }
}

#[test]
fn stream_json_output_is_a_line_for_each_event_and_then_the_record() {
    let agent = Agent::start();
    agent.script(|run| {
        run.text("Hello");
        run.emit("HologramShown", &[("depth", 3.into())]);
        run.complete();
    });
    let output = agent.sortie(["run", "-o", "stream-json", "go"]).run().code(0);
    let record = output.record();
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, events) = lines.split_last().unwrap();
    assert_eq!(*last, record);
    for (index, event) in events.iter().enumerate() {
        let mut keys: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["data", "event", "id", "type"], "{event}");
        assert_eq!(event["type"], "event");
        assert_eq!(event["id"], index + 1);
        assert_eq!(event["data"]["id"], index + 1);
    }
    let names: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    let expected = [
        "run_started",
        "turn_started",
        "text_delta",
        "hologram_shown",
        "text_complete",
        "usage_report",
        "turn_completed",
        "run_completed",
    ];
    assert_eq!(names, expected);
    assert_eq!(events[3]["data"]["event"]["HologramShown"]["depth"], 3);
}

#[test]
fn text_is_written_as_soon_as_it_arrives() {
    for (format, shown) in [("text", "Hel"), ("stream-json", r#""delta":"Hel""#)] {
        let agent = Agent::start();
        let running = agent.sortie(["run", "-o", format, "go"]).spawn();
        let run = agent.next_run();
        run.text("Hel");
        running.wait_for_stdout(shown);
        run.text("lo");
        running.wait_for_stdout("lo");
        run.complete();
        running.wait().code(0);
    }
}

#[test]
fn text_that_came_in_deltas_is_not_repeated_when_the_turn_is_complete() {
    let agent = Agent::start();
    agent.script(|run| {
        for letter in ["H", "é", "l", "l", "o"] {
            run.text(letter);
        }
        run.complete();
    });
    agent.sortie(["run", "go"]).run().code(0).stdout("Héllo\n");
}

#[test]
fn text_without_deltas_is_written_when_the_turn_is_complete() {
    let agent = Agent::start();
    agent.script(|run| {
        run.emit("TextComplete", &[("text", "All at once.".into())]);
        run.complete();
    });
    agent.sortie(["run", "go"]).run().code(0).stdout("All at once.\n");
}

#[test]
fn thinking_is_not_part_of_the_answer() {
    let agent = Agent::start();
    agent.script(|run| {
        run.emit("ThinkingDelta", &[("delta", "Hm.".into())]);
        run.text("Done.");
        run.complete();
    });
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
}

#[test]
fn text_goes_unchanged_to_a_pipe_and_escaped_to_stderr() {
    let odd = "\u{1b}[31mred\u{1b}[0m \u{9b}2J \r\u{7} \u{202e}desrever\u{202c} \u{0}end";
    let agent = Agent::with_policy(Policy::All);
    agent.script(move |run| {
        run.text(odd);
        run.propose([
            call("a\u{1b}[2J", "view").with(json!({ "path": odd })),
            call("b", "vi\new\u{1b}]0;title\u{7}").with(json!({ "path": odd })),
        ]);
        run.error(odd, false);
    });
    let output = agent.sortie(["run", "-v", "go"]).run().code(1).stdout(&format!("{odd}\n"));
    let raw = ['\u{1b}', '\u{9b}', '\r', '\u{7}', '\u{202e}', '\u{0}'];
    assert!(!output.stderr.contains(raw), "{:?}", output.stderr);
    assert!(output.stderr.contains("red"), "{}", output.stderr);
}

#[test]
fn quiet_shows_only_errors() {
    let agent = Agent::answering("Done.");
    let output = agent.sortie(["run", "-q", "go"]).run().code(0).stdout("Done.\n");
    assert_eq!(output.stderr, "");
    let agent = Agent::start();
    agent.script(|run| run.error("out of order", false));
    agent.sortie(["run", "-q", "go"]).run().code(1).stderr_has("out of order");
}

#[test]
fn stderr_names_the_session_and_the_tools() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).spawn();
    let run = agent.next_run();
    running.wait_for_stderr(&run.session.to_string());
    run.propose([call("a", "view")]);
    running.wait_for_stderr("view");
    run.complete();
    running.wait().code(0);
}

#[test]
fn the_token_is_never_shown() {
    let agent = Agent::answering("Done.");
    for flag in ["-v", "-vv", "-vvv"] {
        let output = agent.sortie(["run", flag, "-o", "stream-json", "go"]).env("SORTIE_LOG", "trace").run();
        assert!(!output.stderr.contains(TOKEN) && !output.stdout.contains(TOKEN), "{output:#?}");
    }
}

/// Starts a run with a result file.
fn with_result_file(agent: &Agent, flags: &[&str]) -> Running {
    agent.sortie(["run", "--result-file", "result.json", "go"]).args(flags.iter().copied()).spawn()
}

/// Waits for the end, and reads the result file.
#[track_caller]
fn result(running: Running, code: i32) -> Value {
    let output = running.wait().code(code);
    let path = output.home().join("result.json");
    let record = result_file(&path, code);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "private to the user");
    let left: Vec<_> = fs::read_dir(output.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["result.json"], "nothing else is left behind");
    record
}

#[test]
fn the_result_file_is_the_record_whatever_the_format() {
    for format in ["text", "final", "json", "stream-json"] {
        let agent = Agent::start();
        agent.script(|run| play(run, &["I look.", "Found it."]));
        let running = with_result_file(&agent, &["-o", format]);
        let record = result(running, 0);
        assert_eq!(record["text"], "I look.\nFound it.", "{format}");
        assert_eq!(record["agent_message"], "Found it.", "{format}");
    }
}

#[test]
fn the_result_file_is_written_at_every_end() {
    let agent = Agent::start();
    agent.script(|run| run.error("out of order", true));
    let running = with_result_file(&agent, &[]);
    assert_eq!(result(running, 1)["reason"], "run_error");

    let agent = Agent::start();
    agent.script(|run| run.propose([call("a", "create")]));
    let running = with_result_file(&agent, &["--pause-on-approval"]);
    assert_eq!(result(running, 10)["reason"], "tool_approval_required");

    let agent = Agent::start();
    let running = with_result_file(&agent, &[]);
    agent.next_run().propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    running.signal(Signal::INT);
    assert_eq!(result(running, 1)["reason"], "interrupted");

    let agent = Agent::start();
    agent.every(Route::CreateSession).fail(401, "unauthorized");
    let running = with_result_file(&agent, &[]);
    let record = result(running, 1);
    assert_eq!(record["reason"], "auth");
    assert_eq!(record["session_id"], Value::Null);

    let agent = Agent::out_of_bounds();
    let running = with_result_file(&agent, &["--system-prompt-file", "no/such/file"]);
    assert_eq!(result(running, 1)["reason"], "usage");
}

#[test]
fn the_result_file_replaces_an_older_one_only_at_the_end() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "--result-file", "result.json", "go"]);
    let path = command.file("result.json", "of yesterday");
    let path = Path::new(&path);
    let running = command.spawn();
    let run = agent.next_run();
    running.wait_for_stderr(&run.session.to_string());
    assert_eq!(fs::read_to_string(path).unwrap(), "of yesterday");
    run.complete();
    assert_eq!(result(running, 0)["outcome"], "completed");
}

#[test]
fn an_unwritable_result_file_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    for path in ["no/such/directory/result.json", ".", "/proc/result.json", "/dev/null/result.json", ""] {
        let output = agent.sortie(["run", "-o", "json", "--result-file", path, "go"]).run();
        let output = output.code(1).stderr_has("--result-file");
        if !output.stdout.is_empty() {
            let reason = output.record()["reason"].clone();
            assert!(["usage", "output"].contains(&reason.as_str().unwrap()), "{path}: {reason}");
        }
    }
}

#[test]
fn a_result_file_that_becomes_unwritable_is_an_output_failure() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--result-file", "sub/result.json", "go"]);
    let directory = command.path("sub");
    fs::create_dir(&directory).unwrap();
    let running = command.spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    fs::remove_dir_all(&directory).unwrap();
    run.text("Done.");
    run.complete();
    let record = running.wait().stderr_has("result.json").fails("output");
    assert_eq!(record["text"], "Done.");
    assert_eq!(record["stop_reason"], "completed");
}

#[test]
fn the_record_has_every_key_at_early_ends() {
    // `record` checks the keys.
    let agent = Agent::out_of_bounds();
    agent.sortie(["run", "-o", "json", ""]).run().fails("usage");
    agent.sortie(["run", "-o", "stream-json", ""]).run().fails("usage");
    let agent = Agent::start();
    let gate = agent.next(Route::CreateSession).hold();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    gate.wait_until_reached();
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(record["turns"], 0);
    assert_eq!(record["text"], Value::Null);
    assert_eq!(record["retryable"], true, "nothing was sent");
}

#[test]
fn a_slow_reader_of_stdout_loses_nothing() {
    // More than a pipe holds.
    let long = "All work and no play.\n".repeat(20_000);
    let agent = Agent::start();
    let mut running = agent.sortie(["run", "go"]).with_unread_stdout().spawn();
    let run = agent.next_run();
    run.text(&long);
    run.complete();
    running.read_stdout();
    assert!(running.wait().code(0).stdout == long);
}

//! Nothing that the agent, a tool or the server says acts on a terminal: never on stderr, and on stdout where that is
//! one. To a pipe or a file it goes byte for byte.

use crate::support::agent::{Agent, Policy, RunHandle, call};
use crate::support::process::Sortie;
use crate::support::terminal::Terminal;
use crate::trial::{Trial, begun, completed, event, quoted};
use serde_json::{Value, json};
use std::fs;

/// Moves cursors, sets titles, rings, hides, reorders, and fakes a line of ours.
pub const EVIL: &str = "evil \u{1b}[2J\u{1b}[1A\u{1b}]0;title\u{7}\u{1b}]52;c;cm0gLXJm\u{1b}\\ \u{9b}31m \u{9d}0;t\u{9c} \
    \u{90}q\u{9c} \u{85} \u{8} \u{7f} \u{b} \u{c} \u{0} \rsortie: completed after 1.0s\nsortie: completed after 2.0s\n\
    \u{202e}desrever\u{202c} \u{2066}isolated\u{2069} \u{200f} \u{200e} \u{61c} \u{2028}\u{2029} \u{feff}\u{200b}\u{2060} \
    \u{e0041}\u{e007f} \u{fff9} end";

/// The id of a call that was not heard of before.
const OTHER: &str = "other \u{1b}[2J\u{9b}31m\u{202e}\nsortie: completed after 2.0s\n";

/// No character in it acts on a terminal.
#[track_caller]
pub fn assert_inert(text: &str, kept: &[char]) {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let found: String = text.chars().filter(|c| acts(*c) && !kept.contains(c)).collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
}

/// The same for stderr, whose every line must be one of ours.
#[track_caller]
pub fn assert_harmless(stderr: &str) {
    assert_inert(stderr, &['\n']);
    for line in stderr.lines() {
        assert!(line.starts_with("sortie: "), "no line of ours: {line:?}");
        assert!(!line.starts_with("sortie: completed after 2.0s"), "a line that was faked: {stderr}");
    }
    assert!(stderr.is_empty() || stderr.ends_with('\n'), "{stderr:?}");
}

/// A run that says it everywhere.
fn say_everywhere(run: &RunHandle) {
    run.text(EVIL);
    run.emit("RetryAttempt", &[("attempt", 1.into()), ("delay_ms", 1.into()), ("reason", EVIL.into())]);
    let tool = [("tool_call_id", Value::from(EVIL)), ("tool_name", EVIL.into())];
    let with = |more: &[(&'static str, Value)]| [tool.as_slice(), more].concat();
    run.emit("ToolExecutionStarted", &tool);
    run.emit("ToolExecutionProgress", &with(&[("message", EVIL.into())]));
    run.emit("ToolExecutionCompleted", &with(&[("result", EVIL.into()), ("is_error", true.into())]));
    run.emit("ToolRejected", &with(&[("reason", EVIL.into())]));
    run.emit("CompactionStarted", &[("reason", EVIL.into())]);
}

#[test]
fn events_are_shown_on_stderr_without_acting_on_it() {
    for flags in [&[][..], &["-v"], &["-vv"], &["--fail-on-tool-error"], &["--deny-tool", "nothing"]] {
        for ending in ["error", "stop_reason", "pause"] {
            let agent = Agent::with_policy(Policy::None);
            agent.script(move |run| {
                say_everywhere(run);
                match ending {
                    "error" => run.error(EVIL, false),
                    "stop_reason" => run.end(EVIL),
                    _ => run.propose([call(OTHER, EVIL).with(json!({ EVIL: EVIL }))]),
                }
            });
            let command = agent.sortie(["run", "--pause-on-approval", "--result-file", "record", "go"]);
            let output = command.args(flags.iter().copied()).run();
            output.stderr.lines().filter(|line| line.starts_with("sortie: ")).for_each(|line| {
                assert!(!line.starts_with("sortie: completed after 2.0s"), "{line}");
            });
            assert_inert(&output.stderr, &['\n']);
            if !flags.iter().any(|flag| flag.starts_with("-v")) {
                assert_harmless(&output.stderr);
            }
            assert!(output.stderr.contains("evil"), "{ending}: it is shown all the same: {}", output.stderr);
            assert_eq!(output.code, if ending == "pause" { 10 } else { 1 }, "{output:#?}");
            // To a pipe, the text goes as it is; to the record, as JSON has it.
            assert_eq!(output.stdout, format!("{EVIL}\n"));
            let record: Value =
                serde_json::from_str(&fs::read_to_string(output.home().join("record")).unwrap()).unwrap();
            assert_eq!(record["text"], EVIL);
            if ending == "pause" {
                assert_eq!(record["pause_reason"]["pending_tool_calls"][0]["id"], OTHER);
            }
        }
    }
}

#[test]
fn answers_and_heads_are_quoted_without_acting() {
    let error = json!({ "error": EVIL, "code": EVIL }).to_string();
    let bodies: [&[u8]; 4] = [EVIL.as_bytes(), error.as_bytes(), b"\xff\xfe\x1b[2J\x9b31m", b"\x1b"];
    for status in [200, 302, 400, 401, 404, 409, 418] {
        for body in bodies {
            for (method, path_end) in [("POST", "/sessions"), ("POST", "/messages"), ("GET", "/events")] {
                let body = body.to_vec();
                let trial = Trial::new(move |exchange, _| {
                    if !exchange.is(method, path_end) {
                        return Some(exchange);
                    }
                    // What a header may hold: bytes from 0x80 on, C1 and bidi in UTF-8 among them.
                    let odd = "http://\u{9b}31m\u{202e}x/";
                    exchange.respond(status, &[("location", odd), ("content-type", odd)], &body);
                    None
                });
                let output = trial.sortie(["run", "--retry-timeout", "300ms", "go"]).run().code(1).stdout("");
                assert_harmless(&output.stderr);
            }
        }
    }
}

#[test]
fn a_malformed_event_is_described_without_acting() {
    for data in [
        format!(r#"{{"event":{{"TurnStarted":{{"turn":{}}}}}}}"#, quoted(EVIL)),
        format!("{{\"event\":{{\"TurnStarted\":{{{}:1}}}}}}", quoted(EVIL)),
        EVIL.replace(['\n', '\r'], " "),
    ] {
        let trial = Trial::streaming(move |stream, _| {
            stream.chunk(format!("id: 3\nevent: turn_started\ndata: {data}\n\n").as_bytes());
        });
        let output = trial.sortie(["run", "go"]).run().code(1).stderr_has("(protocol)");
        assert_harmless(&output.stderr);
    }
}

#[test]
fn ids_that_the_server_gave_are_harmless_on_our_own_command_line() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "create")]);
    let session = run.session.to_string();
    for id in ["\u{1b}]0;title\u{7}", "-\u{1b}[2J", "--\u{9b}31m\u{202e}", "\nsortie: completed after 2.0s"] {
        for arguments in [["resume", &session, "--approve", id], ["resume", &session, "--reject", id]] {
            let output = agent.sortie(arguments).run().code(1);
            assert_inert(&output.stderr, &['\n']);
            assert!(!output.stderr.contains("\nsortie: completed after 2.0s"), "{}", output.stderr);
        }
    }
    assert!(run.decisions().is_empty());
    run.cancel();
}

/// What a command leaves on a terminal that is its stdout.
fn shown(command: Sortie, code: i32) -> String {
    let terminal = Terminal::open();
    let output = command.with_stdout_to(terminal.file()).run().code(code);
    assert_harmless(&output.stderr);
    terminal.said()
}

#[test]
fn text_is_shown_on_a_terminal_and_does_not_act_on_it() {
    for format in ["text", "final"] {
        let agent = Agent::answering(EVIL);
        let shown = shown(agent.sortie(["run", "-o", format, "go"]), 0);
        assert_inert(&shown, &['\n', '\t']);
        assert!(shown.starts_with("evil \\u{1b}[2J") && shown.ends_with(" end\n"), "{shown:?}");
    }
    let plain = "Grüße, 日本語 👩🏽‍🚀\n\tindented\n";
    let agent = Agent::answering(plain);
    assert_eq!(shown(agent.sortie(["run", "go"]), 0), plain);
}

#[test]
fn json_is_shown_on_a_terminal_does_not_act_on_it_and_is_json_still() {
    for format in ["json", "stream-json"] {
        let agent = Agent::start();
        agent.script(|run| {
            say_everywhere(run);
            run.complete();
        });
        let shown = shown(agent.sortie(["run", "-o", format, "go"]), 0);
        let record: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
        assert_eq!(record["text"], EVIL);
        for line in shown.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
        assert_inert(&shown, &['\n']);
    }
}

#[test]
fn the_calls_that_wait_are_shown_on_a_terminal_and_do_not_act_on_it() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call(EVIL, &format!("create{EVIL}")).with(json!({ EVIL: EVIL }))]);
    let session = run.session.to_string();
    let text = shown(agent.sortie(["pending", &session]), 10);
    assert_inert(&text, &['\n']);
    assert_eq!(text.lines().count(), 1, "{text:?}");
    let json = shown(agent.sortie(["pending", "-o", "json", &session]), 10);
    let parsed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["tool_calls"][0]["id"], EVIL);
    assert_inert(&json, &['\n']);
    run.cancel();
}

#[test]
fn pending_text_is_harmless_in_a_pipe_too() {
    // It is a list for people, a line for each call: a name with a newline in it would fake one.
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call(EVIL, "create")]);
    let output = agent.sortie(["pending", &run.session.to_string()]).run().code(10);
    assert_eq!(output.stdout.lines().count(), 1, "{:?}", output.stdout);
    run.cancel();
}

#[test]
fn every_byte_goes_through_a_pipe_and_into_a_file() {
    // All of Unicode's first 0x300 characters, and a few beyond.
    let all: String = ('\0'..'\u{300}').chain(['\u{202e}', '\u{feff}', '\u{fffd}', '\u{10ffff}']).collect();
    let agent = Agent::answering(&all);
    agent.sortie(["run", "go"]).run().code(0).stdout(&format!("{all}\n"));
    let path = tempfile::NamedTempFile::new().unwrap();
    agent.sortie(["run", "go"]).with_stdout_to(path.reopen().unwrap()).run().code(0);
    assert_eq!(fs::read_to_string(path.path()).unwrap(), format!("{all}\n"));
}

/// Runs it with stderr on a terminal, and gives back what that shows, without our own status line's moves.
fn shown_on_stderr(command: Sortie, stdout_too: bool, code: i32) -> String {
    let terminal = Terminal::open();
    let script = if stdout_too { r#"exec "$@" >"$TTY" 2>"$TTY""# } else { r#"exec "$@" 2>"$TTY""# };
    let command = command.in_shell(script).env("TTY", &terminal.path).env("TERM", "xterm-256color");
    command.run().code(code);
    let said = terminal.said();
    // Ours: to the line's beginning, and clearing all from there.
    said.replace("\u{1b}[J", "").replace('\r', "")
}

#[test]
fn the_status_line_and_progress_do_not_act_on_a_terminal() {
    for stdout_too in [false, true] {
        let agent = Agent::start();
        agent.script(|run| {
            say_everywhere(run);
            run.propose([call(OTHER, EVIL).with(json!({ EVIL: EVIL }))]);
        });
        // The pause takes two seconds, in which the status line tells of the last words and the tool.
        let shown = shown_on_stderr(agent.sortie(["run", "--pause-on-approval", "go"]), stdout_too, 10);
        assert_inert(&shown, if stdout_too { &['\n', '\t'] } else { &['\n'] });
        assert!(shown.contains("evil"), "{shown}");
        if !stdout_too {
            for line in shown.lines() {
                assert!(line.starts_with("sortie: ") && !line.starts_with("sortie: completed after"), "{line:?}");
            }
        }
    }
}

#[test]
fn a_carriage_return_of_the_agent_does_not_reach_the_terminal() {
    // Ours is always followed by the whole line that it begins.
    let trial = Trial::streaming(|stream, run| {
        let text = format!(r#""delta":{}"#, quoted("\rsortie: completed after 9.9s\r\u{1b}[K"));
        stream.chunk(event(3, run, "text_delta", "TextDelta", &text).as_bytes());
        stream.chunk(completed(4, run).as_bytes());
    });
    let terminal = Terminal::open();
    let command = trial.sortie(["run", "go"]).with_stdout_to(terminal.file());
    command.run().code(0);
    assert_eq!(terminal.said(), "\\rsortie: completed after 9.9s\\r\\u{1b}[K\n");
}

#[test]
fn what_an_approving_program_says_goes_nowhere_raw() {
    let agent = Agent::start();
    let program = r#"printf '\033[2J\033]0;title\007\302\2331m\rsortie: fake\n'; exit 1"#;
    for (program, code) in [(program, 0), ("exit 77", 10)] {
        let running = agent.sortie(["run", "--approve-with", program, "go"]).spawn();
        let run = agent.next_run();
        run.propose([call(OTHER, "create"), call("b", "create")]);
        if code == 0 {
            run.complete();
        }
        let output = running.wait().code(code);
        assert_harmless(&output.stderr);
    }
}

#[test]
fn a_run_s_beginning_is_enough_to_test_with() {
    // The helper itself: what it makes is what the client takes.
    let trial = Trial::new(|exchange, run| {
        if !exchange.is("GET", "/events") {
            return Some(exchange);
        }
        let mut stream = exchange.stream();
        stream.chunk(format!("{}{}", begun(run), completed(3, run)).as_bytes());
        stream.wait_for_close();
        None
    });
    trial.sortie(["run", "go"]).run().code(0);
}

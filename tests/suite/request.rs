//! What the server is asked for: each option in its place, and the limits known before anything is sent.

use crate::support::agent::{Agent, Route};
use crate::support::process::Sortie;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Runs it to its end, and hands out the bodies that created the session and sent the message.
fn bodies(agent: &Agent, command: Sortie) -> (Value, Value) {
    command.run().code(0);
    (agent.only_request(Route::CreateSession).json(), agent.only_request(Route::Send).json())
}

/// Runs `sortie run FLAGS… go`.
fn with(flags: &[&str]) -> (Value, Value) {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run"]).args(flags.iter().copied()).arg("go");
    bodies(&agent, command)
}

#[test]
fn a_plain_run_asks_for_nothing_special() {
    let (session, message) = with(&[]);
    assert_eq!(session["title"], "autopilot: default");
    assert!(session["cwd"].is_null(), "{session}");
    assert_eq!(message["message"], json!({ "role": "user", "content": "go" }));
    assert!(message["type"].is_null() || message["type"] == "message", "{message}");
    for option in ["run_id", "model", "context"] {
        assert!(message[option].is_null(), "{option} in {message}");
    }
    assert_ne!(message["sandbox"], true);
    for option in ["model", "auto_approve", "system_prompt", "max_turns"] {
        assert!(message["overrides"][option].is_null(), "{option} in {message}");
    }
}

#[test]
fn a_trivial_run_takes_three_requests() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    let requests = agent.all_requests();
    assert!(requests.len() <= 3, "{requests:#?}");
}

#[test]
fn every_request_is_authorised_and_every_post_has_a_key_of_its_own() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0);
    let mut keys = BTreeSet::new();
    for request in agent.all_requests() {
        assert_eq!(request.header("authorization"), Some("Bearer tok-5f0c9d1e"), "{request:?}");
        assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("sortie/")), "{request:?}");
        assert!(request.header("accept-encoding").is_none_or(|encoding| encoding == "identity"), "{request:?}");
        if request.method == "POST" {
            let key = request.header("idempotency-key").unwrap().to_owned();
            assert!(key.len() >= 16 && keys.insert(key), "{request:?}");
        }
    }
    assert_eq!(keys.len(), 2);
}

#[test]
fn the_stream_is_asked_for_from_the_start() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0);
    let request = agent.only_request(Route::Events);
    assert_eq!(request.header("last-event-id"), Some("0"));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
}

#[test]
fn the_profile_is_in_the_sessions_title() {
    assert_eq!(with(&["--profile", "nightly"]).0["title"], "autopilot: nightly");
}

#[test]
fn the_title_is_the_sessions() {
    assert_eq!(with(&["--title", "Disks, weekly"]).0["title"], "Disks, weekly");
}

#[test]
fn the_workdir_is_the_sessions() {
    assert_eq!(with(&["--workdir", "/srv/app"]).0["cwd"], "/srv/app");
    assert_eq!(with(&["-w", "/srv/app"]).0["cwd"], "/srv/app");
}

#[test]
fn the_model_is_sent() {
    let (_, message) = with(&["--model", "openai/gpt-9"]);
    let model = [&message["model"], &message["overrides"]["model"]];
    assert!(model.contains(&&json!("openai/gpt-9")), "{message}");
}

#[test]
fn the_sandbox_is_asked_for() {
    assert_eq!(with(&["--sandbox"]).1["sandbox"], true);
}

#[test]
fn the_system_prompt_comes_from_a_file() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "go", "--system-prompt-file"]);
    let path = command.file("system", "Answer in verse.");
    assert_eq!(bodies(&agent, command.arg(path)).1["overrides"]["system_prompt"], "Answer in verse.");
}

#[test]
fn the_turns_are_limited() {
    for turns in [1, 256] {
        assert_eq!(with(&["--max-turns", &turns.to_string()]).1["overrides"]["max_turns"], turns);
    }
}

#[test]
fn context_comes_from_the_command_line_and_from_files_with_its_priority() {
    let agent = Agent::answering("Done.");
    let command =
        agent.sortie(["run", "go", "--context", "weather=It rains = it pours.", "--context", "now:high=Noon"]);
    let file = command.file("log", "line one\nline two");
    let command = command.args(["--context-file", &format!("log={file}")]);
    let command = command.args(["--context-file", &format!("again:normal={file}"), "--context-file", "in=-"]);
    let (_, message) = bodies(&agent, command.with_stdin("from stdin"));
    let context: BTreeSet<(&str, &str, Option<&str>)> = message["context"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str();
            (text("name").unwrap(), text("content").unwrap(), text("priority"))
        })
        .collect();
    let expected = BTreeSet::from([
        ("weather", "It rains = it pours.", None),
        ("now", "Noon", Some("high")),
        ("log", "line one\nline two", None),
        ("again", "line one\nline two", Some("normal")),
        ("in", "from stdin", None),
    ]);
    assert_eq!(context, expected);
}

#[test]
fn an_old_session_gets_the_message_and_no_new_one_is_made() {
    let agent = Agent::answering("Done.");
    let session = agent.session();
    agent.sortie(["run", "go", "--session", &session.to_string()]).run().code(0).stdout("Done.\n");
    assert!(agent.requests(Route::CreateSession).is_empty());
    assert!(agent.only_request(Route::Send).path.contains(&session.to_string()));
}

#[test]
fn the_token_comes_from_a_file_first_and_an_empty_variable_is_none() {
    let agent = Agent::answering("Done.");
    let plain = || agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    let command = plain().env("SORTIE_TOKEN", "wrong");
    let path = command.file("token", "tok-5f0c9d1e\n");
    command.args(["--token-file", &path]).run().code(0);
    let command = plain().env("SORTIE_TOKEN", "");
    let path = command.file("token", "tok-5f0c9d1e\r\n");
    command.env("SORTIE_TOKEN_FILE", path).run().code(0);
    let command = plain().env("SORTIE_TOKEN", "tok-5f0c9d1e");
    let path = command.file("token", "wrong");
    command.env("SORTIE_TOKEN_FILE", path).run().code(0);
}

#[test]
fn a_flag_goes_before_the_environment() {
    let (agent, other) = (Agent::answering("Done."), Agent::out_of_bounds());
    other.sortie(["run", "--server", &agent.url(), "go"]).run().code(0);
}

#[test]
fn a_server_with_a_path_and_a_slash_at_its_end_is_fine() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "--server", &format!("{}/", agent.url()), "go"]).run().code(0);
}

/// The number without what makes it readable.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !matches!(letter, ' ' | ',' | '_' | '\'' | '\u{a0}' | '\u{202f}')).collect()
}

/// The command is refused, and its stderr names the flag and the limit.
#[track_caller]
fn is_refused(command: Sortie, flag: &str, limit: &str) {
    let output = command.run().code(1).stdout("").stderr_has(flag);
    assert!(plain(&output.stderr).contains(limit), "{limit} in {output:#?}");
}

#[test]
fn limits_are_known_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    let run = || agent.sortie(["run", "go"]);
    for turns in ["0", "257"] {
        let flag = format!("--max-turns={turns}");
        is_refused(run().arg(flag), "--max-turns", "256");
    }
    let many = (0..33).map(|number| format!("--context=c{number}=text"));
    is_refused(many.fold(run(), Sortie::arg), "--context", "32");
    is_refused(run().arg(format!("--context={}=text", "é".repeat(257))), "--context", "256");
    is_refused(run().arg(format!("--context=name={}", "é".repeat(50_001))), "--context", "50000");
    let command = run();
    let file = command.file("long", "é".repeat(50_001));
    is_refused(command.arg(format!("--context-file=name={file}")), "--context-file", "50000");
    let command = run();
    let file = command.file("long", "é".repeat(50_000));
    let eleven = (0..11).map(|number| format!("--context-file=c{number}={file}"));
    is_refused(eleven.fold(command, Sortie::arg), "--context", "500000");
    let command = run();
    let file = command.file("long", "é".repeat(32_769));
    is_refused(command.arg(format!("--system-prompt-file={file}")), "--system-prompt-file", "32768");
}

#[test]
fn a_number_that_is_out_of_every_range_is_told_the_same_limit() {
    let agent = Agent::out_of_bounds();
    for turns in ["-1", "99999999999999999999", "many"] {
        is_refused(agent.sortie(["run", "go", &format!("--max-turns={turns}")]), "--max-turns", "256");
    }
}

#[test]
fn what_is_just_within_the_limits_is_sent() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "go"]);
    let (context, system) = (command.file("c", "é".repeat(15_625)), command.file("s", "é".repeat(32_768)));
    let contexts = (0..32).map(|number| format!("--context-file={}{number:02}={context}", "é".repeat(254)));
    let command = contexts.fold(command, Sortie::arg);
    let (_, message) = bodies(&agent, command.args(["--max-turns", "256", "--system-prompt-file", &system]));
    assert_eq!(message["context"].as_array().map(Vec::len), Some(32));
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "go"]);
    let context = command.file("c", "é".repeat(50_000));
    bodies(&agent, command.arg(format!("--context-file=name={context}")));
}

#[test]
fn context_without_a_name_is_refused() {
    let agent = Agent::out_of_bounds();
    for context in ["just text", "=text", ":high=text"] {
        agent.sortie(["run", "go", "--context", context]).run().code(1).stderr_has("--context");
    }
}

#[test]
fn stdin_can_be_asked_for_only_once() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-", "--context-file", "log=-"]).with_stdin("text");
    command.run().code(1).stderr_has("stdin");
}

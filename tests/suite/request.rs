//! What the server is asked for: each option in its place, and the limits known before anything is sent.

use crate::support::agent::{Agent, Options, Route};
use crate::support::process::Sortie;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

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
fn a_plain_run_sends_no_optional_fields() {
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
fn every_request_has_the_token_and_every_post_a_key_of_its_own() {
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
fn the_stream_is_requested_from_its_start() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0);
    let request = agent.only_request(Route::Events);
    assert_eq!(request.header("last-event-id"), Some("0"));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
}

#[test]
fn the_profile_goes_into_the_sessions_title() {
    assert_eq!(with(&["--profile", "nightly"]).0["title"], "autopilot: nightly");
}

#[test]
fn the_title_is_sent_as_the_sessions() {
    assert_eq!(with(&["--title", "Disks, weekly"]).0["title"], "Disks, weekly");
}

#[test]
fn the_workdir_is_sent_and_explained_to_the_agent() {
    for flag in ["--workdir", "-w"] {
        let (session, message) = with(&[flag, "/srv/app", "--context", "now:high=Noon"]);
        assert_eq!(session["cwd"], "/srv/app");
        let [entry, other] = &message["context"].as_array().unwrap()[..] else { panic!("{message}") };
        assert_eq!((&entry["name"], &entry["priority"]), (&json!("working directory"), &json!("high")));
        let told = entry["content"].as_str().unwrap();
        for word in ["/srv/app", "may start in another directory", "absolute paths"] {
            assert!(told.contains(word), "{word} in {told}");
        }
        assert_eq!(other["name"], "now");
    }
}

#[test]
fn the_model_is_sent() {
    let (_, message) = with(&["--model", "openai/gpt-9"]);
    let model = [&message["model"], &message["overrides"]["model"]];
    assert!(model.contains(&&json!("openai/gpt-9")), "{message}");
}

#[test]
fn the_sandbox_is_requested() {
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
fn a_token_file_overrides_the_variable_and_an_empty_variable_is_unset() {
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
fn a_flag_overrides_the_environment() {
    let (agent, other) = (Agent::answering("Done."), Agent::out_of_bounds());
    other.sortie(["run", "--server", &agent.url(), "go"]).run().code(0);
}

#[test]
fn a_server_url_may_have_a_path_and_end_with_a_slash() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "--server", &format!("{}/", agent.url()), "go"]).run().code(0);
}

#[test]
fn the_headers_of_a_file_are_sent_with_every_call_and_never_shown() {
    let agent = Agent::answering("Done.");
    for by_flag in [true, false] {
        let command = agent.sortie(["run", "-vv", "go"]);
        let path = command.file("headers", "# for the gateway\nX-Gate-Key: hunter2\n\nCookie: route=node1\n");
        let command = if by_flag {
            command.env("SORTIE_HEADER_FILE", "no/such/file").args(["--header-file", &path])
        } else {
            command.env("SORTIE_HEADER_FILE", path)
        };
        command.run().code(0).stderr_lacks("hunter2").stderr_lacks("node1");
    }
    let requests = agent.all_requests();
    assert_eq!(requests.len(), 6);
    for request in requests {
        assert_eq!(request.header("x-gate-key"), Some("hunter2"), "{request:?}");
        assert_eq!(request.header("cookie"), Some("route=node1"), "{request:?}");
    }
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "go"]);
    let path = command.file("headers", "X-Fine: 1\nAuthorization: hunter2\n");
    let output = command.args(["--header-file", &path]).run();
    output.stderr_has("(--header-file)").stderr_has("line 2").stderr_lacks("hunter2").fails("usage");
}

#[test]
fn a_hint_repeats_the_server_flags() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--pause-on-approval", "go"]);
    let path = command.file("headers", "X-Gate-Key: hunter2\n");
    let running = command.args(["--header-file", &path]).spawn();
    agent.next_run().propose([crate::support::agent::call("a", "create")]);
    let hint = running.wait().code(10).record()["resume_hint"].as_str().unwrap().to_owned();
    assert!(hint.contains(&format!("--header-file {path}")), "{hint}");
}

#[test]
fn an_invalid_client_certificate_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "go", "--key", "no/such/key", "--cert"]);
    let path = command.file("cert.pem", "no certificate");
    command.arg(&path).run().stderr_has("cannot read --key no/such/key").fails("usage");
    let command = agent.sortie(["run", "-o", "json", "go", "--cert"]);
    let path = command.file("cert.pem", "no certificate");
    command.arg(&path).run().stderr_has("(--cert, --key) needs an https:// URL").fails("usage");
    let command = agent.sortie(["run", "-o", "json", "go", "--server", "https://127.0.0.1:1", "--cert"]);
    let path = command.file("cert.pem", "no certificate");
    command.arg(&path).run().stderr_has("there is no client certificate in PEM form (--cert)").fails("usage");
}

#[test]
fn a_retry_timeout_of_zero_tries_once() {
    let agent = Agent::replica();
    agent.down();
    let output = agent.sortie(["run", "-o", "json", "--retry-timeout", "0s", "go"]).run();
    assert!(!output.stderr.contains("trying again"), "{output:#?}");
    output.fails("connection");
    agent.wait_for_refusals(1);
}

#[test]
fn a_heartbeat_of_zero_prints_no_line() {
    let agent = Agent::with(Options { keepalive: Duration::from_millis(100), ..Options::default() });
    let running = agent.sortie(["run", "--heartbeat", "0s", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_silence(10);
    run.complete();
    running.wait().code(0).stderr_lacks("the run goes on");
}

// Images.

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

#[test]
fn images_are_sent_with_the_text_in_order() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "What is this?"]);
    let images = [
        ("a.png", PNG, "image/png"),
        ("b", &b"\xff\xd8\xff\xe0\0\x10JFIF"[..], "image/jpeg"),
        ("c.png", b"GIF89a\x01\0", "image/gif"),
        ("d", b"GIF87a\x01\0", "image/gif"),
        ("e", b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
    ];
    let mut parts = vec![json!({ "type": "text", "text": "What is this?" })];
    let mut flags = Vec::new();
    for (name, bytes, kind) in images {
        let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes));
        parts.push(json!({ "type": "image", "url": url }));
        flags.extend(["--image".to_owned(), command.file(name, bytes)]);
    }
    let command = command.args(flags.iter().map(String::as_str));
    let (_, message) = bodies(&agent, command);
    assert_eq!(message["message"], json!({ "role": "user", "content": parts }));
}

#[test]
fn an_invalid_or_unreadable_image_is_refused() {
    let agent = Agent::out_of_bounds();
    for content in [&b"<svg/>"[..], b"", b"RIFF\x10\0\0\0WAVE", b"\x89PNG"] {
        let command = agent.sortie(["run", "-o", "json", "go", "--image"]);
        let path = command.file("picture.png", content);
        command.arg(path).run().stderr_has("it is no png, jpeg, gif or webp image").fails("usage");
    }
    let command = agent.sortie(["run", "-o", "json", "go", "--image", "no/such/file"]);
    command.run().stderr_has("cannot read --image no/such/file").fails("usage");
}

#[test]
fn images_over_the_servers_limit_are_refused_with_both_sizes() {
    let agent = Agent::answering("Done.");
    let picture = |size: usize| [PNG, &vec![b'x'; size - PNG.len()]].concat();
    // 2 MB hold an image of a little less than 1.5 MB.
    let (fits, too_large) = (1_572_700, 1_572_900);
    let command = agent.sortie(["run", "go", "--image"]);
    let path = command.file("a.png", picture(fits));
    command.arg(path).run().code(0);
    let command = agent.sortie(["run", "-o", "json", "go", "--image"]);
    let path = command.file("a.png", picture(too_large));
    let output = command.arg(path).run().stderr_has("2097152").stderr_has("the request would have 20973");
    output.fails("usage");
    let command = agent.sortie(["run", "-o", "json", "go", "--image"]);
    let path = command.file("a.png", picture(2_097_153));
    command.arg(path).run().stderr_has("larger than the 2097152 bytes").fails("usage");
    agent.only_request(Route::Send);
}

// What the server does not keep.

#[test]
fn a_warning_tells_how_much_the_server_will_cut() {
    for (sizes, system, told) in [
        (&[20_000][..], 20_000, &[][..]),
        (&[20_001], 0, &["--context-file c0: it has 20001 characters", "keeps 20000"]),
        (&[20_000; 6], 0, &["120000 characters in all", "keeps 100000"]),
        (&[], 20_001, &["it has 20001 characters", "keeps 32000", "about 12000"]),
        (&[0], 0, &["--context-file c0: it is empty"]),
    ] {
        let agent = Agent::answering("Done.");
        let mut command = agent.sortie(["run", "-q", "go"]);
        for (number, size) in sizes.iter().enumerate() {
            let path = command.file(&format!("c{number}"), "é".repeat(*size));
            command = command.arg(format!("--context-file=c{number}={path}"));
        }
        if system > 0 {
            let path = command.file("system", "é".repeat(system));
            command = command.args(["--system-prompt-file", &path]);
        }
        let output = command.run().code(0);
        for text in told {
            assert!(output.stderr.contains(text), "{text} in {output:#?}");
        }
        assert_eq!(output.stderr.is_empty(), told.is_empty(), "{output:#?}");
    }
}

#[test]
fn the_context_entry_of_the_workdir_counts_towards_the_limits() {
    let agent = Agent::out_of_bounds();
    let many = (0..32).map(|number| format!("--context=c{number}=text"));
    let command = many.fold(agent.sortie(["run", "go", "-w", "/srv"]), Sortie::arg);
    command.run().code(1).stderr_has("33 entries with that of --workdir; the limit is 32");
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
fn limits_are_checked_before_anything_is_sent() {
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
fn an_invalid_turn_limit_names_the_valid_range() {
    let agent = Agent::out_of_bounds();
    for turns in ["-1", "99999999999999999999", "many"] {
        is_refused(agent.sortie(["run", "go", &format!("--max-turns={turns}")]), "--max-turns", "256");
    }
}

#[test]
fn input_just_within_the_limits_is_sent() {
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
fn stdin_can_be_used_only_once() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-", "--context-file", "log=-"]).with_stdin("text");
    command.run().code(1).stderr_has("stdin");
}

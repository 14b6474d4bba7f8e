//! The token is shown to nobody, wherever it comes from and whatever happens.

use crate::support::agent::{Agent, Fault, Policy, Route, TOKEN, call};
use crate::support::http::Ending;
use crate::support::process::{Output, Sortie};
use crate::trial::Trial;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

/// All that may be logged, and more.
const LOUD: [(&str, &str); 5] =
    [("-q", "trace"), ("-v", ""), ("-vv", ""), ("-vvv", "trace"), ("-vv", "ureq=trace,ureq_proto=trace")];

/// The token is nowhere in what the command left behind, in clear or in one of the ways in which things are dumped.
#[track_caller]
fn assert_untold(output: &Output, token: &str) {
    let hex: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    let spaced: Vec<String> = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    let listed: Vec<String> = token.bytes().map(|byte| byte.to_string()).collect();
    for form in [token.to_owned(), hex, spaced.join(" "), listed.join(", ")] {
        for (place, said) in [("stderr", &output.stderr), ("stdout", &output.stdout)] {
            assert!(!said.contains(&form), "{form} on {place} of {output:#?}");
        }
        for entry in fs::read_dir(output.home()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.file_name().is_some_and(|name| name != "token") {
                let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                assert!(!content.contains(&form), "{form} in {}", path.display());
            }
        }
    }
}

#[test]
fn the_token_is_in_no_log_record_or_recording() {
    for (flag, log) in LOUD {
        let agent = Agent::start();
        let command =
            agent.sortie(["run", flag, "-o", "stream-json", "--result-file", "record", "--record", "r.sse", "go"]);
        let running = command.env("SORTIE_LOG", log).spawn();
        let run = agent.next_run();
        run.propose([call("a", "create")]);
        run.text("Done.");
        run.complete();
        assert_untold(&running.wait().code(0), TOKEN);
    }
}

#[test]
fn the_token_is_in_no_error() {
    for (flag, log) in LOUD {
        for status in [302, 400, 401, 403, 404, 409, 500] {
            let agent = Agent::start();
            agent.every(Route::CreateSession).fail(status, "some_reason");
            let command = agent.sortie(["run", flag, "-o", "json", "--retry-timeout", "300ms", "go"]);
            assert_untold(&command.env("SORTIE_LOG", log).run().code(1), TOKEN);
        }
        let agent = Agent::answering("Done.");
        agent.every(Route::Send).lose_request(Ending::Reset);
        let command = agent.sortie(["run", flag, "-o", "json", "--retry-timeout", "300ms", "go"]);
        assert_untold(&command.env("SORTIE_LOG", log).run().code(1), TOKEN);
        let agent = Agent::answering("Done.");
        agent.spoil_streams(Fault::none().rewrite(|_| b"data: {]\n\n".to_vec()));
        let command = agent.sortie(["run", flag, "-o", "json", "go"]);
        assert_untold(&command.env("SORTIE_LOG", log).run().code(1), TOKEN);
    }
}

#[test]
fn a_server_that_says_the_token_back_is_not_quoted() {
    for status in [200, 302, 400, 401, 500] {
        for key in ["error", "detail"] {
            let trial = Trial::new(move |exchange, _| {
                let token = exchange.request.header("authorization").unwrap().to_owned();
                let body = format!(r#"{{"{key}":"the header was: authorization: {token}"}}"#);
                exchange.respond(status, &[("location", &token)], body.as_bytes());
                None
            });
            let command = trial.sortie(["run", "-o", "json", "--retry-timeout", "300ms", "go"]);
            let output = command.env("SORTIE_TOKEN", "tok-said-back").run().code(1);
            assert_untold(&output, "tok-said-back");
        }
    }
    // In the place of a type, an encoding, an object.
    for (path_end, header, body) in [
        ("/sessions", "content-encoding", "{}"),
        ("/sessions", "x-nothing", r#"{"id":"tok-said-back"}"#),
        ("/sessions", "x-nothing", r#""tok-said-back""#),
        ("/messages", "x-nothing", r#"{"run_id":["tok-said-back"]}"#),
        ("/events", "content-type", ""),
        ("/events", "content-encoding", ""),
        ("/config", "x-nothing", r#"{"auto_approve_mode":{"tok-said-back":1}}"#),
        ("/health", "x-nothing", r#"{"status":[]} tok-said-back"#),
        ("/health", "x-nothing", r#"{"tok-said-back":1}"#),
    ] {
        let trial = Trial::new(move |exchange, _| {
            if !exchange.request.path.ends_with(path_end) {
                return Some(exchange);
            }
            let mut headers = vec![(header, "tok-said-back")];
            if path_end == "/events" && header != "content-type" {
                headers.push(("content-type", "text/event-stream"));
            }
            exchange.respond(200, &headers, body.as_bytes());
            None
        });
        let is_pinged = ["/config", "/health"].contains(&path_end);
        let command = trial.sortie(
            if is_pinged { &["ping"][..] } else { &["run", "-o", "json", "--retry-timeout", "300ms", "go"] }
                .to_vec(),
        );
        let output = command.env("SORTIE_TOKEN", "tok-said-back").run().code(1);
        assert!(output.stderr.contains("(protocol)"), "{path_end} {header} {body}: {}", output.stderr);
        assert_untold(&output, "tok-said-back");
    }
}

#[test]
fn the_token_is_not_among_the_arguments_of_any_process() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    let token = command.file("token", TOKEN);
    let pid_file = command.path("pid");
    let running = command.args(["--token-file", &token]).in_shell(r#"echo $$ >pid; exec "$@""#).spawn();
    let run = agent.next_run();
    let pid = fs::read_to_string(pid_file).unwrap();
    for file in ["cmdline", "comm", "environ"] {
        let content = fs::read(format!("/proc/{}/{file}", pid.trim())).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains(TOKEN), "{file}");
    }
    run.complete();
    running.wait().code(0);
    // There is no flag for it, under any name that comes to mind.
    for flag in ["--token", "--auth", "--bearer", "--header", "-H"] {
        Sortie::new(["run", flag, "tok-on-argv", "go"]).run().code(1).stdout("");
    }
}

#[test]
fn the_token_is_in_no_help() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["run", "--help"],
        &["run", "-h"],
        &["ping", "--help"],
        &["run", "--bogus"],
        &[],
    ] {
        let command = Sortie::new(arguments.iter().copied()).env("SORTIE_TOKEN", TOKEN);
        let command = command.env("SORTIE_TOKEN_FILE", "/secret/place").env("SORTIE_SERVER", "http://u:hunter2@h");
        let output = command.run();
        assert_untold(&output, TOKEN);
        assert_untold(&output, "hunter2");
    }
}

#[test]
fn the_approving_program_gets_no_token() {
    let program =
        r#"env >environment; cat /proc/self/environ >environ; cat /proc/$$/cmdline >cmdline; cat >question"#;
    for source in ["SORTIE_TOKEN", "SORTIE_TOKEN_FILE", "--token-file"] {
        let agent = Agent::with_policy(Policy::None);
        let command = agent.sortie(["run", "--approve-with", program, "go"]).without_env("SORTIE_TOKEN");
        let file = command.file("token", TOKEN);
        let command = match source {
            "SORTIE_TOKEN" => command.env(source, TOKEN),
            "SORTIE_TOKEN_FILE" => command.env(source, file),
            flag => command.args([flag, &file]),
        };
        let running = command.spawn();
        let run = agent.next_run();
        run.propose([call("a", "create")]);
        run.complete();
        let output = running.wait().code(0);
        assert!(fs::read_to_string(output.home().join("question")).unwrap().contains("tool_call"));
        assert!(fs::read_to_string(output.home().join("environment")).unwrap().contains("HOME="));
        assert_untold(&output, TOKEN);
    }
}

#[test]
fn a_token_file_is_taken_with_or_without_its_newline() {
    let agent = Agent::answering("Done.");
    for content in [TOKEN.to_owned(), format!("{TOKEN}\n"), format!("{TOKEN}\r\n")] {
        let command = agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
        let file = command.file("token", content);
        command.args(["--token-file", &file]).run().code(0);
    }
}

#[test]
fn what_is_odd_in_a_token_is_refused_without_being_shown() {
    let long = "s3cret".repeat(4096);
    let odd: [&[u8]; 16] = [
        b"",
        b"\n",
        b"\r\n",
        b"s3cret\n\n",
        b"\ns3cret",
        b"s3cret\r",
        b" s3cret",
        b"s3cret ",
        b"s3 cret",
        b"s3\tcret",
        b"s3cret\0",
        b"s3cret\nX-Injected: s3cret",
        b"s3cret\x7f",
        b"s3cret\xff",
        "s3cret\u{e9}\u{202e}".as_bytes(),
        long.as_bytes(),
    ];
    let agent = Agent::out_of_bounds();
    for token in odd {
        for flag in ["-q", "-vv"] {
            let command = agent.sortie(["run", flag, "-o", "json", "go"]).without_env("SORTIE_TOKEN");
            let file = command.file("token", token);
            let output = command.args(["--token-file", &file]).run().stderr_has("--token-file");
            assert_untold(&output, "cret");
            output.fails("usage");
            let command = agent.sortie(["run", flag, "-o", "json", "go"]).without_env("SORTIE_TOKEN");
            let file = command.file("token", token);
            let output = command.env("SORTIE_TOKEN_FILE", file).run().stderr_has("SORTIE_TOKEN_FILE");
            assert_untold(&output, "cret");
            output.fails("usage");
            if token.is_empty() || token.contains(&0) {
                continue;
            }
            let variable = OsStr::from_bytes(token);
            let output = agent.sortie(["run", flag, "-o", "json", "go"]).env("SORTIE_TOKEN", variable).run();
            // A newline at the end is trimmed there too.
            assert_untold(&output, "cret");
            output.stderr_has("SORTIE_TOKEN").fails("usage");
        }
    }
}

#[test]
fn a_token_file_that_cannot_be_read_is_a_usage_error() {
    let agent = Agent::out_of_bounds();
    let plain = || agent.sortie(["run", "-o", "json", "go"]).without_env("SORTIE_TOKEN");
    for path in ["no/such/file", ".", "/", "token/below", "/proc/self/mem", "/dev/zero", "/dev/null"] {
        let command = plain();
        command.file("token", TOKEN);
        let output = command.args(["--token-file", path]).run().stderr_has("token");
        assert_untold(&output, TOKEN);
        output.fails("usage");
    }
    plain().args(["--token-file", ""]).run().code(1).stderr_has("--token-file");
    // Root reads all the same.
    let command = plain();
    let file = command.file("token", TOKEN);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_err() {
        command.args(["--token-file", &file]).run().stderr_has(&file).fails("usage");
    }
}

#[test]
fn a_token_comes_from_a_pipe_and_from_a_systemd_credential() {
    let agent = Agent::answering("Done.");
    let plain = || agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    // sortie … --token-file <(secret-tool lookup …)
    let command = plain();
    let fifo = command.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let writer = thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, format!("{TOKEN}\n"))
    });
    command.args(["--token-file", fifo.to_str().unwrap()]).run().code(0);
    writer.join().unwrap().unwrap();
    // LoadCredential=token:… in a unit.
    let command = plain();
    let credentials = command.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("token"), TOKEN).unwrap();
    fs::set_permissions(credentials.join("token"), fs::Permissions::from_mode(0o400)).unwrap();
    let command = command.env("CREDENTIALS_DIRECTORY", &credentials);
    command.in_shell(r#"exec "$@" --token-file "$CREDENTIALS_DIRECTORY/token""#).run().code(0);
    // Where there are no credentials, the path is another, and the error names it.
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    let command = command.in_shell(r#"exec "$@" --token-file "$CREDENTIALS_DIRECTORY/token""#);
    if !Path::new("/token").exists() {
        command.run().code(1).stderr_has("/token");
    }
}

#[test]
fn a_pipe_that_nobody_writes_the_token_to_does_not_hold_us_for_ever() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).without_env("SORTIE_TOKEN");
    let fifo = command.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let output = command.args(["--token-file", fifo.to_str().unwrap()]).run();
    output.within(std::time::Duration::from_secs(8)).fails("timeout");
}

#[test]
fn an_empty_token_variable_is_none() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "go"]);
    let file = command.file("token", TOKEN);
    command.env("SORTIE_TOKEN", "").env("SORTIE_TOKEN_FILE", file).run().code(0);
    let agent = Agent::start();
    agent.sortie(["run", "-o", "json", "go"]).env("SORTIE_TOKEN", "").run().fails("auth");
    assert_eq!(agent.only_request(Route::CreateSession).header("authorization"), None);
}

#[test]
fn a_password_in_a_url_is_refused_without_being_shown() {
    let agent = Agent::out_of_bounds();
    for url in [
        "http://user:hunter2@127.0.0.1:1",
        "http://hunter2@127.0.0.1:1",
        "https://:hunter2@agent.example",
        "http://user:hunter2@",
        "http://user:hunter2@[::1",
        "user:hunter2@127.0.0.1",
        "http://user:hunter2@127.0.0.1:port/\u{1b}",
        "http://a@user:hunter2@127.0.0.1",
    ] {
        for flag in ["-q", "-vv"] {
            let output = agent.sortie(["run", flag, "-o", "json", "--server", url, "go"]).run();
            assert_untold(&output, "hunter2");
            output.stderr_has("--server").fails("usage");
            let output = agent.sortie(["run", flag, "-o", "json", "go"]).env("SORTIE_SERVER", url).run();
            assert_untold(&output, "hunter2");
            output.stderr_has("SORTIE_SERVER").fails("usage");
        }
    }
    // Nor is one that stands elsewhere in it.
    for url in ["http://127.0.0.1:1/?token=hunter2", "http://127.0.0.1:1/#hunter2"] {
        let output = agent.sortie(["run", "-o", "json", "--server", url, "go"]).run();
        assert_untold(&output, "hunter2");
        output.fails("usage");
    }
}

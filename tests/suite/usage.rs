//! The command line: no exit code but ours, and errors that name what is wrong.

use crate::support::agent::{Agent, Route, TOKEN};
use crate::support::process::Sortie;
use std::process::Command;
use uuid::Uuid;

const COMMANDS: [&str; 8] = ["run", "resume", "attach", "cancel", "pending", "list", "ping", "help"];

#[test]
fn help_and_version_exit_0_and_go_to_stdout() {
    for arguments in [["--help"], ["-h"]] {
        let output = Sortie::new(arguments).run().code(0);
        for command in COMMANDS {
            assert!(output.stdout.contains(command), "{command} in {output:#?}");
        }
        assert_eq!(output.stderr, "");
    }
    for arguments in [["--version"], ["-V"]] {
        let output = Sortie::new(arguments).run().code(0);
        assert_eq!(output.stdout, format!("sortie {}\n", env!("SORTIE_VERSION")));
    }
    for command in COMMANDS {
        let output = Sortie::new([command, "--help"]).run().code(0);
        assert!(output.stdout.contains("--server"), "{output:#?}");
        assert!(Sortie::new([command, "-h"]).run().code(0).stdout.contains("--server"));
    }
}

#[test]
fn the_help_explains_the_exit_codes() {
    let output = Sortie::new(["--help"]).run().code(0);
    for code in ["\n  0  ", "\n  1  ", "\n  10  "] {
        assert!(output.stdout.contains(code), "{}", output.stdout);
    }
    for command in COMMANDS {
        let output = Sortie::new([command, "-h"]).run().code(0);
        assert!(output.stdout.contains("Exit codes: 0 "), "{}", output.stdout);
    }
}

#[test]
fn usage_errors_exit_1_and_name_the_mistake() {
    let session = Uuid::new_v4().to_string();
    let session = session.as_str();
    for (arguments, named) in [
        (&[][..], "sage"),
        (&["fly"], "fly"),
        (&["--bogus"], "--bogus"),
        (&["run", "--bogus", "go"], "--bogus"),
        (&["run", "-o", "xml", "go"], "xml"),
        (&["run", "--timeout", "soon", "go"], "--timeout"),
        (&["run", "--timeout=-1s", "go"], "--timeout"),
        (&["run", "--timeout", "", "go"], "--timeout"),
        (&["run", "--retry-timeout", "5 parsecs", "go"], "--retry-timeout"),
        (&["run", "--on-approval", "maybe", "go"], "--on-approval"),
        (&["run", "--server", "not a url", "go"], "not a url"),
        (&["run", "--server", "ftp://example.org", "go"], "ftp://example.org"),
        (&["run", "--server", "http://user:hunter2@127.0.0.1:1", "go"], "server"),
        (&["run", "--session", "not-a-uuid", "go"], "not-a-uuid"),
        (&["run", "--token-file", "no/such/file", "go"], "no/such/file"),
        (&["run", "--cacert", "no/such/file", "go"], "no/such/file"),
        (&["run", "--token", "secret", "go"], "--token"),
        (&["resume"], "SESSION"),
        (&["resume", "not-a-uuid", "--approve-all"], "not-a-uuid"),
        (&["attach"], "SESSION"),
        (&["attach", "../../v1/config"], "../../v1/config"),
        (&["cancel"], "SESSION"),
        (&["pending", "not-a-uuid"], "not-a-uuid"),
        (&["ping", "--wait", "long"], "--wait"),
        (&["ping", "too", "many"], "too"),
        (&["attach", session, "--approve-all"], "--approve-all"),
    ] {
        let output = Sortie::new(arguments.iter().copied()).run().code(1).stdout("");
        let output = output.stderr_has(named).stderr_lacks("hunter2").stderr_lacks("panicked");
        assert!(!output.stderr.contains('\u{1b}'), "{arguments:?}: {:?}", output.stderr);
    }
}

#[test]
fn a_usage_error_is_one_line_with_the_closest_valid_word() {
    let session = Uuid::new_v4().to_string();
    let session = session.as_str();
    for (arguments, line) in [
        (&["resum", "x"][..], "there is no command resum; did you mean resume?"),
        (&["lits"], "there is no command lits; did you mean list?"),
        (&["fly"], "there is no command fly; see sortie --help"),
        (&["--sever", "x", "ping"], "there is no option --sever here; did you mean --server?"),
        (&["run", "--tmeout", "3s", "x"], "there is no option --tmeout here; did you mean --timeout?"),
        (&["ping", "--session", "x"], "there is no option --session here; see sortie ping --help"),
        (&["run", "x", "y"], "y: one argument too many; see sortie run --help"),
        (&["run", "--timeout"], "--timeout needs a value"),
        (&["run", "--timeout", "5", "x"], "--timeout 5: it has no unit; did you mean 5s, or 5m?"),
        (&["run", "--timeout", "0s", "x"], "--timeout 0s: it must be greater than zero"),
        (
            &["run", "--timeout", "soon", "x"],
            "--timeout soon: it must be a number with its unit: 500ms, 90s, 10m, 1h 30m",
        ),
        (
            &["run", "-o", "jsno", "x"],
            "--output jsno: it must be one of text, final, json, stream-json; did you mean json?",
        ),
        (
            &["attach", session, "--on-approval", "acept"],
            "--on-approval acept: it must be one of accept, pause, reject; did you mean accept?",
        ),
        (
            &["run", "--pause-on-approval", "--on-approval", "accept", "x"],
            "--pause-on-approval cannot be used with --on-approval; see sortie run --help",
        ),
        (&["run", "--detach=yes", "x"], "--detach takes no value; see sortie run --help"),
        (&["cancel"], "<SESSION> is missing; see sortie cancel --help"),
        (
            &["run", "--rehearse", "complted", "x"],
            "--rehearse complted: it is none of completed, failed, paused, stalled, lost, and no such file exists",
        ),
        (&["run", "--max-turns", "0", "x"], "--max-turns 0: it must be a number from 1 to 256"),
        (&["run", "--\u{1b}[2J", "x"], "there is no option --\\u{1b}[2J here; see sortie run --help"),
        (
            &["run", "- tidy up"],
            "there is no option - here (a prompt that begins with - must follow --); see sortie run --help",
        ),
        (
            &["run", "-1 is odd"],
            "there is no option -1 here (a prompt that begins with - must follow --); see sortie run --help",
        ),
        (
            &["run", "--tidy up"],
            "there is no option --tidy up here (a prompt that begins with - must follow --); see sortie run --help",
        ),
        (&["run", "-q", "x", "-v"], "--quiet cannot be used with --verbose; see sortie run --help"),
        (&["-q", "run", "x", "-v"], "--quiet cannot be used with --verbose"),
        (&["run", "--max-tokens", "0", "x"], "--max-tokens 0: it must be a number greater than zero"),
        (&["run", "--max-tool-calls", "-1", "x"], "--max-tool-calls -1: it must be a number greater than zero"),
        (&["run", "-w", ".", "x"], "--workdir .: it must be an absolute path on the server"),
        (&["run", "-w", "", "x"], "--workdir : it must be an absolute path on the server"),
        (
            &["run", "--session", session, "--system-prompt-file", "s", "x"],
            "--system-prompt-file cannot be used with --session: a session keeps the system prompt of its first run",
        ),
        (
            &["run", "--context", "log:urgent=x", "x"],
            "--context log:urgent: the priority after the colon must be high or normal",
        ),
        (
            &["run", "--context-file", "log:=x", "x"],
            "--context-file log:: the priority after the colon must be high or normal",
        ),
        (&["attach", "--run", "7", session], "--run \"7\" is not a UUID: invalid length: found 1"),
        (&["ping", "--key", "k"], "--key is the key of a client certificate: --cert is missing"),
        (
            &["list", "--state", "runing"],
            "--state runing: it must be one of running, idle, failed, waiting; did you mean running?",
        ),
    ] {
        let output = Sortie::new(arguments.iter().copied()).run().code(1).stdout("");
        assert_eq!(output.stderr, format!("sortie: failed (usage): {line}\n"), "{arguments:?}");
    }
}

#[test]
fn options_come_before_or_after_the_commands_name() {
    let agent = Agent::answering("Done.");
    let url = agent.url();
    let flags = ["--server", &url, "--retry-timeout", "5s", "-q"];
    for (before, after) in [(&flags[..], &[][..]), (&flags[..2], &flags[2..]), (&[], &flags[..])] {
        let words = before.iter().chain(&["run", "go"]).chain(after).copied();
        let output = Sortie::new(words).env("SORTIE_TOKEN", TOKEN).run().code(0).stdout("Done.\n");
        assert_eq!(output.stderr, "");
    }
}

#[test]
fn the_last_of_a_repeated_option_counts() {
    let agent = Agent::answering("Done.");
    let nowhere = "http://127.0.0.1:1";
    let url = agent.url();
    let words =
        ["--server", nowhere, "run", "--server", nowhere, "--server", &url, "--timeout", "1ms", "-o", "json"];
    let more =
        ["--timeout", "20s", "-o", "text", "--title", "one", "--title", "two", "--sandbox", "--sandbox", "go"];
    let command = Sortie::new(words).args(more).env("SORTIE_TOKEN", TOKEN);
    command.run().code(0).stdout("Done.\n");
    assert_eq!(agent.only_request(Route::CreateSession).json()["title"], "two");
}

#[test]
fn an_error_in_a_variable_names_the_variable() {
    for (variable, value, named) in [
        ("SORTIE_SERVER", "ftp://agent.example", "SORTIE_SERVER: the URL"),
        ("SORTIE_CACERT", "no/such/file", "no/such/file (SORTIE_CACERT)"),
        ("SORTIE_HEADER_FILE", "no/such/file", "no/such/file (SORTIE_HEADER_FILE)"),
        ("SORTIE_TOKEN_FILE", "no/such/file", "no/such/file (SORTIE_TOKEN_FILE)"),
        ("SORTIE_TOKEN", "two words", "SORTIE_TOKEN"),
        ("SORTIE_REHEARSE", "complted", "SORTIE_REHEARSE complted: it is none of"),
    ] {
        let output = Sortie::new(["run", "-o", "json", "go"]).env(variable, value).run();
        output.stderr_has(named).stderr_lacks("--server").stderr_lacks("--rehearse").fails("usage");
    }
    let wrong_flag = ["run", "--server", "ftp://flag.example", "go"];
    let output = Sortie::new(wrong_flag).env("SORTIE_SERVER", "http://127.0.0.1:1").run().code(1);
    output.stderr_has("--server: the URL").stderr_lacks("SORTIE_SERVER");
}

#[test]
fn the_servers_variable_may_end_with_a_newline() {
    let agent = Agent::answering("Done.");
    for end in ["\n", "\r\n"] {
        agent.sortie(["run", "go"]).env("SORTIE_SERVER", agent.url() + end).run().code(0);
    }
}

#[test]
fn without_a_command_the_help_goes_to_stderr() {
    for command in
        [Sortie::new([]), Sortie::new(["-q"]), Sortie::new([]).env("SORTIE_SERVER", "http://127.0.0.1:1")]
    {
        command.run().code(1).stdout("").stderr_has("Usage: sortie").stderr_has("ping");
    }
}

#[test]
fn help_shows_the_help_of_a_command() {
    assert_eq!(Sortie::new(["help"]).run().code(0).stdout, Sortie::new(["--help"]).run().stdout);
    for command in COMMANDS {
        let help = Sortie::new(["help", command]).run().code(0);
        assert_eq!(help.stdout, Sortie::new([command, "--help"]).run().code(0).stdout, "{command}");
    }
    Sortie::new(["help", "rnu"]).run().code(1).stdout("").stderr_has("it must be one of run, ");
}

#[test]
fn the_short_help_of_run_fits_a_screen() {
    let help = Sortie::new(["run", "-h"]).run().code(0).stdout;
    assert!(help.lines().count() <= 40, "{}\n{help}", help.lines().count());
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    let groups: Vec<_> = help.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
    assert_eq!(groups, ["Prompt:", "Approval:", "Ends:", "Output:", "Server:"]);
    let full = Sortie::new(["run", "--help"]).run().code(0).stdout;
    for flag in ["--image", "--header-file", "--max-tool-calls", "--enable-subagents", "SIGUSR1"] {
        assert!(full.contains(flag) && !help.contains(flag), "{flag}");
    }
}

#[test]
fn an_argument_that_is_not_utf_8_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    Sortie::new(["run"])
        .arg(OsStr::from_bytes(b"\xff\xfe"))
        .run()
        .code(1)
        .stdout("")
        .stderr_has("an argument is not UTF-8 text")
        .stderr_lacks("panicked");
    for variable in ["SORTIE_SERVER", "SORTIE_REHEARSE"] {
        let output = Sortie::new(["run", "go"]).env(variable, OsStr::from_bytes(b"\xff\xfe")).run();
        output.code(1).stderr_has(&format!("{variable} is not UTF-8 text"));
    }
}

#[test]
fn a_token_goes_over_plain_http_to_another_host_only_if_allowed() {
    // An address of documentation: nothing is sent there.
    for server in ["http://192.0.2.1:4096", "http://agent.example:4096"] {
        let output = Sortie::new(["run", "--server", server, "--header-file", "no/such/file", "go"]).run();
        output.code(1).stderr_has("--allow-http").stderr_has("header file");
        let output = Sortie::new(["run", "--server", server, "go"]).env("SORTIE_TOKEN", "secret-token").run();
        output.code(1).stdout("").stderr_has("--allow-http").stderr_lacks("secret-token");
    }
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0);
    let by_name = agent.url().replace("127.0.0.1", "localhost");
    agent.sortie(["run", "--server", &by_name, "go"]).run().code(0);
}

#[test]
fn a_token_with_a_line_break_is_refused_without_being_shown() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    let path = command.file("token", "half-a-token\nother-half\n");
    let output = command.args(["--token-file", &path]).run().code(1).stdout("");
    output.stderr_has("token").stderr_lacks("half-a-token").stderr_lacks("other-half");
    let command = agent.sortie(["run", "go"]).without_env("SORTIE_TOKEN");
    let path = command.file("token", "\n");
    command.args(["--token-file", &path]).run().code(1).stderr_has("token");
}

#[test]
fn a_record_is_written_for_usage_errors_once_the_command_line_parses() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "-o", "json", "--token-file", "no/such/file", "go"]);
    command.run().stderr_has("no/such/file").fails("usage");
}

#[test]
fn a_script_can_distinguish_the_outcomes() {
    let script = r#"
        for outcome in completed failed paused; do
            "$1" run --rehearse "$outcome" "Check the disks" >/dev/null 2>&1
            case $? in
                0) echo completed ;;
                1) echo failed ;;
                10) echo paused ;;
                *) echo unheard of ;;
            esac
        done
        "$1" run --bogus >/dev/null 2>&1
        case $? in
            1) echo usage ;;
            *) echo unheard of ;;
        esac
        if "$1" run --rehearse completed "Check the disks" >/dev/null 2>&1; then echo yes; fi
        set -e
        "$1" --version >/dev/null
    "#;
    for shell in ["sh", "bash", "dash"] {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(shell);
        command.args(["-c", script, shell, env!("CARGO_BIN_EXE_sortie")]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home.path());
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{shell}: {output:?}");
                let stdout = String::from_utf8(output.stdout).unwrap();
                assert_eq!(stdout, "completed\nfailed\npaused\nusage\nyes\n", "{shell}");
            }
            // Not every machine has all of them.
            Err(error) => {
                assert!(shell != "sh" && error.kind() == std::io::ErrorKind::NotFound, "{shell}: {error}");
            }
        }
    }
}

#[test]
fn the_record_and_the_recording_need_two_files() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "--record", "x", "--result-file", "x", "go"]);
    command.run().code(1).stderr_has("--record x: this is also the file of --result-file");
}

#[test]
fn deny_tool_alone_is_refused_because_other_calls_have_no_rule() {
    let agent = Agent::out_of_bounds();
    let output = agent.sortie(["run", "-o", "json", "--deny-tool", "remove", "go"]).run();
    let text = "it takes the place of the server's policy: say what becomes of the other calls";
    output.stderr_has("--on-approval").stderr_has(text).fails("usage");
    // Where calls wait unless somebody says otherwise, nothing opens.
    let session = Uuid::new_v4().to_string();
    for command in ["resume", "attach"] {
        let agent = Agent::start();
        let output = agent.sortie([command, "-o", "json", "--deny-tool", "remove", &session]).run();
        output.fails("not_found");
    }
}

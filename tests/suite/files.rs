//! The files of a command: none is lost that it reads, or that is there for another purpose.

use crate::support::agent::{Agent, Route};
use crate::support::process::Sortie;
use std::fs;
use std::os::unix::fs::symlink;

const RECORDED: &str = include_str!("../fixtures/completed-text.sse");

/// Refused with a line that has these words, before anything is sent; the file is as it was.
#[track_caller]
fn is_refused(command: Sortie, file: &str, words: &[&str]) {
    let path = command.path(file);
    let before = fs::read(&path).unwrap();
    let mut output = command.run().code(1).stderr_has("(usage)");
    for word in words {
        output = output.stderr_has(word);
    }
    assert_eq!(fs::read(path).unwrap(), before, "the file is intact");
}

#[test]
fn a_recording_is_not_written_over_the_one_that_is_rehearsed() {
    for name in ["a.sse", "./a.sse", "hard.sse", "soft.sse"] {
        let command = Sortie::new(["run", "--rehearse", "a.sse", "--record", name, "go"]);
        command.file("a.sse", RECORDED);
        fs::hard_link(command.path("a.sse"), command.path("hard.sse")).unwrap();
        symlink("a.sse", command.path("soft.sse")).unwrap();
        is_refused(command, "a.sse", &["--record", "--rehearse"]);
    }
}

#[test]
fn no_input_file_is_overwritten() {
    let agent = Agent::out_of_bounds();
    for written in ["--record", "--result-file"] {
        for read in [
            "--prompt-file",
            "--system-prompt-file",
            "--context-file",
            "--image",
            "--token-file",
            "--header-file",
            "--cacert",
        ] {
            let value = if read == "--context-file" { "name=file" } else { "file" };
            let mut command = agent.sortie(["run", written, "file", read, value]);
            if read != "--prompt-file" {
                command = command.arg("go");
            }
            command.file("file", "precious");
            is_refused(command, "file", &[written, read]);
        }
        for (cert, key, read) in [("file", "other", "--cert"), ("other", "file", "--key")] {
            let command = agent.sortie(["run", written, "file", "--cert", cert, "--key", key, "go"]);
            command.file("file", "precious");
            is_refused(command, "file", &[written, read]);
        }
        let command = agent.sortie(["run", written, "file", "go"]).env("SORTIE_TOKEN_FILE", "file");
        command.file("file", "precious");
        is_refused(command, "file", &[written, "SORTIE_TOKEN_FILE"]);
        let command = agent.sortie(["run", written, "file", "-"]).in_shell(r#"exec "$@" <file"#);
        command.file("file", "precious");
        is_refused(command, "file", &[written, "the prompt -"]);
    }
}

#[test]
fn the_file_of_stdout_or_stderr_is_not_overwritten() {
    let agent = Agent::out_of_bounds();
    for written in ["--record", "--result-file"] {
        for path in ["file", "/dev/stdout"] {
            let command = agent.sortie(["run", written, path, "go"]).in_shell(r#"exec "$@" >>file"#);
            command.file("file", "precious");
            is_refused(command, "file", &[written, "stdout"]);
        }
        let command = agent.sortie(["run", written, "file", "go"]).in_shell(r#""$@" 2>>file || exit $?"#);
        command.file("file", "");
        let output = command.run().code(1);
        let said = fs::read_to_string(output.home().join("file")).unwrap();
        assert!(said.contains("(usage)") && said.contains("stderr"), "{said}");
    }
}

#[test]
fn one_file_cannot_have_two_purposes_even_if_it_does_not_exist_yet() {
    let agent = Agent::out_of_bounds();
    for (record, result) in [("new", "new"), ("new", "./new"), ("sub/../new", "new"), ("soft", "new")] {
        let command = agent.sortie(["run", "--record", record, "--result-file", result, "go"]);
        fs::create_dir(command.path("sub")).unwrap();
        symlink("new", command.path("soft")).unwrap();
        let output = command.run().code(1).stderr_has("(usage)").stderr_has("--record").stderr_has("--result-file");
        assert!(!output.home().join("new").exists());
    }
}

#[test]
fn a_recording_is_opened_with_the_first_event() {
    // Refused before there is one: an older recording is kept, and no empty file is left.
    for older in [None, Some(RECORDED)] {
        let agent = Agent::start();
        agent.next(Route::Send).answer(422, &[("content-type", "text/plain")], "no");
        let command = agent.sortie(["run", "--record", "events.sse", "go"]);
        if let Some(older) = older {
            command.file("events.sse", older);
        }
        let output = command.run().code(1);
        assert_eq!(fs::read_to_string(output.home().join("events.sse")).ok().as_deref(), older);
        let left: Vec<_> = fs::read_dir(output.home()).unwrap().collect();
        assert_eq!(left.len(), usize::from(older.is_some()), "{left:?}");
    }
}

#[test]
fn a_recording_without_an_event_is_refused_at_once() {
    for content in ["", "\n", ": keepalive\n\n", "data: no JSON\n\n", "{}", "data: {\"a\":1}\n\n"] {
        let command = Sortie::new(["run", "-o", "json", "--rehearse", "a.sse", "go"]);
        command.file("a.sse", content);
        let output = command.run().stderr_has("--rehearse a.sse: there is no event in it");
        assert_eq!(output.fails("usage")["session_id"], serde_json::Value::Null, "{content:?}");
    }
}

#[test]
fn the_error_about_a_result_file_says_that_it_is_a_pipe() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "--result-file", "/dev/stdout", "go"]);
    command.run().code(1).stderr_has("(usage)").stderr_has("it is a pipe").stderr_has("-o json");
}

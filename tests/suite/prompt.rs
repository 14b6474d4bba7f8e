//! The prompt: where it comes from, and that it arrives as it is.

use crate::support::agent::{Agent, Route};
use crate::support::process::Sortie;
use crate::support::terminal::Terminal;
use rustix::process::Signal;
use serde_json::Value;

/// Runs it, and says what the server was told.
fn prompt_of(agent: &Agent, command: Sortie) -> Value {
    command.run().code(0).stdout("Done.\n");
    agent.only_request(Route::Send).json()["message"]["content"].clone()
}

#[test]
fn the_prompt_can_be_an_argument() {
    let agent = Agent::answering("Done.");
    let prompt = "Check “disks”: $HOME, `df`, \\n,\ttab, two\nlines and 日本語";
    assert_eq!(prompt_of(&agent, agent.sortie(["run", prompt])), prompt);
}

#[test]
fn a_dash_reads_the_prompt_from_stdin() {
    let agent = Agent::answering("Done.");
    assert_eq!(prompt_of(&agent, agent.sortie(["run", "-"]).with_stdin("from stdin")), "from stdin");
}

#[test]
fn the_prompt_can_be_in_a_file() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--prompt-file"]);
    let path = command.file("prompt", "from a file");
    assert_eq!(prompt_of(&agent, command.arg(path)), "from a file");
}

#[test]
fn an_endless_prompt_is_a_usage_error() {
    let agent = Agent::out_of_bounds();
    agent
        .sortie(["run", "--prompt-file", "/dev/zero"])
        .run()
        .code(1)
        .stderr_has("(usage)")
        .stderr_has("larger than");
}

#[test]
fn a_dash_as_the_prompt_file_is_stdin() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--prompt-file", "-"]).with_stdin("from stdin");
    assert_eq!(prompt_of(&agent, command), "from stdin");
}

#[test]
fn a_prompt_that_begins_with_a_dash_needs_two_dashes_before_it() {
    let agent = Agent::answering("Done.");
    assert_eq!(prompt_of(&agent, agent.sortie(["run", "--", "--help"])), "--help");
}

#[test]
fn at_a_terminal_a_line_says_that_the_prompt_is_read() {
    let agent = Agent::out_of_bounds();
    let terminal = Terminal::open();
    let command = agent.sortie(["run", "-"]).in_shell(r#"exec "$@" <"$TTY""#).env("TTY", &terminal.path);
    let running = command.spawn();
    running.wait_for_stderr("reading the prompt from the terminal; Ctrl-D");
    running.signal(Signal::INT);
    running.wait().code(1).stderr_has("interrupted");
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "-"]).with_stdin("from a pipe").run().code(0).stderr_lacks("Ctrl-D");
}

#[test]
fn a_prompt_of_ten_megabytes_arrives_whole() {
    let prompt = "0123456789 abcdé\n".repeat(10 * 1024 * 1024 / 18);
    let prompt = prompt.trim_end();
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "-"]).with_stdin(prompt);
    assert!(prompt_of(&agent, command) == prompt, "through stdin");
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--prompt-file"]);
    let path = command.file("prompt", prompt);
    assert!(prompt_of(&agent, command.arg(path)) == prompt, "from a file");
}

#[test]
fn an_empty_prompt_is_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    for prompt in ["", " \n\t"] {
        agent.sortie(["run", prompt]).run().code(1).stdout("").stderr_has("prompt");
        agent.sortie(["run", "-"]).with_stdin(prompt).run().code(1).stderr_has("prompt");
        let command = agent.sortie(["run", "--prompt-file"]);
        let path = command.file("prompt", prompt);
        command.arg(path).run().code(1).stderr_has("prompt");
    }
}

#[test]
fn no_prompt_at_all_is_refused() {
    let agent = Agent::out_of_bounds();
    agent.sortie(["run"]).with_silent_stdin().run().code(1).stdout("");
}

#[test]
fn two_prompts_are_refused() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "one", "--prompt-file"]);
    let path = command.file("prompt", "two");
    command.arg(path).run().code(1).stderr_has("--prompt-file");
    agent.sortie(["run", "one", "two"]).run().code(1);
}

#[test]
fn a_prompt_that_is_not_text_is_refused() {
    let agent = Agent::out_of_bounds();
    let command = agent.sortie(["run", "--prompt-file"]);
    let path = command.file("prompt", b"\xff\xfe");
    command.arg(path).run().code(1).stderr_has("UTF-8");
    agent.sortie(["run", "-"]).with_stdin(b"\xff\xfe").run().code(1).stderr_has("UTF-8");
}

#[test]
fn a_directory_as_the_prompt_file_is_refused() {
    let agent = Agent::out_of_bounds();
    agent.sortie(["run", "--prompt-file", "."]).run().code(1).stderr_has("prompt");
}

#[test]
fn stdin_is_not_read_without_a_dash() {
    let agent = Agent::answering("Done.");
    let command = agent.sortie(["run", "--prompt-file"]).with_silent_stdin();
    let path = command.file("prompt", "from a file");
    assert_eq!(prompt_of(&agent, command.arg(path)), "from a file");
    let agent = Agent::answering("Done.");
    assert_eq!(prompt_of(&agent, agent.sortie(["run", "an argument"]).with_silent_stdin()), "an argument");
}

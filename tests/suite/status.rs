//! The status line: it comes and goes on a terminal, and nowhere else.

use crate::support::agent::{Agent, call};
use crate::support::process::Sortie;
use crate::support::terminal::Terminal;
use rustix::process::Signal;

/// The command with stderr on a terminal, and stdout there too or in a file.
fn on(terminal: &Terminal, command: Sortie, stdout: &str) -> Sortie {
    let script = format!(r#"exec "$@" 2>"$TTY" >{stdout}"#);
    command.in_shell(&script).env("TTY", &terminal.path).env("TERM", "xterm")
}

#[test]
fn the_status_line_returns_after_a_line_of_text_has_ended() {
    for text in ["I look.", "I look.\n"] {
        let agent = Agent::start();
        let terminal = Terminal::open();
        let running = on(&terminal, agent.sortie(["run", "go"]), r#""$TTY""#).spawn();
        let run = agent.next_run();
        run.text(text);
        run.propose([call("a", "view").held()]);
        terminal.wait_for(" · view · I look.");
        run.finish_tool("a", "seen", false);
        run.text("Done.");
        run.complete();
        running.wait().code(0);
        let said = terminal.said();
        assert!(said.contains("I look.\n") && said.contains("Done.\n"), "{said:?}");
    }
}

#[test]
fn the_status_line_is_shown_if_stdout_is_a_file() {
    let agent = Agent::start();
    let terminal = Terminal::open();
    let running = on(&terminal, agent.sortie(["run", "go"]), "answer").spawn();
    let run = agent.next_run();
    run.text("I look.");
    terminal.wait_for(" · turn 1 · I look.");
    run.complete();
    running.wait().code(0);
}

#[test]
fn in_ci_stderr_is_a_log_even_on_a_terminal() {
    let agent = Agent::start();
    let terminal = Terminal::open();
    let command = agent.sortie(["run", "--heartbeat", "1s", "go"]).env("CI", "true");
    let running = on(&terminal, command, "answer").spawn();
    let run = agent.next_run();
    run.text("I look.");
    terminal.wait_for("turn 1, last event");
    run.complete();
    running.wait().code(0);
    assert!(!terminal.said().contains(['\r', '\u{1b}']));
}

#[test]
fn the_line_about_a_signal_replaces_the_status_line() {
    let agent = Agent::start();
    let terminal = Terminal::open();
    let running = on(&terminal, agent.sortie(["run", "go"]), "answer").spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    terminal.wait_for(" · view");
    running.signal(Signal::INT);
    running.wait().code(1);
    let said = terminal.said();
    assert!(said.contains("\r\u{1b}[Jsortie: SIGINT: cancelling"), "{said:?}");
}

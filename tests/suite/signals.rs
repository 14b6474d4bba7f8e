//! Signals: the process ends with 1, and the run with it.

use crate::support::agent::{Agent, Route, call};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

/// The signals that end the run.
const SIGNALS: [(Signal, &str); 9] = [
    (Signal::INT, "SIGINT"),
    (Signal::TERM, "SIGTERM"),
    (Signal::HUP, "SIGHUP"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
];

#[test]
fn each_ending_signal_cancels_the_run() {
    for (signal, name) in SIGNALS {
        let agent = Agent::start();
        let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
        let run = agent.next_run();
        run.text("I look.");
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        running.signal(signal);
        let output = running.wait().within(Duration::from_secs(10)).stderr_has(&format!("{name}: cancelling"));
        let record = output.fails("interrupted");
        assert!(run.is_over());
        let cancel = agent.only_request(Route::Cancel);
        assert_eq!(cancel.json()["run_id"], run.id.to_string());
        assert_eq!(record["cancel_confirmed"], true);
        assert_eq!(record["stop_reason"], "cancelled");
        assert_eq!(record["retryable"], true);
        assert_eq!(record["text"], "I look.", "what was said stays in the record");
    }
}

#[test]
fn a_line_says_at_once_what_the_signal_does_even_when_quiet() {
    let agent = Agent::start();
    let gate = agent.next(Route::Cancel).hold();
    let running = agent.sortie(["run", "-q", "-o", "json", "go"]).spawn();
    agent.next_run();
    agent.wait_for_streams(1);
    running.signal(Signal::INT);
    running.wait_for_stderr("SIGINT: cancelling the run, 5 s at most; again to leave it\n");
    gate.wait_until_reached();
    gate.open();
    let output = running.wait();
    assert_eq!(output.stderr.matches("SIGINT: ").count(), 1, "{}", output.stderr);
    output.fails("interrupted");
}

#[test]
fn a_line_says_if_there_is_nothing_to_cancel() {
    let agent = Agent::start();
    let gate = agent.next(Route::CreateSession).hold();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    gate.wait_until_reached();
    running.signal(Signal::USR1);
    running.wait().stderr_has("SIGUSR1: no run to cancel").fails("interrupted");
}

#[test]
fn the_first_signal_after_a_deadline_does_not_cut_the_cancel_short() {
    let agent = Agent::start();
    let gate = agent.next(Route::Cancel).hold();
    let running = agent.sortie(["run", "-o", "json", "--timeout", "1s", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    gate.wait_until_reached();
    running.signal(Signal::INT);
    running.wait_for_stderr("SIGINT: the run is being cancelled");
    gate.open();
    let record = running.wait().fails("timeout");
    assert_eq!(record["cancel_confirmed"], true);
    assert!(run.is_over());
}

#[test]
fn a_run_that_waits_for_approval_can_be_cancelled() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    running.signal(Signal::INT);
    let record = running.wait().within(Duration::from_secs(10)).fails("interrupted");
    assert!(run.is_over());
    assert_eq!(record["cancel_confirmed"], true);
    let decisions = agent.requests(Route::Decide);
    assert_eq!(decisions.last().unwrap().json()["decisions"], serde_json::json!({}));
    assert_eq!(run.decisions(), [], "the call itself was decided by nobody");
}

#[test]
fn a_cancel_during_inference_is_reported_as_accepted() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    running.signal(Signal::INT);
    let record = running.wait().within(Duration::from_secs(10)).stderr_has("cancel").fails("interrupted");
    assert!(run.is_cancelled() && !run.is_over());
    assert_eq!(record["cancel_confirmed"], false);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["stop_reason"], Value::Null);
}

#[test]
fn after_a_signal_the_reason_stays_even_if_the_run_completes() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    running.signal(Signal::INT);
    run.wait_until_cancelled();
    run.text("Done all the same.");
    run.complete();
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true, "it has stopped");
    assert_eq!(record["stop_reason"], "completed");
    assert_eq!(record["retryable"], false, "the work is done");
    assert!(record["error"].as_str().unwrap().contains("it completed all the same"), "{record:#}");
}

#[test]
fn two_signals_close_together_count_as_one() {
    // timeout(1), make, a closing terminal and runuser send two.
    let gaps = [200, 500, 1_000, 2_000, 5_000, 10_000].map(Duration::from_micros);
    let started = gaps.map(|gap| {
        let agent = Agent::start();
        let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        running.signal(Signal::TERM);
        running.signal_after(gap, Signal::TERM);
        (gap, agent, running, run)
    });
    for (gap, agent, running, run) in started {
        let output = running.wait().within(Duration::from_secs(10)).stderr_has("failed (interrupted)");
        assert_eq!(output.stderr.matches("failed (").count(), 1, "one closing line, {gap:?}: {}", output.stderr);
        assert_eq!(output.fails("interrupted")["cancel_confirmed"], true, "{gap:?}");
        assert!(run.is_over(), "{gap:?}");
        agent.only_request(Route::Cancel);
    }
}

#[test]
fn a_later_signal_ends_the_wait_and_still_writes_the_record() {
    let agent = Agent::start();
    let gate = agent.next(Route::Cancel).hold();
    let running = agent
        .sortie(["run", "-o", "stream-json", "--deny-tool", "remove", "--on-approval", "accept", "go"])
        .spawn();
    let run = agent.next_run();
    run.text("So far");
    run.propose([call("a", "view").held()]);
    running.wait_for_stdout("So far");
    running.signal(Signal::INT);
    gate.wait_until_reached();
    // Sooner it would be part of the first.
    running.signal_after(Duration::from_millis(2_100), Signal::TERM);
    let output = running.wait().within(Duration::from_secs(5)).stderr_has("SIGTERM again");
    let output = output.stderr_has("failed (interrupted)");
    let hint = format!("to cancel the run: sortie cancel {} --server {}\n", run.session, agent.url());
    let output = output.stderr_has(&hint);
    let record = output.fails("interrupted");
    assert_eq!(record["cancel_confirmed"], false);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["text"], "So far");
}

#[test]
fn a_signal_before_the_first_request_leaves_nothing_behind() {
    let agent = Agent::start();
    let gate = agent.next(Route::CreateSession).hold();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    gate.wait_until_reached();
    running.signal(Signal::TERM);
    let record = running.wait().within(Duration::from_secs(10)).fails("interrupted");
    assert_eq!(record["retryable"], true);
    assert!(agent.requests(Route::Send).is_empty());
}

#[test]
fn sighup_stays_ignored_under_nohup() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).in_shell("trap '' HUP; exec \"$@\"").spawn();
    let run = agent.next_run();
    run.text("Still ");
    running.wait_for_stdout("Still");
    running.signal(Signal::HUP);
    run.text("here.");
    running.wait_for_stdout("here.");
    run.complete();
    running.wait().code(0).stdout("Still here.\n");
}

#[test]
fn no_cancel_keeps_the_run_and_says_how_to_attach() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "--no-cancel", "go"]).spawn();
    let run = agent.next_run();
    agent.wait_for_streams(1);
    running.signal(Signal::INT);
    let output = running.wait().stderr_has("attach").stderr_has(&run.session.to_string());
    let output = output.stderr_has("SIGINT: ending; the run is left going (--no-cancel)");
    let record = output.fails("interrupted");
    assert_eq!(record["cancel_confirmed"], Value::Null);
    assert_eq!(record["retryable"], false);
    assert!(!run.is_cancelled());
}

#[test]
fn a_full_file_size_limit_is_an_output_failure_and_the_run_is_cancelled() {
    // SIGXFSZ would end us with 128 + 25.
    let agent = Agent::start();
    let command = agent.sortie(["run", "go"]).in_shell(r#"ulimit -f 0; exec "$@" >answer"#);
    let running = command.spawn();
    let run = agent.next_run();
    run.text("An answer.");
    run.propose([call("a", "view").held()]);
    let output = running.wait().code(1).stderr_has("failed (output)");
    assert!(run.is_over(), "{}", output.stderr);
    agent.only_request(Route::Cancel);
}

#[test]
fn a_detached_run_is_cancelled_if_its_session_cannot_be_printed() {
    for (sink, why) in [(">/dev/full", "No space left"), (">&-", ""), ("", "broken pipe")] {
        let agent = Agent::start();
        let command = agent.sortie(["run", "--detach", "go"]);
        let command = if sink.is_empty() {
            command.with_broken_stdout()
        } else {
            command.in_shell(&format!(r#"exec "$@" {sink}"#))
        };
        let running = command.spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        let output = running.wait();
        if why.is_empty() {
            // A stdout that was closed at the start is /dev/null by then, and takes everything.
            let _output = output.code(0);
            run.cancel();
        } else {
            let _output = output.code(1).stderr_has("failed (output)").stderr_has(why);
            assert!(run.is_over());
            agent.only_request(Route::Cancel);
        }
    }
}

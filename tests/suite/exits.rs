//! Every way in which a run can end: the exit code, and the record's reason and whether a retry makes sense.

use crate::support::agent::{Agent, Options, Route, call};
use crate::support::http::Ending;
use crate::support::let_pass;
use crate::support::process::{Running, Sortie, result_file};
use crate::support::wire::Wire;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::time::Duration;
use uuid::Uuid;

/// A run whose record comes out, and what it is to do.
fn start(agent: &Agent, arguments: &[&str]) -> Running {
    agent.sortie(["run", "-o", "json"]).args(arguments.iter().copied()).arg("go").spawn()
}

#[test]
fn a_completed_run_exits_0() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("Done.");
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(record["reason"], Value::Null);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["stop_reason"], "completed");
}

#[test]
fn an_answer_cut_at_the_output_limit_exits_0() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("This answer was cut o");
    run.complete_with("max_output_tokens");
    running.wait().code(0);
}

#[test]
fn a_pausing_policy_exits_10() {
    let agent = Agent::start();
    let running = start(&agent, &["--pause-on-approval"]);
    let run = agent.next_run();
    run.propose([call("a", "view"), call("b", "create"), call("c", "remove")]);
    let record = running.wait().code(10).record();
    assert_eq!(record["reason"], "tool_approval_required");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["pause_reason"]["type"], "tool_approval_required");
    let pending = record["pause_reason"]["pending_tool_calls"].as_array().unwrap();
    let ids: Vec<&Value> = pending.iter().map(|call| &call["id"]).collect();
    assert_eq!(ids, ["b", "c"]);
    assert_eq!(pending[0]["name"], "stakpak__create");
    assert_eq!(pending[0]["arguments"]["path"], "motd.txt");
    assert!(record["resume_hint"].as_str().unwrap().contains(&run.session.to_string()), "{record:#}");
    assert!(!run.is_over() && !run.is_cancelled());
}

#[test]
fn a_run_cancelled_by_another_client_exits_1() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.cancel();
    run.propose([call("a", "view")]);
    let record = running.wait().fails("cancelled");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["stop_reason"], "cancelled");
}

#[test]
fn a_run_at_its_turn_limit_exits_1() {
    let agent = Agent::start();
    let running = start(&agent, &["--max-turns", "1"]);
    agent.next_run().propose([call("a", "view")]);
    let record = running.wait().fails("max_turns");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["stop_reason"], "max_turns");
    assert_eq!(record["turns"], 1);
}

#[test]
fn an_error_or_unknown_stop_reason_is_a_run_error() {
    for stop_reason in ["error", "enlightenment"] {
        let agent = Agent::start();
        let running = start(&agent, &[]);
        agent.next_run().end(stop_reason);
        let record = running.wait().fails("run_error");
        assert_eq!(record["retryable"], false);
        assert_eq!(record["stop_reason"], stop_reason);
    }
}

#[test]
fn a_run_error_tells_whether_it_is_retryable() {
    for retryable in [false, true] {
        let agent = Agent::start();
        let running = start(&agent, &[]);
        agent.next_run().error("the model is out of order", retryable);
        let output = running.wait();
        let record = output.stderr_has("the model is out of order").fails("run_error");
        assert_eq!(record["retryable"], retryable);
        assert!(record["error"].as_str().unwrap().contains("the model is out of order"));
    }
}

#[test]
fn a_timeout_is_retryable_once_the_run_is_known_to_have_stopped() {
    let agent = Agent::start();
    let running = start(&agent, &["--timeout", "1s"]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    let output = running.wait().within(Duration::from_secs(6));
    let record = output.stderr_has("--timeout").fails("timeout");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
    assert_eq!(record["stop_reason"], "cancelled");
    assert!(run.is_over());
}

#[test]
fn a_timeout_is_not_retryable_while_the_model_may_still_be_thinking() {
    let agent = Agent::start();
    let running = start(&agent, &["--timeout", "1s"]);
    let run = agent.next_run();
    let record = running.wait().within(Duration::from_secs(10)).fails("timeout");
    assert_eq!(record["cancel_confirmed"], false);
    assert_eq!(record["retryable"], false);
    assert!(run.is_cancelled() && !run.is_over());
}

#[test]
fn the_idle_timeout_exits_1() {
    let agent = Agent::start();
    let running = start(&agent, &["--idle-timeout", "1s"]);
    agent.next_run().propose([call("a", "view").held()]);
    let output = running.wait().within(Duration::from_secs(6));
    let record = output.stderr_has("--idle-timeout").fails("idle_timeout");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_signal_exits_1() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_server_that_cannot_be_reached_is_a_connection_failure() {
    // Nothing listens on the port of tcpmux.
    let arguments = ["run", "-o", "json", "--server", "http://127.0.0.1:1", "--retry-timeout", "1s", "go"];
    let output = Sortie::new(arguments).run().within(Duration::from_secs(10));
    let record = output.stderr_has("127.0.0.1:1").fails("connection");
    assert_eq!(record["retryable"], true);
    assert_eq!(record["session_id"], Value::Null);
}

#[test]
fn a_host_without_an_address_is_a_connection_failure() {
    let arguments = ["run", "-o", "json", "--server", "http://nowhere.invalid", "--retry-timeout", "1s", "go"];
    let output = Sortie::new(arguments).run();
    output.stderr_has("nowhere.invalid").fails("connection");
}

#[test]
fn a_server_that_is_gone_for_the_retry_timeout_is_a_connection_failure() {
    let agent = Agent::start();
    let running = start(&agent, &["--retry-timeout", "1s"]);
    agent.next_run().text("So far");
    agent.wait_for_streams(1);
    agent.down();
    let record = running.wait().within(Duration::from_secs(15)).fails("connection");
    // It may be going on.
    assert_eq!(record["retryable"], false);
    assert_ne!(record["cancel_confirmed"], true);
}

#[test]
fn a_silently_failed_run_is_a_run_error() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    run.fail_silently();
    // Else it is found out after 15 seconds.
    agent.drop_streams(Ending::Cut);
    let record = running.wait().fails("run_error");
    assert_eq!(record["retryable"], true, "no tool was called");
    assert_eq!(record["text"], "So far");
}

#[test]
fn a_run_that_a_server_restart_has_ended_is_lost() {
    let agent = Agent::with(Options { keepalive: Duration::from_secs(1), ..Options::default() });
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    // A younger run's restart cannot be told from the server's whole seconds.
    let_pass(Duration::from_secs(3));
    agent.restart();
    let record = running.wait().fails("lost");
    assert_eq!(record["retryable"], true);
    assert_eq!(record["run_id"], run.id.to_string());
}

#[test]
fn a_refused_token_is_an_auth_failure() {
    let agent = Agent::start();
    for token in ["wrong", ""] {
        let run = agent.sortie(["run", "-o", "json", "go"]).env("SORTIE_TOKEN", token).run();
        let record = run.stderr_lacks("wrong").fails("auth");
        assert_eq!(record["retryable"], false, "{token:?}");
    }
    agent.every(Route::CreateSession).fail(403, "forbidden");
    let record = start(&agent, &[]).wait().fails("auth");
    assert_eq!(record["retryable"], false);
}

#[test]
fn an_unknown_session_is_not_found() {
    let agent = Agent::start();
    let session = Uuid::new_v4().to_string();
    let record = start(&agent, &["--session", &session]).wait().fails("not_found");
    assert_eq!(record["retryable"], false);
}

#[test]
fn a_session_that_stays_busy_is_a_conflict() {
    let agent = Agent::start();
    let busy = agent.begin_run(agent.session());
    let output = start(&agent, &["--session", &busy.session.to_string()]).wait();
    let record = output.within(Duration::from_secs(10)).fails("conflict");
    assert_eq!(record["retryable"], false);
    assert!(!busy.is_cancelled(), "it is not ours");
}

#[test]
fn other_refusals_are_server_failures_and_retryable_if_temporary() {
    let runs = [(400, false), (413, false), (422, false), (429, true), (500, true), (503, true)].map(
        |(status, retryable)| {
            let agent = Agent::start();
            agent.every(Route::CreateSession).fail(status, "some_reason");
            let running = start(&agent, &["--retry-timeout", "1s"]);
            (status, retryable, running, agent)
        },
    );
    for (status, retryable, running, agent) in runs {
        let output = running.wait().within(Duration::from_secs(15));
        let record = output.stderr_has(&status.to_string()).fails("server");
        assert_eq!(record["retryable"], retryable, "{status}");
        let tries = agent.requests(Route::CreateSession).len();
        assert_eq!(tries > 1, retryable, "{status}: {tries} tries");
    }
}

#[test]
fn a_missing_file_is_a_usage_error_with_a_record() {
    let agent = Agent::out_of_bounds();
    for flag in ["--prompt-file", "--system-prompt-file"] {
        let mut command = agent.sortie(["run", "-o", "json", flag, "no/such/file"]);
        if flag != "--prompt-file" {
            command = command.arg("go");
        }
        let record = command.run().stderr_has("no/such/file").fails("usage");
        assert_eq!(record["retryable"], false);
    }
}

#[test]
fn an_answer_that_is_no_event_stream_is_a_protocol_failure() {
    let agent = Agent::start();
    agent.every(Route::Events).answer(200, &[("content-type", "text/html")], "<html>Welcome</html>");
    // After the server's first own word, a page is something between us and the server, and may pass.
    let running = start(&agent, &["--retry-timeout", "1s"]);
    agent.wait_for(Route::Events, 1);
    agent.next_run().propose([call("a", "view").held()]);
    let record = running.wait().stderr_has("text/html").fails("protocol");
    // The run was cancelled, and is known to have stopped; but nobody knows what a retry would meet.
    assert_eq!(record["retryable"], false);
}

#[test]
fn answers_that_are_not_json_are_protocol_failures() {
    let json = [("content-type", "application/json")];
    for (route, body) in [
        (Route::CreateSession, "<html>Welcome</html>"),
        (Route::CreateSession, "{}"),
        (Route::Send, "[1, 2"),
        (Route::Send, r#"{"run_id": 7}"#),
    ] {
        let agent = Agent::start();
        agent.every(route).answer(200, &json, body);
        let record = start(&agent, &["--retry-timeout", "1s"]).wait().fails("protocol");
        assert_eq!(record["retryable"], false, "{body}");
    }
}

#[test]
fn an_event_that_stays_malformed_is_a_protocol_failure() {
    let agent = Agent::start();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    run.text("So far");
    run.raw(|id| format!("id: {id}\nevent: text_delta\ndata: {{\"id\":{id},\n\n").into_bytes());
    agent.wait_for_streams(2);
    run.wait_until_cancelled();
    run.propose([call("a", "view")]);
    let record = running.wait().fails("protocol");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["text"], "So far");
}

#[test]
fn a_full_stdout_is_an_output_failure() {
    let agent = Agent::start();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let running = agent.sortie(["run", "--result-file", "result.json", "go"]).with_stdout_to(full).spawn();
    let run = agent.next_run();
    run.text("Nobody will read this.");
    run.wait_until_cancelled();
    run.propose([call("a", "view")]);
    let output = running.wait().code(1).stderr_has("stdout");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "output");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn a_broken_pipe_does_not_end_the_run() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "go"]).with_broken_stdout().spawn();
    let run = agent.next_run();
    run.text("Nobody will read this.");
    run.propose([call("a", "create")]);
    run.text("Nor this.");
    run.complete();
    running.wait().code(0);
}

#[test]
fn a_pipe_that_breaks_in_mid_run_does_not_end_the_run() {
    let agent = Agent::start();
    let mut running = agent.sortie(["run", "go"]).with_unread_stdout().spawn();
    let run = agent.next_run();
    // More than a pipe holds: it is stuck in the middle of writing.
    run.text(&"All work and no play.\n".repeat(20_000));
    run.propose([call("a", "view").held()]);
    running.break_stdout();
    run.finish_tool("a", "seen", false);
    run.text("Nobody will read this.");
    run.complete();
    running.wait().code(0);
}

#[test]
fn a_failed_tool_call_exits_1_only_with_fail_on_tool_error() {
    for (flags, code) in [(&[][..], 0), (&["--fail-on-tool-error"][..], 1)] {
        let agent = Agent::start();
        let running = start(&agent, flags);
        let run = agent.next_run();
        run.propose([call("a", "view").failing(), call("b", "view")]);
        run.text("That did not work.");
        run.complete();
        let record = running.wait().code(code).record();
        assert_eq!(record["reason"], if code == 0 { Value::Null } else { "tool_error".into() });
        assert_eq!(record["retryable"], false);
        assert_eq!(record["tool_calls"]["failed"], 1);
        assert_eq!(record["text"], "That did not work.", "it is judged at the run's end");
    }
}

#[test]
fn a_server_that_hangs_up_on_every_request_is_a_connection_failure() {
    let wire = Wire::serve(|exchange| exchange.connection.end(Ending::Reset));
    let output = wire.sortie(["run", "-o", "json", "--retry-timeout", "1s", "go"]).run();
    let record = output.within(Duration::from_secs(10)).fails("connection");
    assert_eq!(record["session_id"], Value::Null);
}

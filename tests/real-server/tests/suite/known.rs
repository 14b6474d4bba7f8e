//! What is known of a run's end, and on whose word: runs that died, restarts, endless loops, tasks that go on.

use real_server::{Gate, Model, Options, RealServer, Reply, Tools};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::field;

/// Runs `yesterday` to its end in a session whose next run dies before its first event, and returns the session.
fn session_with_a_past(server: &RealServer) -> String {
    let record = server.sortie(["run", "-o", "json", "yesterday"]).run().exits(0).record();
    assert_eq!(record["text"], "yesterday's answer");
    let session = field(&record, "session_id").to_owned();
    server.wait_until_idle(&session);
    session
}

fn wait_until_failed(server: &RealServer, session: &str) {
    real_server::eventually("the run to fail", || (server.run_status(session)["state"] == "failed").then_some(()));
}

fn with_a_broken_sandbox() -> RealServer {
    let options = Options { broken_sandbox: true, ..Options::default() };
    RealServer::start_with(
        options,
        &Model::answering(|request| Reply::text(format!("{}'s answer", request.prompt()))),
    )
}

#[test]
fn attach_does_not_tell_the_success_of_an_older_run() {
    let server = with_a_broken_sandbox();
    let session = session_with_a_past(&server);
    server.sortie(["run", "--session", &session, "--sandbox", "--detach", "today"]).run().exits(0);
    wait_until_failed(&server, &session);
    let attached = server.sortie(["attach", &session]).run().exits(1);
    assert_eq!(attached.stdout, "");
    let record = server.sortie(["attach", "-o", "json", &session]).run().fails("run_error");
    assert!(field(&record, "error").contains("log"), "{record:#}");
    assert_ne!(record["text"], "yesterday's answer", "{record:#}");
    assert_eq!(record["stop_reason"], Value::Null, "{record:#}");
}

#[test]
fn attach_to_the_older_run_by_its_id_still_tells_its_success() {
    let server = with_a_broken_sandbox();
    let record = server.sortie(["run", "-o", "json", "yesterday"]).run().exits(0).record();
    let session = field(&record, "session_id");
    server.wait_until_idle(session);
    server.sortie(["run", "--session", session, "--sandbox", "--detach", "today"]).run().exits(0);
    wait_until_failed(&server, session);
    server.sortie(["attach", "--run", field(&record, "run_id"), session]).run().says("yesterday's answer\n");
}

#[test]
fn a_sandbox_that_does_not_start_fails_the_run_soon() {
    let server = with_a_broken_sandbox();
    let since = Instant::now();
    let record = server.sortie(["run", "-o", "json", "--sandbox", "today"]).run().fails("run_error");
    assert!(since.elapsed() < Duration::from_secs(8), "took {:?}", since.elapsed());
    let error = field(&record, "error");
    assert!(error.contains("log") && error.contains("--sandbox"), "{error}");
    assert_eq!(record["retryable"], true, "no tool had started: {record:#}");
    assert_eq!(record["cancel_confirmed"], Value::Null, "{record:#}");
}

#[test]
fn a_session_that_the_server_cannot_read_fails_the_run_soon() {
    let server = RealServer::start(&Model::always(Reply::text("yesterday's answer")));
    let session = session_with_a_past(&server);
    server.spoil(&session);
    let since = Instant::now();
    let run = server.sortie(["run", "-o", "json", "--session", &session, "today"]).run();
    let record = run.fails("run_error");
    assert!(since.elapsed() < Duration::from_secs(8), "took {:?}", since.elapsed());
    assert!(!record.to_string().contains("yesterday's answer"), "{record:#}");
    let attached = server.sortie(["attach", &session]).run().exits(1);
    assert_eq!(attached.stdout, "");
}

/// Starts a run, lets it grow older than the uptime that the server can have after its restart, and hands both out.
fn mid_run(server: &RealServer, model: &Model, token_file: Option<&str>) -> real_server::Running {
    let run = server.sortie(["run", "-o", "json", "go"]);
    let run = match token_file {
        Some(path) => run.without_env("SORTIE_TOKEN").env("SORTIE_TOKEN_FILE", path),
        None => run,
    };
    let run = run.spawn();
    model.wait_for_request(1);
    real_server::for_at_least(Duration::from_secs(3), "the model is asked once", || model.requests().len() == 1);
    run
}

#[test]
fn a_restart_with_another_token_is_told_as_a_restart() {
    let model = Model::always(Reply::text("never").behind(&Gate::shut()));
    let mut server = RealServer::start(&model);
    let run = mid_run(&server, &model, None);
    server.restart_with_token("another");
    let record = run.wait().fails("lost");
    assert!(field(&record, "error").contains("the server was restarted"), "{record:#}");
    // No token is left to ask the session with.
    assert_eq!(record["retryable"], false, "{record:#}");
}

#[test]
fn a_restart_with_another_token_in_the_token_file_may_be_tried_again() {
    let model = Model::always(Reply::text("never").behind(&Gate::shut()));
    let mut server = RealServer::start(&model);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, real_server::TOKEN).unwrap();
    let run = mid_run(&server, &model, path.to_str());
    std::fs::write(&path, "another").unwrap();
    server.restart_with_token("another");
    let record = run.wait().fails("lost");
    assert!(field(&record, "error").contains("the server was restarted"), "{record:#}");
    assert_eq!(record["retryable"], true, "{record:#}");
}

#[test]
fn a_run_that_completed_before_the_restart_is_not_to_be_tried_again() {
    // Its last event was lost with the server, but its answer is among the session's messages.
    let gate = Gate::shut();
    let model = Model::always(Reply::text("the work is done").behind(&gate));
    let mut server = RealServer::start(&model);
    let run = mid_run(&server, &model, None);
    run.signal("STOP");
    gate.open();
    server.wait_until_all_idle();
    server.restart();
    run.signal("CONT");
    let run = run.wait();
    // What had arrived in the socket before the restart counts.
    if run.code != 0 {
        let record = run.fails("lost");
        assert_eq!(record["retryable"], false, "{record:#}");
        assert_eq!(record["text"], "the work is done", "{record:#}");
    }
}

#[test]
fn a_pause_that_a_restart_swallowed_is_lost() {
    let mut server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--pause-on-approval", "a=view b=create"]).run();
    let record = run.exits(10).record();
    let session = field(&record, "session_id");
    // The server writes the proposal down within five seconds.
    real_server::eventually("the proposal to be written", || {
        let (_, messages) = server.get(&format!("/v1/sessions/{session}/messages"));
        (messages["total"] == 3).then_some(())
    });
    server.restart();
    let pending = server.sortie(["pending", session]).run().exits(1);
    assert!(pending.stderr.contains("stakpak"), "what finishes it: {pending:#?}");
    let resume = server.sortie(["resume", "-o", "json", "--approve", "b", session]).run();
    let record = resume.fails("lost");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert!(!server.requests().iter().any(|line| line.ends_with("/tools/decisions")));
}

const RATE_LIMIT: &str = "Rate limit reached for gpt-x in organization org-1 on tokens per min (TPM): Limit 30000, \
                          Used 29000, Requested 2000. Please try again in 2s.";

#[test]
fn an_endless_compaction_ends_with_the_servers_reason() {
    for (status, text) in [(429, RATE_LIMIT), (400, "maximum context length exceeded: too many tokens")] {
        let server = RealServer::start(&Model::always(Reply::error(status, text)));
        let since = Instant::now();
        let run = server.sortie(["run", "-o", "json", "go"]).run();
        let record = run.fails("run_error");
        assert!(since.elapsed() < Duration::from_secs(10), "took {:?}", since.elapsed());
        assert!(field(&record, "error").contains(text), "{record:#}");
        assert_eq!(record["retryable"], true, "{record:#}");
        assert_eq!(record["cancel_confirmed"], true, "{record:#}");
        server.wait_until_idle(field(&record, "session_id"));
    }
}

#[test]
fn a_compaction_that_helps_is_shown_and_the_run_goes_on() {
    let full = || Reply::error(400, "maximum context length exceeded: too many tokens");
    let look = || Reply::calls([("a", "view")]);
    let script = [full(), full(), full(), look(), full(), full(), full(), full(), Reply::text("done")];
    let server = RealServer::start(&Model::script(script));
    let run = server.sortie(["run", "go"]).run();
    assert!(run.stderr.contains("maximum context length exceeded"), "{run:#?}");
    run.says("done\n");
}

/// What the published tools say when they have started something that goes on by itself.
fn starting_tasks() -> Tools {
    Tools::answering(|tool, arguments| {
        let task =
            json!({ "id": "dmt6b3", "status": "Running", "command": arguments["command"], "description": null });
        let text = match tool {
            "run_command_task" | "run_remote_command_task" => format!("Background task started:\n{task:#}"),
            "dynamic_subagent_task" => "🤖 Subagent Task Started\n\nTask ID: dmt6b3\nDescription: look".to_owned(),
            _ => "ok".to_owned(),
        };
        (text, None)
    })
}

#[test]
fn background_tasks_are_named_at_the_end() {
    let options = Options { tools: Some(starting_tasks()), ..Options::default() };
    let server = RealServer::start_with(options, &Model::obedient());
    let prompt = "a=view b=run_command_task / c=run_remote_command_task d=dynamic_subagent_task e=run_command";
    let run = server.sortie(["run", "-o", "json", "--enable-subagents", prompt]).run().exits(0);
    assert!(run.stderr.contains("task"), "{}", run.stderr);
    let record = run.record();
    let tasks = record["background_tasks"].as_array().unwrap_or_else(|| panic!("no tasks: {record:#}"));
    let ids: Vec<&str> = tasks.iter().map(|task| field(task, "tool_call_id")).collect();
    assert_eq!(ids, ["b", "c", "d"], "{record:#}");
    assert!(field(&tasks[0], "name").ends_with("run_command_task"), "{record:#}");
    let without = server.sortie(["run", "-o", "json", "a=view e=run_command"]).run().exits(0).record();
    assert_eq!(without["background_tasks"], json!([]));
}

#[test]
fn a_run_that_left_a_task_behind_is_not_to_be_tried_again() {
    let options = Options { tools: Some(starting_tasks()), ..Options::default() };
    let gate = Gate::shut();
    let script = [Reply::calls([("a", "run_command_task")]), Reply::calls([("b", "view")]).behind(&gate)];
    let model = Model::script(script);
    let server = RealServer::start_with(options, &model);
    let run = server.sortie(["run", "-o", "json", "go"]).spawn();
    model.wait_for_request(2);
    run.signal("TERM");
    server.wait_for_requests(1, "/cancel");
    gate.open();
    let record = run.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert_eq!(record["retryable"], false, "a task goes on: {record:#}");
    assert_eq!(record["background_tasks"][0]["tool_call_id"], "a", "{record:#}");
}

#[test]
fn a_busy_session_is_told_soon_and_left_alone() {
    let gate = Gate::shut();
    let model = Model::always(Reply::text("late").behind(&gate));
    let server = RealServer::start(&model);
    let detached = server.sortie(["run", "--detach", "go"]).run().exits(0);
    let session = detached.stdout.trim();
    model.wait_for_request(1);
    let since = Instant::now();
    let record = server.sortie(["run", "-o", "json", "--session", session, "again"]).run().fails("conflict");
    assert!(since.elapsed() < Duration::from_secs(8), "took {:?}", since.elapsed());
    assert_eq!(record["cancel_confirmed"], Value::Null, "{record:#}");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert!(!server.requests().iter().any(|line| line.ends_with("/cancel")), "{:#?}", server.requests());
    gate.open();
    server.sortie(["attach", session]).run().says("late\n");
}

#[test]
fn three_hundred_turns_whose_events_are_gone_are_read_in_few_requests() {
    const BEFORE: usize = 50;
    const TURNS: usize = 250;
    let model = Model::answering(|request| {
        let (run, last) = match request.prompt().as_str() {
            "before" => ("before", BEFORE - 1),
            _ => ("turn", TURNS - 1),
        };
        let turn = request.turns_before();
        let text = Reply::text(format!("{run} {turn}"));
        if turn == last { text } else { text.and_calls([(&*format!("{run}{turn}"), "view")]) }
    });
    let options = Options { events_kept: 16, ..Options::default() };
    let server = RealServer::start_with(options, &model);
    let turns = ["--max-turns", "256", "--detach"];
    let before = server.sortie(["run"]).and(turns).and(["before"]).run().exits(0);
    let session = before.stdout.trim();
    server.wait_until_idle(session);
    server.sortie(["run", "--session", session]).and(turns).and(["now"]).run().exits(0);
    server.wait_until_idle(session);
    let requests = server.requests().len();
    let since = Instant::now();
    let text: String = (0..TURNS).map(|turn| format!("turn {turn}\n")).collect();
    server.sortie(["attach", session]).run().says(&text);
    let took = since.elapsed();
    let requests = server.requests().split_off(requests);
    assert!(requests.len() <= 10, "{requests:#?}");
    assert!(took < Duration::from_secs(10), "took {took:?}");
}

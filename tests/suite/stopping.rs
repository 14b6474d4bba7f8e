//! `cancel` in every state of a run; `run --detach` and `attach`, which leave a run and come back to it.

use crate::support::agent::{Agent, Decision, Effect, Fault, Options, Policy, Route, RunHandle, call};
use crate::support::fixture;
use crate::support::http::Ending;
use crate::support::process::{Running, Sortie};
use crate::support::wire::{Exchange, Wire};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A run of somebody else.
fn begin(agent: &Agent) -> RunHandle {
    agent.begin_run(agent.session())
}

fn cancel(agent: &Agent, session: Uuid) -> Sortie {
    agent.sortie(["cancel", &session.to_string()])
}

fn attach(agent: &Agent, run: &RunHandle, flags: &[&str]) -> Running {
    agent.sortie(["attach", &run.session.to_string()]).args(flags.iter().copied()).spawn()
}

// Cancel.

#[test]
fn cancel_stops_a_run_with_a_running_tool() {
    let agent = Agent::start();
    let run = begin(&agent);
    run.propose([call("a", "view").held(), call("b", "create")]);
    run.wait_until_running("a");
    cancel(&agent, run.session).run().code(0).stdout("").stderr_has("stopped");
    assert!(run.is_over());
    assert_eq!(agent.only_request(Route::Cancel).json(), json!({ "run_id": run.id.to_string() }));
    // There is nothing left that another could stop.
    cancel(&agent, run.session).run().code(0);
    agent.only_request(Route::Cancel);
}

#[test]
fn cancel_wakes_a_run_that_waits_for_approval() {
    let agent = Agent::start();
    let run = begin(&agent);
    run.propose([call("a", "view"), call("b", "create"), call("c", "create")]);
    run.wait_until_waiting_at("b");
    cancel(&agent, run.session).run().code(0).within(Duration::from_secs(20));
    assert!(run.is_over());
    assert_eq!(run.decisions(), [], "nothing was decided by it");
    let woken = agent.requests(Route::Decide);
    assert!(woken.iter().all(|request| request.json()["decisions"] == json!({})), "{woken:?}");
    // The session takes a new message.
    let running = agent.sortie(["run", "--session", &run.session.to_string(), "go"]).spawn();
    agent.next_run().complete();
    running.wait().code(0);
}

#[test]
fn cancel_stops_a_run_whose_pause_another_process_reported() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "--pause-on-approval", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    running.wait().code(10);
    cancel(&agent, run.session).run().code(0);
    assert!(run.is_over());
    agent.sortie(["pending", &run.session.to_string()]).run().code(0);
    agent.sortie(["attach", "-o", "json", &run.session.to_string()]).run().fails("cancelled");
}

#[test]
fn cancel_during_inference_is_not_confirmed_before_the_model_answers() {
    let agent = Agent::start();
    let run = begin(&agent);
    let output = cancel(&agent, run.session).args(["--timeout", "2s"]).run().code(1);
    assert!(output.elapsed >= Duration::from_secs(2), "{output:#?}");
    let output = output.within(Duration::from_secs(12));
    output.stderr_has("accepted").stderr_has("when the model answers").stderr_has("--timeout");
    assert!(run.is_cancelled() && !run.is_over());
}

#[test]
fn cancel_during_inference_is_confirmed_once_the_model_has_answered() {
    // With calls, which then do not run; or with the last word, and the run completes.
    for calls in [true, false] {
        let agent = Agent::start();
        let run = begin(&agent);
        let running = cancel(&agent, run.session).spawn();
        run.wait_until_cancelled();
        agent.wait_for(Route::Session, 3);
        if calls {
            run.propose([call("a", "view").held(), call("b", "create")]);
        } else {
            run.complete();
        }
        running.wait().code(0).stderr_has("stopped");
        assert!(run.is_over());
    }
}

#[test]
fn cancel_waits_for_a_checkpoint_that_is_being_written() {
    let agent = Agent::start();
    let run = begin(&agent);
    run.propose([call("a", "view").with_slow_checkpoint(), call("b", "create")]);
    let running = cancel(&agent, run.session).spawn();
    run.wait_until_cancelled();
    agent.wait_for(Route::Session, 3);
    run.write_checkpoint("a");
    running.wait().code(0);
    assert!(run.is_over());
}

#[test]
fn cancel_without_an_active_run_exits_0() {
    let agent = Agent::start();
    let over = begin(&agent);
    over.complete();
    let failed = begin(&agent);
    failed.fail_silently();
    for session in [agent.session(), over.session, failed.session] {
        cancel(&agent, session).run().code(0).stdout("");
    }
    assert!(agent.requests(Route::Cancel).is_empty() && agent.requests(Route::Decide).is_empty());
}

#[test]
fn cancel_of_an_unknown_session_exits_1() {
    let agent = Agent::start();
    cancel(&agent, Uuid::new_v4()).run().code(1).stderr_has("404");
    agent.sortie(["cancel", "mine"]).run().code(1).stderr_has("mine");
    assert!(agent.requests(Route::Cancel).is_empty());
}

#[test]
fn cancel_waits_for_the_sessions_state_to_confirm() {
    let agent = Agent::start();
    agent.lag();
    let run = begin(&agent);
    run.propose([call("a", "create")]);
    run.wait_until_waiting_at("a");
    let running = cancel(&agent, run.session).spawn();
    run.wait_until_over();
    agent.wait_for(Route::Session, 4);
    agent.catch_up();
    running.wait().code(0);
}

#[test]
fn cancel_of_a_starting_run_is_repeated_until_it_is_accepted() {
    let wire = Wire::start();
    let session = wire.session.to_string();
    let running = wire.sortie(["cancel", &session]).spawn();
    let (mut refused, mut taken) = (0, false);
    loop {
        let exchange = wire.next();
        let state = match (refused, taken) {
            (_, true) => json!({ "state": "idle" }),
            (0, _) => json!({ "state": "starting", "run_id": wire.run.to_string() }),
            _ => json!({ "state": "running", "run_id": wire.run.to_string() }),
        };
        if exchange.is("POST", "/cancel") {
            if refused < 2 {
                refused += 1;
                exchange.json(409, &json!({ "error": "starting", "code": "session_already_running" }));
            } else {
                taken = true;
                exchange.json(200, &json!({ "cancelled": true, "run_id": wire.run.to_string() }));
            }
        } else if exchange.is("POST", "/decisions") {
            exchange.json(409, &json!({ "error": "no run", "code": "session_not_running" }));
        } else {
            let last = taken;
            let now = "2026-11-22T10:20:30Z";
            let session = json!({ "id": session, "title": "", "cwd": null, "created_at": now, "updated_at": now, "run_status": state });
            exchange.json(200, &json!({ "session": session, "config": {} }));
            if last {
                break;
            }
        }
    }
    running.wait().code(0);
}

#[test]
fn cancel_survives_lost_answers() {
    for ending in [Ending::Cut, Ending::Reset] {
        let agent = Agent::start();
        let run = begin(&agent);
        run.propose([call("a", "create")]);
        run.wait_until_waiting_at("a");
        agent.next(Route::Session).lose_request(ending);
        agent.next(Route::Cancel).lose_answer(ending);
        agent.next(Route::Decide).lose_answer(ending);
        cancel(&agent, run.session).run().code(0);
        assert!(run.is_over());
        let keys: Vec<_> = agent.requests(Route::Cancel);
        assert_eq!(keys[0].header("idempotency-key"), keys[1].header("idempotency-key"));
    }
}

#[test]
fn cancel_exits_1_if_the_server_refuses_it() {
    let agent = Agent::start();
    let run = begin(&agent);
    let gate = agent.every(Route::Cancel).hold();
    let output = cancel(&agent, run.session).args(["--timeout", "1s"]).run();
    output.code(1).within(Duration::from_secs(10)).stderr_lacks("accepted").stderr_has("--timeout");
    gate.open();
    agent.behave();
    let agent = Agent::start();
    let run = begin(&agent);
    agent.every(Route::Cancel).fail(403, "forbidden");
    cancel(&agent, run.session).run().code(1).stderr_has("403");
    agent.every(Route::Session).lose_request(Ending::Cut);
    cancel(&agent, run.session).args(["--retry-timeout", "1s"]).run().code(1).within(Duration::from_secs(15));
    assert!(!run.is_cancelled());
}

#[test]
fn an_interrupted_cancel_exits_1() {
    let agent = Agent::start();
    let run = begin(&agent);
    let running = cancel(&agent, run.session).spawn();
    agent.wait_for(Route::Session, 3);
    running.signal(Signal::TERM);
    running.wait().code(1).within(Duration::from_secs(10)).stderr_has("SIGTERM");
}

#[test]
fn a_command_that_follows_the_run_reports_the_cancel() {
    let agent = Agent::start();
    let follower = agent.sortie(["run", "-o", "json", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    agent.wait_for_streams(1);
    cancel(&agent, run.session).run().code(0);
    let record = follower.wait().fails("cancelled");
    assert_eq!(record["stop_reason"], "cancelled");
    assert_eq!(record["cancel_confirmed"], Value::Null, "it was not ours");
    agent.only_request(Route::Cancel);
}

// Detach.

#[test]
fn a_detached_run_can_be_attached() {
    let agent = Agent::start();
    let detached = agent.sortie(["run", "--detach", "go"]).run().code(0);
    let run = agent.next_run();
    let session = run.session.to_string();
    assert_eq!(detached.stdout, format!("{session}\n"));
    assert_eq!(agent.streams_opened(), 0);
    run.text("I begin.");
    let attached = agent.sortie(["attach", &session]).spawn();
    attached.wait_for_stdout("I begin.");
    run.propose([call("a", "view")]);
    run.text("I am done.");
    run.complete();
    attached.wait().code(0).stdout("I begin.\nI am done.\n");
    assert!(!run.is_cancelled());
}

#[test]
fn detach_with_json_prints_only_the_session_and_the_run() {
    let agent = Agent::start();
    let detached = agent.sortie(["run", "--detach", "-o", "json", "go"]).run().code(0);
    let run = agent.next_run();
    let told = json!({ "type": "detached", "session_id": run.session.to_string(), "run_id": run.id.to_string() });
    assert_eq!(serde_json::from_str::<Value>(&detached.stdout).unwrap(), told);
    let agent = Agent::start();
    agent.next(Route::Send).fail(400, "invalid_overrides");
    agent.sortie(["run", "--detach", "-o", "json", "go"]).run().fails("server");
}

#[test]
fn attach_shows_all_of_a_detached_run_that_has_ended() {
    let agent = Agent::start();
    agent.script(|run| {
        run.text("Quick.");
        run.complete();
    });
    let detached = agent.sortie(["run", "--detach", "go"]).run().code(0);
    let attached = agent.sortie(["attach", detached.stdout.trim()]).run();
    attached.code(0).stdout("Quick.\n");
}

#[test]
fn detach_with_flags_about_later_decisions_or_output_is_refused() {
    let agent = Agent::out_of_bounds();
    let rows = [
        &["--on-approval", "accept"][..],
        &["--on-approval", "reject"],
        &["--deny-tool", "view", "--pause-on-approval"],
        &["--approve-with", "exit 0"],
        &["-o", "final"],
        &["-o", "stream-json"],
        &["--result-file", "result.json"],
    ];
    let started = rows.map(|flags| agent.sortie(["run", "--detach", "go"]).args(flags.iter().copied()).spawn());
    for running in started {
        running.wait().code(1).stderr_has("--detach");
    }
}

#[test]
fn detach_sends_the_allowed_tools_and_other_calls_stay_pending() {
    for (flags, list) in [
        (&["-t", "create", "-t", "stakpak__view"][..], json!(["create", "stakpak__view"])),
        (&["-t", "create", "-t", "run_command::ls"], json!(["create", "run_command::ls"])),
    ] {
        let agent = Agent::with_policy(Policy::All);
        let detached = agent.sortie(["run", "--detach", "go"]).args(flags.iter().copied()).run().code(0);
        let run = agent.next_run();
        assert_eq!(agent.only_request(Route::Send).json()["overrides"]["auto_approve"], list);
        run.propose([call("a", "create"), call("b", "remove")]);
        let pending = agent.sortie(["pending", detached.stdout.trim()]).run().code(10);
        assert!(pending.stdout.contains("b stakpak__remove"), "{pending:#?}");
        assert!(!pending.stdout.contains("a stakpak__create"), "{pending:#?}");
        assert_eq!(run.decisions(), []);
    }
}

#[test]
fn detach_allows_on_approval_pause() {
    let agent = Agent::start();
    let detached = agent.sortie(["run", "--detach", "--pause-on-approval", "go"]).run().code(0);
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    agent.sortie(["pending", detached.stdout.trim()]).run().code(10);
}

// Attach.

#[test]
fn attach_shows_another_clients_run_from_its_start_and_then_live() {
    let agent = Agent::start();
    let old = begin(&agent);
    old.text("A run of long ago.");
    old.complete();
    let run = agent.begin_run(old.session);
    run.text("First.");
    run.propose([call("a", "view").held()]);
    let attached = attach(&agent, &run, &[]);
    attached.wait_for_stdout("First.");
    run.finish_tool("a", "seen", false);
    run.text("Sec");
    attached.wait_for_stdout("Sec");
    run.text("ond.");
    attached.wait_for_stdout("ond.");
    run.complete();
    attached.wait().code(0).stdout("First.\nSecond.\n");
    assert_eq!(agent.all_requests().iter().filter(|request| request.method == "POST").count(), 0);
}

#[test]
fn attach_pauses_at_a_pending_call_and_leaves_it_pending() {
    let agent = Agent::start();
    let run = begin(&agent);
    run.text("May I?");
    run.propose([call("a", "view"), call("b", "create")]);
    let output = attach(&agent, &run, &["-o", "json"]).wait().code(10);
    let record = output.record();
    assert_eq!(record["pause_reason"]["pending_tool_calls"], json!([call("b", "create").json()]));
    assert_eq!(record["text"], "May I?");
    assert!(record["resume_hint"].as_str().unwrap().starts_with("sortie resume"), "{record:#}");
    assert!(!run.is_cancelled());
    assert_eq!(agent.all_requests().iter().filter(|request| request.method == "POST").count(), 0);
}

#[test]
fn attach_decides_calls_with_a_policy() {
    let rows = [
        (&["--on-approval", "accept"][..], Decision::Accept),
        (&["--on-approval", "reject"], Decision::Reject),
        (&["-t", "create"], Decision::Accept),
    ];
    let started = rows.map(|(flags, expected)| {
        let agent = Agent::start();
        let run = begin(&agent);
        run.propose([call("a", "view"), call("b", "create")]);
        let attached = attach(&agent, &run, flags);
        (agent, run, attached, expected)
    });
    for (agent, run, attached, expected) in started {
        run.complete();
        attached.wait().code(0);
        assert_eq!(run.decisions(), [("b".to_owned(), expected, Effect::Applied)]);
        drop(agent);
    }
}

#[test]
fn attach_to_an_ended_run_has_the_runs_exit_code() {
    let ends: [(fn(&RunHandle), i32, &str); 5] = [
        (RunHandle::complete, 0, ""),
        (|run| run.error("the model is out of order", true), 1, "run_error"),
        (|run| run.end("cancelled"), 1, "cancelled"),
        (|run| run.end("max_turns"), 1, "max_turns"),
        (RunHandle::fail_silently, 1, "run_error"),
    ];
    let started = ends.map(|(end, code, reason)| {
        let agent = Agent::start();
        let run = begin(&agent);
        run.text("So far.");
        end(&run);
        let attached = attach(&agent, &run, &["-o", "json"]);
        (agent, run, attached, code, reason)
    });
    for (agent, run, attached, code, reason) in started {
        let record = attached.wait().code(code).record();
        assert_eq!(record["reason"].as_str().unwrap_or_default(), reason);
        assert_eq!(record["text"], "So far.");
        assert_eq!(record["run_id"], run.id.to_string());
        assert_eq!(record["cancel_confirmed"], Value::Null);
        assert!(agent.requests(Route::Cancel).is_empty());
    }
}

#[test]
fn attach_follows_the_last_run_of_an_idle_session() {
    let agent = Agent::start();
    let first = begin(&agent);
    first.text("First.");
    first.complete();
    let second = agent.begin_run(first.session);
    second.text("Second.");
    second.error("the model is out of order", false);
    attach(&agent, &second, &[]).wait().code(1).stdout("Second.\n").stderr_has("out of order");
}

#[test]
fn attach_finds_the_last_run_even_if_the_stream_breaks_first() {
    // After the first run's last event; after the second one's first.
    for (last, ending) in
        [(6, Ending::Clean), (7, Ending::Clean), (3, Ending::Cut), (6, Ending::Cut), (6, Ending::Reset)]
    {
        let agent = Agent::start();
        let first = begin(&agent);
        first.text("First.");
        first.complete();
        assert_eq!(first.newest_event(), 7);
        let second = agent.begin_run(first.session);
        second.text("Second.");
        second.error("the model is out of order", false);
        agent.spoil_stream(Fault::none().end_after(last, ending));
        let output = attach(&agent, &second, &[]).wait().code(1);
        output.stdout("Second.\n").stderr_has("out of order");
    }
}

/// A server with an idle session, and a client that attaches to it; hands out its stream.
fn idle() -> (Wire, Running, Exchange) {
    let wire = Wire::start();
    let session = wire.session.to_string();
    let attached = wire.sortie(["attach", &session]).spawn();
    let asked = wire.next();
    let status = json!({ "state": "idle" });
    asked.json(200, &json!({ "session": { "id": session, "run_status": status }, "config": {} }));
    let subscribed = wire.next();
    assert!(subscribed.is("GET", "/events"));
    (wire, attached, subscribed)
}

/// Asserts that the client gives this stream a second before it asks for something else.
#[track_caller]
fn is_waited_for(wire: &Wire, stream: Exchange, events: &str) {
    let mut stream = stream.stream();
    let began = Instant::now();
    stream.chunk(events.as_bytes());
    wire.next();
    assert!(began.elapsed() >= Duration::from_secs(1), "given up after {:?}", began.elapsed());
}

#[test]
fn attach_waits_for_a_replay_that_starts_slowly() {
    let (wire, _attached, stream) = idle();
    is_waited_for(&wire, stream, "");
}

#[test]
fn attach_waits_for_a_replay_that_stalls_before_the_last_run() {
    let (wire, _attached, stream) = idle();
    let (session, run) = (wire.session, wire.run);
    is_waited_for(&wire, stream, &completed(session, run));
}

#[test]
fn attach_waits_for_a_replay_that_continues_slowly_after_a_break() {
    let (wire, _attached, stream) = idle();
    let (session, run) = (wire.session, wire.run);
    let mut first = stream.stream();
    first.chunk(completed(session, run).as_bytes());
    first.end(Ending::Clean);
    let second = wire.next();
    assert!(second.is("GET", "/events"));
    is_waited_for(&wire, second, "");
}

/// The events of a run without a word.
fn completed(session: Uuid, run: Uuid) -> String {
    let event = |id: u64, name: &str, event: &str| {
        format!(
            "id: {id}\nevent: {name}\ndata: {{\"id\":{id},\"session_id\":\"{session}\",\"run_id\":\"{run}\",\
             \"timestamp\":\"2026-11-22T10:20:30Z\",\"event\":{{{event}}}}}\n\n"
        )
    };
    let end = format!(r#""RunCompleted":{{"run_id":"{run}","total_turns":0,"stop_reason":"completed"}}"#);
    let start = format!(r#""RunStarted":{{"run_id":"{run}"}}"#);
    event(1, "run_started", &start) + &event(2, "run_completed", &end)
}

#[test]
fn attach_after_a_restart_prints_the_text_and_reports_an_unknown_end() {
    for (format, stdout) in
        [("text", "First.\nSecond,\nin lines.\n"), ("final", "Second,\nin lines.\n"), ("json", "")]
    {
        let agent = Agent::with(Options { keepalive: Duration::from_secs(1), ..Options::default() });
        let old = begin(&agent);
        old.text("A run of long ago.");
        old.complete();
        let run = agent.begin_run(old.session);
        run.text("First.\n");
        run.propose([call("a", "view")]);
        run.text("Second,\nin lines.");
        run.complete();
        agent.restart();
        let output = attach(&agent, &run, &["-o", format, "--result-file", "result.json"]).wait().code(1);
        let output = output.stderr_has("nobody can say how it ended");
        let record = crate::support::process::result_file(&output.home().join("result.json"), 1);
        assert_eq!(record["reason"], "lost");
        assert_eq!(record["session_id"], run.session.to_string());
        assert_eq!(record["agent_message"], "Second,\nin lines.");
        assert_eq!(record["text"], "First.\nSecond,\nin lines.", "as the text format shows it");
        if format == "json" {
            output.record();
        } else {
            output.stdout(stdout);
        }
        assert!(agent.requests(Route::Cancel).is_empty());
    }
}

#[test]
fn attach_reads_lost_text_from_the_messages() {
    // Of a run that is over; of one that goes on.
    for goes_on in [false, true] {
        for (format, stdout) in [("text", "First.\nSecond.\nThird.\n"), ("final", "Third.\n")] {
            let agent = Agent::with(Options { events_kept: 6, ..Options::default() });
            let run = begin(&agent);
            run.text("First.");
            run.propose([call("a", "view")]);
            run.text("Second.");
            run.propose([call("b", "view")]);
            let finish = || {
                run.text("Third.");
                run.complete();
            };
            if !goes_on {
                finish();
            }
            let attached = attach(&agent, &run, &["-o", format]);
            if goes_on {
                agent.wait_for_streams(2);
                finish();
            }
            attached.wait().code(0).stdout(stdout);
        }
    }
}

#[test]
fn attach_pauses_at_a_pending_call_whose_proposal_has_left_the_ring() {
    let agent = Agent::with(Options { events_kept: 1, ..Options::default() });
    let run = begin(&agent);
    run.propose([call("a", "create")]);
    let record = attach(&agent, &run, &["-o", "json"]).wait().code(10).record();
    assert_eq!(record["pause_reason"]["pending_tool_calls"], json!([call("a", "create").json()]));
    assert!(!run.is_cancelled());
}

#[test]
fn attach_never_reports_an_older_runs_success_for_a_run_without_events() {
    // Protocol trap 21: yesterday's run completed; today's died before its first event, and only the state tells.
    let wire = Wire::serve(|exchange| {
        if exchange.is("GET", "/events") {
            let mut stream = exchange.stream();
            stream.chunk(&[fixture("completed-text.sse").as_slice(), b"\n"].concat());
            stream.wait_for_close();
        } else if exchange.is("GET", "/messages") {
            let messages = json!([{ "role": "user", "content": "Today's prompt." }]);
            exchange.json(200, &json!({ "messages": messages, "total": 1 }));
        } else {
            let session = json!({ "id": Uuid::new_v4(), "run_status": { "state": "failed" } });
            exchange.json(200, &json!({ "session": session, "config": {} }));
        }
    });
    let session = wire.session.to_string();
    let output = wire.sortie(["attach", "-o", "json", &session]).run();
    let record = output.stderr_has("the server says that the run failed, and not why").stderr_has("log");
    let record = record.fails("run_error");
    assert_eq!((&record["text"], &record["run_id"]), (&Value::Null, &Value::Null));
    wire.sortie(["attach", &session]).run().code(1).stdout("");
}

#[test]
fn attach_to_a_session_without_a_run_is_not_found() {
    let agent = Agent::with(Options { keepalive: Duration::from_secs(1), ..Options::default() });
    let empty = agent.session().to_string();
    let nowhere = Uuid::new_v4().to_string();
    for session in [&empty, &nowhere] {
        agent.sortie(["attach", "-o", "json", session]).run().stderr_has(session).fails("not_found");
    }
    agent.sortie(["attach", "-o", "json", "mine"]).run().fails("usage");
}

#[test]
fn attach_cancels_the_run_at_a_signal_unless_no_cancel_is_given() {
    for (flags, cancelled) in [(&[][..], true), (&["--no-cancel"], false)] {
        let agent = Agent::with_policy(Policy::usual());
        let run = begin(&agent);
        run.text("Busy.");
        run.propose([call("a", "view").held()]);
        let attached = attach(&agent, &run, flags);
        attached.wait_for_stdout("Busy.");
        attached.signal(Signal::TERM);
        attached.wait().code(1);
        assert_eq!(run.is_cancelled(), cancelled);
        assert_eq!(run.is_over(), cancelled);
    }
}

/// What a proxy answers by itself: pages of its own, without the server's `code`.
const PAGE: &str = "<html><head><title>404 Not Found</title></head><body>nginx</body></html>";

#[test]
fn a_proxys_pages_do_not_mean_that_a_run_has_stopped() {
    for status in [404, 403, 409] {
        let agent = Agent::start();
        let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        // The proxy in front is reloaded, and knows no such path any more.
        for route in [Route::Cancel, Route::Session, Route::Events] {
            agent.every(route).answer(status, &[("content-type", "text/html")], PAGE);
        }
        running.signal(Signal::TERM);
        let output = running.wait().within(Duration::from_secs(10));
        let record = output.stderr_lacks("has stopped").fails("interrupted");
        assert_eq!(record["cancel_confirmed"], false, "{status}");
        assert_eq!(record["retryable"], false, "{status}");
    }
}

#[test]
fn a_proxys_page_instead_of_the_state_is_retried() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    let run = agent.next_run();
    run.text("So far");
    agent.wait_for_streams(1);
    agent.next(Route::Session).answer(404, &[("content-type", "text/html")], PAGE);
    agent.drop_streams(Ending::Cut);
    agent.wait_for(Route::Session, 2);
    run.text(" and on.");
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(record["text"], "So far and on.");
}

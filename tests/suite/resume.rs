//! `resume`: each waiting call decided as it was said, nothing else, and then the run goes on.

use crate::support::agent::{
    Action, Agent, Call, Decision, Effect, Fault, Options, Policy, Route, RunHandle, call,
};
use crate::support::http::{Ending, Request};
use crate::support::process::{Running, Sortie};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// A run of somebody else that has said a word and waits at `first`.
fn waiting(agent: &Agent, calls: impl IntoIterator<Item = Call>, first: &str) -> RunHandle {
    let run = agent.begin_run(agent.session());
    run.text("May I?");
    run.propose(calls);
    run.wait_until_waiting_at(first);
    run
}

fn command(agent: &Agent, run: &RunHandle, flags: &[&str]) -> Sortie {
    agent.sortie(["resume", &run.session.to_string()]).args(flags.iter().copied())
}

fn resume(agent: &Agent, run: &RunHandle, flags: &[&str]) -> Running {
    command(agent, run, flags).spawn()
}

fn abc() -> [Call; 3] {
    [call("a", "create"), call("b", "remove"), call("c", "create")]
}

/// What was decided: the ids, each with `+` or `-`; every decision must have found its call waiting.
#[track_caller]
fn told(run: &RunHandle) -> String {
    let decisions = run.decisions();
    assert!(decisions.iter().all(|(.., effect)| *effect == Effect::Applied), "{decisions:?}");
    let word = |(id, decision, _): &(String, Decision, Effect)| {
        format!("{}{id}", if *decision == Decision::Accept { '+' } else { '-' })
    };
    decisions.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn posts(agent: &Agent) -> Vec<Request> {
    agent.all_requests().into_iter().filter(|request| request.method == "POST").collect()
}

#[track_caller]
fn listed(record: &Value) -> Vec<&str> {
    let calls = record["pause_reason"]["pending_tool_calls"].as_array();
    let calls = calls.unwrap_or_else(|| panic!("no calls that wait: {record:#}"));
    calls.iter().map(|call| call["id"].as_str().unwrap()).collect()
}

#[test]
fn the_choices_can_be_combined() {
    let rows = [
        (&["--approve-all"][..], "+a +b +c"),
        (&["--reject-all"], "-a -b -c"),
        (&["--approve", "a", "--approve", "b", "--approve", "c"], "+a +b +c"),
        // One that none of them names is rejected.
        (&["--approve", "b"], "-a +b -c"),
        (&["--reject", "b"], "-a -b -c"),
        (&["--approve", "c", "--reject", "a"], "-a -b +c"),
        // In any order.
        (&["--reject", "b", "--approve", "c", "--approve", "a"], "+a -b +c"),
        (&["--approve-all", "--reject", "b"], "+a -b +c"),
        (&["--reject-all", "--approve", "b"], "-a +b -c"),
        (&["--approve-all", "--approve", "b"], "+a +b +c"),
        (&["--reject-all", "--reject", "b"], "-a -b -c"),
        // The choices go before the policy.
        (&["--approve", "a", "--on-approval", "accept"], "+a -b -c"),
        (&["--approve-all", "--deny-tool", "remove", "-t", "view"], "+a +b +c"),
    ];
    let started = rows.map(|(flags, expected)| {
        let agent = Agent::start();
        let run = waiting(&agent, abc(), "a");
        let running = resume(&agent, &run, flags);
        (flags, expected, agent, run, running)
    });
    for (flags, expected, agent, run, running) in started {
        run.wait_until_thinking();
        run.text("As you like.");
        run.complete();
        running.wait().code(0).stdout("As you like.\n");
        assert_eq!(told(&run), expected, "{flags:?}");
        drop(agent);
    }
}

#[test]
fn an_unknown_id_is_refused_before_anything_is_sent() {
    let agent = Agent::start();
    let run = waiting(&agent, [call("done", "view"), call("a", "create"), call("b", "create")], "a");
    let rows = [
        &["--approve", "z"][..],
        &["--reject", "z"],
        &["--approve", "a", "--approve", "z"],
        &["--approve-all", "--reject", "z"],
        &["--approve-all", "--approve", "z"],
        &["--reject-all", "--approve", "z"],
        // Over.
        &["--approve", "done"],
        // Neither a part nor another case will do, nor nothing.
        &["--approve", "A"],
        &["--approve", "a "],
        &["--approve", ""],
    ];
    let started = rows.map(|flags| (flags, command(&agent, &run, flags).args(["-o", "json"]).spawn()));
    for (flags, running) in started {
        let id = flags.last().unwrap();
        let record = running.wait().stderr_has(id).fails("usage");
        assert_eq!(record["retryable"], false, "{flags:?}");
        assert_eq!(record["cancel_confirmed"], Value::Null, "{flags:?}");
    }
    assert_eq!(posts(&agent).len(), 0);
    assert!(!run.is_cancelled());
    let running = resume(&agent, &run, &["--approve", "a", "--reject", "b"]);
    run.complete();
    running.wait().code(0);
    assert_eq!(told(&run), "+a -b");
}

#[test]
fn contradicting_choices_are_refused_before_anything_is_sent() {
    let agent = Agent::out_of_bounds();
    let session = Uuid::new_v4().to_string();
    for flags in [&["--approve", "a", "--reject", "a"][..], &["--approve-all", "--reject-all"]] {
        agent.sortie(["resume", &session]).args(flags.iter().copied()).run().code(1).stdout("");
    }
    agent.sortie(["resume", "mine", "--approve-all"]).run().code(1).stderr_has("mine");
}

#[test]
fn without_choices_the_policy_decides() {
    let rows = [
        (&[][..], ""),
        (&["--on-approval", "accept"], "+a +b +c"),
        (&["--on-approval", "reject"], "-a -b -c"),
        (&["-t", "create", "--deny-tool", "remove"], "+a -b +c"),
        (&["-t", "create"], "+a"),
        (&["--on-approval", "reject", "-t", "create"], "+a -b +c"),
    ];
    let started = rows.map(|(flags, expected)| {
        let agent = Agent::start();
        let run = waiting(&agent, abc(), "a");
        let running = resume(&agent, &run, flags);
        (flags, expected, agent, run, running)
    });
    for (flags, expected, agent, run, running) in started {
        let pauses = expected.split(' ').filter(|word| !word.is_empty()).count() < 3;
        if pauses {
            running.wait().code(10);
        } else {
            run.complete();
            running.wait().code(0);
        }
        assert_eq!(told(&run), expected, "{flags:?}");
        assert!(!run.is_cancelled());
        drop(agent);
    }
}

#[test]
fn resume_prints_only_new_text() {
    let agent = Agent::start();
    let old = agent.begin_run(agent.session());
    old.text("A run of long ago.");
    old.complete();
    let run = agent.begin_run(old.session);
    run.text("First.");
    run.propose([call("x", "view")]);
    run.text("May I?");
    run.propose([call("a", "create")]);
    let before = run.newest_event();
    let running = resume(&agent, &run, &["--approve-all", "-o", "stream-json"]);
    run.text("I did.");
    run.complete();
    let output = running.wait().code(0);
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<u64> = lines.iter().filter_map(|line| line["id"].as_u64()).collect();
    assert_eq!(ids, (before + 1..=run.newest_event()).collect::<Vec<_>>());
    // The record is about the whole run.
    let record = output.record();
    assert_eq!(record["tool_calls"], json!({ "proposed": 2, "accepted": 2, "rejected": 0, "failed": 0 }));
    assert_eq!(record["turns"], 3);
    assert_eq!(record["agent_message"], "I did.");
}

#[test]
fn resume_prints_only_new_text_when_the_past_has_left_the_ring() {
    let started = [1, 4].map(|events_kept| {
        let agent = Agent::with(Options { events_kept, ..Options::default() });
        let run = waiting(&agent, [call("a", "create")], "a");
        let running = resume(&agent, &run, &["--approve-all"]);
        (agent, run, running)
    });
    for (agent, run, running) in started {
        // Nothing of what is new gets lost.
        run.wait_for_decisions(1);
        run.wait_until_thinking();
        agent.wait_for(Route::Decide, 1);
        running.wait_for_stderr("started");
        run.text("I did.");
        run.complete();
        running.wait().code(0).stdout("I did.\n");
        assert_eq!(told(&run), "+a");
    }
}

#[test]
fn approving_one_call_does_not_approve_the_next() {
    let rows = [
        (&["--approve-all"][..], "+a"),
        (&["--approve", "a"], "+a"),
        (&["--reject-all"], "-a"),
        (&["--approve-all", "-t", "view"], "+a"),
        (&["--approve-all", "--on-approval", "pause"], "+a"),
    ];
    let started = rows.map(|(flags, expected)| {
        let agent = Agent::start();
        let run = waiting(&agent, [call("a", "create")], "a");
        let running = resume(&agent, &run, &[flags, &["-o", "json"]].concat());
        (flags, expected, agent, run, running)
    });
    for (flags, expected, agent, run, running) in started {
        // The same call, of the same id.
        run.propose([call("a", "create"), call("b", "create")]);
        let record = running.wait().code(10).record();
        assert_eq!(listed(&record), ["a", "b"], "{flags:?}");
        assert_eq!(told(&run), expected, "{flags:?}");
        assert!(record["resume_hint"].as_str().unwrap().contains(&run.session.to_string()));
        drop(agent);
    }
}

#[test]
fn approving_a_batch_does_not_approve_the_next_after_lost_events() {
    // What is left: the announcement, the proposal with it, and what was said before.
    for events_kept in [1, 2, 4] {
        let agent = Agent::with(Options { events_kept, ..Options::default() });
        let run = waiting(&agent, [call("a", "create")], "a");
        let decision = agent.next(Route::Decide).hold();
        let running = resume(&agent, &run, &["--approve", "a"]);
        decision.wait_until_reached();
        let reconnect = agent.next(Route::Events).hold();
        agent.drop_streams(Ending::Cut);
        decision.open();
        run.text("And now?");
        run.propose([call("a", "create")]);
        run.wait_until_waiting_at("a");
        reconnect.wait_until_reached();
        reconnect.open();
        running.wait().code(10).stderr_has("a stakpak__create");
        assert_eq!(told(&run), "+a", "the second was approved by nobody");
    }
}

#[test]
fn the_policy_of_resume_decides_later_calls() {
    let rows = [
        (&["--on-approval", "accept"][..], "+a +d +e +f"),
        (&["--on-approval", "reject"], "+a -d -e -f"),
        (&["-t", "create", "--deny-tool", "remove"], "+a +d -e +f"),
        (&["-t", "create"], "+a +d"),
        (&["--approve-with", "exit 0"], "+a +d +e +f"),
        (&["--approve-with", "exit 10"], "+a"),
    ];
    let started = rows.map(|(flags, expected)| {
        let agent = Agent::start();
        let run = waiting(&agent, [call("a", "remove")], "a");
        let running = resume(&agent, &run, &[flags, &["--approve", "a"]].concat());
        (flags, expected, agent, run, running)
    });
    for (flags, expected, agent, run, running) in started {
        run.propose([call("d", "create"), call("e", "remove"), call("f", "create")]);
        if expected.split(' ').count() < 4 {
            running.wait().code(10);
        } else {
            run.complete();
            running.wait().code(0);
        }
        assert_eq!(told(&run), expected, "{flags:?}");
        drop(agent);
    }
}

#[test]
fn a_run_can_be_resumed_by_several_processes() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "--pause-on-approval", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view"), call("b", "create"), call("c", "remove")]);
    let paused = running.wait().code(10).record();
    assert_eq!(listed(&paused), ["b", "c"]);
    let session = paused["session_id"].as_str().unwrap();
    agent.sortie(["pending", session]).run().code(10);
    let running = agent.sortie(["resume", "-o", "json", "--approve", "b", session]).spawn();
    run.text("One of two.");
    run.propose([call("d", "create")]);
    let again = running.wait().code(10).record();
    assert_eq!(listed(&again), ["d"]);
    assert_eq!(again["run_id"], paused["run_id"]);
    assert_eq!(again["tool_calls"], json!({ "proposed": 4, "accepted": 2, "rejected": 1, "failed": 0 }));
    let running = agent.sortie(["resume", "--reject-all", session]).spawn();
    run.text("None, then.");
    run.complete();
    running.wait().code(0).stdout("None, then.\n");
    agent.sortie(["pending", session]).run().code(0);
    assert_eq!(told(&run), "+b -c -d");
}

#[test]
fn calls_that_another_client_has_decided_are_not_decided_again() {
    // A later one first: the server knows, and we do not, until it has run.
    let agent = Agent::start();
    let run = waiting(&agent, abc(), "a");
    run.decide([("c", Decision::Accept), ("b", Decision::Reject)]);
    run.wait_until_waiting_at("a");
    let running = resume(&agent, &run, &["--approve", "a"]);
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions().len(), 3, "{:?}", run.decisions());
    // The first one: it is over, and can't be decided any more.
    let run = waiting(&agent, abc(), "a");
    run.decide([("a", Decision::Reject)]);
    run.wait_until_waiting_at("b");
    let late = command(&agent, &run, &["-o", "json", "--approve", "a"]).run();
    late.stderr_has("a").fails("usage");
    let running = resume(&agent, &run, &["--approve", "c", "--reject", "b"]);
    run.complete();
    running.wait().code(0);
    assert_eq!(told(&run), "-a -b +c");
}

#[test]
fn each_call_is_decided_when_it_is_reached() {
    let agent = Agent::with(Options { keepalive: Duration::from_millis(500), ..Options::default() });
    let run = waiting(&agent, [call("a", "create").held(), call("b", "view").held(), call("c", "create")], "a");
    let running = resume(&agent, &run, &["--approve-all"]);
    run.wait_until_running("a");
    agent.wait_for_silence(2);
    assert_eq!(told(&run), "+a");
    run.finish_tool("a", "written", false);
    run.wait_until_running("b");
    agent.wait_for_silence(2);
    assert_eq!(told(&run), "+a");
    run.finish_tool("b", "seen", false);
    run.complete();
    running.wait().code(0).stderr_lacks("by itself");
    assert_eq!(told(&run), "+a +c");
}

#[test]
fn a_call_after_a_running_one_can_be_decided_in_advance() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view").held(), call("b", "create")]);
    run.wait_until_running("a");
    let running = resume(&agent, &run, &["--approve", "b"]);
    agent.wait_for_streams(1);
    run.finish_tool("a", "seen", false);
    run.complete();
    running.wait().code(0);
    assert_eq!(told(&run), "+b");
}

#[test]
fn resume_warns_if_the_server_ran_a_call_that_was_to_be_rejected() {
    let agent = Agent::start();
    let rules =
        [("view", Action::Approve), ("remove", Action::Deny)].map(|(tool, action)| (tool.to_owned(), action));
    let policy = Policy::Custom { rules: rules.into(), default: Action::Ask };
    let run = agent.begin_run_with(agent.session(), Some(policy));
    run.propose([call("a", "create"), call("b", "view"), call("c", "remove")]);
    run.wait_until_waiting_at("a");
    let running = resume(&agent, &run, &["--approve", "a", "--reject", "b"]);
    run.propose([call("d", "view")]);
    run.complete();
    let output = running.wait().code(0);
    let warnings: Vec<&str> = output.stderr.lines().filter(|line| line.contains("by itself")).collect();
    assert_eq!(warnings.len(), 1, "{output:#?}");
    assert!(warnings[0].contains(" b ") || warnings[0].contains(" b,"), "{warnings:?}");
    assert_eq!(told(&run), "+a");
}

#[test]
fn resume_without_a_pending_call_is_a_conflict_and_changes_nothing() {
    let agent = Agent::start();
    let idle = agent.session();
    let over = agent.begin_run(agent.session());
    over.complete();
    let thinking = agent.begin_run(agent.session());
    let running = agent.begin_run(agent.session());
    running.propose([call("a", "view").held()]);
    running.wait_until_running("a");
    for session in [idle, over.session, thinking.session, running.session] {
        let command = agent.sortie(["resume", "-o", "json", "--approve-all", &session.to_string()]);
        let record = command.run().stderr_has(&session.to_string()).fails("conflict");
        assert_eq!(record["retryable"], false);
    }
    assert_eq!(posts(&agent).len(), 0);
    let nowhere = Uuid::new_v4().to_string();
    agent.sortie(["resume", "-o", "json", "--approve-all", &nowhere]).run().fails("not_found");
}

#[test]
fn a_dropped_decision_of_resume_is_sent_again() {
    let agent = Agent::start();
    let run = waiting(&agent, [call("a", "create").with_slow_checkpoint(), call("b", "create")], "a");
    let running = resume(&agent, &run, &["--approve-all"]);
    agent.wait_for(Route::Decide, 2);
    run.write_checkpoint("a");
    run.complete();
    running.wait().code(0);
    let effects: Vec<Effect> = run.decisions().into_iter().map(|(.., effect)| effect).collect();
    assert_eq!(effects, [Effect::Applied, Effect::Dropped, Effect::Applied]);
}

#[test]
fn a_stream_that_breaks_while_resume_reads_the_past_changes_nothing() {
    for (last, ending) in [(1, Ending::Cut), (3, Ending::Reset), (6, Ending::Clean), (7, Ending::Cut)] {
        let agent = Agent::start();
        let run = waiting(&agent, [call("a", "create"), call("b", "create")], "a");
        agent.spoil_stream(Fault::none().end_after(last, ending));
        let running = resume(&agent, &run, &["--approve", "b"]);
        run.text("Half done.");
        run.complete();
        running.wait().code(0).stdout("Half done.\n");
        assert_eq!(told(&run), "-a +b");
    }
}

#[test]
fn a_run_that_ends_during_resume_has_its_own_end() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let run = waiting(&agent, [call("a", "create")], "a");
    let running = command(&agent, &run, &["--approve-all", "-o", "json"]).spawn();
    gate.wait_until_reached();
    run.end("cancelled");
    gate.open();
    let record = running.wait().stderr_has("refused").fails("cancelled");
    assert_eq!(record["run_id"], run.id.to_string());
    assert_eq!(run.decisions(), []);
}

#[test]
fn a_run_started_with_a_policy_is_resumed_call_by_call() {
    let agent = Agent::start();
    let arguments = ["run", "-o", "json", "--on-approval", "pause", "-t", "create", "go"];
    let running = agent.sortie(arguments).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create"), call("b", "view"), call("c", "create"), call("d", "remove")]);
    let record = running.wait().code(10).record();
    assert_eq!(listed(&record), ["b", "c", "d"]);
    let running = resume(&agent, &run, &["--approve", "b", "--approve", "c"]);
    run.complete();
    running.wait().code(0);
    assert_eq!(told(&run), "+a +b +c -d");
}

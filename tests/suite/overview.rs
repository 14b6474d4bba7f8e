//! `list`, and `pending` without a session: what the server's sessions do.

use crate::support::agent::{Agent, Options, Route, RunHandle, call};
use crate::support::gateway::{Calls, Gateway, Page};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

fn print(agent: &Agent, arguments: &[&str], code: i32) -> Value {
    let output = agent.sortie(arguments.iter().copied()).args(["-o", "json"]).run().code(code);
    serde_json::from_str(&output.stdout).unwrap()
}

/// A session whose run waits at this call.
fn waiting(agent: &Agent, id: &str) -> RunHandle {
    let run = agent.begin_run(agent.session());
    run.propose([call("before", "view"), call(id, "create")]);
    run.wait_until_waiting_at(id);
    run
}

#[test]
fn pending_without_a_session_shows_only_the_pending_batches() {
    let agent = Agent::start();
    agent.session();
    agent.begin_run(agent.session()).complete();
    let runs = ["a", "b"].map(|id| waiting(&agent, id));
    // Its tool runs: the call behind it is pending, but the server does not wait.
    let busy = agent.begin_run(agent.session());
    busy.propose([call("held", "view").held(), call("later", "create")]);
    busy.wait_until_running("held");
    let pending = print(&agent, &["pending"], 10);
    let shown: BTreeSet<_> =
        pending.as_array().unwrap().iter().map(|one| one["session_id"].clone().to_string()).collect();
    let expected: BTreeSet<_> = runs.iter().map(|run| json!(run.session.to_string()).to_string()).collect();
    assert_eq!(shown, expected);
    for run in &runs {
        let one = pending.as_array().unwrap().iter().find(|one| one["run_id"] == run.id.to_string()).unwrap();
        assert_eq!(one["tool_calls"].as_array().unwrap().len(), 1);
        let alone = print(&agent, &["pending", &run.session.to_string()], 10);
        assert_eq!(&alone, one, "the same as for the session alone");
    }
    let text = agent.sortie(["pending"]).run().code(10);
    for run in &runs {
        assert_eq!(text.stdout.matches(&run.session.to_string()).count(), 1, "{text:#?}");
        let hint = format!("sortie resume {} --batch ", run.session);
        assert!(text.stderr.contains(&hint) && !text.stderr.contains("--approve-all"), "{text:#?}");
    }
}

#[test]
fn pending_without_a_session_exits_0_if_no_call_is_pending() {
    let agent = Agent::start();
    agent.begin_run(agent.session()).complete();
    assert_eq!(print(&agent, &["pending"], 0), json!([]));
    agent.sortie(["pending"]).run().code(0).stdout("");
}

#[test]
fn pending_without_a_session_finds_calls_whose_events_are_lost() {
    // Only the newest events are left: in one session the proposal is among them, in the other it is not.
    for kept in [4, 1] {
        let agent = Agent::with(Options { events_kept: kept, ..Options::default() });
        let run = agent.begin_run(agent.session());
        run.text("So far.");
        run.propose([call("a", "create")]);
        run.wait_until_waiting_at("a");
        let pending = print(&agent, &["pending"], 10);
        assert_eq!(pending[0]["tool_calls"][0]["id"], "a", "{kept}: {pending:#}");
        let listed = print(&agent, &["list", "--state", "waiting"], 0);
        assert_eq!(listed[0]["id"], run.session.to_string(), "{kept}: {listed:#}");
    }
}

#[test]
fn pending_without_a_session_does_not_exit_0_if_a_stream_does_not_tell() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let run = waiting(&agent, "a");
    gateway.on(Route::Events).hold_body_until_its_end();
    let output = gateway.sortie(["pending", "--retry-timeout", "2s"]).run().code(1);
    output.stderr_has(&format!("cannot tell whether session {} waits", run.session));
}

#[test]
fn a_list_that_repeats_its_page_ends() {
    let agent = Agent::out_of_bounds();
    let gateway = Gateway::to(&agent);
    let session = |_| json!({ "id": Uuid::new_v4(), "title": "t", "run_status": { "state": "idle" } });
    let page: Vec<Value> = (0..100).map(session).collect();
    gateway.on(Calls::of(Route::Sessions)).answer_instead(&Page::json(200, &json!({ "sessions": page })));
    for command in [["list", "--output", "json"], ["pending", "--output", "json"]] {
        gateway.sortie(command).run().code(0);
    }
    assert_eq!(gateway.requests(Route::Sessions).len(), 4, "two pages each");
}

#[test]
fn a_list_that_never_ends_is_an_error() {
    let agent = Agent::start();
    let title = "x".repeat(60_000);
    let session = || json!({ "id": Uuid::new_v4(), "title": title, "run_status": { "state": "idle" } });
    for _ in 0..2 {
        let page: Vec<_> = (0..100).map(|_| session()).collect();
        let body = json!({ "sessions": page }).to_string();
        agent.next(Route::Sessions).answer(200, &[("content-type", "application/json")], &body);
    }
    agent.sortie(["list"]).run().code(1).stderr_has("(protocol)").stderr_has("the list of sessions");
}

#[test]
fn a_hundred_waiting_sessions_need_only_one_wait() {
    let agent = Agent::start();
    for _ in 0..100 {
        waiting(&agent, "a");
    }
    let output = agent.sortie(["pending", "-o", "json"]).run().code(10).within(Duration::from_secs(12));
    assert_eq!(serde_json::from_str::<Vec<Value>>(&output.stdout).unwrap().len(), 100);
}

#[test]
fn list_shows_each_session_once_with_its_state() {
    let agent = Agent::start();
    let idle = agent.session();
    let failed = agent.begin_run(agent.session());
    failed.error("out of order", false);
    let waits = waiting(&agent, "a");
    for _ in 0..230 {
        agent.session();
    }
    let list = print(&agent, &["list"], 0);
    let list = list.as_array().unwrap();
    let ids: BTreeSet<_> = list.iter().map(|session| session["id"].to_string()).collect();
    assert_eq!((list.len(), ids.len()), (233, 233), "all pages");
    let find = |id: Uuid| list.iter().find(|session| session["id"] == id.to_string()).unwrap();
    let states = [idle, failed.session, waits.session].map(|id| find(id)["state"].clone());
    assert_eq!(states, ["idle", "failed", "running"]);
    assert_eq!(find(waits.session)["run_id"], waits.id.to_string());
    assert_eq!(find(idle)["run_id"], Value::Null);
    for (state, expected) in [("failed", failed.session), ("running", waits.session), ("waiting", waits.session)] {
        let some = print(&agent, &["list", "--state", state], 0);
        let some = some.as_array().unwrap();
        assert_eq!(some.len(), 1, "{state}");
        assert_eq!((&some[0]["id"], &some[0]["state"]), (&json!(expected.to_string()), &json!(state)));
    }
    let text = agent.sortie(["list", "--state", "failed"]).run().code(0);
    let words: Vec<_> = text.stdout.split_whitespace().collect();
    assert_eq!(words[..2], [failed.session.to_string().as_str(), "failed"], "{text:#?}");
}

#[test]
fn ping_describes_the_server_in_text_and_json() {
    let agent = Agent::start();
    let said = agent.sortie(["ping"]).run().code(0).stdout("");
    said.stderr_has("version 0.3.88").stderr_has("policy: custom").stderr_has("takes the token");
    let ping = print(&agent, &["ping"], 0);
    assert_eq!((&ping["version"], &ping["token_accepted"]), (&json!("0.3.88"), &json!(true)));
    assert_eq!(ping["auto_approve_mode"], "custom");
}

#[test]
fn a_title_with_control_characters_is_one_line_of_the_list() {
    let agent = Agent::start();
    agent.script(|run| run.complete());
    agent.sortie(["run", "--title", "a\nb\u{1b}[2J", "go"]).run().code(0);
    let list = agent.sortie(["list"]).run().code(0).stdout;
    assert_eq!(list.lines().count(), 1, "{list}");
    assert!(list.ends_with("a\\nb\\u{1b}[2J\n"), "{list:?}");
}

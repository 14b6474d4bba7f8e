//! Which tool calls are decided, and when (protocol traps 2 to 4). A wrong decision kills the run, and the fake server
//! complains of it by itself.

use crate::support::agent::{Action, Agent, Call, Decision, Effect, Options, Policy, Route, RunHandle, call};
use crate::support::process::Running;
use serde_json::json;
use std::time::Duration;

/// A server that gives a sign of life every half second, so that a test can wait for silence.
fn agent(policy: Policy) -> Agent {
    Agent::with(Options { policy, keepalive: Duration::from_millis(500), ..Options::default() })
}

fn start(agent: &Agent) -> (Running, RunHandle) {
    let running = agent.sortie(["run", "-o", "json", "go"]).spawn();
    (running, agent.next_run())
}

/// Decisions that all found their call waiting.
fn accepted(ids: &[&str]) -> Vec<(String, Decision, Effect)> {
    ids.iter().map(|id| ((*id).to_owned(), Decision::Accept, Effect::Applied)).collect()
}

#[test]
fn a_batch_that_the_server_approves_in_part_completes_in_every_order() {
    let batches = ["VA", "AV", "VAV", "AVA", "VVA", "AAV", "VAA", "VDA", "AD", "DA"];
    let runs = batches.map(|batch| {
        let rules =
            [("view", Action::Approve), ("remove", Action::Deny)].map(|(tool, action)| (tool.to_owned(), action));
        let policy = Policy::Custom { rules: rules.into(), default: Action::Ask };
        let agent = agent(policy);
        let (running, run) = start(&agent);
        let calls: Vec<Call> =
            batch.char_indices().map(|(index, kind)| call(&format!("c{index}"), tool(kind))).collect();
        run.propose(calls);
        (batch, agent, running, run)
    });
    for (batch, agent, running, run) in runs {
        run.wait_until_thinking();
        run.complete();
        let record = running.wait().code(0).record();
        let asked: Vec<String> =
            batch.char_indices().filter(|(_, kind)| *kind == 'A').map(|(index, _)| format!("c{index}")).collect();
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        assert_eq!(run.decisions(), accepted(&asked), "{batch}");
        let denied = batch.matches('D').count();
        assert_eq!(record["tool_calls"]["accepted"], batch.len() - denied, "{batch}");
        assert_eq!(record["tool_calls"]["rejected"], denied, "{batch}");
        drop(agent);
    }
}

/// View is approved, remove is denied, and create is asked about.
fn tool(kind: char) -> &'static str {
    match kind {
        'V' => "view",
        'D' => "remove",
        _ => "create",
    }
}

#[test]
fn nothing_is_decided_while_another_call_of_the_batch_runs() {
    let agent = agent(Policy::usual());
    let (running, run) = start(&agent);
    run.propose([call("a", "view").held(), call("b", "create").held(), call("c", "create")]);
    run.wait_until_running("a");
    agent.wait_for_streams(1);
    agent.wait_for_silence(2);
    assert_eq!(run.decisions(), []);
    run.finish_tool("a", "seen", false);
    run.wait_until_running("b");
    agent.wait_for_silence(2);
    assert_eq!(run.decisions(), accepted(&["b"]));
    run.finish_tool("b", "written", false);
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), accepted(&["b", "c"]));
}

#[test]
fn a_server_that_asks_about_every_call_gets_one_request() {
    let agent = agent(Policy::None);
    let (running, run) = start(&agent);
    run.propose([call("a", "view"), call("b", "create").held(), call("c", "remove")]);
    run.finish_tool("b", "written", false);
    run.complete();
    running.wait().code(0);
    let decisions = agent.only_request(Route::Decide).json();
    let accept = json!({ "action": "accept" });
    assert_eq!(
        decisions,
        json!({ "run_id": run.id.to_string(), "decisions": { "a": accept, "b": accept, "c": accept } })
    );
}

#[test]
fn a_server_that_approves_every_call_gets_no_decision() {
    let agent = agent(Policy::All);
    let (running, run) = start(&agent);
    run.propose([call("a", "create").held(), call("b", "remove")]);
    agent.wait_for_streams(1);
    agent.wait_for_silence(2);
    run.finish_tool("a", "written", false);
    run.complete();
    let record = running.wait().code(0).record();
    assert!(agent.requests(Route::Decide).is_empty());
    assert_eq!(record["tool_calls"], json!({ "proposed": 2, "accepted": 2, "rejected": 0, "failed": 0 }));
}

#[test]
fn the_calls_of_the_next_turn_are_decided_separately() {
    let agent = agent(Policy::usual());
    let (running, run) = start(&agent);
    // The ids may well come again.
    for _ in 0..3 {
        run.propose([call("a", "create"), call("b", "view")]);
    }
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), accepted(&["a", "a", "a"]));
}

#[test]
fn a_call_that_is_refused_is_reported_and_the_run_goes_on() {
    let agent = agent(Policy::usual());
    let running = agent.sortie(["run", "-o", "json", "--on-approval", "reject", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "view"), call("b", "create")]);
    run.text("As you like.");
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(run.decisions(), [("b".to_owned(), Decision::Reject, Effect::Applied)]);
    assert_eq!(record["tool_calls"], json!({ "proposed": 2, "accepted": 1, "rejected": 1, "failed": 0 }));
}

#[test]
fn a_decision_that_a_busy_server_drops_is_sent_again_with_a_new_key() {
    let agent = Agent::start();
    let (running, run) = start(&agent);
    // The stream says that `a` is done while its checkpoint is still being written (trap 3).
    run.propose([call("a", "view").with_slow_checkpoint(), call("b", "create")]);
    agent.wait_for(Route::Decide, 1);
    run.write_checkpoint("a");
    let decisions = run.wait_for_decisions(2);
    run.complete();
    running.wait().code(0);
    let effects: Vec<Effect> = decisions.iter().map(|(.., effect)| *effect).collect();
    assert_eq!(effects, [Effect::Dropped, Effect::Applied]);
    let requests = agent.requests(Route::Decide);
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    // The third takes the dropped one back.
    assert_eq!(keys.len(), 3);
    assert_eq!(requests[2].json()["decisions"], serde_json::json!({ "b": { "action": "reject" } }));
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);
}

#[test]
fn keep_alive_comments_do_not_end_the_quiet() {
    // Two seconds of quiet pass, in spite of a comment every half second.
    let agent = agent(Policy::usual());
    let running = agent.sortie(["run", "--pause-on-approval", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    running.wait().code(10).within(Duration::from_secs(15));
    assert_eq!(run.decisions(), []);
}

//! Decisions that the server drops, or keeps for a later call with the same id (trap 3).

use real_server::{Event, Gate, Model, Options, RealServer, Reply, StorageGate, Tools};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    field,
    plain::{decide, send, session, up_to},
};

/// A server whose tools wait for a gate and whose storage can be held.
struct Late {
    server: RealServer,
    tools: Tools,
    gate: Gate,
    storage: StorageGate,
}

impl Late {
    /// The model's calls are given turn by turn: its tests use an id twice, which an obedient model cannot count.
    fn start(turns: &[&[(&str, &str)]]) -> Self {
        let calls = turns.iter().map(|calls| Reply::calls(calls.iter().copied()));
        Self::start_with(&Model::script(calls.chain([Reply::text("done")])))
    }

    fn start_with(model: &Model) -> Self {
        let gate = Gate::shut();
        let behind = gate.clone();
        let tools = Tools::answering(move |_, _| ("ok".to_owned(), Some(behind.clone())));
        let storage = StorageGate::default();
        let options = Options { tools: Some(tools.clone()), storage: Some(storage.clone()), ..Options::default() };
        Self { server: RealServer::start_with(options, model), tools, gate, storage }
    }

    /// Accepts a call, under a new idempotency key each time.
    fn accept(&self, session: &str, run: &str, call: &str) {
        let answer = decide(&self.server, session, run, &json!({ call: { "action": "accept" } }));
        assert_eq!(answer.0, 200, "{answer:?}");
    }

    /// Lets the call `a` finish while a checkpoint is being written, so that the server still waits for its storage
    /// when a decision about the next call comes.
    fn finish_during_a_write(&self, events: &mut impl Iterator<Item = Event>) {
        up_to("tool_execution_started", events);
        self.storage.hold();
        self.storage.wait_for_a_write();
        self.gate.open();
        up_to("tool_execution_completed", events);
        self.gate.close();
    }
}

/// The calls that were started, in order.
fn started(events: &[Event]) -> Vec<&str> {
    let payloads = events.iter().map(|event| &event.data["event"]["ToolExecutionStarted"]["tool_call_id"]);
    payloads.filter_map(Value::as_str).collect()
}

fn stop_reason(events: &[Event]) -> &Value {
    &events.last().unwrap().data["event"]["RunCompleted"]["stop_reason"]
}

#[test]
fn a_decision_in_the_window_is_dropped_and_runs_a_later_call_with_the_same_id() {
    let late = Late::start(&[&[("a", "view"), ("b", "create")], &[("b", "remove")]]);
    let session = session(&late.server);
    let run = send(&late.server, &session, "go");
    let mut events = late.server.events(&session, Some(0));
    late.finish_during_a_write(&mut events);
    late.accept(&session, &run, "b");
    late.storage.release();
    real_server::for_at_least(Duration::from_millis(500), "the decision is dropped", || {
        late.tools.calls().len() == 1
    });
    // Nothing that can be asked for tells a dropped decision from none.
    let (_, pending) = late.server.get(&format!("/v1/sessions/{session}/tools/pending"));
    assert_eq!(pending["tool_calls"].as_array().unwrap().len(), 2, "{pending:#}");
    late.accept(&session, &run, "b");
    late.tools.wait_for_call(2);
    late.gate.open();
    // `remove` is asked about, and nobody decided it.
    let rest = up_to("run_completed", &mut events);
    assert_eq!(started(&rest), ["b", "b"]);
    assert_eq!(late.tools.calls()[2].0, "remove");
    assert_eq!(stop_reason(&rest), "completed");
}

#[test]
fn a_second_decision_while_the_call_runs_is_kept_for_a_later_call_with_the_same_id() {
    let late = Late::start(&[&[("b", "create")], &[("b", "remove")]]);
    let session = session(&late.server);
    let run = send(&late.server, &session, "go");
    let mut events = late.server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    late.accept(&session, &run, "b");
    up_to("tool_execution_started", &mut events);
    late.accept(&session, &run, "b");
    late.gate.open();
    let rest = up_to("run_completed", &mut events);
    assert_eq!(started(&rest), ["b"]);
    assert_eq!(late.tools.calls()[1].0, "remove");
}

#[test]
fn a_second_decision_about_a_call_whose_turn_has_not_come_is_kept_as_well() {
    let late = Late::start(&[&[("a", "view"), ("b", "create")], &[("b", "remove")]]);
    let session = session(&late.server);
    let message = json!({
        "message": { "role": "user", "content": "go" },
        "overrides": { "auto_approve": "none" },
    });
    let (_, sent) = late.server.post(&format!("/v1/sessions/{session}/messages"), &message);
    let run = sent["run_id"].as_str().unwrap();
    let mut events = late.server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    let accept = json!({ "action": "accept" });
    assert_eq!(decide(&late.server, &session, run, &json!({ "a": accept, "b": accept })).0, 200);
    up_to("tool_execution_started", &mut events);
    // `b` begins late: `a` has to finish first.
    late.accept(&session, run, "b");
    late.gate.open();
    let rest = up_to("run_completed", &mut events);
    assert_eq!(started(&rest), ["b", "b"]);
    assert_eq!(late.tools.calls()[2].0, "remove");
}

#[test]
fn a_second_decision_kills_the_run_where_the_server_waits_for_the_next_call() {
    // Trap 2.
    let late = Late::start(&[&[("b", "create"), ("c", "create")]]);
    late.gate.open();
    let session = session(&late.server);
    let run = send(&late.server, &session, "go");
    let mut events = late.server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    late.accept(&session, &run, "b");
    up_to("tool_execution_completed", &mut events);
    real_server::eventually("the run to fail", || {
        decide(&late.server, &session, &run, &json!({ "b": { "action": "accept" } }));
        (late.server.run_status(&session) == json!({ "state": "failed" })).then_some(())
    });
}

#[test]
fn a_rejection_while_the_call_runs_takes_the_place_of_what_was_kept() {
    let late = Late::start(&[&[("b", "create")], &[("b", "remove")], &[("c", "view")]]);
    let session = session(&late.server);
    let run = send(&late.server, &session, "go");
    let mut events = late.server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    late.accept(&session, &run, "b");
    up_to("tool_execution_started", &mut events);
    late.accept(&session, &run, "b");
    assert_eq!(decide(&late.server, &session, &run, &json!({ "b": { "action": "reject" } })).0, 200);
    late.gate.open();
    up_to("run_completed", &mut events);
    let names: Vec<String> = late.tools.calls().into_iter().map(|(tool, _)| tool).collect();
    assert_eq!(names, ["create", "view"], "the second b was rejected");
}

#[test]
fn a_second_decision_during_the_next_answer_of_the_model_runs_a_call_with_the_same_id() {
    let gate = Gate::shut();
    let model = Model::script([
        Reply::calls([("b", "create")]),
        Reply::calls([("b", "remove")]).behind(&gate),
        Reply::text("done"),
    ]);
    let late = Late::start_with(&model);
    late.gate.open();
    let session = session(&late.server);
    let run = send(&late.server, &session, "go");
    let mut events = late.server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    late.accept(&session, &run, "b");
    model.wait_for_request(2);
    late.accept(&session, &run, "b");
    gate.open();
    up_to("run_completed", &mut events);
    assert_eq!(late.tools.calls()[1].0, "remove");
}

fn tools_run(late: &Late) -> Vec<String> {
    late.tools.calls().into_iter().map(|(tool, _)| tool).collect()
}

fn decisions(late: &Late) -> usize {
    late.server.requests().iter().filter(|line| line.ends_with("/tools/decisions")).count()
}

#[test]
fn a_call_that_begins_late_is_accepted_once() {
    // Both calls are accepted at the proposal, and `a` then runs for longer than a dropped decision is waited for.
    let late = Late::start(&[&[("a", "view"), ("b", "create")], &[("b", "remove")]]);
    let run = late.server.sortie(["run", "-o", "json", "-t", "view", "-t", "create", "go"]).spawn();
    late.tools.wait_for_call(1);
    real_server::for_at_least(Duration::from_secs(6), "one decision", || decisions(&late) == 1);
    late.gate.open();
    let record = run.wait().exits(0).record();
    assert_eq!(tools_run(&late), ["view", "create"]);
    assert_eq!(record["tool_calls"]["rejected"], 1, "{record:#}");
}

#[test]
fn a_dropped_decision_is_sent_again() {
    let late = Late::start(&[&[("a", "view"), ("b", "create")]]);
    let run = late.server.sortie(["run", "-o", "json", "go"]).spawn();
    late.tools.wait_for_call(1);
    late.storage.hold();
    late.storage.wait_for_a_write();
    late.gate.open();
    late.server.wait_for_requests(1, "/tools/decisions");
    late.storage.release();
    let record = run.wait().exits(0).record();
    assert_eq!(tools_run(&late), ["view", "create"]);
    assert_eq!(record["tool_calls"]["accepted"], 2, "{record:#}");
}

#[test]
fn a_decision_that_was_sent_again_lets_no_later_call_run() {
    // A person approves two calls, the decision about the second is dropped and sent again, and the model then uses
    // its id for another tool.
    let late = Late::start(&[&[("a", "create"), ("b", "create")], &[("b", "remove")]]);
    let paused = late.server.sortie(["run", "-o", "json", "--pause-on-approval", "go"]).run().exits(10).record();
    let resume = ["resume", "-o", "json", "--approve", "a", "--approve", "b", field(&paused, "session_id")];
    let resume = late.server.sortie(resume).spawn();
    late.tools.wait_for_call(1);
    late.storage.hold();
    late.storage.wait_for_a_write();
    late.gate.open();
    late.server.wait_for_requests(2, "/tools/decisions");
    late.gate.close();
    late.storage.release();
    late.tools.wait_for_call(2);
    // It takes a moment until the client knows that the call runs.
    real_server::for_at_least(Duration::from_secs(1), "the call runs", || late.tools.calls().len() == 2);
    late.gate.open();
    let record = resume.wait().record();
    assert_eq!(tools_run(&late), ["create", "create"], "{record:#}");
}

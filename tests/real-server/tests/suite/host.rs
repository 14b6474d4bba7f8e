//! The server by itself, over plain HTTP: what `sortie` is built on holds, traps included.

use real_server::{Gate, Model, Options, RealServer, Reply, TOKEN};
use serde_json::json;

use crate::plain::{decide, names, send, session, up_to};

#[test]
fn a_text_run_has_these_events() {
    let server = RealServer::start(&Model::script([Reply::text("hello")]));
    let session = session(&server);
    let run = send(&server, &session, "hi");
    let events = up_to("run_completed", &mut server.events(&session, Some(0)));
    assert_eq!(
        names(&events),
        [
            "run_started",
            "turn_started",
            "text_delta",
            "text_complete",
            "usage_report",
            "turn_completed",
            "run_completed"
        ]
    );
    let ids: Vec<_> = events.iter().filter_map(|event| event.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
    let last = &events.last().unwrap().data;
    assert_eq!(last["run_id"], *run);
    assert_eq!(last["event"]["RunCompleted"]["stop_reason"], "completed");
    assert_eq!(last["event"]["RunCompleted"]["total_usage"]["total_tokens"], 15);
}

#[test]
fn health_needs_no_token_and_all_else_does() {
    let server = RealServer::start(&Model::script([]));
    let status = |path: &str, token: Option<&str>| {
        let mut request = ureq::get(format!("{}{path}", server.url())).config().http_status_as_error(false).build();
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().unwrap().status().as_u16()
    };
    assert_eq!(status("/v1/health", None), 200);
    assert_eq!(status("/v1/config", None), 401);
    assert_eq!(status("/v1/config", Some("wrong")), 401);
    assert_eq!(status("/v1/config", Some(TOKEN)), 200);
    assert_eq!(
        server.get("/v1/config").1,
        json!({ "default_model": "openai/stub", "auto_approve_mode": "custom" })
    );
}

#[test]
fn a_stream_without_last_event_id_has_only_later_events() {
    // Trap 1.
    let gate = Gate::shut();
    let server = RealServer::start(&Model::script([Reply::text("first"), Reply::text("second").behind(&gate)]));
    let session = session(&server);
    send(&server, &session, "one");
    up_to("run_completed", &mut server.events(&session, Some(0)));
    server.wait_until_idle(&session);
    let mut bare = server.events(&session, None);
    send(&server, &session, "two");
    gate.open();
    let events = up_to("run_completed", &mut bare);
    assert_eq!(events[0].id, Some(8), "ids go on over the runs of a session");
    assert_eq!(events[0].name, "run_started");
}

#[test]
fn deciding_a_call_that_the_server_ran_by_itself_kills_the_run_without_a_word() {
    // Trap 2.
    let server = RealServer::start(&Model::script([Reply::calls([("a", "view"), ("b", "create")])]));
    let session = session(&server);
    let run = send(&server, &session, "go");
    let mut events = server.events(&session, Some(0));
    up_to("tool_execution_completed", &mut events);
    let accept = json!({ "action": "accept" });
    let answer = decide(&server, &session, &run, &json!({ "a": accept, "b": accept }));
    assert_eq!(answer, (200, json!({ "accepted": true, "run_id": run })));
    real_server::eventually("the run to fail", || {
        (server.run_status(&session) == json!({ "state": "failed" })).then_some(())
    });
    let seen = server.events(&session, Some(0)).take(7).collect::<Vec<_>>();
    assert_eq!(names(&seen)[6], "tool_execution_completed");
    let (_, pending) = server.get(&format!("/v1/sessions/{session}/tools/pending"));
    assert_eq!(pending, json!({ "run_id": null, "tool_calls": [] }));
}

#[test]
fn cancel_does_not_wake_a_run_that_waits_but_an_empty_decision_does() {
    // Trap 5.
    let server = RealServer::start(&Model::script([Reply::calls([("a", "create")])]));
    let session = session(&server);
    let run = send(&server, &session, "go");
    let mut events = server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    let answer = server.post(&format!("/v1/sessions/{session}/cancel"), &json!({ "run_id": run }));
    assert_eq!(answer, (200, json!({ "cancelled": true, "run_id": run })));
    assert_eq!(server.run_status(&session), json!({ "state": "running", "run_id": run }));
    assert_eq!(decide(&server, &session, &run, &json!({})).0, 200);
    let end = up_to("run_completed", &mut events);
    assert_eq!(names(&end), ["tool_execution_completed", "turn_completed", "run_completed"]);
    assert_eq!(end[0].data["event"]["ToolExecutionCompleted"]["result"], "TOOL_CALL_CANCELLED");
    assert_eq!(end[2].data["event"]["RunCompleted"]["stop_reason"], "cancelled");
    server.wait_until_idle(&session);
}

#[test]
fn an_empty_decision_alone_changes_nothing() {
    let server = RealServer::start(&Model::script([Reply::calls([("a", "create")]), Reply::text("done")]));
    let session = session(&server);
    let run = send(&server, &session, "go");
    let mut events = server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    assert_eq!(decide(&server, &session, &run, &json!({})).0, 200);
    assert_eq!(decide(&server, &session, &run, &json!({ "a": { "action": "accept" } })).0, 200);
    let end = up_to("run_completed", &mut events);
    assert_eq!(names(&end)[..2], ["tool_execution_started", "tool_execution_completed"]);
    assert_eq!(end.last().unwrap().data["event"]["RunCompleted"]["stop_reason"], "completed");
}

#[test]
fn a_session_takes_a_new_message_soon_after_its_run_ended() {
    // Trap 8: not at once, which is why the second send may have to be repeated.
    let server = RealServer::start(&Model::always(Reply::text("yes")));
    let session = session(&server);
    let mut events = server.events(&session, Some(0));
    for _ in 0..10 {
        let message = json!({ "message": { "role": "user", "content": "again" } });
        real_server::eventually("the message to be taken", || {
            let (status, body) = server.post(&format!("/v1/sessions/{session}/messages"), &message);
            assert!(status == 200 || body["code"] == "session_already_running", "{status} {body}");
            (status == 200).then_some(())
        });
        up_to("run_completed", &mut events);
    }
}

#[test]
fn a_result_of_ones_own_reaches_the_model_and_a_rejections_content_does_not() {
    // Trap 9.
    let model = Model::script([Reply::calls([("a", "create"), ("b", "create")]), Reply::text("I see")]);
    let server = RealServer::start(&model);
    let session = session(&server);
    let run = send(&server, &session, "go");
    let mut events = server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    let decisions = json!({
        "a": { "action": "custom_result", "content": "not on a Friday" },
        "b": { "action": "reject", "content": "nor this" },
    });
    assert_eq!(decide(&server, &session, &run, &decisions).0, 200);
    let seen = up_to("run_completed", &mut events);
    // A result of one's own looks like a tool that ran without a start.
    assert_eq!(names(&seen)[..2], ["tool_execution_completed", "tool_rejected"]);
    let request = model.wait_for_request(2);
    assert_eq!(request.tool_result("a").unwrap(), "not on a Friday");
    assert_eq!(request.tool_result("b").unwrap(), "Tool call rejected by user");
}

#[test]
fn an_overflown_ring_tells_of_the_gap_and_replays_nothing() {
    let options = Options { events_kept: 4, ..Options::default() };
    let server = RealServer::start_with(options, &Model::script([Reply::text("hello")]));
    let session = session(&server);
    send(&server, &session, "hi");
    server.wait_until_idle(&session);
    let gap = server.events(&session, Some(0)).next().unwrap();
    assert_eq!(gap.name, "gap_detected");
    assert_eq!(gap.id, None);
    assert_eq!(
        gap.data,
        json!({
            "requested_after_id": 0,
            "oldest_available_id": 4,
            "newest_available_id": 7,
            "resume_hint": "refresh_snapshot_then_resume",
        })
    );
    assert_eq!(server.events(&session, Some(3)).next().unwrap().id, Some(4));
}

#[test]
fn a_restart_forgets_runs_and_events_but_not_sessions() {
    // Trap 12.
    let gate = Gate::shut();
    let model = Model::script([Reply::text("never").behind(&gate)]);
    let mut server = RealServer::start(&model);
    let session = session(&server);
    send(&server, &session, "hi");
    model.wait_for_request(1);
    server.restart();
    assert_eq!(server.run_status(&session), json!({ "state": "idle" }));
}

#[test]
fn errors_have_these_shapes() {
    let server = RealServer::start(&Model::script([]));
    let unknown = "00000000-0000-4000-8000-000000000000";
    let (status, body) = server.get(&format!("/v1/sessions/{unknown}"));
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
    // Trap 10: these two do not look whether the session exists.
    assert_eq!(server.get(&format!("/v1/sessions/{unknown}/tools/pending")).0, 200);
    let cancel = server.post(&format!("/v1/sessions/{unknown}/cancel"), &json!({ "run_id": unknown }));
    assert_eq!((cancel.0, &cancel.1["code"]), (409, &json!("session_not_running")));
    let (status, body) = server.get("/v1/sessions/not-a-uuid");
    assert_eq!(status, 400);
    assert!(body.is_string(), "plain text: {body}");
    let (status, body) = server.post("/v1/sessions", &json!({ "title": 1 }));
    assert_eq!(status, 422);
    assert!(body.is_string(), "plain text: {body}");
}

#[test]
fn two_calls_with_one_id_cannot_both_be_decided() {
    let server = RealServer::start(&Model::obedient());
    let session = session(&server);
    let run = send(&server, &session, "a=create a=create");
    let mut events = server.events(&session, Some(0));
    up_to("waiting_for_tool_approval", &mut events);
    let accept = json!({ "a": { "action": "accept" } });
    assert_eq!(decide(&server, &session, &run, &accept).0, 200);
    up_to("tool_execution_completed", &mut events);
    assert_eq!(server.run_status(&session)["state"], "running");
    real_server::eventually("the run to fail", || {
        // One that comes while the tool's end is still being written down is dropped: trap 3.
        decide(&server, &session, &run, &accept);
        (server.run_status(&session)["state"] == "failed").then_some(())
    });
}

#[test]
fn a_model_error_that_speaks_of_token_limits_is_retried_for_ever() {
    let model = Model::always(Reply::error(429, "rate limit reached for tokens per minute"));
    let server = RealServer::start(&model);
    let session = session(&server);
    let run = send(&server, &session, "go");
    let mut events = server.events(&session, Some(0));
    for _ in 0..100 {
        let turn = up_to("turn_started", &mut events);
        assert_eq!(turn.last().unwrap().data["event"]["TurnStarted"]["turn"], 1);
    }
    server.post(&format!("/v1/sessions/{session}/cancel"), &json!({ "run_id": run }));
    let last = up_to("run_completed", &mut events);
    assert_eq!(last.last().unwrap().data["event"]["RunCompleted"]["stop_reason"], "cancelled");
}

#[test]
fn some_of_what_is_asked_for_is_passed_over_in_silence() {
    let model = Model::always(Reply::text("yes"));
    let server = RealServer::start(&model);
    let session = session(&server);
    let send = |text: &str, system: &str| {
        let mut events = server.events(&session, None);
        server.wait_until_idle(&session);
        let message = json!({
            "message": { "role": "user", "content": text },
            // No sandbox is configured: the run goes on outside of one.
            "sandbox": true,
            "context": [{ "name": "notes", "content": "x".repeat(50_000) }],
            "overrides": { "system_prompt": system },
        });
        assert_eq!(server.post(&format!("/v1/sessions/{session}/messages"), &message).0, 200);
        up_to("run_completed", &mut events);
    };
    send("one", "Be brief.");
    send("two", "Be long.");
    for request in model.requests() {
        let system = request.messages()[0]["content"].to_string();
        // A session keeps the system prompt of its first run.
        assert!(system.contains("Be brief.") && !system.contains("Be long."), "{system}");
        // A context of more than 20 000 characters loses its middle.
        let kept = request.user_text().matches('x').count();
        assert!((15_000..21_000).contains(&kept), "{kept} of 50 000");
    }
}

//! The fake server itself: it must obey the protocol's traps, or the other suites prove nothing.

use crate::support::PATIENCE;
use crate::support::agent::{
    Agent, Decision, Effect, Fault, Options, Policy, Route, Starting, TOKEN, call, command_task, subagent_task,
};
use crate::support::http::Ending;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use uuid::Uuid;

fn connect(agent: &Agent) -> TcpStream {
    let stream = TcpStream::connect(agent.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A request by hand: the status and the body.
fn ask(agent: &Agent, method: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let mut stream = connect(agent);
    let body = if method == "POST" { body.to_string() } else { String::new() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         idempotency-key: {key}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or(json!(body)))
}

fn get(agent: &Agent, path: &str) -> Value {
    let (status, body) = ask(agent, "GET", path, "", &Value::Null);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn state(agent: &Agent, session: Uuid) -> Value {
    get(agent, &format!("/v1/sessions/{session}"))["session"]["run_status"]["state"].clone()
}

fn decide(agent: &Agent, session: Uuid, run: Uuid, key: &str, decisions: &Value) -> u16 {
    let body = json!({ "run_id": run.to_string(), "decisions": decisions });
    ask(agent, "POST", &format!("/v1/sessions/{session}/tools/decisions"), key, &body).0
}

/// The lines of an event stream, as they come.
fn subscribe(agent: &Agent, session: Uuid, after: Option<u64>) -> impl Iterator<Item = String> {
    let mut stream = connect(agent);
    let after = after.map_or(String::new(), |after| format!("last-event-id: {after}\r\n"));
    write!(stream, "GET /v1/sessions/{session}/events HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n{after}\r\n")
        .unwrap();
    // The framing of the chunks stays in, which does no harm to whole lines.
    BufReader::new(stream).lines().map_while(Result::ok)
}

/// The names of events up to and with this one.
fn names_until(lines: &mut impl Iterator<Item = String>, last: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in lines {
        if let Some(name) = line.strip_prefix("event: ") {
            names.push(name.to_owned());
            if name == last {
                return names;
            }
        }
    }
    panic!("no {last} after {names:?}");
}

#[test]
fn a_message_starts_a_run_with_the_servers_events() {
    let agent = Agent::start();
    let (status, session) = ask(&agent, "POST", "/v1/sessions", "a", &json!({ "title": "a title", "cwd": "/srv" }));
    assert_eq!(status, 201);
    let session: Uuid = session["id"].as_str().unwrap().parse().unwrap();
    let message = json!({ "message": { "role": "user", "content": "hi" }, "type": "message" });
    let path = format!("/v1/sessions/{session}/messages");
    let (status, begun) = ask(&agent, "POST", &path, "b", &message);
    assert_eq!(status, 200);
    assert_eq!(ask(&agent, "POST", &path, "b", &message), (200, begun.clone()), "the stored answer");
    let (status, refused) = ask(&agent, "POST", &path, "b", &json!({}));
    assert_eq!((status, &refused["code"]), (409, &json!("idempotency_key_reused")));
    let (status, refused) = ask(&agent, "POST", &path, "c", &message);
    assert_eq!((status, &refused["code"]), (409, &json!("session_already_running")));
    let run = agent.next_run();
    assert_eq!(begun["run_id"], run.id.to_string());
    run.text("Hello");
    run.complete();
    let data = subscribe(&agent, session, Some(2)).find(|line| line.starts_with("data: ")).unwrap();
    let data = data.trim_start_matches("data: ");
    assert!(data.starts_with(&format!(r#"{{"id":3,"session_id":"{session}","run_id":"{}","timestamp":""#, run.id)));
    assert!(
        data.ends_with(&format!(r#""event":{{"TextDelta":{{"run_id":"{}","delta":"Hello"}}}}}}"#, run.id)),
        "{data}"
    );
    assert_eq!(state(&agent, session), "idle");
    let messages = get(&agent, &path);
    assert_eq!(messages["total"], 2);
    assert_eq!(messages["messages"][1]["content"][0]["text"], "Hello");
}

#[test]
fn a_stream_without_last_event_id_has_only_later_events() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.text("early");
    let mut bare = subscribe(&agent, run.session, None);
    agent.wait_for_streams(1);
    run.text("late");
    assert_eq!(names_until(&mut bare, "text_delta"), ["text_delta"]);
    let mut replayed = subscribe(&agent, run.session, Some(0));
    assert_eq!(names_until(&mut replayed, "text_delta"), ["run_started", "turn_started", "text_delta"]);
}

#[test]
fn a_decision_about_a_call_that_the_server_approved_kills_the_run_silently() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view"), call("b", "create")]);
    run.wait_until_waiting_at("b");
    let accept = json!({ "action": "accept" });
    assert_eq!(decide(&agent, run.session, run.id, "k", &json!({ "a": accept, "b": accept })), 200);
    assert!(run.is_over());
    assert_eq!(state(&agent, run.session), "failed");
    let mut events = subscribe(&agent, run.session, Some(run.newest_event() - 1));
    assert_eq!(names_until(&mut events, "tool_execution_completed"), ["tool_execution_completed"]);
    agent.forgive("trap 2");
}

#[test]
fn a_decision_while_a_tool_runs_is_dropped_and_stays_queued() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view").held().with_slow_checkpoint(), call("b", "create")]);
    let accept = json!({ "b": { "action": "accept" } });
    assert_eq!(decide(&agent, run.session, run.id, "1", &accept), 200);
    run.finish_tool("a", "seen", false);
    run.write_checkpoint("a");
    run.wait_until_waiting_at("b");
    assert_eq!(run.decisions(), [("b".to_owned(), Decision::Accept, Effect::Dropped)]);
    assert_eq!(decide(&agent, run.session, run.id, "1", &accept), 200, "the old key replays the answer");
    run.wait_until_waiting_at("b");
    assert_eq!(decide(&agent, run.session, run.id, "2", &accept), 200);
    run.propose([call("b", "create")]);
    run.wait_until_thinking();
    assert_eq!(run.decisions().len(), 3, "the queued decision was used for the later call of the same id");
    run.complete();
}

#[test]
fn the_server_stops_at_the_first_call_that_it_must_ask_about() {
    let agent = Agent::with_policy(Policy::None);
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view"), call("b", "create"), call("c", "remove")]);
    run.wait_until_waiting_at("a");
    assert_eq!(decide(&agent, run.session, run.id, "1", &json!({ "b": { "action": "reject" } })), 200);
    run.wait_until_waiting_at("a");
    let custom = json!({ "action": "custom_result", "content": "not now" });
    assert_eq!(decide(&agent, run.session, run.id, "2", &json!({ "a": custom, "c": { "action": "accept" } })), 200);
    run.complete();
    let mut events = subscribe(&agent, run.session, Some(5));
    let told = ["tool_execution_completed", "tool_rejected", "tool_execution_started", "tool_execution_completed"];
    assert_eq!(names_until(&mut events, "turn_completed")[..4], told);
}

#[test]
fn a_cancel_does_not_wake_a_waiting_run_but_an_empty_decision_does() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "create")]);
    let path = format!("/v1/sessions/{}/cancel", run.session);
    let (status, answer) = ask(&agent, "POST", &path, "1", &json!({ "run_id": run.id.to_string() }));
    assert_eq!((status, &answer["cancelled"]), (200, &json!(true)));
    assert_eq!(state(&agent, run.session), "running");
    assert!(!run.is_over());
    assert_eq!(decide(&agent, run.session, run.id, "2", &json!({})), 200);
    assert!(run.is_over());
    assert_eq!(state(&agent, run.session), "idle");
    assert_eq!(decide(&agent, run.session, run.id, "3", &json!({})), 409);
}

#[test]
fn a_cancel_during_inference_takes_effect_only_if_the_model_calls_tools() {
    let agent = Agent::start();
    let [talker, caller] = [(); 2].map(|()| agent.begin_run(agent.session()));
    for run in [&talker, &caller] {
        run.cancel();
        assert!(!run.is_over());
        run.text("Still here.");
    }
    talker.complete();
    caller.propose([call("a", "view").held()]);
    for (run, end) in [(talker, "completed"), (caller, "cancelled")] {
        let mut events = subscribe(&agent, run.session, Some(run.newest_event() - 1));
        let end = format!(r#""stop_reason":"{end}""#);
        assert!(events.find(|line| line.starts_with("data: ")).unwrap().contains(&end));
    }
}

#[test]
fn an_id_that_has_left_the_ring_is_a_gap_and_a_restart_drops_the_events() {
    let agent = Agent::with(Options { events_kept: 2, ..Options::default() });
    let run = agent.begin_run(agent.session());
    run.text("one");
    run.text("two");
    let gap = subscribe(&agent, run.session, Some(0)).find(|line| line.starts_with("data: ")).unwrap();
    assert!(gap.contains(r#""oldest_available_id":3,"newest_available_id":4"#), "{gap}");
    let mut rest = subscribe(&agent, run.session, Some(2));
    assert_eq!(names_until(&mut rest, "text_delta"), ["text_delta"]);
    agent.restart();
    assert_eq!(state(&agent, run.session), "idle");
    let again = agent.begin_run(run.session);
    assert_eq!(again.newest_event(), 2);
}

#[test]
fn a_state_that_lags_behind_refuses_messages_after_the_end() {
    let agent = Agent::start();
    agent.lag();
    let run = agent.begin_run(agent.session());
    run.complete();
    assert_eq!(state(&agent, run.session), "running");
    agent.catch_up();
    assert_eq!(state(&agent, run.session), "idle");
}

#[test]
fn streams_and_answers_can_be_corrupted() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    agent.spoil_stream(Fault::none().skip(1).repeat(2).delay(2, 3).end_after(2, Ending::Cut));
    run.text("said");
    let names: Vec<String> =
        subscribe(&agent, run.session, Some(0)).filter(|line| line.starts_with("id: ")).collect();
    assert_eq!(names, ["id: 3", "id: 2", "id: 2"]);
    for (ending, reset) in [(Ending::Cut, false), (Ending::Reset, true)] {
        agent.next(Route::Config).lose_request(ending);
        let mut stream = connect(&agent);
        write!(stream, "GET /v1/config HTTP/1.1\r\n\r\n").unwrap();
        let read = stream.read_to_end(&mut Vec::new());
        let was_reset = read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert_eq!(was_reset, reset, "{ending:?}");
    }
    agent.next(Route::Cancel).lose_answer(Ending::Cut);
    let path = format!("/v1/sessions/{}/cancel", run.session);
    assert_eq!(ask(&agent, "POST", &path, "1", &json!({ "run_id": run.id.to_string() })).0, 0);
    run.wait_until_cancelled();
}

#[test]
fn a_server_that_denies_a_call_rejects_it_by_itself() {
    let agent = Agent::with_policy(Policy::only(["view"]));
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "create"), call("b", "view")]);
    run.wait_until_thinking();
    let mut events = subscribe(&agent, run.session, Some(5));
    assert_eq!(names_until(&mut events, "turn_completed")[..2], ["tool_rejected", "tool_execution_started"]);
    run.decide([("c", Decision::Accept)]);
    run.complete();
    run.wait_until_over();
    assert_eq!(run.decisions(), [], "the loop did not look at it any more");
}

#[test]
fn an_answer_can_be_delayed_after_its_effect() {
    let agent = Agent::start();
    let gate = agent.next(Route::CreateSession).hold_answer();
    std::thread::scope(|scope| {
        let asked =
            scope.spawn(|| ask(&agent, "POST", "/v1/sessions", "1", &json!({ "title": "t", "cwd": "/srv" })));
        gate.wait_until_reached();
        assert!(!asked.is_finished());
        gate.open();
        let (status, session) = asked.join().unwrap();
        assert_eq!(status, 201);
        let session = session["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(agent.session_details(session), ("t".to_owned(), Some("/srv".to_owned())));
    });
    agent.every(Route::Config).fail(503, "starting");
    assert_eq!(ask(&agent, "GET", "/v1/config", "", &Value::Null).1["code"], "starting");
    agent.behave();
    agent.restart_with_token("another");
    assert_eq!(ask(&agent, "GET", "/v1/config", "", &Value::Null).1["code"], "unauthorized");
}

#[test]
fn a_stream_can_be_cut_at_a_byte_and_can_stall() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    agent.spoil_stream(Fault::none().end_at_byte(9, Ending::Clean));
    let cut: Vec<String> = subscribe(&agent, run.session, Some(0)).collect();
    assert_eq!(cut[cut.len() - 5..], ["9", "id: 1", "eve", "0", ""]);
    agent.spoil_stream(Fault::none().stall_after(1));
    let mut stalled = subscribe(&agent, run.session, Some(0));
    assert_eq!(names_until(&mut stalled, "run_started"), ["run_started"]);
    run.complete();
    agent.drop_streams(Ending::Cut);
    assert!(!stalled.any(|line| line.starts_with("id: ")));
}

#[test]
fn health_needs_no_token_and_counts_from_the_last_restart() {
    let agent = Agent::with(Options { sandbox: Some(json!({ "healthy": true })), ..Options::default() });
    let session = agent.session();
    let health = get(&agent, "/v1/health");
    assert_eq!(
        (health["version"].clone(), health["sandbox"].clone()),
        (json!("0.3.88"), json!({ "healthy": true }))
    );
    assert!(health["uptime_seconds"].as_u64().unwrap() >= 86_400);
    agent.restart_with_token("another");
    assert!(get(&agent, "/v1/health")["uptime_seconds"].as_u64().unwrap() < 60);
    agent.set_uptime(Duration::from_secs(500));
    assert!(get(&agent, "/v1/health")["uptime_seconds"].as_u64().unwrap() >= 500);
    agent.set_token(TOKEN);
    assert_eq!(state(&agent, session), "idle");
}

#[test]
fn a_run_whose_sandbox_does_not_start_leaves_no_event_and_no_message_behind() {
    let agent = Agent::start();
    let old = agent.begin_run(agent.session());
    old.text("Yesterday.");
    old.complete();
    let path = format!("/v1/sessions/{}", old.session);
    let messages = get(&agent, &format!("{path}/messages"));
    let newest = old.newest_event();
    agent.hold_starts(Starting::Sandbox);
    let run = agent.begin_run(old.session);
    assert_eq!(
        get(&agent, &path)["session"]["run_status"],
        json!({ "state": "running", "run_id": run.id.to_string() })
    );
    let body = json!({ "run_id": run.id.to_string() });
    assert_eq!(ask(&agent, "POST", &format!("{path}/cancel"), "a", &body).0, 200);
    assert!(run.is_cancelled() && !run.is_over());
    run.fail_silently();
    assert_eq!(get(&agent, &path)["session"]["run_status"], json!({ "state": "failed" }));
    assert_eq!(get(&agent, &format!("{path}/messages")), messages);
    assert_eq!(run.newest_event(), newest);
}

#[test]
fn a_starting_run_accepts_no_cancel() {
    let agent = Agent::start();
    agent.hold_starts(Starting::Actor);
    let run = agent.begin_run(agent.session());
    assert_eq!(state(&agent, run.session), "starting");
    let path = format!("/v1/sessions/{}/cancel", run.session);
    let (status, body) = ask(&agent, "POST", &path, "a", &json!({ "run_id": run.id.to_string() }));
    assert_eq!((status, body["code"].clone()), (409, json!("session_already_running")));
    run.start();
    run.complete();
    assert_eq!(state(&agent, run.session), "idle");
}

#[test]
fn a_session_is_busy_until_its_sandbox_is_torn_down() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.give_sandbox();
    run.text("Done.");
    run.complete();
    assert_eq!(state(&agent, run.session), "running");
    let path = format!("/v1/sessions/{}/messages", run.session);
    let message = json!({ "message": { "role": "user", "content": "hi" }, "type": "message" });
    assert_eq!(ask(&agent, "POST", &path, "a", &message).1["code"], "session_already_running");
    run.tear_down();
    assert_eq!(state(&agent, run.session), "idle");
    assert_eq!(get(&agent, &path)["total"], 2);
    assert_eq!(ask(&agent, "POST", &path, "b", &message).0, 200);
}

#[test]
fn sessions_are_listed_newest_first_in_pages_with_their_own_total() {
    let agent = Agent::start();
    let sessions: Vec<Uuid> = (0..3).map(|_| agent.session()).collect();
    let run = agent.begin_run(sessions[0]);
    let ids = |query: &str| {
        let page = get(&agent, &format!("/v1/sessions{query}"));
        let sessions = page["sessions"].as_array().unwrap();
        assert_eq!(page["total"], sessions.len());
        sessions.iter().map(|session| session["id"].as_str().unwrap().parse().unwrap()).collect::<Vec<Uuid>>()
    };
    assert_eq!(ids(""), [sessions[0], sessions[2], sessions[1]]);
    assert_eq!(ids("?limit=2"), [sessions[0], sessions[2]]);
    assert_eq!(ids("?limit=2&offset=2"), [sessions[1]]);
    assert_eq!(ids("?search=OLD").len(), 3);
    assert!(ids("?search=new").is_empty() && ids("?status=DELETED").is_empty());
    let first = &get(&agent, "/v1/sessions?limit=1")["sessions"][0];
    assert_eq!(first["run_status"]["run_id"], run.id.to_string());
}

#[test]
fn a_message_may_have_parts() {
    let agent = Agent::start();
    let path = format!("/v1/sessions/{}/messages", agent.session());
    let image = json!({ "type": "image", "url": "data:image/png;base64,aGk=" });
    let message = |content: Value| json!({ "message": { "role": "user", "content": content }, "type": "message" });
    assert_eq!(ask(&agent, "POST", &path, "a", &message(json!([{ "type": "sound" }]))).0, 422);
    let parts = message(json!([{ "type": "text", "text": "hi" }, image]));
    assert_eq!(ask(&agent, "POST", &path, "b", &parts).0, 200);
    assert_eq!(get(&agent, &path)["messages"][0]["content"][2], image);
}

#[test]
fn a_list_with_command_scopes_approves_those_commands() {
    // Nobody asks it: the runs are begun behind its back.
    let agent = Agent::replica();
    let policy = Policy::approving(["run_command::git::status", "run_command::ls", "stakpak__view", "a__b__c"]);
    for (command, asks) in [
        ("git status", false),
        ("git status -s", false),
        ("git push", true),
        ("ls -l", false),
        ("rm x", true),
        ("ls | rm x", true),
    ] {
        for tool in ["run_command", "run_remote_command"] {
            let run = agent.begin_run_with(agent.session(), Some(policy.clone()));
            run.propose([call("a", tool).with(json!({ "command": command }))]);
            if asks {
                run.wait_until_waiting_at("a");
            } else {
                run.wait_until_thinking();
            }
        }
    }
    for (tool, asks) in [("view", false), ("b__c", true), ("x__b__c", false), ("create", true)] {
        let run = agent.begin_run_with(agent.session(), Some(policy.clone()));
        run.propose([call("a", tool)]);
        if asks {
            run.wait_until_waiting_at("a");
        } else {
            run.wait_until_thinking();
        }
    }
}

#[test]
fn compactions_and_background_tasks_have_the_servers_events() {
    let agent = Agent::with_policy(Policy::All);
    let run = agent.begin_run(agent.session());
    run.compact("tokens per minute");
    run.propose([command_task("a", "dmt6b3"), subagent_task("b", "x1")]);
    run.complete();
    let events: Vec<String> = subscribe(&agent, run.session, Some(0))
        .filter(|line| line.starts_with("data: "))
        .take_while(|line| !line.contains("RunCompleted"))
        .collect();
    for expected in [
        r#"{"CompactionStarted":{"run_id":"#,
        r#""reason":"tokens per minute""#,
        r#"\"id\": \"dmt6b3\""#,
        "Task ID: x1",
    ] {
        assert!(events.iter().any(|event| event.contains(expected)), "{expected} in {events:#?}");
    }
}

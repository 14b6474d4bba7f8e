//! The bodies that the server sends and expects.

use super::*;
use serde::de::DeserializeOwned;
use serde_json::json;

fn read<T: DeserializeOwned>(json: &serde_json::Value) -> T {
    serde_json::from_str(&json.to_string()).unwrap()
}

const RUN: &str = "9e412a09-da4e-44e8-ae49-604b382a3b0b";

fn run() -> Uuid {
    RUN.parse().unwrap()
}

#[test]
fn health_is_read_with_and_without_its_optional_fields() {
    let full = json!({ "status": "ok", "version": "0.3.88", "uptime_seconds": 7, "sandbox": {
        "mode": "persistent", "healthy": false, "consecutive_ok": 0, "consecutive_failures": 2, "last_ok": null,
        "last_error": "no image" } });
    let sandbox =
        Sandbox { mode: Some("persistent".into()), healthy: Some(false), last_error: Some("no image".into()) };
    let health = Health {
        status: "ok".into(),
        version: Some("0.3.88".into()),
        uptime_seconds: Some(7),
        sandbox: Some(sandbox),
    };
    assert_eq!(read::<Health>(&full), health);
    let least = Health { status: "ok".into(), version: None, uptime_seconds: None, sandbox: None };
    assert_eq!(read::<Health>(&json!({ "status": "ok" })), least);
    assert!(serde_json::from_str::<Health>("{}").is_err(), "any object would be a health");
}

#[test]
fn an_unknown_mode_of_approval_is_custom() {
    for (word, mode) in [
        ("none", AutoApprove::None),
        ("all", AutoApprove::All),
        ("custom", AutoApprove::Custom),
        ("by_moonlight", AutoApprove::Custom),
    ] {
        let config: Config = read(&json!({ "default_model": "m", "auto_approve_mode": word }));
        assert_eq!(config.auto_approve_mode, mode, "{word}");
    }
}

#[test]
fn an_active_session_names_its_run() {
    for (state, run_id, expected) in [
        ("starting", Some(RUN), SessionState::Active(run())),
        ("running", Some(RUN), SessionState::Active(run())),
        ("running", None, SessionState::Unknown),
        ("idle", None, SessionState::Idle),
        ("idle", Some(RUN), SessionState::Idle),
        ("failed", None, SessionState::Failed),
        ("hibernating", None, SessionState::Unknown),
        ("cancelling", Some(RUN), SessionState::Active(run())),
    ] {
        let status = json!({ "state": state, "run_id": run_id });
        let detail: SessionDetail = read(&json!({ "session": { "run_status": status }, "config": {} }));
        assert_eq!(detail.session.state, expected, "{state}");
        let is_active = matches!(expected, SessionState::Active(_));
        assert_eq!(detail.session.state.active_run(), is_active.then(run), "{state}");
    }
}

#[test]
fn the_list_of_sessions_is_read_with_and_without_optional_fields() {
    let page = json!({ "sessions": [
        { "id": RUN, "title": "autopilot: x", "cwd": "/srv", "created_at": "2026-11-28T20:49:07Z",
          "updated_at": "2026-11-28T20:50:07Z", "run_status": { "state": "running", "run_id": RUN } },
        { "id": RUN, "title": "", "cwd": null, "run_status": { "state": "idle" } },
    ], "total": 2 });
    let listed = ListedSession {
        id: run(),
        title: Some("autopilot: x".into()),
        cwd: Some("/srv".into()),
        created_at: Some("2026-11-28T20:49:07Z".into()),
        updated_at: Some("2026-11-28T20:50:07Z".into()),
        state: SessionState::Active(run()),
    };
    let least = ListedSession {
        id: run(),
        title: Some(String::new()),
        cwd: None,
        created_at: None,
        updated_at: None,
        state: SessionState::Idle,
    };
    assert_eq!(read::<Sessions>(&page).sessions, [listed, least]);
}

#[test]
fn a_prompt_is_a_text_or_parts() {
    let text = UserContent::Text("go".into());
    assert_eq!(serde_json::to_value(text).unwrap(), json!("go"));
    let parts = UserContent::Parts(vec![
        UserPart::Text { text: "what is this?".into() },
        UserPart::Image { url: "data:image/png;base64,AA==".into() },
    ]);
    let expected = json!([
        { "type": "text", "text": "what is this?" },
        { "type": "image", "url": "data:image/png;base64,AA==" },
    ]);
    assert_eq!(serde_json::to_value(parts).unwrap(), expected);
}

#[test]
fn an_override_of_approval_is_a_word_or_a_list() {
    for (approve, expected) in [
        (ApproveOverride::None, json!("none")),
        (ApproveOverride::All, json!("all")),
        (ApproveOverride::Tools(vec!["view".into(), "run_command::ls".into()]), json!(["view", "run_command::ls"])),
    ] {
        let overrides = Overrides { auto_approve: Some(approve), ..Overrides::default() };
        assert!(!overrides.is_empty());
        assert_eq!(serde_json::to_value(overrides).unwrap(), json!({ "auto_approve": expected }));
    }
    assert!(Overrides::default().is_empty());
}

fn messages(json: &serde_json::Value) -> Vec<Message> {
    read::<Messages>(&json!({ "messages": json, "total": 9 })).messages
}

fn call(id: &str) -> serde_json::Value {
    json!({ "type": "tool_call", "id": id, "name": "p__view", "arguments": { "id": "x", "text": [1, "y"] } })
}

fn result(id: &str) -> serde_json::Value {
    let part = json!({ "type": "tool_result", "tool_call_id": id, "content": { "text": "no text of the answer" } });
    json!({ "role": "tool", "content": [part] })
}

#[test]
fn a_message_is_a_text_or_parts() {
    let read = messages(&json!([
        { "role": "user", "content": "go" },
        { "role": "assistant", "content": [{ "type": "text", "text": "a" }, call("c"), { "type": "text", "text": "b" },
            { "type": "image", "url": "data:," }, { "type": "hologram" }, {}] },
        result("c"),
        { "role": "assistant", "content": [{ "type": "tool_result", "tool_call_id": "d" }] },
    ]));
    let told: Vec<_> = read.iter().map(|message| (message.role.as_str(), message.content.text.as_str())).collect();
    assert_eq!(told, [("user", "go"), ("assistant", "ab"), ("tool", ""), ("assistant", "")]);
    assert_eq!(read[1].content.calls, ["c"]);
    let results: Vec<_> = read.iter().flat_map(Message::results).collect();
    assert_eq!(results, ["c"], "only a tool's message has results");
    for content in [json!(17), json!({}), json!([17]), json!(["x"])] {
        let page = json!({ "messages": [{ "role": "user", "content": content }], "total": 1 });
        assert!(serde_json::from_str::<Messages>(&page.to_string()).is_err(), "{content}");
    }
}

#[test]
fn messages_show_whether_the_run_has_answered_or_called_tools() {
    let user = || json!({ "role": "user", "content": "go" });
    let says = |text: &str| json!({ "role": "assistant", "content": [{ "type": "text", "text": text }] });
    let calls = |ids: &[&str]| {
        let calls: Vec<_> = ids.iter().map(|id| call(id)).collect();
        json!({ "role": "assistant", "content": calls })
    };
    for (about, list, answer, open, called) in [
        ("nothing", vec![], false, false, false),
        ("a prompt", vec![user()], false, false, false),
        ("an answer", vec![user(), says("done")], true, false, false),
        ("a call", vec![user(), calls(&["a"])], false, true, true),
        ("one of two results", vec![user(), calls(&["a", "b"]), result("a")], false, true, true),
        ("all results", vec![user(), calls(&["a", "b"]), result("a"), result("b")], false, false, true),
        ("an answer after calls", vec![user(), calls(&["a"]), result("a"), says("done")], true, false, true),
        ("a prompt after an open call", vec![user(), calls(&["a"]), user()], false, false, false),
        ("the ID of an older result", vec![calls(&["a"]), result("a"), calls(&["a"])], false, true, true),
        ("a result alone", vec![result("a")], false, false, false),
    ] {
        let list = messages(&json!(list));
        let told = (end_with_answer(&list), end_with_open_call(&list), have_call_after_prompt(&list));
        assert_eq!(told, (answer, open, called), "{about}");
    }
}

#[test]
fn an_error_has_the_servers_code_if_there_is_one() {
    let error: Error = read(&json!({ "error": "Unauthorized", "code": "unauthorized", "request_id": "r" }));
    assert_eq!(error, Error { error: "Unauthorized".into(), code: "unauthorized".into() });
    assert_eq!(read::<Error>(&json!({})), Error::default());
}

//! What the server holds: `list`, `pending` without a session, `ping`.

use real_server::{Gate, Model, RealServer, Reply};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::field;

/// A server with one session of each kind: idle, running, failed, waiting (named in this order).
struct Kinds {
    server: RealServer,
    gate: Gate,
    sessions: [String; 4],
}

impl Kinds {
    fn start() -> Self {
        let gate = Gate::shut();
        let behind = gate.clone();
        let obedient = |prompt: &str| match prompt.split_once('=') {
            Some(call) => Reply::calls([call]),
            None => Reply::text("done"),
        };
        let model = Model::answering(move |request| match request.prompt().as_str() {
            "run on" => Reply::text("late").behind(&behind),
            "fail" => Reply::error(500, "out of order"),
            prompt if request.turns_before() == 0 => obedient(prompt),
            _ => Reply::text("done"),
        });
        let server = RealServer::start(&model);
        let sessions = ["be done", "run on", "fail", "a=create"].map(|prompt| {
            let detached = server.sortie(["run", "--detach", "--title", prompt, prompt]).run().exits(0);
            detached.stdout.trim().to_owned()
        });
        server.wait_until_idle(&sessions[0]);
        real_server::eventually("the failure", || {
            (server.run_status(&sessions[2])["state"] == "failed").then_some(())
        });
        Self { server, gate, sessions }
    }

    fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let list = self.server.sortie(["list", "-o", "json"]).and(arguments.iter().copied()).run();
        serde_json::from_str(&list.exits(0).stdout).expect("an array")
    }

    fn listed(&self, arguments: &[&str]) -> BTreeSet<String> {
        self.list(arguments).iter().map(|session| field(session, "id").to_owned()).collect()
    }
}

#[test]
fn list_shows_every_session_with_its_state() {
    let kinds = Kinds::start();
    let list = kinds.list(&[]);
    assert_eq!(list.len(), 4, "{list:#?}");
    let [idle, running, failed, waiting] = &kinds.sessions;
    for (id, state) in [(idle, "idle"), (running, "running"), (failed, "failed"), (waiting, "running")] {
        let session =
            list.iter().find(|session| session["id"] == **id).unwrap_or_else(|| panic!("no {id}: {list:#?}"));
        assert_eq!(session["state"], state, "{session:#}");
        assert_eq!(session["run_id"].is_string(), state == "running", "{session:#}");
        let keys: BTreeSet<&str> = session.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["id", "state", "title", "cwd", "created_at", "updated_at", "run_id"];
        assert_eq!(keys, BTreeSet::from(expected));
    }
    let times: Vec<&str> = list.iter().map(|session| field(session, "updated_at")).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:#?}");
    for (state, ids) in [
        ("idle", vec![idle]),
        ("running", vec![running, waiting]),
        ("failed", vec![failed]),
        ("waiting", vec![waiting]),
    ] {
        let ids: BTreeSet<String> = ids.into_iter().cloned().collect();
        assert_eq!(kinds.listed(&["--state", state]), ids, "{state}");
    }
    assert_eq!(kinds.list(&["--state", "waiting"])[0]["state"], "waiting");
    let text = kinds.server.sortie(["list"]).run().exits(0).stdout;
    for id in &kinds.sessions {
        assert_eq!(text.lines().filter(|line| line.contains(id.as_str())).count(), 1, "{text}");
    }
    kinds.gate.open();
}

#[test]
fn pending_without_a_session_shows_what_waits_anywhere() {
    let kinds = Kinds::start();
    let session = &kinds.sessions[3];
    let pending = kinds.server.sortie(["pending", "-o", "json"]).run().exits(10);
    let pending: Value = serde_json::from_str(&pending.stdout).expect("an array");
    assert_eq!(pending.as_array().unwrap().len(), 1, "{pending:#}");
    assert_eq!(pending[0]["session_id"], **session);
    assert_eq!(pending[0]["run_id"], kinds.server.run_status(session)["run_id"]);
    let call = json!({ "id": "a", "name": "stakpak__create", "arguments": { "path": "/a" } });
    assert_eq!(pending[0]["tool_calls"], json!([call]));
    let run = &field(&pending[0], "run_id")[..8];
    assert!(field(&pending[0], "batch").starts_with(&format!("{run}.")), "{pending:#}");
    let alone = kinds.server.sortie(["pending", "-o", "json", session]).run().exits(10);
    assert_eq!(serde_json::from_str::<Value>(&alone.stdout).unwrap(), pending[0]);

    let text = kinds.server.sortie(["pending"]).run().exits(10);
    for part in [session.as_str(), "a", "create", "/a", field(&pending[0], "batch")] {
        assert!(text.stdout.contains(part), "{part:?} is not in {text:#?}");
    }
    let resume = ["resume", "--batch", field(&pending[0], "batch"), "--approve", "a", session];
    kinds.server.sortie(resume).run().says("done\n");
    kinds.server.sortie(["pending"]).run().says("");
    let none = kinds.server.sortie(["pending", "-o", "json"]).run().exits(0);
    assert_eq!(serde_json::from_str::<Value>(&none.stdout).unwrap(), json!([]));
    kinds.gate.open();
}

#[test]
fn a_batch_that_waits_no_more_is_not_approved() {
    // Two people were shown the same batch; the run has gone on to the next one when the second of them answers.
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--pause-on-approval", "a=create / b=remove"]).run();
    let record = run.exits(10).record();
    let (session, batch) = (field(&record, "session_id"), field(&record["pause_reason"], "batch"));
    let hint = field(&record, "resume_hint");
    assert!(hint.contains(batch) && hint.contains("--approve a") && !hint.contains("--approve-all"), "{hint}");
    let first = server.sortie(hint.split(' ').skip(1)).and(["-o", "json"]).run().exits(10).record();
    assert_eq!(crate::waiting(&first), ["b"]);
    let decisions = || server.requests().iter().filter(|line| line.ends_with("/tools/decisions")).count();
    let sent = decisions();
    for approval in [&["--approve-all"][..], &["--approve", "a"]] {
        let second = server.sortie(["resume", "-o", "json", "--batch", batch]).and(approval.iter().copied());
        let second = second.and([session]).run().fails("conflict");
        assert!(field(&second, "error").contains('b'), "what waits now: {second:#}");
    }
    assert_eq!(decisions(), sent);
}

#[test]
fn a_list_longer_than_a_page_is_whole() {
    let server = RealServer::start(&Model::script([]));
    for number in 0..230 {
        server.post("/v1/sessions", &json!({ "title": format!("session {number}") }));
    }
    let list = server.sortie(["list", "-o", "json"]).run().exits(0);
    let list: Vec<Value> = serde_json::from_str(&list.stdout).unwrap();
    let titles: BTreeSet<&str> = list.iter().map(|session| field(session, "title")).collect();
    assert_eq!((list.len(), titles.len()), (230, 230));
    server.sortie(["pending"]).run().says("");
}

#[test]
fn a_server_without_sessions_has_nothing_to_list() {
    let server = RealServer::start(&Model::script([]));
    let list = server.sortie(["list", "-o", "json"]).run().exits(0);
    assert_eq!(serde_json::from_str::<Value>(&list.stdout).unwrap(), json!([]));
    server.sortie(["pending"]).run().says("");
}

#[test]
fn ping_tells_the_servers_version() {
    let server = RealServer::start(&Model::script([]));
    let ping = server.sortie(["ping"]).run().exits(0);
    assert!(format!("{}{}", ping.stdout, ping.stderr).contains("0.3.88"), "{ping:#?}");
    let ping = server.sortie(["ping", "-o", "json"]).run().exits(0);
    let ping: Value = serde_json::from_str(&ping.stdout).expect("JSON");
    assert!(ping.to_string().contains("0.3.88"), "{ping:#}");
}

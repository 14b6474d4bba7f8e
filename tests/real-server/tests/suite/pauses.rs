//! Runs that wait for a decision, and the commands that take it from there.

use real_server::{Gate, Model, Options, RealServer, Reply};
use serde_json::Value;

use crate::{NO_TOOLS, REJECTED, field, waiting};

/// Runs the prompt until it pauses.
fn paused(server: &RealServer, prompt: &str) -> Value {
    let run = server.sortie(["run", "--on-approval", "pause", "-o", "json", prompt]);
    run.run().exits(10).record()
}

#[test]
fn a_pause_lists_just_the_calls_that_wait() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=view b=create");
    let session = field(&record, "session_id");
    assert_eq!(record["outcome"], "paused");
    assert_eq!(record["exit_code"], 10);
    assert_eq!(record["reason"], "tool_approval_required");
    assert_eq!(record["paused"], true);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["timed_out"], false);
    assert_eq!(record["cancel_confirmed"], Value::Null);
    let calls = &record["pause_reason"]["pending_tool_calls"];
    assert_eq!(calls.as_array().unwrap().len(), 1, "{calls:#}");
    assert_eq!(calls[0]["id"], "b");
    assert_eq!(calls[0]["name"], "stakpak__create");
    assert_eq!(calls[0]["arguments"]["path"], "/b");
    assert!(field(&record, "resume_hint").contains(session), "{record:#}");
    // Nothing was cancelled: it waits.
    assert_eq!(server.run_status(session)["run_id"], record["run_id"]);
    assert!(!server.requests().iter().any(|line| line.ends_with("/cancel")));
}

#[test]
fn what_was_said_before_a_pause_is_printed_before_it() {
    let script = [Reply::text("I would like to write.").and_calls([("a", "create")]), Reply::text("Written.")];
    let server = RealServer::start(&Model::script(script));
    let run = server.sortie(["run", "--pause-on-approval", "write"]).run().exits(10);
    assert_eq!(run.stdout, "I would like to write.\n");
}

#[test]
fn resume_approves_all_in_another_process() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=view b=create c=view d=remove");
    let session = field(&record, "session_id");
    let run = server.sortie(["resume", "--approve-all", "-o", "json", session]).run();
    let resumed = run.exits(0).record();
    assert_eq!(resumed["session_id"], record["session_id"]);
    assert_eq!(resumed["run_id"], record["run_id"]);
    assert_eq!(resumed["agent_message"], "done");
    for call in ["a", "b", "c", "d"] {
        assert_eq!(server.tool_result(call), NO_TOOLS, "{call}");
    }
}

#[test]
fn resume_rejects_all() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=create b=remove");
    server.sortie(["resume", "--reject-all", field(&record, "session_id")]).run().exits(0);
    assert_ne!(server.tool_result("a"), NO_TOOLS);
    assert_ne!(server.tool_result("b"), NO_TOOLS);
}

#[test]
fn resume_decides_each_call_as_it_was_told_in_any_order() {
    let server = RealServer::start(&Model::obedient());
    for arguments in [
        ["--approve", "a", "--reject", "b", "--approve", "c"],
        ["--approve", "c", "--approve", "a", "--reject", "b"],
        ["--reject", "b", "--approve", "c", "--approve", "a"],
    ] {
        let record = paused(&server, "a=create b=remove c=run_command");
        assert_eq!(waiting(&record), ["a", "b", "c"], "{record:#}");
        let resume = server.sortie(["resume"]).and(arguments);
        resume.and([field(&record, "session_id")]).run().exits(0);
        assert_eq!(server.tool_result("a"), NO_TOOLS, "{arguments:?}");
        assert_eq!(server.tool_result("b"), REJECTED, "{arguments:?}");
        assert_eq!(server.tool_result("c"), NO_TOOLS, "{arguments:?}");
    }
}

#[test]
fn resume_rejects_what_it_was_not_told_about() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=create b=remove c=create");
    let resume = server.sortie(["resume", "--approve", "b", field(&record, "session_id")]);
    resume.run().exits(0);
    assert_ne!(server.tool_result("a"), NO_TOOLS);
    assert_eq!(server.tool_result("b"), NO_TOOLS);
    assert_ne!(server.tool_result("c"), NO_TOOLS);
}

#[test]
fn resume_refuses_an_unknown_call_before_it_sends_anything() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=create b=create");
    let session = field(&record, "session_id");
    let resume = ["resume", "-o", "json", "--approve", "a", "--approve", "nonsense", session];
    let refused = server.sortie(resume).run().fails("usage");
    assert_eq!(refused["cancel_confirmed"], Value::Null, "it is no end of the run: {refused:#}");
    let requests = server.requests();
    assert!(!requests.iter().any(|line| line.ends_with("/decisions")), "{requests:#?}");
    assert!(!requests.iter().any(|line| line.ends_with("/cancel")), "{requests:#?}");
    server.sortie(["resume", "--approve-all", session]).run().says("done\n");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
}

#[test]
fn resume_of_a_run_that_does_not_wait_fails_and_leaves_it_going() {
    let gate = Gate::shut();
    let model = Model::always(Reply::text("late").behind(&gate));
    let server = RealServer::start(&model);
    let detached = server.sortie(["run", "--detach", "go"]).run().exits(0);
    let session = detached.stdout.trim();
    model.wait_for_request(1);
    let refused = server.sortie(["resume", "--approve-all", "-o", "json", session]).run().fails("conflict");
    assert_eq!(refused["cancel_confirmed"], Value::Null, "it is no end of the run: {refused:#}");
    assert!(!server.requests().iter().any(|line| line.ends_with("/cancel")), "{:#?}", server.requests());
    server.sortie(["pending", session]).run().says("");
    gate.open();
    server.sortie(["attach", session]).run().says("late\n");
}

#[test]
fn resume_without_a_choice_leaves_the_decision_to_the_policy() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=create b=remove");
    let session = field(&record, "session_id");
    let again = server.sortie(["resume", "-o", "json", session]).run().exits(10).record();
    assert_eq!(waiting(&again), ["a", "b"], "{again:#}");
    assert!(!server.requests().iter().any(|line| line.ends_with("/decisions")));
    server.sortie(["resume", "--on-approval", "accept", session]).run().says("done\n");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    assert_eq!(server.tool_result("b"), NO_TOOLS);
}

#[test]
fn resume_prints_what_is_new_and_records_the_whole_run() {
    let script = [
        Reply::text("I look.").and_calls([("a", "view")]),
        Reply::text("I would like to write.").and_calls([("b", "create")]),
        Reply::text("Written."),
    ];
    for format in ["text", "final", "json"] {
        let server = RealServer::start(&Model::script(script.clone()));
        let first = paused(&server, "write");
        assert_eq!(first["text"], "I look.\nI would like to write.");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result.json");
        let resume = ["resume", "--approve-all", "-o", format, "--result-file", path.to_str().unwrap()];
        let run = server.sortie(resume).and([field(&first, "session_id")]).run().exits(0);
        let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        if format == "json" {
            assert_eq!(run.record(), record);
        } else {
            assert_eq!(run.stdout, "Written.\n", "{format}");
        }
        assert_eq!(record["text"], "I look.\nI would like to write.\nWritten.");
        assert_eq!(record["agent_message"], "Written.");
        assert_eq!(record["turns"], 3);
        assert_eq!(record["tool_calls"]["proposed"], 2, "{record:#}");
        assert_eq!(record["tool_calls"]["accepted"], 2, "{record:#}");
        assert_eq!(record["usage"]["total_tokens"], 45);
    }
}

#[test]
fn the_hint_resumes_under_the_same_policy() {
    let server = RealServer::start(&Model::obedient());
    let policy = ["--on-approval", "pause", "--allow-tool", "view", "--deny-tool", "remove"];
    let run = server.sortie(["run", "-o", "json"]).and(policy).and(["a=create / b=remove c=view / d=create"]);
    let record = run.run().exits(10).record();
    let hint = field(&record, "resume_hint");
    assert!(hint.starts_with("sortie resume "), "{hint}");
    let record = server.sortie(hint.split(' ').skip(1)).and(["-o", "json"]).run().exits(10).record();
    assert_eq!(waiting(&record), ["d"], "{record:#}");
    assert_eq!(server.tool_result("a"), NO_TOOLS);
    assert!(server.tool_result("b").starts_with("Tool call rejected: "), "{}", server.tool_result("b"));
    assert_eq!(server.tool_result("c"), NO_TOOLS);
}

#[test]
fn approving_one_call_does_not_approve_the_next() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=create / b=view / c=create");
    let session = field(&record, "session_id");
    let again = server.sortie(["resume", "--approve-all", "-o", "json", session]).run();
    let again = again.exits(10).record();
    assert_eq!(waiting(&again), ["c"]);
    let last = ["resume", "--approve-all", "--on-approval", "accept", session];
    server.sortie(last).run().exits(0);
}

#[test]
fn resume_where_nothing_waits_fails() {
    let server = RealServer::start(&Model::obedient());
    let record = server.sortie(["run", "-o", "json", "a=view"]).run().exits(0).record();
    let session = field(&record, "session_id");
    // Trap 8: until then it may be followed to its end, which it has reached.
    server.wait_until_idle(session);
    server.sortie(["resume", "--approve-all", "-o", "json", session]).run().fails("conflict");
    server.sortie(["resume", "-o", "json", session]).run().fails("conflict");
}

#[test]
fn cancel_frees_a_session_that_waits() {
    // Trap 5: the server does not wake the run for a cancel alone.
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=view b=create");
    let session = field(&record, "session_id");
    server.sortie(["cancel", session]).run().says("");
    assert_eq!(server.run_status(session)["state"], "idle");
    server.sortie(["run", "--session", session, "c=view"]).run().says("done\n");
}

#[test]
fn pending_shows_what_waits() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=view b=create c=remove");
    let session = field(&record, "session_id");

    let text = server.sortie(["pending", session]).run().exits(10);
    for part in ["b", "create", "/b", "c", "remove"] {
        assert!(text.stdout.contains(part), "{part:?} is not in {text:#?}");
    }
    let json = server.sortie(["pending", "-o", "json", session]).run().exits(10);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(json.to_string().contains(r#""id":"b""#), "{json:#}");

    server.sortie(["resume", "--approve-all", session]).run().exits(0);
    server.sortie(["pending", session]).run().says("");
    let json = server.sortie(["pending", "-o", "json", session]).run().exits(0);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(!json.to_string().contains("create"), "{json:#}");
}

#[test]
fn attach_pauses_as_well() {
    let server = RealServer::start(&Model::obedient());
    let record = paused(&server, "a=view b=create");
    let attach = server.sortie(["attach", "-o", "json", field(&record, "session_id")]).run();
    let again = attach.exits(10).record();
    assert_eq!(waiting(&again), ["b"]);
}

#[test]
fn calls_whose_proposal_has_left_the_ring_are_shown_and_decided() {
    for events_kept in [1, 4] {
        let options = Options { events_kept, ..Options::default() };
        let server = RealServer::start_with(options, &Model::obedient());
        let record = paused(&server, "z=view / a=view b=create c=remove d=view");
        let session = field(&record, "session_id");
        assert_eq!(waiting(&record), ["b", "c", "d"], "{events_kept}: {record:#}");
        let again = server.sortie(["attach", "-o", "json", session]).run().exits(10).record();
        assert_eq!(waiting(&again), ["b", "c", "d"], "{events_kept}: {again:#}");
        let pending = server.sortie(["pending", session]).run().exits(10);
        let ids: Vec<_> = pending.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(ids, ["b", "c", "d"], "{events_kept}: {pending:#?}");
        let resume = ["resume", "--approve", "b", "--reject", "c", session];
        server.sortie(resume).run().says("done\n");
        assert_eq!(server.tool_result("b"), NO_TOOLS, "{events_kept}");
        assert_eq!(server.tool_result("c"), REJECTED, "{events_kept}");
        assert_eq!(server.tool_result("d"), NO_TOOLS, "{events_kept}");
    }
}

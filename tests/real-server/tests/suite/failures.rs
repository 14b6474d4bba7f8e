//! Runs that fail: the reason, and that they end at all.

use real_server::{Gate, Model, RealServer, Reply};
use serde_json::{Value, json};
use std::time::Duration;

use crate::field;

#[test]
fn a_model_that_fails_is_a_run_error() {
    // The server asks the model three times first, which takes six seconds.
    let model = Model::always(Reply::error(500, "out of order"));
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "go"]).run();
    let record = run.fails("run_error");
    assert!(field(&record, "error").contains("out of order"), "{record:#}");
    assert_eq!(record["outcome"], "failed");
    assert_eq!(record["retryable"], false);
    assert_eq!(model.requests().len(), 3);
}

#[test]
fn a_run_out_of_turns_fails() {
    let server = RealServer::start(&Model::always(Reply::text("on").and_calls([("a", "view")])));
    let run = server.sortie(["run", "-o", "json", "--max-turns", "3", "go"]).run();
    let record = run.fails("max_turns");
    assert_eq!(record["stop_reason"], "max_turns");
    assert_eq!(record["turns"], 3);
    assert_eq!(record["text"], "on\non\non");
}

#[test]
fn a_wrong_token_fails_at_once() {
    let server = RealServer::start(&Model::script([]));
    let run = server.sortie(["run", "-o", "json", "go"]).env("SORTIE_TOKEN", "wrong");
    let record = run.run().fails("auth");
    assert_eq!(record["retryable"], false);
    assert_eq!(record["session_id"], Value::Null);
    assert_eq!(server.requests().len(), 1, "{:#?}", server.requests());
}

#[test]
fn a_missing_token_fails() {
    let server = RealServer::start(&Model::script([]));
    let run = server.sortie(["run", "-o", "json", "go"]).without_env("SORTIE_TOKEN");
    run.run().fails("auth");
    let run = server.sortie(["run", "-o", "json", "go"]).env("SORTIE_TOKEN", "");
    run.run().fails("auth");
}

#[test]
fn a_session_that_does_not_exist_is_not_waited_for() {
    let server = RealServer::start(&Model::script([]));
    let unknown = "00000000-0000-4000-8000-000000000000";
    server.sortie(["run", "-o", "json", "--session", unknown, "go"]).run().fails("not_found");
    server.sortie(["attach", "-o", "json", unknown]).run().fails("not_found");
    server.sortie(["resume", "-o", "json", "--approve-all", unknown]).run().fails("not_found");
    server.sortie(["pending", unknown]).run().exits(1);
    server.sortie(["cancel", unknown]).run().exits(1);
    server.sortie(["attach", "not-a-uuid"]).run().exits(1);
}

#[test]
fn a_session_in_which_something_runs_takes_no_message() {
    let gate = Gate::shut();
    let model = Model::always(Reply::text("late").behind(&gate));
    let server = RealServer::start(&model);
    let first = server.sortie(["run", "--detach", "go"]).run().exits(0);
    let session = first.stdout.trim();
    model.wait_for_request(1);
    let run = server.sortie(["run", "-o", "json", "--session", session, "again"]).run();
    run.fails("conflict");
    for flag in ["--title", "--profile", "--workdir"] {
        server.sortie(["run", "--session", session, flag, "/else", "again"]).run().exits(1);
    }
    gate.open();
    server.wait_until_idle(session);
    assert_eq!(model.requests().len(), 1);
}

#[test]
fn a_prompt_too_big_for_the_server_fails() {
    // It takes 2 MiB, and answers what is longer with a 413, in the middle of it where it is much longer.
    let server = RealServer::start(&Model::always(Reply::text("read")));
    for words in [600_000, 3_000_000] {
        let run = server.sortie(["run", "-o", "json", "-"]).run_with_stdin(&"word ".repeat(words));
        let record = run.exits(1).record();
        assert!(["server", "usage"].contains(&field(&record, "reason")), "{record:#}");
        assert_eq!(record["retryable"], false, "{record:#}");
    }
}

#[test]
fn a_run_that_a_restart_of_the_server_ended_is_lost() {
    let gate = Gate::shut();
    let model = Model::always(Reply::text("never").behind(&gate));
    let mut server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "go"]).spawn();
    model.wait_for_request(1);
    // A restart is known by an uptime that is shorter than the run.
    real_server::for_at_least(Duration::from_secs(3), "the model is asked once", || model.requests().len() == 1);
    server.restart();
    let record = run.wait().fails("lost");
    assert!(field(&record, "error").contains("the server was restarted"), "{record:#}");
    assert_eq!(record["retryable"], true);
}

#[test]
fn a_run_that_died_without_a_word_is_a_run_error() {
    // Trap 2, brought about by somebody else's decision in the moment in which `attach` watches
    // whether the call waits. When it was quicker, the run goes on, and is tried again.
    let server = RealServer::start(&Model::obedient());
    for _ in 0..5 {
        let run = server.sortie(["run", "-o", "json", "--on-approval", "pause", "a=view b=create"]);
        let record = run.run().exits(10).record();
        let session = field(&record, "session_id");
        let watching = ["attach", "-o", "json", "--on-approval", "accept", session];
        let attached = server.sortie(watching).spawn();
        server.wait_for_requests(2, &format!("/{session}/events"));
        let accept = json!({ "run_id": record["run_id"], "decisions": { "a": { "action": "accept" } } });
        server.post(&format!("/v1/sessions/{session}/tools/decisions"), &accept);
        let attached = attached.wait();
        if attached.code != 0 {
            attached.fails("run_error");
            return;
        }
    }
    panic!("the run never died");
}

#[test]
fn two_calls_with_one_id_cannot_make_it_hang() {
    // The server cannot be told to run the second: it takes any decision for one of the first.
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--timeout", "30s", "a=create a=create"]);
    let record = run.run().exits(1).record();
    assert_ne!(record["reason"], Value::Null);
    assert_ne!(record["reason"], "internal");
}

#[test]
fn a_model_whose_context_is_too_small_cannot_make_it_hang() {
    // The server then shortens and asks again, for ever, hundreds of times a second.
    let model = Model::always(Reply::error(400, "maximum context length exceeded: too many tokens"));
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "--timeout", "30s", "go"]).run();
    let record = run.fails("run_error");
    server.wait_until_idle(field(&record, "session_id"));
}

#[test]
fn a_run_that_died_without_a_word_is_a_run_error_later_as_well() {
    // Trap 2 again, but nobody watched.
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--on-approval", "pause", "a=view b=create"]);
    let record = run.run().exits(10).record();
    let session = field(&record, "session_id");
    let accept = json!({ "run_id": record["run_id"], "decisions": { "a": { "action": "accept" } } });
    server.post(&format!("/v1/sessions/{session}/tools/decisions"), &accept);
    real_server::eventually("the run to die", || (server.run_status(session)["state"] == "failed").then_some(()));

    let record = server.sortie(["attach", "-o", "json", session]).run().fails("run_error");
    assert!(field(&record, "error").contains("log"), "{record:#}");
    server.sortie(["resume", "-o", "json", "--approve-all", session]).run().exits(1);
    server.sortie(["pending", session]).run().says("");
    server.sortie(["cancel", session]).run().says("");
    server.sortie(["run", "--session", session, "c=create"]).run().says("done\n");
}

#[test]
fn a_pause_does_not_outlive_the_server() {
    let mut server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--on-approval", "pause", "a=view b=create"]);
    let record = run.run().exits(10).record();
    let session = field(&record, "session_id");
    server.restart();
    assert_ne!(server.sortie(["pending", session]).run().code, 10);
    let resumed = server.sortie(["resume", "-o", "json", "--approve-all", session]).run().exits(1).record();
    assert!(["lost", "conflict"].contains(&field(&resumed, "reason")), "{resumed:#}");
    let attached = server.sortie(["attach", "-o", "json", session]).run().exits(1).record();
    assert!(["lost", "not_found"].contains(&field(&attached, "reason")), "{attached:#}");
    server.sortie(["run", "--session", session, "c=create"]).run().says("done\n");
}

#[test]
fn a_session_without_a_run_has_nothing_to_follow() {
    let server = RealServer::start(&Model::script([]));
    let (_, body) = server.post("/v1/sessions", &json!({ "title": "a test" }));
    let session = field(&body, "id");
    server.sortie(["attach", "-o", "json", session]).run().fails("not_found");
    server.sortie(["resume", "-o", "json", "--approve-all", session]).run().fails("conflict");
    server.sortie(["pending", session]).run().says("");
    server.sortie(["cancel", session]).run().says("");
}

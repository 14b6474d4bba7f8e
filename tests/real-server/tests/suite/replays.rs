//! Following a run that somebody else started.

use real_server::{Gate, Model, Options, RealServer, Reply};

use crate::field;

/// Six turns, each with a word and a call, and a last word: more than a small ring holds.
fn talkative() -> Model {
    Model::answering(|request| match request.turns_before() {
        6 => Reply::text("the end"),
        turn => Reply::text(format!("turn {turn}")).and_calls([(format!("c{turn}").as_str(), "view")]),
    })
}

const TALK: &str = "turn 0\nturn 1\nturn 2\nturn 3\nturn 4\nturn 5\nthe end\n";

#[test]
fn attach_replays_a_run_that_has_ended() {
    let server = RealServer::start(&talkative());
    let record = server.sortie(["run", "-o", "json", "talk"]).run().exits(0).record();
    let session = field(&record, "session_id");
    server.sortie(["attach", session]).run().says(TALK);
    let attached = server.sortie(["attach", "-o", "json", session]).run().exits(0).record();
    for same in ["run_id", "text", "turns", "usage", "stop_reason", "last_event_id", "tool_calls"] {
        assert_eq!(attached[same], record[same], "{same}");
    }
}

#[test]
fn attach_follows_a_run_from_its_start() {
    let gate = Gate::shut();
    let model =
        Model::script([Reply::text("before").and_calls([("a", "view")]), Reply::text("after").behind(&gate)]);
    let server = RealServer::start(&model);
    let detached = server.sortie(["run", "--detach", "talk"]).run().exits(0);
    let session = detached.stdout.trim();
    model.wait_for_request(2);
    let attached = server.sortie(["attach", session]).spawn();
    server.wait_for_requests(1, "/events");
    gate.open();
    attached.wait().says("before\nafter\n");
}

#[test]
fn attach_takes_the_last_run_of_a_session() {
    let server = RealServer::start(&Model::answering(|request| Reply::text(request.prompt())));
    let record = server.sortie(["run", "-o", "json", "first"]).run().exits(0).record();
    let session = field(&record, "session_id");
    server.sortie(["run", "--session", session, "second"]).run().says("second\n");
    server.sortie(["attach", session]).run().says("second\n");
}

#[test]
fn detach_prints_the_session_alone() {
    let server = RealServer::start(&Model::always(Reply::text("done")));
    let detached = server.sortie(["run", "--detach", "go"]).run().exits(0);
    let session = detached.stdout.strip_suffix('\n').unwrap();
    assert_eq!(session.len(), 36, "{session:?}");
    server.sortie(["attach", session]).run().says("done\n");
}

#[test]
fn text_that_has_left_the_ring_comes_from_the_messages() {
    for events_kept in [1, 2, 8, 20] {
        let options = Options { events_kept, ..Options::default() };
        let server = RealServer::start_with(options, &talkative());
        let detached = server.sortie(["run", "--detach", "talk"]).run().exits(0);
        let session = detached.stdout.trim();
        server.wait_until_idle(session);
        server.sortie(["attach", session]).run().says(TALK);
    }
}

#[test]
fn attach_to_a_run_whose_beginning_has_left_the_ring_prints_everything_once() {
    let gate = Gate::shut();
    let behind = gate.clone();
    let model = Model::answering(move |request| match request.turns_before() {
        6 => Reply::text("the end").behind(&behind),
        turn => Reply::text(format!("turn {turn}")).and_calls([(format!("c{turn}").as_str(), "view")]),
    });
    let options = Options { events_kept: 8, ..Options::default() };
    let server = RealServer::start_with(options, &model);
    let detached = server.sortie(["run", "--detach", "talk"]).run().exits(0);
    let session = detached.stdout.trim();
    model.wait_for_request(7);
    let attached = server.sortie(["attach", session]).spawn();
    server.wait_for_requests(1, "/events");
    gate.open();
    attached.wait().says(TALK);
}

#[test]
fn a_run_in_a_session_whose_ring_has_overflown_is_followed_from_its_own_start() {
    let options = Options { events_kept: 16, ..Options::default() };
    let server = RealServer::start_with(options, &Model::obedient());
    let record = server.sortie(["run", "-o", "json", "a=view / b=view / c=view"]).run().exits(0).record();
    let session = field(&record, "session_id");
    server.sortie(["run", "--session", session, "d=create"]).run().says("done\n");
}

#[test]
fn a_run_from_before_a_restart_is_told_but_not_as_a_success() {
    let mut server = RealServer::start(&talkative());
    let record = server.sortie(["run", "-o", "json", "talk"]).run().exits(0).record();
    let session = field(&record, "session_id");
    // Trap 8: only then are the messages on disk.
    server.wait_until_idle(session);
    server.restart();
    let attached = server.sortie(["attach", "-o", "json", session]).run();
    let attached = attached.fails("lost");
    assert_eq!(attached["text"], record["text"]);
}

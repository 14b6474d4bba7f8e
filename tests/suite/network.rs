//! The network as it is: connections that are kept or closed, names with several addresses, answers that are cut.

use crate::support::agent::{Agent, Route};
use crate::support::http::{Connection, Ending};
use crate::support::names::{BlackHole, LookUps, known_as};
use crate::support::process::Sortie;
use crate::support::wire::Wire;
use rustix::process::Signal;
use serde_json::json;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn port(agent: &Agent) -> u16 {
    agent.url().rsplit_once(':').unwrap().1.parse().unwrap()
}

// Connections that are kept.

#[test]
fn a_trivial_run_takes_one_connection() {
    let agent = Agent::answering("Done.");
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    assert_eq!(agent.connections(), 1);
}

#[test]
fn a_server_that_closes_after_each_answer_gets_new_connections() {
    for _ in 0..10 {
        let agent = Agent::answering("Done.");
        agent.hang_up_after_answers();
        agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n").stderr_lacks("trying again");
        assert_eq!(agent.runs_begun(), 1);
        assert!(agent.connections() >= 3);
    }
}

#[test]
fn a_kept_connection_that_closes_on_the_next_request_sends_no_second_prompt() {
    for took_it in [false, true] {
        for ending in [Ending::Cut, Ending::Reset] {
            let agent = Agent::answering("Done.");
            if took_it {
                agent.next(Route::Send).lose_answer(ending);
            } else {
                agent.next(Route::Send).lose_request(ending);
            }
            let output = agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
            output.stderr_lacks("trying again").within(5 * SECOND);
            let sent = agent.requests(Route::Send);
            assert_eq!(sent.len(), 2, "{took_it} {ending:?}");
            assert_eq!(sent[0].header("idempotency-key"), sent[1].header("idempotency-key"));
            assert_eq!(agent.runs_begun(), 1, "{took_it} {ending:?}");
        }
    }
}

#[test]
fn a_stream_requested_on_a_closed_connection_is_requested_again() {
    let agent = Agent::answering("Done.");
    agent.next(Route::Events).lose_request(Ending::Cut);
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n").stderr_lacks("trying again");
    assert_eq!(agent.requests(Route::Events).len(), 2);
}

#[test]
fn a_first_connection_that_is_closed_is_retried_after_a_wait() {
    let agent = Agent::answering("Done.");
    agent.next(Route::CreateSession).lose_answer(Ending::Cut);
    agent.sortie(["run", "go"]).run().code(0).stdout("Done.\n").stderr_has("trying again");
}

// Addresses.

/// The server is at 127.0.0.1, and its name has an address before that at which nobody ever answers.
fn beside_a_black_hole(agent: &Agent, arguments: &[&str]) -> (Sortie, LookUps, BlackHole) {
    let hole = Ipv4Addr::new(127, 0, 0, 77);
    let black_hole = BlackHole::at(hole, port(agent));
    let url = format!("http://agent.example:{}", port(agent));
    let command = agent.sortie(arguments.iter().copied()).args(["--allow-http", "--server", &url]);
    let (command, look_ups) = known_as(command, &[hole, Ipv4Addr::LOCALHOST]);
    (command, look_ups, black_hole)
}

#[test]
fn a_dead_first_address_delays_a_trivial_run_little() {
    let agent = Agent::answering("Done.");
    agent.hang_up_after_answers();
    let (command, look_ups, _hole) = beside_a_black_hole(&agent, &["run", "go"]);
    let output = command.run().code(0).stdout("Done.\n");
    assert!(output.elapsed >= Duration::from_millis(250), "the first address had its head start");
    output.within(Duration::from_millis(2500));
    assert!(agent.connections() >= 3);
    assert_eq!(look_ups.count(), 1, "later calls go where the first was answered");
}

#[test]
fn the_cancel_uses_the_last_address_without_a_look_up() {
    let agent = Agent::start();
    let (command, look_ups, _hole) = beside_a_black_hole(&agent, &["run", "-o", "json", "go"]);
    let running = command.spawn();
    let run = agent.next_run();
    run.wait_until_thinking();
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    run.wait_until_cancelled();
    run.end("cancelled");
    let record = running.wait().fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(look_ups.count(), 1);
}

#[test]
fn an_address_that_refuses_leads_to_the_next_one_at_once() {
    let agent = Agent::answering("Done.");
    let url = format!("http://agent.example:{}", port(&agent));
    let command = agent.sortie(["run", "go"]).args(["--allow-http", "--server", &url]);
    let (command, look_ups) = known_as(command, &[Ipv4Addr::new(127, 0, 0, 78), Ipv4Addr::LOCALHOST]);
    command.run().code(0).stderr_lacks("trying again").stdout("Done.\n");
    assert_eq!(look_ups.count(), 1);
}

#[test]
fn the_connect_timeout_holds_for_any_number_of_addresses() {
    let agent = Agent::out_of_bounds();
    let holes: Vec<_> = (81..85).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let _holes: Vec<_> = holes.iter().map(|hole| BlackHole::at(*hole, port(&agent))).collect();
    let url = format!("http://agent.example:{}", port(&agent));
    let arguments = ["run", "-o", "json", "--connect-timeout", "2s", "--retry-timeout", "100ms", "go"];
    let command = agent.sortie(arguments).args(["--allow-http", "--server", &url]);
    let (command, _look_ups) = known_as(command, &holes);
    let output = command.run().stderr_has("no connection within --connect-timeout").within(4 * SECOND);
    output.fails("connection");
}

// Waits.

#[test]
fn a_signal_ends_every_wait_for_the_server_at_once() {
    // The head never comes, or the body never ends.
    for said in ["", "HTTP/1.1 201 Created\r\n", "HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{"] {
        let wire = Wire::start();
        let running = wire.sortie(["run", "-o", "json", "go"]).spawn();
        let mut exchange = wire.next();
        exchange.connection.write(said.as_bytes());
        running.signal(Signal::INT);
        running.wait().within(2 * SECOND).fails("interrupted");
    }
}

#[test]
fn a_signal_ends_the_sending_of_a_prompt_that_the_server_does_not_read() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let command = Sortie::new(["run", "-o", "json", "--server", &url]);
    let prompt = command.file("prompt", "x".repeat(8_000_000));
    let running = command.args(["--prompt-file", &prompt]).spawn();
    let mut first = Connection::new(listener.accept().unwrap().0);
    first.read_request().unwrap();
    let session = json!({ "id": uuid::Uuid::new_v4() }).to_string();
    first.respond(201, &[("connection", "close")], session.as_bytes());
    let (mut client, _) = listener.accept().unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    running.signal(Signal::INT);
    // The cancel of a run that may have begun finds nobody either.
    running.wait().within(10 * SECOND).fails("interrupted");
}

#[test]
fn a_refusal_is_read_while_the_request_is_being_sent() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut first = Connection::new(listener.accept().unwrap().0);
        first.read_request().unwrap();
        let session = json!({ "id": uuid::Uuid::new_v4() }).to_string();
        first.respond(201, &[("connection", "close")], session.as_bytes());
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
        Connection::new(client).respond(413, &[("connection", "close")], b"");
        // Closed with most of the request unread, it is reset.
    });
    let command = Sortie::new(["run", "-o", "json", "--server", &url]);
    let prompt = command.file("prompt", "x".repeat(20_000_000));
    command.args(["--prompt-file", &prompt]).run().stderr_has("413").fails("server");
    server.join().unwrap();
}

// Answers that end with their connection.

/// A server that speaks HTTP/1.0: each answer ends with its connection, and every `cut`th of them too early.
fn old_server(cut: usize) -> Wire {
    let (session, run) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let asked = AtomicUsize::new(0);
    Wire::serve(move |exchange| {
        let path = exchange.request.path.clone();
        let (kind, body) = match path.rsplit('/').next().unwrap() {
            "sessions" => ("application/json", json!({ "id": session, "title": "", "cwd": null }).to_string()),
            "messages" => ("application/json", json!({ "run_id": run }).to_string()),
            "events" => {
                let event = |id, event| json!({ "id": id, "session_id": session, "run_id": run, "event": event });
                let begun = event(1, json!({ "RunStarted": { "run_id": run } }));
                let text = event(2, json!({ "TextDelta": { "run_id": run, "delta": "Done." } }));
                let end = json!({ "run_id": run, "total_turns": 1, "stop_reason": "completed" });
                let end = event(3, json!({ "RunCompleted": end }));
                (
                    "text/event-stream",
                    format!("id: 1\ndata: {begun}\n\nid: 2\ndata: {text}\n\nid: 3\ndata: {end}\n\n"),
                )
            }
            _ => {
                let status = json!({ "state": "running", "run_id": run });
                let session = json!({ "id": session, "title": "", "cwd": null, "run_status": status });
                ("application/json", json!({ "session": session }).to_string())
            }
        };
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-type: {kind}\r\n\r\n{body}");
        let is_cut = asked.fetch_add(1, Ordering::SeqCst) % cut == cut - 2;
        let length = answer.len() - if is_cut { body.len() / 2 } else { 0 };
        exchange.raw(&answer.as_bytes()[..length], Ending::Cut);
    })
}

#[test]
fn an_http_1_0_server_works_and_a_cut_answer_is_retried() {
    old_server(usize::MAX).sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    let output = old_server(2).sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    output.stderr_has("closed before the answer was complete; trying again");
}

//! Time-outs, signals and cancels: nothing runs on by accident, and nothing is claimed that is not so.

use real_server::{Gate, Model, RealServer, Reply};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::field;

/// A model that wants to look at something, once the gate opens.
fn gated() -> (Model, Gate) {
    let gate = Gate::shut();
    let model = Model::script([Reply::text("looking").and_calls([("a", "view")]).behind(&gate)]);
    (model, gate)
}

#[test]
fn a_signal_cancels_the_run() {
    for signal in ["INT", "TERM", "HUP"] {
        let (model, gate) = gated();
        let server = RealServer::start(&model);
        let run = server.sortie(["run", "-o", "json", "go"]).spawn();
        model.wait_for_request(1);
        run.signal(signal);
        server.wait_for_requests(1, "/cancel");
        gate.open();
        let record = run.wait().fails("interrupted");
        assert_eq!(record["cancel_confirmed"], true, "{signal}: {record:#}");
        assert_eq!(record["stop_reason"], "cancelled", "{signal}: {record:#}");
        assert_eq!(record["retryable"], true, "{signal}: {record:#}");
        assert_eq!(record["timed_out"], false, "{signal}: {record:#}");
        server.wait_until_idle(field(&record, "session_id"));
        assert_eq!(model.requests().len(), 1, "{signal}");
    }
}

#[test]
fn a_time_out_cancels_the_run() {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "--timeout", "5s", "go"]).spawn();
    server.wait_for_requests(1, "/cancel");
    gate.open();
    let record = run.wait().fails("timeout");
    assert_eq!(record["timed_out"], true);
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
    server.wait_until_idle(field(&record, "session_id"));
    assert!(model.requests().len() <= 1);
}

#[test]
fn an_idle_time_out_cancels_the_run() {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "--idle-timeout", "1s", "go"]).spawn();
    server.wait_for_requests(1, "/cancel");
    gate.open();
    let record = run.wait().fails("idle_timeout");
    assert_eq!(record["timed_out"], true);
    assert_eq!(record["cancel_confirmed"], true);
}

#[test]
fn a_cancel_that_the_model_holds_up_is_not_claimed() {
    // Trap 6: it takes effect when the model answers, which may be long after we have left.
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "go"]).spawn();
    model.wait_for_request(1);
    run.signal("TERM");
    let run = run.wait();
    assert!(run.stderr.contains("cancel"), "{run:#?}");
    let record = run.fails("interrupted");
    assert_eq!(record["cancel_confirmed"], false);
    assert_eq!(record["retryable"], false);
    let session = field(&record, "session_id");
    assert_eq!(server.run_status(session)["state"], "running");
    gate.open();
    server.wait_until_idle(session);
    assert_eq!(model.requests().len(), 1);
}

#[test]
fn a_time_out_cancels_a_run_that_waits_for_a_decision() {
    // Trap 5. It would pause after two seconds without an event, but its time is up before.
    let server = RealServer::start(&Model::obedient());
    let run = server.sortie(["run", "-o", "json", "--pause-on-approval", "--idle-timeout", "1s", "a=create"]);
    let record = run.run().fails("idle_timeout");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert_eq!(record["stop_reason"], "cancelled", "{record:#}");
    server.wait_until_idle(field(&record, "session_id"));
}

#[test]
fn no_cancel_leaves_the_run_going() {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let run = ["run", "-o", "json", "--no-cancel", "--timeout", "5s", "go"];
    let record = server.sortie(run).run().fails("timeout");
    assert_eq!(record["cancel_confirmed"], Value::Null);
    assert_eq!(record["retryable"], false);
    gate.open();
    server.sortie(["attach", field(&record, "session_id")]).run().says("looking\nthe script is over\n");
    assert!(!server.requests().iter().any(|line| line.ends_with("/cancel")));
}

#[test]
fn a_later_signal_leaves_at_once_and_says_what_is_known() {
    let (model, _gate) = gated();
    let server = RealServer::start(&model);
    let mut run = server.sortie(["run", "-o", "json", "go"]).spawn();
    model.wait_for_request(1);
    run.signal("INT");
    server.wait_for_requests(1, "/cancel");
    // Signals that come within two seconds are one: `timeout` and others send two.
    run.signal("INT");
    real_server::for_at_least(Duration::from_millis(2_500), "the cancel is waited for", || run.is_running());
    let since = std::time::Instant::now();
    run.signal("INT");
    let record = run.wait().fails("interrupted");
    assert!(since.elapsed() < Duration::from_secs(2), "took {:?}", since.elapsed());
    assert_eq!(record["cancel_confirmed"], false, "{record:#}");
    assert_eq!(record["retryable"], false, "{record:#}");
}

#[test]
fn cancel_waits_until_the_run_has_stopped() {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let detached = server.sortie(["run", "--detach", "go"]).run().exits(0);
    let session = detached.stdout.trim();
    model.wait_for_request(1);
    let cancel = server.sortie(["cancel", session]).spawn();
    server.wait_for_requests(1, "/cancel");
    assert_eq!(server.run_status(session)["state"], "running");
    gate.open();
    cancel.wait().exits(0);
    assert_eq!(server.run_status(session)["state"], "idle");
    let attached = server.sortie(["attach", "-o", "json", session]).run();
    let record = attached.fails("cancelled");
    assert_eq!(record["stop_reason"], "cancelled");
}

#[test]
fn a_run_that_somebody_else_cancels_says_so() {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let run = server.sortie(["run", "-o", "json", "go"]).spawn();
    model.wait_for_request(1);
    let events = server.wait_for_requests(1, "/events");
    let session = events.split('/').nth(3).unwrap();
    let cancel = server.sortie(["cancel", session]).spawn();
    server.wait_for_requests(1, "/cancel");
    gate.open();
    cancel.wait().exits(0);
    let record = run.wait().fails("cancelled");
    assert_eq!(record["cancel_confirmed"], Value::Null, "we did not cancel: {record:#}");
}

/// A line to the server, on which a prompt arrives half a second after its sender has given up. All else passes at once.
fn late_line(server: &RealServer) -> String {
    let target = server.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, target) = (client.unwrap(), target.clone());
            thread::spawn(move || {
                let mut request = vec![0; 1024];
                let length = client.read(&mut request).unwrap();
                request.truncate(length);
                let line = String::from_utf8_lossy(&request);
                let is_prompt = line.starts_with("POST") && line.contains("/messages HTTP/1.1\r\n");
                if is_prompt {
                    // An error is an end as well: the sender has hung up.
                    let _ = client.read_to_end(&mut request);
                    thread::sleep(Duration::from_millis(500));
                }
                let mut server = TcpStream::connect(target).unwrap();
                server.write_all(&request).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                if !is_prompt {
                    thread::spawn(move || io::copy(&mut from, &mut to));
                }
                let _ = io::copy(&mut server, &mut client);
            });
        }
    });
    url
}

/// Whether it waits for the prompt and cancels the run, or owns up to not knowing: a retry could do the task twice.
fn check_late_prompt(flags: &[&'static str]) {
    let (model, gate) = gated();
    let server = RealServer::start(&model);
    let url = late_line(&server);
    let run = server.sortie(["run", "-o", "json", "--timeout", "3s", "--server", &url, "go"]);
    let record = run.and(flags.iter().copied()).run().fails("timeout");
    assert_eq!(record["timed_out"], true);
    server.wait_for_requests(1, "/messages");
    if server.run_status(field(&record, "session_id"))["state"] == "running" {
        assert_ne!(record["cancel_confirmed"], true, "the run goes on: {record:#}");
        assert_eq!(record["retryable"], false, "the run goes on: {record:#}");
    }
    gate.open();
}

#[test]
fn a_prompt_that_arrives_after_we_have_left_is_not_claimed_to_have_stopped() {
    check_late_prompt(&[]);
}

#[test]
fn a_prompt_that_may_have_arrived_is_not_to_be_sent_again_without_a_look() {
    check_late_prompt(&["--no-cancel"]);
}

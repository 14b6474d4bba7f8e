//! A tunnel that holds back whatever is not over, such as an event stream: the run is followed by its state and its
//! messages, which takes longer than a plain `cargo test` may.

use crate::support::agent::{Agent, Route};
use crate::support::gateway::Gateway;
use crate::support::let_pass;
use crate::support::process::{Output, Running, result_file};
use serde_json::Value;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(90);

fn start(gateway: &Gateway, flags: &[&str]) -> Running {
    gateway.sortie(["run", "--result-file", "result.json"]).args(flags.iter().copied()).arg("go").spawn()
}

/// Nobody can say how the run ended; its text is there, and nothing was cancelled.
#[track_caller]
fn is_lost(agent: &Agent, output: Output, text: &str) {
    let output = output.code(1).stdout(&format!("{text}\n")).stderr_has("failed (lost)");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!(record["reason"], "lost", "{record:#}");
    assert_eq!(record["text"], text, "{record:#}");
    assert_eq!((&record["retryable"], &record["cancel_confirmed"]), (&false.into(), &Value::Null), "{record:#}");
    assert_eq!(output.stderr.matches("buffering").count(), 1, "said once: {}", output.stderr);
    assert!(agent.requests(Route::Cancel).is_empty());
}

#[test]
fn a_run_behind_a_tunnel_that_holds_its_stream_ends_with_its_text() {
    for head_too in [true, false] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let planning = gateway.on(Route::Events);
        if head_too {
            planning.hold_until_its_end();
        } else {
            planning.hold_body_until_its_end();
        }
        let running = start(&gateway, &[]);
        let run = agent.next_run();
        run.text("Nobody hears this.");
        run.complete();
        is_lost(&agent, running.wait_at_most(LONG), "Nobody hears this.");
    }
}

#[test]
fn the_answers_about_the_state_of_a_held_run_are_contact() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Events).hold_until_its_end();
    let mut running = start(&gateway, &["--retry-timeout", "12s"]);
    let run = agent.next_run();
    let_pass(Duration::from_secs(45));
    running.is_going_on();
    run.text("Late.");
    run.complete();
    is_lost(&agent, running.wait_at_most(LONG), "Late.");
}

#[test]
fn attach_behind_a_tunnel_that_holds_its_stream_has_the_text_of_a_run_that_is_over() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Events).hold_until_its_end();
    let run = agent.begin_run(agent.session());
    run.text("Done.");
    run.complete();
    let session = run.session.to_string();
    let running = gateway.sortie(["attach", "--result-file", "result.json", &session]).spawn();
    is_lost(&agent, running.wait_at_most(LONG), "Done.");
}

#[test]
fn the_deadline_stands_while_a_stream_is_held() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Events).hold_until_its_end();
    let running = start(&gateway, &["--timeout", "24s"]);
    let run = agent.next_run();
    run.text("Nobody hears this.");
    let output = running.wait_at_most(LONG).code(1).stderr_has("buffering");
    let record = result_file(&output.home().join("result.json"), 1);
    assert_eq!((&record["reason"], &record["cancel_confirmed"]), (&"timeout".into(), &false.into()), "{record:#}");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert!(run.is_cancelled() && !run.is_over());
}

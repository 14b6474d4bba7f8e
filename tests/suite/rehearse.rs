//! Rehearsal: every branch of a script without a server.

use crate::support::agent::Agent;
use crate::support::process::Sortie;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// `sortie run --rehearse OUTCOME`, with a server in the environment that must not be reached.
fn rehearse(agent: &Agent, outcome: &str) -> Sortie {
    agent.sortie(["run", "-o", "json", "--rehearse", outcome, "Check the disks"])
}

#[test]
fn a_rehearsed_completion_exits_0() {
    let agent = Agent::out_of_bounds();
    let output = rehearse(&agent, "completed").run().code(0).stderr_has("REHEARSAL");
    let record = output.record();
    assert_eq!(record["stop_reason"], "completed");
    assert!(!record["text"].as_str().unwrap().is_empty());
}

#[test]
fn a_rehearsed_failure_exits_1() {
    let agent = Agent::out_of_bounds();
    let output = rehearse(&agent, "failed").run().stderr_has("REHEARSAL");
    output.fails("run_error");
}

#[test]
fn a_rehearsed_pause_exits_10() {
    let agent = Agent::out_of_bounds();
    let output = rehearse(&agent, "paused").run().code(10).stderr_has("REHEARSAL");
    let record = output.record();
    assert!(!record["pause_reason"]["pending_tool_calls"].as_array().unwrap().is_empty());
}

#[test]
fn a_rehearsed_stall_ends_at_the_timeout() {
    let agent = Agent::out_of_bounds();
    let output = rehearse(&agent, "stalled").args(["--timeout", "1s"]).run().stderr_has("REHEARSAL");
    output.within(Duration::from_secs(10)).fails("timeout");
}

#[test]
fn a_rehearsed_loss_exits_1() {
    let agent = Agent::out_of_bounds();
    let output = rehearse(&agent, "lost").run().stderr_has("REHEARSAL");
    output.fails("lost");
}

#[test]
fn a_rehearsed_recording_ends_like_the_recorded_run() {
    let agent = Agent::out_of_bounds();
    let there = tempfile::tempdir().unwrap();
    let accepted = ["--on-approval", "accept"];
    for (outcome, flags, code) in
        [("completed", &[][..], 0), ("failed", &[], 1), ("paused", &[], 10), ("paused", &accepted, 0)]
    {
        let path = there.path().join(format!("{outcome}-{code}.sse"));
        let path = path.to_str().unwrap();
        let told = rehearse(&agent, outcome).args(["--record", path]).args(flags.iter().copied());
        let told = told.run().code(code).record();
        let again = rehearse(&agent, path).run().code(code).record();
        for key in ["outcome", "reason", "error", "text", "turns", "usage", "tool_calls"] {
            assert_eq!(again[key], told[key], "{key} of {path}");
        }
        let calls = |record: &Value| record["pause_reason"]["pending_tool_calls"].clone();
        assert_eq!(calls(&again), calls(&told), "{path}");
    }
}

#[test]
fn the_environment_rehearses_a_script_unchanged() {
    let agent = Agent::out_of_bounds();
    for (outcome, code) in [("completed", 0), ("failed", 1), ("paused", 10)] {
        let command = agent.sortie(["run", "Check the disks"]).env("SORTIE_REHEARSE", outcome);
        command.run().code(code).stderr_has("REHEARSAL");
    }
    let command = agent.sortie(["run", "--rehearse", "failed", "Check the disks"]);
    command.env("SORTIE_REHEARSE", "completed").run().code(1);
}

#[test]
fn an_empty_variable_rehearses_nothing() {
    let agent = Agent::answering("For real.");
    let command = agent.sortie(["run", "go"]).env("SORTIE_REHEARSE", "");
    command.run().code(0).stdout("For real.\n");
}

#[test]
fn an_unknown_outcome_is_refused() {
    let agent = Agent::out_of_bounds();
    agent.sortie(["run", "--rehearse", "triumph", "go"]).run().code(1).stdout("").stderr_has("--rehearse");
    let command = agent.sortie(["run", "go"]).env("SORTIE_REHEARSE", "triumph");
    command.run().code(1).stdout("").stderr_has("triumph");
}

#[test]
fn rehearsal_needs_no_server_and_no_token() {
    Sortie::new(["run", "--rehearse", "completed", "Check the disks"]).run().code(0);
}

#[test]
fn the_other_commands_rehearse_too() {
    let agent = Agent::out_of_bounds();
    let session = Uuid::new_v4().to_string();
    for (arguments, code) in
        [(&["ping"][..], 0), (&["attach", &session], 0), (&["cancel", &session], 0), (&["pending", &session], 0)]
    {
        let command = agent.sortie(arguments.iter().copied()).args(["--rehearse", "completed"]);
        command.run().code(code).stderr_has("REHEARSAL");
    }
}

#[test]
fn a_rehearsed_pause_can_be_listed_resumed_and_cancelled() {
    let agent = Agent::out_of_bounds();
    let session = Uuid::new_v4().to_string();
    for (arguments, code) in [
        (&["pending", &session][..], 10),
        (&["attach", &session], 10),
        (&["resume", &session], 10),
        (&["resume", &session, "--approve-all"], 0),
        (&["resume", &session, "--reject-all"], 0),
        (&["cancel", &session], 0),
    ] {
        let command = agent.sortie(arguments.iter().copied()).args(["--rehearse", "paused"]);
        command.run().code(code).stderr_has("REHEARSAL");
    }
}

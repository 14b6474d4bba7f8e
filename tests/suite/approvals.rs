//! Pauses, `pending`, the lists of tools, and decisions under bad conditions. A decision that the server does not wait
//! for is dropped or kills the run; the fake server complains of the latter by itself.

use crate::support::agent::{
    Action, Agent, Call, Decision, Effect, Fault, Options, Policy, Route, RunHandle, call,
};
use crate::support::http::{Ending, Request};
use crate::support::process::{Output, Running, Sortie};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A server that gives a sign of life so often, so that a test can wait for silence.
fn agent(policy: Policy, keepalive: Duration) -> Agent {
    Agent::with(Options { policy, keepalive, ..Options::default() })
}

const HALF: Duration = Duration::from_millis(500);

fn start(agent: &Agent, flags: &[&str]) -> (Running, RunHandle) {
    let running = agent.sortie(["run", "-o", "json"]).args(flags.iter().copied()).arg("go").spawn();
    (running, agent.next_run())
}

/// A run of somebody else that waits at its last call, the one that the server asks about.
fn waiting(agent: &Agent, calls: Vec<Call>) -> RunHandle {
    let run = agent.begin_run(agent.session());
    let last = calls.last().unwrap().id.clone();
    run.propose(calls);
    run.wait_until_waiting_at(&last);
    run
}

fn accepted(ids: &[&str]) -> Vec<(String, Decision, Effect)> {
    ids.iter().map(|id| ((*id).to_owned(), Decision::Accept, Effect::Applied)).collect()
}

/// The ids of the calls that a record says are waiting.
#[track_caller]
fn listed(record: &Value) -> Vec<&str> {
    let calls = record["pause_reason"]["pending_tool_calls"].as_array();
    let calls = calls.unwrap_or_else(|| panic!("no calls that wait: {record:#}"));
    calls.iter().map(|call| call["id"].as_str().unwrap()).collect()
}

fn posts(agent: &Agent) -> Vec<Request> {
    agent.all_requests().into_iter().filter(|request| request.method == "POST").collect()
}

/// The keys of the decisions that were sent.
fn keys(agent: &Agent) -> BTreeSet<String> {
    let requests = agent.requests(Route::Decide);
    requests.iter().map(|request| request.header("idempotency-key").unwrap().to_owned()).collect()
}

// Pauses.

#[test]
fn a_pause_is_reported_only_when_the_server_waits_and_lists_only_the_pending_calls() {
    let arguments = json!({ "path": "/tmp/é", "content": "one\ntwo", "mode": 420 });
    let started = [&["--on-approval", "pause"][..], &["--pause-on-approval"]].map(|flags| {
        let agent = agent(Policy::usual(), HALF);
        let (running, run) = start(&agent, flags);
        run.text("I look first.");
        run.propose([
            call("a", "view").held(),
            call("b", "create").with(arguments.clone()),
            call("c", "view"),
            call("d", "remove"),
        ]);
        run.wait_until_running("a");
        (agent, running, run)
    });
    for (agent, running, run) in started {
        agent.wait_for_streams(1);
        // Longer than a pause takes to be believed.
        agent.wait_for_silence(5);
        run.finish_tool("a", "seen", false);
        let output = running.wait().code(10);
        let record = output.record();
        assert_eq!(listed(&record), ["b", "c", "d"]);
        let batch = record["pause_reason"]["batch"].as_str().unwrap();
        assert!(batch.starts_with(&format!("{}.", &run.id.to_string()[..8])), "{batch}");
        assert_eq!(
            record["pause_reason"],
            json!({ "type": "tool_approval_required", "batch": batch, "pending_tool_calls": [
                { "id": "b", "name": "stakpak__create", "arguments": arguments },
                { "id": "c", "name": "stakpak__view", "arguments": { "path": "motd.txt" } },
                { "id": "d", "name": "stakpak__remove", "arguments": { "path": "motd.txt" } },
            ]})
        );
        assert_eq!(record["reason"], "tool_approval_required");
        assert_eq!(record["retryable"], false);
        assert_eq!(record["cancel_confirmed"], Value::Null);
        assert_eq!(record["text"], "I look first.");
        assert_eq!(record["tool_calls"], json!({ "proposed": 4, "accepted": 1, "rejected": 0, "failed": 0 }));
        assert_eq!(run.decisions(), []);
        assert!(!run.is_cancelled() && !run.is_over());
    }
}

#[test]
fn calls_that_the_server_approves_by_itself_never_pause() {
    let started = [Policy::All, Policy::usual()].map(|policy| {
        let agent = agent(policy, HALF);
        let (running, run) = start(&agent, &["--pause-on-approval"]);
        run.propose([call("a", "view").held(), call("b", "view")]);
        run.wait_until_running("a");
        (agent, running, run)
    });
    for (agent, running, run) in started {
        agent.wait_for_streams(1);
        agent.wait_for_silence(5);
        run.finish_tool("a", "seen", false);
        run.complete();
        running.wait().code(0);
        assert_eq!(run.decisions(), []);
    }
}

#[test]
fn a_call_that_the_server_starts_a_second_late_does_not_pause() {
    let agent = agent(Policy::usual(), HALF);
    let (running, run) = start(&agent, &["--pause-on-approval"]);
    agent.wait_for_streams(1);
    propose_by_hand(&run);
    agent.wait_for_silence(2);
    finish_by_hand(&run);
    run.complete();
    running.wait().code(0);
}

/// The server's words for a call that it approves by itself, but that starts only in [`finish_by_hand`].
fn propose_by_hand(run: &RunHandle) {
    run.emit("ToolCallsProposed", &[("tool_calls", json!([call("a", "view").json()]))]);
    run.emit("WaitingForToolApproval", &[("pending_tool_call_ids", json!(["a"]))]);
}

fn finish_by_hand(run: &RunHandle) {
    let tool = [("tool_call_id", "a".into()), ("tool_name", "stakpak__view".into())];
    run.emit("ToolExecutionStarted", &tool);
    let [id, name] = tool;
    run.emit("ToolExecutionCompleted", &[id, name, ("result", "seen".into()), ("is_error", false.into())]);
    run.emit("TurnCompleted", &[("turn", 1.into()), ("finish_reason", "tool_calls".into())]);
}

#[test]
fn a_call_that_the_server_starts_200_ms_late_is_not_decided() {
    // A machine under load may take longer than it should, and then a decision would be right.
    let never_decided = (0..10).any(|_| {
        let agent = agent(Policy::usual(), Duration::from_millis(100));
        let (running, run) = start(&agent, &[]);
        // It has learnt by then that the server asks about some calls, and is about to look up from the stream.
        run.propose([call("asked", "create")]);
        run.wait_until_thinking();
        agent.wait_for_silence(2);
        let proposed = Instant::now();
        propose_by_hand(&run);
        agent.wait_for_silence(2);
        let took = proposed.elapsed();
        finish_by_hand(&run);
        run.complete();
        running.wait().code(0);
        took > Duration::from_millis(150) && agent.requests(Route::Decide).len() == 1
    });
    assert!(never_decided);
}

#[test]
fn no_pause_is_reported_if_another_client_decides_in_time() {
    let agent = Agent::start();
    let (running, run) = start(&agent, &["--pause-on-approval"]);
    agent.wait_for_streams(1);
    run.propose([call("a", "create"), call("b", "create")]);
    run.decide([("a", Decision::Accept), ("b", Decision::Reject)]);
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(record["tool_calls"], json!({ "proposed": 2, "accepted": 1, "rejected": 1, "failed": 0 }));
    assert!(agent.requests(Route::Decide).is_empty());
}

#[test]
fn each_pending_call_is_shown_on_one_line_shortened_and_escaped() {
    let content = format!("first line\nsecond line\r\n\t{}END OF IT", "x".repeat(5000));
    let arguments = json!({ "content": content, "harm": "\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}" });
    let calls = || {
        vec![
            call("a\u{1b}]0;title\u{7}", "stakpak__create\nsortie: completed").with(arguments.clone()),
            call("b", "create"),
        ]
    };
    let agent = Agent::start();
    let (running, run) = start(&agent, &["--pause-on-approval"]);
    run.propose(calls());
    let paused = running.wait().code(10);
    let pending = agent.sortie(["pending", &run.session.to_string()]).run().code(10);
    for shown in [&paused.stderr, &pending.stdout] {
        let odd = shown.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202e}' | '\u{2028}'));
        assert_eq!(odd, None, "{shown:?}");
        assert!(!shown.contains("END OF IT"), "{shown:?}");
        assert!(shown.lines().all(|line| line.len() < 500), "{shown:?}");
        assert!(!shown.lines().any(|line| line == "sortie: completed"), "{shown:?}");
        let line = shown.lines().find(|line| line.contains("first line")).unwrap();
        assert!(line.contains(r"first line\nsecond line") && line.contains('…'), "{line:?}");
        assert!(line.contains("stakpak__create") && line.contains("]0;title"), "{line:?}");
        assert!(
            shown.lines().any(|line| line.contains("b stakpak__create") && line.contains("motd.txt")),
            "{shown:?}"
        );
    }
    assert_eq!(pending.stdout.lines().count(), 2);
    // The machine gets all of it.
    assert_eq!(paused.record()["pause_reason"]["pending_tool_calls"][0]["arguments"], arguments);
}

// The command that resumes.

/// Runs a command line that sortie has printed as a person would: pasted into a shell, with sortie on the PATH.
fn paste(command: Sortie, line: &str) -> Sortie {
    let binary = Path::new(env!("CARGO_BIN_EXE_sortie")).parent().unwrap();
    let path = std::env::join_paths(
        [binary.to_owned()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    command.env("PATH", path.unwrap()).in_shell(line)
}

/// The command that stderr and the record give, which must be the same.
#[track_caller]
fn hint(output: &Output) -> String {
    let hint = output.record()["resume_hint"].as_str().expect("a resume_hint").to_owned();
    let shown = output.stderr.lines().find(|line| line.contains("sortie resume")).expect("a command on stderr");
    assert!(shown.ends_with(&hint), "{hint:?} in {shown:?}");
    hint
}

#[test]
fn the_resume_command_works_unchanged() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "-o", "json", "--pause-on-approval", "go"]).spawn();
    let run = agent.next_run();
    run.text("May I?");
    run.propose([call("a", "create"), call("b", "view"), call("c", "remove")]);
    let hint = hint(&running.wait().code(10));
    let resumed = paste(agent.sortie([]), &hint).spawn();
    run.text("I did.");
    run.complete();
    resumed.wait().code(0).stdout("I did.\n");
    assert_eq!(run.decisions(), accepted(&["a", "c"]));
}

#[test]
fn the_resume_command_repeats_the_server_flag() {
    let agent = Agent::start();
    let url = agent.url();
    let command = |arguments: &[&str]| agent.sortie(arguments.iter().copied()).without_env("SORTIE_SERVER");
    let running = command(&["run", "-o", "json", "--pause-on-approval", "--server", &url, "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    let hint = hint(&running.wait().code(10));
    let resumed = paste(command(&[]), &hint).spawn();
    run.complete();
    resumed.wait().code(0);
}

#[test]
fn the_resume_command_repeats_the_token_file_flag() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--pause-on-approval", "go"]).without_env("SORTIE_TOKEN");
    let file = command.file("the token", crate::support::agent::TOKEN);
    let running = command.args(["--token-file", &file]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    let output = running.wait().code(10);
    let resumed = paste(agent.sortie([]).without_env("SORTIE_TOKEN"), &hint(&output)).spawn();
    run.wait_for_decisions(1);
    run.complete();
    resumed.wait().code(0);
}

#[test]
fn the_resume_command_repeats_the_policy() {
    let agent = Agent::start();
    let command = agent.sortie(["run", "-o", "json", "--on-approval", "pause"]);
    let program = command.file("policy's program", "cat >> \"$1\"\n");
    let questions = command.path("$HOME asked").into_os_string().into_string().unwrap();
    let program = format!("sh \"{program}\" '{questions}'");
    let flags = ["-t", "create", "-t", "stakpak__view", "--deny-tool", "remove", "--enable-subagents"];
    let running = command.args(flags).args(["--approve-with", &program, "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "run_command")]);
    let output = running.wait().code(10);
    let hint = hint(&output);
    for flag in ["--allow-tool create", "--allow-tool stakpak__view", "--deny-tool remove", "--enable-subagents"] {
        assert!(hint.contains(flag), "{flag} in {hint}");
    }
    let resumed = paste(agent.sortie([]), &hint).spawn();
    // The yes was for `a` alone.
    run.propose([call("b", "create"), call("c", "remove"), call("a", "run_command")]);
    let again = resumed.wait().code(10);
    assert!(again.stderr.contains("a stakpak__run_command"), "{again:#?}");
    let decisions = run.decisions();
    assert_eq!(decisions[..2], accepted(&["a", "b"]));
    assert!(matches!(&decisions[2..], [(id, Decision::Custom(_), Effect::Applied)] if id == "c"), "{decisions:?}");
    let asked = std::fs::read_to_string(questions).unwrap();
    assert!(asked.contains("stakpak__create") && !asked.contains("run_command"), "{asked}");
}

#[test]
fn an_id_that_looks_like_an_option_is_approved_as_an_id() {
    let agent = Agent::start();
    let (running, run) = start(&agent, &["--pause-on-approval"]);
    run.propose([call("--approve-all", "create"), call("b", "create")]);
    let hint = hint(&running.wait().code(10)).replace("--approve b", "--reject b");
    let resumed = paste(agent.sortie([]), &hint).spawn();
    let decisions = run.wait_for_decisions(2);
    run.complete();
    resumed.wait().code(0);
    assert_eq!(["--approve-all", "b"].map(|id| word(&decisions, id)), ["accept", "reject"]);
}

#[test]
fn a_rehearsed_pause_is_resumed_by_its_command() {
    let paused = Sortie::new(["run", "-o", "json", "--rehearse", "paused", "go"]).run().code(10);
    paste(Sortie::new([]), &hint(&paused)).run().code(0);
}

// What waits.

#[track_caller]
fn pending_json(agent: &Agent, session: Uuid, code: i32) -> Value {
    let output = agent.sortie(["pending", "-o", "json", &session.to_string()]).run().code(code);
    assert_eq!(output.stdout.lines().count(), 1, "{output:#?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn pending_shows_the_pending_calls_and_exits_10() {
    let agent = Agent::start();
    let arguments = json!({ "path": "x", "content": "y\n" });
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view"), call("b", "create").with(arguments.clone()), call("c", "view")]);
    run.wait_until_waiting_at("b");
    let session = run.session.to_string();
    let text = agent.sortie(["pending", &session]).spawn();
    let json = pending_json(&agent, run.session, 10);
    assert_eq!(
        json,
        json!({ "session_id": session, "run_id": run.id.to_string(), "batch": json["batch"], "tool_calls": [
            { "id": "b", "name": "stakpak__create", "arguments": arguments },
            { "id": "c", "name": "stakpak__view", "arguments": { "path": "motd.txt" } },
        ]})
    );
    let batch = json["batch"].as_str().unwrap();
    assert!(batch.starts_with(&format!("{}.", &run.id.to_string()[..8])), "{batch}");
    let text = text.wait().code(10);
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{text:#?}");
    // Once, on stdout; what to do next is on stderr.
    assert!(!text.stderr.contains("motd.txt"), "{text:#?}");
    let hint = format!("sortie resume {session} --batch {batch} --approve b --approve c");
    assert!(text.stderr.contains(&hint) && !text.stderr.contains("after"), "{text:#?}");
    assert!(lines[0].starts_with("b stakpak__create ") && lines[1].starts_with("c stakpak__view "), "{text:#?}");
    assert_eq!(posts(&agent).len(), 0, "it only looks");
}

#[test]
fn pending_exits_0_if_no_call_is_pending() {
    let agent = Agent::start();
    let idle = agent.session();
    let over = agent.begin_run(agent.session());
    over.complete();
    let failed = agent.begin_run(agent.session());
    failed.propose([call("a", "create")]);
    failed.fail_silently();
    let thinking = agent.begin_run(agent.session());
    let running = agent.begin_run(agent.session());
    running.propose([call("a", "view").held(), call("b", "create")]);
    running.wait_until_running("a");
    let second = agent.begin_run(agent.session());
    second.propose([call("a", "create").held(), call("b", "create")]);
    second.decide([("a", Decision::Accept)]);
    second.wait_until_running("a");
    for session in [idle, over.session, failed.session, thinking.session, running.session, second.session] {
        let text = agent.sortie(["pending", &session.to_string()]).spawn();
        let json = pending_json(&agent, session, 0);
        let expected = json!({
            "session_id": session.to_string(), "run_id": null, "batch": null, "tool_calls": [],
        });
        assert_eq!(json, expected);
        text.wait().code(0).stdout("");
    }
    assert_eq!(posts(&agent).len(), 0);
}

#[test]
fn pending_of_an_unknown_session_exits_1() {
    let agent = Agent::start();
    agent.sortie(["pending", &Uuid::new_v4().to_string()]).run().code(1).stdout("").stderr_has("404");
    agent.sortie(["pending", "mine"]).run().code(1).stdout("").stderr_has("mine");
}

#[test]
fn pending_shows_the_calls_when_the_proposal_has_left_the_ring() {
    let agent = Agent::with(Options { events_kept: 1, ..Options::default() });
    let run = waiting(&agent, vec![call("a", "create")]);
    let json = pending_json(&agent, run.session, 10);
    assert_eq!(json["tool_calls"], json!([call("a", "create").json()]));
}

#[test]
fn pending_does_not_show_a_running_tool_whose_start_has_left_the_ring() {
    let agent = Agent::with(Options { events_kept: 4, ..Options::default() });
    let run = talking_tool(&agent);
    let json = pending_json(&agent, run.session, 0);
    assert_eq!(json["tool_calls"], json!([]));
}

/// A tool that runs and has said so much that its start has left the ring.
fn talking_tool(agent: &Agent) -> RunHandle {
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view").held()]);
    run.wait_until_running("a");
    for number in 0..8 {
        talk(&run, &format!("line {number}"));
    }
    run
}

fn talk(run: &RunHandle, message: &str) {
    let tool = [("tool_call_id", "a".into()), ("tool_name", "stakpak__view".into()), ("message", message.into())];
    run.emit("ToolExecutionProgress", &tool);
}

#[test]
fn a_running_tool_whose_start_has_left_the_ring_is_not_decided() {
    let started = ["pause", "accept"].map(|what| {
        let agent = Agent::with(Options { events_kept: 4, keepalive: HALF, ..Options::default() });
        let run = talking_tool(&agent);
        let attached = agent.sortie(["attach", "--on-approval", what, &run.session.to_string()]).spawn();
        (agent, run, attached)
    });
    for (agent, run, attached) in started {
        agent.wait_for_streams(2);
        agent.wait_for(Route::Pending, 1);
        agent.wait_for_silence(6);
        run.finish_tool("a", "seen", false);
        run.complete();
        attached.wait().code(0);
        assert_eq!(run.decisions(), []);
    }
}

#[test]
fn pending_ends_while_a_tool_keeps_sending_progress() {
    let agent = Agent::start();
    let run = talking_tool(&agent);
    let running = agent.sortie(["pending", &run.session.to_string()]).spawn();
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(running.wait()));
    let output = loop {
        match ended.recv_timeout(Duration::from_millis(20)) {
            Ok(output) => break output,
            Err(RecvTimeoutError::Timeout) => talk(&run, "more"),
            Err(RecvTimeoutError::Disconnected) => panic!("it was not answered"),
        }
    };
    output.code(0).stdout("");
}

#[test]
fn pending_fails_for_two_calls_with_one_id() {
    // The second waits, and can be decided by nobody.
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "create"), call("a", "create")]);
    run.decide([("a", Decision::Accept)]);
    let output = agent.sortie(["pending", &run.session.to_string()]).run();
    assert_ne!(output.code, 0, "{output:#?}");
}

#[test]
fn pending_fails_when_the_stream_is_broken() {
    let agent = Agent::start();
    let run = waiting(&agent, vec![call("a", "create")]);
    run.raw(|id| format!("id: {id}\nevent: text_delta\ndata: {{\"id\":{id},\n\n").into_bytes());
    let output = agent.sortie(["pending", &run.session.to_string()]).run();
    assert_ne!(output.code, 0, "{output:#?}");
}

// The lists.

/// Runs with these flags on a server of this policy; hands out what was decided, and what was sent.
#[track_caller]
fn decided(policy: Policy, flags: &[&str], calls: Vec<Call>) -> (Vec<(String, Decision, Effect)>, Value, Output) {
    let agent = Agent::with_policy(policy);
    let (running, run) = start(&agent, flags);
    run.propose(calls);
    run.complete();
    let output = running.wait().code(0);
    (run.decisions(), agent.only_request(Route::Send).json(), output)
}

/// "accept", "reject", or the flag that the reason names.
fn word<'a>(decisions: &'a [(String, Decision, Effect)], id: &str) -> &'a str {
    match decisions.iter().find(|(known, ..)| known == id) {
        None => "nothing",
        Some((_, Decision::Accept, _)) => "accept",
        Some((_, Decision::Reject, _)) => "reject",
        Some((_, Decision::Custom(why), _)) => {
            let flag = why.find("--").map_or("", |at| &why[at..]);
            flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
        }
    }
}

#[test]
fn allowed_tools_run_and_all_others_are_rejected_with_or_without_the_prefix() {
    for flags in [
        &["--allow-tool", "create", "-t", "load_skill", "--deny-tool", "stakpak__remove"][..],
        &["--allow-tool", "stakpak__create", "--deny-tool", "remove"],
        &["-t", "stakpak__create", "-t", "other__view", "--deny-tool", "remove", "--on-approval", "reject"],
    ] {
        let calls =
            vec![call("a", "create"), call("b", "remove"), call("c", "view"), call("d", "another__create_all")];
        let (decisions, sent, output) = decided(Policy::usual(), flags, calls);
        assert_eq!(sent["overrides"]["auto_approve"], "none");
        let words = ["a", "b", "c", "d"].map(|id| word(&decisions, id));
        assert_eq!(words, ["accept", "--deny-tool", "--allow-tool", "--allow-tool"], "{flags:?}");
        assert!(output.stderr.contains("replace the server's policy"), "{output:#?}");
        assert_eq!(output.record()["tool_calls"]["rejected"], 3);
    }
}

#[test]
fn with_only_denied_tools_on_approval_decides_the_others() {
    let calls = || vec![call("a", "create"), call("b", "remove"), call("c", "view")];
    for (on_approval, expected) in [("accept", "accept"), ("reject", "reject")] {
        let flags = ["--deny-tool", "remove", "--on-approval", on_approval];
        let (decisions, ..) = decided(Policy::All, &flags, calls());
        let words = ["a", "b", "c"].map(|id| word(&decisions, id));
        assert_eq!(words, [expected, "--deny-tool", expected]);
    }
}

#[test]
fn our_policy_replaces_the_servers_policy_denials_included() {
    let rules = [("remove".to_owned(), Action::Deny), ("view".to_owned(), Action::Approve)].into();
    let policy = Policy::Custom { rules, default: Action::Ask };
    let flags = ["--allow-tool", "remove"];
    let (decisions, ..) = decided(policy, &flags, vec![call("a", "remove"), call("b", "view")]);
    assert_eq!(["a", "b"].map(|id| word(&decisions, id)), ["accept", "--allow-tool"]);
    let help = Sortie::new(["run", "--help"]).run().code(0).stdout;
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains("its denials included"), "{help}");
}

#[test]
fn without_policy_flags_the_servers_policy_applies() {
    let rules = [("remove".to_owned(), Action::Deny), ("view".to_owned(), Action::Approve)].into();
    let policy = Policy::Custom { rules, default: Action::Ask };
    let calls = vec![call("a", "remove"), call("b", "view"), call("c", "create")];
    let (decisions, sent, _) = decided(policy, &[], calls);
    assert!(sent["overrides"]["auto_approve"].is_null(), "{sent}");
    assert_eq!(decisions, accepted(&["c"]));
}

#[test]
fn a_call_on_no_list_pauses_with_on_approval_pause() {
    let agent = Agent::start();
    let (running, run) = start(&agent, &["--pause-on-approval", "-t", "create", "--deny-tool", "remove"]);
    let calls = [call("a", "create"), call("b", "remove"), call("c", "view"), call("d", "create")];
    run.propose(calls);
    let record = running.wait().code(10).record();
    assert_eq!(listed(&record), ["c", "d"]);
    let decisions = run.decisions();
    assert_eq!(
        ["a", "b", "c", "d"].map(|id| word(&decisions, id)),
        ["accept", "--deny-tool", "nothing", "nothing"]
    );
    agent.only_request(Route::Decide);
}

#[test]
fn subagent_and_slack_tools_run_only_if_enabled() {
    let subagents = ["dynamic_subagent_task", "resume_subagent_task"];
    let slack = ["slack_read_messages", "slack_read_replies", "slack_send_message"];
    let calls = || {
        let mut calls: Vec<Call> = subagents.iter().chain(&slack).map(|tool| call(tool, tool)).collect();
        calls.push(call("bare", "view"));
        calls
    };
    // With and without a policy of ours.
    for base in [&["--deny-tool", "remove", "--on-approval", "accept"][..], &[]] {
        for (flags, subagent_word, slack_word) in [
            (&[][..], "--enable-subagents", "--enable-slack-tools"),
            (&["--enable-subagents"], "accept", "--enable-slack-tools"),
            (&["--enable-slack-tools"], "--enable-subagents", "accept"),
            (&["--enable-subagents", "--enable-slack-tools"], "accept", "accept"),
        ] {
            let flags = [base, flags].concat();
            let (decisions, ..) = decided(Policy::None, &flags, calls());
            assert_eq!(subagents.map(|id| word(&decisions, id)), [subagent_word; 2], "{flags:?}");
            assert_eq!(slack.map(|id| word(&decisions, id)), [slack_word; 3], "{flags:?}");
            assert_eq!(word(&decisions, "bare"), "accept");
        }
    }
}

#[test]
fn enabling_subagent_and_slack_tools_does_not_allow_them() {
    let calls = vec![call("a", "dynamic_subagent_task"), call("b", "slack_send_message"), call("c", "view")];
    let flags = ["--enable-subagents", "--enable-slack-tools", "-t", "view", "--deny-tool", "slack_send_message"];
    let (decisions, ..) = decided(Policy::usual(), &flags, calls);
    assert_eq!(["a", "b", "c"].map(|id| word(&decisions, id)), ["--allow-tool", "--deny-tool", "accept"]);
}

#[test]
fn a_tool_cannot_be_on_both_lists() {
    let agent = Agent::out_of_bounds();
    for (allowed, denied) in
        [("remove", "remove"), ("stakpak__remove", "remove"), ("remove", "stakpak__remove"), ("a__b", "b")]
    {
        let output = agent.sortie(["run", "-o", "json", "-t", allowed, "--deny-tool", denied, "go"]).run();
        output
            .stderr_has(&format!("the tool {denied} is given to both --allow-tool and --deny-tool"))
            .fails("usage");
    }
}

// Command scopes: the list goes to the server.

fn command(id: &str, text: &str) -> Call {
    call(id, "run_command").with(json!({ "command": text }))
}

#[test]
fn a_list_with_a_command_scope_is_sent_to_the_server_and_other_calls_are_rejected() {
    let flags = ["-t", "view", "-t", "run_command::git::status", "-t", "stakpak__create"];
    let calls = vec![
        command("a", "git status --short"),
        call("b", "view"),
        command("c", "git log"),
        call("d", "create"),
        command("e", "git status && rm x"),
        call("f", "remove"),
    ];
    let (decisions, sent, output) = decided(Policy::All, &flags, calls);
    let list = json!(["run_command::git::status", "stakpak__create", "view"]);
    assert_eq!(sent["overrides"]["auto_approve"], list);
    let words = ["a", "b", "c", "d", "e", "f"].map(|id| word(&decisions, id));
    assert_eq!(words, ["nothing", "nothing", "--allow-tool", "nothing", "--allow-tool", "--allow-tool"]);
    assert!(output.stderr.contains("in place of the server's own policy"), "{output:#?}");
    assert!(!output.stderr.contains("no call was named"), "{output:#?}");
}

#[test]
fn with_a_sent_list_other_calls_can_pause_and_the_hint_has_no_list() {
    let agent = Agent::with_policy(Policy::All);
    let (running, run) = start(&agent, &["--pause-on-approval", "-t", "view", "-t", "run_command::ls"]);
    run.propose([command("a", "ls -la"), call("b", "create"), call("c", "view")]);
    let output = running.wait().code(10);
    assert_eq!(listed(&output.record()), ["b", "c"]);
    let hint = hint(&output);
    assert!(!hint.contains("--allow-tool"), "{hint}");
    let resumed = paste(agent.sortie([]), &hint).spawn();
    run.wait_for_decisions(1);
    run.complete();
    resumed.wait().code(0);
    assert_eq!(run.decisions()[0], accepted(&["b"])[0]);
}

#[test]
fn a_sent_list_has_subagent_and_slack_tools_only_with_their_flags() {
    let tools = ["-t", "run_command::ls", "-t", "dynamic_subagent_task", "-t", "slack_send_message"];
    let calls = || vec![call("a", "dynamic_subagent_task"), call("b", "slack_send_message")];
    let (decisions, sent, _) = decided(Policy::usual(), &tools, calls());
    assert_eq!(sent["overrides"]["auto_approve"], json!(["run_command::ls"]));
    assert_eq!(["a", "b"].map(|id| word(&decisions, id)), ["--enable-subagents", "--enable-slack-tools"]);
    let flags = [&tools[..], &["--enable-subagents", "--enable-slack-tools"]].concat();
    let (decisions, sent, _) = decided(Policy::usual(), &flags, calls());
    let list = json!(["dynamic_subagent_task", "run_command::ls", "slack_send_message"]);
    assert_eq!(sent["overrides"]["auto_approve"], list);
    assert_eq!(decisions, []);
}

#[test]
fn an_invalid_command_scope_is_refused() {
    let agent = Agent::out_of_bounds();
    let scope = "run_command::git::status";
    for (flags, named) in [
        (&["-t", scope, "--deny-tool", "remove"][..], "--deny-tool"),
        (&["-t", scope, "--approve-with", "exit 0"], "--approve-with"),
        (&["--deny-tool", scope, "-t", "view"], "a command scope can only be allowed"),
        (&["-t", "run_command::a__run_command"], "cut this entry at the two underscores"),
        (&["-t", scope, "-t", "a__b__c"], "cut this entry at the two underscores"),
        (&["-t", "run_command::"], "TOOL::COMMAND"),
        (&["-t", "run_command::git::"], "TOOL::COMMAND"),
        (&["-t", "run_command:: git"], "TOOL::COMMAND"),
        (&["-t", "::git"], "TOOL::COMMAND"),
        (&["-t", "run_command::*"], "is no pattern"),
    ] {
        let output = agent.sortie(["run", "-o", "json", "go"]).args(flags.iter().copied()).run();
        output.stderr_has(named).fails("usage");
    }
    let session = Uuid::new_v4().to_string();
    for command in ["resume", "attach"] {
        let output = agent.sortie([command, "-o", "json", "-t", scope, &session]).run();
        output.stderr_has("only run can send a list with command scopes").fails("usage");
    }
}

#[test]
fn a_warning_says_that_nothing_will_pause_if_the_server_approves_everything() {
    for (policy, flags, told) in [
        (Policy::All, &["--pause-on-approval"][..], true),
        (Policy::All, &["--on-approval", "pause"], true),
        (Policy::All, &[], false),
        (Policy::All, &["--pause-on-approval", "-t", "view"], false),
        (Policy::usual(), &["--pause-on-approval"], false),
        (Policy::None, &["--pause-on-approval"], false),
    ] {
        let agent = Agent::with_policy(policy);
        agent.script(RunHandle::complete);
        let output = agent.sortie(["run", "go"]).args(flags.iter().copied()).run().code(0);
        assert_eq!(output.stderr.contains("nothing will pause"), told, "{flags:?}: {output:#?}");
        assert!(agent.requests(Route::Config).len() <= 1, "{flags:?}");
        if flags.is_empty() {
            assert_eq!(agent.requests(Route::Config).len(), 0);
        }
    }
}

#[test]
fn a_list_that_names_no_tool_is_refused() {
    let agent = Agent::out_of_bounds();
    for flag in ["--allow-tool", "--deny-tool"] {
        for name in ["", " ", "stakpak__"] {
            agent.sortie(["run", "-o", "json", flag, name, "go"]).run().stderr_has(flag).fails("usage");
        }
    }
}

// Failed calls.

#[test]
fn fail_on_tool_error_counts_failures_but_not_rejections() {
    let agent = Agent::start();
    let (running, run) =
        start(&agent, &["--fail-on-tool-error", "--deny-tool", "remove", "--on-approval", "accept"]);
    run.propose([call("a", "remove"), call("b", "create")]);
    run.complete();
    running.wait().code(0);
    for command in ["attach", "resume"] {
        for (flags, code) in [(&[][..], 0), (&["--fail-on-tool-error"], 1)] {
            let run = agent.begin_run(agent.session());
            run.propose([call("a", "view").failing(), call("b", "create")]);
            run.wait_until_waiting_at("b");
            let session = run.session.to_string();
            let follow = agent.sortie([command, "-o", "json", "--on-approval", "accept", &session]);
            let running = follow.args(flags.iter().copied()).spawn();
            run.complete();
            let record = running.wait().code(code).record();
            assert_eq!(record["tool_calls"]["failed"], 1, "{command}");
            assert_eq!(record["reason"], if code == 0 { Value::Null } else { "tool_error".into() }, "{command}");
        }
    }
}

#[test]
fn fail_on_tool_error_counts_a_failure_whose_start_has_left_the_ring() {
    let agent = Agent::with(Options { events_kept: 6, ..Options::default() });
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view").failing()]);
    run.complete();
    // What is left begins with the failure.
    assert_eq!(run.newest_event(), 12);
    let attach = agent.sortie(["attach", "-o", "json", "--fail-on-tool-error", &run.session.to_string()]);
    attach.run().fails("tool_error");
}

// Leaving while calls wait.

/// A run whose calls `b` and `c` wait, since the decision about `b` does not get through.
fn stuck(agent: &Agent, flags: &[&str]) -> (Running, RunHandle) {
    agent.every(Route::Decide).lose_request(Ending::Cut);
    let (running, run) = start(agent, flags);
    run.propose([call("a", "view"), call("b", "create"), call("c", "create")]);
    agent.wait_for(Route::Decide, 1);
    (running, run)
}

#[test]
fn after_a_timeout_with_no_cancel_the_record_has_the_pending_calls() {
    let agent = Agent::start();
    let (running, run) = stuck(&agent, &["--no-cancel", "--timeout", "4s"]);
    let output = running.wait().within(Duration::from_secs(12)).stderr_has("still waiting");
    let record = output.fails("timeout");
    assert_eq!(listed(&record), ["b", "c"]);
    assert_eq!(record["cancel_confirmed"], Value::Null);
    assert_eq!(record["retryable"], false);
    assert!(!run.is_cancelled());
}

#[test]
fn after_a_signal_with_no_cancel_the_record_has_the_pending_calls() {
    let agent = Agent::start();
    let (running, run) = stuck(&agent, &["--no-cancel"]);
    running.signal(Signal::TERM);
    let record = running.wait().fails("interrupted");
    assert_eq!(listed(&record), ["b", "c"]);
    assert!(!run.is_cancelled());
    // It says how to go on, and there they wait.
    agent.behave();
    let hint = record["resume_hint"].as_str().unwrap();
    paste(agent.sortie([]), hint).run().code(10).stderr_has("b stakpak__create").stderr_has("c stakpak__create");
}

#[test]
fn the_record_has_the_pending_calls_when_the_server_is_gone() {
    let agent = Agent::start();
    let (running, _) = stuck(&agent, &["--retry-timeout", "2s"]);
    agent.down();
    let record = running.wait().within(Duration::from_secs(25)).fails("connection");
    assert_eq!(listed(&record), ["b", "c"]);
    assert_eq!(record["retryable"], false);
    assert_eq!(record["cancel_confirmed"], false);
}

#[test]
fn the_record_has_no_pending_calls_after_a_cancel() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    running.signal(Signal::TERM);
    let record = running.wait().stderr_lacks("still waiting").fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["pause_reason"], Value::Null);
    assert!(run.is_over());
}

// Decisions under bad conditions.

#[test]
fn a_dropped_decision_is_sent_again_each_time_with_a_new_key() {
    let agent = Agent::start();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "view").with_slow_checkpoint(), call("b", "create")]);
    agent.wait_for(Route::Decide, 1);
    let sent = Instant::now();
    agent.wait_for(Route::Decide, 2);
    assert!(sent.elapsed() > Duration::from_secs(2), "a slow server is given time: {:?}", sent.elapsed());
    run.write_checkpoint("a");
    run.wait_until_thinking();
    run.complete();
    running.wait().code(0).stderr_has("again");
    let effects: Vec<Effect> = run.decisions().into_iter().map(|(.., effect)| effect).collect();
    assert_eq!(effects[..3], [Effect::Dropped, Effect::Dropped, Effect::Applied]);
    taken_back(&agent, "b", 4);
}

#[test]
fn a_dropped_decision_about_a_whole_batch_is_sent_again() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &["--deny-tool", "remove", "--on-approval", "accept"]);
    run.propose([call("a", "create").held(), call("b", "create")]);
    gate.wait_until_reached();
    // Somebody else is quicker, and ours comes while the tool runs (protocol trap 3).
    run.decide([("a", Decision::Accept)]);
    run.wait_until_running("a");
    gate.open();
    agent.wait_for(Route::Decide, 1);
    run.finish_tool("a", "written", false);
    run.wait_until_waiting_at("b");
    run.wait_until_thinking();
    run.complete();
    running.wait().code(0);
    assert!(run.decisions().contains(&("b".to_owned(), Decision::Accept, Effect::Applied)));
    taken_back(&agent, "b", 3);
}

/// The server keeps a decision that it dropped, for a later call with the same ID (protocol trap 3): once the call has
/// started, a rejection takes its place.
#[track_caller]
fn taken_back(agent: &Agent, id: &str, requests: usize) {
    let last = agent.wait_for(Route::Decide, requests);
    assert_eq!(last.json()["decisions"], json!({ id: { "action": "reject" } }));
    assert_eq!(keys(agent).len(), requests);
}

#[test]
fn a_decision_is_not_sent_again_if_another_client_has_let_the_call_start() {
    let agent = agent(Policy::usual(), HALF);
    // The start of `b`, which only the next stream tells of.
    agent.spoil_stream(Fault::none().skip(8));
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "view").with_slow_checkpoint(), call("b", "create").held()]);
    agent.wait_for(Route::Decide, 1);
    run.write_checkpoint("a");
    run.wait_until_waiting_at("b");
    run.decide([("b", Decision::Accept)]);
    run.wait_until_running("b");
    agent.wait_for_streams(2);
    agent.wait_for_silence(3);
    run.finish_tool("b", "written", false);
    run.complete();
    running.wait().code(0);
    agent.only_request(Route::Decide);
}

#[test]
fn a_missed_start_event_does_not_look_like_a_dropped_decision() {
    let agent = agent(Policy::usual(), HALF);
    // RunStarted, TurnStarted, UsageReport, ToolCallsProposed, WaitingForToolApproval: the sixth is the start.
    agent.spoil_stream(Fault::none().skip(6));
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create").held()]);
    run.wait_until_running("a");
    agent.wait_for_streams(2);
    agent.wait_for_silence(3);
    run.finish_tool("a", "written", false);
    run.complete();
    let record = running.wait().code(0).record();
    assert_eq!(run.decisions(), accepted(&["a"]));
    assert_eq!(record["tool_calls"]["accepted"], 1);
}

#[test]
fn a_decision_whose_answer_is_slow_is_sent_once() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold_answer();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create"), call("b", "create")]);
    gate.wait_until_reached();
    run.wait_until_waiting_at("b");
    gate.open();
    run.propose([call("c", "create")]);
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), accepted(&["a", "b", "c"]));
}

#[test]
fn a_late_answer_about_one_batch_does_not_affect_the_next() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold_answer();
    let (running, run) = start(&agent, &["--deny-tool", "remove", "--on-approval", "accept"]);
    run.propose([call("a", "create"), call("b", "create")]);
    gate.wait_until_reached();
    run.propose([call("a", "create"), call("c", "create")]);
    run.wait_until_waiting_at("a");
    gate.open();
    run.complete();
    running.wait().code(0);
    assert_eq!(in_order(&run), accepted(&["a", "a", "b", "c"]));
}

/// What was decided, by id: one answer for several calls has no order.
fn in_order(run: &RunHandle) -> Vec<(String, Decision, Effect)> {
    let mut decisions = run.decisions();
    decisions.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    decisions
}

#[test]
fn a_run_may_end_before_the_answer_to_a_decision() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold_answer();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    run.text("Done.");
    run.complete();
    gate.open();
    let record = running.wait().code(0).record();
    assert_eq!(record["text"], "Done.");
    assert_eq!(run.decisions(), accepted(&["a"]));
}

#[test]
fn a_decision_that_takes_effect_late_is_waited_for() {
    let agent = agent(Policy::usual(), HALF);
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create"), call("b", "create")]);
    gate.wait_until_reached();
    // Longer than a decision without effect is waited for.
    agent.wait_for_silence(8);
    assert_eq!(run.decisions(), []);
    gate.open();
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), accepted(&["a", "b"]));
    assert_eq!(agent.requests(Route::Decide).len(), 2);
}

#[test]
fn a_decision_whose_answer_is_lost_is_repeated_under_its_key() {
    let mishaps: [fn(&Agent); 4] = [
        |agent| agent.next(Route::Decide).lose_answer(Ending::Cut),
        |agent| agent.next(Route::Decide).lose_answer(Ending::Reset),
        |agent| agent.next(Route::Decide).lose_request(Ending::Reset),
        |agent| agent.next(Route::Decide).fail(503, "busy"),
    ];
    for (flags, steps) in [(&[][..], 2), (&["--deny-tool", "remove", "--on-approval", "accept"], 1)] {
        let started = mishaps.map(|mishap| {
            let agent = Agent::start();
            mishap(&agent);
            let (running, run) = start(&agent, flags);
            run.propose([call("a", "create"), call("b", "create").held()]);
            (agent, running, run)
        });
        for (agent, running, run) in started {
            run.finish_tool("b", "written", false);
            run.complete();
            running.wait().code(0);
            assert_eq!(in_order(&run), accepted(&["a", "b"]));
            assert_eq!(keys(&agent).len(), steps);
            assert_eq!(agent.requests(Route::Decide).len(), steps + 1);
        }
    }
}

#[test]
fn a_stream_that_breaks_before_the_decision_leads_to_one_decision() {
    // After ToolCallsProposed, after WaitingForToolApproval, and in the middle of what follows.
    let faults = [(4, Ending::Cut), (5, Ending::Clean), (5, Ending::Reset), (6, Ending::Cut)];
    for flags in [&[][..], &["--deny-tool", "remove", "--on-approval", "accept"]] {
        let started = faults.map(|(last, ending)| {
            let agent = Agent::start();
            agent.spoil_stream(Fault::none().end_after(last, ending));
            let (running, run) = start(&agent, flags);
            run.propose([call("a", "create"), call("b", "create")]);
            (agent, running, run)
        });
        for (agent, running, run) in started {
            run.complete();
            let record = running.wait().code(0).record();
            assert_eq!(in_order(&run), accepted(&["a", "b"]));
            assert_eq!(record["tool_calls"]["accepted"], 2);
            assert!(agent.streams_opened() >= 2);
        }
    }
}

#[test]
fn a_stream_that_breaks_while_a_decision_is_sent_leads_to_one_decision() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    agent.drop_streams(Ending::Cut);
    gate.open();
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), accepted(&["a"]));
}

#[test]
fn a_decision_refused_because_the_run_has_ended_reports_the_runs_end() {
    for (stop_reason, code, reason) in
        [("completed", 0, Value::Null), ("cancelled", 1, "cancelled".into()), ("max_turns", 1, "max_turns".into())]
    {
        let agent = Agent::start();
        let gate = agent.next(Route::Decide).hold();
        let (running, run) = start(&agent, &[]);
        run.propose([call("a", "create")]);
        gate.wait_until_reached();
        run.end(stop_reason);
        gate.open();
        let output = running.wait().code(code).stderr_has("refused").stderr_has("409");
        let record = output.record();
        assert_eq!((&record["reason"], &record["stop_reason"]), (&reason, &json!(stop_reason)));
        assert!(agent.requests(Route::Cancel).is_empty(), "there is nothing to cancel");
    }
}

#[test]
fn a_decision_refused_because_of_another_run_is_explained() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    run.end("error");
    let other = agent.begin_run(run.session);
    gate.open();
    let output = running.wait().stderr_has("refused").stderr_has("does not match");
    assert_eq!(output.fails("run_error")["stop_reason"], "error");
    assert!(!other.is_cancelled(), "it is none of ours");
}

#[test]
fn a_decision_refused_by_a_silently_failed_run_finds_the_failure() {
    let agent = Agent::start();
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    gate.wait_until_reached();
    run.fail_silently();
    gate.open();
    running.wait().within(Duration::from_secs(15)).fails("run_error");
}

#[test]
fn a_decision_refused_by_an_active_run_is_retried_with_pauses() {
    let agent = agent(Policy::usual(), HALF);
    agent.every(Route::Decide).fail(409, "session_not_running");
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    agent.wait_for(Route::Decide, 1);
    agent.wait_for_silence(8);
    let tries = agent.requests(Route::Decide).len();
    agent.behave();
    run.wait_for_decisions(1);
    run.complete();
    running.wait().code(0);
    assert!(tries <= 20, "{tries} in 4 seconds");
}

#[test]
fn a_decision_that_the_server_calls_invalid_ends_the_run() {
    let agent = Agent::start();
    agent.next(Route::Decide).fail(422, "unprocessable");
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create")]);
    let record = running.wait().stderr_has("422").fails("server");
    assert_eq!(record["cancel_confirmed"], true);
    assert!(run.is_over());
    assert_eq!(run.decisions(), []);
}

#[test]
fn a_run_that_a_wrong_decision_has_killed_is_found() {
    let agent = agent(Policy::usual(), HALF);
    let gate = agent.next(Route::Decide).hold();
    let (running, run) = start(&agent, &[]);
    run.propose([call("a", "create"), call("b", "create")]);
    gate.wait_until_reached();
    // Somebody else was quicker; ours then hits a call that is over.
    run.decide([("a", Decision::Accept)]);
    run.wait_until_waiting_at("b");
    gate.open();
    run.wait_until_over();
    running.wait().fails("run_error");
    agent.forgive("trap 2");
    assert_eq!(run.decisions()[..1], accepted(&["a"]));
}

#[test]
fn nothing_is_decided_if_the_server_approves_all() {
    let agent = Agent::with_policy(Policy::All);
    let running = agent.sortie(["run", "--heartbeat", "1s", "go"]).spawn();
    let run = agent.next_run();
    // Between the two calls the server is deaf for longer than the quiet that a decision takes.
    run.propose([call("a", "view").with_slow_checkpoint(), call("b", "create")]);
    running.wait_for_stderr("the run goes on");
    assert!(agent.requests(Route::Decide).is_empty());
    run.write_checkpoint("a");
    run.complete();
    running.wait().code(0);
}

#[test]
fn each_decision_is_reported_on_stderr() {
    let agent = Agent::start();
    let running = agent.sortie(["run", "--deny-tool", "remove", "--on-approval", "accept", "go"]).spawn();
    let run = agent.next_run();
    run.propose([call("a", "create"), call("b", "remove")]);
    run.complete();
    let output = running.wait().code(0);
    output.stderr_has("sortie: accept stakpak__create (a)\n").stderr_has("sortie: reject stakpak__remove (b)\n");
}

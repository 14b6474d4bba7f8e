//! Only what is known: whose word counts, what proves that a run has ended, and what the record may say of it. Between
//! the client and the server stands a gateway that answers in the server's place, holds back, cuts, or leads to another
//! replica.

use crate::support::agent::{
    Agent, Decision, Effect, Fault, Options, Policy, Route, RunHandle, Starting, TOKEN, call, command_task,
    subagent_task,
};
use crate::support::gateway::{Calls, Gateway, Page};
use crate::support::http::{Ending, Request};
use crate::support::let_pass;
use crate::support::process::{Output, Running, Sortie, result_file};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

const NO_AGENT_SERVER: &str = "this is no agent server";
const RESTARTED: &str = "the server was restarted";
const ANOTHER_SERVER: &str = "another server behind the same address?";
const COMPLETED: &str = "it completed all the same";
const FAILED: &str = "the server says that the run failed, and not why; its log may tell";

/// A server that sends a keep-alive every second, so that a quiet stream brings a byte soon.
fn lively() -> Agent {
    Agent::with(Options { keepalive: Duration::from_secs(1), ..Options::default() })
}

/// A run whose record goes to a file.
fn start(sortie: Sortie, flags: &[&str]) -> Running {
    sortie.args(["--result-file", "result.json"]).args(flags.iter().copied()).arg("go").spawn()
}

/// A run that has said something, which the client has heard.
fn follow(agent: &Agent, gateway: &Gateway, flags: &[&str]) -> (Running, RunHandle) {
    let running = start(gateway.sortie(["run"]), flags);
    let run = agent.next_run();
    run.text("So far. ");
    running.wait_for_stdout("So far. ");
    (running, run)
}

/// The same, and a tool works for it: a cancel stops it at once.
fn follow_busy(agent: &Agent, gateway: &Gateway, flags: &[&str]) -> (Running, RunHandle) {
    let (running, run) = follow(agent, gateway, flags);
    run.propose([call("a", "view").held()]);
    run.wait_until_running("a");
    (running, run)
}

/// What it left behind, with its record.
#[track_caller]
fn ended(running: Running, code: i32) -> (Output, Value) {
    let output = running.wait().code(code);
    let record = result_file(&output.home().join("result.json"), code);
    (output, record)
}

/// The same, of a failure for this reason.
#[track_caller]
fn fails(running: Running, reason: &str) -> (Output, Value) {
    let (output, record) = ended(running, 1);
    assert_eq!(record["reason"], reason, "{record:#}\n{}", output.stderr);
    (output, record)
}

/// Asserts `retryable` and `cancel_confirmed`.
#[track_caller]
fn says(record: &Value, retryable: bool, confirmed: impl Into<Value>) {
    let said = (&record["retryable"], &record["cancel_confirmed"]);
    assert_eq!(said, (&retryable.into(), &confirmed.into()), "retryable and cancel_confirmed in {record:#}");
}

/// Asserts that the line of the failure contains this.
#[track_caller]
fn error_has(record: &Value, text: &str) {
    assert!(record["error"].as_str().unwrap_or_default().contains(text), "{text:?} in the error of {record:#}");
}

/// Asserts that the prompt was taken once, however often it was sent, and always sent under one key.
#[track_caller]
fn one_prompt(agent: &Agent, gateway: &Gateway) {
    assert_eq!(agent.runs_begun(), 1, "{:#?}", agent.all_requests());
    let key = |request: &Request| request.header("idempotency-key").map(str::to_owned);
    let keys: BTreeSet<_> = gateway.requests(Route::Send).iter().map(key).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
}

/// JSON that any program could have written.
fn foreign_json(status: u16) -> Page {
    Page::json(status, &json!({ "error": "nothing here", "message": "no route" }))
}

/// Pages that will not pass, of something between.
fn lasting_pages() -> Vec<Page> {
    let mut pages: Vec<Page> = [200, 401, 403, 404, 405, 409].into_iter().map(Page::html).collect();
    pages.extend([200, 403, 404, 409].into_iter().map(foreign_json));
    pages.extend([Page::redirect("https://login.example.com/"), Page::empty(200), Page::empty(404)]);
    pages
}

// Before the server's own first word.

/// Everything is answered by this page; hands out what became of a run.
#[track_caller]
fn nothing_but(page: &Page, reason: &str) -> Value {
    let agent = Agent::out_of_bounds();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::all()).answer_instead(page);
    let (output, record) = fails(start(gateway.sortie(["run"]), &[]), reason);
    output.within(Duration::from_secs(8));
    says(&record, false, Value::Null);
    assert_eq!(gateway.requests(Route::CreateSession).len(), 1, "nothing is tried again");
    assert!(gateway.requests(Route::Send).is_empty());
    record
}

#[test]
fn a_404_page_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::html(404), "protocol"), NO_AGENT_SERVER);
    error_has(&nothing_but(&foreign_json(404), "protocol"), NO_AGENT_SERVER);
    error_has(&nothing_but(&Page::empty(404), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_403_page_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::html(403), "protocol"), NO_AGENT_SERVER);
    error_has(&nothing_but(&foreign_json(403), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_409_page_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::html(409), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_405_page_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::html(405), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_redirect_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::redirect("https://login.example.com/"), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_login_page_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&Page::html(200), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn json_of_another_shape_as_the_first_answer_is_no_agent_server() {
    error_has(&nothing_but(&foreign_json(200), "protocol"), NO_AGENT_SERVER);
    error_has(&nothing_but(&foreign_json(201), "protocol"), NO_AGENT_SERVER);
    error_has(&nothing_but(&Page::empty(200), "protocol"), NO_AGENT_SERVER);
}

#[test]
fn a_401_page_of_a_gateway_is_auth_but_not_the_agent_servers() {
    for page in [Page::html(401), foreign_json(401), Page::empty(401)] {
        error_has(&nothing_but(&page, "auth"), "agent server");
    }
}

#[test]
fn every_command_says_that_a_page_is_no_agent_server() {
    let session = Uuid::new_v4().to_string();
    for command in [
        &["attach", &session][..],
        &["resume", "--approve-all", &session],
        &["cancel", &session],
        &["pending", &session],
        &["ping"],
    ] {
        let agent = Agent::out_of_bounds();
        let gateway = Gateway::to(&agent);
        gateway.on(Calls::all()).answer_instead(&Page::html(404));
        let output = gateway.sortie(command.iter().copied()).run().code(1);
        output.within(Duration::from_secs(8)).stderr_has(NO_AGENT_SERVER);
    }
}

#[test]
fn temporary_pages_are_retried_before_the_servers_first_answer() {
    let agent = Agent::answering("Done.");
    let gateway = Gateway::to(&agent);
    for (number, status) in [502, 499, 408, 429].into_iter().enumerate() {
        gateway.on(Calls::all().number(number + 1)).answer_instead(&Page::html(status));
    }
    gateway.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    one_prompt(&agent, &gateway);
}

/// The prompt is answered by this page and reaches nobody.
#[track_caller]
fn too_large(page: &Page) {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Send).answer_instead(page);
    let context = format!("big={}", "x".repeat(5000));
    let running = start(gateway.sortie(["run"]), &["--context", &context]);
    let (output, record) = fails(running, "server");
    output.within(Duration::from_secs(8));
    says(&record, false, Value::Null);
    assert_eq!(gateway.requests(Route::Send).len(), 1);
    assert_eq!(agent.runs_begun(), 0);
    let size = gateway.requests(Route::Send)[0].body.len();
    // However the digits are set apart.
    let error = record["error"].as_str().unwrap().replace([' ', ','], "");
    assert!(error.contains(&size.to_string()), "{size} in {error:?}");
}

#[test]
fn a_413_is_a_refusal_at_once_and_says_how_large_the_request_was() {
    too_large(&Page::html(413));
    too_large(&foreign_json(413));
}

#[test]
fn a_414_is_a_refusal_at_once_and_says_how_large_the_request_was() {
    too_large(&Page::html(414));
}

#[test]
fn a_431_is_a_refusal_at_once_and_says_how_large_the_request_was() {
    too_large(&Page::html(431));
}

// The prompt.

/// The first answer to the prompt is this page, whether or not the server took the prompt.
fn hidden_prompt(page: &Page, taken: bool) -> (Agent, Gateway, Running) {
    let agent = Agent::answering("Done.");
    let gateway = Gateway::to(&agent);
    let planning = gateway.on(Calls::of(Route::Send).number(1));
    if taken {
        planning.answer_after_passing_it_on(page);
    } else {
        planning.answer_instead(page);
    }
    let running = start(gateway.sortie(["run"]), &[]);
    (agent, gateway, running)
}

#[track_caller]
fn is_found(pages: impl IntoIterator<Item = Page>, taken: bool) {
    let started: Vec<_> = pages.into_iter().map(|page| (page.clone(), hidden_prompt(&page, taken))).collect();
    for (page, (agent, gateway, running)) in started {
        let output = running.wait();
        assert_eq!((output.code, &*output.stdout), (0, "Done.\n"), "{page:?}\n{}", output.stderr);
        one_prompt(&agent, &gateway);
    }
}

/// What proxies say of a server that did not answer them, without a word of the server's own.
fn passing_pages() -> Vec<Page> {
    [408, 499, 500, 501, 502, 503, 504, 505, 507].into_iter().chain(520..=530).map(Page::html).collect()
}

#[test]
fn a_taken_prompt_with_a_5xx_answer_is_sent_again_and_its_run_followed() {
    is_found(passing_pages(), true);
}

#[test]
fn a_prompt_that_never_arrived_with_a_5xx_answer_is_sent_again() {
    is_found(passing_pages(), false);
}

#[test]
fn a_taken_prompt_with_a_page_as_its_answer_is_sent_again_and_its_run_followed() {
    is_found(lasting_pages(), true);
}

#[test]
fn a_prompt_that_never_arrived_with_a_page_as_its_answer_is_sent_again() {
    is_found(lasting_pages(), false);
}

#[test]
fn a_session_whose_creation_got_a_524_is_created_once() {
    let agent = Agent::answering("Done.");
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::CreateSession).number(1)).answer_after_passing_it_on(&Page::html(524));
    gateway.sortie(["run", "go"]).run().code(0).stdout("Done.\n");
    let keys: Vec<_> = agent.requests(Route::CreateSession);
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0].header("idempotency-key"), keys[1].header("idempotency-key"));
}

#[test]
fn after_a_524_the_run_of_a_prompt_in_an_old_session_is_found_and_followed() {
    let agent = Agent::start();
    let old = agent.begin_run(agent.session());
    old.text("Yesterday.");
    old.complete();
    agent.script(|run| {
        run.text("Today.");
        run.complete();
    });
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Send).number(1)).answer_after_passing_it_on(&Page::html(524));
    let output = gateway.sortie(["run", "--session", &old.session.to_string(), "go"]).run();
    output.code(0).stdout("Today.\n");
    assert_eq!(agent.runs_begun(), 2);
}

#[test]
fn a_prompt_that_never_gets_an_answer_leaves_no_run_going() {
    for page in [Page::html(524), Page::html(404)] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        gateway.on(Route::Send).answer_after_passing_it_on(&page);
        let running = start(gateway.sortie(["run"]), &["--retry-timeout", "2s", "--timeout", "8s"]);
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        let (_, record) = ended(running, 1);
        assert!(run.is_over(), "{record:#}");
        assert_eq!(record["cancel_confirmed"], true, "{record:#}");
        one_prompt(&agent, &gateway);
    }
}

// After the server's first word: never evidence.

/// While this page answers the questions about the session, the stream breaks. The run goes on.
#[track_caller]
fn state_hidden_by(page: &Page) {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (mut running, run) = follow(&agent, &gateway, &[]);
    gateway.on(Route::Session).answer_instead(page);
    agent.drop_streams(Ending::Cut);
    gateway.wait_for_calls_of(&mut running, Route::Session, 2);
    gateway.behave();
    is_followed_to_its_end(running, &run);
}

/// The run is still followed 3 s later, and completes.
#[track_caller]
fn is_followed_to_its_end(mut running: Running, run: &RunHandle) {
    let_pass(Duration::from_secs(3));
    running.is_going_on();
    run.text("The rest.");
    run.complete();
    running.wait().code(0).stdout("So far. The rest.\n");
}

#[test]
fn a_404_page_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::html(404));
}

#[test]
fn a_403_page_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::html(403));
}

#[test]
fn a_401_page_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::html(401));
}

#[test]
fn a_409_page_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&foreign_json(409));
}

#[test]
fn a_redirect_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::redirect("https://login.example.com/"));
}

#[test]
fn a_login_page_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::html(200));
}

#[test]
fn json_of_another_shape_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&foreign_json(200));
}

#[test]
fn an_empty_answer_for_the_sessions_state_does_not_end_the_run() {
    state_hidden_by(&Page::empty(200));
}

#[test]
fn a_page_instead_of_the_stream_is_retried_and_no_text_is_lost() {
    let started: Vec<_> = lasting_pages()
        .into_iter()
        .map(|page| {
            let agent = Agent::start();
            let gateway = Gateway::to(&agent);
            let (running, run) = follow(&agent, &gateway, &[]);
            gateway.on(Calls::of(Route::Events).number(2)).answer_instead(&page);
            agent.drop_streams(Ending::Cut);
            run.text("The rest.");
            run.complete();
            (page, agent, gateway, running)
        })
        .collect();
    for (page, _agent, _gateway, running) in started {
        let output = running.wait();
        assert_eq!((output.code, &*output.stdout), (0, "So far. The rest.\n"), "{page:?}\n{}", output.stderr);
    }
}

#[test]
fn a_decision_answered_by_a_page_is_sent_again_with_the_same_key() {
    let started: Vec<_> = lasting_pages()
        .into_iter()
        .flat_map(|page| [(page.clone(), true), (page, false)])
        .map(|(page, taken)| {
            let agent = Agent::start();
            let gateway = Gateway::to(&agent);
            let planning = gateway.on(Calls::of(Route::Decide).number(1));
            if taken {
                planning.answer_after_passing_it_on(&page);
            } else {
                planning.answer_instead(&page);
            }
            let (running, run) = follow(&agent, &gateway, &[]);
            run.propose([call("a", "create")]);
            (page, running, run, gateway, agent)
        })
        .collect();
    for (page, mut running, run, gateway, _agent) in started {
        gateway.wait_for_calls_of(&mut running, Route::Decide, 2);
        let decisions = run.wait_for_decisions(1);
        assert_eq!(decisions, [("a".to_owned(), Decision::Accept, Effect::Applied)], "{page:?}");
        run.complete();
        running.wait().code(0);
        let sent = gateway.requests(Route::Decide);
        assert_eq!(sent[0].header("idempotency-key"), sent[1].header("idempotency-key"), "{page:?}");
    }
}

#[test]
fn a_page_instead_of_the_configuration_is_retried() {
    let agent = Agent::with_policy(Policy::All);
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Config).number(1)).answer_instead(&Page::html(404));
    let (running, run) = follow(&agent, &gateway, &["--pause-on-approval"]);
    run.propose([call("a", "create").held()]);
    run.wait_until_running("a");
    let_pass(Duration::from_secs(1));
    run.finish_tool("a", "done", false);
    run.complete();
    running.wait().code(0);
}

/// Pages that look like an answer of the server's that breaks the protocol.
fn odd_pages() -> [Page; 2] {
    [
        Page::html(200).with("content-encoding", "gzip"),
        Page::new(200, "text/html", format!("<html>{}</html>", "x".repeat(9_000_000))),
    ]
}

#[test]
fn a_compressed_or_endless_page_for_the_sessions_state_does_not_end_the_run() {
    odd_pages().iter().for_each(state_hidden_by);
}

#[test]
fn a_compressed_or_endless_page_as_the_first_answer_is_no_agent_server() {
    for page in odd_pages() {
        let record = nothing_but(&page, "protocol");
        error_has(&record, NO_AGENT_SERVER);
    }
}

#[test]
fn a_page_that_asks_to_wait_does_not_delay_the_cancel() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow_busy(&agent, &gateway, &[]);
    gateway.on(Calls::of(Route::Cancel).number(1)).answer_instead(&Page::html(503).with("retry-after", "30"));
    running.signal(Signal::TERM);
    let (_, record) = fails(running, "interrupted");
    says(&record, true, true);
    assert!(run.is_over());
}

#[test]
fn a_page_that_asks_to_wait_does_not_keep_the_stream_unread() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (mut running, run) = follow(&agent, &gateway, &[]);
    gateway.next(Route::Session).answer_instead(&Page::html(503).with("retry-after", "3600"));
    agent.drop_streams(Ending::Cut);
    gateway.wait_for_calls_of(&mut running, Route::Session, 1);
    run.text("The rest.");
    run.complete();
    running.wait().code(0).stdout("So far. The rest.\n").within(Duration::from_secs(30));
}

/// An answer about the session with this run status.
fn session_with(status: &Value) -> Page {
    Page::json(200, &json!({ "session": { "run_status": status }, "config": {} }))
}

/// The server's own refusal.
fn refusal(status: u16, code: &str) -> Page {
    Page::json(status, &json!({ "error": "no", "code": code, "request_id": "1" }))
}

#[test]
fn one_stale_idle_does_not_end_the_run() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (mut running, run) = follow(&agent, &gateway, &[]);
    gateway.next(Route::Session).answer_instead(&session_with(&json!({ "state": "idle" })));
    agent.drop_streams(Ending::Cut);
    // The newest answer counts.
    gateway.wait_for_calls_of(&mut running, Route::Session, 2);
    is_followed_to_its_end(running, &run);
}

#[test]
fn a_state_that_names_no_run_does_not_end_the_run() {
    for state in ["running", "never heard of"] {
        let agent = lively();
        let gateway = Gateway::to(&agent);
        let (mut running, run) = follow(&agent, &gateway, &[]);
        gateway.on(Route::Session).answer_instead(&session_with(&json!({ "state": state, "run_id": null })));
        agent.drop_streams(Ending::Cut);
        gateway.wait_for_calls_of(&mut running, Route::Session, 1);
        is_followed_to_its_end(running, &run);
    }
}

#[test]
fn the_cancel_command_does_not_take_a_state_that_names_no_run_for_the_end() {
    let agent = Agent::start();
    let run = agent.begin_run(agent.session());
    let body = json!({ "session": { "run_status": { "state": "running", "run_id": null } }, "config": {} });
    agent.every(Route::Session).answer(200, &[("content-type", "application/json")], &body.to_string());
    agent.sortie(["cancel", &run.session.to_string()]).run().code(1);
    assert!(!run.is_over());
}

#[test]
fn a_run_whose_events_come_is_not_lost_because_its_session_is_unknown() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (mut running, run) = follow(&agent, &gateway, &[]);
    gateway.on(Route::Session).answer_instead(&refusal(404, "not_found"));
    agent.drop_streams(Ending::Cut);
    gateway.wait_for_calls_of(&mut running, Route::Session, 2);
    run.text("The ");
    running.wait_for_stdout("So far. The ");
    let_pass(Duration::from_secs(6));
    running.is_going_on();
    run.text("rest.");
    run.complete();
    running.wait().code(0).stdout("So far. The rest.\n");
}

#[test]
fn a_404_for_the_prompt_in_a_new_session_is_another_servers() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Send).number(1)).answer_instead(&refusal(404, "not_found"));
    let (running, run) = follow(&agent, &gateway, &[]);
    run.complete();
    running.wait().code(0);
    one_prompt(&agent, &gateway);
}

#[test]
fn a_404_for_a_decision_does_not_end_the_run() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Decide).number(1)).answer_instead(&refusal(404, "not_found"));
    let (mut running, run) = follow(&agent, &gateway, &[]);
    run.propose([call("a", "create")]);
    gateway.wait_for_calls_of(&mut running, Route::Decide, 2);
    assert_eq!(run.wait_for_decisions(1), [("a".to_owned(), Decision::Accept, Effect::Applied)]);
    run.complete();
    running.wait().code(0);
}

#[test]
fn a_409_in_mid_run_cancels_the_run() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Calls::of(Route::Decide).number(1)).answer_instead(&refusal(409, "tool_call_already_decided"));
    let (running, run) = follow(&agent, &gateway, &[]);
    run.propose([call("a", "create")]);
    let (_, record) = fails(running, "conflict");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}");
    assert!(run.is_over());
}

#[test]
fn a_prompt_that_a_failing_server_took_leaves_no_run_going() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Send).answer_after_passing_it_on(&refusal(500, "internal_error"));
    let running = start(gateway.sortie(["run", "--retry-timeout", "2s"]), &[]);
    let (_, record) = fails(running, "server");
    // The model has not answered yet.
    says(&record, false, false);
    assert!(agent.next_run().is_cancelled());
}

#[test]
fn a_prompt_that_a_failing_server_did_not_take_may_be_sent_again() {
    let agent = Agent::start();
    agent.every(Route::Send).fail(500, "internal_error");
    let (output, record) = fails(start(agent.sortie(["run", "--retry-timeout", "2s"]), &[]), "server");
    says(&record, true, Value::Null);
    output.stderr_lacks("may have reached the server");
    assert_eq!(agent.runs_begun(), 0);
}

#[test]
fn if_only_the_stream_is_blocked_the_text_comes_from_the_messages() {
    for page in [Page::html(502), Page::html(403)] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let (mut running, run) = follow(&agent, &gateway, &["--retry-timeout", "3s"]);
        gateway.later(Route::Events).answer_instead(&page);
        agent.drop_streams(Ending::Cut);
        gateway.wait_for_calls_of(&mut running, Route::Events, 2);
        run.text("The rest.");
        run.complete();
        let (output, record) = ended(running, 1);
        assert_eq!(output.stdout, "So far. The rest.\n", "{record:#}\n{}", output.stderr);
        assert_eq!(record["text"], "So far. The rest.");
    }
}

// The cancel.

/// The run is interrupted while this page answers everything.
#[track_caller]
fn cancel_hidden_by(page: &Page) {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow_busy(&agent, &gateway, &[]);
    gateway.later(Calls::all()).answer_instead(page);
    let began = Instant::now();
    running.signal(Signal::TERM);
    let (output, record) = fails(running, "interrupted");
    assert!(began.elapsed() >= Duration::from_millis(4500), "tried for {:?}\n{}", began.elapsed(), output.stderr);
    says(&record, false, false);
    output.stderr_lacks("the run has stopped");
    assert!(gateway.requests(Route::Cancel).len() >= 3, "tried again and again");
    assert!(!run.is_over());
}

#[test]
fn a_404_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(404));
}

#[test]
fn a_403_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(403));
}

#[test]
fn a_401_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(401));
}

#[test]
fn a_409_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(409));
}

#[test]
fn a_409_without_a_code_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&foreign_json(409));
}

#[test]
fn a_404_without_a_code_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&foreign_json(404));
}

#[test]
fn a_redirect_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::redirect("https://login.example.com/"));
}

#[test]
fn a_login_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(200));
}

#[test]
fn json_of_another_shape_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&foreign_json(200));
}

#[test]
fn a_502_page_for_the_cancel_is_no_proof_that_the_run_has_stopped() {
    cancel_hidden_by(&Page::html(502));
}

#[test]
fn a_cancel_is_sent_again_until_no_page_answers() {
    for page in [Page::html(404), Page::html(403), foreign_json(409), Page::html(502), Page::html(200)] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let (mut running, run) = follow_busy(&agent, &gateway, &[]);
        gateway.later(Calls::all()).answer_instead(&page);
        running.signal(Signal::TERM);
        gateway.wait_for_calls_of(&mut running, Route::Cancel, 3);
        gateway.behave();
        let (_, record) = fails(running, "interrupted");
        says(&record, true, true);
        assert_eq!(record["stop_reason"], "cancelled", "{record:#}");
        assert!(run.is_over());
    }
}

#[test]
fn an_empty_decision_answered_by_a_page_is_sent_again() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    // The decision itself reaches nobody: the run waits for approval when it is cancelled (protocol trap 5).
    gateway.on(Calls::of(Route::Decide).number(1)).black_hole();
    let (running, run) = follow(&agent, &gateway, &[]);
    run.propose([call("a", "create")]);
    gateway.wait_for(Route::Decide, 1);
    for (number, page) in [(2, Page::html(502)), (3, Page::html(404))] {
        gateway.on(Calls::of(Route::Decide).number(number)).answer_instead(&page);
    }
    running.signal(Signal::TERM);
    let (_, record) = fails(running, "interrupted");
    says(&record, true, true);
    assert_eq!((run.is_over(), run.decisions().len()), (true, 0));
}

#[test]
fn a_cancel_answered_by_a_page_is_sent_again_and_confirmed() {
    for page in [Page::html(502), Page::html(524), Page::html(404)] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let (running, run) = follow_busy(&agent, &gateway, &[]);
        gateway.on(Calls::of(Route::Cancel).number(1)).answer_after_passing_it_on(&page);
        running.signal(Signal::TERM);
        let (_, record) = fails(running, "interrupted");
        says(&record, true, true);
        assert!(run.is_over());
    }
}

#[test]
fn the_terminal_event_confirms_a_cancel_if_the_state_is_unavailable() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, _run) = follow_busy(&agent, &gateway, &[]);
    gateway.on(Route::Session).answer_instead(&Page::html(404));
    running.signal(Signal::TERM);
    let (_, record) = fails(running, "interrupted");
    says(&record, true, true);
    assert_eq!(record["stop_reason"], "cancelled");
}

#[test]
fn the_cancel_command_trusts_no_page() {
    for page in [Page::html(404), Page::html(409), foreign_json(404), Page::html(200)] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let run = agent.begin_run(agent.session());
        run.propose([call("a", "view").held()]);
        gateway.on(Calls::all().from(2)).answer_instead(&page);
        let output = gateway.sortie(["cancel", "--timeout", "2s", &run.session.to_string()]).run();
        output.code(1).stderr_lacks("has stopped");
        assert!(!run.is_over());
    }
}

// Another replica.

/// Two servers behind one address. A run is followed on the first one, and a tool works for it.
fn replicas(flags: &[&str]) -> (Running, RunHandle, Gateway, Agent, Agent) {
    let (agent, replica) = (lively(), Agent::replica());
    let gateway = Gateway::to_servers([agent.address(), replica.address()]);
    let (running, run) = follow_busy(&agent, &gateway, flags);
    (running, run, gateway, replica, agent)
}

#[test]
fn an_unknown_session_on_another_replica_is_no_stopped_run() {
    let (running, run, gateway, _replica, agent) = replicas(&[]);
    gateway.switch_to(1);
    agent.drop_streams(Ending::Cut);
    let (output, record) = fails(running, "lost");
    says(&record, false, false);
    assert!(!run.is_over());
    assert!(gateway.requests(Route::Cancel).iter().any(|cancel| cancel.json()["run_id"] == run.id.to_string()));
    output.stderr_has(ANOTHER_SERVER).stderr_lacks("the run has stopped").stderr_lacks(RESTARTED);
}

#[test]
fn a_new_replica_is_no_restart() {
    let (running, _run, gateway, replica, agent) = replicas(&[]);
    let_pass(Duration::from_secs(3));
    replica.set_uptime(Duration::ZERO);
    gateway.switch_to(1);
    agent.drop_streams(Ending::Cut);
    let (output, record) = fails(running, "lost");
    says(&record, false, false);
    output.stderr_has(ANOTHER_SERVER).stderr_lacks(RESTARTED);
}

#[test]
fn a_session_that_is_known_again_within_5_s_is_followed() {
    let (mut running, run, gateway, _replica, agent) = replicas(&[]);
    gateway.switch_to(1);
    agent.drop_streams(Ending::Cut);
    gateway.wait_for_calls_of(&mut running, Route::Session, 2);
    gateway.switch_to(0);
    // The stream that leads to the other one has nothing to say.
    gateway.break_connections();
    run.finish_tool("a", "done", false);
    run.text("The rest.");
    run.complete();
    running.wait().code(0).stdout("So far. \nThe rest.\n");
}

#[test]
fn a_cancel_that_another_replica_refuses_is_not_confirmed() {
    let (running, run, gateway, _replica, _agent) = replicas(&[]);
    gateway.switch_to(1);
    running.signal(Signal::TERM);
    let (output, record) = fails(running, "interrupted");
    says(&record, false, false);
    output.stderr_lacks("the run has stopped");
    assert!(!run.is_over());
}

#[test]
fn a_cancel_is_confirmed_once_the_right_replica_is_back() {
    let (mut running, run, gateway, _replica, _agent) = replicas(&[]);
    gateway.switch_to(1);
    running.signal(Signal::TERM);
    gateway.wait_for_calls_of(&mut running, Route::Cancel, 2);
    gateway.switch_to(0);
    let (_, record) = fails(running, "interrupted");
    says(&record, true, true);
    assert!(run.is_over());
}

#[test]
fn the_cancel_command_exits_1_if_another_replica_answers() {
    let (agent, replica) = (Agent::start(), Agent::replica());
    let gateway = Gateway::to_servers([agent.address(), replica.address()]);
    let run = agent.begin_run(agent.session());
    run.propose([call("a", "view").held()]);
    gateway.on(Calls::all().from(2)).send_to(1);
    let output = gateway.sortie(["cancel", "--timeout", "3s", &run.session.to_string()]).run();
    output.code(1).stderr_lacks("has stopped");
    assert!(!run.is_over());
}

// The deadline and a run that completes.

#[test]
fn a_run_that_completes_after_the_deadline_and_before_the_cancel_is_not_retryable() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "3s"]);
    let gate = gateway.on(Route::Cancel).hold_request();
    gate.wait_until_reached();
    run.text("Done.");
    run.complete();
    gate.open();
    let (output, record) = fails(running, "timeout");
    says(&record, false, true);
    assert_eq!((&record["stop_reason"], &record["timed_out"]), (&json!("completed"), &json!(true)));
    output.stderr_has(COMPLETED);
}

#[test]
fn a_run_that_completes_despite_the_cancel_is_not_retryable() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "3s"]);
    run.wait_until_cancelled();
    run.text("Done.");
    run.complete();
    let (output, record) = fails(running, "timeout");
    says(&record, false, true);
    assert_eq!(record["stop_reason"], "completed");
    output.stderr_has(COMPLETED);
}

#[test]
fn a_run_that_completes_after_a_signal_is_not_retryable() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    running.signal(Signal::INT);
    run.wait_until_cancelled();
    run.complete();
    let (output, record) = fails(running, "interrupted");
    says(&record, false, true);
    assert_eq!(record["stop_reason"], "completed");
    output.stderr_has(COMPLETED);
}

#[test]
fn a_run_that_was_cancelled_at_the_deadline_is_retryable() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow_busy(&agent, &gateway, &["--timeout", "3s"]);
    let (output, record) = fails(running, "timeout");
    says(&record, true, true);
    assert_eq!(record["stop_reason"], "cancelled");
    output.stderr_lacks(COMPLETED);
    assert!(run.is_over());
}

#[test]
fn a_run_that_stopped_without_a_terminal_event_is_not_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, _run) = follow_busy(&agent, &gateway, &[]);
    // From here on no stream says anything.
    agent.spoil_streams(Fault::none().end_at_byte(0, Ending::Cut));
    agent.drop_streams(Ending::Cut);
    running.signal(Signal::TERM);
    let (_, record) = fails(running, "interrupted");
    says(&record, false, true);
    assert_eq!(record["stop_reason"], Value::Null);
}

#[test]
fn run_completed_confirms_a_cancel_while_the_sandbox_is_torn_down() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow_busy(&agent, &gateway, &["--sandbox"]);
    run.give_sandbox();
    let began = Instant::now();
    running.signal(Signal::TERM);
    let (output, record) = fails(running, "interrupted");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}\n{}", began.elapsed(), output.stderr);
    says(&record, true, true);
    assert_eq!(record["stop_reason"], "cancelled");
    run.tear_down();
}

#[test]
fn a_prompt_waits_until_the_sandbox_of_the_last_run_is_torn_down() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let old = agent.begin_run(agent.session());
    old.give_sandbox();
    old.complete();
    let session = old.session.to_string();
    let mut running = gateway.sortie(["run", "--session", &session, "go"]).spawn();
    gateway.wait_for_calls_of(&mut running, Route::Send, 1);
    let_pass(Duration::from_secs(6));
    running.is_going_on();
    old.tear_down();
    let run = agent.next_run();
    run.text("Done.");
    run.complete();
    running.wait().code(0).stdout("Done.\n");
}

// What has already arrived counts.

/// The client is frozen for so long after this has happened.
fn freeze(running: &Running, time: Duration, meanwhile: impl FnOnce()) {
    running.signal(Signal::STOP);
    meanwhile();
    let_pass(time);
    running.signal(Signal::CONT);
}

#[test]
fn after_a_freeze_a_completed_run_is_not_idle() {
    // Some of them: what comes first after it, the clock or the socket, is a race.
    let started: Vec<_> = (0..6)
        .map(|_| {
            let agent = Agent::start();
            let gateway = Gateway::to(&agent);
            let (running, run) = follow(&agent, &gateway, &["--idle-timeout", "3s"]);
            running.signal(Signal::STOP);
            run.text("Done.");
            run.complete();
            (running, run, gateway, agent)
        })
        .collect();
    let_pass(Duration::from_secs(5));
    for (running, run, ..) in started {
        running.signal(Signal::CONT);
        running.wait().code(0).stdout("So far. Done.\n");
        assert!(!run.is_cancelled());
    }
}

#[test]
fn after_a_freeze_an_active_run_is_not_idle() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--idle-timeout", "4s"]);
    freeze(&running, Duration::from_secs(5), || run.text("More. "));
    running.wait_for_stdout("More. ");
    run.text("Done.");
    run.complete();
    running.wait().code(0).stdout("So far. More. Done.\n");
}

#[test]
fn after_a_freeze_a_run_that_completed_in_time_is_not_late() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "5s"]);
    freeze(&running, Duration::from_secs(6), || {
        run.text("Done.");
        run.complete();
    });
    running.wait().code(0).stdout("So far. Done.\n");
}

#[test]
fn events_that_arrive_between_the_deadline_and_the_last_read_count() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "4s"]);
    running.signal(Signal::STOP);
    let_pass(Duration::from_secs(5));
    run.text("Done.");
    run.complete();
    let_pass(Duration::from_millis(500));
    running.signal(Signal::CONT);
    running.wait().code(0).stdout("So far. Done.\n");
}

#[test]
fn events_that_arrive_before_the_connection_breaks_count() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "5s", "--retry-timeout", "1s"]);
    freeze(&running, Duration::from_secs(6), || {
        run.text("Done.");
        run.complete();
        agent.drop_streams(Ending::Cut);
        agent.down();
    });
    running.wait().code(0).stdout("So far. Done.\n");
}

#[test]
fn after_a_freeze_past_the_deadline_an_active_run_is_late() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &["--timeout", "4s"]);
    freeze(&running, Duration::from_secs(5), || run.propose([call("a", "view").held()]));
    let (_, record) = fails(running, "timeout");
    says(&record, true, true);
    assert!(run.is_over());
}

// Replays.

/// The run ends while the client is cut off. The next streams, or their bodies, begin 4 s late.
#[track_caller]
fn late_replay(head_too: bool) {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    let planning = gateway.later(Route::Events);
    let gate = if head_too { planning.delay() } else { planning.delay_body() };
    agent.drop_streams(Ending::Cut);
    gate.wait_until_reached();
    run.text("The rest.");
    run.complete();
    let_pass(Duration::from_secs(4));
    gate.open();
    running.wait().code(0).stdout("So far. The rest.\n");
}

#[test]
fn a_replay_whose_first_byte_comes_4_s_after_its_head_is_read() {
    late_replay(false);
}

#[test]
fn a_replay_whose_head_comes_4_s_late_is_read() {
    late_replay(true);
}

#[test]
fn a_run_without_its_last_event_is_lost_with_its_text_and_not_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    // RunStarted, TurnStarted, two texts, TextComplete, UsageReport, TurnCompleted, RunCompleted.
    agent.spoil_streams(Fault::none().skip(8));
    let (running, run) = follow(&agent, &gateway, &[]);
    run.text("The rest.");
    run.complete();
    assert_eq!(run.newest_event(), 8);
    // The text is asked for again, too.
    gateway.on(Calls::of(Route::Messages).number(1)).answer_instead(&Page::html(404));
    agent.drop_streams(Ending::Cut);
    let (output, record) = fails(running, "lost");
    says(&record, false, Value::Null);
    assert_eq!(record["text"], "So far. The rest.");
    output.stderr_has("failed (lost)").stderr_lacks(RESTARTED);
    assert!(agent.requests(Route::Cancel).is_empty());
}

#[test]
fn at_the_deadline_a_run_behind_a_tunnel_that_holds_its_stream_is_cancelled_and_not_retryable() {
    for head_too in [true, false] {
        let agent = Agent::start();
        let gateway = Gateway::to(&agent);
        let planning = gateway.on(Route::Events);
        if head_too {
            planning.hold_until_its_end();
        } else {
            planning.hold_body_until_its_end();
        }
        let running = start(gateway.sortie(["run"]), &["--timeout", "3s"]);
        let run = agent.next_run();
        run.text("Nobody hears this.");
        run.propose([call("a", "view").held()]);
        let (_, record) = fails(running, "timeout");
        assert!(run.is_over());
        says(&record, false, true);
    }
}

// State `failed`.

#[test]
fn attach_never_reports_an_older_runs_success_for_a_run_that_died_early() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let old = agent.begin_run(agent.session());
    old.text("Yesterday's answer.");
    old.complete();
    agent.hold_starts(Starting::Sandbox);
    let session = old.session.to_string();
    let detached = gateway.sortie(["run", "--detach", "--sandbox", "--session", &session, "go"]).run();
    detached.code(0).stdout(&format!("{session}\n"));
    agent.next_run().fail_silently();
    let output = gateway.sortie(["attach", "-o", "json", &session]).run();
    let record = output.code(1).stderr_has("log").fails("run_error");
    assert_eq!(record["cancel_confirmed"], Value::Null);
    assert!(!record["text"].as_str().unwrap_or_default().contains("Yesterday"), "{record:#}");
    assert_ne!(record["run_id"], old.id.to_string());
}

#[test]
fn attach_to_a_session_whose_only_run_died_before_its_first_event_is_run_error() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    agent.hold_starts(Starting::Sandbox);
    let run = agent.begin_run(agent.session());
    run.fail_silently();
    let output = gateway.sortie(["attach", "-o", "json", &run.session.to_string()]).run();
    output.stderr_has("log").fails("run_error");
}

#[test]
fn attach_to_a_failed_run_without_a_terminal_event_is_run_error() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    run.text("So far.");
    run.fail_silently();
    let record = gateway.sortie(["attach", "-o", "json", &run.session.to_string()]).run().fails("run_error");
    assert_eq!(record["text"], "So far.");
    error_has(&record, FAILED);
}

#[test]
fn a_sandbox_that_does_not_start_is_reported_within_8_s() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    agent.hold_starts(Starting::Sandbox);
    let running = start(gateway.sortie(["run"]), &["--sandbox"]);
    agent.next_run().fail_silently();
    let (output, record) = fails(running, "run_error");
    let output = output.within(Duration::from_secs(9));
    says(&record, true, Value::Null);
    error_has(&record, FAILED);
    output.stderr_has("--sandbox");
    assert!(agent.requests(Route::Cancel).is_empty(), "the run is known to have ended");
}

#[test]
fn a_run_in_an_old_session_that_dies_before_its_first_event_is_reported_within_8_s() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let old = agent.begin_run(agent.session());
    old.text("Yesterday's answer.");
    old.complete();
    agent.hold_starts(Starting::Sandbox);
    let running = start(gateway.sortie(["run"]), &["--session", &old.session.to_string()]);
    agent.next_run().fail_silently();
    let (output, record) = fails(running, "run_error");
    output.within(Duration::from_secs(9)).stdout("").stderr_lacks("--sandbox");
    error_has(&record, FAILED);
    assert_eq!(record["text"].as_str().unwrap_or_default(), "");
}

#[test]
fn a_sandbox_that_starts_slowly_is_waited_for() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    agent.hold_starts(Starting::Sandbox);
    let mut running = start(gateway.sortie(["run"]), &["--sandbox"]);
    let run = agent.next_run();
    let_pass(Duration::from_secs(6));
    running.is_going_on();
    run.start();
    run.text("Done.");
    run.complete();
    running.wait().code(0).stdout("Done.\n");
}

#[test]
fn a_run_that_is_only_just_starting_is_waited_for() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    agent.hold_starts(Starting::Actor);
    let mut running = start(gateway.sortie(["run"]), &[]);
    let run = agent.next_run();
    let_pass(Duration::from_secs(4));
    running.is_going_on();
    run.start();
    run.complete();
    running.wait().code(0);
}

#[test]
fn a_failed_run_without_tool_calls_is_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    run.fail_silently();
    agent.drop_streams(Ending::Cut);
    let (output, record) = fails(running, "run_error");
    says(&record, true, Value::Null);
    error_has(&record, FAILED);
    assert_eq!(record["text"].as_str().map(str::trim), Some("So far."));
    output.stderr_has("failed (run_error)");
}

#[test]
fn a_failed_run_that_called_a_tool_is_not_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    run.propose([call("a", "view")]);
    run.wait_until_thinking();
    run.fail_silently();
    agent.drop_streams(Ending::Cut);
    let (_, record) = fails(running, "run_error");
    says(&record, false, Value::Null);
    error_has(&record, FAILED);
}

/// The run fails while no stream brings a byte. What is known of it is in the messages.
fn failed_unheard(calls_a_tool: bool) -> Value {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    gateway.on(Route::Events).hold_until_its_end();
    let running = start(gateway.sortie(["run"]), &[]);
    let run = agent.next_run();
    if calls_a_tool {
        run.propose([call("a", "view")]);
        run.wait_until_thinking();
    }
    run.fail_silently();
    let (output, record) = fails(running, "run_error");
    // Not only after the 20 s after which a stream counts as held back.
    output.within(Duration::from_secs(15));
    error_has(&record, FAILED);
    record
}

#[test]
fn a_failed_run_needs_no_complete_replay() {
    says(&failed_unheard(false), true, Value::Null);
}

#[test]
fn a_failed_run_whose_messages_show_a_tool_call_is_not_retryable() {
    says(&failed_unheard(true), false, Value::Null);
}

#[test]
fn a_lost_run_error_event_is_still_run_error() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    // RunStarted, TurnStarted, a text, RunError.
    agent.spoil_streams(Fault::none().skip(4));
    let (running, run) = follow(&agent, &gateway, &[]);
    run.error("the model is out of order", false);
    assert_eq!(run.newest_event(), 4);
    agent.drop_streams(Ending::Cut);
    let (_, record) = fails(running, "run_error");
    error_has(&record, FAILED);
}

// Restarts.

/// A run of some seconds, followed on a server that sends keep-alives.
fn old_enough(gateway: &Gateway, agent: &Agent, flags: &[&str]) -> (Running, RunHandle) {
    let (running, run) = follow_busy(agent, gateway, flags);
    let_pass(Duration::from_secs(3));
    (running, run)
}

#[test]
fn after_a_server_restart_the_run_is_lost_and_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, run) = old_enough(&gateway, &agent, &[]);
    run.write_messages();
    agent.restart();
    let (output, record) = fails(running, "lost");
    says(&record, true, Value::Null);
    output.stderr_has(RESTARTED);
    assert_eq!(record["text"].as_str().map(str::trim), Some("So far."));
}

#[test]
fn a_run_that_attach_has_seen_active_is_lost_by_a_restart() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    run.text("So far. ");
    let session = run.session.to_string();
    let running = gateway.sortie(["attach", "--result-file", "result.json", &session]).spawn();
    running.wait_for_stdout("So far. ");
    let_pass(Duration::from_secs(3));
    agent.restart();
    let (output, record) = fails(running, "lost");
    says(&record, true, Value::Null);
    output.stderr_has(RESTARTED);
}

#[test]
fn a_restart_after_an_unread_finished_answer_is_not_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    agent.spoil_stream(Fault::none().stall_after(3));
    let (running, run) = follow(&agent, &gateway, &[]);
    run.text("All done.");
    run.complete();
    let_pass(Duration::from_secs(3));
    agent.restart();
    let (_, record) = fails(running, "lost");
    says(&record, false, Value::Null);
    assert_eq!(record["text"], "So far. All done.");
}

#[test]
fn a_restart_with_a_new_token_is_lost_and_not_auth() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, _run) = old_enough(&gateway, &agent, &[]);
    agent.restart_with_token("another");
    let (output, record) = fails(running, "lost");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert_ne!(record["cancel_confirmed"], true, "{record:#}");
    output.stderr_has(RESTARTED);
}

#[test]
fn a_restart_with_a_new_token_in_the_file_is_retryable() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, file) = with_token_file(&gateway, &["run"]);
    let run = agent.next_run();
    run.text("So far. ");
    running.wait_for_stdout("So far. ");
    let_pass(Duration::from_secs(3));
    std::fs::write(file, "another\n").unwrap();
    agent.restart_with_token("another");
    let (output, record) = fails(running, "lost");
    says(&record, true, Value::Null);
    output.stderr_has(RESTARTED);
}

#[test]
fn no_restart_is_reported_if_the_server_has_been_up_longer() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, _run) = old_enough(&gateway, &agent, &[]);
    agent.restart();
    agent.set_uptime(Duration::from_secs(86_400));
    let (output, record) = fails(running, "lost");
    assert_eq!(record["retryable"], false, "{record:#}");
    output.stderr_lacks(RESTARTED);
}

#[test]
fn no_restart_is_reported_if_a_proxy_answers_for_health() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (running, _run) = old_enough(&gateway, &agent, &[]);
    let page = Page::json(200, &json!({ "status": "ok" }));
    gateway.on(Route::Health).answer_instead(&page);
    agent.restart();
    let (output, record) = fails(running, "lost");
    assert_eq!(record["retryable"], false, "{record:#}");
    output.stderr_lacks(RESTARTED);
}

#[test]
fn attach_reports_no_restart_for_an_ended_run() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    run.text("Done.");
    run.complete();
    agent.restart();
    let output = gateway.sortie(["attach", "-o", "json", &run.session.to_string()]).run();
    let record = output.stderr_lacks(RESTARTED).fails("lost");
    says(&record, false, Value::Null);
    assert_eq!(record["text"], "Done.");
}

#[test]
fn background_tasks_forbid_a_retry_after_a_restart() {
    let agent =
        Agent::with(Options { policy: Policy::All, keepalive: Duration::from_secs(1), ..Options::default() });
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    run.propose([command_task("a", "dmt6b3"), call("b", "view").held()]);
    run.wait_until_running("b");
    let_pass(Duration::from_secs(3));
    agent.restart();
    let (_, record) = fails(running, "lost");
    assert_eq!(record["retryable"], false, "{record:#}");
}

/// A pause that a restart has swallowed: the messages end with a call that has no result.
fn swallowed_pause() -> (Agent, Gateway, RunHandle) {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    run.text("May I?");
    run.propose([call("a", "create")]);
    run.wait_until_waiting_at("a");
    run.write_messages();
    agent.restart();
    (agent, gateway, run)
}

#[test]
fn resume_of_a_pause_lost_in_a_restart_is_lost_and_says_how_to_finish_it() {
    let (agent, gateway, run) = swallowed_pause();
    let output = gateway.sortie(["resume", "--approve", "a", "-o", "json", &run.session.to_string()]).run();
    let record = output.stderr_has("stakpak").fails("lost");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert!(agent.requests(Route::Decide).is_empty());
}

#[test]
fn pending_of_a_pause_lost_in_a_restart_is_lost_and_says_how_to_finish_it() {
    let (_agent, gateway, run) = swallowed_pause();
    let output = gateway.sortie(["pending", &run.session.to_string()]).run();
    output.code(1).stderr_has("stakpak").stderr_has("lost");
}

// The token.

/// A command whose token comes from a file, and that file.
fn with_token_file(gateway: &Gateway, words: &[&str]) -> (Running, String) {
    let sortie = gateway.sortie(words.iter().copied()).without_env("SORTIE_TOKEN");
    let file = sortie.file("token", format!("{TOKEN}\n"));
    let sortie = sortie.args(["--token-file", &file]);
    let running = if words == ["ping", "--wait", "20s"] { sortie.spawn() } else { start(sortie, &[]) };
    (running, file)
}

/// The server takes another token, which the file has, too.
fn renew(agent: &Agent, file: &str) {
    std::fs::write(file, "another\n").unwrap();
    agent.set_token("another");
}

#[test]
fn a_token_file_is_read_again_when_a_reconnect_is_refused() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, file) = with_token_file(&gateway, &["run"]);
    let run = agent.next_run();
    run.text("So far. ");
    running.wait_for_stdout("So far. ");
    renew(&agent, &file);
    agent.drop_streams(Ending::Cut);
    run.text("The rest.");
    run.complete();
    running.wait().code(0).stdout("So far. The rest.\n");
}

#[test]
fn a_token_file_is_read_again_when_a_decision_is_refused() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, file) = with_token_file(&gateway, &["run"]);
    let run = agent.next_run();
    run.text("So far. ");
    running.wait_for_stdout("So far. ");
    renew(&agent, &file);
    run.propose([call("a", "create")]);
    run.complete();
    running.wait().code(0);
    assert_eq!(run.decisions(), [("a".to_owned(), Decision::Accept, Effect::Applied)]);
}

#[test]
fn a_token_file_is_read_again_when_the_cancel_is_refused() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, file) = with_token_file(&gateway, &["run"]);
    let run = agent.next_run();
    run.text("So far. ");
    run.propose([call("a", "view").held()]);
    running.wait_for_stdout("So far. ");
    run.wait_until_running("a");
    renew(&agent, &file);
    running.signal(Signal::TERM);
    let (_, record) = fails(running, "interrupted");
    says(&record, true, true);
    assert!(run.is_over());
}

#[test]
fn a_token_file_is_read_again_when_the_first_call_is_refused() {
    let agent = Agent::answering("Done.");
    let gateway = Gateway::to(&agent);
    let gate = gateway.on(Calls::all().number(1)).hold_request();
    let (running, file) = with_token_file(&gateway, &["run"]);
    gate.wait_until_reached();
    renew(&agent, &file);
    gate.open();
    running.wait().code(0).stdout("Done.\n");
}

#[test]
fn a_token_refused_without_a_restart_is_auth_and_a_cancel_is_tried() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow_busy(&agent, &gateway, &[]);
    agent.set_token("another");
    agent.drop_streams(Ending::Cut);
    let (output, record) = fails(running, "auth");
    says(&record, false, false);
    assert!(!gateway.requests(Route::Cancel).is_empty());
    assert!(!run.is_over());
    output.stderr_lacks(RESTARTED);
}

#[test]
fn ping_waits_for_a_new_token_in_the_file() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    agent.set_token("another");
    let (mut running, file) = with_token_file(&gateway, &["ping", "--wait", "20s"]);
    gateway.wait_for_calls_of(&mut running, Route::Config, 2);
    std::fs::write(file, "another\n").unwrap();
    running.wait().code(0);
}

#[test]
fn ping_does_not_wait_if_the_token_cannot_change() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    agent.set_token("another");
    let output = gateway.sortie(["ping", "--wait", "20s"]).run();
    output.code(1).within(Duration::from_secs(8));
}

// Endless compaction.

const LIMIT: &str = "Rate limit reached for gpt-5 on tokens per min (TPM): Limit 30000, Used 29000";

#[test]
fn a_turn_compacted_5_times_in_a_row_is_cancelled_with_its_reason() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    (0..5).for_each(|_| run.compact(LIMIT));
    run.wait_until_cancelled();
    run.end("cancelled");
    let (output, record) = fails(running, "run_error");
    says(&record, true, true);
    error_has(&record, "tokens per min");
    output.stderr_has("tokens per min");
}

#[test]
fn compactions_with_other_events_between_are_shown_and_harmless() {
    let agent = Agent::with_policy(Policy::All);
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    (0..4).for_each(|_| run.compact(LIMIT));
    run.text("More. ");
    (0..4).for_each(|_| run.compact(LIMIT));
    run.propose([call("a", "view")]);
    (0..4).for_each(|_| run.compact(LIMIT));
    run.text("Done.");
    run.complete();
    let output = running.wait().code(0).stdout("So far. More. \nDone.\n");
    output.stderr_has("tokens per min");
    assert!(!run.is_cancelled());
}

// Tasks in the background.

/// A run on a server that approves everything.
fn tasks(flags: &[&str]) -> (Running, RunHandle, Gateway, Agent) {
    let agent = Agent::with_policy(Policy::All);
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, flags);
    run.propose([
        call("a", "view"),
        command_task("b", "dmt6b3"),
        subagent_task("c", "x1"),
        call("d", "view").held(),
    ]);
    run.wait_until_running("d");
    (running, run, gateway, agent)
}

#[track_caller]
fn tasks_are_named(output: &Output, record: &Value) {
    let tasks = json!([
        { "tool_call_id": "b", "name": "stakpak__run_command_task" },
        { "tool_call_id": "c", "name": "stakpak__dynamic_subagent_task" },
    ]);
    assert_eq!(record["background_tasks"], tasks, "{record:#}");
    let lines = || output.stderr.lines().filter(|line| line.contains("task"));
    for id in ["b", "c"] {
        let named = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == id);
        let name = if id == "b" { "run_command_task" } else { "dynamic_subagent_task" };
        assert!(lines().any(|line| line.contains(name) || named(line)), "{name} in {}", output.stderr);
    }
}

#[test]
fn background_tasks_of_a_completed_run_are_reported() {
    let (running, run, _gateway, _agent) = tasks(&[]);
    run.finish_tool("d", "seen", false);
    run.complete();
    let (output, record) = ended(running, 0);
    tasks_are_named(&output, &record);
}

#[test]
fn background_tasks_forbid_a_retry_after_a_confirmed_cancel() {
    let (running, run, _gateway, _agent) = tasks(&[]);
    running.signal(Signal::TERM);
    let (output, record) = fails(running, "interrupted");
    says(&record, false, true);
    assert!(run.is_over());
    tasks_are_named(&output, &record);
}

#[test]
fn background_tasks_forbid_a_retry_after_a_timeout() {
    let (running, _run, _gateway, _agent) = tasks(&["--timeout", "4s"]);
    let (output, record) = fails(running, "timeout");
    says(&record, false, true);
    tasks_are_named(&output, &record);
}

#[test]
fn a_rejected_background_task_is_not_reported() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    // Subagents are rejected unless they are enabled.
    run.propose([subagent_task("a", "x1")]);
    run.complete();
    let (_, record) = ended(running, 0);
    assert_eq!(record["tool_calls"]["rejected"], 1);
    assert_eq!(record["background_tasks"], json!([]), "{record:#}");
}

// The answer's end.

#[test]
fn an_answer_cut_at_the_output_limit_is_reported_on_stderr() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    run.complete_with("max_output_tokens");
    let (output, record) = ended(running, 0);
    assert_eq!(record["finish_reason"], "max_output_tokens", "{record:#}");
    output.stderr_has("max_output_tokens");
}

#[test]
fn the_last_turns_finish_reason_is_in_the_record() {
    let agent = Agent::start();
    let gateway = Gateway::to(&agent);
    let (running, run) = follow(&agent, &gateway, &[]);
    run.propose([call("a", "view")]);
    run.complete();
    let (output, record) = ended(running, 0);
    assert_eq!(record["finish_reason"], "stop", "{record:#}");
    output.stderr_lacks("max_output_tokens");
}

// Attach.

/// A session with two runs that are over: the first completed, the second did not.
fn two_runs(agent: &Agent) -> (RunHandle, RunHandle) {
    let first = agent.begin_run(agent.session());
    first.text("First.");
    first.complete();
    let second = agent.begin_run(first.session);
    second.text("Second.");
    second.error("the model is out of order", false);
    (first, second)
}

fn attach_to(gateway: &Gateway, session: Uuid, run: Uuid) -> Output {
    gateway.sortie(["attach", "-o", "json", "--run", &run.to_string(), &session.to_string()]).run()
}

#[test]
fn attach_run_shows_only_that_run() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (first, second) = two_runs(&agent);
    let record = attach_to(&gateway, first.session, first.id).code(0).record();
    assert_eq!((&record["text"], &record["run_id"]), (&json!("First."), &json!(first.id.to_string())));
    let record = attach_to(&gateway, first.session, second.id).fails("run_error");
    assert_eq!((&record["text"], &record["run_id"]), (&json!("Second."), &json!(second.id.to_string())));
}

#[test]
fn attach_run_with_an_unknown_id_is_lost_and_cancels_nothing() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (first, _) = two_runs(&agent);
    let record = attach_to(&gateway, first.session, Uuid::new_v4()).fails("lost");
    says(&record, false, Value::Null);
    let busy = agent.begin_run(first.session);
    busy.propose([call("a", "view").held()]);
    let record = attach_to(&gateway, first.session, Uuid::new_v4()).fails("lost");
    says(&record, false, Value::Null);
    assert!(agent.requests(Route::Cancel).is_empty() && !busy.is_over());
}

#[test]
fn attach_run_follows_the_active_run() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let (first, _) = two_runs(&agent);
    let third = agent.begin_run(first.session);
    third.text("Third. ");
    let session = first.session.to_string();
    let running = gateway.sortie(["attach", "--run", &third.id.to_string(), &session]).spawn();
    running.wait_for_stdout("Third. ");
    third.text("Done.");
    third.complete();
    running.wait().code(0).stdout("Third. Done.\n");
}

#[test]
fn attach_to_a_silent_run_lost_in_a_restart_is_lost_and_not_not_found() {
    let agent = lively();
    let gateway = Gateway::to(&agent);
    let run = agent.begin_run(agent.session());
    agent.restart();
    let record = gateway.sortie(["attach", "-o", "json", &run.session.to_string()]).run().fails("lost");
    says(&record, false, Value::Null);
    // Where there never was a prompt, there is nothing to find.
    let empty = agent.session().to_string();
    gateway.sortie(["attach", "-o", "json", &empty]).run().fails("not_found");
}

#[test]
fn the_lost_text_of_250_turns_takes_few_requests() {
    let agent = Agent::with(Options { events_kept: 64, policy: Policy::All, ..Options::default() });
    let gateway = Gateway::to(&agent);
    let run = agent.begin_long_run(agent.session());
    let mut text = String::new();
    for turn in 1..250 {
        run.text(&format!("Turn {turn}."));
        text.push_str(&format!("Turn {turn}.\n"));
        run.propose([call(&format!("call_{turn}"), "view")]);
    }
    run.text("Done.");
    run.complete();
    let output = gateway.sortie(["attach", &run.session.to_string()]).run();
    output.code(0).stdout(&format!("{text}Done.\n")).within(Duration::from_secs(10));
    let requests = agent.all_requests();
    assert!(requests.len() <= 10, "{} requests: {requests:#?}", requests.len());
}

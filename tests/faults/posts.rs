//! POSTs whose answer is lost, late, or a refusal that may pass: each has its effect once, under one key, and a run whose
//! id we never learnt is found and stopped all the same.

use crate::support::agent::{Agent, Effect, Planning, Route, RunHandle, call};
use crate::support::http::{Ending, Request};
use crate::support::process::{Output, Running};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const ENDINGS: [Ending; 3] = [Ending::Clean, Ending::Cut, Ending::Reset];
const POSTS: [Route; 3] = [Route::CreateSession, Route::Send, Route::Decide];

fn start(agent: &Agent, arguments: &[&str]) -> Running {
    agent.sortie(["run", "-o", "json"]).args(arguments.iter().copied()).arg("go").spawn()
}

/// Plays a run in which every POST is needed.
fn play(agent: &Agent) -> RunHandle {
    let run = agent.next_run();
    run.text("I write.");
    run.propose([call("a", "create")]);
    run.text("Done.");
    run.complete();
    run
}

/// It came to one session, one run and one decision, each under one key.
#[track_caller]
fn check_once(agent: &Agent, run: &RunHandle, output: Output) {
    let output = output.code(0);
    assert_eq!(output.record()["text"], "I write.\nDone.", "{}", output.stderr);
    assert_eq!(agent.runs_begun(), 1, "{}", output.stderr);
    let effects: Vec<Effect> = run.decisions().into_iter().map(|(.., effect)| effect).collect();
    assert_eq!(effects, [Effect::Applied], "{}", output.stderr);
    for route in POSTS {
        let tries = agent.requests(route);
        for request in &tries {
            assert_eq!(key(request), key(&tries[0]), "{tries:#?}");
            assert_eq!((&request.path, &request.body), (&tries[0].path, &tries[0].body), "{tries:#?}");
        }
    }
}

fn key(request: &Request) -> &str {
    request.header("idempotency-key").expect("a key")
}

/// Runs with this mishap, twice in a row, for each kind of POST.
fn each_survives(mishap: impl Fn(Planning<'_>)) {
    let runs = POSTS.map(|route| {
        let agent = Agent::start();
        mishap(agent.next(route));
        mishap(agent.next(route));
        let running = start(&agent, &[]);
        (agent, running, route)
    });
    for (agent, running, route) in runs {
        let run = play(&agent);
        check_once(&agent, &run, running.wait());
        assert_eq!(agent.requests(route).len(), 3, "{route:?}");
    }
}

#[test]
fn a_post_that_is_lost_before_its_effect_is_sent_again() {
    for ending in ENDINGS {
        each_survives(|planning| planning.lose_request(ending));
    }
}

#[test]
fn a_post_whose_answer_is_lost_after_its_effect_has_it_once() {
    for ending in ENDINGS {
        each_survives(|planning| planning.lose_answer(ending));
    }
}

#[test]
fn a_post_that_is_refused_for_a_while_is_sent_again() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        each_survives(|planning| planning.fail(status, "for_a_while"));
    }
}

#[test]
fn a_cancel_whose_answer_is_lost_is_confirmed_all_the_same() {
    let runs: Vec<_> = ENDINGS
        .into_iter()
        .flat_map(|ending| [(ending, false), (ending, true)])
        .map(|(ending, after)| {
            let agent = Agent::start();
            for route in [Route::Cancel, Route::Decide] {
                match after {
                    false => agent.next(route).lose_request(ending),
                    true => agent.next(route).lose_answer(ending),
                }
            }
            let running = start(&agent, &["--pause-on-approval"]);
            let run = agent.next_run();
            run.propose([call("a", "create")]);
            agent.wait_for_streams(1);
            running.signal(Signal::TERM);
            (agent, running, run, ending, after)
        })
        .collect();
    for (agent, running, run, ending, after) in runs {
        let record = running.wait().within(Duration::from_secs(8)).fails("interrupted");
        assert_eq!(record["cancel_confirmed"], true, "{ending:?}, after its effect: {after}");
        assert_eq!(record["retryable"], true);
        assert!(run.is_over());
        let cancels = agent.requests(Route::Cancel);
        assert!(cancels.iter().all(|cancel| key(cancel) == key(&cancels[0])), "{cancels:#?}");
    }
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    for status in [400, 403, 404, 405, 409, 410, 413, 415, 422, 431, 451, 501, 505, 507, 511] {
        let agent = Agent::start();
        agent.every(Route::CreateSession).fail(status, "no");
        // A second try would come within a tenth of one.
        let output = start(&agent, &["--timeout", "3s"]).wait();
        assert_ne!(output.record()["reason"], "timeout", "{status}: {}", output.stderr);
        assert_eq!(agent.requests(Route::CreateSession).len(), 1, "{status}: {}", output.stderr);
    }
}

// Retry-After.

#[test]
fn a_server_that_says_when_to_come_again_is_taken_at_its_word() {
    // A date has whole seconds: one that is two away is more than one away.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let runs = ["1".to_owned(), date].map(|value| {
        let agent = Agent::start();
        agent.next(Route::Send).answer(503, &[("retry-after", &value)], "");
        let running = start(&agent, &[]);
        (agent, running, value)
    });
    for (agent, running, value) in runs {
        let run = play(&agent);
        let output = running.wait();
        // The date had begun to come nearer before the run did.
        assert!(output.elapsed > Duration::from_millis(700), "{value}: {output:#?}");
        check_once(&agent, &run, output);
    }
}

#[test]
fn a_server_that_says_to_come_again_at_once_is_not_hammered() {
    for value in ["0", "Sun, 06 Nov 1994 08:49:37 GMT", "soon", "-1", ""] {
        let agent = Agent::start();
        agent.every(Route::CreateSession).answer(503, &[("retry-after", value)], "");
        let output = start(&agent, &["--retry-timeout", "1s"]).wait().within(Duration::from_secs(5));
        output.fails("server");
        let tries = agent.requests(Route::CreateSession).len();
        assert!((2..30).contains(&tries), "{value:?}: {tries} tries within a second");
    }
}

#[test]
fn a_server_that_says_to_come_again_too_late_does_not_bind_us() {
    let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(86_400));
    for value in ["3600", "18446744073709551615", "99999999999999999999999", &far] {
        let agent = Agent::start();
        agent.every(Route::CreateSession).answer(429, &[("retry-after", value)], "");
        let bounded = start(&agent, &["--retry-timeout", "1s"]);
        let timed = start(&agent, &["--timeout", "1s"]);
        bounded.wait().within(Duration::from_secs(5)).fails("server");
        timed.wait().within(Duration::from_secs(5)).fails("timeout");
    }
}

// A prompt of which nobody knows whether it arrived.

#[test]
fn a_signal_while_the_prompt_is_on_its_way_stops_the_run_that_it_began() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let agent = Agent::start();
        let gate = agent.next(Route::Send).hold_answer();
        let running = start(&agent, &[]);
        gate.wait_until_reached();
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        running.signal(signal);
        let record = running.wait().within(Duration::from_secs(8)).fails("interrupted");
        assert!(run.is_over() && run.is_cancelled());
        assert_eq!(record["cancel_confirmed"], true);
        assert_eq!(record["retryable"], true);
        assert_eq!(record["session_id"], run.session.to_string());
        assert_eq!(record["run_id"], run.id.to_string());
        assert_eq!(agent.runs_begun(), 1);
    }
}

#[test]
fn a_time_out_while_the_prompt_is_on_its_way_stops_the_run_that_it_began() {
    let agent = Agent::start();
    let gate = agent.next(Route::Send).hold_answer();
    let running = start(&agent, &["--timeout", "1s"]);
    gate.wait_until_reached();
    let run = agent.next_run();
    run.propose([call("a", "create")]);
    let record = running.wait().within(Duration::from_secs(8)).fails("timeout");
    assert!(run.is_over() && run.is_cancelled());
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], true);
}

#[test]
fn in_an_old_session_the_same_key_tells_which_run_is_ours() {
    let agent = Agent::start();
    let session = agent.session();
    let gate = agent.next(Route::Send).hold_answer();
    let running = start(&agent, &["--session", &session.to_string()]);
    gate.wait_until_reached();
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    running.signal(Signal::TERM);
    let record = running.wait().within(Duration::from_secs(8)).fails("interrupted");
    assert!(run.is_over() && run.is_cancelled());
    assert_eq!(record["run_id"], run.id.to_string());
    assert_eq!(record["cancel_confirmed"], true);
    let sends = agent.requests(Route::Send);
    assert!(sends.iter().all(|send| key(send) == key(&sends[0])), "{sends:#?}");
    assert_eq!(agent.runs_begun(), 1);
}

#[test]
fn in_an_old_session_a_run_of_somebody_else_is_left_alone() {
    let agent = Agent::start();
    let other = agent.begin_run(agent.session());
    other.propose([call("a", "view").held()]);
    // The first try is held in the server; the others find the session busy.
    let gate = agent.next(Route::Send).hold();
    let running = start(&agent, &["--session", &other.session.to_string()]);
    gate.wait_until_reached();
    running.signal(Signal::TERM);
    let record = running.wait().within(Duration::from_secs(8)).fails("interrupted");
    assert!(!other.is_cancelled() && !other.is_over());
    assert!(agent.requests(Route::Cancel).is_empty());
    assert_ne!(record["run_id"], other.id.to_string());
    // The gate is still closed: the prompt may yet arrive.
    assert_ne!(record["cancel_confirmed"], true);
    assert_eq!(record["retryable"], false);
}

#[test]
fn a_prompt_that_arrives_after_we_gave_up_is_stopped_or_not_claimed_to_be() {
    for opened in ["while we look for it", "after we have left"] {
        let agent = Agent::start();
        let gate = agent.next(Route::Send).hold();
        let running = start(&agent, &[]);
        gate.wait_until_reached();
        running.signal(Signal::TERM);
        if opened == "while we look for it" {
            agent.wait_for(Route::Session, 1);
            gate.open();
        }
        let output = running.wait().within(Duration::from_secs(12));
        gate.open();
        let run = agent.next_run();
        let error = output.stderr.clone();
        let record = output.fails("interrupted");
        assert!(run.is_cancelled() || record["cancel_confirmed"] != true, "{opened}: {record:#}\n{error}");
        assert!(run.is_over() || record["retryable"] == false, "{opened}: {record:#}\n{error}");
        assert_eq!(run.is_cancelled(), opened == "while we look for it", "{opened}: {error}");
    }
}

/// The prompt arrived and its answer was lost; then these answers come for ever. Whatever they say, the run is found and
/// stopped: in a session of our own it can only be ours.
#[track_caller]
fn stops_what_it_began(arguments: &[&str], refusals: impl FnOnce(&Agent)) -> Value {
    let agent = Agent::start();
    agent.next(Route::Send).lose_answer(Ending::Cut);
    refusals(&agent);
    let running = start(&agent, arguments);
    let run = agent.next_run();
    run.propose([call("a", "view").held()]);
    let output = running.wait().within(Duration::from_secs(20));
    let (record, error) = (output.record(), output.stderr);
    assert_eq!(output.code, 1, "{record:#}\n{error}");
    assert!(run.is_cancelled(), "the run goes on unattended: {record:#}\n{error}");
    assert_eq!(record["cancel_confirmed"], true, "{record:#}\n{error}");
    record
}

#[test]
fn a_prompt_whose_answer_was_lost_and_which_is_then_refused_with_an_error_of_the_servers_is_stopped() {
    stops_what_it_began(&["--retry-timeout", "1s"], |agent| agent.every(Route::Send).fail(503, "overloaded"));
}

#[test]
fn a_prompt_whose_answer_was_lost_and_which_is_then_refused_without_one_is_stopped() {
    let refuse = |agent: &Agent| agent.every(Route::Send).answer(502, &[], "<html>Bad Gateway</html>");
    stops_what_it_began(&["--retry-timeout", "1s"], refuse);
}

#[test]
fn a_prompt_whose_answer_was_lost_and_whose_session_is_busy_for_ever_is_stopped() {
    stops_what_it_began(&[], |agent| agent.every(Route::Send).fail(409, "session_already_running"));
}

#[test]
fn a_prompt_whose_answer_was_lost_and_which_is_then_refused_for_good_is_stopped() {
    for status in [400, 404, 413, 422, 501] {
        stops_what_it_began(&["--retry-timeout", "1s"], |agent| agent.every(Route::Send).fail(status, "no"));
    }
}

#[test]
fn a_prompt_whose_answer_was_lost_and_whose_connections_are_then_refused_claims_nothing() {
    let agent = Agent::start();
    agent.next(Route::Send).lose_answer(Ending::Cut);
    let gate = agent.next(Route::Send).hold();
    let running = start(&agent, &["--retry-timeout", "1s"]);
    let run = agent.next_run();
    gate.wait_until_reached();
    agent.down();
    let record = running.wait().within(Duration::from_secs(15)).fails("connection");
    assert_eq!(record["retryable"], false, "{record:#}");
    assert_ne!(record["cancel_confirmed"], true, "{record:#}");
    assert!(!run.is_cancelled());
}

#[test]
fn a_prompt_that_took_long_to_be_taken_is_still_waited_for_when_its_answer_is_lost() {
    // More than five seconds have gone by when the answer is lost and the retry overtakes it.
    let runs = [None, Some("an old session")].map(|old| {
        let agent = Agent::start();
        agent.next(Route::Send).answer(503, &[("retry-after", "6")], "");
        agent.next(Route::Send).lose_answer(Ending::Cut);
        agent.next(Route::Send).fail(409, "session_already_running");
        let running = match old {
            None => start(&agent, &[]),
            Some(_) => start(&agent, &["--session", &agent.session().to_string()]),
        };
        (agent, running)
    });
    for (agent, running) in runs {
        let run = play(&agent);
        check_once(&agent, &run, running.wait());
    }
}

#[test]
fn in_an_old_session_a_lost_answer_is_waited_for_as_long_as_in_a_new_one() {
    let agent = Agent::start();
    let session = agent.session();
    agent.next(Route::Send).lose_answer(Ending::Cut);
    // A hundred milliseconds between the tries: more than two seconds, and less than five.
    (0..30).for_each(|_| agent.next(Route::Send).fail(409, "session_already_running"));
    let running = start(&agent, &["--session", &session.to_string()]);
    let run = play(&agent);
    check_once(&agent, &run, running.wait());
}

#[test]
fn no_cancel_says_where_to_look_for_a_prompt_that_may_have_arrived() {
    let agent = Agent::start();
    let gate = agent.next(Route::Send).hold_answer();
    let running = start(&agent, &["--no-cancel"]);
    gate.wait_until_reached();
    let run = agent.next_run();
    running.signal(Signal::INT);
    let output = running.wait().within(Duration::from_secs(8)).stderr_has("attach");
    let output = output.stderr_has(&run.session.to_string());
    let record = output.fails("interrupted");
    assert!(!run.is_cancelled());
    assert_eq!(record["cancel_confirmed"], Value::Null);
    assert_eq!(record["retryable"], false);
}

// A cancel that the server does not take.

#[test]
fn a_cancel_that_nobody_takes_is_not_claimed() {
    let runs = [500, 503, 403, 404, 400].map(|status| {
        let agent = Agent::start();
        agent.every(Route::Cancel).fail(status, "no");
        let running = start(&agent, &[]);
        let run = agent.next_run();
        run.propose([call("a", "view").held()]);
        agent.wait_for_streams(1);
        running.signal(Signal::TERM);
        (agent, running, run, status)
    });
    for (_agent, running, run, status) in runs {
        let output = running.wait().within(Duration::from_secs(9));
        let error = output.stderr.clone();
        let record = output.fails("interrupted");
        assert!(!run.is_over() && !run.is_cancelled());
        // The session itself would have to be gone for that.
        assert_eq!(record["cancel_confirmed"], false, "{status}: {record:#}\n{error}");
        assert_eq!(record["retryable"], false, "{status}: {record:#}\n{error}");
        assert!(error.contains("may still be going on"), "{status}: {error}");
        assert!(!error.contains("()"), "{status}: {error}");
        assert_eq!(record["stop_reason"], Value::Null);
    }
}

#[test]
fn a_run_that_is_over_when_we_cancel_it_has_stopped() {
    let agent = Agent::start();
    let gate = agent.next(Route::Cancel).hold();
    let running = start(&agent, &[]);
    let run = agent.next_run();
    agent.wait_for_streams(1);
    running.signal(Signal::TERM);
    gate.wait_until_reached();
    run.complete();
    gate.open();
    let record = running.wait().within(Duration::from_secs(8)).fails("interrupted");
    assert_eq!(record["cancel_confirmed"], true);
    assert_eq!(record["stop_reason"], "completed");
    assert_eq!(record["usage"], json!({ "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 }));
}

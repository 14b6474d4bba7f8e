//! The machine's table, row by row, and the machine against a model of the server.

use super::batch::AskedCalls;
use super::policy::{OnApproval, Policy, Verdict};
use super::*;
use crate::agent::events::{Arguments, Usage, decode};
use crate::agent::sse::Parser;
use crate::outcome::{KnownEnd, Reason, RunSummary, ToolCounts, Waiting};

const RUN: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";

/// An envelope of our run: `{"Variant":{…}}`.
fn ours(event: &str) -> String {
    format!(r#"{{"run_id":"{RUN}","event":{event}}}"#)
}

fn others(event: &str) -> String {
    format!(r#"{{"run_id":"{OTHER}","event":{event}}}"#)
}

fn policy(on_approval: OnApproval) -> Policy {
    Policy { on_approval, ..Policy::default() }
}

fn options(start: Start) -> Options {
    Options {
        run_id: RUN.into(),
        asked: AskedCalls::SomeCalls,
        keep: Keep::Everything,
        start,
        is_first: false,
        policy: policy(OnApproval::Accept),
        choices: None,
        fail_on_tool_error: false,
        sandbox: false,
        max_tokens: None,
        max_tool_calls: None,
    }
}

fn machine(start: Start) -> Machine {
    Machine::new(options(start))
}

/// What a step returned.
#[derive(Debug)]
struct Told {
    fresh: bool,
    text: String,
    notice: Option<String>,
    effect: Effect,
}

fn feed(machine: &mut Machine, id: u64, json: &str) -> Told {
    let envelope = serde_json::from_str(json).unwrap();
    let step = machine.step(Input::Event(Some(id), &envelope));
    Told { fresh: step.fresh, text: step.text.to_owned(), notice: step.notice, effect: step.effect }
}

fn tell(machine: &mut Machine, input: Input<'_>) -> Effect {
    machine.step(input).effect
}

/// A stream with a byte, then `quiet_ms` of quiet, and `idle_s` without an event, which is also the time.
fn quiet(machine: &mut Machine, quiet_ms: u64, idle_s: u64) -> Effect {
    let (quiet, idle) = (Duration::from_millis(quiet_ms), Duration::from_secs(idle_s));
    let silence = Silence { quiet, idle, heard: true, held_back: false };
    tell(machine, Input::Quiet { silence, now: idle })
}

fn summary(machine: Machine) -> RunSummary {
    machine.summary()
}

const STARTED: &str = r#"{"RunStarted":{}}"#;
const COMPLETED: &str = r#"{"RunCompleted":{"total_turns":2,"stop_reason":"completed"}}"#;

fn turn(number: u64) -> String {
    format!(r#"{{"TurnStarted":{{"turn":{number}}}}}"#)
}

fn delta(text: &str) -> String {
    format!(r#"{{"TextDelta":{{"delta":"{text}"}}}}"#)
}

fn proposal(ids: &[&str]) -> String {
    let calls: Vec<_> = ids.iter().map(|id| format!(r#"{{"id":"{id}","name":"p__{id}"}}"#)).collect();
    ours(&format!(r#"{{"ToolCallsProposed":{{"tool_calls":[{}]}}}}"#, calls.join(",")))
}

fn reason(effect: &Effect) -> Option<Reason> {
    match effect {
        Effect::End(End::Failed(failure)) => Some(failure.reason),
        _ => None,
    }
}

fn active() -> Input<'static> {
    Input::State(State::Active { run_id: RUN.into() })
}

fn is_reconnect(effect: &Effect) -> bool {
    matches!(effect, Effect::Reconnect(_) | Effect::Replay(_))
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: format!("p__{id}"), arguments: Arguments::default() }
}

#[test]
fn only_our_run_is_shown() {
    let rows = [
        // event → fresh, text
        (others(STARTED), false, ""),
        (others(&delta("theirs")), false, ""),
        (ours(STARTED), true, ""),
        (ours(&turn(1)), true, ""),
        (ours(&delta("Hel")), true, "Hel"),
        (others(COMPLETED), false, ""),
        (ours(r#"{"SomethingNew":{"a":[1,{"b":null}]}}"#), true, ""),
        (ours(r#""SomethingBare""#), true, ""),
        (ours(r#"{"TextComplete":{"text":"Hello"}}"#), true, "lo"),
    ];
    let mut run = machine(Start::Fresh);
    for ((json, fresh, text), id) in rows.into_iter().zip(1..) {
        let told = feed(&mut run, id, &json);
        assert_eq!((told.fresh, told.text.as_str(), told.effect), (fresh, text, Effect::Continue), "{json}");
    }
    assert_eq!(feed(&mut run, 10, &ours(COMPLETED)).effect, Effect::End(End::Completed));
    let summary = summary(run);
    assert_eq!((summary.turns, summary.last_event_id, summary.text.as_deref()), (2, Some(10), Some("Hello")));
}

#[test]
fn a_final_text_that_differs_from_the_streamed_text_is_reported() {
    let mut run = machine(Start::Fresh);
    for (json, id) in [ours(STARTED), ours(&turn(1)), ours(&delta("Hallo"))].iter().zip(1..) {
        feed(&mut run, id, json);
    }
    let told = feed(&mut run, 4, &ours(r#"{"TextComplete":{"text":"Hello"}}"#));
    assert!(told.notice.is_some() && told.text.is_empty(), "{told:?}");
}

#[test]
fn each_terminal_event_has_its_reason_and_its_known_end() {
    let completed = |stop: &str| ours(&format!(r#"{{"RunCompleted":{{"stop_reason":"{stop}"}}}}"#));
    let known_end = |word: &str| KnownEnd::Completed(word.into());
    let rows = [
        (completed("completed"), None, false, known_end("completed")),
        (completed("cancelled"), Some(Reason::Cancelled), false, known_end("cancelled")),
        (completed("max_turns"), Some(Reason::MaxTurns), false, known_end("max_turns")),
        (completed("error"), Some(Reason::RunError), false, known_end("error")),
        (completed("never heard of"), Some(Reason::RunError), false, known_end("never heard of")),
        (ours(r#"{"RunError":{"error":"no"}}"#), Some(Reason::RunError), false, KnownEnd::Errored),
        (
            ours(r#"{"RunError":{"error":"busy","retryable":true}}"#),
            Some(Reason::RunError),
            true,
            KnownEnd::Errored,
        ),
    ];
    for (json, expected, passes, known_end) in rows {
        let mut run = machine(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        let effect = feed(&mut run, 2, &json).effect;
        assert_eq!((reason(&effect), run.known_end()), (expected, &known_end), "{json}");
        match effect {
            Effect::End(End::Completed) => assert_eq!(expected, None),
            Effect::End(End::Failed(failure)) => assert_eq!(failure.passes, passes, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
}

#[test]
fn five_compactions_of_one_turn_in_a_row_end_the_run() {
    let compaction = ours(r#"{"CompactionStarted":{"reason":"Limit 30000"}}"#);
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 1, &ours(&turn(1)));
    for id in 2..6 {
        assert_eq!(feed(&mut run, id, &compaction).effect, Effect::Continue);
        feed(&mut run, id, &ours(r#"{"CompactionCompleted":{}}"#));
    }
    feed(&mut run, 6, &ours(&delta("it works after all")));
    for id in 7..11 {
        assert_eq!(feed(&mut run, id, &compaction).effect, Effect::Continue);
        // The server starts the same turn again.
        feed(&mut run, id, &ours(&turn(1)));
    }
    let Effect::End(End::Failed(failure)) = feed(&mut run, 11, &compaction).effect else { panic!("it goes on") };
    assert_eq!((failure.reason, failure.passes), (Reason::RunError, true));
    assert!(failure.message.contains("Limit 30000"), "{failure}");
    assert_eq!(run.known_end(), &KnownEnd::Open, "it must be cancelled");
}

#[test]
fn the_terminal_event_the_turn_and_the_cut_are_known_while_the_run_is_followed() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(run.turn(), 0);
    for number in 1..=2 {
        feed(&mut run, number + 1, &ours(&turn(number)));
        assert_eq!(run.turn(), number);
    }
    assert!(!run.has_terminal_event() && !run.text_is_cut());
    feed(&mut run, 4, &ours(&delta(&"x".repeat(transcript::MAX_TEXT + 1))));
    assert!(run.text_is_cut());
    for end in [COMPLETED, r#"{"RunError":{"error":"no"}}"#] {
        let mut run = machine(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &ours(end));
        assert!(run.has_terminal_event());
    }
    let summary = summary(run);
    assert_eq!((summary.run_id.as_deref(), summary.text_is_cut), (Some(RUN), true));
}

#[test]
fn pending_calls_are_left_waiting_only_by_a_run_that_has_not_ended() {
    let mut run = Machine::new(Options { policy: policy(OnApproval::Pause), ..options(Start::Fresh) });
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(run.left_waiting(), None);
    feed(&mut run, 2, &proposal(&["a"]));
    assert_eq!(run.left_waiting(), Some(Waiting { batch: Some("11111111.2".into()), calls: vec![call("a")] }));
    feed(&mut run, 3, &ours(COMPLETED));
    assert_eq!(run.left_waiting(), None);
}

// The session's state.

/// A machine whose run has begun, after this state and the reconnect.
fn confirming(state: State) -> Machine {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(quiet(&mut run, 14_000, 14), Effect::Continue);
    assert_eq!(quiet(&mut run, 15_000, 15), Effect::AskState);
    assert_eq!(quiet(&mut run, 15_250, 15), Effect::Continue, "once");
    assert_eq!(tell(&mut run, active()), Effect::Continue);
    assert_eq!(quiet(&mut run, 30_000, 30), Effect::AskState, "and again after as long");
    assert!(is_reconnect(&tell(&mut run, Input::State(state))));
    assert_eq!(tell(&mut run, Input::Reconnected), Effect::Continue, "it was asked just now");
    run
}

#[test]
fn a_run_that_left_the_session_state_has_ended_once_its_events_are_replayed() {
    for state in [State::Idle, State::Active { run_id: OTHER.into() }] {
        let mut run = confirming(state.clone());
        assert_eq!(quiet(&mut run, 1750, 32), Effect::Continue);
        assert_eq!(feed(&mut run, 2, &ours(COMPLETED)).effect, Effect::End(End::Completed), "it was heard in time");
        let uptime = |server, run: Option<u64>| Uptime {
            server: Duration::from_secs(server),
            run: run.map(Duration::from_secs),
        };
        for (uptime, known_end, passes) in [
            (None, KnownEnd::Stopped, false),
            (Some(uptime(99, Some(40))), KnownEnd::Stopped, false),
            (Some(uptime(39, Some(40))), KnownEnd::Stopped, false),
            (Some(uptime(38, Some(40))), KnownEnd::Restarted { answered: true }, true),
            (Some(uptime(1, None)), KnownEnd::Stopped, false),
        ] {
            let mut run = confirming(state.clone());
            assert_eq!(quiet(&mut run, 2000, 32), Effect::AskState, "once more");
            assert_eq!(tell(&mut run, Input::State(state.clone())), Effect::AskHealth);
            let Effect::End(End::Failed(failure)) = tell(&mut run, Input::Health(uptime)) else { panic!() };
            assert_eq!(
                (failure.reason, failure.passes, run.known_end()),
                (Reason::Lost, passes, &known_end),
                "{uptime:?}"
            );
            assert!(run.needs_messages(), "the text comes from the messages");
        }
    }
}

#[test]
fn a_replay_without_a_byte_proves_nothing_unless_the_stream_is_held_back() {
    let mut run = confirming(State::Idle);
    let now = Duration::from_secs(50);
    let quiet = |held_back| Input::Quiet {
        silence: Silence { quiet: Duration::from_secs(19), idle: now, heard: false, held_back },
        now,
    };
    assert_eq!(tell(&mut run, quiet(false)), Effect::Continue);
    assert_eq!(tell(&mut run, quiet(true)), Effect::AskState);
    assert_eq!(tell(&mut run, Input::State(State::Idle)), Effect::AskHealth);
}

#[test]
fn the_newest_state_counts() {
    let mut run = confirming(State::Idle);
    assert_eq!(quiet(&mut run, 2000, 32), Effect::AskState);
    assert_eq!(tell(&mut run, active()), Effect::Continue, "the state before was stale");
    assert_eq!(quiet(&mut run, 3000, 33), Effect::Continue);
    assert_eq!(feed(&mut run, 2, &ours(COMPLETED)).effect, Effect::End(End::Completed));
}

#[test]
fn a_state_that_does_not_say_whether_a_run_is_active_proves_nothing() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(tell(&mut run, Input::State(State::Unclear)), Effect::Continue);
    assert_eq!(quiet(&mut run, 9000, 9), Effect::Continue);
    let mut run = confirming(State::Idle);
    assert_eq!(quiet(&mut run, 2000, 32), Effect::AskState);
    assert_eq!(tell(&mut run, Input::State(State::Unclear)), Effect::Continue);
    assert_eq!(quiet(&mut run, 6750, 36), Effect::Continue);
    assert_eq!(quiet(&mut run, 7000, 37), Effect::AskState, "and again 5 s later");
    let mut run = machine(Start::Fresh);
    tell(&mut run, Input::StateAfterCancel(State::Unclear));
    assert!(run.known_end().is_open());
}

#[test]
fn an_event_of_our_run_shows_that_the_session_is_known() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    tell(&mut run, Input::State(State::NoSession));
    feed(&mut run, 2, &ours(&turn(1)));
    assert_eq!(quiet(&mut run, 6000, 6), Effect::Continue, "it goes on");
}

#[test]
fn the_choices_are_checked_even_if_the_session_was_unknown_in_between() {
    let batch = Choices { batch: Some("11111111.9".into()), approve_all: true, ..Choices::default() };
    let mut run = Machine::new(Options { choices: Some(batch), ..options(Start::FromNow) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    tell(&mut run, Input::State(State::NoSession));
    assert_eq!(tell(&mut run, active()), Effect::Continue);
    assert_eq!(reason(&quiet(&mut run, 250, 0)), Some(Reason::Conflict));
    assert!(!run.has_caught_up());
}

#[test]
fn a_replay_is_complete_with_the_newest_event_that_a_gap_named() {
    let mut run = confirming(State::Idle);
    assert_eq!(tell(&mut run, Input::Lost { newest: Some(9) }), Effect::Continue);
    assert_eq!(feed(&mut run, 8, &ours(&turn(1))).effect, Effect::Continue);
    assert_eq!(feed(&mut run, 9, &others(&turn(1))).effect, Effect::AskState);
}

#[test]
fn a_failed_session_state_fails_the_run_after_two_seconds_without_an_event() {
    let called = [ours(STARTED), proposal(&["a"])];
    for (events, heard, tools) in
        [(&called[..1], true, false), (&called[..], true, true), (&called[..1], false, true)]
    {
        let mut run = machine(Start::Fresh);
        for (event, id) in events.iter().zip(1..) {
            feed(&mut run, id, event);
        }
        assert!(is_reconnect(&tell(&mut run, Input::State(State::Failed))));
        tell(&mut run, Input::Reconnected);
        let silence = Silence { idle: Duration::from_secs(9), heard, ..Silence::default() };
        let at = |ms| Input::Quiet { silence, now: Duration::from_millis(ms) };
        assert_eq!(tell(&mut run, at(1750)), Effect::Continue);
        assert_eq!(reason(&tell(&mut run, at(2000))), Some(Reason::RunError));
        assert_eq!(run.known_end(), &KnownEnd::StateFailed { tools });
        assert_eq!(run.needs_messages(), !heard, "a stream that is held back may lack a proposal");
    }
    // The run died before its first event. Only the messages tell whether it called tools.
    for called_tools in [false, true] {
        let mut run = machine(Start::Fresh);
        tell(&mut run, Input::State(State::Failed));
        assert_eq!(reason(&quiet(&mut run, 2000, 2)), Some(Reason::RunError));
        assert_eq!(run.known_end(), &KnownEnd::StateFailed { tools: true });
        assert!(run.needs_messages());
        tell(&mut run, Input::Messages(History { called_tools, known: true, ..History::default() }));
        assert_eq!(run.known_end(), &KnownEnd::StateFailed { tools: called_tools });
    }
}

#[test]
fn before_the_first_event_the_state_is_asked_for_after_two_seconds_and_then_every_five() {
    let mut run = machine(Start::Fresh);
    assert_eq!(quiet(&mut run, 1750, 1), Effect::Continue);
    assert_eq!(quiet(&mut run, 2000, 2), Effect::AskState);
    assert_eq!(tell(&mut run, active()), Effect::Continue);
    assert_eq!(quiet(&mut run, 6000, 6), Effect::Continue);
    assert_eq!(quiet(&mut run, 7000, 7), Effect::AskState);
}

#[test]
fn while_a_proposal_may_be_lost_the_state_is_asked_for_sooner() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    tell(&mut run, Input::Lost { newest: None });
    assert_eq!(quiet(&mut run, 1750, 1), Effect::Continue);
    assert_eq!(quiet(&mut run, 2000, 2), Effect::AskState);
}

#[test]
fn the_machine_hears_of_the_time_while_the_stream_is_being_opened_if_the_state_may_tell_the_end() {
    let two_seconds = Some(Duration::from_secs(2));
    let mut run = machine(Start::Fresh);
    assert_eq!(run.patience(), two_seconds, "the run may have died before its first event");
    assert_eq!(quiet(&mut run, 2000, 2), Effect::AskState);
    assert_eq!(run.patience(), None);
    tell(&mut run, Input::State(State::Failed));
    assert_eq!(run.patience(), two_seconds);
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(run.patience(), None);
    assert_eq!(machine(Start::FromNow).patience(), None);
}

#[test]
fn an_unknown_session_is_asked_for_again_for_five_seconds() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(quiet(&mut run, 15_000, 15), Effect::AskState);
    assert_eq!(tell(&mut run, Input::State(State::NoSession)), Effect::Continue);
    for second in 16..20 {
        let before = Silence { idle: Duration::from_secs(15), ..Silence::default() };
        let now = Duration::from_millis(second * 1000 - 750);
        assert_eq!(tell(&mut run, Input::Quiet { silence: before, now }), Effect::Continue, "too soon");
        assert_eq!(quiet(&mut run, 15_000, second), Effect::AskState);
        assert_eq!(tell(&mut run, Input::State(State::NoSession)), Effect::Continue);
    }
    let effect = quiet(&mut run, 20_000, 20);
    assert_eq!((reason(&effect), run.known_end()), (Some(Reason::Lost), &KnownEnd::Open));
    let mut run = machine(Start::Fresh);
    tell(&mut run, Input::State(State::NoSession));
    assert_eq!(tell(&mut run, active()), Effect::Continue, "it was another replica");
    assert_eq!(feed(&mut run, 1, &ours(STARTED)).effect, Effect::Continue);
}

#[test]
fn a_refused_token_is_a_restart_only_if_the_server_is_younger_than_the_run() {
    let refused = || Input::State(State::Refused(Failure::new(Reason::Auth, "401")));
    for (server, expected, passes, known_end) in
        [(1, Reason::Lost, true, KnownEnd::Restarted { answered: true }), (99, Reason::Auth, false, KnownEnd::Open)]
    {
        let mut run = machine(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        assert_eq!(tell(&mut run, refused()), Effect::AskHealth);
        let (server, age) = (Duration::from_secs(server), Some(Duration::from_secs(9)));
        let effect = tell(&mut run, Input::Health(Some(Uptime { server, run: age })));
        let Effect::End(End::Failed(failure)) = effect else { panic!("{effect:?}") };
        assert_eq!((failure.reason, failure.passes, run.known_end()), (expected, passes, &known_end));
        tell(&mut run, Input::Messages(History { answered: false, known: true, ..History::default() }));
        assert_eq!(run.known_end(), &known_end, "the messages of a server that refuses us are not ours");
    }
}

#[test]
fn the_messages_tell_whether_a_restarted_server_had_answered() {
    for answered in [false, true] {
        let mut run = confirming(State::Idle);
        quiet(&mut run, 2000, 32);
        let (server, age) = (Duration::ZERO, Some(Duration::from_secs(9)));
        tell(&mut run, Input::Health(Some(Uptime { server, run: age })));
        tell(&mut run, Input::Messages(History { answered, known: true, ..History::default() }));
        assert_eq!(run.known_end(), &KnownEnd::Restarted { answered });
    }
}

#[test]
fn a_reconnect_always_asks_for_the_state() {
    assert_eq!(tell(&mut machine(Start::Fresh), Input::Reconnected), Effect::AskState);
}

#[test]
fn only_the_servers_own_state_confirms_a_stop() {
    let other = State::Active { run_id: OTHER.into() };
    for (state, stopped) in [
        (State::Active { run_id: RUN.into() }, false),
        (other, true),
        (State::Idle, true),
        (State::Failed, true),
        (State::NoSession, false),
        (State::Refused(Failure::new(Reason::Auth, "401")), false),
    ] {
        let mut run = machine(Start::Fresh);
        assert_eq!(tell(&mut run, Input::StateAfterCancel(state.clone())), Effect::Continue);
        assert_eq!(run.known_end().is_open(), !stopped, "{state:?}");
    }
}

#[test]
fn after_a_cancel_the_messages_of_another_run_are_not_shown() {
    for (state, shown) in [(State::Idle, true), (State::Active { run_id: OTHER.into() }, false)] {
        let mut run = machine(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        tell(&mut run, Input::Lost { newest: None });
        tell(&mut run, Input::StateAfterCancel(state));
        let history = History { texts: vec!["late".into()], known: true, ..History::default() };
        let filled_in = run.step(Input::Messages(history)).filled_in.unwrap();
        assert_eq!(filled_in.pieces == ["late"], shown, "{filled_in:?}");
    }
}

// Lost events.

#[test]
fn lost_events_hold_back_text_only_if_our_run_had_begun() {
    for (begun_before, begins_after, held) in [(false, true, false), (false, false, true), (true, false, true)] {
        let mut run = machine(Start::Fresh);
        if begun_before {
            feed(&mut run, 1, &ours(STARTED));
        }
        tell(&mut run, Input::Lost { newest: None });
        feed(&mut run, 51, &ours(if begins_after { STARTED } else { COMPLETED }));
        assert_eq!(run.needs_messages(), held, "{begun_before} {begins_after}");
    }
}

#[test]
fn a_lost_proposal_is_replaced_by_the_pending_calls() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(tell(&mut run, active()), Effect::Continue);
    tell(&mut run, Input::Lost { newest: None });
    assert_eq!(tell(&mut run, active()), Effect::AskPending);
}

#[test]
fn lost_text_comes_from_the_messages() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &ours(&turn(1)));
    feed(&mut run, 3, &ours(&delta("One")));
    tell(&mut run, Input::Lost { newest: None });
    feed(&mut run, 9, &ours(COMPLETED));
    let texts = vec!["One and".into(), "two".into()];
    let step = run.step(Input::Messages(History { texts, known: true, ..History::default() }));
    let filled_in = step.filled_in.unwrap();
    assert_eq!((filled_in.continues, filled_in.pieces), (true, vec![" and".to_owned(), "two".to_owned()]));
    assert_eq!(summary(run).text.as_deref(), Some("One and\ntwo"));
}

#[test]
fn text_that_may_be_missing_is_reported() {
    let history = |text: &str| History { texts: vec![text.into()], known: true, ..History::default() };
    for (superseded, texts, reported) in
        [(false, history("One and"), false), (true, history("One and"), true), (false, History::default(), true)]
    {
        let mut run = machine(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &ours(&turn(1)));
        feed(&mut run, 3, &ours(&delta("One")));
        if superseded {
            feed(&mut run, 4, &others(STARTED));
        }
        tell(&mut run, Input::Lost { newest: None });
        let step = run.step(Input::Messages(texts));
        assert_eq!(step.notice.is_some(), reported, "{superseded}");
    }
}

// Approval.

#[test]
fn a_notice_says_that_a_call_was_decided_only_if_somebody_else_did() {
    let event = |variant: &str| ours(&format!(r#"{{"{variant}":{{"tool_call_id":"a","tool_name":"p__a"}}}}"#));
    for (choices, event, sent, notice) in [
        ("approve", event("ToolExecutionStarted"), false, Some("approved elsewhere")),
        ("approve", event("ToolRejected"), false, Some("rejected elsewhere")),
        ("approve", event("ToolExecutionStarted"), true, None),
        ("reject", event("ToolExecutionStarted"), false, Some("the server ran it by itself")),
        ("reject", event("ToolRejected"), false, None),
    ] {
        let ids = ["a".to_owned()].into();
        let choices = match choices {
            "approve" => Choices { approve: ids, ..Choices::default() },
            _ => Choices { reject: ids, ..Choices::default() },
        };
        let mut run = Machine::new(Options { choices: Some(choices), ..options(Start::FromNow) });
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &proposal(&["a"]));
        let effect = quiet(&mut run, 250, 0);
        let Effect::Send { decisions, .. } = effect else { panic!("{effect:?}") };
        if sent {
            tell(&mut run, Input::Sent(&decisions));
        }
        let told = feed(&mut run, 3, &event).notice;
        assert_eq!(
            told.as_deref().map(|told| told.contains(notice.unwrap_or("?"))),
            notice.map(|_| true),
            "{told:?}"
        );
    }
    // The call ran, and then it ended: nobody rejected it.
    let choices = Choices { approve: ["a".to_owned()].into(), ..Choices::default() };
    let mut run = Machine::new(Options { choices: Some(choices), ..options(Start::FromNow) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    quiet(&mut run, 250, 0);
    feed(&mut run, 3, &event("ToolExecutionStarted"));
    assert_eq!(feed(&mut run, 4, &event("ToolExecutionCompleted")).notice, None);
}

#[test]
fn the_record_lists_each_decided_call_once_and_at_most_a_thousand() {
    let mut run = machine(Start::Fresh);
    let decided = |id: &str| (call(id), Ruling::by_policy(Verdict::Accept));
    for _ in 0..2 {
        tell(&mut run, Input::Sent(&[decided("a"), decided("b")]));
    }
    for id in 0..1000 {
        tell(&mut run, Input::Sent(&[decided(&id.to_string())]));
    }
    let decisions = summary(run).decisions;
    let first: Vec<_> = decisions.iter().take(3).map(|decided| decided.tool_call_id.as_str()).collect();
    assert_eq!((decisions.len(), first), (1000, vec!["a", "b", "0"]));
}

#[test]
fn the_quiet_before_a_question_does_not_count_after_it() {
    let mut run = Machine::new(Options { asked: AskedCalls::Unknown, ..options(Start::Fresh) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    assert_eq!(quiet(&mut run, 250, 0), Effect::AskConfig);
    assert_eq!(tell(&mut run, Input::AskedCalls(AskedCalls::SomeCalls)), Effect::Continue);
    assert!(matches!(quiet(&mut run, 250, 0), Effect::Send { .. }));
}

#[test]
fn nothing_is_decided_over_a_budget() {
    let mut run =
        Machine::new(Options { max_tool_calls: Some(1), asked: AskedCalls::EveryCall, ..options(Start::Fresh) });
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(feed(&mut run, 2, &proposal(&["a", "b"])).effect, Effect::Continue);
    assert_eq!(reason(&quiet(&mut run, 250, 0)), Some(Reason::MaxToolCalls));
}

#[test]
fn an_empty_list_of_pending_calls_replaces_no_proposal() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    tell(&mut run, Input::Pending { calls: Vec::new(), finished: Vec::new() });
    assert!(matches!(quiet(&mut run, 250, 0), Effect::Send { .. }));
}

#[test]
fn a_refused_decision_is_not_sent_again_for_two_seconds() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    assert!(matches!(quiet(&mut run, 250, 1), Effect::Send { .. }));
    assert_eq!(tell(&mut run, Input::Refused), Effect::AskState);
    assert_eq!(tell(&mut run, active()), Effect::Continue, "the server contradicts itself");
    assert_eq!(quiet(&mut run, 1000, 2), Effect::Continue);
    assert!(matches!(quiet(&mut run, 2000, 3), Effect::Send { .. }));
}

#[test]
fn a_call_with_the_id_of_an_earlier_call_is_never_decided() {
    let mut run = machine(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a", "a"]));
    assert!(matches!(quiet(&mut run, 250, 0), Effect::Send { .. }), "the first can be");
    feed(&mut run, 3, &ours(r#"{"ToolExecutionCompleted":{"tool_call_id":"a"}}"#));
    assert_eq!(quiet(&mut run, 1750, 0), Effect::Continue);
    assert_eq!(reason(&quiet(&mut run, 2000, 0)), Some(Reason::Protocol));
}

#[test]
fn events_before_a_resume_are_not_shown_but_count() {
    let mut run = machine(Start::FromNow);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &ours(&turn(1)));
    let told = feed(&mut run, 3, &ours(&delta("old")));
    assert_eq!((told.fresh, told.text.as_str()), (false, ""));
    assert_eq!(quiet(&mut run, 0, 0), Effect::Continue);
    assert_eq!(quiet(&mut run, 250, 0), Effect::AskPending, "its proposal may have been lost");
    assert_eq!(tell(&mut run, Input::Pending { calls: Vec::new(), finished: Vec::new() }), Effect::Continue);
    assert!(feed(&mut run, 4, &ours(&turn(2))).fresh);
    assert_eq!(feed(&mut run, 5, &ours(&delta("new"))).text, "new");
    assert_eq!(summary(run).text.as_deref(), Some("old\nnew"));
}

#[test]
fn catching_up_with_a_busy_run_ends_after_five_seconds() {
    let mut run = machine(Start::FromNow);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    feed(&mut run, 3, &ours(r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#));
    let now = |seconds| Input::Quiet { silence: Silence::default(), now: Duration::from_secs(seconds) };
    tell(&mut run, now(4));
    assert!(!feed(&mut run, 4, &ours(r#"{"ToolExecutionProgress":{"tool_call_id":"a"}}"#)).fresh);
    tell(&mut run, now(5));
    assert!(feed(&mut run, 5, &ours(r#"{"ToolExecutionProgress":{"tool_call_id":"a"}}"#)).fresh);
}

#[test]
fn choices_are_checked_before_anything_is_sent() {
    let choices = |approve: &[&str], batch: Option<&str>| Choices {
        approve: approve.iter().map(ToString::to_string).collect(),
        batch: batch.map(str::to_owned),
        ..Choices::default()
    };
    let all = Choices { approve_all: true, ..Choices::default() };
    let rows: [(Choices, &[&str], Option<Reason>); 7] = [
        (choices(&["a"], None), &["a", "b"], None),
        (choices(&["a"], Some("11111111.2")), &["a", "b"], None),
        (choices(&["a"], Some("11111111.1")), &["a", "b"], Some(Reason::Conflict)),
        (choices(&["a"], Some("22222222.2")), &["a", "b"], Some(Reason::Conflict)),
        (choices(&["z"], None), &["a", "b"], Some(Reason::Usage)),
        (choices(&["a"], None), &[], Some(Reason::Conflict)),
        (all, &[], Some(Reason::Conflict)),
    ];
    for (choices, pending, expected) in rows {
        let mut run = Machine::new(Options { choices: Some(choices.clone()), ..options(Start::FromNow) });
        feed(&mut run, 1, &ours(STARTED));
        if !pending.is_empty() {
            feed(&mut run, 2, &proposal(pending));
        }
        let mut effect = quiet(&mut run, 250, 0);
        if effect == Effect::AskPending {
            effect = tell(&mut run, Input::Pending { calls: Vec::new(), finished: Vec::new() });
        }
        assert_eq!(reason(&effect), expected, "{choices:?}: {effect:?}");
        if expected.is_none() {
            let Effect::Send { decisions, .. } = effect else { panic!("{effect:?}") };
            assert_eq!(decisions[0].1.verdict, Verdict::Accept);
        }
    }
}

#[test]
fn approving_one_batch_does_not_approve_the_next() {
    let choices = Some(Choices { approve_all: true, ..Choices::default() });
    let policy = policy(OnApproval::Pause);
    let mut run = Machine::new(Options { choices, policy, ..options(Start::FromNow) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    let Effect::Send { decisions, .. } = quiet(&mut run, 250, 0) else { panic!("nothing is sent") };
    tell(&mut run, Input::Sent(&decisions));
    feed(&mut run, 3, &ours(r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#));
    feed(&mut run, 4, &ours(r#"{"ToolExecutionCompleted":{"tool_call_id":"a"}}"#));
    feed(&mut run, 5, &proposal(&["b"]));
    quiet(&mut run, 250, 0);
    let waiting = Waiting { batch: Some("11111111.5".into()), calls: vec![call("b")] };
    assert_eq!(quiet(&mut run, 2000, 0), Effect::End(End::Paused(waiting)));
    let decisions = summary(run).decisions;
    assert_eq!(decisions.len(), 1);
    assert_eq!(
        (decisions[0].tool_call_id.as_str(), decisions[0].verdict, decisions[0].by),
        ("a", "accept", "flag")
    );
}

#[test]
fn a_decision_of_another_client_is_reported() {
    let choices =
        Some(Choices { approve: ["a".to_owned()].into(), reject: ["b".to_owned()].into(), ..Choices::default() });
    let mut run = Machine::new(Options { choices, ..options(Start::FromNow) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a", "b"]));
    let Effect::Send { decisions, .. } = quiet(&mut run, 250, 0) else { panic!("nothing is sent") };
    tell(&mut run, Input::Sent(&decisions));
    let rejected = feed(&mut run, 3, &ours(r#"{"ToolRejected":{"tool_call_id":"a"}}"#));
    assert!(rejected.notice.unwrap().contains("rejected elsewhere"));
    let ran = feed(&mut run, 4, &ours(r#"{"ToolExecutionStarted":{"tool_call_id":"b"}}"#));
    assert!(ran.notice.unwrap().contains("was to be rejected"));
}

#[test]
fn a_peek_ends_as_soon_as_no_call_can_be_pending() {
    let mut run = Machine::new(Options { policy: policy(OnApproval::Pause), ..options(Start::Peek) });
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a"]));
    assert_eq!(quiet(&mut run, 250, 0), Effect::Continue);
    assert_eq!(quiet(&mut run, 1750, 0), Effect::Continue);
    assert!(!feed(&mut run, 3, &ours(r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#)).fresh);
    assert_eq!(quiet(&mut run, 250, 0), Effect::End(End::Completed));
}

#[test]
fn a_budget_ends_the_run_only_after_all_events_that_have_arrived() {
    let usage = ours(r#"{"UsageReport":{"usage":{"total_tokens":10}}}"#);
    for (max_tokens, over) in [(20, false), (19, true)] {
        let mut run = Machine::new(Options { max_tokens: Some(max_tokens), ..options(Start::Fresh) });
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &usage);
        feed(&mut run, 3, &usage);
        feed(&mut run, 4, &proposal(&["a"]));
        let effect = quiet(&mut run, 250, 0);
        assert_eq!(reason(&effect), over.then_some(Reason::MaxTokens), "{effect:?}");
        assert_eq!(feed(&mut run, 5, &ours(COMPLETED)).effect, Effect::End(End::Completed), "it is what it is");
    }
    for (max_tool_calls, over) in [(2, false), (1, true)] {
        let mut run = Machine::new(Options { max_tool_calls: Some(max_tool_calls), ..options(Start::Fresh) });
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &proposal(&["a", "b"]));
        let effect = quiet(&mut run, 250, 0);
        assert_eq!(reason(&effect), over.then_some(Reason::MaxToolCalls), "{effect:?}");
    }
}

#[test]
fn a_failed_tool_call_fails_the_run_only_when_asked_to() {
    for (asked, failed, expected) in
        [(false, true, None), (true, true, Some(Reason::ToolError)), (true, false, None)]
    {
        let mut run = Machine::new(Options { fail_on_tool_error: asked, ..options(Start::Fresh) });
        let started = ours(r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#);
        let done = ours(&format!(r#"{{"ToolExecutionCompleted":{{"tool_call_id":"a","is_error":{failed}}}}}"#));
        for (event, id) in [&ours(STARTED), &proposal(&["a"]), &started, &done].into_iter().zip(1..) {
            feed(&mut run, id, event);
        }
        let effect = feed(&mut run, 5, &ours(COMPLETED)).effect;
        assert_eq!(reason(&effect), expected, "{asked} {failed}");
    }
}

#[test]
fn a_call_is_not_decided_once_an_event_shows_that_it_has_started() {
    let tool = r#"{"tool_call_id":"a","tool_name":"p__t"}"#;
    for (event, waits) in [
        (r#"{"WaitingForToolApproval":{"pending_tool_call_ids":["a"]}}"#.to_owned(), true),
        (r#"{"TurnCompleted":{"turn":1,"finish_reason":"cancelled"}}"#.to_owned(), false),
        (turn(2), false),
        (format!(r#"{{"ToolExecutionStarted":{tool}}}"#), false),
        // The start event may have left the server's ring.
        (format!(r#"{{"ToolExecutionProgress":{tool}}}"#), false),
        (format!(r#"{{"ToolExecutionCompleted":{tool}}}"#), false),
        (format!(r#"{{"ToolRejected":{tool}}}"#), false),
    ] {
        let mut run = machine(Start::Fresh);
        for (json, id) in [ours(STARTED), ours(&turn(1)), proposal(&["a"]), ours(&event)].iter().zip(1..) {
            feed(&mut run, id, json);
        }
        assert_eq!(matches!(quiet(&mut run, 250, 0), Effect::Send { .. }), waits, "{event}");
    }
}

#[test]
fn usage_calls_and_tasks_are_counted_as_they_are_reported() {
    let mut run = Machine::new(Options { fail_on_tool_error: true, ..options(Start::Fresh) });
    let usage = ours(r#"{"UsageReport":{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}}"#);
    let started = |id: &str| ours(&format!(r#"{{"ToolExecutionStarted":{{"tool_call_id":"{id}"}}}}"#));
    let failed = ours(r#"{"ToolExecutionCompleted":{"tool_call_id":"a","result":"no","is_error":true}}"#);
    // The call has not started: a `custom_result` rejected it (trap 9).
    let answered = |id: &str| {
        let tool = format!(r#""tool_call_id":"{id}","tool_name":"p__run_command_task","result":"no""#);
        ours(&format!(r#"{{"ToolExecutionCompleted":{{{tool}}}}}"#))
    };
    let events = [
        ours(STARTED),
        usage.clone(),
        proposal(&["a", "b", "c", "d"]),
        started("a"),
        failed,
        answered("b"),
        answered("c"),
        started("d"),
        answered("d"),
        usage,
    ];
    for (event, id) in events.iter().zip(1..) {
        feed(&mut run, id, event);
    }
    let Effect::End(End::Failed(failure)) = feed(&mut run, 11, &ours(COMPLETED)).effect else {
        panic!("a tool call failed")
    };
    assert!(failure.message.contains("1 tool call failed"), "{failure}");
    let summary = summary(run);
    assert_eq!(summary.usage, Some(Usage { prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 }));
    assert_eq!(summary.tool_calls, ToolCounts { proposed: 4, accepted: 2, rejected: 2, failed: 1 });
    let tasks: Vec<_> = summary.background_tasks.iter().map(|task| task.tool_call_id.as_str()).collect();
    assert_eq!(tasks, ["d"], "a task that was never started goes on nowhere");
}

#[test]
fn list_entries_without_a_match_are_reported_only_if_there_were_calls() {
    let policy = Policy {
        allow: ["a".to_owned(), "run_comand".to_owned()].into(),
        deny: ["p__b".to_owned()].into(),
        ..policy(OnApproval::Reject)
    };
    let mut run = Machine::new(Options { policy, ..options(Start::Fresh) });
    assert_eq!(run.unmatched().count(), 0);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &proposal(&["a", "b"]));
    assert_eq!(run.unmatched().collect::<Vec<_>>(), ["run_comand"]);
}

/// Every recorded stream, through parser, decoder and machine.
#[test]
fn each_recorded_run_has_its_recorded_result() {
    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../tests/fixtures/", $name))
        };
    }
    let failed = Some(Reason::RunError);
    let text = "All 3 replicas are ready.\n\nNothing to do. ✅ naïve 日本語";
    let rows: &[(&str, &str, Option<Reason>, &str, u64, [u64; 4])] = &[
        // stream, id's prefix, reason, last turn's text, turns, calls
        (recorded!("completed-text.sse"), "d30255b1", None, text, 1, [0; 4]),
        (recorded!("completed-tools-accepted.sse"), "42b1dcc9", None, "The file is in place.", 2, [1, 1, 0, 1]),
        (
            recorded!("completed-tool-rejected.sse"),
            "9f78e9ba",
            None,
            "I could not write the file.",
            2,
            [1, 0, 1, 0],
        ),
        (
            recorded!("cancelled.sse"),
            "9e412a09",
            Some(Reason::Cancelled),
            "I will write the file.",
            1,
            [1, 0, 0, 0],
        ),
        (recorded!("max-turns.sse"), "6b3e4333", Some(Reason::MaxTurns), "Looking.", 1, [1, 1, 0, 0]),
        (recorded!("run-error.sse"), "d8362b9f", failed, "", 1, [0; 4]),
        (recorded!("tool-error.sse"), "bd63832d", None, "That tool does not exist.", 2, [1, 1, 0, 1]),
    ];
    for (stream, prefix, expected, last, turns, calls) in rows {
        let at = stream.find(prefix).unwrap();
        let run_id = stream[at..at + 36].into();
        let mut run = Machine::new(Options { run_id, asked: AskedCalls::NoCall, ..options(Start::Fresh) });
        let mut parser = Parser::new();
        // The recording stops with the last line; the blank one that dispatches it is missing.
        let stream = format!("{stream}\n\n");
        let mut input = stream.as_bytes();
        let mut end = None;
        while parser.advance(&mut input).unwrap() {
            let frame = parser.frame();
            let envelope = decode(&frame).unwrap();
            let id = frame.id.map(|id| id.parse().unwrap());
            if let effect @ Effect::End(_) = run.step(Input::Event(id, &envelope)).effect {
                end = Some(reason(&effect));
            }
        }
        assert_eq!(end, Some(*expected), "{prefix}");
        let summary = summary(run);
        assert_eq!((summary.agent_message.as_deref(), summary.turns), (Some(*last), *turns), "{prefix}");
        let counts = summary.tool_calls;
        assert_eq!([counts.proposed, counts.accepted, counts.rejected, counts.failed], *calls, "{prefix}");
    }
}

mod model;

#[test]
fn the_messages_of_a_later_run_are_not_taken_for_ours() {
    let rows: [(bool, &[String], State, bool); 5] = [
        // the session is new, events, state → whether the messages are ours
        (false, &[ours(STARTED)], State::Idle, true),
        (false, &[others(STARTED)], State::Idle, true),
        (true, &[others(STARTED)], State::Idle, false),
        (false, &[ours(STARTED), others(STARTED)], State::Idle, false),
        (false, &[], State::Active { run_id: OTHER.into() }, false),
    ];
    for (is_first, events, state, are_ours) in rows {
        let mut run = Machine::new(Options { is_first, ..options(Start::Fresh) });
        for (event, id) in events.iter().zip(1..) {
            feed(&mut run, id, event);
        }
        tell(&mut run, Input::State(state.clone()));
        assert_eq!(quiet(&mut run, 2000, 20), Effect::AskState);
        assert_eq!(tell(&mut run, Input::State(state.clone())), Effect::AskHealth);
        tell(&mut run, Input::Health(None));
        let texts = vec!["Done.".to_owned()];
        run.step(Input::Messages(History { texts, known: true, ..History::default() }));
        let text = summary(run).text.unwrap_or_default();
        assert_eq!(text == "Done.", are_ours, "{is_first} {events:?} {state:?}: {text}");
    }
}

//! The machine's table, row by row, and the machine against a model of the server.

use super::*;
use crate::agent::events::{Arguments, Item, ToolCall, decode};
use crate::agent::sse::Parser;
use Expect::{Continues, Ends, Holds, Reconnects, Says};

const RUN: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";

/// An envelope of our run: `{"Variant":{…}}`.
fn ours(event: &str) -> String {
    format!(r#"{{"run_id":"{RUN}","event":{event}}}"#)
}

fn others(event: &str) -> String {
    format!(r#"{{"run_id":"{OTHER}","event":{event}}}"#)
}

fn envelope(json: &str) -> Envelope<'_> {
    serde_json::from_str(json).unwrap()
}

fn run(start: Start) -> Run {
    Run::new(Options { keep: Keep::Everything, start, ..Options::of(RUN.into(), Asks::Some) })
}

/// Feeds an event and gives back what it shows and what it wants.
fn feed(run: &mut Run, id: u64, json: &str) -> (bool, String, Act) {
    let envelope = envelope(json);
    let step = run.step(Input::Event(Some(id), &envelope));
    (step.fresh, step.text.to_owned(), step.act)
}

fn tick(run: &mut Run, quiet_ms: u64, idle_s: u64) -> Act {
    let (quiet, idle) = (Duration::from_millis(quiet_ms), Duration::from_secs(idle_s));
    run.step(Input::Tick { quiet, idle }).act
}

const STARTED: &str = r#"{"RunStarted":{}}"#;
const COMPLETED: &str = r#"{"RunCompleted":{"total_turns":2,"stop_reason":"completed"}}"#;

fn turn(number: u64) -> String {
    format!(r#"{{"TurnStarted":{{"turn":{number}}}}}"#)
}

fn delta(text: &str) -> String {
    format!(r#"{{"TextDelta":{{"delta":"{text}"}}}}"#)
}

/// What is expected of a row of the table.
#[derive(Debug)]
enum Expect {
    Continues,
    Says(&'static str),
    Holds,
    Reconnects,
    Ends,
}

fn reason(act: &Act) -> Option<Reason> {
    match act {
        Act::End(End::Failed(failure)) => Some(failure.reason),
        _ => None,
    }
}

#[test]
fn events_move_the_cursor_once_and_only_our_run_is_shown() {
    let rows: &[(u64, String, u64, Expect)] = &[
        // id, event → cursor, expected
        (1, others(STARTED), 1, Continues),
        (2, others(&delta("theirs")), 2, Continues),
        (3, ours(STARTED), 3, Says("")),
        (4, ours(&turn(1)), 4, Says("")),
        (5, ours(&delta("Hel")), 5, Says("Hel")),
        (5, ours(&delta("Hel")), 5, Continues),
        (2, ours(&delta("old")), 5, Continues),
        (6, others(COMPLETED), 6, Continues),
        (7, ours(r#"{"SomethingNew":{"a":[1,{"b":null}]}}"#), 7, Says("")),
        (8, ours(r#""SomethingBare""#), 8, Says("")),
        (9, ours(r#"{"TextComplete":{"text":"Hello"}}"#), 9, Says("lo")),
        (11, ours(&delta("beyond")), 9, Reconnects),
        (10, ours(&turn(2)), 10, Says("")),
        (12, ours(&delta("hole")), 10, Reconnects),
        (12, ours(&delta("hole")), 12, Holds),
        (1 << 40, ours(&delta("absurd")), 12, Holds),
        (12 + (1 << 32), ours(&delta("absurd")), 12, Holds),
        (11 + (1 << 32), ours(&delta("far away")), 12, Reconnects),
        (13, ours(COMPLETED), 13, Ends),
    ];
    let mut run = run(Start::Fresh);
    for (id, json, cursor, expected) in rows {
        let (fresh, text, act) = feed(&mut run, *id, json);
        let what = format!("{id} {json}: {text:?} {act:?}");
        assert_eq!(run.cursor, *cursor, "{what}");
        match expected {
            Continues => assert!(!fresh && act == Act::Continue, "{what}"),
            Says(said) => assert!(fresh && act == Act::Continue && text == *said, "{what}"),
            Holds => assert!(fresh && text.is_empty() && run.transcript.is_held(), "{what}"),
            Reconnects => assert!(!fresh && matches!(act, Act::Reconnect(_)), "{what}"),
            Ends => assert!(act == Act::End(End::Completed) && !run.may_be_running(), "{what}"),
        }
    }
    assert_eq!(run.turns, 2);
}

#[test]
fn each_end_has_its_reason() {
    let completed = |stop: &str| ours(&format!(r#"{{"RunCompleted":{{"stop_reason":"{stop}"}}}}"#));
    let rows = [
        (completed("completed"), None, false),
        (completed("cancelled"), Some(Reason::Cancelled), false),
        (completed("max_turns"), Some(Reason::MaxTurns), false),
        (completed("error"), Some(Reason::RunError), false),
        (completed("never heard of"), Some(Reason::RunError), false),
        (ours(r#"{"RunError":{"error":"no"}}"#), Some(Reason::RunError), false),
        (ours(r#"{"RunError":{"error":"busy","retryable":true}}"#), Some(Reason::RunError), true),
    ];
    for (json, expected, retryable) in rows {
        let mut run = run(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        let (_, _, act) = feed(&mut run, 2, &json);
        assert_eq!(reason(&act), expected, "{json}");
        assert!(!run.may_be_running(), "{json}");
        match act {
            Act::End(End::Completed) => assert_eq!(expected, None),
            Act::End(End::Failed(failure)) => assert_eq!(failure.retryable, retryable, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
}

#[test]
fn doubt_ends_with_the_replay_or_with_a_loss() {
    for heard in [true, false] {
        let mut run = run(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        assert_eq!(tick(&mut run, 14_000, 14), Act::Continue);
        assert_eq!(tick(&mut run, 15_000, 15), Act::AskState);
        assert_eq!(tick(&mut run, 15_250, 15), Act::Continue, "once");
        assert_eq!(run.step(Input::State { active: true }).act, Act::Continue);
        assert_eq!(tick(&mut run, 30_000, 30), Act::AskState, "and again after as long");
        assert!(matches!(run.step(Input::State { active: false }).act, Act::Reconnect(_)));
        assert_eq!(run.step(Input::Reconnected).act, Act::Continue, "it was asked just now");
        assert_eq!(tick(&mut run, 1750, 32), Act::Continue);
        assert!(run.may_be_running());
        if heard {
            assert_eq!(feed(&mut run, 2, &ours(COMPLETED)).2, Act::End(End::Completed));
        } else {
            assert_eq!(reason(&tick(&mut run, 2000, 32)), Some(Reason::Lost));
        }
        assert!(!run.may_be_running());
    }
}

#[test]
fn a_reconnect_always_asks_for_the_state() {
    let mut run = run(Start::Fresh);
    assert_eq!(run.step(Input::Reconnected).act, Act::AskState);
}

#[test]
fn a_malformed_event_is_read_once_more_and_then_is_a_protocol_error() {
    let mut run = run(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert!(matches!(run.step(Input::Malformed("it is odd")).act, Act::Reconnect(_)));
    feed(&mut run, 2, &ours(&turn(1)));
    assert!(matches!(run.step(Input::Malformed("so is this")).act, Act::Reconnect(_)), "another place");
    let act = run.step(Input::Malformed("so is this")).act;
    assert_eq!(reason(&act), Some(Reason::Protocol));
}

#[test]
fn a_gap_costs_text_only_if_our_run_began_before_what_is_left() {
    let gap = |oldest| Input::Gap(Gap { oldest_available_id: oldest, newest_available_id: None });
    for (begun_before, begins_after, held) in [(false, true, false), (false, false, true), (true, false, true)] {
        let mut run = run(Start::Fresh);
        if begun_before {
            feed(&mut run, 1, &ours(STARTED));
        }
        assert!(matches!(run.step(gap(51)).act, Act::Reconnect(_)));
        assert_eq!(run.cursor, 50);
        feed(&mut run, 51, &ours(if begins_after { STARTED } else { COMPLETED }));
        assert_eq!(run.transcript.is_held(), held, "{begun_before} {begins_after}");
    }
}

#[test]
fn gaps_that_lead_nowhere_are_a_protocol_error() {
    let mut run = run(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    let act = run.step(Input::Gap(Gap { oldest_available_id: 2, newest_available_id: None })).act;
    assert_eq!(reason(&act), Some(Reason::Protocol), "it is no gap at all");
    let mut run = self::run(Start::Fresh);
    for oldest in 1..=u64::from(MAX_GAPS) {
        assert!(matches!(
            run.step(Input::Gap(Gap { oldest_available_id: oldest * 10, newest_available_id: None })).act,
            Act::Reconnect(_)
        ));
    }
    let act = run.step(Input::Gap(Gap { oldest_available_id: 1000, newest_available_id: None })).act;
    assert_eq!(reason(&act), Some(Reason::Protocol), "one gap after the other");
}

#[test]
fn lost_proposals_are_asked_for() {
    let mut run = run(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    assert_eq!(run.step(Input::State { active: true }).act, Act::Continue);
    run.step(Input::Gap(Gap { oldest_available_id: 9, newest_available_id: None }));
    assert_eq!(run.step(Input::State { active: true }).act, Act::AskPending);
}

#[test]
fn a_call_with_the_id_of_one_before_it_is_never_decided() {
    let twins = ours(r#"{"ToolCallsProposed":{"tool_calls":[{"id":"a","name":"p__a"},{"id":"a","name":"p__a"}]}}"#);
    let mut run = run(Start::Fresh);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &twins);
    assert!(matches!(tick(&mut run, 250, 0), Act::Judge(_)), "the first can be");
    feed(&mut run, 3, &ours(r#"{"ToolExecutionCompleted":{"tool_call_id":"a"}}"#));
    assert_eq!(tick(&mut run, 1750, 0), Act::Continue);
    assert_eq!(reason(&tick(&mut run, 2000, 0)), Some(Reason::Protocol));
}

#[test]
fn what_was_said_before_a_resume_is_no_news_but_counts() {
    let mut run = run(Start::Waiting);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &ours(&turn(1)));
    assert_eq!(feed(&mut run, 3, &ours(&delta("old"))), (false, String::new(), Act::Continue));
    assert_eq!(tick(&mut run, 0, 0), Act::Continue);
    assert_eq!(tick(&mut run, 250, 0), Act::CaughtUp);
    assert!(feed(&mut run, 4, &ours(&turn(2))).0);
    assert_eq!(feed(&mut run, 5, &ours(&delta("new"))), (true, "new".into(), Act::Continue));
    assert_eq!(run.transcript.all().unwrap(), "old\nnew");
}

#[test]
fn a_peek_ends_as_soon_as_nothing_can_wait() {
    let propose = ours(r#"{"ToolCallsProposed":{"tool_calls":[{"id":"a","name":"p__a","arguments":{}}]}}"#);
    let mut run = run(Start::Peek);
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &propose);
    assert_eq!(tick(&mut run, 250, 0), Act::CaughtUp);
    assert!(matches!(tick(&mut run, 250, 0), Act::Judge(_)));
    run.batch.judged("a", Verdict::Pause);
    assert_eq!(tick(&mut run, 1750, 0), Act::Continue);
    feed(&mut run, 3, &ours(r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#));
    assert_eq!(tick(&mut run, 250, 0), Act::End(End::Completed));
}

#[test]
fn a_failed_tool_call_fails_the_run_only_when_asked_to() {
    for (asked, failed, expected) in
        [(false, true, None), (true, true, Some(Reason::ToolError)), (true, false, None)]
    {
        let mut run = Run::new(Options { fail_on_tool_error: asked, ..Options::of(RUN.into(), Asks::None) });
        let call = r#"{"ToolCallsProposed":{"tool_calls":[{"id":"a","name":"p__a","arguments":{}}]}}"#;
        let done = format!(r#"{{"ToolExecutionCompleted":{{"tool_call_id":"a","is_error":{failed}}}}}"#);
        for (id, event) in
            [(1, STARTED), (2, call), (3, r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#), (4, &done)]
        {
            feed(&mut run, id, &ours(event));
        }
        let (_, _, act) = feed(&mut run, 5, &ours(COMPLETED));
        assert_eq!(reason(&act), expected, "{asked} {failed}");
    }
}

/// Every recorded stream, through parser, decoder and machine, as the driver does it.
#[test]
fn the_recorded_runs_come_out_as_they_were() {
    let rows: &[(&str, &str, Option<Reason>, &str, u64, [u64; 4])] = &[
        // stream, id's prefix, reason, last turn's text, turns, calls
        (
            include_str!("../../tests/fixtures/completed-text.sse"),
            "d30255b1",
            None,
            "All 3 replicas are ready.\n\nNothing to do. ✅ naïve 日本語",
            1,
            [0, 0, 0, 0],
        ),
        (
            include_str!("../../tests/fixtures/completed-tools-accepted.sse"),
            "42b1dcc9",
            None,
            "The file is in place.",
            2,
            [1, 1, 0, 1],
        ),
        (
            include_str!("../../tests/fixtures/completed-tool-rejected.sse"),
            "9f78e9ba",
            None,
            "I could not write the file.",
            2,
            [1, 0, 1, 0],
        ),
        (
            include_str!("../../tests/fixtures/cancelled.sse"),
            "9e412a09",
            Some(Reason::Cancelled),
            "I will write the file.",
            1,
            [1, 0, 0, 0],
        ),
        (
            include_str!("../../tests/fixtures/max-turns.sse"),
            "6b3e4333",
            Some(Reason::MaxTurns),
            "Looking.",
            1,
            [1, 1, 0, 0],
        ),
        (
            include_str!("../../tests/fixtures/run-error.sse"),
            "d8362b9f",
            Some(Reason::RunError),
            "",
            1,
            [0, 0, 0, 0],
        ),
        (
            include_str!("../../tests/fixtures/tool-error.sse"),
            "bd63832d",
            None,
            "That tool does not exist.",
            2,
            [1, 1, 0, 1],
        ),
    ];
    for (stream, prefix, expected, last, turns, calls) in rows {
        let at = stream.find(prefix).unwrap();
        let options = Options::of(stream[at..at + 36].into(), Asks::None);
        let mut run = Run::new(Options { keep: Keep::Everything, ..options });
        let mut parser = Parser::new();
        // The recording stops with the last line; the blank one that dispatches it is missing.
        let stream = format!("{stream}\n\n");
        let mut input = stream.as_bytes();
        let mut end = None;
        while let Some(frame) = parser.next(&mut input).unwrap() {
            let Ok(Item::Event(envelope)) = decode(&frame) else { panic!("{frame:?}") };
            let id = frame.id.map(|id| id.parse().unwrap());
            if let act @ Act::End(_) = run.step(Input::Event(id, &envelope)).act {
                end = Some(reason(&act));
            }
        }
        assert_eq!(end, Some(*expected), "{prefix}");
        assert_eq!(run.transcript.last_turn(), Some(*last), "{prefix}");
        assert_eq!(run.turns, *turns, "{prefix}");
        let counts = run.tool_calls;
        assert_eq!([counts.proposed, counts.accepted, counts.rejected, counts.failed], *calls, "{prefix}");
    }
}

/// (server asks, the calls' states, quiet in ms) → what the batch wants: the table in batch.rs, row by row.
#[test]
fn the_batchs_table() {
    let call = |id: &str| ToolCall { id: id.into(), name: format!("p__{id}"), arguments: Arguments::default() };
    let [a, b, c] = [call("a"), call("b"), call("c")];
    let accept = |calls: &[&ToolCall], again| Act::Send {
        decisions: calls.iter().map(|call| ((*call).clone(), Verdict::Accept)).collect(),
        again,
    };
    let pause = |calls: &[&ToolCall]| Act::End(End::Paused(calls.iter().copied().cloned().collect()));
    // Marks: j accept, p pause (judged), d decided, r decided and reconnected, s started, f finished, - nothing.
    let rows: Vec<(Asks, &str, u64, Act)> = vec![
        (Asks::None, "---", 60_000, Act::Continue),
        (Asks::None, "f--", 60_000, Act::Continue),
        (Asks::Unknown, "---", 0, Act::Learn),
        (Asks::Unknown, "s--", 60_000, Act::Continue),
        (Asks::Every, "---", 0, Act::Judge(a.clone())),
        (Asks::Every, "j--", 0, Act::Judge(b.clone())),
        (Asks::Every, "jj-", 0, Act::Judge(c.clone())),
        (Asks::Every, "jjj", 0, accept(&[&a, &b, &c], false)),
        (Asks::Every, "jp-", 0, accept(&[&a], false)),
        (Asks::Every, "dp-", 2000, Act::Continue),
        (Asks::Every, "sp-", 2000, Act::Continue),
        (Asks::Every, "fp-", 0, pause(&[&b, &c])),
        (Asks::Every, "p--", 0, pause(&[&a, &b, &c])),
        (Asks::Every, "ddd", 2750, Act::Continue),
        (Asks::Every, "ddd", 3000, Act::Reconnect("a decision shows no effect")),
        (Asks::Every, "rdd", 9_750, Act::Continue),
        (Asks::Every, "rdd", 10_000, accept(&[&a], true)),
        (Asks::Some, "---", 0, Act::Continue),
        (Asks::Some, "---", 250, Act::Judge(a.clone())),
        (Asks::Some, "j--", 0, Act::Continue),
        (Asks::Some, "j--", 250, accept(&[&a], false)),
        (Asks::Some, "jj-", 250, accept(&[&a], false)),
        (Asks::Some, "p--", 1750, Act::Continue),
        (Asks::Some, "p--", 2000, pause(&[&a, &b, &c])),
        (Asks::Some, "pd-", 2000, pause(&[&a, &c])),
        (Asks::Some, "s--", 60_000, Act::Continue),
        (Asks::Some, "fs-", 60_000, Act::Continue),
        (Asks::Some, "ff-", 250, Act::Judge(c.clone())),
        (Asks::Some, "fff", 60_000, Act::Continue),
        (Asks::Some, "d--", 250, Act::Continue),
        (Asks::Some, "d--", 3000, Act::Reconnect("a decision shows no effect")),
        (Asks::Some, "r--", 0, Act::Continue),
        (Asks::Some, "r--", 250, accept(&[&a], true)),
        (Asks::Some, "rs-", 250, accept(&[&a], true)),
    ];
    for (asks, marks, quiet, expected) in rows {
        let mut run = Run::new(Options::of(RUN.into(), Asks::None));
        run.batch.propose(vec![a.clone(), b.clone(), c.clone()]);
        for (mark, call) in marks.chars().zip([&a, &b, &c]) {
            let decided = [(call.clone(), Verdict::Accept)];
            match mark {
                'j' => run.batch.judged(&call.id, Verdict::Accept),
                'p' => run.batch.judged(&call.id, Verdict::Pause),
                'd' | 'r' => run.batch.sent(&decided),
                's' => run.batch.started(&call.id),
                'f' => run.batch.finished(&call.id),
                _ => {}
            }
            if mark == 'r' {
                run.batch.asks = asks;
                assert_eq!(run.batch.next(Duration::from_secs(3)), Next::Reconnect);
            }
        }
        run.batch.asks = asks;
        assert_eq!(tick(&mut run, quiet, 0), expected, "{asks:?} {marks} {quiet}");
    }
}

mod model;

#[test]
fn the_past_is_peeked_at_until_it_is_told() {
    for (start, peeks) in
        [(Start::Peek, true), (Start::Waiting, false), (Start::Fresh, false), (Start::Over, false)]
    {
        let mut run = run(start);
        assert_eq!(run.is_peeking(), peeks, "{start:?}");
        tick(&mut run, 250, 0);
        assert!(!run.is_peeking(), "{start:?}: it has been quiet");
    }
}

#[test]
fn the_record_has_what_was_learnt() {
    let mut run = run(Start::Fresh);
    let mut record = Record::new(End::Completed);
    self::run(Start::Fresh).fill(&mut record);
    assert_eq!(
        (record.run_id.as_deref(), record.last_event_id, record.text),
        (Some(RUN), None, None),
        "nothing yet"
    );
    feed(&mut run, 1, &ours(STARTED));
    feed(&mut run, 2, &ours(&turn(1)));
    feed(&mut run, 3, &ours(&delta("Hi")));
    feed(&mut run, 4, &ours(COMPLETED));
    let mut record = Record::new(End::Completed);
    run.fill(&mut record);
    assert_eq!((record.last_event_id, record.turns), (Some(4), 2));
    assert_eq!((record.text.as_deref(), record.agent_message.as_deref()), (Some("Hi"), Some("Hi")));
    assert_eq!(record.stop_reason.as_deref(), Some("completed"));
}

#[test]
fn what_shows_that_a_call_does_not_wait_keeps_it_from_being_decided() {
    let proposal = ours(r#"{"ToolCallsProposed":{"tool_calls":[{"id":"a","name":"p__t"}]}}"#);
    let tool = r#"{"tool_call_id":"a","tool_name":"p__t"}"#;
    for (event, waits) in [
        (r#"{"WaitingForToolApproval":{"pending_tool_call_ids":["a"]}}"#.to_owned(), true),
        (r#"{"TurnCompleted":{"turn":1,"finish_reason":"cancelled"}}"#.to_owned(), false),
        (turn(2), false),
        (format!(r#"{{"ToolExecutionStarted":{tool}}}"#), false),
        // Its start may have left the server's ring.
        (format!(r#"{{"ToolExecutionProgress":{tool}}}"#), false),
        (format!(r#"{{"ToolExecutionCompleted":{tool}}}"#), false),
        (format!(r#"{{"ToolRejected":{tool}}}"#), false),
    ] {
        let mut run = run(Start::Fresh);
        feed(&mut run, 1, &ours(STARTED));
        feed(&mut run, 2, &ours(&turn(1)));
        feed(&mut run, 3, &proposal);
        feed(&mut run, 4, &ours(&event));
        assert_eq!(matches!(tick(&mut run, 250, 0), Act::Judge(_)), waits, "{event}");
    }
}

#[test]
fn usage_and_calls_are_counted_as_they_are_reported() {
    let mut run = Run::new(Options { fail_on_tool_error: true, ..Options::of(RUN.into(), Asks::Some) });
    let usage = r#"{"UsageReport":{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}}"#;
    let proposal = r#"{"ToolCallsProposed":{"tool_calls":[{"id":"a","name":"t"},{"id":"b","name":"t"},{"id":"c","name":"t"}]}}"#;
    let started = r#"{"ToolExecutionStarted":{"tool_call_id":"a"}}"#;
    let failed = r#"{"ToolExecutionCompleted":{"tool_call_id":"a","result":"no","is_error":true}}"#;
    // Without having begun: it was answered in its place (trap 9).
    let answered = |id: &str| format!(r#"{{"ToolExecutionCompleted":{{"tool_call_id":"{id}","result":"no"}}}}"#);
    let events = [STARTED, usage, proposal, started, failed, &answered("b"), &answered("c"), usage];
    for (event, id) in events.into_iter().zip(1..) {
        feed(&mut run, id, &ours(event));
    }
    assert_eq!(run.usage, Some(Usage { prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 }));
    assert_eq!(run.tool_calls, ToolCounts { proposed: 3, accepted: 1, rejected: 2, failed: 1 });
    let Act::End(End::Failed(failure)) = feed(&mut run, 9, &ours(COMPLETED)).2 else {
        panic!("a tool call failed")
    };
    assert!(failure.message.contains("1 tool call failed"), "{failure}");
}

//! The machine: whatever comes in whatever order, it does not panic, its cursor never goes back, it shows each id once,
//! and it never wants a call decided that has begun.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use sortie::run::policy::Verdict;
use sortie::run::batch::Asks;
use sortie::agent::events::{self, Gap, Item};
use sortie::outcome::{End, Record};
use sortie::run::{Act, Input, Options, Run, Start};
use sortie::agent::sse::Parser;
use sortie::run::transcript::Keep;
use std::collections::HashSet;
use std::time::Duration;

const RUN: &str = "11111111-1111-4111-8111-111111111111";

#[derive(Arbitrary, Debug)]
enum Told {
    Event { id: Option<u8>, ours: bool, kind: u8, call: u8, turn: u8 },
    Gap(u8),
    Malformed,
    Reconnected,
    State(bool),
    Tick { quiet: u16, idle: u8 },
}

fn event(kind: u8, call: u8, turn: u8) -> String {
    let tool = format!(r#"{{"tool_call_id":"c{call}","is_error":{}}}"#, turn % 2 == 0);
    match kind % 12 {
        0 => r#"{"RunStarted":{}}"#.into(),
        1 => format!(r#"{{"TurnStarted":{{"turn":{turn}}}}}"#),
        2 => format!(r#"{{"TurnCompleted":{{"turn":{turn}}}}}"#),
        3 => format!(r#"{{"TextDelta":{{"delta":"d{call}"}}}}"#),
        4 => format!(r#"{{"TextComplete":{{"text":"d{call}d{turn}"}}}}"#),
        5 => format!(
            r#"{{"ToolCallsProposed":{{"tool_calls":[{{"id":"c{call}","name":"p__a"}},{{"id":"c{turn}","name":"p__b"}}]}}}}"#
        ),
        6 => format!(r#"{{"ToolExecutionStarted":{tool}}}"#),
        7 => format!(r#"{{"ToolExecutionCompleted":{tool}}}"#),
        8 => format!(r#"{{"ToolRejected":{tool}}}"#),
        9 => r#"{"RunCompleted":{"stop_reason":"completed"}}"#.into(),
        10 => r#"{"RunError":{"error":"e"}}"#.into(),
        _ => r#"{"New":1}"#.into(),
    }
}

/// Bytes that begin as a stream does are one; others are inputs for the machine.
fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"id:") || data.starts_with(b"event:") {
        follow(data);
    } else if let Ok((start, told)) = Unstructured::new(data).arbitrary() {
        steer(start, told);
    }
});

/// A stream, as it comes from the server.
fn follow(mut stream: &[u8]) {
    let mut parser = Parser::new();
    let mut run: Option<Run> = None;
    while let Ok(Some(frame)) = parser.next(&mut stream) {
        let id = frame.id.and_then(|id| id.parse().ok());
        let before = run.as_ref().map_or(0, |run| run.cursor);
        let act = match event::decode(&frame) {
            Ok(Item::Event(envelope)) => {
                let ours = envelope.run_id.as_deref().unwrap_or_default();
                let new = || Run::new(Options { keep: Keep::Everything, ..Options::of(ours.into(), Asks::Some) });
                run.get_or_insert_with(new).step(Input::Event(id, &envelope)).act
            }
            Ok(Item::Gap(gap)) => run.as_mut().map_or(Act::Continue, |run| run.step(Input::Gap(gap)).act),
            Err(malformed) => {
                run.as_mut().map_or(Act::Continue, |run| run.step(Input::Malformed(&malformed.0)).act)
            }
        };
        assert!(run.as_ref().map_or(0, |run| run.cursor) >= before, "the cursor never goes back");
        if let Act::End(_) = act {
            break;
        }
    }
    if let Some(mut run) = run {
        run.transcript.heal(Vec::new());
        run.fill(&mut Record::new(End::Completed));
    }
}

fn steer(start: u8, told: Vec<Told>) {
    let start_of = [Start::Fresh, Start::Waiting, Start::Peek, Start::Over][usize::from(start % 4)];
    let asks = [Asks::Every, Asks::Some, Asks::None, Asks::Unknown][usize::from(start / 4 % 4)];
    let mut run = Run::new(Options { start: start_of, ..Options::of(RUN.into(), asks) });
    let mut shown = HashSet::new();
    let mut begun: HashSet<String> = HashSet::new();
    for input in told {
        let before = run.cursor;
        let run_id = if matches!(input, Told::Event { ours: true, .. }) { RUN } else { "other" };
        let json = match &input {
            Told::Event { kind, call, turn, .. } => {
                format!(r#"{{"run_id":"{run_id}","event":{}}}"#, event(*kind, *call % 4, *turn % 4))
            }
            _ => r#"{"event":{}}"#.into(),
        };
        let envelope = serde_json::from_str(&json).expect("it is of the protocol");
        let mut act = match input {
            Told::Event { id, ours, kind, call, .. } => {
                let id = id.map(u64::from);
                let step = run.step(Input::Event(id, &envelope));
                if step.fresh {
                    assert!(ours && id.is_none_or(|id| shown.insert(id)), "an id is shown once");
                    match kind % 12 {
                        1 | 2 | 5 => begun.clear(),
                        6..=8 => {
                            begun.insert(format!("c{}", call % 4));
                        }
                        _ => {}
                    }
                }
                step.act
            }
            Told::Gap(oldest) => run.step(Input::Gap(Gap { oldest_available_id: oldest.into(), newest_available_id: None })).act,
            Told::Malformed => run.step(Input::Malformed("odd")).act,
            Told::Reconnected => run.step(Input::Reconnected).act,
            Told::State(active) => run.step(Input::State { active }).act,
            Told::Tick { quiet, idle } => {
                let (quiet, idle) = (Duration::from_millis(quiet.into()), Duration::from_secs(idle.into()));
                run.step(Input::Tick { quiet, idle }).act
            }
        };
        assert!(run.cursor >= before, "the cursor never goes back");
        // As the driver does, with a policy that accepts.
        for _ in 0..8 {
            act = match act {
                Act::End(end) => {
                    assert!(end != End::Completed || !run.may_be_running() || start_of == Start::Peek);
                    return;
                }
                Act::Judge(call) => {
                    run.batch.judged(&call.id, Verdict::Accept);
                    run.step(Input::Tick { quiet: Duration::from_millis(250), idle: Duration::ZERO }).act
                }
                Act::Send { decisions, .. } => {
                    for (call, _) in decisions.iter().filter(|_| start_of == Start::Fresh) {
                        assert!(!begun.contains(&call.id), "{} has begun", call.id);
                    }
                    run.batch.sent(&decisions);
                    Act::Continue
                }
                _ => break,
            };
        }
    }
}

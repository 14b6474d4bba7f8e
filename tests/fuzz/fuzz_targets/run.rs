//! The machine: whatever comes in whatever order, it does not panic, a run completes only by its own word, and no call
//! is decided that has begun.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use sortie::agent::events::decode;
use sortie::agent::sse::Parser;
use sortie::outcome::{COMPLETED, End, KnownEnd};
use sortie::run::batch::AskedCalls;
use sortie::run::policy::{OnApproval, Policy};
use sortie::run::transcript::Keep;
use sortie::run::{Effect, History, Input, Machine, Options, Silence, Start, State};
use std::collections::HashSet;
use std::time::Duration;

const RUN: &str = "11111111-1111-4111-8111-111111111111";

#[derive(Arbitrary, Debug)]
enum Told {
    Event { ours: bool, kind: u8, call: u8, turn: u8 },
    Lost(Option<u8>),
    Reconnected,
    State(u8),
    Health,
    Quiet { quiet: u16, idle: u8, heard: bool },
    Messages(bool),
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

fn options(run_id: &str, start: Start, asked: AskedCalls) -> Options {
    Options {
        run_id: run_id.into(),
        asked,
        keep: Keep::Everything,
        start,
        policy: Policy { on_approval: OnApproval::Accept, ..Policy::default() },
        choices: None,
        fail_on_tool_error: false,
        is_first: true,
        sandbox: false,
        max_tokens: None,
        max_tool_calls: None,
    }
}

// Bytes that begin as a stream does are one; others are inputs for the machine.
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
    let mut run: Option<Machine> = None;
    while let Ok(true) = parser.advance(&mut stream) {
        let frame = parser.frame();
        let id = frame.id.and_then(|id| id.parse().ok());
        let Ok(envelope) = decode(&frame) else { continue };
        let ours = envelope.run_id.as_deref().unwrap_or_default();
        let machine = run.get_or_insert_with(|| Machine::new(options(ours, Start::Fresh, AskedCalls::SomeCalls)));
        if let Effect::End(_) = machine.step(Input::Event(id, &envelope)).effect {
            break;
        }
    }
    if let Some(mut run) = run {
        run.step(Input::Messages(History::default()));
        run.summary();
    }
}

fn steer(start: u8, told: Vec<Told>) {
    let start_of = [Start::Fresh, Start::FromNow, Start::Peek][usize::from(start % 3)];
    let asked = [AskedCalls::EveryCall, AskedCalls::SomeCalls, AskedCalls::NoCall, AskedCalls::Unknown][usize::from(start / 4 % 4)];
    let mut run = Machine::new(options(RUN, start_of, asked));
    let mut begun: HashSet<String> = HashSet::new();
    for (input, id) in told.into_iter().zip(1..) {
        let json = match &input {
            Told::Event { ours, kind, call, turn } => {
                let run_id = if *ours { RUN } else { "other" };
                match kind % 12 {
                    1 | 2 | 5 => begun.clear(),
                    6..=8 if *ours => {
                        begun.insert(format!("c{}", call % 4));
                    }
                    _ => {}
                }
                format!(r#"{{"run_id":"{run_id}","event":{}}}"#, event(*kind, *call % 4, *turn % 4))
            }
            _ => r#"{"event":{}}"#.into(),
        };
        let envelope = serde_json::from_str(&json).expect("it is of the protocol");
        let mut effect = match input {
            Told::Event { .. } => run.step(Input::Event(Some(id), &envelope)),
            Told::Lost(newest) => run.step(Input::Lost { newest: newest.map(u64::from) }),
            Told::Reconnected => run.step(Input::Reconnected),
            Told::State(state) => run.step(Input::State(match state % 4 {
                0 => State::Active { run_id: RUN.into() },
                1 => State::Idle,
                2 => State::Failed,
                _ => State::NoSession,
            })),
            Told::Health => run.step(Input::Health(None)),
            Told::Quiet { quiet, idle, heard } => {
                let (quiet, idle) = (Duration::from_millis(quiet.into()), Duration::from_secs(idle.into()));
                let silence = Silence { quiet, idle, heard, held_back: false };
                run.step(Input::Quiet { silence, now: Duration::from_secs(id) })
            }
            Told::Messages(known) => run.step(Input::Messages(History { known, ..History::default() })),
        }
        .effect;
        // As the driver does.
        for _ in 0..8 {
            effect = match effect {
                Effect::End(end) => {
                    let completed = matches!(run.known_end(), KnownEnd::Completed(word) if word == COMPLETED);
                    assert!(end != End::Completed || completed || start_of == Start::Peek);
                    return;
                }
                Effect::Send { decisions, .. } => {
                    for (call, _) in decisions.iter().filter(|_| start_of == Start::Fresh) {
                        assert!(!begun.contains(&call.id), "{} has begun", call.id);
                    }
                    run.step(Input::Sent(&decisions)).effect
                }
                Effect::AskConfig => run.step(Input::AskedCalls(AskedCalls::SomeCalls)).effect,
                _ => break,
            };
        }
    }
}

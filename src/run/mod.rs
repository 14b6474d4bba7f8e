//! The run's state machine. [`Machine::step`] takes an input and returns what to show and what to do next. The
//! machine does no I/O and has no clock: [`Input::Quiet`] tells it how much time has passed.
//!
//! | phase | input | → phase | effect |
//! |---|---|---|---|
//! | any | an event of another run | same | – |
//! | any | a turn's final text differs from its deltas | same | print a notice |
//! | any | `RunCompleted` or `RunError` of our run | same | end |
//! | any | the fifth compaction of one turn in a row (trap 15) | same | end: `run_error` |
//! | any | events were lost | same | if our run had begun, show no more text for now |
//! | catching up | quiet for 250 ms, or 5 s have passed | following | check the choices, then see to the batch |
//! | following | quiet | same | see to the batch; else ask for the session's state when it is time |
//! | following | quiet, over a budget | same | end: `max_tokens` or `max_tool_calls` |
//! | following | decisions were refused: the run is not active | same | ask for the session's state; decide nothing for 2 s |
//! | any | reconnected | same | ask for the session's state, unless it was the reason to reconnect |
//! | any | state: our run is active | following, once the past has been read | – (if the proposal was lost: ask for the pending calls) |
//! | any | state: one that does not say whether a run is active | same | – |
//! | any | state: idle, or another run | stopped | reconnect: all events of our run are published by now (trap 8) |
//! | any | state: failed | failed | reconnect, for the events before the failure |
//! | any | state: no such session | unknown session | – |
//! | any | state: the token is refused | refused | ask for the server's health |
//! | any | after a cancel, state: idle, failed, or another run | same | – (the run is known to have ended) |
//! | stopped | the replay is complete or held back | confirming | ask for the session's state again: the newest answer counts |
//! | confirming | state: idle, or another run | same | ask for the server's health |
//! | confirming | health: the server is younger than the run | – | end: `lost`, restarted (trap 12) |
//! | confirming | health: any other answer | – | end: `lost` (trap 7) |
//! | failed | no event for 2 s | – | end: `run_error` (trap 21) |
//! | unknown session | quiet, for less than 5 s | same | ask for the session's state again |
//! | unknown session | quiet, for 5 s | – | end: `lost`, another server |
//! | unknown session | an event of our run | following | as while following |
//! | refused | health: the server is younger than the run | – | end: `lost`, restarted (trap 18) |
//! | refused | health: any other answer | – | end: `auth` |
//!
//! A replay is complete when at least one byte has come and 2 s of quiet after it. If a gap named the newest event, the
//! replay is complete with that event.
//!
//! One match in [`machine`] says what each event does. It changes the text in [`transcript`], the tool calls in
//! [`batch`] and the counts in [`tally`]. [`policy`] and [`choices`] decide the calls. [`unconfirmed`] has the phases
//! after the first two.

pub mod batch;
pub mod choices;
pub mod policy;
pub mod transcript;

mod machine;
mod tally;
mod unconfirmed;

pub use machine::Machine;
pub use unconfirmed::is_replayed;

use crate::agent::events::{Envelope, ToolCall};
use crate::outcome::{End, Failure};
use batch::AskedCalls;
use choices::Choices;
use policy::{Policy, Ruling, Verdict};
use std::time::Duration;
use transcript::{FilledIn, Keep};

/// The message about a session whose state is `failed` (protocol trap 21).
pub const STATE_FAILED: &str = "the server says that the run failed, and not why; its log may tell";

/// How quiet the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// How long reads have blocked since the last byte of an event, the last call and the last reconnect. Comments do
    /// not count. Time with unread bytes does not count either, unlike with a clock.
    pub quiet: Duration,
    /// Any byte has come since the stream was opened. Comments count.
    pub heard: bool,
    /// No byte has come for 20 s after the request: something between us and the server buffers the stream.
    pub held_back: bool,
    /// The time since the last event, by the clock.
    pub idle: Duration,
}

/// An input of the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// An event of the session and its ID. Each event comes once and in order.
    Event(Option<u64>, &'a Envelope<'a>),
    /// The server no longer has the events before the next one. `newest` is the newest event ID that it named.
    Lost {
        newest: Option<u64>,
    },
    Reconnected,
    /// A read of the stream found nothing, or 250 ms have passed while events keep coming. `now` is the time since the
    /// command began to follow the run.
    Quiet {
        silence: Silence,
        now: Duration,
    },
    /// The answer to [`Effect::AskState`].
    State(State),
    /// The session's state after the server was asked to cancel the run.
    StateAfterCancel(State),
    /// The answer to [`Effect::AskHealth`]; `None` if the server did not answer.
    Health(Option<Uptime>),
    /// The answer to [`Effect::AskConfig`].
    AskedCalls(AskedCalls),
    /// The answer to [`Effect::AskProgram`]. The stream was not read while the program ran.
    Judged {
        call_id: &'a str,
        verdict: Verdict,
    },
    /// The server took these decisions of [`Effect::Send`].
    Sent(&'a [(ToolCall, Ruling)]),
    /// The server refused the decisions of [`Effect::Send`]: the run has ended, or the session runs another one.
    Refused,
    /// The answer to [`Effect::AskPending`]: the pending calls of our run, and the IDs of the calls that have a
    /// result in the session's messages.
    Pending {
        calls: Vec<ToolCall>,
        finished: Vec<String>,
    },
    /// The answer to [`Effect::AskMessages`]. The last look at the end of the command gives it too.
    Messages(History),
}

/// The server's answer about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A run is starting or running.
    Active { run_id: String },
    /// No run is active.
    Idle,
    /// A state that does not say whether a run is active: it proves nothing.
    Unclear,
    /// The last run failed. The server does not say which run that was (protocol trap 21).
    Failed,
    /// The server does not know the session.
    NoSession,
    /// The server refuses the token.
    Refused(Failure),
}

/// The ages of the server process and of our run.
#[derive(Clone, Copy, Debug)]
pub struct Uptime {
    pub server: Duration,
    /// The time since the prompt was sent or the server first said that the run is active; `None` if neither is known.
    pub run: Option<Duration>,
}

/// What the session's messages tell about its last run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The texts of the turns that have any.
    pub texts: Vec<String>,
    /// The messages end with an answer to the prompt that calls no tool.
    pub answered: bool,
    /// The run called tools.
    pub called_tools: bool,
    /// The messages end with a tool call without a result.
    pub ends_with_open_call: bool,
    /// The messages could be read.
    pub known: bool,
}

/// What the caller must do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the stream.
    Continue,
    /// Ask `/v1/config`, and answer with [`Input::AskedCalls`].
    AskConfig,
    /// Ask the policy program about this call, and answer with [`Input::Judged`].
    AskProgram(ToolCall),
    /// Send these decisions, and answer with [`Input::Sent`] or [`Input::Refused`]. With `again`, the server has
    /// dropped them once.
    Send { decisions: Vec<(ToolCall, Ruling)>, again: bool },
    /// Reject this call, which has started, so that no decision stays on the server for a later call with its ID
    /// (protocol trap 3).
    TakeBack(String),
    /// Reconnect from the cursor, for this reason.
    Reconnect(&'static str),
    /// Reconnect from before the last event, for this reason, so that the server sends this event again.
    Replay(&'static str),
    /// Ask for the session's state, and answer with [`Input::State`].
    AskState,
    /// Ask for the server's health, and answer with [`Input::Health`].
    AskHealth,
    /// Ask for the pending calls and the messages, and answer with [`Input::Pending`].
    AskPending,
    /// Ask for the session's messages, and answer with [`Input::Messages`].
    AskMessages,
    /// Stop following the run.
    End(End),
}

/// The machine's answer to an input.
#[derive(Debug, PartialEq)]
pub struct Step<'a> {
    /// Whether to show the event: it belongs to our run and is not part of the past.
    pub fresh: bool,
    /// The agent's text to show now.
    pub text: &'a str,
    /// The agent's text that was held back while events were missing, to show now.
    pub filled_in: Option<FilledIn>,
    /// A line for stderr.
    pub notice: Option<String>,
    pub effect: Effect,
}

impl From<Effect> for Step<'_> {
    fn from(effect: Effect) -> Self {
        Self { fresh: false, text: "", filled_in: None, notice: None, effect }
    }
}

/// How much of the run to show, and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Show the run from its first event to its end (`run`, `attach`).
    Fresh,
    /// Show the run from now to its end (`resume`).
    FromNow,
    /// Show nothing, and stop once it is clear whether the run waits for approval (`pending`).
    Peek,
}

/// The settings of one machine.
#[derive(Clone, Debug)]
pub struct Options {
    pub run_id: String,
    pub asked: AskedCalls,
    pub keep: Keep,
    pub start: Start,
    /// Whether the session is new: no other run came before this one.
    pub is_first: bool,
    pub policy: Policy,
    /// The decisions of `resume` about the calls that are pending now.
    pub choices: Option<Choices>,
    /// Whether a completed run counts as failed if one of its tool calls failed.
    pub fail_on_tool_error: bool,
    /// Whether the run was asked to use the server's sandbox.
    pub sandbox: bool,
    /// The most tokens that the run may use.
    pub max_tokens: Option<u64>,
    /// The most tool calls that the run may propose.
    pub max_tool_calls: Option<u64>,
}

#[cfg(test)]
mod tests;

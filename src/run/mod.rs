//! The run's state machine: facts enter by [`Machine::step`], and its answer says what to show and what to do. Pure: no
//! I/O and no clock. The driver tells it how long the stream has been quiet.
//!
//! | phase | input | → phase | effect |
//! |---|---|---|---|
//! | any | event of another run | same | – |
//! | any | our turn's whole text, which is not what was streamed | same | say so |
//! | any | our `RunCompleted`, `RunError` | same | end |
//! | any | the fifth compaction of a turn in a row (trap 15) | same | end: `run_error` |
//! | any | events were lost | same | hold the text if our run had begun |
//! | catching up | quiet for 250 ms, or 5 s of events | following | all of the past is known: check the choices, then the batch |
//! | following | quiet | same | what the batch needs; else ask for the session's state when it is time |
//! | following | quiet, over a budget | same | end: `max_tokens`, `max_tool_calls` |
//! | any | reconnected | same | ask for the session's state, unless it was asked just now |
//! | any | state: our run is active | following | –, or ask for the pending calls whose proposal was lost |
//! | any | state: nothing, or another run | stopped | reconnect: its last events were published before (trap 8) |
//! | any | state: failed | failed | reconnect, for what it said before |
//! | any | state: no such session | unknown session | – |
//! | any | state: the token is refused | refused | ask for the health |
//! | stopped | the replay is over, or is held back | same | ask for the health |
//! | stopped | health: up for less than the run's age | – | end: `lost`, restarted (trap 12) |
//! | stopped | health: anything else | – | end: `lost` (trap 7) |
//! | failed | no event for 2 s | – | end: `run_error` (trap 21) |
//! | unknown session | quiet, for less than 5 s | same | ask for the session's state again |
//! | unknown session | quiet, for 5 s | – | end: `lost`, another server |
//! | refused | health: up for less than the run's age | – | end: `lost`, restarted (trap 18) |
//! | refused | health: anything else | – | end: `auth` |
//!
//! A replay is over when it has brought at least one byte and then been quiet for 2 s, or with the newest event that a
//! gap named.

pub mod batch;
pub mod choices;
pub mod policy;
pub mod transcript;

mod doubt;
mod machine;
mod tally;

pub use machine::Machine;

use crate::agent::events::{Envelope, ToolCall};
use crate::outcome::{End, Failure};
use batch::Asks;
use choices::Choices;
use policy::{Policy, Ruling, Verdict};
use std::time::Duration;
use transcript::{Healed, Keep};

/// The line about a session whose state is `failed` (protocol trap 21).
pub const STATE_FAILED: &str = "the server says that the run failed, and not why; its log may tell";

/// What happens to the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// An event of the session, each once and in order, and its ID if it had one.
    Event(Option<u64>, &'a Envelope<'a>),
    /// Events before the next one are lost for good. `newest` is the last event ID that the server named.
    Lost { newest: Option<u64> },
    /// The stream was opened anew.
    Reconnected,
    /// A read of the stream found nothing.
    Quiet(Quiet),
    /// What the server says that the session runs.
    State(State),
    /// The server's health; `None` if nobody answered.
    Health(Option<Uptime>),
    /// About which calls the server asks.
    Asks(Asks),
    /// The program's answer to [`Effect::AskProgram`]. The stream was not read meanwhile.
    Judged { call_id: &'a str, verdict: Verdict },
    /// The decisions of [`Effect::Send`] have reached the server.
    Sent,
    /// The server refused them: the run is over, or another one goes on.
    Refused,
    /// The answer to [`Effect::AskPending`]: the pending calls of our run, and the IDs of calls that the messages know to
    /// be finished.
    Pending { calls: Vec<ToolCall>, finished: Vec<String> },
    /// The answer to [`Effect::AskMessages`], and what the end of the command found in the session's messages.
    Messages(History),
}

/// How quiet the stream is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// How long reads have blocked since the last byte of an event, request or reconnect.
    pub quiet: Duration,
    /// How long since the last event, by the clock.
    pub idle: Duration,
    /// Whether a byte, also one of a comment, has come since the stream was opened.
    pub heard: bool,
    /// Whether something between us and the server holds the stream back.
    pub held_back: bool,
    /// The time since the command began to follow the run.
    pub now: Duration,
}

/// What the server says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A run is starting or running.
    Active { run_id: String },
    /// Nothing runs, or the state is a word that we do not know.
    Idle,
    /// The last run failed; the server does not name it (protocol trap 21).
    Failed,
    /// The server does not know the session.
    NoSession,
    /// The server refuses the token: why.
    Refused(Failure),
}

/// For how long the server has been up, and our run, as far as we know.
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
    /// The messages could be had.
    pub known: bool,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read on.
    Continue,
    /// Ask `/v1/config` for [`Input::Asks`].
    AskConfig,
    /// Ask the policy program about this call, for [`Input::Judged`].
    AskProgram(ToolCall),
    /// Send these decisions, for [`Input::Sent`] or [`Input::Refused`]; `again` if the server dropped them before.
    Send { decisions: Vec<(ToolCall, Ruling)>, again: bool },
    /// Reject this call, which has started, so that no decision stays on the server for a later call with its ID
    /// (protocol trap 3).
    TakeBack(String),
    /// Open the stream anew from the cursor, for this reason.
    Reconnect(&'static str),
    /// The same from before the last event, so that it comes again.
    Replay(&'static str),
    /// Ask for the session's state, for [`Input::State`].
    AskState,
    /// Ask for the server's health, for [`Input::Health`].
    AskHealth,
    /// Ask for the pending calls and the messages, for [`Input::Pending`].
    AskPending,
    /// Ask for the session's messages, for [`Input::Messages`].
    AskMessages,
    /// The end.
    End(End),
}

/// The machine's answer to an input.
#[derive(Debug, PartialEq)]
pub struct Step<'a> {
    /// The event is our run's, and news.
    pub fresh: bool,
    /// Text that goes out now.
    pub text: &'a str,
    /// Text that was held back while events were missing, and goes out now.
    pub healed: Option<Healed>,
    /// A line for people.
    pub notice: Option<String>,
    /// What to do next.
    pub effect: Effect,
}

impl From<Effect> for Step<'_> {
    fn from(effect: Effect) -> Self {
        Self { fresh: false, text: "", healed: None, notice: None, effect }
    }
}

/// What is known of the run when we come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All of it is news.
    Fresh,
    /// It goes on; what was said before now is no news.
    Waiting,
    /// The same, and only whether it waits matters: if it does not, that is an end. Nothing is news.
    Peek,
}

/// What the machine is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run to follow.
    pub run_id: String,
    /// About which calls the server asks.
    pub asks: Asks,
    /// How much text is kept.
    pub keep: Keep,
    /// What is known of the run when we come to it.
    pub start: Start,
    /// The stated policy.
    pub policy: Policy,
    /// What was said about the calls that are pending now.
    pub choices: Option<Choices>,
    /// A completed run with a failed tool call has failed.
    pub fail_on_tool_error: bool,
    /// The run was to use the server's sandbox.
    pub sandbox: bool,
    /// More tokens than this end the run.
    pub max_tokens: Option<u64>,
    /// More proposed tool calls than this end the run.
    pub max_tool_calls: Option<u64>,
}

#[cfg(test)]
mod tests;

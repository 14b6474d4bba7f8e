//! The run's state machine: (state, input) → (state, what to show, what to do). Pure: no I/O and no clock; the driver
//! says how long the stream has been quiet.
//!
//! | phase | input | → phase | act |
//! |---|---|---|---|
//! | any | event at or before the cursor | same | – (a repetition) |
//! | any | event past the next id, first time | same | reconnect (a hole: trap 11) |
//! | any | the same once more | same | accept the hole; hold the text if our run had begun |
//! | any | event of another run | same | – |
//! | any | our turn's whole text, which its pieces were not of | same | say so |
//! | any | our `RunCompleted`, `RunError` | – | end |
//! | any | malformed event, first time / again | same / – | reconnect / end: protocol |
//! | any | gap | same | reconnect at what is left; hold the text if our run had begun |
//! | catching up | quiet 250 ms | following | say so: all that was said before is known |
//! | following | tick | same | what the batch needs, or ask for the session's state after 15 s without an event |
//! | following | reconnected | same | ask for the session's state |
//! | following | state: our run is active | same | –, or ask for the calls whose proposal was lost |
//! | following | state: it is not | doubted | reconnect: its last events were published before (trap 8) |
//! | doubted | quiet 2 s | – | end: lost (traps 7, 12) |

pub mod batch;
pub mod policy;
pub mod transcript;

use crate::agent::events::{Completion, Envelope, Event, Gap, RunFailure, ToolCall};
use crate::outcome::{End, Failure, Reason, Record, ToolCounts, Usage};
use crate::run::batch::{Asks, Batch, Next, SETTLED};
use crate::run::policy::Verdict;
use crate::run::transcript::{Keep, MAX_TEXT, Transcript};
use std::time::Duration;

/// Without an event for so long, the session is asked whether it still runs our run.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// A replay that brought no end is believed to be over after so much quiet.
const REPLAYED: Duration = Duration::from_secs(2);
/// An id further ahead than this is nonsense, not a hole.
const ABSURD: u64 = 1 << 32;
/// So many gaps without an event between them are nonsense too.
const MAX_GAPS: u32 = 8;

/// A stop reason is a word, of so many characters at the most.
const MAX_STOP_REASON: usize = 100;

/// What happens to the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// An event with its id in the session, if it had one.
    Event(Option<u64>, &'a Envelope<'a>),
    /// The cursor has left the server's ring.
    Gap(Gap),
    /// An event that is not of the protocol's shape, and how.
    Malformed(&'a str),
    /// The stream is open again.
    Reconnected,
    /// What the session says: whether it runs our run.
    State {
        /// Running or starting, with our run's id.
        active: bool,
    },
    /// Nothing is unread.
    Tick {
        /// How long reads have blocked since the last byte, send or reconnect.
        quiet: Duration,
        /// How long since the last event.
        idle: Duration,
    },
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Read on.
    Continue,
    /// All events of the past have been seen; from here on they are news.
    CaughtUp,
    /// Say that the turn's text was not what its pieces had said.
    Differs,
    /// Ask `/v1/config` and set [`Batch::asks`].
    Learn,
    /// Put the call to the policy; then [`Batch::judged`] and a tick.
    Judge(ToolCall),
    /// Send these decisions, then [`Batch::sent`]; `again` if they were sent before and dropped.
    Send {
        /// The calls and what becomes of them.
        decisions: Vec<(ToolCall, Verdict)>,
        /// They were sent before, under another idempotency key.
        again: bool,
    },
    /// Open the stream anew from the cursor, for this reason.
    Reconnect(&'static str),
    /// Ask for the session's state.
    AskState,
    /// Ask for the calls that wait, whose proposal was lost, for [`Batch::adopt`].
    AskPending,
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
    /// What to do next.
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    CatchingUp,
    Following,
    Doubted,
}

/// What is known of the run when we come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All of it is news.
    Fresh,
    /// It goes on; what was said before now is no news.
    Waiting,
    /// The same, and only whether it waits matters: its going on is an end, and nothing is news.
    Peek,
    /// The session says that it is over.
    Over,
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
    /// A completed run with a failed tool call has failed.
    pub fail_on_tool_error: bool,
}

impl Options {
    /// The plainest: all is news, and nothing is kept.
    pub const fn of(run_id: String, asks: Asks) -> Self {
        let keep = Keep::Nothing;
        Self { run_id, asks, keep, start: Start::Fresh, fail_on_tool_error: false }
    }
}

/// The machine, and what it has learnt of the run.
#[derive(Debug)]
pub struct Run {
    options: Options,
    phase: Phase,
    /// The last event id dispatched: what a reconnect asks to go on from.
    pub cursor: u64,
    /// The text.
    pub transcript: Transcript,
    /// The tool calls of the current turn.
    pub batch: Batch,
    /// Turns begun.
    pub turns: u64,
    /// Tokens used, once reported.
    pub usage: Option<Usage>,
    /// What became of the tool calls.
    pub tool_calls: ToolCounts,
    /// The server's word for the run's end.
    pub stop_reason: Option<String>,
    /// The server said that it ended, or no longer knows it.
    over: bool,
    begun: bool,
    hole_at: Option<u64>,
    malformed_at: Option<u64>,
    gaps: u32,
    ask_after: Duration,
}

impl Run {
    /// A run of which nothing has been heard yet.
    pub fn new(options: Options) -> Self {
        Self {
            phase: match options.start {
                Start::Fresh => Phase::Following,
                Start::Waiting | Start::Peek => Phase::CatchingUp,
                Start::Over => Phase::Doubted,
            },
            cursor: 0,
            transcript: Transcript::new(options.keep),
            batch: Batch::new(options.asks),
            turns: 0,
            usage: None,
            tool_calls: ToolCounts::default(),
            stop_reason: None,
            over: false,
            begun: false,
            hole_at: None,
            malformed_at: None,
            gaps: 0,
            ask_after: ASK_AFTER,
            options,
        }
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.options.run_id
    }

    /// Whether the run may still be going on: it was not heard to end, and was not found lost.
    pub const fn may_be_running(&self) -> bool {
        !self.over
    }

    /// Whether we only look, and what comes is still of the past.
    pub fn is_peeking(&self) -> bool {
        self.phase == Phase::CatchingUp && self.options.start == Start::Peek
    }

    /// Writes what is known into the record.
    pub fn fill(self, record: &mut Record) {
        record.run_id = Some(self.id().to_owned());
        record.agent_message = self.transcript.last_turn().map(str::to_owned);
        record.text = self.transcript.into_all();
        record.turns = self.turns;
        record.stopped(self.stop_reason);
        record.usage = self.usage;
        record.tool_calls = self.tool_calls;
        record.last_event_id = Some(self.cursor).filter(|cursor| *cursor > 0);
    }

    /// One input; see the module's table.
    pub fn step<'a>(&mut self, input: Input<'a>) -> Step<'a> {
        let act = match input {
            Input::Event(id, envelope) => return self.event(id, envelope),
            Input::Gap(gap) => self.gap(&gap),
            Input::Malformed(why) => self.malformed(why),
            Input::Reconnected if self.phase == Phase::Doubted => Act::Continue,
            Input::Reconnected => Act::AskState,
            Input::State { active } => self.state(active),
            Input::Tick { quiet, idle } => self.tick(quiet, idle),
        };
        Step { fresh: false, text: "", act }
    }

    fn event<'a>(&mut self, id: Option<u64>, envelope: &'a Envelope<'a>) -> Step<'a> {
        let pass = |act| Step { fresh: false, text: "", act };
        if let Some(id) = id.filter(|id| id.saturating_sub(self.cursor) < ABSURD) {
            if id <= self.cursor {
                return pass(Act::Continue);
            }
            if id > self.cursor + 1 && self.hole_at != Some(self.cursor) {
                self.hole_at = Some(self.cursor);
                return pass(Act::Reconnect("events are missing"));
            }
            if id > self.cursor + 1 {
                self.lose();
            }
            self.cursor = id;
        }
        self.gaps = 0;
        self.ask_after = ASK_AFTER;
        if envelope.run_id.as_deref() != Some(self.id()) {
            return pass(Act::Continue);
        }
        if !self.begun {
            self.begun = true;
            if envelope.event != Event::RunStarted {
                self.transcript.hold();
            }
        }
        let (text, mut act) = self.dispatch(&envelope.event);
        if self.transcript.is_too_long() {
            let message =
                format!("follow the run: one turn says more than {MAX_TEXT} bytes, which are the most to keep");
            act = Act::End(Failure::new(Reason::Protocol, message).into());
        }
        if self.transcript.is_held() && self.batch.is_empty() {
            // A proposal may be among what was lost.
            self.ask_after = REPLAYED;
        }
        let fresh = self.phase != Phase::CatchingUp && self.options.start != Start::Peek;
        Step { fresh, text: if fresh { text } else { "" }, act }
    }

    fn dispatch<'a>(&mut self, event: &'a Event<'a>) -> (&'a str, Act) {
        match event {
            Event::TextDelta(delta) => return (self.transcript.delta(&delta.delta), Act::Continue),
            Event::TextComplete(whole) => {
                let rest = self.transcript.complete(&whole.text);
                return (rest.unwrap_or_default(), if rest.is_some() { Act::Continue } else { Act::Differs });
            }
            Event::TurnStarted(turn) => {
                self.turns = self.turns.max(turn.turn);
                self.transcript.turn();
                self.batch.clear();
            }
            Event::TurnCompleted(_) => self.batch.clear(),
            Event::ToolCallsProposed(proposal) => {
                self.tool_calls.proposed += proposal.tool_calls.len() as u64;
                self.batch.propose(proposal.tool_calls.clone());
                return ("", self.batch_act(Duration::ZERO));
            }
            Event::ToolExecutionStarted(tool) => {
                self.tool_calls.accepted += 1;
                self.batch.started(&tool.tool_call_id);
            }
            // Its start may have left the ring.
            Event::ToolExecutionProgress(tool) => self.batch.started(&tool.tool_call_id),
            Event::ToolExecutionCompleted(tool) => {
                // A call that ends without having started was cancelled, or answered in its place (`custom_result`,
                // trap 9).
                match (tool.is_error, &*tool.result) {
                    (true, "TOOL_CALL_CANCELLED") => {}
                    (true, _) => self.tool_calls.failed += 1,
                    (false, _) if self.batch.has_not_begun(&tool.tool_call_id) => self.tool_calls.rejected += 1,
                    (false, _) => {}
                }
                self.batch.finished(&tool.tool_call_id);
            }
            Event::ToolRejected(tool) => {
                self.tool_calls.rejected += 1;
                self.batch.finished(&tool.tool_call_id);
            }
            Event::UsageReport(report) => {
                let sum = self.usage.get_or_insert_default();
                sum.add(report.usage);
            }
            Event::RunCompleted(completion) => return ("", Act::End(self.completed(completion))),
            Event::RunError(failure) => return ("", Act::End(self.failed(failure))),
            _ => {}
        }
        ("", Act::Continue)
    }

    fn completed(&mut self, completion: &Completion<'_>) -> End {
        self.over = true;
        self.turns = completion.total_turns.unwrap_or(self.turns);
        self.usage = completion.total_usage.or(self.usage);
        self.stop_reason = Some(completion.stop_reason.chars().take(MAX_STOP_REASON).collect());
        let failed = self.tool_calls.failed;
        let (reason, message) = match &*completion.stop_reason {
            "completed" if self.options.fail_on_tool_error && failed > 0 => {
                let calls = if failed == 1 { "tool call" } else { "tool calls" };
                (
                    Reason::ToolError,
                    format!("the run completed, but {failed} {calls} failed (--fail-on-tool-error)"),
                )
            }
            "completed" => return End::Completed,
            "cancelled" => (Reason::Cancelled, "the run was cancelled on the server".into()),
            "max_turns" => (Reason::MaxTurns, format!("the run used up its turns ({})", self.turns)),
            "error" => (Reason::RunError, "the run ended with an error".into()),
            other => (Reason::RunError, format!("the run ended with a stop reason that is not known: {other}")),
        };
        Failure::new(reason, message).into()
    }

    fn failed(&mut self, failure: &RunFailure<'_>) -> End {
        self.over = true;
        let message = format!("the run failed: {}", &*failure.error);
        Failure::new(Reason::RunError, message).retryable(failure.retryable).into()
    }

    fn gap(&mut self, gap: &Gap) -> Act {
        self.gaps += 1;
        let resume_at = gap.oldest_available_id.saturating_sub(1);
        if resume_at <= self.cursor || self.gaps > MAX_GAPS {
            let (oldest, cursor) = (gap.oldest_available_id, self.cursor);
            let message = format!("follow the run: the server reports a gap up to {oldest} behind event {cursor}");
            return Act::End(Failure::new(Reason::Protocol, message).into());
        }
        self.lose();
        self.cursor = resume_at;
        Act::Reconnect("the server no longer has the next events")
    }

    /// Events up to `cursor` are lost for good.
    pub fn lost(&mut self, cursor: u64) {
        self.lose();
        self.cursor = cursor;
    }

    /// Events are lost for good. That matters only if our run's first event is not among what is left.
    fn lose(&mut self) {
        if self.begun {
            self.transcript.hold();
            self.batch.clear();
        }
    }

    fn malformed(&mut self, why: &str) -> Act {
        if self.malformed_at == Some(self.cursor) {
            let message = format!("follow the run: after event {}, {why}", self.cursor);
            return Act::End(Failure::new(Reason::Protocol, message).into());
        }
        self.malformed_at = Some(self.cursor);
        Act::Reconnect("an event is malformed")
    }

    fn state(&mut self, active: bool) -> Act {
        if !active {
            self.phase = Phase::Doubted;
            return Act::Reconnect("the session no longer runs our run");
        }
        if self.transcript.is_held() && self.batch.is_empty() { Act::AskPending } else { Act::Continue }
    }

    fn tick(&mut self, quiet: Duration, idle: Duration) -> Act {
        if self.phase == Phase::Doubted {
            if quiet < REPLAYED {
                return Act::Continue;
            }
            self.over = true;
            return Act::End(lost());
        }
        if self.phase == Phase::CatchingUp {
            if quiet < SETTLED {
                return Act::Continue;
            }
            self.phase = Phase::Following;
            return Act::CaughtUp;
        }
        if self.options.start == Start::Peek && !self.batch.may_wait() {
            return Act::End(End::Completed);
        }
        match self.batch_act(quiet) {
            Act::Continue if idle >= self.ask_after => {
                self.ask_after = idle + ASK_AFTER;
                Act::AskState
            }
            act => act,
        }
    }

    fn batch_act(&mut self, quiet: Duration) -> Act {
        if self.phase != Phase::Following {
            return Act::Continue;
        }
        match self.batch.next(quiet) {
            Next::Wait => Act::Continue,
            Next::Learn => Act::Learn,
            Next::Judge(call) => Act::Judge(call),
            Next::Send { decisions, again } => Act::Send { decisions, again },
            Next::Reconnect => Act::Reconnect("a decision shows no effect"),
            Next::Adopt => Act::AskPending,
            Next::Pause(calls) => Act::End(End::Paused(calls)),
            Next::Fail(call) => {
                let id = call.id;
                let message = format!("two tool calls of one turn have the id {id}: the second cannot be decided");
                Act::End(Failure::new(Reason::Protocol, message).into())
            }
        }
    }
}

/// The server has no such run any more, and never said how it ended.
fn lost() -> End {
    let message = "the server lost the run: it no longer runs, and never said how it ended (a restart, or a failure \
                   that it does not report)";
    Failure::new(Reason::Lost, message).into()
}

#[cfg(test)]
mod tests;

//! What each input does. [`Machine::dispatch`] says it for each event, and [`super::unconfirmed`] for a run that seems
//! to have ended without a terminal event.

use super::batch::{Batch, SETTLED};
use super::choices::Choices;
use super::policy::{By, Ruling, Verdict, names};
use super::tally::Tally;
use super::transcript::Transcript;
use super::{Effect, History, Input, Options, Silence, Start, Step};
use crate::agent::events::{Completion, Envelope, Event, RunFailure, ToolCall};
use crate::outcome::{COMPLETED, Decided, End, Failure, KnownEnd, Reason, RunSummary, Waiting};
use std::collections::BTreeSet;
use std::time::Duration;

/// The longest stop reason that is kept, in characters.
const MAX_STOP_REASON: usize = 100;
/// The most decisions that the record lists.
const MAX_DECISIONS: usize = 1000;
/// The notice about a turn whose final text differs from its deltas.
const TEXT_DIFFERS: &str =
    "the server's final text for this turn differs from what it streamed; the record has the final text";
/// How long nothing is decided after the server refused a decision because the run is not active.
const REFUSED_AGAIN: Duration = Duration::from_secs(2);
/// The longest time to read the past of a run before decisions about it are made.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The phases of the module's table. In all but the first two, the run seems to have ended without a terminal event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    CatchingUp,
    Following,
    /// The session runs no run, or another one.
    Stopped,
    /// As before, and all events have come: the state is asked for once more.
    Confirming,
    /// The session's state is `failed` (protocol trap 21).
    Failed,
    /// The server does not know the session.
    UnknownSession,
    /// The server refuses a token that it accepted before.
    Refused(Failure),
}

#[derive(Debug)]
pub struct Machine {
    pub(super) options: Options,
    pub(super) phase: Phase,
    /// When the run seemed to have ended: the start of the phase, if it is not one of the first two.
    pub(super) since: Duration,
    pub(super) transcript: Transcript,
    pub(super) batch: Batch,
    pub(super) tally: Tally,
    pub(super) known_end: KnownEnd,
    /// The silence and the time of the last [`Input::Quiet`].
    pub(super) silence: Silence,
    pub(super) now: Duration,
    /// The past of the run has been read, and the choices fit its pending calls.
    has_caught_up: bool,
    /// An event of our run has come.
    pub(super) begun: bool,
    /// No event of our run is missing so far.
    pub(super) complete: bool,
    /// A later run has started, so the session's messages are about that run.
    pub(super) superseded: bool,
    /// When the session's state was last asked for.
    pub(super) asked_at: Option<Duration>,
    /// When decisions were last refused.
    refused_at: Option<Duration>,
    /// The newest event that a gap named: the replay is complete with this event.
    pub(super) replay_ends: Option<u64>,
    /// The decisions of `resume`, while the batch that they are about is pending.
    choices: Option<Choices>,
    /// The entries of the policy's lists that no call of the run has matched.
    unmatched: BTreeSet<String>,
    over_budget: Option<Failure>,
}

impl Machine {
    pub fn new(mut options: Options) -> Self {
        let phase = match options.start {
            Start::Fresh => Phase::Following,
            Start::FromNow | Start::Peek => Phase::CatchingUp,
        };
        Self {
            phase,
            since: Duration::ZERO,
            transcript: Transcript::new(options.keep),
            batch: Batch::new(&options.run_id, options.asked),
            tally: Tally::default(),
            known_end: KnownEnd::Open,
            silence: Silence::default(),
            now: Duration::ZERO,
            has_caught_up: options.start == Start::Fresh,
            begun: false,
            complete: true,
            superseded: false,
            asked_at: None,
            refused_at: None,
            replay_ends: None,
            choices: options.choices.take(),
            unmatched: options.policy.listed().cloned().collect(),
            over_budget: None,
            options,
        }
    }

    pub fn run_id(&self) -> &str {
        &self.options.run_id
    }

    pub const fn known_end(&self) -> &KnownEnd {
        &self.known_end
    }

    /// Returns whether the past of the run has been read, and the choices fit its pending calls. Before, nothing was sent
    /// to the run.
    pub const fn has_caught_up(&self) -> bool {
        self.has_caught_up
    }

    /// Returns whether `RunCompleted` or `RunError` has come.
    pub const fn has_terminal_event(&self) -> bool {
        matches!(self.known_end, KnownEnd::Completed(_) | KnownEnd::Errored)
    }

    pub const fn turn(&self) -> u64 {
        self.tally.summary.turns
    }

    /// Returns whether the session's messages can tell something that the events did not.
    pub fn needs_messages(&self) -> bool {
        self.transcript.is_held()
            || matches!(self.known_end, KnownEnd::Restarted { .. } | KnownEnd::Stopped)
            || matches!(self.known_end, KnownEnd::StateFailed { .. }) && !self.complete
    }

    /// Returns whether the record has no `text` because the run wrote more than is kept.
    pub const fn text_is_cut(&self) -> bool {
        self.transcript.is_cut()
    }

    /// Returns the pending calls of a run that has not ended.
    pub fn left_waiting(&self) -> Option<Waiting> {
        (self.known_end.is_open() && self.batch.may_wait()).then(|| self.batch.waiting())
    }

    /// Returns the entries of the policy's lists that matched no call of the run; none if the run called no tool.
    pub fn unmatched(&self) -> impl Iterator<Item = &String> {
        self.unmatched.iter().filter(|_| self.tally.calls() > 0)
    }

    pub fn summary(self) -> RunSummary {
        RunSummary {
            run_id: Some(self.options.run_id),
            agent_message: self.transcript.last_turn().map(str::to_owned),
            text_is_cut: self.transcript.is_cut(),
            text: self.transcript.into_all(),
            ..self.tally.summary
        }
    }

    /// Takes one input: see the table in the module's documentation.
    pub fn step<'a>(&mut self, input: Input<'a>) -> Step<'a> {
        match input {
            Input::Event(id, envelope) => return self.event(id, envelope),
            Input::Messages(history) => return self.messages(history),
            Input::Lost { newest } => self.lost_events(newest),
            Input::Reconnected => self.reconnected(),
            Input::Quiet { silence, now } => self.quiet(silence, now),
            Input::State(state) => self.state(state),
            Input::StateAfterCancel(state) => self.state_after_cancel(&state),
            Input::Health(uptime) => self.health(uptime),
            Input::AskedCalls(asked) => {
                self.batch.set_asked(asked);
                self.disturbed();
                self.batch_effect()
            }
            Input::Judged { call_id, verdict } => {
                self.batch.judged(call_id, Ruling { verdict, by: By::Program });
                self.batch.note_unread_time();
                self.disturbed();
                self.batch_effect()
            }
            Input::Sent(decisions) => self.sent(decisions),
            Input::Refused => {
                self.refused_at = Some(self.now);
                self.ask_state()
            }
            Input::Pending { calls, finished } => self.pending(calls, &finished),
        }
        .into()
    }

    /// Resets the quiet: after a request, or a time without reads, the earlier quiet proves nothing.
    pub(super) const fn disturbed(&mut self) {
        self.silence.quiet = Duration::ZERO;
    }

    fn event<'a>(&mut self, id: Option<u64>, envelope: &'a Envelope<'a>) -> Step<'a> {
        self.disturbed();
        let last_id = id.or(self.tally.summary.last_event_id);
        self.tally.summary.last_event_id = last_id;
        let mut step = if envelope.run_id.as_deref() == Some(self.run_id()) {
            self.our_event(id, &envelope.event)
        } else {
            self.superseded |= envelope.run_id.is_some() && (self.begun || self.options.is_first);
            Effect::Continue.into()
        };
        if step.effect == Effect::Continue && self.replay_ends.is_some_and(|newest| last_id >= Some(newest)) {
            step.effect = self.replay_is_over();
        }
        step
    }

    fn our_event<'a>(&mut self, id: Option<u64>, event: &'a Event<'a>) -> Step<'a> {
        if self.phase == Phase::UnknownSession {
            self.phase = self.active_phase();
        }
        if !self.begun {
            self.begun = true;
            if *event != Event::RunStarted {
                self.complete = false;
                self.transcript.hold();
            }
        }
        let fresh = self.phase != Phase::CatchingUp && self.options.start != Start::Peek;
        let step = self.dispatch(id, event);
        Step { fresh, text: if fresh { step.text } else { "" }, ..step }
    }

    fn dispatch<'a>(&mut self, id: Option<u64>, event: &'a Event<'a>) -> Step<'a> {
        self.tally.count(event, &self.batch);
        let mut step = Step::from(Effect::Continue);
        match event {
            Event::TextDelta(delta) => step.text = self.transcript.delta(&delta.delta),
            Event::TextComplete(whole) => match self.transcript.complete(&whole.text) {
                Some(rest) => step.text = rest,
                None => step.notice = Some(TEXT_DIFFERS.into()),
            },
            Event::TurnStarted(_) => {
                self.transcript.turn();
                self.end_batch();
            }
            Event::TurnCompleted(_) => self.end_batch(),
            Event::ToolCallsProposed(proposal) => step.effect = self.proposed(id, &proposal.tool_calls),
            Event::ToolExecutionStarted(tool) => {
                step.notice = self.decided_elsewhere(&tool.tool_call_id, true);
                self.batch.started(&tool.tool_call_id);
                if self.batch.take_back(&tool.tool_call_id) {
                    step.effect = Effect::TakeBack(tool.tool_call_id.to_string());
                }
            }
            // The event of the call's start may have left the server's ring.
            Event::ToolExecutionProgress(tool) => self.batch.started(&tool.tool_call_id),
            Event::ToolExecutionCompleted(tool) | Event::ToolRejected(tool) => {
                step.notice = self.decided_elsewhere(&tool.tool_call_id, false);
                self.batch.finished(&tool.tool_call_id);
            }
            Event::UsageReport(_) => self.check_tokens(),
            Event::CompactionStarted(compaction) => step.effect = self.compaction(&compaction.reason),
            Event::RunCompleted(completion) => step.effect = Effect::End(self.completed(completion)),
            Event::RunError(failure) => step.effect = Effect::End(self.failed(failure)),
            Event::RunStarted
            | Event::ThinkingDelta
            | Event::WaitingForToolApproval
            | Event::RetryAttempt(_)
            | Event::CompactionCompleted(_)
            | Event::Unknown => {}
        }
        step
    }

    fn proposed(&mut self, id: Option<u64>, calls: &[ToolCall]) -> Effect {
        self.end_choices();
        self.unmatched.retain(|listed| !calls.iter().any(|call| names(listed, &call.name)));
        self.batch.propose(calls.to_vec(), id);
        let used = self.tally.calls();
        if let Some(limit) = self.options.max_tool_calls.filter(|limit| used > *limit) {
            let message = format!("the run proposed {used} tool calls, and --max-tool-calls allows {limit}");
            self.over_budget.get_or_insert(Failure::new(Reason::MaxToolCalls, message));
        }
        self.batch_effect()
    }

    fn check_tokens(&mut self) {
        let used = self.tally.tokens();
        if let Some(limit) = self.options.max_tokens.filter(|limit| used > *limit) {
            let message = format!("the run used {used} tokens, and --max-tokens allows {limit}");
            self.over_budget.get_or_insert(Failure::new(Reason::MaxTokens, message));
        }
    }

    /// Forgets the calls of the turn that has ended.
    fn end_batch(&mut self) {
        self.batch.clear();
        self.end_choices();
    }

    /// Forgets the choices, because their batch has ended. While the past is read, the batches are older ones.
    fn end_choices(&mut self) {
        if self.phase != Phase::CatchingUp {
            self.choices = None;
        }
    }

    /// Returns a line if another client or the server decided a call that the choices are about. `ran`: the call has
    /// started; or else it has ended.
    fn decided_elsewhere(&self, id: &str, ran: bool) -> Option<String> {
        let choices = self.choices.as_ref().filter(|_| self.phase != Phase::CatchingUp)?;
        let how = match (choices.verdict(id)?, ran) {
            (Verdict::Reject(_), true) => {
                return Some(format!("call {id} was to be rejected, but the server ran it by itself"));
            }
            (Verdict::Accept, true) if self.batch.undecided().any(|call| call.id == id) => "approved",
            (Verdict::Accept, false) if self.batch.has_not_begun(id) => "rejected",
            _ => return None,
        };
        Some(format!("call {id} was {how} elsewhere; this command's decision had no effect"))
    }

    /// The server takes a provider's error about a limit for a full context and compacts without end (protocol trap
    /// 15).
    fn compaction(&mut self, reason: &str) -> Effect {
        if !self.tally.compacts_endlessly() {
            return Effect::Continue;
        }
        let message = format!("the server compacts the same turn again and again: {reason}");
        Effect::End(Failure::new(Reason::RunError, message).passing(true).into())
    }

    fn completed(&mut self, completion: &Completion<'_>) -> End {
        self.known_end = KnownEnd::Completed(completion.stop_reason.chars().take(MAX_STOP_REASON).collect());
        let failed = self.tally.summary.tool_calls.failed;
        let (reason, message) = match &*completion.stop_reason {
            COMPLETED if self.options.fail_on_tool_error && failed > 0 => {
                let calls = if failed == 1 { "tool call" } else { "tool calls" };
                (
                    Reason::ToolError,
                    format!("the run completed, but {failed} {calls} failed (--fail-on-tool-error)"),
                )
            }
            COMPLETED => return End::Completed,
            "cancelled" => (Reason::Cancelled, "the run was cancelled on the server".into()),
            "max_turns" => {
                (Reason::MaxTurns, format!("the run reached its limit of turns: {}", self.tally.summary.turns))
            }
            "error" => (Reason::RunError, "the run ended with an error".into()),
            other => (Reason::RunError, format!("the run ended with an unknown stop reason: {other}")),
        };
        Failure::new(reason, message).into()
    }

    fn failed(&mut self, failure: &RunFailure<'_>) -> End {
        self.known_end = KnownEnd::Errored;
        let message = format!("the run failed: {}", &*failure.error);
        Failure::new(Reason::RunError, message).passing(failure.retryable).into()
    }

    fn lost_events(&mut self, newest: Option<u64>) -> Effect {
        self.replay_ends = newest.or(self.replay_ends);
        if self.begun {
            self.complete = false;
            self.transcript.hold();
            self.batch.clear();
            // The batch that the choices are about may have ended in the lost events.
            self.choices = None;
        }
        Effect::Continue
    }

    fn quiet(&mut self, silence: Silence, now: Duration) -> Effect {
        (self.silence, self.now) = (silence, now);
        match self.phase {
            Phase::CatchingUp if silence.quiet < SETTLED && now < CATCH_UP => Effect::Continue,
            Phase::CatchingUp => self.caught_up(),
            Phase::Following => self.follow_quietly(),
            Phase::Stopped | Phase::Confirming | Phase::Failed | Phase::UnknownSession | Phase::Refused(_) => {
                self.confirm_quietly()
            }
        }
    }

    fn follow_quietly(&mut self) -> Effect {
        if let Some(failure) = self.over_budget.take() {
            return Effect::End(failure.into());
        }
        if self.options.start == Start::Peek && !self.batch.may_wait() {
            return Effect::End(End::Completed);
        }
        match self.batch_effect() {
            Effect::Continue if self.is_time_to_ask() => self.ask_state(),
            effect => effect,
        }
    }

    /// The past has been read. Fills its holes, then checks the choices. Nothing has been sent yet.
    fn caught_up(&mut self) -> Effect {
        if self.transcript.is_held() {
            return Effect::AskMessages;
        }
        if self.batch.is_empty() {
            return Effect::AskPending;
        }
        self.follow_on()
    }

    fn follow_on(&mut self) -> Effect {
        let mismatch =
            self.choices.as_ref().and_then(|choices| choices.mismatch(&self.batch.waiting(), self.run_id()));
        if let Some(failure) = mismatch {
            return Effect::End(failure.into());
        }
        self.has_caught_up = true;
        self.phase = Phase::Following;
        self.follow_quietly()
    }

    /// Returns the phase of a run that is active.
    pub(super) const fn active_phase(&self) -> Phase {
        if self.has_caught_up { Phase::Following } else { Phase::CatchingUp }
    }

    /// Returns what the batch needs next.
    pub(super) fn batch_effect(&mut self) -> Effect {
        // The state that is asked for after a refusal may lag behind. Nothing is decided meanwhile.
        let was_refused = self.refused_at.is_some_and(|at| self.now.saturating_sub(at) < REFUSED_AGAIN);
        if self.phase != Phase::Following || self.over_budget.is_some() || was_refused {
            return Effect::Continue;
        }
        loop {
            let effect = self.batch.next(self.silence.quiet, self.silence.heard);
            let Effect::AskProgram(call) = &effect else { return effect };
            let Some(ruling) = self.judge(call) else { return effect };
            self.batch.judged(&call.id, ruling);
        }
    }

    /// Returns the ruling of the choices or of the policy, or `None` if the policy program must decide.
    fn judge(&self, call: &ToolCall) -> Option<Ruling> {
        if self.options.start == Start::Peek {
            return Some(Ruling::by_policy(Verdict::Pause));
        }
        match self.choices.as_ref().and_then(|choices| choices.verdict(&call.id)) {
            Some(verdict) => Some(Ruling { verdict, by: By::Flag }),
            None => self.options.policy.judge(&call.name).map(Ruling::by_policy),
        }
    }

    fn sent(&mut self, sent: &[(ToolCall, Ruling)]) -> Effect {
        self.disturbed();
        self.batch.sent(sent);
        let decisions = &mut self.tally.summary.decisions;
        for (call, ruling) in sent {
            let (verdict, reason) = match &ruling.verdict {
                Verdict::Accept => ("accept", None),
                Verdict::Reject(reason) => ("reject", reason.clone()),
                Verdict::Pause => continue,
            };
            let is_known = decisions.iter().any(|decided| decided.tool_call_id == call.id);
            if decisions.len() < MAX_DECISIONS && !is_known {
                let (tool_call_id, name, by) = (call.id.clone(), call.name.clone(), ruling.by.word());
                decisions.push(Decided { tool_call_id, name, verdict, by, reason });
            }
        }
        Effect::Continue
    }

    fn pending(&mut self, calls: Vec<ToolCall>, finished: &[String]) -> Effect {
        self.disturbed();
        if !calls.is_empty() {
            self.batch.adopt(calls, finished);
        }
        if self.phase == Phase::CatchingUp { self.follow_on() } else { Effect::Continue }
    }

    fn messages<'a>(&mut self, history: History) -> Step<'a> {
        let history = if self.superseded { History::default() } else { history };
        self.told_by_messages(&history);
        if self.known_end == KnownEnd::Stopped {
            // Without the terminal event, text may be missing too.
            self.transcript.hold();
        }
        if !self.transcript.is_held() {
            return Effect::Continue.into();
        }
        let filled_in = self.transcript.fill_in(history.texts);
        if self.phase == Phase::CatchingUp {
            // Text of the past is not shown.
            return self.caught_up().into();
        }
        let notice = (!filled_in.complete || self.superseded).then(|| {
            "some text may be missing: events were lost, and the session's messages are not complete".to_owned()
        });
        Step { filled_in: Some(filled_in), notice, ..Effect::Continue.into() }
    }
}

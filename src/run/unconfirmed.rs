//! Finds out how a run ended when no terminal event comes. Only the server's own answer is a proof: the run has ended
//! when the session's state no longer names the run, and the last events have been replayed.

use super::machine::{Machine, Phase};
use super::{Effect, History, STATE_FAILED, Silence, State, Uptime};
use crate::outcome::{Failure, KnownEnd, Reason};
use std::time::Duration;

/// Ask for the session's state after this long without an event, and then at this interval.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// The first question is asked after this long before the run's first event, because only the state shows a run that
/// died before it (protocol trap 21), and when a proposal may have been lost.
const ASK_EARLY: Duration = Duration::from_secs(2);
/// The interval before the run's first event, and while the stream is held back.
const ASK_OFTEN: Duration = Duration::from_secs(5);
/// A replay is complete after this much quiet.
const REPLAYED: Duration = Duration::from_secs(2);
/// How long to ask again for a session that the server does not know: another replica may have answered.
const UNKNOWN: Duration = Duration::from_secs(5);
/// The interval of those questions.
const UNKNOWN_AGAIN: Duration = Duration::from_millis(500);
/// `/v1/health` rounds down to whole seconds.
const UPTIME_ROUNDING: Duration = Duration::from_secs(1);

/// Returns whether a replay is complete: at least one byte has come and then enough quiet. A replay that is held back
/// counts as complete, because no more of it will come.
pub fn is_replayed(silence: &Silence) -> bool {
    silence.held_back || silence.heard && silence.quiet >= REPLAYED
}

impl Machine {
    pub(super) fn ask_state(&mut self) -> Effect {
        self.asked_at = Some(self.now);
        Effect::AskState
    }

    /// Returns whether to ask for the session's state now: see the constants.
    pub(super) fn is_time_to_ask(&self) -> bool {
        let (first, again) = match (self.silence.held_back, self.begun) {
            (true, _) => (ASK_OFTEN, ASK_OFTEN),
            (false, false) => (ASK_EARLY, ASK_OFTEN),
            (false, true) if self.may_lack_proposal() => (ASK_EARLY, ASK_AFTER),
            (false, true) => (ASK_AFTER, ASK_AFTER),
        };
        let last_event = self.now.saturating_sub(self.silence.idle);
        let asked_since = self.asked_at.filter(|asked| *asked >= last_event);
        self.silence.idle >= first && asked_since.is_none_or(|asked| self.has_passed(again, asked))
    }

    fn has_passed(&self, time: Duration, since: Duration) -> bool {
        self.now.saturating_sub(since) >= time
    }

    /// Returns whether the proposal of the pending calls may be among lost events.
    fn may_lack_proposal(&self) -> bool {
        self.transcript.is_held() && self.batch.is_empty()
    }

    pub(super) fn reconnected(&mut self) -> Effect {
        self.disturbed();
        match self.phase {
            Phase::CatchingUp | Phase::Following => self.ask_state(),
            // The answer about the state was the reason to reconnect.
            Phase::Stopped | Phase::Confirming | Phase::Failed | Phase::UnknownSession | Phase::Refused(_) => {
                Effect::Continue
            }
        }
    }

    pub(super) fn state(&mut self, state: State) -> Effect {
        match state {
            State::Active { run_id } if run_id == self.options.run_id => {
                self.phase = self.active_phase();
                let asks = self.phase == Phase::Following && self.may_lack_proposal();
                if asks { Effect::AskPending } else { Effect::Continue }
            }
            State::Unclear => Effect::Continue,
            State::Active { .. } | State::Idle => {
                self.superseded |= state != State::Idle;
                if self.phase == Phase::Confirming {
                    return Effect::AskHealth;
                }
                // The last event comes again, which shows that the replay has begun.
                self.enter(Phase::Stopped, Effect::Replay("the session no longer runs our run"))
            }
            State::Failed => self.enter(Phase::Failed, Effect::Reconnect("the session's state is failed")),
            State::NoSession => self.enter(Phase::UnknownSession, Effect::Continue),
            State::Refused(failure) => self.enter(Phase::Refused(failure), Effect::AskHealth),
        }
    }

    /// Returns the longest time until the next [`super::Input::Quiet`], even while the stream is being opened.
    pub const fn patience(&self) -> Option<Duration> {
        match self.phase {
            Phase::Failed => Some(REPLAYED),
            // A run that died before its first event shows only in the state.
            Phase::Following if !self.begun && self.asked_at.is_none() => Some(ASK_EARLY),
            _ => None,
        }
    }

    /// Enters a phase and returns the effect, or [`Effect::Continue`] if the machine is in this phase already.
    fn enter(&mut self, phase: Phase, effect: Effect) -> Effect {
        if self.phase == phase {
            return Effect::Continue;
        }
        (self.phase, self.since) = (phase, self.now);
        effect
    }

    pub(super) fn confirm_quietly(&mut self) -> Effect {
        match self.phase {
            Phase::Stopped if is_replayed(&self.silence) => self.confirm(),
            Phase::Confirming if self.asked_at.is_none_or(|asked| self.has_passed(ASK_OFTEN, asked)) => {
                self.ask_state()
            }
            // The state `failed` is the server's word. It needs no complete replay.
            Phase::Failed if self.silence.idle >= REPLAYED && self.has_passed(REPLAYED, self.since) => {
                self.state_failed()
            }
            Phase::UnknownSession if self.has_passed(UNKNOWN, self.since) => {
                let message = "the server does not know the session; is it another server behind the same address? \
                               The run may be going on";
                self.end_lost(KnownEnd::Open, message)
            }
            Phase::UnknownSession if self.asked_at.is_none_or(|asked| self.has_passed(UNKNOWN_AGAIN, asked)) => {
                self.ask_state()
            }
            _ => Effect::Continue,
        }
    }

    /// The newest event that a gap named has come.
    pub(super) fn replay_is_over(&mut self) -> Effect {
        self.replay_ends = None;
        match self.phase {
            Phase::Stopped => self.confirm(),
            _ => Effect::Continue,
        }
    }

    /// Asks once more for the state: an answer of another replica, or one from before a new run, may have been stale.
    fn confirm(&mut self) -> Effect {
        self.phase = Phase::Confirming;
        self.ask_state()
    }

    fn state_failed(&mut self) -> Effect {
        // A replay that is held back may lack the events about tool calls.
        self.complete &= self.begun && self.silence.heard;
        // If events are missing, only the messages can tell whether the run called tools.
        self.known_end = KnownEnd::StateFailed { tools: !self.complete || self.tally.calls() > 0 };
        let sandbox = if self.options.sandbox { " (--sandbox: did it start?)" } else { "" };
        let message = format!("{STATE_FAILED}{sandbox}");
        Effect::End(Failure::new(Reason::RunError, message).passing(true).into())
    }

    pub(super) fn health(&mut self, uptime: Option<Uptime>) -> Effect {
        let is_younger = |uptime: Uptime| uptime.run.is_some_and(|run| uptime.server + UPTIME_ROUNDING < run);
        let restarted = uptime.is_some_and(is_younger);
        // Until the session's messages tell more, the run may have completed before the restart.
        let gone = KnownEnd::Restarted { answered: true };
        match &self.phase {
            Phase::Refused(_) if restarted => {
                self.end_lost(gone, "the server was restarted, and refuses the token that it accepted before")
            }
            Phase::Refused(failure) => Effect::End(failure.clone().into()),
            _ if restarted => self.end_lost(gone, "the server was restarted, and the run is gone"),
            _ => self.end_lost(KnownEnd::Stopped, "the run has ended, but the server did not say how"),
        }
    }

    /// After a cancel, the state alone shows that the run has stopped.
    pub(super) fn state_after_cancel(&mut self, state: &State) -> Effect {
        match state {
            State::Active { run_id } if *run_id == self.options.run_id => {}
            State::Unclear | State::NoSession | State::Refused(_) => {}
            State::Active { .. } | State::Idle => {
                self.superseded |= *state != State::Idle;
                self.known_end = KnownEnd::Stopped;
            }
            State::Failed => self.known_end = KnownEnd::StateFailed { tools: true },
        }
        Effect::Continue
    }

    fn end_lost(&mut self, known_end: KnownEnd, message: &str) -> Effect {
        let passes = matches!(known_end, KnownEnd::Restarted { .. });
        self.known_end = known_end;
        // The session's messages may have text that the events did not.
        self.transcript.hold();
        Effect::End(Failure::new(Reason::Lost, message).passing(passes).into())
    }

    /// Takes what only the session's messages tell about a run without a terminal event.
    pub(super) fn told_by_messages(&mut self, history: &History) {
        // The messages of a server that refuses the token are not readable, or not ours.
        let is_refused = matches!(self.phase, Phase::Refused(_));
        match &mut self.known_end {
            KnownEnd::Restarted { answered } if history.known && !is_refused => *answered = history.answered,
            KnownEnd::StateFailed { tools } if history.known && !self.complete => {
                *tools = history.called_tools || self.tally.calls() > 0;
            }
            _ => {}
        }
    }
}

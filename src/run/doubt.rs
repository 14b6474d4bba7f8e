//! Finds out how a run ended when no terminal event comes. Only the server's own answer is a proof: the run has ended
//! when the session's state no longer names the run, and the last events have been replayed.

use super::machine::{Doubt, Machine, Phase};
use super::{Effect, History, STATE_FAILED, State, Uptime};
use crate::outcome::{Failure, Fate, Reason};
use std::time::Duration;

/// Ask for the session's state after this long without an event, and then at this interval.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// The first question comes sooner before the run's first event, because only the state shows a run that died before it
/// (protocol trap 21), and when a proposal may have been lost.
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

impl Machine {
    pub(super) fn ask_state(&mut self) -> Effect {
        self.asked_at = Some(self.quiet.now);
        Effect::AskState
    }

    /// Returns whether to ask for the session's state now: see the constants.
    pub(super) fn is_time_to_ask(&self) -> bool {
        let lost_proposal = self.transcript.is_held() && self.batch.is_empty();
        let (first, again) = match (self.quiet.held_back, self.begun) {
            (true, _) => (ASK_OFTEN, ASK_OFTEN),
            (false, false) => (ASK_EARLY, ASK_OFTEN),
            (false, true) if lost_proposal => (ASK_EARLY, ASK_AFTER),
            (false, true) => (ASK_AFTER, ASK_AFTER),
        };
        let quiet = self.quiet;
        let last_event = quiet.now.saturating_sub(quiet.idle);
        let asked_since = self.asked_at.filter(|asked| *asked >= last_event);
        quiet.idle >= first && asked_since.is_none_or(|asked| quiet.now.saturating_sub(asked) >= again)
    }

    pub(super) fn reconnected(&mut self) -> Effect {
        self.quiet.quiet = Duration::ZERO;
        match self.phase {
            // The answer about the state was the reason to reconnect.
            Phase::Doubting(_) => Effect::Continue,
            Phase::CatchingUp | Phase::Following => self.ask_state(),
        }
    }

    pub(super) fn state(&mut self, state: State) -> Effect {
        match state {
            State::Active { run_id } if run_id == self.options.run_id => {
                if matches!(self.phase, Phase::Doubting(_)) {
                    self.phase = Phase::Following;
                }
                let lost_proposal = self.transcript.is_held() && self.batch.is_empty();
                if self.phase == Phase::Following && lost_proposal { Effect::AskPending } else { Effect::Continue }
            }
            State::Active { .. } | State::Idle => {
                self.superseded |= state != State::Idle;
                // The last event comes again, which shows that the replay has begun.
                self.doubt(Doubt::Stopped, Effect::Replay("the session no longer runs our run"))
            }
            State::Failed => {
                let since = match self.phase {
                    Phase::Doubting(Doubt::Failed { since }) => since,
                    _ => self.quiet.now,
                };
                self.doubt(Doubt::Failed { since }, Effect::Reconnect("the session's state is failed"))
            }
            State::NoSession => {
                let since = match self.phase {
                    Phase::Doubting(Doubt::UnknownSession { since }) => since,
                    _ => self.quiet.now,
                };
                self.doubt(Doubt::UnknownSession { since }, Effect::Continue)
            }
            State::Refused(failure) => self.doubt(Doubt::Refused(failure), Effect::AskHealth),
        }
    }

    /// Returns the longest time until the next [`super::Input::Quiet`], even while the stream is being opened.
    pub const fn patience(&self) -> Option<Duration> {
        match self.phase {
            Phase::Doubting(Doubt::Failed { .. }) => Some(REPLAYED),
            // A run that died before its first event shows only in the state.
            Phase::Following if !self.begun && self.asked_at.is_none() => Some(ASK_EARLY),
            Phase::Doubting(_) | Phase::CatchingUp | Phase::Following => None,
        }
    }

    /// Enters a doubt and returns the effect, or [`Effect::Continue`] if the machine is in this doubt already.
    fn doubt(&mut self, doubt: Doubt, effect: Effect) -> Effect {
        let doubt = Phase::Doubting(doubt);
        if self.phase == doubt {
            return Effect::Continue;
        }
        self.phase = doubt;
        effect
    }

    pub(super) fn doubt_quietly(&mut self) -> Effect {
        let quiet = self.quiet;
        match &self.phase {
            Phase::Doubting(Doubt::Stopped) if quiet.held_back || quiet.heard && quiet.quiet >= REPLAYED => {
                Effect::AskHealth
            }
            // The state `failed` is the server's word. It needs no complete replay.
            Phase::Doubting(Doubt::Failed { since })
                if quiet.idle.min(quiet.now.saturating_sub(*since)) >= REPLAYED =>
            {
                self.state_failed()
            }
            Phase::Doubting(Doubt::UnknownSession { since }) if quiet.now.saturating_sub(*since) >= UNKNOWN => {
                let message = "the server does not know the session; is it another server behind the same address? \
                               The run may be going on";
                self.end_lost(message)
            }
            Phase::Doubting(Doubt::UnknownSession { .. })
                if self.asked_at.is_none_or(|asked| quiet.now.saturating_sub(asked) >= UNKNOWN_AGAIN) =>
            {
                self.ask_state()
            }
            Phase::Doubting(_) | Phase::CatchingUp | Phase::Following => Effect::Continue,
        }
    }

    /// The newest event that a gap named has come.
    pub(super) fn replay_is_over(&mut self) -> Effect {
        self.replay_ends = None;
        match self.phase {
            Phase::Doubting(Doubt::Stopped) => Effect::AskHealth,
            _ => Effect::Continue,
        }
    }

    fn state_failed(&mut self) -> Effect {
        let complete = self.complete && self.begun;
        self.complete = complete;
        // If events are missing, only the messages can tell whether the run called tools.
        self.fate = Fate::StateFailed { tools: !complete || self.tally.tool_calls.proposed > 0 };
        let sandbox = if self.options.sandbox { " (--sandbox: did it start?)" } else { "" };
        let message = format!("{STATE_FAILED}{sandbox}");
        Effect::End(Failure::new(Reason::RunError, message).passing(true).into())
    }

    pub(super) fn health(&mut self, uptime: Option<Uptime>) -> Effect {
        let is_younger = |uptime: Uptime| uptime.run.is_some_and(|run| uptime.server + UPTIME_ROUNDING < run);
        let restarted = uptime.is_some_and(is_younger);
        match &self.phase {
            Phase::Doubting(Doubt::Refused(_)) if restarted => {
                // Without a token, the session's messages cannot tell whether the run completed.
                self.fate = Fate::Restarted { answered: true };
                self.end_lost("the server was restarted, and refuses the token that it accepted before")
            }
            Phase::Doubting(Doubt::Refused(failure)) => Effect::End(failure.clone().into()),
            _ if restarted => {
                self.fate = Fate::Restarted { answered: true };
                self.end_lost("the server was restarted, and the run is gone")
            }
            _ => {
                self.fate = Fate::Stopped;
                self.end_lost("the run has ended, but the server did not say how")
            }
        }
    }

    /// During a cancel: returns whether this state proves that the run has stopped.
    pub fn has_stopped(&mut self, state: &State) -> bool {
        match state {
            State::Active { run_id } if *run_id == self.options.run_id => return false,
            State::NoSession | State::Refused(_) => return false,
            State::Active { .. } | State::Idle => {
                self.superseded |= *state != State::Idle;
                self.fate = Fate::Stopped;
            }
            State::Failed => self.fate = Fate::StateFailed { tools: true },
        }
        true
    }

    fn end_lost(&mut self, message: &str) -> Effect {
        // The session's messages may have text that the events did not.
        self.transcript.hold();
        let passes = matches!(self.fate, Fate::Restarted { .. });
        Effect::End(Failure::new(Reason::Lost, message).passing(passes).into())
    }

    pub(super) fn told_by_messages(&mut self, history: &History) {
        let asked = !matches!(self.phase, Phase::Doubting(Doubt::Refused(_)));
        match &mut self.fate {
            Fate::Restarted { answered } if history.known && asked => *answered = history.answered,
            Fate::StateFailed { tools } if history.known && !self.complete => {
                *tools = history.called_tools || self.tally.tool_calls.proposed > 0;
            }
            _ => {}
        }
    }
}

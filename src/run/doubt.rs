//! What the server says when it does not say how the run ended: the session's state, the server's health. Absence is no
//! proof: the run has ended when the server's own state names it no more, and its last events have been replayed.

use super::machine::{Machine, Phase};
use super::{Effect, History, STATE_FAILED, State, Uptime};
use crate::outcome::{Failure, Fate, Reason};
use std::time::Duration;

/// The session's state is asked for after this long without an event, and again as often.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// Before the first event of the run, and where a proposal may have been lost, the state is asked for sooner: a run that
/// dies before its first event shows only there (protocol trap 21).
const ASK_EARLY: Duration = Duration::from_secs(2);
/// While something holds the stream back, or the run has not begun, the state is asked for this often.
const ASK_OFTEN: Duration = Duration::from_secs(5);
/// A replay is over after this much quiet.
const REPLAYED: Duration = Duration::from_secs(2);
/// A session that the server does not know is asked for again for this long: another replica may have answered.
const UNKNOWN: Duration = Duration::from_secs(5);
/// Between two of those questions.
const UNKNOWN_AGAIN: Duration = Duration::from_millis(500);
/// `/v1/health` tells whole seconds.
const UPTIME_ROUNDING: Duration = Duration::from_secs(1);

/// Why the run may be over although no terminal event was heard.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Doubt {
    /// The session runs nothing, or another run.
    Stopped,
    /// The session's state is `failed` (protocol trap 21).
    Failed { since: Duration },
    /// The server does not know the session.
    UnknownSession { since: Duration },
    /// The server refuses the token that it took before.
    Refused(Failure),
}

impl Machine {
    pub(super) fn ask_state(&mut self) -> Effect {
        self.asked_at = Some(self.quiet.now);
        Effect::AskState
    }

    /// Whether the session's state is to be asked for: see the constants.
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
            // The state is known: that is why the stream was opened anew.
            Phase::Doubting(_) => Effect::Continue,
            Phase::CatchingUp | Phase::Following => self.ask_state(),
        }
    }

    /// What the server says of the session.
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
                self.doubt(Doubt::Stopped, Effect::Reconnect("the session no longer runs our run"))
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

    /// How long the machine can wait for the next [`super::Input::Quiet`], while the stream is being opened.
    pub const fn patience(&self) -> Option<Duration> {
        match self.phase {
            Phase::Doubting(Doubt::Failed { .. }) => Some(REPLAYED),
            // A run that died before its first event shows only in the state.
            Phase::Following if !self.begun && self.asked_at.is_none() => Some(ASK_EARLY),
            Phase::Doubting(_) | Phase::CatchingUp | Phase::Following => None,
        }
    }

    /// Enters a doubt; one that is known already has no effect.
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
            // It needs no replay to its end, not even a byte.
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

    /// The newest event that the server had when it reported a gap has been heard.
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
        // Without every event, only the messages can tell whether it called tools.
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
                // Nobody can ask the session whether it has answered.
                self.fate = Fate::Restarted { answered: true };
                self.end_lost("the server was restarted, and refuses the token that it took before")
            }
            Phase::Doubting(Doubt::Refused(failure)) => Effect::End(failure.clone().into()),
            _ if restarted => {
                self.fate = Fate::Restarted { answered: true };
                self.end_lost("the server was restarted, and the run is gone")
            }
            _ => {
                self.fate = Fate::Stopped;
                self.end_lost("the run has ended, and the server never said how")
            }
        }
    }

    /// Whether the server's own word is that the run, which is being cancelled, goes on no more.
    pub fn has_stopped(&mut self, state: &State) -> bool {
        match state {
            State::Active { run_id } if *run_id == self.options.run_id => return false,
            State::NoSession | State::Refused(_) => return false,
            State::Active { .. } | State::Idle => self.fate = Fate::Stopped,
            State::Failed => self.fate = Fate::StateFailed { tools: true },
        }
        true
    }

    fn end_lost(&mut self, message: &str) -> Effect {
        // The session's messages may have text that was not heard.
        self.transcript.hold();
        let passes = matches!(self.fate, Fate::Restarted { .. });
        Effect::End(Failure::new(Reason::Lost, message).passing(passes).into())
    }

    /// What the messages tell of a run that cannot tell it itself.
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

//! The main loop: gives the stream's events to the machine and performs the effects that the machine returns.

use crate::agent::calls::{AutoApprove, Decision, SessionState};
use crate::agent::events::ToolCall;
use crate::approver::{self, Question};
use crate::client::{CallError, Client, EventStream, Refusal, StreamItem, Word};
use crate::console::Console;
use crate::history;
use crate::outcome::{End, Failure, Reason};
use crate::output::Output;
use crate::progress::seconds;
use crate::run::batch::AskedCalls;
use crate::run::policy::{Ruling, Verdict};
use crate::run::{Effect, Input, Machine, Options, Silence, State, Step, Uptime};
use crate::settings::Follow;
use crate::watchdog::Watch;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often the machine hears about the time while events keep coming.
const TICK: Duration = Duration::from_millis(250);
/// The longest time to read events that arrived before the deadline or signal.
pub(crate) const LAST_READ: Duration = Duration::from_millis(500);

/// What every command needs.
pub struct Context<'a> {
    pub client: &'a Client,
    pub watch: &'a Watch,
    pub console: &'a Console,
    pub output: &'a mut Output,
    pub follow: &'a Follow,
}

/// One run being followed.
pub struct Follower<'a> {
    pub(crate) client: &'a Client,
    pub(crate) watch: &'a Watch,
    pub(crate) console: &'a Console,
    pub(crate) output: &'a mut Output,
    pub(crate) settings: &'a Follow,
    pub(crate) session: Uuid,
    pub(crate) machine: Machine,
    pub(crate) stream: EventStream<'a>,
    began: Instant,
    /// When the prompt was sent, or the server first said that the run is active.
    active_since: Option<Instant>,
    /// When the machine last heard about the time.
    looked: Instant,
    /// When the loop first noticed the deadline or signal.
    cause_seen: Option<Instant>,
}

impl<'a> Follower<'a> {
    /// Creates a follower that has not connected yet. `active_since`: when the prompt was sent, or the server first
    /// said that the run is active.
    pub fn new(
        context: &'a mut Context<'_>,
        session: Uuid,
        options: Options,
        active_since: Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        Self {
            client: context.client,
            watch: context.watch,
            console: context.console,
            output: context.output,
            settings: context.follow,
            session,
            machine: Machine::new(options),
            stream: EventStream::new(context.client, session, 0),
            began: now,
            active_since,
            looked: now,
            cause_seen: None,
        }
    }

    /// Follows the run to its end. `known` is the session's state, if the server was asked for it.
    ///
    /// # Errors
    /// A failure that ends the command before the run. All events that had arrived have been processed.
    pub fn follow(&mut self, known: Option<State>) -> Result<End, Failure> {
        let known = known.map(|state| self.machine.step(Input::State(state)).effect);
        let mut effect = known.unwrap_or(Effect::Continue);
        loop {
            effect = match self.perform(effect) {
                Ok(Effect::End(end)) => return Ok(end),
                Ok(next) => next,
                Err(failure) => return self.hear_what_has_arrived(failure),
            };
        }
    }

    /// Waits for the next event or silence, and returns the machine's effect.
    fn hear(&mut self) -> Result<Effect, Failure> {
        let until = self.wake_at();
        let Self { stream, machine, output, console, .. } = self;
        match stream.next(until) {
            Ok(StreamItem::Event { id, frame, envelope: Ok(envelope) }) => {
                let step = machine.step(Input::Event(id, &envelope));
                if step.fresh {
                    output.event(id, &frame, &envelope, step.text)?;
                }
                if let Some(notice) = &step.notice {
                    console.error(notice);
                }
                Ok(step.effect)
            }
            Ok(StreamItem::Event { envelope: Err(malformed), .. }) => {
                stream.reject(&malformed.0)?;
                Ok(Effect::Continue)
            }
            Ok(StreamItem::Lost { newest }) => Ok(machine.step(Input::Lost { newest }).effect),
            Ok(StreamItem::Reconnected) => Ok(machine.step(Input::Reconnected).effect),
            Ok(StreamItem::Read(silence)) => self.read(silence),
            Ok(StreamItem::Quiet(silence)) => self.quiet(silence),
            // Nothing paces a second try here.
            Err(error) if error.is(&Refusal::NotFound) => Err(error.into()),
            Err(error) => Ok(self.machine.step(Input::State(refused(error)?)).effect),
        }
    }

    /// Runs after all events of one read.
    fn read(&mut self, silence: Silence) -> Result<Effect, Failure> {
        self.output.flush()?;
        if let Some(cause) = self.watch.cause()
            && self.cause_seen.get_or_insert_with(Instant::now).elapsed() >= LAST_READ
        {
            return Err(cause.into());
        }
        // A flood of comments never leaves a read empty, so the idle timeout is checked here too.
        self.check_idle(silence.idle.saturating_sub(LAST_READ))?;
        if self.looked.elapsed() < TICK {
            return Ok(Effect::Continue);
        }
        Ok(self.look(silence))
    }

    /// Runs after a read that found nothing. All events that had arrived count, so the deadline is checked only now.
    fn quiet(&mut self, silence: Silence) -> Result<Effect, Failure> {
        self.output.flush()?;
        self.watch.check()?;
        self.check_idle(silence.idle)?;
        Ok(self.look(silence))
    }

    fn check_idle(&self, idle: Duration) -> Result<(), Failure> {
        let Some(limit) = self.settings.idle_timeout.filter(|limit| idle >= *limit) else { return Ok(()) };
        let message = format!("no event for {} (--idle-timeout)", humantime::format_duration(limit));
        Err(Failure::new(Reason::IdleTimeout, message))
    }

    fn look(&mut self, silence: Silence) -> Effect {
        self.looked = Instant::now();
        self.heartbeat(silence.idle);
        self.output.renew_status();
        self.machine.step(Input::Quiet { silence, now: self.began.elapsed() }).effect
    }

    fn heartbeat(&self, idle: Duration) {
        let beats = !self.settings.heartbeat.is_zero();
        let due = beats && self.console.silence() >= self.settings.heartbeat;
        if due && !self.console.is_live() {
            let (turn, since) = (self.machine.turn(), seconds(idle));
            self.console.progress(&format!("the run goes on: turn {turn}, last event {since} ago"));
        }
    }

    /// Returns when to check the idle timeout or tell the machine the time, even while the stream is being opened.
    fn wake_at(&self) -> Option<Instant> {
        let idle = self.settings.idle_timeout.and_then(|limit| self.stream.last_event().checked_add(limit));
        let machine = self.machine.patience().map(|patience| Instant::now() + patience);
        [idle, machine].into_iter().flatten().min()
    }

    /// Performs an effect and returns the next one.
    fn perform(&mut self, effect: Effect) -> Result<Effect, Failure> {
        let input = match effect {
            Effect::Continue => return self.hear(),
            Effect::End(_) => return Ok(effect),
            Effect::Reconnect(why) => {
                self.stream.reconnect(why);
                return self.hear();
            }
            Effect::Replay(why) => {
                self.stream.replay(why);
                return self.hear();
            }
            Effect::TakeBack(call_id) => {
                self.take_back(&call_id);
                return self.hear();
            }
            Effect::AskProgram(call) => {
                let verdict = self.ask_program(&call)?;
                return self.take(Input::Judged { call_id: &call.id, verdict });
            }
            Effect::AskConfig => self.ask_config()?,
            Effect::Send { decisions, again } => {
                let answer = self.send(&decisions, again)?;
                return self.take(answer);
            }
            Effect::AskState => Input::State(self.ask_state()?),
            Effect::AskHealth => Input::Health(self.ask_health()),
            Effect::AskPending => self.ask_pending()?,
            Effect::AskMessages => Input::Messages(history::read(self.client, self.session).unwrap_or_default()),
        };
        self.take(input)
    }

    /// Gives the machine an answer and shows the text and notice that it returns.
    pub(crate) fn take(&mut self, input: Input<'_>) -> Result<Effect, Failure> {
        let Step { filled_in, notice, effect, .. } = self.machine.step(input);
        if let Some(filled_in) = filled_in {
            self.output.fill_in(filled_in)?;
        }
        if let Some(notice) = notice {
            self.console.error(&notice);
        }
        Ok(effect)
    }

    fn ask_config(&mut self) -> Result<Input<'static>, Failure> {
        let asked = asked_calls(self.client.config()?.auto_approve_mode);
        self.stream.restart_quiet();
        Ok(Input::AskedCalls(asked))
    }

    fn take_back(&mut self, call_id: &str) {
        let rejection = BTreeMap::from([(call_id, Decision::Reject)]);
        if let Err(error) = self.client.decide(self.session, self.machine.run_id(), rejection) {
            log::warn!("a decision may stay on the server for a later call {call_id}: {error}");
        }
        self.stream.restart_quiet();
    }

    fn ask_program(&mut self, call: &ToolCall) -> Result<Verdict, Failure> {
        let question = Question { session_id: self.session, run_id: self.machine.run_id(), tool_call: call };
        let program = self.settings.program.as_deref().unwrap_or_default();
        let verdict = approver::ask(program, &question, approver::PATIENCE, self.watch, self.console)?;
        self.stream.restart_quiet();
        self.stream.restart_idle();
        Ok(verdict)
    }

    fn send<'d>(&mut self, decisions: &'d [(ToolCall, Ruling)], again: bool) -> Result<Input<'d>, Failure> {
        let mut bodies = BTreeMap::new();
        for (call, ruling) in decisions {
            let Some(decision) = ruling.verdict.decision() else { continue };
            let word = if decision == Decision::Accept { "accept" } else { "reject" };
            let again = if again {
                " again: the server dropped this decision, and may apply it to a later call with the same ID"
            } else {
                ""
            };
            self.console.progress(&format!("{word} {} ({}){again}", call.name, call.id));
            log::debug!("decision: {word} {} by {}", call.id, ruling.by.word());
            bodies.insert(call.id.as_str(), decision);
        }
        let sent = self.client.decide(self.session, self.machine.run_id(), bodies);
        self.stream.restart_quiet();
        match sent {
            Ok(()) => Ok(Input::Sent(decisions)),
            // The run has ended, or another one is active. The stream and the session's state will tell.
            Err(error) if error.is(&Refusal::RunNotActive) => {
                self.console.progress(&format!("the server refused the decision: {error}"));
                Ok(Input::Refused)
            }
            Err(error) => Ok(Input::State(refused(error)?)),
        }
    }

    fn ask_state(&mut self) -> Result<State, Failure> {
        let state = match self.client.session(self.session) {
            Ok(state) => session_state(state),
            Err(error) => refused(error)?,
        };
        if matches!(&state, State::Active { run_id } if run_id == self.machine.run_id()) {
            self.active_since.get_or_insert_with(Instant::now);
        }
        Ok(state)
    }

    fn ask_health(&self) -> Option<Uptime> {
        let server = Duration::from_secs(self.client.health().ok()?.uptime_seconds?);
        Some(Uptime { server, run: self.active_since.map(|since| since.elapsed()) })
    }

    /// Returns the pending calls of our run and which of them have finished, to replace a lost proposal.
    fn ask_pending(&mut self) -> Result<Input<'static>, Failure> {
        let pending = match self.client.pending(self.session) {
            Ok(pending) => pending,
            Err(error) => return Ok(Input::State(refused(error)?)),
        };
        let is_ours = pending.run_id.is_some_and(|id| id.to_string() == self.machine.run_id());
        let calls = if is_ours { pending.tool_calls } else { Vec::new() };
        let finished =
            if calls.is_empty() { Vec::new() } else { history::finished_calls(self.client, self.session)? };
        self.stream.restart_quiet();
        Ok(Input::Pending { calls, finished })
    }

    /// Before a failure ends the command, processes the events that have arrived: the run may have ended already.
    fn hear_what_has_arrived(&mut self, failure: Failure) -> Result<End, Failure> {
        if failure.reason == Reason::Output || failure.reason == Reason::Internal {
            return Err(failure);
        }
        let began = Instant::now();
        while began.elapsed() < LAST_READ {
            match self.stream.next(Some(began + LAST_READ)) {
                Ok(StreamItem::Quiet(_) | StreamItem::Event { envelope: Err(_), .. }) | Err(_) => break,
                Ok(StreamItem::Event { id, frame, envelope: Ok(envelope) }) => {
                    let step = self.machine.step(Input::Event(id, &envelope));
                    if step.fresh {
                        self.output.event(id, &frame, &envelope, step.text)?;
                    }
                    if let Effect::End(end) = step.effect {
                        return Ok(end);
                    }
                }
                Ok(StreamItem::Lost { newest }) => {
                    self.machine.step(Input::Lost { newest });
                }
                Ok(StreamItem::Reconnected | StreamItem::Read(_)) => {}
            }
        }
        self.output.flush()?;
        Err(failure)
    }
}

/// Returns the calls that a server with this policy asks about.
pub const fn asked_calls(mode: AutoApprove) -> AskedCalls {
    match mode {
        AutoApprove::None => AskedCalls::EveryCall,
        AutoApprove::All => AskedCalls::NoCall,
        AutoApprove::Custom => AskedCalls::SomeCalls,
    }
}

/// Returns the session's state for the machine.
pub fn session_state(state: SessionState) -> State {
    match state {
        SessionState::Active(run) => State::Active { run_id: run.to_string() },
        SessionState::Failed => State::Failed,
        SessionState::Idle => State::Idle,
        SessionState::Unknown => State::Unclear,
    }
}

/// Returns the state for a refused call: a refused token may mean that the server was restarted (protocol trap 18), and
/// an unknown session that another server has answered.
///
/// # Errors
/// Every other error.
fn refused(error: CallError) -> Result<State, Failure> {
    match error.word {
        Word::Server(Refusal::Unauthorized) => Ok(State::Refused(error.into())),
        Word::Server(Refusal::NotFound) => Ok(State::NoSession),
        _ => Err(error.into()),
    }
}

//! The loop: the stream goes into the machine, and what the machine wants done is done. Reconnects, and the time that
//! the machine is told, are here.

use crate::agent::calls as api;
use crate::agent::events::{self as event, Event, Item, ToolCall};
use crate::agent::sse::{Frame, MAX_EVENT};
use crate::client::{Client, EventStream, Heard, Refusal, Silence, TICK, Word};
use crate::console::{Console, visible};
use crate::outcome::{End, Failure, Reason};
use crate::output::{Output, seconds};
use crate::program::{self, PATIENCE, Question};
use crate::run::batch::{Asks, SETTLED};
use crate::run::policy::{Choices, Judgement, Verdict};
use crate::run::transcript::Healed;
use crate::run::{Act, Input, Run};
use crate::settings::Follow;
use crate::watchdog::Watch;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The longest time for what was said before we came to look, should the stream never fall quiet.
const CATCH_UP: Duration = Duration::from_secs(5);
/// A replay is over, or does not begin, when nothing has come for so long.
const REPLAY: Duration = Duration::from_secs(2);
/// Messages asked for at once.
const PAGE: usize = 20;

/// One run being followed.
pub struct Drive<'a> {
    client: &'a Client,
    watch: &'a Watch,
    console: &'a Console,
    output: &'a mut Output,
    follow: &'a Follow,
    session: Uuid,
    /// What `resume` was told about the calls that wait.
    choices: Choices,
    /// The choices speak of the batch that waited when we came, and of no later one.
    choices_apply: bool,
    /// The machine.
    pub run: Run,
    /// How long the stream has been quiet.
    quiet: Duration,
    began: Instant,
    last_event: Instant,
    looked: Instant,
}

/// Where reading goes from here.
enum Flow {
    On,
    Reconnect(&'static str),
    End(End),
}

impl<'a> Drive<'a> {
    /// A drive that has not begun.
    pub fn new(
        client: &'a Client,
        watch: &'a Watch,
        console: &'a Console,
        output: &'a mut Output,
        follow: &'a Follow,
        session: Uuid,
        run: Run,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            watch,
            console,
            output,
            follow,
            session,
            choices: Choices::default(),
            choices_apply: false,
            run,
            quiet: Duration::ZERO,
            began: now,
            last_event: now,
            looked: now,
        }
    }

    /// Says what becomes of the calls that wait now.
    pub fn choose(&mut self, choices: Choices) {
        self.choices = choices;
        self.choices_apply = true;
    }

    /// Follows the run to its end.
    ///
    /// # Errors
    /// Everything that ends the command before the run has ended.
    pub fn follow(&mut self) -> Result<End, Failure> {
        let mut stream = EventStream::new(self.client, self.session, self.run.cursor);
        self.await_event();
        let mut is_reading = false;
        loop {
            let act = match stream.next(None)? {
                Heard::Event { id, frame } => {
                    if !std::mem::replace(&mut is_reading, true) {
                        // Whoever reads what we write may take his time, which is not the run's.
                        self.watch.arm_idle(None);
                    }
                    self.quiet = Duration::ZERO;
                    match self.frame(id, &frame)? {
                        Ok(act) => act,
                        Err(malformed) => {
                            stream.reject(&malformed)?;
                            Act::Continue
                        }
                    }
                }
                Heard::Lost { .. } => {
                    self.run.lost(stream.cursor());
                    Act::Continue
                }
                Heard::Reconnected => {
                    self.quiet = Duration::ZERO;
                    self.run.step(Input::Reconnected).act
                }
                Heard::Read(silence) => {
                    self.output.flush()?;
                    if std::mem::take(&mut is_reading) {
                        self.last_event = Instant::now();
                    }
                    self.await_event();
                    // A stream that drips never lets a read time out.
                    if self.looked.elapsed() < TICK { Act::Continue } else { self.look(silence) }
                }
                Heard::Quiet(silence) => {
                    self.watch.check()?;
                    self.output.flush()?;
                    self.look(silence)
                }
            };
            match self.settle(act)? {
                Flow::On => {}
                Flow::Reconnect(why) => stream.reconnect(why),
                Flow::End(end) => return Ok(end),
            }
            if self.quiet.is_zero() {
                stream.restart_quiet();
            }
        }
    }

    /// What time brings.
    fn look(&mut self, silence: Silence) -> Act {
        self.looked = Instant::now();
        self.heartbeat();
        self.output.renew_status();
        self.quiet = silence.quiet;
        // Without a connection there is nothing to conclude from silence.
        if silence.quiet.is_zero() && !silence.heard { Act::Continue } else { self.tick_act() }
    }

    /// An event; the error says how it is malformed.
    fn frame(&mut self, id: Option<u64>, frame: &Frame<'_>) -> Result<Result<Act, String>, Failure> {
        self.run.transcript.make_room(frame.data.len());
        let envelope = match event::decode(frame) {
            Ok(Item::Event(envelope)) => envelope,
            Ok(Item::Gap(_)) => return Ok(Ok(Act::Continue)),
            Err(malformed) => return Ok(Err(malformed.0)),
        };
        let step = self.run.step(Input::Event(id, &envelope));
        if step.fresh {
            self.output.event(id, frame, &envelope.event, step.text)?;
            if self.choices_apply {
                self.watch_choices(&envelope.event);
            }
            // What was lost may have been the end of their batch.
            self.choices_apply &= !self.run.transcript.is_held();
        }
        Ok(Ok(step.act))
    }

    /// From here on the silence counts.
    fn await_event(&self) {
        self.watch.arm_idle(self.follow.idle_timeout.map(|limit| (self.last_event, limit)));
    }

    fn tick_act(&mut self) -> Act {
        // A tool that goes on talking never leaves the stream quiet: by then its past has long been told.
        let told = self.run.is_peeking() && self.began.elapsed() >= CATCH_UP;
        let quiet = if told { self.quiet.max(SETTLED) } else { self.quiet };
        self.run.step(Input::Tick { quiet, idle: self.last_event.elapsed() }).act
    }

    /// Does what the machine wants, until it wants to read on.
    fn settle(&mut self, mut act: Act) -> Result<Flow, Failure> {
        loop {
            act = match act {
                Act::Continue => return Ok(Flow::On),
                Act::Reconnect(why) => return Ok(Flow::Reconnect(why)),
                Act::End(end) => return Ok(Flow::End(end)),
                Act::CaughtUp => {
                    self.take_past();
                    self.check_choices()?;
                    self.tick_act()
                }
                Act::Differs => {
                    self.console.error("a turn's whole text is not what had come of it in pieces");
                    Act::Continue
                }
                Act::Learn => {
                    self.run.batch.asks = match self.client.config()?.auto_approve_mode.as_str() {
                        "none" => Asks::Every,
                        "all" => Asks::None,
                        _ => Asks::Some,
                    };
                    self.quiet = Duration::ZERO;
                    self.tick_act()
                }
                Act::Judge(call) => {
                    let verdict = self.judge(&call)?;
                    self.run.batch.judged(&call.id, verdict);
                    self.tick_act()
                }
                Act::Send { decisions, again } => self.send(&decisions, again)?,
                Act::AskState => {
                    let active = self.is_active()?;
                    self.run.step(Input::State { active }).act
                }
                Act::AskPending => {
                    self.adopt_pending()?;
                    Act::Continue
                }
            }
        }
    }

    fn is_active(&self) -> Result<bool, Failure> {
        match self.client.session(self.session) {
            Ok(state) => Ok(state.active_run().as_deref() == Some(self.run.id())),
            Err(error) if error.is(&Refusal::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn judge(&mut self, call: &ToolCall) -> Result<Verdict, Failure> {
        if self.choices_apply
            && let Some(verdict) = self.choices.verdict(&call.id)
        {
            return Ok(verdict);
        }
        match self.follow.policy.judge(&call.name) {
            Judgement::Verdict(verdict) => Ok(verdict),
            Judgement::AskProgram => {
                let (session_id, run_id) = (&self.session.to_string(), self.run.id());
                let question = Question { session_id, run_id, tool_call: call };
                let program = self.follow.program.as_deref().unwrap_or_default();
                self.watch.arm_idle(None);
                let verdict = program::ask(program, &question, PATIENCE, self.watch, self.console);
                self.run.batch.look_away();
                self.quiet = Duration::ZERO;
                self.last_event = Instant::now();
                self.await_event();
                verdict
            }
        }
    }

    fn send(&mut self, decisions: &[(ToolCall, Verdict)], again: bool) -> Result<Act, Failure> {
        for (call, verdict) in decisions {
            let word = match verdict {
                Verdict::Accept => "accept",
                _ => "reject",
            };
            let again = if again { " again: the server dropped the decision" } else { "" };
            self.console.progress(&format!("{word} {} ({}){again}", call.name, call.id));
        }
        match self.client.decide(self.session, self.run.id(), decisions) {
            Ok(()) => {
                self.run.batch.sent(decisions);
                self.quiet = Duration::ZERO;
                Ok(Act::Continue)
            }
            // The run is over, or another one goes on: the stream and the session's state will tell.
            Err(error) if matches!(error.word, Word::Server(Refusal::NotRunning | Refusal::OtherRun)) => {
                self.console.progress(&format!("the server refused the decision: {error}"));
                Ok(Act::AskState)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What was said before we came is no news, even where it must be taken from the messages.
    fn take_past(&mut self) {
        if self.run.transcript.is_held() {
            self.run.transcript.heal(run_texts(self.client, self.session).unwrap_or_default());
        }
    }

    /// All of the past is known: do the choices fit what waits? Nothing has been sent yet.
    fn check_choices(&mut self) -> Result<(), Failure> {
        if self.run.batch.is_empty() {
            self.adopt_pending()?;
        }
        if self.choices.verdict("").is_some() && self.run.batch.undecided().next().is_none() {
            let message = format!("no tool call waits in the session {}; nothing was sent", self.session);
            return Err(Failure::new(Reason::Conflict, message));
        }
        for id in self.choices.named() {
            if !self.run.batch.undecided().any(|call| call.id == id) {
                let message =
                    format!("no call {} waits in the session {}; nothing was sent", visible(id), self.session);
                return Err(Failure::new(Reason::Usage, message));
            }
        }
        Ok(())
    }

    /// Minds the end of the batch that the choices speak of, and what the server did about it by itself.
    fn watch_choices(&mut self, event: &Event<'_>) {
        match event {
            Event::TurnCompleted(_) | Event::TurnStarted(_) | Event::ToolCallsProposed(_) => {
                self.choices_apply = false;
            }
            Event::ToolExecutionStarted(tool)
                if matches!(self.choices.verdict(&tool.tool_call_id), Some(Verdict::Reject(_))) =>
            {
                let id = &*tool.tool_call_id;
                self.console.error(&format!("the server ran the call {id} by itself, which was to be rejected"));
            }
            _ => {}
        }
    }

    /// The proposal has left the server's ring: takes the batch from the calls that wait, and what is known to have
    /// finished from the messages.
    fn adopt_pending(&mut self) -> Result<(), Failure> {
        let pending = self.client.pending(self.session)?;
        if pending.run_id.is_none_or(|id| id.to_string() != self.run.id()) || pending.tool_calls.is_empty() {
            return Ok(());
        }
        let finished = run_messages(self.client, self.session)?;
        self.run.batch.adopt(pending.tool_calls, finished.iter().flat_map(api::Message::results));
        self.quiet = Duration::ZERO;
        Ok(())
    }

    fn heartbeat(&self) {
        if !self.console.is_live() && self.console.silence() >= self.follow.heartbeat {
            let turn = self.run.turns;
            let since = seconds(self.last_event.elapsed());
            self.console.progress(&format!("the run goes on: turn {turn}, last event {since} ago"));
        }
    }

    /// After the end: reads what came after the cursor, for the stop reason and the totals, without showing it. As long
    /// as `client`'s watch lets it, and no longer than the stream takes to fall quiet.
    pub fn read_rest(&mut self, client: &Client, watch: &Watch) -> Result<(), Failure> {
        let mut stream = EventStream::new(client, self.session, self.run.cursor);
        loop {
            match stream.next(None)? {
                Heard::Event { id, frame } => {
                    if let Ok(Item::Event(envelope)) = event::decode(&frame)
                        && let Act::End(_) = self.run.step(Input::Event(id, &envelope)).act
                    {
                        return Ok(());
                    }
                }
                Heard::Quiet(silence) if !silence.quiet.is_zero() => return Ok(()),
                _ => watch.check()?,
            }
        }
    }

    /// After the end: where text was lost, takes it from the session's messages, and shows what was not shown yet.
    pub fn heal(&mut self, client: &Client, watch: &Watch) -> Result<(), Failure> {
        if !self.run.transcript.is_held() {
            return Ok(());
        }
        // The messages are written down after the run's last event (protocol trap 8).
        while !self.run.may_be_running()
            && client.session(self.session).is_ok_and(|state| state.active_run().as_deref() == Some(self.run.id()))
            && watch.sleep(TICK).is_ok()
        {}
        let messages = run_texts(client, self.session).unwrap_or_else(|failure| {
            self.console.error(&format!("events were lost, and the text cannot be had otherwise: {failure}"));
            Vec::new()
        });
        let healed = self.run.transcript.heal(messages);
        if !healed.complete {
            self.console
                .error("some text may be missing: events were lost, and the session's messages lack it too");
        }
        show(self.output, healed)
    }
}

/// Shows text that was held.
pub fn show(output: &mut Output, healed: Healed) -> Result<(), Failure> {
    if healed.continues {
        output.set_turn_begun(false);
    }
    for text in healed.pieces {
        output.text(&text)?;
        output.set_turn_begun(true);
    }
    output.flush()
}

/// The texts of the session's last run, one for each turn that has text. They are whole only once the run has stopped:
/// the server writes them down last of all.
pub fn run_texts(client: &Client, session: Uuid) -> Result<Vec<String>, Failure> {
    let messages = run_messages(client, session)?;
    let said = messages.into_iter().filter(|message| message.role == "assistant");
    Ok(said.map(|message| message.content.text).filter(|text| !text.is_empty()).collect())
}

/// The messages after the last one of a user, which began the session's last run.
fn run_messages(client: &Client, session: Uuid) -> Result<Vec<api::Message>, Failure> {
    let mut offset = client.messages(session, 0, 0)?.total;
    let mut newest_first = Vec::new();
    let mut size = 0;
    while offset > 0 {
        let limit = offset.min(PAGE);
        offset -= limit;
        let page = client.messages(session, offset, limit)?.messages;
        size += page.iter().map(api::Message::size).sum::<usize>();
        if page.is_empty() || size > MAX_EVENT {
            let message = "read the session's messages: they are not as many as the server says, or too large";
            return Err(Failure::new(Reason::Protocol, message));
        }
        for message in page.into_iter().rev() {
            if message.role == "user" {
                offset = 0;
                break;
            }
            newest_first.push(message);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// The run of the session's newest event, if the server still has any, and whether it completed; found by reading until
/// the stream falls quiet.
pub fn last_run(client: &Client, watch: &Watch, session: Uuid) -> Result<Option<(String, bool)>, Failure> {
    let mut last = None;
    let mut stream = EventStream::new(client, session, 0);
    loop {
        match stream.next(None)? {
            Heard::Event { frame, .. } => {
                if let Ok(Item::Event(envelope)) = event::decode(&frame) {
                    let run = envelope.run_id.and_then(|id| Uuid::parse_str(&id).ok());
                    let completed =
                        matches!(&envelope.event, Event::RunCompleted(end) if &*end.stop_reason == "completed");
                    last = run.map(|id| (id.to_string(), completed)).or(last);
                }
            }
            Heard::Quiet(silence) if silence.quiet >= REPLAY => return Ok(last),
            _ => watch.check()?,
        }
    }
}

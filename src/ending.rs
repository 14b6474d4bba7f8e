//! What every command does after it has followed a run: cancel a run that must not go on alone, confirm that it has
//! stopped, read lost text from the session's messages, and make the report.

use crate::client::{CallError, Client, EventStream, Refusal, StreamItem, Word};
use crate::console::Console;
use crate::follow::{Follower, LAST_READ, session_state};
use crate::history;
use crate::outcome::{Class, End, Failure, Reason, Report, Waiting};
use crate::run::transcript::MAX_TEXT;
use crate::run::{History, Input, Machine, State};
use crate::settings::Follow;
use crate::watchdog::OnSignal;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The most time for the cancel.
pub const LAST_CALLS: Duration = Duration::from_secs(5);
/// The most time to read lost text after that: the server writes messages up to 2 s after the last event (trap 8).
pub const LAST_LOOK: Duration = Duration::from_secs(3);
/// The most time to read lost text after a deadline or a signal.
const LAST_GLANCE: Duration = Duration::from_secs(1);
/// How long after the cancel the stream is opened again. The session may stay active after the terminal event (protocol
/// traps 8 and 20), so the stream can tell the end sooner than the state.
const TEARDOWN: Duration = Duration::from_secs(2);
/// The time between two questions for the state of a cancelled run doubles from the first to the longest.
const FIRST_NAP: Duration = Duration::from_millis(20);
const LONGEST_NAP: Duration = Duration::from_millis(250);

/// The result of a cancel.
pub enum Cancel {
    /// The run is known to have ended.
    Ended,
    /// The server accepted the cancel, but cannot interrupt the model (protocol trap 6).
    Accepted,
    /// The server did not accept the cancel, for this reason.
    NotTaken(String),
}

impl Follower<'_> {
    /// Follows the run to its end, and cancels it if it would go on alone. `known` is the session's state, if the
    /// server was asked for it.
    pub fn run(mut self, known: Option<State>) -> Report {
        self.watch.on_signal_say(on_signal(self.settings));
        let followed = guard(|| self.follow(known));
        let end = match (followed, self.watch.cause()) {
            // After a deadline or signal every call fails. The deadline or signal is the reason.
            (Err(failure), Some(cause)) if failure.reason != Reason::Internal => End::Failed(cause.into()),
            (result, _) => result.unwrap_or_else(End::Failed),
        };
        let (resume_hint, cancel_tried) = self.leave(&end);
        self.watch.on_signal_say(OnSignal::NothingToCancel);
        let looked = guard(|| self.last_look());
        self.say_what_else_is_known();
        let mut report = Report {
            known_end: self.machine.known_end().clone(),
            cancel_tried,
            session_id: Some(self.session),
            left_waiting: self.machine.left_waiting(),
            resume_hint,
            run: self.machine.summary(),
            ..Report::new(end)
        };
        if let Err(failure) = looked {
            report.fail(failure);
        }
        report
    }

    /// Cancels a run that would go on alone, unless `--no-cancel` allows it. Returns the resume hint and whether a
    /// cancel was tried.
    fn leave(&mut self, end: &End) -> (Option<String>, bool) {
        let class = match end {
            End::Completed => return (None, false),
            End::Paused(waiting) => {
                return (Some(resume_command(self.session, self.settings, waiting)), false);
            }
            End::Failed(failure) => failure.reason.class(),
        };
        // Before a refusal nothing was sent to the run, unless it was followed already.
        let is_untouched = class == Class::Refusal && !self.machine.has_caught_up();
        if !self.machine.known_end().is_open() || is_untouched {
            return (None, false);
        }
        if self.settings.cancel || class != Class::Cause {
            self.cancel(&self.client.for_last_calls(self.watch.last_calls(LAST_CALLS)));
            return (None, true);
        }
        let command = command("attach", self.session, self.settings, &[]);
        self.console.error(&format!("the run goes on (--no-cancel); to follow it: {command}"));
        (Some(command), false)
    }

    /// Cancels the run, and says whether it has stopped. If a second signal ended the wait for its end, prints the
    /// command that repeats the cancel.
    pub fn cancel(&mut self, client: &Client) {
        let cancel = guard(|| Ok(self.stop(client)));
        let cancel = cancel.unwrap_or_else(|failure| Cancel::NotTaken(failure.message));
        announce(self.console, &cancel);
        if !matches!(cancel, Cancel::Ended) && client.watch().later_signal().is_some() {
            let command = command("cancel", self.session, self.settings, &[]);
            self.console.error(&format!("to cancel the run: {command}"));
        }
    }

    /// Asks the server to cancel the run, and waits until the run has ended or the client's watch ends.
    ///
    /// | cancel | answer | then |
    /// |---|---|---|
    /// | not accepted yet | cancel: accepted | send an empty decision (trap 5) |
    /// | not accepted yet | cancel: refused by the server | ask for the state, and cancel again |
    /// | any | none, or not the server's own | the client tries again until its watch ends |
    /// | any | the terminal event | ended, even while a sandbox is torn down (trap 20) |
    /// | any | state: our run is active | wait, at most 250 ms |
    /// | any | state: idle, failed, or another run | ended; look for the terminal event |
    pub fn stop(&mut self, client: &Client) -> Cancel {
        let watch = client.watch();
        let run = self.machine.run_id().to_owned();
        let (mut refusal, mut taken_at, mut woken): (_, Option<Instant>, _) = (String::new(), None, false);
        let (mut nap, mut reopened) = (FIRST_NAP, None);
        loop {
            if taken_at.is_none() {
                match client.cancel(self.session, &run) {
                    Ok(()) => taken_at = Some(Instant::now()),
                    Err(error) if is_final(&error) => return Cancel::NotTaken(error.message),
                    Err(error) => refusal = error.message,
                }
            }
            // A cancel does not wake a run that waits for approval. An empty decision does, and has no other effect
            // (protocol trap 5).
            if taken_at.is_some() && !woken {
                woken = client.decide(self.session, &run, BTreeMap::new()).is_ok();
            }
            if !self.stream.is_open() && taken_at.is_some_and(|at| at.elapsed() >= TEARDOWN) {
                // The stream that was followed does not connect any more after the deadline or a signal.
                reopened.get_or_insert_with(|| EventStream::new(client, self.session, self.stream.cursor()));
            }
            let until = Instant::now() + nap;
            if !self.hear_more(reopened.as_mut(), until, until) {
                // The check below ends the loop.
                let _ = watch.sleep(until.saturating_duration_since(Instant::now()));
            }
            if !self.machine.known_end().is_open() {
                return Cancel::Ended;
            }
            if let Ok(state) = client.session(self.session) {
                self.machine.step(Input::StateAfterCancel(session_state(state)));
            }
            if !self.machine.known_end().is_open() {
                self.find_terminal_event(client);
                return Cancel::Ended;
            }
            if watch.check().is_err() {
                // Events that have arrived count.
                let now = Instant::now();
                self.hear_more(reopened.as_mut(), now, now + LAST_READ);
                return match (self.machine.known_end().is_open(), taken_at) {
                    (false, _) => Cancel::Ended,
                    (true, Some(_)) => Cancel::Accepted,
                    (true, None) => Cancel::NotTaken(refusal),
                };
            }
            nap = (nap * 2).min(LONGEST_NAP);
        }
    }

    /// Reads the stream as [`hear_rest`] does: the one that was opened again, or else the one that was followed. Returns
    /// whether there was one to read.
    fn hear_more(&mut self, reopened: Option<&mut EventStream<'_>>, until: Instant, flood_until: Instant) -> bool {
        match reopened {
            Some(stream) => hear_rest(stream, &mut self.machine, until, flood_until),
            None => self.stream.is_open() && hear_rest(&mut self.stream, &mut self.machine, until, flood_until),
        }
    }

    /// Reads the terminal event of a run that has ended: it was published before the state changed (protocol trap 8).
    fn find_terminal_event(&mut self, client: &Client) {
        let until = Instant::now() + LAST_GLANCE;
        let mut stream = EventStream::new(client, self.session, self.stream.cursor());
        while !self.machine.has_terminal_event() && Instant::now() < until {
            if !hear_rest(&mut stream, &mut self.machine, until, until) {
                return;
            }
        }
    }

    /// Reads what lost events would have told from the session's messages.
    fn last_look(&mut self) -> Result<(), Failure> {
        if !self.machine.needs_messages() {
            return Ok(());
        }
        let time = if self.watch.cause().is_some() { LAST_GLANCE } else { LAST_LOOK };
        let client = self.client.for_last_calls(self.watch.last_calls(time));
        // The server writes the messages after the run's last event (protocol trap 8).
        let is_active = |client: &Client| {
            client
                .session(self.session)
                .is_ok_and(|state| state.active_run().is_some_and(|run| run.to_string() == self.machine.run_id()))
        };
        while !self.machine.known_end().is_open() && is_active(&client) && client.watch().sleep(LONGEST_NAP).is_ok()
        {
        }
        let history = history::read(&client, self.session).unwrap_or_else(|error| {
            self.console.error(&format!("events were lost, and the session's messages cannot be read: {error}"));
            History::default()
        });
        self.take(Input::Messages(history)).map(drop)
    }

    fn say_what_else_is_known(&self) {
        if self.machine.text_is_cut() {
            let text = format!(
                "the agent's text is longer than {MAX_TEXT} bytes, the most that is kept: the record's text is null"
            );
            self.console.error(&text);
        }
        for name in self.machine.unmatched() {
            self.console.error(&format!("no call was named {name} (--allow-tool, --deny-tool)"));
        }
    }
}

/// Returns whether another cancel would be refused too. A run that is starting accepts none yet, and an unknown
/// session may belong to another replica.
fn is_final(error: &CallError) -> bool {
    match &error.word {
        Word::Server(refusal) => !matches!(
            refusal,
            Refusal::SessionBusy | Refusal::RunNotActive | Refusal::NotFound | Refusal::Unauthorized
        ),
        Word::Permanent | Word::Internal => true,
        Word::Gateway { .. } | Word::Nothing | Word::Broken | Word::OverBound | Word::Stopped(_) => false,
    }
}

/// Reads the stream until `until`, and then what has arrived, but not after `flood_until`. Shows nothing. Returns
/// whether the stream can still be read.
fn hear_rest(stream: &mut EventStream<'_>, machine: &mut Machine, until: Instant, flood_until: Instant) -> bool {
    loop {
        match stream.next(Some(until)) {
            Ok(StreamItem::Event { id, envelope: Ok(envelope), .. }) => {
                machine.step(Input::Event(id, &envelope));
            }
            Ok(StreamItem::Lost { newest }) => {
                machine.step(Input::Lost { newest });
            }
            // A flood of comments or unknown events never leaves a read empty.
            Ok(StreamItem::Read(_)) if Instant::now() >= flood_until => return true,
            Ok(StreamItem::Read(_) | StreamItem::Reconnected | StreamItem::Event { .. }) => {}
            Ok(StreamItem::Quiet(_)) if Instant::now() < until && !machine.has_terminal_event() => {}
            Ok(StreamItem::Quiet(_)) => return true,
            Err(_) => return false,
        }
    }
}

/// Returns what a signal does from the moment the prompt is sent.
pub const fn on_signal(follow: &Follow) -> OnSignal {
    if follow.cancel { OnSignal::CancelRun } else { OnSignal::LeaveRun }
}

pub fn announce(console: &Console, cancel: &Cancel) {
    match cancel {
        Cancel::Ended => console.progress("the run has stopped on the server"),
        Cancel::Accepted => console.error("the cancel was accepted; it stops when the model answers"),
        Cancel::NotTaken(why) => console.error(&format!("the run may still be going on: {why}")),
    }
}

/// Returns the command that approves these calls and no other batch.
pub fn resume_command(session: Uuid, follow: &Follow, waiting: &Waiting) -> String {
    let mut flags = Vec::new();
    flags.extend(waiting.batch.iter().flat_map(|batch| ["--batch".to_owned(), batch.clone()]));
    for call in &waiting.calls {
        // Without the equals sign, such an ID would look like an option.
        if call.id.starts_with('-') {
            flags.push(format!("--approve={}", call.id));
        } else {
            flags.extend(["--approve".to_owned(), call.id.clone()]);
        }
    }
    command("resume", session, follow, &flags)
}

/// Returns a command line about this session, quoted for a shell.
pub fn command(name: &str, session: Uuid, follow: &Follow, flags: &[String]) -> String {
    let mut words = vec!["sortie".to_owned(), name.to_owned(), session.to_string()];
    words.extend_from_slice(flags);
    // `sortie cancel` has no policy flags.
    if name != "cancel" {
        words.extend(follow.policy_flags());
    }
    words.extend(follow.server_flags.iter().cloned());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Quotes a word for a POSIX shell (XCU 2.2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Keeps the panic message off stderr: [`guard`] turns the panic into a failure.
pub fn silence_panics() {
    panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Runs `work`, and turns a panic into a failure with the reason `internal`.
pub fn guard<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Failure::new(Reason::Internal, format!("a bug in sortie: {text}; -v shows where")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_hint_is_quoted_for_a_shell() {
        for (word, expected) in [
            ("--approve-with", "--approve-with"),
            ("", "''"),
            ("./policy --strict", "'./policy --strict'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_panic_becomes_an_internal_failure() {
        silence_panics();
        let failure = guard::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        assert!(failure.message.contains("on purpose"), "{failure}");
    }
}

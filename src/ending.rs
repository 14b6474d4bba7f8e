//! The one way out of a run: leave nothing running, find out how it ended, and say it. Where the end is ours, the run is
//! cancelled and watched until it has stopped; where events were lost, the text is made complete.

use crate::agent::events::decode;
use crate::client::{CallError, Client, EventStream, Heard, Refusal, Word};
use crate::console::Console;
use crate::follow::{Follower, LAST_READ, session_state};
use crate::history;
use crate::outcome::{Class, End, Failure, Reason, Report, Waiting};
use crate::run::transcript::MAX_TEXT;
use crate::run::{History, Input, Machine, State};
use crate::settings::Follow;
use crate::watchdog::{OnSignal, Watch};
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The most time spent on stopping a run that we leave.
pub const LAST_CALLS: Duration = Duration::from_secs(5);
/// The most time spent after that on how the run ended and on lost text: the messages are written up to 2 s after the
/// last event (protocol trap 8).
pub const LAST_LOOK: Duration = Duration::from_secs(3);
/// The same after a deadline or a signal.
const LAST_GLANCE: Duration = Duration::from_secs(1);
/// A run that has said its end may still be active for a while (protocol traps 8 and 20): its stream tells it sooner.
const TEARDOWN: Duration = Duration::from_secs(2);
/// Between two questions for the state of a run that is being stopped: at first, and at most.
const FIRST_NAP: Duration = Duration::from_millis(20);
const LONGEST_NAP: Duration = Duration::from_millis(250);

/// What came of asking the server to cancel the run.
pub enum Cancel {
    /// The run is known to have ended.
    Ended,
    /// The server took the request, but the run goes on: the server cannot interrupt the model (protocol trap 6).
    Accepted,
    /// The server did not take the request: why.
    NotTaken(String),
}

impl Follower<'_> {
    /// Follows the run to its end and leaves nothing running. Returns how it ended. `known`: what the server has said
    /// about the session so far.
    pub fn run(mut self, known: Option<State>) -> Report {
        self.watch.on_signal_say(on_signal(self.settings));
        let followed = guard(|| self.follow(known));
        let end = match (followed, self.watch.cause()) {
            // Everything breaks at a cause: it is the cause that counts.
            (Err(failure), Some(cause)) if failure.reason != Reason::Internal => End::Failed(cause.into()),
            (result, _) => result.unwrap_or_else(End::Failed),
        };
        let (resume_hint, cancel_tried) = self.leave(&end);
        self.watch.on_signal_say(OnSignal::NothingToCancel);
        let healed = guard(|| self.last_look());
        self.say_what_else_is_known();
        let mut report = Report {
            fate: self.machine.fate().clone(),
            cancel_tried,
            session_id: Some(self.session.to_string()),
            left_waiting: self.machine.left_waiting().filter(|_| matches!(end, End::Failed(_))),
            resume_hint,
            run: self.machine.summary(),
            ..Report::new(end)
        };
        if let Err(failure) = healed {
            report.fail(failure);
        }
        report
    }

    /// Cancels a run that would go on without us, unless it is to be left. Returns a command that goes on from here, and
    /// whether a cancel was tried.
    fn leave(&mut self, end: &End) -> (Option<String>, bool) {
        let class = match end {
            End::Completed => return (None, false),
            End::Paused(waiting) => {
                return (Some(resume_command(self.session, self.settings, waiting)), false);
            }
            End::Failed(failure) => failure.reason.class(),
        };
        if !self.machine.fate().is_open() || class == Class::Refusal {
            return (None, false);
        }
        if self.settings.cancel || class != Class::Cause {
            let watch = self.watch.last_calls(LAST_CALLS);
            let client = self.client.with_watch(watch.clone());
            let cancel = guard(|| Ok(self.stop(&client, &watch)));
            let cancel = cancel.unwrap_or_else(|failure| Cancel::NotTaken(failure.message));
            announce(self.console, &cancel);
            announce_later_signal(self.console, &watch, self.session, self.settings, &cancel);
            return (None, true);
        }
        let command = command("attach", self.session, self.settings, &[]);
        self.console.error(&format!("the run goes on (--no-cancel); to follow it: {command}"));
        (Some(command), false)
    }

    /// Asks the server to cancel the run, and watches it until it is known to have ended or `watch` ends.
    ///
    /// | known so far | answer | then |
    /// |---|---|---|
    /// | request not taken | cancel: taken | send an empty decision (trap 5) |
    /// | request not taken | cancel: a refusal of the server's | ask for the state, and cancel again |
    /// | any | a word of something between, or nothing | the client asks again until `watch` ends |
    /// | any | the terminal event | ended, also while a sandbox is torn down (trap 20) |
    /// | any | state: our run | wait, at most 250 ms |
    /// | any | state: nothing, another run, failed | ended; its terminal event may still come |
    pub fn stop(&mut self, client: &Client, watch: &Watch) -> Cancel {
        let run = self.machine.run_id().to_owned();
        let (mut refusal, mut taken_at, mut woken): (_, Option<Instant>, _) = (String::new(), None, false);
        let mut nap = FIRST_NAP;
        loop {
            if taken_at.is_none() {
                match client.cancel(self.session, &run) {
                    Ok(()) => taken_at = Some(Instant::now()),
                    Err(error) if is_final(&error) => return Cancel::NotTaken(error.message),
                    Err(error) => refusal = error.message,
                }
            }
            // Protocol trap 5: a run that waits for approval does not hear a cancel. An empty decision wakes it, and does
            // nothing to a run that is awake.
            if taken_at.is_some() && !woken {
                woken = client.decide(self.session, &run, BTreeMap::new()).is_ok();
            }
            if self.stream.is_open() || taken_at.is_some_and(|at| at.elapsed() >= TEARDOWN) {
                hear_rest(&mut self.stream, &mut self.machine, Instant::now() + nap);
            } else {
                // The loop ends below.
                let _ = watch.sleep(nap);
            }
            if !self.machine.fate().is_open() {
                return Cancel::Ended;
            }
            if client.session(self.session).is_ok_and(|session| self.machine.has_stopped(&session_state(&session)))
            {
                self.find_terminal_event(client);
                return Cancel::Ended;
            }
            if watch.check().is_err() {
                // What has arrived counts.
                hear_rest(&mut self.stream, &mut self.machine, Instant::now());
                return match (self.machine.fate().is_open(), taken_at) {
                    (false, _) => Cancel::Ended,
                    (true, Some(_)) => Cancel::Accepted,
                    (true, None) => Cancel::NotTaken(refusal),
                };
            }
            nap = (nap * 2).min(LONGEST_NAP);
        }
    }

    /// The state says that the run has ended. The server published its last events before (protocol trap 8).
    fn find_terminal_event(&mut self, client: &Client) {
        let until = Instant::now() + LAST_GLANCE;
        let mut stream = EventStream::new(client, self.session, self.stream.cursor());
        while !self.machine.has_terminal_event() && Instant::now() < until {
            if !hear_rest(&mut stream, &mut self.machine, until) {
                return;
            }
        }
    }

    /// Makes the text complete from the session's messages where events were lost, and learns what they tell of the end.
    fn last_look(&mut self) -> Result<(), Failure> {
        if !self.machine.needs_messages() {
            return Ok(());
        }
        let time = if self.watch.cause().is_some() { LAST_GLANCE } else { LAST_LOOK };
        let watch = self.watch.last_calls(time);
        let client = self.client.with_watch(watch.clone());
        // The messages are written after the run's last event (protocol trap 8).
        let is_active = |client: &Client| {
            client.session(self.session).is_ok_and(|session| {
                session.active_run().is_some_and(|run| run.to_string() == self.machine.run_id())
            })
        };
        while !self.machine.fate().is_open() && is_active(&client) && watch.sleep(LONGEST_NAP).is_ok() {}
        let history = history::read(&client, self.session).unwrap_or_else(|error| {
            self.console.error(&format!("events were lost, and the session's messages cannot be read: {error}"));
            History::default()
        });
        self.take(Input::Messages(history)).map(drop)
    }

    /// Lines about what the record says too, and what a person must know.
    fn say_what_else_is_known(&self) {
        if self.machine.text_is_cut() {
            let text = format!(
                "the run said more than {MAX_TEXT} bytes, the most that is kept: the record's text is null"
            );
            self.console.error(&text);
        }
        for name in self.machine.unmatched() {
            self.console.error(&format!("no call was named {name} (--allow-tool, --deny-tool)"));
        }
    }
}

/// Whether the server's own word is that it will not take the cancel. A run that is just starting takes none yet, and a
/// session that is not known may be another replica's.
fn is_final(error: &CallError) -> bool {
    match &error.word {
        Word::Server(refusal) => !matches!(
            refusal,
            Refusal::SessionBusy
                | Refusal::NotRunning
                | Refusal::OtherRun
                | Refusal::NotFound
                | Refusal::Unauthorized
        ),
        Word::Hopeless | Word::Internal => true,
        Word::Between(_) | Word::Nothing | Word::Broken | Word::OverBound | Word::Stopped(_) => false,
    }
}

/// Hears what the stream brings until `until`, and what has arrived by then, without showing it. Returns whether the stream
/// can bring more.
fn hear_rest(stream: &mut EventStream<'_>, machine: &mut Machine, until: Instant) -> bool {
    loop {
        match stream.next(Some(until)) {
            Ok(Heard::Event { id, frame }) => {
                if let Ok(envelope) = decode(&frame) {
                    machine.step(Input::Event(id, &envelope));
                }
            }
            Ok(Heard::Lost { newest }) => {
                machine.step(Input::Lost { newest });
            }
            // A flood of comments or of unknown events never leaves a read empty.
            Ok(Heard::Read(_)) if Instant::now() >= until + LAST_READ => return true,
            Ok(Heard::Read(_) | Heard::Reconnected) => {}
            Ok(Heard::Quiet(_)) if Instant::now() < until && !machine.has_terminal_event() => {}
            Ok(Heard::Quiet(_)) => return true,
            Err(_) => return false,
        }
    }
}

/// What a signal does to a run that is followed, or whose prompt is on its way.
pub const fn on_signal(follow: &Follow) -> OnSignal {
    if follow.cancel { OnSignal::CancelRun } else { OnSignal::LeaveRun }
}

/// Says what came of a cancel.
pub fn announce(console: &Console, cancel: &Cancel) {
    match cancel {
        Cancel::Ended => console.progress("the run has stopped on the server"),
        Cancel::Accepted => console.error("the cancel was accepted; it stops when the model answers"),
        Cancel::NotTaken(why) => console.error(&format!("the run may still be going on: {why}")),
    }
}

/// Says how to repeat a cancel whose end a later signal gave up waiting for.
pub fn announce_later_signal(console: &Console, watch: &Watch, session: Uuid, follow: &Follow, cancel: &Cancel) {
    if !matches!(cancel, Cancel::Ended) && watch.later_signal().is_some() {
        console.error(&format!("to cancel the run: {}", command("cancel", session, follow, &[])));
    }
}

/// The command that approves just these calls: another batch is refused.
pub fn resume_command(session: Uuid, follow: &Follow, waiting: &Waiting) -> String {
    let batch = waiting.batch.iter().flat_map(|batch| ["--batch", batch]);
    let calls = waiting.calls.iter().flat_map(|call| ["--approve", &call.id]);
    command("resume", session, follow, &batch.chain(calls).collect::<Vec<_>>())
}

/// A command line that goes on from here, ready to be pasted into a shell.
pub fn command(name: &str, session: Uuid, follow: &Follow, flags: &[&str]) -> String {
    let mut words = vec!["sortie".to_owned(), name.to_owned(), session.to_string()];
    words.extend(flags.iter().map(ToString::to_string));
    // A cancel decides nothing, and takes no policy.
    let policy = if name == "cancel" { &[][..] } else { &follow.policy_flags };
    words.extend(policy.iter().chain(&follow.server_flags).cloned());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it (XCU 2.2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A panic is a bug of ours, told as one line with the reason `internal`, not as a trace.
pub fn silence_panics() {
    panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Runs what must not take the whole process with it.
///
/// # Errors
/// Those of `work`; `Internal` for a panic.
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
    fn a_command_to_paste_is_quoted_as_a_shell_needs_it() {
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
    fn a_panic_becomes_an_internal_failure_in_one_line() {
        silence_panics();
        let failure = guard::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        assert!(failure.message.contains("on purpose"), "{failure}");
    }
}

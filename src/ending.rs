//! One run followed to its end, and nothing left behind that should not be: where the end is ours, the run is cancelled
//! and watched until it has stopped; where events were lost, the text is made whole.

use crate::client::Client;
use crate::console::Console;
use crate::follow::Drive;
use crate::outcome::{End, Failure, PauseReason, Reason, Record};
use crate::output::Output;
use crate::run::batch::Asks;
use crate::run::policy::Choices;
use crate::run::transcript::MAX_TEXT;
use crate::run::{self, Run, Start};
use crate::settings::{self, Follow};
use crate::stop::{Stopped, stop};
use crate::watchdog::Watch;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The most time spent on stopping a run that we leave.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// The most time spent after that on how the run ended and on lost text: the messages are written down up to 2 s after
/// the last event (protocol trap 8).
const LAST_LOOK: Duration = Duration::from_secs(3);
/// The same where there is a cause to end.
const LAST_GLANCE: Duration = Duration::from_secs(1);
/// For an error, should that not be enough.
const STOPPING: &str = "the most for stopping a run";
/// A prompt may arrive so long after we have given up on it.
const LATE: Duration = Duration::from_secs(2);

/// What a command works with.
pub struct Job<'a> {
    /// The server.
    pub client: Client,
    /// When to stop waiting.
    pub watch: &'a Watch,
    /// stderr.
    pub console: &'a Console,
    /// stdout and the record.
    pub output: &'a mut Output,
}

/// How a run came to be followed.
pub struct Way {
    /// Which run.
    pub run_id: String,
    /// About which calls the server asks.
    pub asks: Asks,
    /// What is known of it.
    pub start: Start,
    /// What was said of the calls that wait.
    pub choices: Option<Choices>,
}

impl Job<'_> {
    /// Follows a run to its end.
    pub fn follow(&mut self, session: Uuid, way: Way, follow: &Follow) -> Record {
        let run = Run::new(run::Options {
            run_id: way.run_id,
            asks: way.asks,
            keep: self.output.keep(),
            start: way.start,
            fail_on_tool_error: follow.fail_on_tool_error,
        });
        let mut drive = Drive::new(&self.client, self.watch, self.console, self.output, follow, session, run);
        if let Some(choices) = way.choices {
            drive.choose(choices);
        }
        let followed = guard(|| drive.follow());
        self.watch.arm_idle(None);
        let mut end = match (followed, self.watch.cause()) {
            // Everything breaks at a cause: it is the cause that counts.
            (Err(failure), Some(cause)) if failure.reason != Reason::Internal => End::Failed(cause.into()),
            (result, _) => result.unwrap_or_else(End::Failed),
        };
        let mut hint = None;
        let mut confirmed = None;
        match &mut end {
            End::Failed(failure) if drive.run.may_be_running() && !is_refusal(failure) => {
                if follow.cancel || !is_cause(failure) {
                    let watch = Watch::until(LAST_CALLS, STOPPING);
                    confirmed = Some(stop_run(&self.client, self.console, session, drive.run.id(), &watch));
                } else {
                    let command = command("attach", session, follow, &[]);
                    self.console.error(&format!("the run goes on (--no-cancel); to follow it: {command}"));
                    hint = Some(command);
                }
                failure.retryable &= confirmed == Some(true);
            }
            End::Paused(_) => hint = Some(command("resume", session, follow, &["--approve-all"])),
            _ => {}
        }
        let time = if self.watch.cause().is_some() { LAST_GLANCE } else { LAST_LOOK };
        let watch = Watch::until(time, "the most for a last look");
        let client = self.client.with_watch(watch.clone());
        if confirmed == Some(true) {
            // For the stop reason and the totals; what it lacks the record leaves out.
            let _ = guard(|| drive.read_rest(&client, &watch));
        }
        let healed = guard(|| drive.heal(&client, &watch));
        let run = drive.run;
        if run.transcript.is_cut() {
            self.console.error(&format!(
                "the run said more than {MAX_TEXT} bytes: the record has its last turn's text alone"
            ));
        }
        let mut record = Record::new(end);
        if run.batch.may_wait() && run.may_be_running() && confirmed != Some(true) {
            record.pause_reason = Some(PauseReason::on(run.batch.undecided().cloned().collect()));
        }
        record.session_id = Some(session.to_string());
        record.cancel_confirmed = confirmed;
        record.resume_hint = hint;
        run.fill(&mut record);
        if let Err(failure) = healed {
            record.fail(failure);
        }
        record
    }

    /// The prompt was refused, or nobody knows whether it arrived: then a run may be going on unattended.
    pub fn unsent(&self, session: Uuid, settings: &settings::Run, key: &str, mut failure: Failure) -> Record {
        let mut record = Record::new(End::Completed);
        if failure.in_doubt {
            if settings.follow.cancel || !is_cause(&failure) {
                let watch = Watch::until(LAST_CALLS, STOPPING);
                record.run_id = self.find_run(session, settings, key, &watch);
                let run = record.run_id.as_deref();
                record.cancel_confirmed = run.map(|run| stop_run(&self.client, self.console, session, run, &watch));
            }
            if record.run_id.is_none() {
                let command = command("attach", session, &settings.follow, &[]);
                self.console.error(&format!("nobody knows whether the prompt arrived; to look: {command}"));
                record.resume_hint = Some(command);
            }
            failure.retryable &= record.cancel_confirmed == Some(true);
        }
        record.session_id = Some(session.to_string());
        record.fail(failure);
        record
    }

    /// The run of a prompt whose answer was lost, if there is one. What lies between us and the server may deliver the
    /// prompt a moment after we have given up.
    fn find_run(&self, session: Uuid, settings: &settings::Run, key: &str, watch: &Watch) -> Option<String> {
        let client = self.client.with_watch(watch.clone());
        let began = Instant::now();
        loop {
            match client.session(session).map(|state| state.active_run()) {
                // Whose is it? Under the same key the server tells, without starting another.
                Ok(Some(_)) if settings.session.is_some() => {
                    return client.send(session, &settings.message, key).ok().map(|id| id.to_string());
                }
                Ok(Some(run)) => return Some(run),
                _ if began.elapsed() > LATE => return None,
                _ => watch.sleep(Duration::from_millis(100)).ok()?,
            }
        }
    }
}

/// Refused before anything was sent: the run is none of our business.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Usage | Reason::Conflict)
}

/// What `--no-cancel` speaks of.
fn is_cause(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Timeout | Reason::IdleTimeout | Reason::Interrupted)
}

/// Stops a run that we leave; whether it is known to have stopped.
fn stop_run(client: &Client, console: &Console, session: Uuid, run: &str, watch: &Watch) -> bool {
    let stopped = stop(&client.with_watch(watch.clone()), session, run, watch);
    match &stopped {
        Stopped::Confirmed => console.progress("the run has stopped on the server"),
        Stopped::Accepted => console.error("the cancel was accepted; the run stops when the model answers"),
        Stopped::Failed(failure) => console.error(&format!("the run may still be going on: {failure}")),
    }
    matches!(stopped, Stopped::Confirmed)
}

/// A command line that goes on from here, ready to be pasted into a shell.
fn command(name: &str, session: Uuid, follow: &Follow, flags: &[&str]) -> String {
    let mut words = vec!["sortie".to_owned(), name.to_owned(), session.to_string()];
    words.extend(flags.iter().map(ToString::to_string));
    words.extend(follow.policy_flags.iter().chain(&follow.server_flags).cloned());
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

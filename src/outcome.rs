//! How a command ended: the one place that knows the exit codes and the reasons, and the record that tells them to
//! machines.

use crate::agent::events::{ToolCall, Usage};
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// What the process tells its caller. No other code ever leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: the server said that the run completed (or the command did its plain work).
    Completed,
    /// 1: anything else.
    Failed,
    /// 10: tool calls wait for approval.
    Paused,
}

impl Exit {
    /// The record's `outcome`.
    const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Paused => "paused",
        }
    }

    /// The code as a number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Failed => 1,
            Self::Paused => 10,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not simply complete. The names, in snake case, are the record's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    ToolApprovalRequired,
    Cancelled,
    MaxTurns,
    MaxTokens,
    MaxToolCalls,
    RunError,
    Timeout,
    IdleTimeout,
    Interrupted,
    Connection,
    Lost,
    Auth,
    NotFound,
    Conflict,
    Server,
    Usage,
    Protocol,
    Output,
    ToolError,
    Internal,
}

/// What a reason means for the run that it ends. Every rule that depends on a reason asks for its class, so that a new
/// reason cannot be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command was refused before it touched the run: there is nothing to cancel.
    Refusal,
    /// The deadline, the idle timeout or a signal ended it: `--no-cancel` leaves the run going.
    Cause,
    /// Nothing more can be heard of the run, for a while or for good.
    Contact,
    /// The run itself, the server or this program failed.
    Fault,
    /// No failure: tool calls wait for approval.
    Pause,
}

impl Reason {
    /// The reason's class.
    pub const fn class(self) -> Class {
        match self {
            Self::ToolApprovalRequired => Class::Pause,
            Self::Usage | Self::Conflict => Class::Refusal,
            Self::Timeout | Self::IdleTimeout | Self::Interrupted => Class::Cause,
            Self::Connection => Class::Contact,
            Self::Cancelled
            | Self::MaxTurns
            | Self::MaxTokens
            | Self::MaxToolCalls
            | Self::RunError
            | Self::Lost
            | Self::Auth
            | Self::NotFound
            | Self::Server
            | Self::Protocol
            | Self::Output
            | Self::ToolError
            | Self::Internal => Class::Fault,
        }
    }

    /// Whether one of the two timeouts is meant, for the record's `timed_out`.
    const fn is_timeout(self) -> bool {
        matches!(self, Self::Timeout | Self::IdleTimeout)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A failure's line is cut after this many characters: it may quote what a server said.
const MAX_MESSAGE: usize = 2048;

/// One failure, in one line: what we were doing, with what, why it failed, and what to do about it where that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The record's `reason`.
    pub reason: Reason,
    /// The line.
    pub message: String,
    /// Whether a failure of this kind passes: the same command may succeed later. [`Fate`] says whether it is safe to
    /// repeat it.
    pub passes: bool,
}

impl Failure {
    /// A failure. It passes where the reason lies with time, a signal or the network.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let passes = matches!(reason.class(), Class::Cause | Class::Contact);
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { reason, message, passes }
    }

    /// A mistake on the command line, in the environment or in a file that they name.
    pub fn usage(error: &anyhow::Error) -> Self {
        Self::new(Reason::Usage, format!("{error:#}"))
    }

    /// Sets whether a failure of this kind passes.
    #[must_use]
    pub fn passing(mut self, passes: bool) -> Self {
        self.passes = passes;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// How a command ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// `RunCompleted` with `stop_reason: completed`, or the plain work of a command is done.
    Completed,
    /// These calls wait for approval.
    Paused(Waiting),
    /// Anything else.
    Failed(Failure),
}

/// Tool calls that wait for approval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// The name of their batch: the first 8 digits of the run's id, a dot, and the event ID of the proposal. `None`
    /// where the proposal has left the server's ring.
    pub batch: Option<String>,
    /// The calls that are not yet decided, from the one the server is stopped at onward.
    pub calls: Vec<ToolCall>,
}

impl End {
    /// The exit code that goes with it.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Completed => Exit::Completed,
            Self::Paused(_) => Exit::Paused,
            Self::Failed(_) => Exit::Failed,
        }
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What is known of the run at the end of the command, on the server's own word. Absence is no proof: what nobody said
/// is [`Fate::Open`].
///
/// | fate | retryable | `cancel_confirmed`, if a cancel was tried | `stop_reason` |
/// |---|---|---|---|
/// | `NeverRan` | if the failure passes | – | null |
/// | `Open` | false | false | null |
/// | `Completed`, with another word | if the failure passes | true | the word |
/// | `Completed("completed")` | false | true | `completed` |
/// | `Errored` | if the failure passes | true | null |
/// | `StateFailed { tools: false }` | if the failure passes | true | null |
/// | `StateFailed { tools: true }` | false | true | null |
/// | `Stopped` | false: it may have completed | true | null |
/// | `Restarted { answered: false }` | if the failure passes | true | null |
/// | `Restarted { answered: true }` | false: it may have completed | true | null |
///
/// Tasks that may go on beside the run (protocol trap 17) make every row not retryable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The prompt never left us, or the server refused it.
    NeverRan,
    /// The run may be going on, or waits.
    Open,
    /// `RunCompleted`, with this stop reason.
    Completed(String),
    /// `RunError`.
    Errored,
    /// The session's state is `failed` (protocol trap 21), and whether the run had called tools.
    StateFailed { tools: bool },
    /// The session's state no longer names the run, and its terminal event cannot be had.
    Stopped,
    /// The server was restarted, and whether the messages end with a finished answer to the prompt.
    Restarted { answered: bool },
}

impl Fate {
    /// Whether the run may be going on.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Whether the run never was, or has ended without having completed, so that the same prompt may be sent again.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::NeverRan | Self::Errored => true,
            Self::Completed(stop_reason) => stop_reason != COMPLETED,
            Self::StateFailed { tools } => !tools,
            Self::Restarted { answered } => !answered,
            Self::Open | Self::Stopped => false,
        }
    }

    fn stop_reason(&self) -> Option<&str> {
        match self {
            Self::Completed(stop_reason) => Some(stop_reason),
            _ => None,
        }
    }
}

/// The stop reason of a run that did what it was asked.
pub const COMPLETED: &str = "completed";

/// What became of the run's tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToolCounts {
    /// Calls that the model asked for.
    pub proposed: u64,
    /// Calls that were run, whoever accepted them.
    pub accepted: u64,
    /// Calls that were refused, by us or by the server.
    pub rejected: u64,
    /// Calls that were run and reported an error.
    pub failed: u64,
}

/// One decision of ours about a tool call, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided {
    pub tool_call_id: String,
    pub name: String,
    /// `accept` or `reject`.
    pub verdict: &'static str,
    /// Who decided: `flag` (`resume --approve` and its kin), `policy` or `program`.
    pub by: &'static str,
    /// The reason that went to the model.
    pub reason: Option<String>,
}

/// A task that a tool call started beside the run (protocol trap 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackgroundTask {
    pub tool_call_id: String,
    pub name: String,
}

/// What was heard of a run.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    pub run_id: Option<String>,
    /// The last turn's text.
    pub agent_message: Option<String>,
    /// All turns' text.
    pub text: Option<String>,
    /// The record's `text` is null because the run said more than is kept.
    pub text_is_cut: bool,
    pub turns: u64,
    pub finish_reason: Option<String>,
    pub usage: Option<Usage>,
    pub tool_calls: ToolCounts,
    pub decisions: Vec<Decided>,
    pub background_tasks: Vec<BackgroundTask>,
    pub last_event_id: Option<u64>,
}

/// How a command ended, and everything that the record and the closing line say about it.
#[derive(Clone, Debug)]
pub struct Report {
    pub end: End,
    pub fate: Fate,
    /// We asked the server to cancel the run.
    pub cancel_tried: bool,
    pub session_id: Option<String>,
    pub run: RunSummary,
    /// Calls that an end which is no pause leaves waiting.
    pub left_waiting: Option<Waiting>,
    /// A command that goes on from here, ready to be pasted into a shell.
    pub resume_hint: Option<String>,
    /// The server's URL.
    pub server: Option<String>,
    /// What the server said of its version, where it was asked.
    pub server_version: Option<String>,
    pub rehearsal: bool,
    pub started_at: SystemTime,
    pub duration: Duration,
}

impl Report {
    /// The report of a command that touched no run.
    pub fn new(end: End) -> Self {
        Self {
            end,
            fate: Fate::NeverRan,
            cancel_tried: false,
            session_id: None,
            run: RunSummary::default(),
            left_waiting: None,
            resume_hint: None,
            server: None,
            server_version: None,
            rehearsal: false,
            started_at: SystemTime::now(),
            duration: Duration::ZERO,
        }
    }

    /// A failure after the end. The first cause wins: it changes only an end that was no failure.
    pub fn fail(&mut self, failure: Failure) {
        if let End::Paused(waiting) = &mut self.end {
            self.left_waiting = Some(std::mem::take(waiting));
        }
        if !matches!(self.end, End::Failed(_)) {
            self.end = End::Failed(failure);
        }
    }

    /// The failure, if the command failed.
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.end {
            End::Failed(failure) => Some(failure),
            End::Completed | End::Paused(_) => None,
        }
    }

    /// Whether the same command may be given again without doing the work twice: see [`Fate`].
    pub fn retryable(&self) -> bool {
        let passes = self.failure().is_some_and(|failure| failure.passes);
        passes && self.fate.may_be_repeated() && self.run.background_tasks.is_empty()
    }

    /// Whether the cancel is known to have worked; `None` if none was tried.
    pub fn cancel_confirmed(&self) -> Option<bool> {
        self.cancel_tried.then(|| !self.fate.is_open())
    }

    /// The failure's line.
    pub fn error(&self) -> Option<String> {
        let failure = self.failure()?;
        let completed = self.fate.stop_reason() == Some(COMPLETED) && failure.reason != Reason::ToolError;
        let suffix = if completed { "; it completed all the same" } else { "" };
        Some(format!("{failure}{suffix}"))
    }

    /// The calls that wait for approval now.
    pub const fn waiting(&self) -> Option<&Waiting> {
        match &self.end {
            End::Paused(waiting) => Some(waiting),
            End::Completed | End::Failed(_) => self.left_waiting.as_ref(),
        }
    }

    /// The result record.
    pub fn record(&self) -> Record<'_> {
        let exit = self.end.exit();
        let reason = match &self.end {
            End::Completed => None,
            End::Paused(_) => Some(Reason::ToolApprovalRequired),
            End::Failed(failure) => Some(failure.reason),
        };
        Record {
            r#type: "result",
            outcome: exit.name(),
            exit_code: exit.code(),
            reason,
            retryable: self.retryable(),
            error: self.error(),
            session_id: self.session_id.as_deref(),
            run_id: self.run.run_id.as_deref(),
            agent_message: self.run.agent_message.as_deref(),
            text: self.run.text.as_deref(),
            turns: self.run.turns,
            stop_reason: self.fate.stop_reason(),
            finish_reason: self.run.finish_reason.as_deref(),
            usage: self.run.usage,
            tool_calls: self.run.tool_calls,
            decisions: &self.run.decisions,
            background_tasks: &self.run.background_tasks,
            timed_out: reason.is_some_and(Reason::is_timeout),
            paused: exit == Exit::Paused,
            pause_reason: self.waiting().map(PauseReason::on),
            resume_hint: self.resume_hint.as_deref(),
            cancel_confirmed: self.cancel_confirmed(),
            last_event_id: self.run.last_event_id,
            started_at: humantime::format_rfc3339_seconds(self.started_at).to_string(),
            server: self.server.as_deref(),
            server_version: self.server_version.as_deref(),
            sortie_version: env!("SORTIE_VERSION"),
            rehearsal: self.rehearsal,
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The result record: printed last by `json` and `stream-json`, and written to `--result-file`. Every key is always
/// there; `null` where it does not apply.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    r#type: &'static str,
    outcome: &'static str,
    exit_code: u8,
    reason: Option<Reason>,
    retryable: bool,
    error: Option<String>,
    session_id: Option<&'a str>,
    run_id: Option<&'a str>,
    agent_message: Option<&'a str>,
    text: Option<&'a str>,
    turns: u64,
    stop_reason: Option<&'a str>,
    finish_reason: Option<&'a str>,
    usage: Option<Usage>,
    tool_calls: ToolCounts,
    decisions: &'a [Decided],
    background_tasks: &'a [BackgroundTask],
    timed_out: bool,
    paused: bool,
    pause_reason: Option<PauseReason<'a>>,
    resume_hint: Option<&'a str>,
    cancel_confirmed: Option<bool>,
    last_event_id: Option<u64>,
    started_at: String,
    duration_ms: u64,
    server: Option<&'a str>,
    server_version: Option<&'a str>,
    sortie_version: &'static str,
    rehearsal: bool,
}

/// What a run waits for; also given by an end that leaves it waiting.
#[derive(Debug, Serialize)]
struct PauseReason<'a> {
    r#type: Reason,
    batch: Option<&'a str>,
    pending_tool_calls: &'a [ToolCall],
}

impl<'a> PauseReason<'a> {
    fn on(waiting: &'a Waiting) -> Self {
        let batch = waiting.batch.as_deref();
        Self { r#type: Reason::ToolApprovalRequired, batch, pending_tool_calls: &waiting.calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused() -> End {
        let calls = vec![ToolCall { id: "a".into(), name: "p__t".into(), arguments: Default::default() }];
        End::Paused(Waiting { batch: None, calls })
    }

    fn failed(reason: Reason) -> End {
        Failure::new(reason, "why").into()
    }

    #[test]
    fn each_end_has_its_code_and_its_record() {
        // end → code, outcome, reason, retryable, error, timed out
        let rows = [
            (End::Completed, 0, "completed", None, false, None, false),
            (paused(), 10, "paused", Some(Reason::ToolApprovalRequired), false, None, false),
            (failed(Reason::RunError), 1, "failed", Some(Reason::RunError), false, Some("why"), false),
            (failed(Reason::Timeout), 1, "failed", Some(Reason::Timeout), true, Some("why"), true),
            (failed(Reason::IdleTimeout), 1, "failed", Some(Reason::IdleTimeout), true, Some("why"), true),
            (failed(Reason::Interrupted), 1, "failed", Some(Reason::Interrupted), true, Some("why"), false),
            (failed(Reason::Connection), 1, "failed", Some(Reason::Connection), true, Some("why"), false),
            (failed(Reason::Lost), 1, "failed", Some(Reason::Lost), false, Some("why"), false),
            (failed(Reason::Usage), 1, "failed", Some(Reason::Usage), false, Some("why"), false),
        ];
        for (end, code, outcome, reason, retryable, error, timed_out) in rows {
            assert_eq!(ExitCode::from(end.exit()), ExitCode::from(code), "{end:?}");
            let report = Report::new(end.clone());
            let record = report.record();
            let told = (record.exit_code, record.outcome, record.reason, record.retryable);
            assert_eq!(told, (code, outcome, reason, retryable), "{end:?}");
            assert_eq!((record.error.as_deref(), record.timed_out), (error, timed_out), "{end:?}");
            assert_eq!((record.paused, record.pause_reason.is_some()), (code == 10, code == 10), "{end:?}");
        }
        assert_eq!(Reason::ToolApprovalRequired.to_string(), "tool_approval_required");
    }

    /// The table at the head of [`Fate`].
    #[test]
    fn what_is_known_of_the_run_decides_what_the_record_claims() {
        let completed = |word: &str| Fate::Completed(word.into());
        // fate → retryable, cancel_confirmed, stop_reason
        let rows = [
            (Fate::NeverRan, true, true, None),
            (Fate::Open, false, false, None),
            (completed("cancelled"), true, true, Some("cancelled")),
            (completed("completed"), false, true, Some("completed")),
            (Fate::Errored, true, true, None),
            (Fate::StateFailed { tools: false }, true, true, None),
            (Fate::StateFailed { tools: true }, false, true, None),
            (Fate::Stopped, false, true, None),
            (Fate::Restarted { answered: false }, true, true, None),
            (Fate::Restarted { answered: true }, false, true, None),
        ];
        for (fate, retryable, confirmed, stop_reason) in rows {
            for passes in [true, false] {
                for tasks in [false, true] {
                    let failure = Failure::new(Reason::Timeout, "late").passing(passes);
                    let mut report = Report { fate: fate.clone(), ..Report::new(failure.into()) };
                    if tasks {
                        let task = BackgroundTask { tool_call_id: "a".into(), name: "p__t".into() };
                        report.run.background_tasks.push(task);
                    }
                    assert_eq!(report.record().cancel_confirmed, None, "{fate:?}: none was tried");
                    report.cancel_tried = true;
                    let record = report.record();
                    let told = (record.retryable, record.cancel_confirmed, record.stop_reason);
                    let expected = (retryable && passes && !tasks, Some(confirmed), stop_reason);
                    assert_eq!(told, expected, "{fate:?} {passes} {tasks}");
                    let says_so = record.error.is_some_and(|error| error.contains("it completed all the same"));
                    assert_eq!(says_so, stop_reason == Some("completed"), "{fate:?}");
                }
            }
        }
    }

    #[test]
    fn a_later_failure_changes_only_an_end_that_was_none() {
        for (end, code, reason) in [
            (End::Completed, 1, Reason::Output),
            (paused(), 1, Reason::Output),
            (failed(Reason::Lost), 1, Reason::Lost),
        ] {
            let mut report = Report::new(end.clone());
            report.fail(Failure::new(Reason::Output, "full"));
            let record = report.record();
            assert_eq!((record.exit_code, record.reason, record.paused), (code, Some(reason), false));
            assert_eq!(record.pause_reason.is_some(), end == paused(), "what waits is told all the same");
        }
    }

    #[test]
    fn a_failures_line_has_an_end() {
        let long = Failure::new(Reason::RunError, "é".repeat(MAX_MESSAGE + 1));
        assert_eq!(long.message, format!("{}…", "é".repeat(MAX_MESSAGE)));
        let just = Failure::new(Reason::RunError, "é".repeat(MAX_MESSAGE));
        assert_eq!(just.message.chars().count(), MAX_MESSAGE);
        assert_eq!(just.to_string(), just.message);
    }
}

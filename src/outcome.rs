//! How a command ended: the exit codes, the reasons and the result record.

use crate::agent::events::{ToolCall, Usage};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// The exit code of the process. There is no other one. The record's `outcome` is the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 0: the server said that the run completed, or the command has done its work.
    Completed,
    /// 1: everything else.
    Failed,
    /// 10: tool calls wait for approval.
    Paused,
}

impl Exit {
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

/// Why a command failed. The record's `reason` is the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
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

/// What a reason means for the run. Rules that depend on a reason ask for its class, so that the compiler asks about
/// a new reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command was refused before it touched the run, so there is nothing to cancel.
    Refusal,
    /// The deadline, the idle timeout or a signal ended the command: with `--no-cancel` the run goes on.
    Cause,
    /// The connection to the server was lost.
    Contact,
    /// The run, the server or this program failed.
    Fault,
}

impl Reason {
    pub const fn class(self) -> Class {
        match self {
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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The longest message of a failure, in characters. It may quote the server.
const MAX_MESSAGE: usize = 2048;

/// A failure and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// One line: what failed, on what, why, and what to do if there is something to do.
    pub message: String,
    /// Whether the same command may succeed later. [`KnownEnd`] tells whether it is safe to repeat the command.
    pub passes: bool,
}

impl Failure {
    /// Creates a failure. It passes if the reason is a timeout, a signal or the network.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let passes = matches!(reason.class(), Class::Cause | Class::Contact);
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { reason, message, passes }
    }

    /// Creates a failure about the command line, the environment or a file that they name.
    pub fn usage(error: &anyhow::Error) -> Self {
        Self::new(Reason::Usage, format!("{error:#}"))
    }

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
    /// `RunCompleted` with `stop_reason: completed`, or the command's work is done.
    Completed,
    Paused(Waiting),
    Failed(Failure),
}

/// Tool calls that wait for approval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// The name of their batch: the first 8 digits of the run's ID, a dot, and the event ID of the proposal. `None`
    /// if the proposal has left the server's ring.
    pub batch: Option<String>,
    /// The undecided calls, from the one that the server waits for onward.
    pub calls: Vec<ToolCall>,
}

impl End {
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

/// How the run ended, as far as the server itself has said so. Without such a word it is [`KnownEnd::Open`].
///
/// | known end | retryable | `cancel_confirmed`, if a cancel was tried | `stop_reason` |
/// |---|---|---|---|
/// | `NeverRan` | if the failure passes | – | null |
/// | `Open` | false | false | null |
/// | `Completed`, with another stop reason | if the failure passes | true | the stop reason |
/// | `Completed("completed")` | false | true | `completed` |
/// | `Errored` | if the failure passes | true | null |
/// | `StateFailed { tools: false }` | if the failure passes | true | null |
/// | `StateFailed { tools: true }` | false | true | null |
/// | `Stopped` | false: it may have completed | true | null |
/// | `Restarted { answered: false }` | if the failure passes | true | null |
/// | `Restarted { answered: true }` | false: it may have completed | true | null |
///
/// If a background task may go on (protocol trap 17), no row is retryable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownEnd {
    /// The prompt was not sent, or the server refused it.
    NeverRan,
    /// The run may still be going on or wait for approval.
    Open,
    /// `RunCompleted`, with this stop reason.
    Completed(String),
    /// `RunError`.
    Errored,
    /// The session's state is `failed` (protocol trap 21). `tools`: the run may have called tools.
    StateFailed { tools: bool },
    /// The session's state no longer names the run, and there is no terminal event.
    Stopped,
    /// The server was restarted. `answered`: the run may have completed before.
    Restarted { answered: bool },
}

impl KnownEnd {
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Returns whether the run certainly did not complete, so that the same prompt may be sent again.
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

/// The stop reason of a successful run.
pub const COMPLETED: &str = "completed";

/// The numbers of the run's tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToolCounts {
    pub proposed: u64,
    /// Calls that were run, whether we or the server accepted them.
    pub accepted: u64,
    /// Calls that we or the server rejected.
    pub rejected: u64,
    /// Calls that were run and returned an error.
    pub failed: u64,
}

/// A decision of this command about a tool call, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided {
    pub tool_call_id: String,
    pub name: String,
    /// `accept` or `reject`.
    pub verdict: &'static str,
    /// `flag`, `policy` or `program`: see [`crate::run::policy::By`].
    pub by: &'static str,
    /// The reason that the model was told.
    pub reason: Option<String>,
}

/// A task that a tool call started and that may outlive the run (protocol trap 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackgroundTask {
    pub tool_call_id: String,
    pub name: String,
}

/// What the events told about a run.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    pub run_id: Option<String>,
    /// The last turn's text.
    pub agent_message: Option<String>,
    /// The text of all turns.
    pub text: Option<String>,
    /// `text` is `None` because the run wrote more than is kept.
    pub text_is_cut: bool,
    pub turns: u64,
    pub finish_reason: Option<String>,
    pub usage: Option<Usage>,
    pub tool_calls: ToolCounts,
    pub decisions: Vec<Decided>,
    pub background_tasks: Vec<BackgroundTask>,
    pub last_event_id: Option<u64>,
}

/// Everything that the record and the closing line say about a command.
#[derive(Clone, Debug)]
pub struct Report {
    pub end: End,
    pub known_end: KnownEnd,
    pub cancel_tried: bool,
    pub session_id: Option<Uuid>,
    pub run: RunSummary,
    /// Calls that wait for approval although the command did not end with a pause.
    pub left_waiting: Option<Waiting>,
    /// A command that continues from here, quoted for a shell.
    pub resume_hint: Option<String>,
    /// The server's URL.
    pub server: Option<String>,
    /// The server's version, if the command has asked for its health.
    pub server_version: Option<String>,
    pub rehearsal: bool,
    pub started_at: SystemTime,
    pub duration: Duration,
}

impl Report {
    /// Creates the report of a command that started no run.
    pub fn new(end: End) -> Self {
        Self {
            end,
            known_end: KnownEnd::NeverRan,
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

    /// Notes a failure after the end. An earlier failure stays.
    pub fn fail(&mut self, failure: Failure) {
        if let End::Paused(waiting) = &mut self.end {
            self.left_waiting = Some(std::mem::take(waiting));
        }
        if !matches!(self.end, End::Failed(_)) {
            self.end = End::Failed(failure);
        }
    }

    pub const fn failure(&self) -> Option<&Failure> {
        match &self.end {
            End::Failed(failure) => Some(failure),
            End::Completed | End::Paused(_) => None,
        }
    }

    /// Returns whether the same command may succeed later and does not do the work twice: see [`KnownEnd`].
    pub fn retryable(&self) -> bool {
        let passes = self.failure().is_some_and(|failure| failure.passes);
        passes && self.known_end.may_be_repeated() && self.run.background_tasks.is_empty()
    }

    /// Returns whether the run has stopped after the cancel, or `None` if none was tried.
    pub fn cancel_confirmed(&self) -> Option<bool> {
        self.cancel_tried.then(|| !self.known_end.is_open())
    }

    /// Returns the failure's message for the record and the closing line.
    pub fn error(&self) -> Option<String> {
        let failure = self.failure()?;
        let completed = self.known_end.stop_reason() == Some(COMPLETED) && failure.reason != Reason::ToolError;
        let suffix = if completed { "; it completed all the same" } else { "" };
        Some(format!("{failure}{suffix}"))
    }

    /// Returns the calls that wait for approval now.
    pub const fn waiting(&self) -> Option<&Waiting> {
        match &self.end {
            End::Paused(waiting) => Some(waiting),
            End::Completed | End::Failed(_) => self.left_waiting.as_ref(),
        }
    }

    /// Returns the record's `reason`.
    fn reason(&self) -> Option<String> {
        match &self.end {
            End::Completed => None,
            End::Paused(_) => Some(TOOL_APPROVAL_REQUIRED.into()),
            End::Failed(failure) => Some(failure.reason.to_string()),
        }
    }
}

/// The `reason` of a pause.
const TOOL_APPROVAL_REQUIRED: &str = "tool_approval_required";

/// The result record, for `-o json`, `-o stream-json` and `--result-file`. A key without a value is `null`, never
/// missing.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (exit, run) = (self.end.exit(), &self.run);
        let timed_out =
            self.failure().is_some_and(|failure| matches!(failure.reason, Reason::Timeout | Reason::IdleTimeout));
        let mut record = serializer.serialize_map(None)?;
        record.serialize_entry("type", "result")?;
        record.serialize_entry("outcome", &exit)?;
        record.serialize_entry("exit_code", &exit.code())?;
        record.serialize_entry("reason", &self.reason())?;
        record.serialize_entry("retryable", &self.retryable())?;
        record.serialize_entry("error", &self.error())?;
        record.serialize_entry("session_id", &self.session_id)?;
        record.serialize_entry("run_id", &run.run_id)?;
        record.serialize_entry("agent_message", &run.agent_message)?;
        record.serialize_entry("text", &run.text)?;
        record.serialize_entry("turns", &run.turns)?;
        record.serialize_entry("stop_reason", &self.known_end.stop_reason())?;
        record.serialize_entry("finish_reason", &run.finish_reason)?;
        record.serialize_entry("usage", &run.usage)?;
        record.serialize_entry("tool_calls", &run.tool_calls)?;
        record.serialize_entry("decisions", &run.decisions)?;
        record.serialize_entry("background_tasks", &run.background_tasks)?;
        record.serialize_entry("timed_out", &timed_out)?;
        record.serialize_entry("paused", &(exit == Exit::Paused))?;
        record.serialize_entry("pause_reason", &self.waiting().map(PauseReason::on))?;
        record.serialize_entry("resume_hint", &self.resume_hint)?;
        record.serialize_entry("cancel_confirmed", &self.cancel_confirmed())?;
        record.serialize_entry("last_event_id", &run.last_event_id)?;
        record.serialize_entry("started_at", &humantime::format_rfc3339_seconds(self.started_at).to_string())?;
        record.serialize_entry("duration_ms", &u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX))?;
        record.serialize_entry("server", &self.server)?;
        record.serialize_entry("server_version", &self.server_version)?;
        record.serialize_entry("sortie_version", env!("SORTIE_VERSION"))?;
        record.serialize_entry("rehearsal", &self.rehearsal)?;
        record.end()
    }
}

#[derive(Debug, Serialize)]
struct PauseReason<'a> {
    r#type: &'static str,
    batch: Option<&'a str>,
    pending_tool_calls: &'a [ToolCall],
}

impl<'a> PauseReason<'a> {
    fn on(waiting: &'a Waiting) -> Self {
        let batch = waiting.batch.as_deref();
        Self { r#type: TOOL_APPROVAL_REQUIRED, batch, pending_tool_calls: &waiting.calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn record(report: &Report) -> Value {
        serde_json::to_value(report).unwrap()
    }

    fn paused() -> End {
        let calls = vec![ToolCall { id: "a".into(), name: "p__t".into(), arguments: Default::default() }];
        End::Paused(Waiting { batch: None, calls })
    }

    fn failed(reason: Reason) -> End {
        Failure::new(reason, "why").into()
    }

    #[test]
    fn each_end_has_its_exit_code_and_its_record() {
        // end → code, outcome, reason, retryable, error, timed out
        let rows = [
            (End::Completed, 0, "completed", None, false, None, false),
            (paused(), 10, "paused", Some("tool_approval_required"), false, None, false),
            (failed(Reason::RunError), 1, "failed", Some("run_error"), false, Some("why"), false),
            (failed(Reason::Timeout), 1, "failed", Some("timeout"), true, Some("why"), true),
            (failed(Reason::IdleTimeout), 1, "failed", Some("idle_timeout"), true, Some("why"), true),
            (failed(Reason::Interrupted), 1, "failed", Some("interrupted"), true, Some("why"), false),
            (failed(Reason::Connection), 1, "failed", Some("connection"), true, Some("why"), false),
            (failed(Reason::Lost), 1, "failed", Some("lost"), false, Some("why"), false),
            (failed(Reason::Usage), 1, "failed", Some("usage"), false, Some("why"), false),
        ];
        for (end, code, outcome, reason, retryable, error, timed_out) in rows {
            assert_eq!(ExitCode::from(end.exit()), ExitCode::from(code), "{end:?}");
            let record = record(&Report::new(end.clone()));
            let told = json!({
                "exit_code": code, "outcome": outcome, "reason": reason, "retryable": retryable, "error": error,
                "timed_out": timed_out, "paused": code == 10,
            });
            for (key, value) in told.as_object().unwrap() {
                assert_eq!(&record[key], value, "{end:?}: {key}");
            }
            assert_eq!(record["pause_reason"].is_null(), code != 10, "{end:?}");
        }
    }

    /// The table of [`KnownEnd`].
    #[test]
    fn the_known_end_decides_retryable_cancel_confirmed_and_stop_reason() {
        let completed = |word: &str| KnownEnd::Completed(word.into());
        // known end → retryable, cancel_confirmed, stop_reason
        let rows = [
            (KnownEnd::NeverRan, true, true, None),
            (KnownEnd::Open, false, false, None),
            (completed("cancelled"), true, true, Some("cancelled")),
            (completed("completed"), false, true, Some("completed")),
            (KnownEnd::Errored, true, true, None),
            (KnownEnd::StateFailed { tools: false }, true, true, None),
            (KnownEnd::StateFailed { tools: true }, false, true, None),
            (KnownEnd::Stopped, false, true, None),
            (KnownEnd::Restarted { answered: false }, true, true, None),
            (KnownEnd::Restarted { answered: true }, false, true, None),
        ];
        for (known_end, retryable, confirmed, stop_reason) in rows {
            for passes in [true, false] {
                for tasks in [false, true] {
                    let failure = Failure::new(Reason::Timeout, "late").passing(passes);
                    let mut report = Report { known_end: known_end.clone(), ..Report::new(failure.into()) };
                    if tasks {
                        let task = BackgroundTask { tool_call_id: "a".into(), name: "p__t".into() };
                        report.run.background_tasks.push(task);
                    }
                    assert!(record(&report)["cancel_confirmed"].is_null(), "{known_end:?}: none was tried");
                    report.cancel_tried = true;
                    let record = record(&report);
                    let told = [&record["retryable"], &record["cancel_confirmed"], &record["stop_reason"]];
                    let expected = [json!(retryable && passes && !tasks), json!(confirmed), json!(stop_reason)];
                    assert_eq!(told, expected.each_ref(), "{known_end:?} {passes} {tasks}");
                    let says_so = record["error"].as_str().unwrap().contains("it completed all the same");
                    assert_eq!(says_so, stop_reason == Some("completed"), "{known_end:?}");
                }
            }
        }
    }

    #[test]
    fn a_later_failure_does_not_replace_an_earlier_one() {
        for (end, code, reason) in
            [(End::Completed, 1, "output"), (paused(), 1, "output"), (failed(Reason::Lost), 1, "lost")]
        {
            let mut report = Report::new(end.clone());
            report.fail(Failure::new(Reason::Output, "full"));
            let record = record(&report);
            assert_eq!([&record["exit_code"], &record["reason"]], [&json!(code), &json!(reason)]);
            assert_eq!(record["paused"], false);
            assert_eq!(record["pause_reason"].is_object(), end == paused(), "the pending calls stay in the record");
        }
    }

    #[test]
    fn a_failures_message_is_cut_at_its_bound() {
        let long = Failure::new(Reason::RunError, "é".repeat(MAX_MESSAGE + 1));
        assert_eq!(long.message, format!("{}…", "é".repeat(MAX_MESSAGE)));
        let just = Failure::new(Reason::RunError, "é".repeat(MAX_MESSAGE));
        assert_eq!(just.message.chars().count(), MAX_MESSAGE);
        assert_eq!(just.to_string(), just.message);
    }
}

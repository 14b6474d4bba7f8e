//! How a command ended: the one place that knows the exit codes and the reasons, and the record that tells them to
//! machines.

use crate::agent::events::{ToolCall, Usage};
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A failure's line is cut at so many characters: it may quote what a server said.
const MAX_MESSAGE: usize = 2048;

/// One failure, in one line: what we were doing, with what, why it failed, and what to do about it where that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The record's `reason`.
    pub reason: Reason,
    /// The line.
    pub message: String,
    /// Whether the same command may well succeed when it is simply given again.
    pub retryable: bool,
    /// The server's own error code (`session_already_running`, …), empty where there is none.
    pub code: String,
    /// Whether the request may have had its effect all the same: its answer was lost, now or at an earlier try.
    pub in_doubt: bool,
}

impl Failure {
    /// A failure that a retry does not mend, except for the reasons that lie with time and the network.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let retryable = matches!(
            reason,
            Reason::Timeout | Reason::IdleTimeout | Reason::Interrupted | Reason::Connection | Reason::Lost
        );
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { reason, message, retryable, code: String::new(), in_doubt: false }
    }

    /// A mistake on the command line, in the environment or in a file that they name.
    pub fn usage(error: &anyhow::Error) -> Self {
        Self::new(Reason::Usage, format!("{error:#}"))
    }

    /// Sets whether a retry makes sense.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Sets whether the request may have had its effect.
    #[must_use]
    pub fn in_doubt(mut self, in_doubt: bool) -> Self {
        self.in_doubt = in_doubt;
        self
    }

    /// Sets the server's error code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
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
    /// These calls wait, from the one the server is stopped at onward.
    Paused(Vec<ToolCall>),
    /// Anything else.
    Failed(Failure),
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

/// The result record: printed last by `json` and `stream-json`, and written to `--result-file`. Every key is always
/// there; `null` where it does not apply.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub r#type: &'static str,
    pub outcome: &'static str,
    pub exit_code: u8,
    pub reason: Option<Reason>,
    pub retryable: bool,
    pub error: Option<String>,
    pub session_id: Option<String>,
    pub run_id: Option<String>,
    pub agent_message: Option<String>,
    pub text: Option<String>,
    pub turns: u64,
    pub stop_reason: Option<String>,
    pub usage: Option<Usage>,
    pub tool_calls: ToolCounts,
    pub timed_out: bool,
    pub paused: bool,
    pub pause_reason: Option<PauseReason>,
    pub resume_hint: Option<String>,
    pub cancel_confirmed: Option<bool>,
    pub last_event_id: Option<u64>,
    pub duration_ms: u64,
}

/// On what a run is paused; also given by an end that leaves it waiting.
#[derive(Clone, Debug, Serialize)]
pub struct PauseReason {
    /// Always `tool_approval_required` today.
    pub r#type: Reason,
    /// The calls that are not yet decided, from the one the server is stopped at onward.
    pub pending_tool_calls: Vec<ToolCall>,
}

impl PauseReason {
    /// These calls wait for approval.
    pub const fn on(pending_tool_calls: Vec<ToolCall>) -> Self {
        Self { r#type: Reason::ToolApprovalRequired, pending_tool_calls }
    }
}

impl Record {
    /// The record of an end of which nothing else is known.
    pub fn new(end: End) -> Self {
        let exit = end.exit();
        let (outcome, reason, retryable, error, pause_reason) = match end {
            End::Completed => ("completed", None, false, None, None),
            End::Paused(calls) => {
                ("paused", Some(Reason::ToolApprovalRequired), false, None, Some(PauseReason::on(calls)))
            }
            End::Failed(failure) => {
                ("failed", Some(failure.reason), failure.retryable, Some(failure.message), None)
            }
        };
        Self {
            r#type: "result",
            outcome,
            exit_code: exit.code(),
            reason,
            retryable,
            error,
            session_id: None,
            run_id: None,
            agent_message: None,
            text: None,
            turns: 0,
            stop_reason: None,
            usage: None,
            tool_calls: ToolCounts::default(),
            timed_out: matches!(reason, Some(Reason::Timeout | Reason::IdleTimeout)),
            paused: exit == Exit::Paused,
            pause_reason,
            resume_hint: None,
            cancel_confirmed: None,
            last_event_id: None,
            duration_ms: 0,
        }
    }

    /// A failure after the end. The first cause wins: it changes only an end that was none.
    pub fn fail(&mut self, failure: Failure) {
        if self.reason.is_none() || self.paused {
            let failed = Self::new(End::Failed(failure));
            self.outcome = failed.outcome;
            self.exit_code = failed.exit_code;
            self.reason = failed.reason;
            self.retryable = failed.retryable;
            self.error = failed.error;
            self.timed_out = failed.timed_out;
            self.paused = false;
        }
    }

    /// What the run did after all, which a failure of ours does not undo: one that completed is not to be repeated.
    pub fn stopped(&mut self, stop_reason: Option<String>) {
        let completed = stop_reason.as_deref() == Some("completed");
        self.stop_reason = stop_reason;
        if let Some(error) = self.error.as_mut().filter(|_| completed && self.retryable) {
            error.push_str("; it completed all the same");
        }
        self.retryable &= !completed;
    }

    /// The exit code that goes with it.
    pub const fn exit(&self) -> Exit {
        match self.reason {
            None => Exit::Completed,
            Some(_) if self.paused => Exit::Paused,
            Some(_) => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused() -> End {
        End::Paused(vec![ToolCall { id: "a".into(), name: "p__t".into(), arguments: Default::default() }])
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
            (failed(Reason::Lost), 1, "failed", Some(Reason::Lost), true, Some("why"), false),
            (failed(Reason::Usage), 1, "failed", Some(Reason::Usage), false, Some("why"), false),
        ];
        for (end, code, outcome, reason, retryable, error, timed_out) in rows {
            assert_eq!(end.exit().code(), code, "{end:?}");
            assert_eq!(ExitCode::from(end.exit()), ExitCode::from(code), "{end:?}");
            let record = Record::new(end.clone());
            assert_eq!((record.exit_code, record.exit().code()), (code, code), "{end:?}");
            let told = (record.outcome, record.reason, record.retryable, record.error.as_deref(), record.timed_out);
            assert_eq!(told, (outcome, reason, retryable, error, timed_out), "{end:?}");
            assert_eq!((record.paused, record.pause_reason.is_some()), (code == 10, code == 10), "{end:?}");
        }
        assert_eq!(Reason::ToolApprovalRequired.to_string(), "tool_approval_required");
    }

    #[test]
    fn a_later_failure_changes_only_an_end_that_was_none() {
        for (end, code, reason) in [
            (End::Completed, 1, Reason::Output),
            (paused(), 1, Reason::Output),
            (failed(Reason::Lost), 1, Reason::Lost),
        ] {
            let mut record = Record::new(end);
            record.fail(Failure::new(Reason::Output, "full"));
            assert_eq!((record.exit_code, record.exit().code(), record.reason), (code, code, Some(reason)));
            assert!(!record.paused);
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

//! Counts the turns, tokens, tool calls and background tasks of a run, for the record.

use super::batch::Batch;
use crate::agent::events::{Event, Tool};
use crate::agent::tools::is_background_task;
use crate::outcome::{BackgroundTask, RunSummary};

/// The most background tasks that the record lists.
const MAX_TASKS: usize = 1000;
/// The longest finish reason that is kept, in characters.
const MAX_WORD: usize = 100;
/// After this many compactions in a row in one turn, the server is in an endless loop (protocol trap 15).
const MAX_COMPACTIONS: u32 = 5;

#[derive(Debug, Default)]
pub struct Tally {
    /// All of the summary except the run's ID and text.
    pub summary: RunSummary,
    /// The compactions in a row.
    compactions: u32,
}

impl Tally {
    /// Counts an event. `batch` is the batch before this event.
    pub fn count(&mut self, event: &Event<'_>, batch: &Batch) {
        self.count_compactions(event);
        let run = &mut self.summary;
        match event {
            Event::TurnStarted(turn) => {
                run.turns = run.turns.max(turn.turn);
                run.finish_reason = None;
            }
            Event::TurnCompleted(turn) => {
                run.finish_reason = turn.finish_reason.as_deref().map(|word| word.chars().take(MAX_WORD).collect());
            }
            Event::ToolCallsProposed(proposal) => run.tool_calls.proposed += proposal.tool_calls.len() as u64,
            Event::ToolExecutionStarted(_) => run.tool_calls.accepted += 1,
            Event::ToolExecutionCompleted(tool) => self.finished(tool, !batch.has_not_begun(&tool.tool_call_id)),
            Event::ToolRejected(_) => run.tool_calls.rejected += 1,
            Event::UsageReport(report) => run.usage.get_or_insert_default().add(report.usage),
            // At the end the server tells its own totals.
            Event::RunCompleted(completion) => {
                run.turns = completion.total_turns.unwrap_or(run.turns);
                run.usage = completion.total_usage.or(run.usage);
            }
            _ => {}
        }
    }

    /// A call ended. If it had not `begun`, it was cancelled, or a `custom_result` rejected it (protocol trap 9).
    fn finished(&mut self, tool: &Tool<'_>, begun: bool) {
        let Tally { summary: RunSummary { tool_calls, background_tasks, .. }, .. } = self;
        match (tool.is_error, &*tool.result) {
            (true, "TOOL_CALL_CANCELLED") => {}
            (true, _) => tool_calls.failed += 1,
            (false, _) if !begun => tool_calls.rejected += 1,
            // The result only says that the task was started.
            (false, _) if is_background_task(&tool.tool_name) && background_tasks.len() < MAX_TASKS => {
                let (tool_call_id, name) = (tool.tool_call_id.to_string(), tool.tool_name.to_string());
                background_tasks.push(BackgroundTask { tool_call_id, name });
            }
            (false, _) => {}
        }
    }

    /// Counts the compactions in a row. After each of them the server starts the same turn again (protocol trap 15).
    fn count_compactions(&mut self, event: &Event<'_>) {
        match event {
            Event::CompactionStarted(_) => self.compactions += 1,
            Event::CompactionCompleted(_) => {}
            Event::TurnStarted(turn) if turn.turn == self.summary.turns => {}
            _ => self.compactions = 0,
        }
    }

    /// Returns whether the server compacts the same turn without end.
    pub const fn compacts_endlessly(&self) -> bool {
        self.compactions >= MAX_COMPACTIONS
    }

    pub fn tokens(&self) -> u64 {
        self.summary.usage.map_or(0, |usage| usage.total_tokens)
    }

    /// Returns how many tool calls the run has proposed.
    pub const fn calls(&self) -> u64 {
        self.summary.tool_calls.proposed
    }
}

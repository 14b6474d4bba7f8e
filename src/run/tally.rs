//! Counts the turns, tokens, tool calls and background tasks of a run.

use crate::agent::events::{Completion, Event, Tool, Usage};
use crate::agent::tools::is_background_task;
use crate::outcome::{BackgroundTask, ToolCounts};

/// The most background tasks that the record lists.
const MAX_TASKS: usize = 1000;
/// The longest finish reason that is kept, in characters.
const MAX_WORD: usize = 100;
/// After this many compactions in a row in one turn, the server is in an endless loop (protocol trap 15).
const MAX_COMPACTIONS: u32 = 5;

#[derive(Debug, Default)]
pub struct Tally {
    pub turns: u64,
    pub usage: Option<Usage>,
    pub tool_calls: ToolCounts,
    /// The finish reason of the last turn.
    pub finish_reason: Option<String>,
    pub tasks: Vec<BackgroundTask>,
    compactions: u32,
}

impl Tally {
    pub fn turn_started(&mut self, turn: u64) {
        self.turns = self.turns.max(turn);
        self.finish_reason = None;
    }

    pub fn turn_completed(&mut self, finish_reason: Option<&str>) {
        self.finish_reason = finish_reason.map(|reason| reason.chars().take(MAX_WORD).collect());
    }

    pub const fn proposed(&mut self, calls: u64) {
        self.tool_calls.proposed += calls;
    }

    pub const fn started(&mut self) {
        self.tool_calls.accepted += 1;
    }

    /// A call ended. If it had not `begun`, it was cancelled, or a `custom_result` rejected it (protocol trap 9).
    pub fn finished(&mut self, tool: &Tool<'_>, begun: bool) {
        match (tool.is_error, &*tool.result) {
            (true, "TOOL_CALL_CANCELLED") => {}
            (true, _) => self.tool_calls.failed += 1,
            (false, _) if !begun => self.tool_calls.rejected += 1,
            // The result only says that the task was started.
            (false, _) if is_background_task(&tool.tool_name) => self.task(tool),
            (false, _) => {}
        }
    }

    fn task(&mut self, tool: &Tool<'_>) {
        if self.tasks.len() < MAX_TASKS {
            let (tool_call_id, name) = (tool.tool_call_id.to_string(), tool.tool_name.to_string());
            self.tasks.push(BackgroundTask { tool_call_id, name });
        }
    }

    pub const fn rejected(&mut self) {
        self.tool_calls.rejected += 1;
    }

    /// Adds a turn's tokens.
    pub fn used(&mut self, usage: Usage) {
        self.usage.get_or_insert_default().add(usage);
    }

    /// Takes the server's own totals at the end of the run.
    pub fn completed(&mut self, completion: &Completion<'_>) {
        self.turns = completion.total_turns.unwrap_or(self.turns);
        self.usage = completion.total_usage.or(self.usage);
    }

    /// Resets the count of compactions in a row, unless the event belongs to them. After each compaction the server
    /// starts the same turn again (protocol trap 15).
    pub fn note(&mut self, event: &Event<'_>) {
        let goes_on = match event {
            Event::CompactionStarted(_) | Event::CompactionCompleted(_) => true,
            Event::TurnStarted(turn) => turn.turn == self.turns,
            _ => false,
        };
        if !goes_on {
            self.compactions = 0;
        }
    }

    /// Counts a compaction. Returns whether the server is in an endless loop.
    pub const fn compaction(&mut self) -> bool {
        self.compactions += 1;
        self.compactions >= MAX_COMPACTIONS
    }

    pub fn tokens(&self) -> u64 {
        self.usage.map_or(0, |usage| usage.total_tokens)
    }
}

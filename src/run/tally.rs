//! What a run has used and done so far: turns, tokens, tool calls, tasks beside the run. Pure; part of the run's machine.

use crate::agent::events::{Completion, Event, Tool, Usage};
use crate::agent::tools::is_background_task;
use crate::outcome::{BackgroundTask, ToolCounts};

/// This many background tasks are named in the record.
const MAX_TASKS: usize = 1000;
/// A finish reason is one word; longer ones are cut after this many characters.
const MAX_WORD: usize = 100;
/// After this many compactions in a row within one turn the server is taken to loop (protocol trap 15).
const MAX_COMPACTIONS: u32 = 5;

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    pub turns: u64,
    pub usage: Option<Usage>,
    pub tool_calls: ToolCounts,
    /// The last turn's.
    pub finish_reason: Option<String>,
    pub tasks: Vec<BackgroundTask>,
    compactions: u32,
}

impl Tally {
    /// A turn began.
    pub fn turn_started(&mut self, turn: u64) {
        self.turns = self.turns.max(turn);
        self.finish_reason = None;
    }

    /// A turn ended, for this reason.
    pub fn turn_completed(&mut self, finish_reason: Option<&str>) {
        self.finish_reason = finish_reason.map(|reason| reason.chars().take(MAX_WORD).collect());
    }

    /// The model proposed this many calls.
    pub const fn proposed(&mut self, calls: u64) {
        self.tool_calls.proposed += calls;
    }

    /// A call was started.
    pub const fn started(&mut self) {
        self.tool_calls.accepted += 1;
    }

    /// A call ended; `begun` says whether it had started. One that had not was cancelled, or a decision answered in its
    /// place (`custom_result`, protocol trap 9).
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

    /// A call was rejected.
    pub const fn rejected(&mut self) {
        self.tool_calls.rejected += 1;
    }

    /// A turn's tokens.
    pub fn used(&mut self, usage: Usage) {
        self.usage.get_or_insert_default().add(usage);
    }

    /// The server's own totals at the run's end.
    pub fn completed(&mut self, completion: &Completion<'_>) {
        self.turns = completion.total_turns.unwrap_or(self.turns);
        self.usage = completion.total_usage.or(self.usage);
    }

    /// Whether an event breaks a row of compactions. The server begins the same turn anew after each (protocol trap 15).
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

    /// A compaction began. Returns whether the server compacts the same turn again and again.
    pub const fn compaction(&mut self) -> bool {
        self.compactions += 1;
        self.compactions >= MAX_COMPACTIONS
    }

    /// Tokens used so far.
    pub fn tokens(&self) -> u64 {
        self.usage.map_or(0, |usage| usage.total_tokens)
    }
}

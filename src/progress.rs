//! What stderr says about a run: a line for some events, the status line on a terminal, and the closing line.

use crate::agent::events::{Compaction, Event, Retry, Tool, ToolCall};
use crate::agent::tools::bare_name;
use crate::console::{Console, visible_start};
use crate::outcome::{End, Reason, Report};
use std::time::{Duration, Instant};

/// The most of the agent's last text in the status line, in bytes.
const LAST_WORDS: usize = 60;
/// The longest text from the server on a line, in characters.
const MAX_SHOWN: usize = 200;

pub struct Progress {
    console: Console,
    /// A person watches, so that there is a status line.
    is_live: bool,
    began: Instant,
    turn: u64,
    /// The tool that runs now.
    tool: String,
    /// The agent's last text.
    words: String,
}

impl Progress {
    pub fn new(console: Console) -> Self {
        let is_live = console.is_live();
        Self { console, is_live, began: Instant::now(), turn: 0, tool: String::new(), words: String::new() }
    }

    /// Writes a line about the event if a person wants to know of it, and notes it for the status line.
    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::TurnStarted(turn) => self.turn = turn.turn,
            Event::TextDelta(delta) if self.is_live => self.note_words(&delta.delta),
            Event::ToolExecutionStarted(tool) => {
                self.tool_line(tool, "started");
                self.tool = shorten(bare_name(&tool.tool_name));
            }
            Event::ToolExecutionCompleted(tool) => {
                if tool.is_error {
                    self.tool_line(tool, &format!("failed: {}", shorten(&tool.result)));
                }
                self.tool.clear();
            }
            Event::ToolRejected(tool) => {
                self.tool_line(tool, &format!("rejected: {}", shorten(&tool.reason)));
                self.tool.clear();
            }
            Event::RetryAttempt(Retry { attempt, delay_ms, reason }) => self.console.progress(&format!(
                "the server retries its model in {delay_ms} ms (attempt {attempt}): {}",
                shorten(reason)
            )),
            Event::CompactionStarted(Compaction { reason }) => {
                self.console.progress(&format!("the server compacts the conversation: {}", shorten(reason)));
            }
            Event::RunStarted
            | Event::TurnCompleted(_)
            | Event::TextDelta(_)
            | Event::ThinkingDelta
            | Event::TextComplete(_)
            | Event::ToolCallsProposed(_)
            | Event::WaitingForToolApproval
            | Event::ToolExecutionProgress(_)
            | Event::CompactionCompleted(_)
            | Event::UsageReport(_)
            | Event::RunCompleted(_)
            | Event::RunError(_)
            | Event::Unknown => {}
        }
    }

    fn tool_line(&self, tool: &Tool<'_>, what: &str) {
        let [name, id] = [&tool.tool_name, &tool.tool_call_id].map(|text| shorten(text));
        self.console.progress(&format!("tool {name} ({id}) {what}"));
    }

    fn note_words(&mut self, text: &str) {
        let last = text.len().saturating_sub(LAST_WORDS);
        self.words.push_str(&text[next_boundary(text, last)..]);
        let cut = self.words.len().saturating_sub(LAST_WORDS);
        self.words.drain(..next_boundary(&self.words, cut));
    }

    /// Renews the status line, if there is one.
    pub fn renew_status(&self) {
        if !self.is_live {
            return;
        }
        let mut line = format!("sortie: {}", seconds(self.began.elapsed()));
        if self.turn > 0 {
            line.push_str(&format!(" · turn {}", self.turn));
        }
        let words = self.words.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [&self.tool, &words].into_iter().filter(|part| !part.is_empty()) {
            line.push_str(&format!(" · {part}"));
        }
        self.console.status(&line);
    }

    /// Writes the closing line, and what else a person must know.
    pub fn close(&self, report: &Report) {
        let run = &report.run;
        if run.finish_reason.as_deref() == Some("max_output_tokens") {
            self.console.error("the answer is cut: the model reached its output limit (max_output_tokens)");
        }
        let tasks: Vec<_> =
            run.background_tasks.iter().map(|task| format!("{} ({})", task.name, task.tool_call_id)).collect();
        if !tasks.is_empty() {
            let tasks = shorten(&tasks.join(", "));
            self.console.error(&format!("background tasks may still be running on the server: {tasks}"));
        }
        let time = seconds(report.duration);
        match &report.end {
            End::Failed(failure) => {
                // The duration of a usage error is not interesting.
                let is_usage = failure.reason == Reason::Usage;
                let after = if is_usage { String::new() } else { format!(" after {time}") };
                let error = report.error().unwrap_or_default();
                self.console.error(&format!("failed ({}){after}: {error}", failure.reason));
                for call in report.waiting().iter().flat_map(|waiting| &waiting.calls) {
                    self.console.error(&format!("still waiting for approval: {}", describe(call)));
                }
            }
            End::Paused(waiting) => self.close_paused(report, &waiting.calls, &time),
            End::Completed if run.run_id.is_some() => {
                let tokens = run.usage.map(|usage| format!(", {} tokens", usage.total_tokens)).unwrap_or_default();
                let turns = if run.turns == 1 { "turn" } else { "turns" };
                self.console.progress(&format!("completed after {time}: {} {turns}{tokens}", run.turns));
            }
            End::Completed => {}
        }
    }

    fn close_paused(&self, report: &Report, calls: &[ToolCall], time: &str) {
        let wait = if calls.len() == 1 { "tool call waits" } else { "tool calls wait" };
        let waiting = format!("{} {wait} for approval", calls.len());
        // `pending` has written the calls to stdout, and its duration is not that of the run.
        let is_pending = report.run.run_id.is_none();
        if is_pending {
            self.console.error(&waiting);
        } else {
            self.console.error(&format!("paused after {time}: {waiting}"));
            calls.iter().for_each(|call| self.console.progress(&describe(call)));
        }
        if let Some(hint) = &report.resume_hint {
            let purpose = if is_pending { "to approve" } else { "to go on" };
            self.console.progress(&format!("{purpose}: {hint}"));
        }
    }
}

/// Returns a call on one line, with its arguments shortened.
pub fn describe(call: &ToolCall) -> String {
    let [id, name, arguments] = [&call.id, &call.name, call.arguments.get()].map(shorten);
    format!("{id} {name} {arguments}")
}

/// Returns the first character boundary at or after `from`.
fn next_boundary(text: &str, from: usize) -> usize {
    (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

fn shorten(text: &str) -> String {
    visible_start(text, MAX_SHOWN)
}

/// Formats a duration: 0.3s, 12.0s, 3m 20s.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
    }
}

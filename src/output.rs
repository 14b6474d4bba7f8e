//! Writes stdout in its four formats, progress and the closing line on stderr, the result file and the recording.

use crate::agent::events::{Envelope, Event, ToolCall};
use crate::agent::sse::Frame;
use crate::agent::tools::bare_name;
use crate::cli::Format;
use crate::console::{Console, acts, visible_lines, visible_start};
use crate::descriptor::Pipe;
use crate::outcome::{End, Exit, Failure, Reason, Report, Waiting};
use crate::recording::Recording;
use crate::result_file::ResultFile;
use crate::run::transcript::{FilledIn, Keep, MAX_TEXT};
use crate::watchdog::Watch;
use memchr::memchr;
use serde::Serialize;
use serde::de::IgnoredAny;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The size of the buffer before it is written out, in bytes. It is also written out after each read from the server.
const ENOUGH: usize = 64 * 1024;
/// The most of the agent's last text in the status line, in bytes.
const LAST_WORDS: usize = 60;
/// The longest text from the server on a progress line, in characters.
const MAX_ARGUMENTS: usize = 200;

pub struct Output {
    format: Format,
    /// `None` once a write has failed.
    stdout: Option<Pipe>,
    buffer: Vec<u8>,
    /// The last character on stdout was no newline.
    mid_line: bool,
    /// A turn has begun since that character.
    turn_begun: bool,
    result_file: Option<ResultFile>,
    recording: Option<Recording>,
    console: Console,
    watch: Watch,
    /// Only if a person watches.
    status: Option<Status>,
}

/// The content of the status line.
struct Status {
    began: Instant,
    turn: u64,
    tool: String,
    words: String,
}

impl Output {
    pub fn new(format: Format, watch: Watch, console: Console) -> Self {
        let stdout = Some(Pipe::new(io::stdout(), Some(watch.clone())));
        let status = || Status { began: Instant::now(), turn: 0, tool: String::new(), words: String::new() };
        Self {
            format,
            stdout,
            buffer: Vec::new(),
            mid_line: false,
            turn_begun: false,
            result_file: None,
            recording: None,
            status: console.is_live().then(status),
            console,
            watch,
        }
    }

    /// Checks that the result file can be written, and writes the record there at the end.
    pub fn set_result_file(&mut self, path: &Path) -> anyhow::Result<()> {
        self.result_file = Some(ResultFile::prepare(path, self.watch.clone())?);
        Ok(())
    }

    /// Checks that the recording can be written, and writes the events there.
    pub fn set_recording(&mut self, path: &Path) -> anyhow::Result<()> {
        self.recording = Some(Recording::prepare(path, &self.watch)?);
        Ok(())
    }

    /// Returns how much of the agent's text is needed at the end.
    pub fn keep(&self) -> Keep {
        match self.format {
            Format::Json | Format::StreamJson => Keep::Everything,
            _ if self.result_file.is_some() => Keep::Everything,
            Format::Final => Keep::LastTurn,
            Format::Text => Keep::Nothing,
        }
    }

    /// Writes an event of the run. `text` is the agent's text to show.
    pub fn event(
        &mut self,
        id: Option<u64>,
        frame: &Frame<'_>,
        envelope: &Envelope<'_>,
        text: &str,
    ) -> Result<(), Failure> {
        let event = &envelope.event;
        if self.is_terminal() {
            // On a terminal, stdout and stderr are read in one place and must be in order.
            self.flush()?;
        }
        self.progress(event);
        if let Some(status) = &mut self.status {
            status.note(event);
        }
        if let Some(recording) = &mut self.recording {
            recording.write(frame)?;
        }
        if matches!(event, Event::TurnStarted(_)) {
            self.turn_begun = true;
        }
        match self.format {
            Format::Text => self.write_text(text),
            Format::StreamJson if envelope.is_json || is_json(frame.data) => self.event_line(id, frame),
            _ => Ok(()),
        }
    }

    fn event_line(&mut self, id: Option<u64>, frame: &Frame<'_>) -> Result<(), Failure> {
        self.write_event(id, frame).map_err(|error| unwritten(&error))?;
        self.end_line()
    }

    /// Writes the event as JSON. The frame's data is JSON already and is copied.
    fn write_event(&mut self, id: Option<u64>, frame: &Frame<'_>) -> io::Result<()> {
        let mut json = Json(self);
        json.write_all(br#"{"type":"event","id":"#)?;
        serde_json::to_writer(&mut json, &id)?;
        json.write_all(br#","event":"#)?;
        serde_json::to_writer(&mut json, frame.event)?;
        json.write_all(br#","data":"#)?;
        let mut data = frame.data.trim_ascii().as_bytes();
        // A line break in JSON is always between two tokens, where a space means the same.
        while let Some(at) = memchr(b'\n', data) {
            json.write_all(&data[..at])?;
            json.write_all(b" ")?;
            data = &data[at + 1..];
        }
        json.write_all(data)?;
        json.write_all(b"}")
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(Json(self), value).map_err(|error| unwritten(&error.into()))?;
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        self.buffer.push(b'\n');
        if self.buffer.len() < ENOUGH { Ok(()) } else { self.flush() }
    }

    /// Writes a line of JSON to stdout at once.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(value)?;
        self.flush()
    }

    fn is_terminal(&self) -> bool {
        self.stdout.as_ref().is_some_and(Pipe::is_terminal)
    }

    /// Returns whether the line on stdout must still be ended. On a terminal, a line on stderr may have ended it.
    fn is_mid_line(&self) -> bool {
        self.mid_line && (!self.is_terminal() || !self.buffer.is_empty() || self.console.is_mid_line())
    }

    /// Writes the agent's text if the format shows it as it comes.
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.format == Format::Text { self.write_text(text) } else { Ok(()) }
    }

    fn write_text(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.turn_begun) && self.is_mid_line() {
            self.buffer.push(b'\n');
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest, ENOUGH));
            if self.is_terminal() {
                self.buffer.extend_from_slice(visible_lines(piece).as_bytes());
            } else {
                self.buffer.extend_from_slice(piece.as_bytes());
            }
            self.mid_line = !piece.ends_with('\n');
            if self.buffer.len() >= ENOUGH {
                self.flush()?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes text that was held back while events were missing.
    pub fn fill_in(&mut self, filled_in: FilledIn) -> Result<(), Failure> {
        if filled_in.continues {
            self.turn_begun = false;
        }
        for text in filled_in.pieces {
            self.text(&text)?;
            self.turn_begun = true;
        }
        self.flush()
    }

    /// Writes a line to stdout that is not the agent's, such as a session's ID.
    pub fn answer(&mut self, line: &str) -> Result<(), Failure> {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        self.flush()
    }

    /// Like [`answer`](Self::answer), but a closed pipe is a failure too. No record follows the line on stdout.
    pub fn deliver(&mut self, line: &str) -> Result<(), Failure> {
        self.answer(line)?;
        if self.stdout.is_none() {
            return Err(unwritten(&io::ErrorKind::BrokenPipe.into()));
        }
        self.format = Format::Text;
        Ok(())
    }

    /// Renews the status line, unless it would overwrite an unfinished line of the agent's text.
    pub fn renew_status(&self) {
        if let Some(status) = self.status.as_ref().filter(|_| !(self.is_terminal() && self.is_mid_line())) {
            self.console.status(&status.line());
        }
    }

    /// Writes the buffer to stdout. A closed pipe is no failure: the run is followed to its end without output.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.drain().map_err(|error| unwritten(&error))
    }

    fn drain(&mut self) -> io::Result<()> {
        let written = match &mut self.stdout {
            Some(stdout) if !self.buffer.is_empty() => {
                if stdout.is_terminal() {
                    self.console.clear_status();
                }
                stdout.write_all(&self.buffer)
            }
            _ => Ok(()),
        };
        if self.is_terminal() && !self.buffer.is_empty() {
            self.console.set_mid_line(self.mid_line);
        }
        self.buffer.clear();
        written.or_else(|error| {
            self.stdout = None;
            if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
        })
    }

    /// Writes the rest of stdout, the result file and the closing line. Returns the exit code: 1 if a write has failed.
    pub fn finish(&mut self, mut report: Report) -> Exit {
        let written = self.finish_text(&report);
        fail_with(&mut report, written);
        let recorded = self.finish_recording();
        fail_with(&mut report, recorded);
        let kept = self.write_result_file(&report);
        fail_with(&mut report, kept);
        if matches!(self.format, Format::Json | Format::StreamJson)
            && let Err(failure) = self.line(&report).and_then(|()| self.flush())
        {
            report.fail(failure);
            let kept = self.write_result_file(&report);
            fail_with(&mut report, kept);
        }
        self.close(&report);
        report.end.exit()
    }

    fn finish_text(&mut self, report: &Report) -> Result<(), Failure> {
        if self.format == Format::Final {
            match &report.run.agent_message {
                Some(text) => self.write_text(text)?,
                // A lost answer must not look like an empty one.
                None if report.run.text_is_cut => {
                    let message = format!(
                        "the last turn says more than {MAX_TEXT} bytes, which -o final does not keep; -o text does"
                    );
                    return Err(Failure::new(Reason::Output, message));
                }
                None => {}
            }
        }
        if self.is_mid_line() {
            self.buffer.push(b'\n');
            self.mid_line = false;
        }
        self.flush()
    }

    fn finish_recording(&mut self) -> Result<(), Failure> {
        self.recording.take().map_or(Ok(()), Recording::finish)
    }

    fn write_result_file(&self, report: &Report) -> Result<(), Failure> {
        let Some(file) = &self.result_file else { return Ok(()) };
        file.write(report).map_err(|error| Failure::new(Reason::Output, format!("{error:#}")))
    }

    fn warn(&self, report: &Report) {
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
    }

    /// Writes the closing line.
    fn close(&self, report: &Report) {
        self.warn(report);
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
            // `pending` has written the calls to stdout, and its duration is not that of the run.
            End::Paused(Waiting { calls, .. }) if report.run.run_id.is_none() => {
                let waiting = if calls.len() == 1 { "tool call waits" } else { "tool calls wait" };
                self.console.error(&format!("{} {waiting} for approval", calls.len()));
                if let Some(hint) = &report.resume_hint {
                    self.console.progress(&format!("to approve: {hint}"));
                }
            }
            End::Paused(Waiting { calls, .. }) => {
                let waiting = if calls.len() == 1 { "tool call waits" } else { "tool calls wait" };
                self.console.error(&format!("paused after {time}: {} {waiting} for approval", calls.len()));
                for call in calls {
                    self.console.progress(&describe(call));
                }
                if let Some(hint) = &report.resume_hint {
                    self.console.progress(&format!("to go on: {hint}"));
                }
            }
            End::Completed if report.run.run_id.is_some() => {
                let run = &report.run;
                let tokens = run.usage.map(|usage| format!(", {} tokens", usage.total_tokens)).unwrap_or_default();
                let turns = if run.turns == 1 { "turn" } else { "turns" };
                self.console.progress(&format!("completed after {time}: {} {turns}{tokens}", run.turns));
            }
            End::Completed => {}
        }
    }

    fn progress(&self, event: &Event<'_>) {
        let say = |line: String| self.console.progress(&line);
        match event {
            Event::ToolExecutionStarted(tool) => {
                say(format!("tool {} ({}) started", shorten(&tool.tool_name), shorten(&tool.tool_call_id)));
            }
            Event::ToolExecutionCompleted(tool) if tool.is_error => {
                let [name, id, result] =
                    [&tool.tool_name, &tool.tool_call_id, &tool.result].map(|text| shorten(text));
                say(format!("tool {name} ({id}) failed: {result}"));
            }
            Event::ToolRejected(tool) => {
                let [name, id, reason] =
                    [&tool.tool_name, &tool.tool_call_id, &tool.reason].map(|text| shorten(text));
                say(format!("tool {name} ({id}) rejected: {reason}"));
            }
            Event::RetryAttempt(retry) => say(format!(
                "the server retries its model in {} ms (attempt {}): {}",
                retry.delay_ms,
                retry.attempt,
                shorten(&retry.reason)
            )),
            Event::CompactionStarted(compaction) => {
                say(format!("the server compacts the conversation: {}", shorten(&compaction.reason)));
            }
            Event::RunStarted
            | Event::TurnStarted(_)
            | Event::TurnCompleted(_)
            | Event::TextDelta(_)
            | Event::ThinkingDelta
            | Event::TextComplete(_)
            | Event::ToolCallsProposed(_)
            | Event::WaitingForToolApproval
            | Event::ToolExecutionProgress(_)
            | Event::ToolExecutionCompleted(_)
            | Event::CompactionCompleted(_)
            | Event::UsageReport(_)
            | Event::RunCompleted(_)
            | Event::RunError(_)
            | Event::Unknown => {}
        }
    }
}

impl Status {
    fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::TurnStarted(turn) => self.turn = turn.turn,
            Event::ToolExecutionStarted(tool) => self.tool = shorten(bare_name(&tool.tool_name)),
            Event::ToolExecutionCompleted(_) | Event::ToolRejected(_) => self.tool.clear(),
            Event::TextDelta(delta) => {
                let last = delta.delta.len().saturating_sub(LAST_WORDS);
                self.words.push_str(&delta.delta[piece_end(&delta.delta, last)..]);
                let cut = self.words.len().saturating_sub(LAST_WORDS);
                self.words.drain(..piece_end(&self.words, cut));
            }
            Event::RunStarted
            | Event::TurnCompleted(_)
            | Event::ThinkingDelta
            | Event::TextComplete(_)
            | Event::ToolCallsProposed(_)
            | Event::WaitingForToolApproval
            | Event::ToolExecutionProgress(_)
            | Event::RetryAttempt(_)
            | Event::CompactionStarted(_)
            | Event::CompactionCompleted(_)
            | Event::UsageReport(_)
            | Event::RunCompleted(_)
            | Event::RunError(_)
            | Event::Unknown => {}
        }
    }

    fn line(&self) -> String {
        let mut line = format!("sortie: {}", seconds(self.began.elapsed()));
        if self.turn > 0 {
            line.push_str(&format!(" · turn {}", self.turn));
        }
        if !self.tool.is_empty() {
            line.push_str(&format!(" · {}", self.tool));
        }
        let words: Vec<_> = self.words.split_whitespace().collect();
        if !words.is_empty() {
            line.push_str(&format!(" · {}", words.join(" ")));
        }
        line
    }
}

/// Returns a call on one line, with its arguments shortened.
pub fn describe(call: &ToolCall) -> String {
    let [id, name, arguments] = [&call.id, &call.name, call.arguments.get()].map(shorten);
    format!("{id} {name} {arguments}")
}

fn shorten(text: &str) -> String {
    visible_start(text, MAX_ARGUMENTS)
}

/// Returns the first character boundary at or after `from`.
fn piece_end(text: &str, from: usize) -> usize {
    (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

fn is_json(data: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(data).is_ok()
}

/// Writes JSON to stdout in pieces, so that large JSON needs no large buffer.
struct Json<'a>(&'a mut Output);

impl Write for Json<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut piece = &bytes[..bytes.len().min(ENOUGH)];
        if self.0.is_terminal() {
            let text = piece.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            self.0.buffer.extend_from_slice(harmless_json(text).as_bytes());
            // The piece may end within a character.
            piece = text.as_bytes();
        } else {
            self.0.buffer.extend_from_slice(piece);
        }
        if self.0.buffer.len() >= ENOUGH {
            self.0.drain()?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes the characters that would act on a terminal. In JSON they can only occur within strings.
fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                harmless.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// Formats a duration: 0.3s, 12.0s, 3m 20s.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
    }
}

fn fail_with(report: &mut Report, result: Result<(), Failure>) {
    if let Err(failure) = result {
        report.fail(failure);
    }
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Reason::Output, format!("cannot write to stdout: {error}"))
}
